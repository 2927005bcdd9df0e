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
from arq.worker import JobExecutionFailed

from jobguard.adapters.arq.replay import is_replay, read_replay
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
    started: bool = False
    late: bool = False
    mark: Held | None = None
    replay: Replay | None = None
    kept: bytes = b""


incoming: ContextVar[Incoming | None] = ContextVar("jobguard_arq_incoming", default=None)


def reading(deserializer: Deserializer | None, names: Collection[str], codec: Codec) -> Deserializer:
    """A deserialiser for payloads that never fails: what cannot be run goes to the catch-all.

    It also reads what `ArqQueue` has written, whatever the worker's own form of payloads is.
    """
    decode: Callable[[bytes], Any] = pickle.loads if deserializer is None else deserializer

    def read(raw: bytes) -> dict[str, Any]:
        replay, kept, task = None, raw, None
        try:
            if is_replay(raw):
                written = read_replay(raw)
                replay, task, kept = written.replay, clip(written.task, NAME_LIMIT), written.raw
                job = written.job(decode, codec)
            else:
                job = decode(raw)
            name, enqueued_ms = str(job["f"]), int(job["et"])
            _ = job["a"], job["k"], job["t"]
        except Exception as error:
            incoming.set(Incoming(raw, task, None, 0, error, replay=replay, kept=kept))
            return {"f": CATCH_ALL, "a": (), "k": {}, "t": None, "et": 0}
        incoming.set(Incoming(raw, clip(name, NAME_LIMIT), job["t"], enqueued_ms, replay=replay, kept=kept))
        return job if name in names else {**job, "f": CATCH_ALL}

    return read


@dataclass(frozen=True, slots=True)
class EndedUnseen:
    """A job that ARQ ended without calling its function.

    Attributes:
        expired: its payload had gone; otherwise it was aborted before its start.
        task: its name, or None where the payload had gone.
        replay: the dead letter that it ran again, if any; None where the payload had gone.
    """

    job_id: str
    queue: str
    expired: bool
    task: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    enqueued_ms: int
    replay: Replay | None = None


def writing(serializer: Serializer | None, ended: Callable[[EndedUnseen], None]) -> Serializer:
    """A serialiser that tells of results which say that ARQ ended a job on its own."""
    encode: Callable[[dict[str, Any]], bytes] = pickle.dumps if serializer is None else serializer

    def write(data: dict[str, Any]) -> bytes:
        result = data.get("r")
        if data.get("s") is False and isinstance(result, (JobExecutionFailed, asyncio.CancelledError)):
            job = incoming.get()
            expired = isinstance(result, JobExecutionFailed) and result.args == (EXPIRED,)
            if expired or (
                isinstance(result, asyncio.CancelledError) and job is not None and not job.started
            ):
                ended(
                    EndedUnseen(
                        job_id=data["id"],
                        queue=data["q"],
                        expired=expired,
                        task=None if expired else clip(str(data["f"]), NAME_LIMIT),
                        args=tuple(data["a"]),
                        kwargs=dict(data["k"]),
                        enqueued_ms=data["et"],
                        replay=None if expired or job is None else job.replay,
                    )
                )
        return encode(data)

    return write
