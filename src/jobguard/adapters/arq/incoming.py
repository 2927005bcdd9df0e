"""What ARQ's serialisers let us see of a job: its payload before the call, its end without one.

ARQ decodes a payload in the very task that then runs the job, so a context variable set while
decoding reaches the job and no other.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from arq.jobs import Deserializer, Serializer

from jobguard.adapters.arq.expired import Expired, is_expired, read_expired
from jobguard.adapters.arq.replay import is_replay, read_replay
from jobguard.adapters.arq.shape import check_job
from jobguard.adapters.base import Replay
from jobguard.codec import Codec, clip
from jobguard.leases import Held

CATCH_ALL = "jobguard:undeliverable"
"""Name of the function that receives what no registered function can."""
EXPIRED = "job expired"
"""What ARQ says of a queue entry whose payload has gone."""
NAME_LIMIT = 200
"""Characters of a task's name that are kept: it is whatever somebody enqueued."""


@dataclass(slots=True)
class Incoming:
    """A payload that ARQ has just decoded, or could not.

    Attributes:
        raw: the payload's bytes.
        kept: what of them a dead letter may keep: of a replay, the bytes of the job's first payload.
        task: the name that it asks for; None if it could not be read.
        tries: the `_job_try` that it was enqueued with, if any.
        enqueued_ms: when it was enqueued, Unix milliseconds; 0 = unknown.
        error: why it could not be decoded; None if it could.
        expired: what is known of the job, if its payload had run out and something else stands there.
        started: the job's function was called.
        late: the same job was still running in this worker when ARQ started it again.
        mark: what keeps other workers off it; None until ARQ is about to call the function.
        replay: the dead letter that it runs again, or None.
    """

    raw: bytes
    task: str | None
    tries: int | None
    enqueued_ms: int
    error: Exception | None = None
    expired: Expired | None = None
    started: bool = False
    late: bool = False
    mark: Held | None = None
    replay: Replay | None = None
    kept: bytes = b""


_UNDELIVERABLE: dict[str, Any] = {"f": CATCH_ALL, "a": (), "k": {}, "t": None, "et": 0}
"""What ARQ is told of a job that no function can take."""

incoming: ContextVar[Incoming | None] = ContextVar("jobguard_arq_incoming", default=None)


def reading(deserializer: Deserializer | None, names: Collection[str], codec: Codec) -> Deserializer:
    """A deserialiser for payloads that never fails: what cannot be run goes to the catch-all.

    It also reads what `ArqQueue` has written, whatever the worker's own form of payloads is.
    """
    decode: Callable[[bytes], Any] = pickle.loads if deserializer is None else deserializer

    def read(raw: bytes) -> dict[str, Any]:
        replay, kept, task = None, raw, None
        try:
            if is_expired(raw):
                expired = read_expired(raw)
                incoming.set(Incoming(raw, None, None, 0, expired=expired, replay=expired.replay))
                return _UNDELIVERABLE
            if is_replay(raw):
                written = read_replay(raw)
                replay, task, kept = written.replay, clip(written.task, NAME_LIMIT), written.raw
                job = written.job(decode, codec)
            else:
                job = decode(raw)
            check_job(job)
            name, enqueued_ms = job["f"], job["et"]
        except Exception as error:
            incoming.set(Incoming(raw, task, None, 0, error, replay=replay, kept=kept))
            return _UNDELIVERABLE
        incoming.set(Incoming(raw, clip(name, NAME_LIMIT), job["t"], enqueued_ms, replay=replay, kept=kept))
        return job if name in names else {**job, "f": CATCH_ALL}

    return read


def enqueued_ms(raw: bytes, deserializer: Deserializer | None) -> int | None:
    """When the job of a payload was enqueued, Unix milliseconds; None where that cannot be read."""
    decode: Callable[[bytes], Any] = pickle.loads if deserializer is None else deserializer
    try:
        return read_replay(raw).enqueued_ms if is_replay(raw) else int(decode(raw)["et"])
    except Exception:
        return None


@dataclass(frozen=True, slots=True)
class AbortedUnseen:
    """A job that was aborted before its start, which ARQ ends without calling its function.

    Attributes:
        task: its name.
        replay: the dead letter that it ran again, if any.
    """

    job_id: str
    queue: str
    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    enqueued_ms: int
    replay: Replay | None = None


def writing(serializer: Serializer | None, aborted: Callable[[AbortedUnseen], None]) -> Serializer:
    """A serialiser that tells of results which say that ARQ ended a job on its own."""
    encode: Callable[[dict[str, Any]], bytes] = pickle.dumps if serializer is None else serializer

    def write(data: dict[str, Any]) -> bytes:
        job = incoming.get()
        if isinstance(data.get("r"), asyncio.CancelledError) and job is not None and not job.started:
            aborted(
                AbortedUnseen(
                    job_id=data["id"],
                    queue=data["q"],
                    task=clip(str(data["f"]), NAME_LIMIT),
                    args=tuple(data["a"]),
                    kwargs=dict(data["k"]),
                    enqueued_ms=data["et"],
                    replay=job.replay,
                )
            )
        return encode(data)

    return write
