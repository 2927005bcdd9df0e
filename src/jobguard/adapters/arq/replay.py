"""Dead letters' jobs on their way back: how they are put into a queue of ARQ, and how they look there.

A tool that puts a job back does not know how the queue's workers write payloads, and must not read what
others have pickled. So it writes a form of its own, JSON behind a mark, which every protected worker reads:
arguments as tagged JSON, or the bytes of the first payload as they were.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis.exceptions
from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix
from redis.asyncio import Redis

from jobguard.adapters.arq.expired import is_expired
from jobguard.adapters.arq.outages import is_outage, shown, traced
from jobguard.adapters.arq.scripts import load, run_script
from jobguard.adapters.arq.shape import VERSION, check_version
from jobguard.adapters.base import Replay, ReplayJob
from jobguard.codec import Codec
from jobguard.errors import LetterRefused, StoreError, StoreUnavailable
from jobguard.letters import unpack_arguments
from jobguard.policies import check_name, check_namespace, count
from jobguard.stores.batching import secrets_of
from jobguard.stores.letters import UNKNOWN_TASK, LetterQueue

PAYLOAD_LIFE_MS = 30 * 86_400_000
"""For how long after its planned start ARQ keeps a job that was enqueued without `_expires`."""
MARK = b'{"jobguard":"replay",'
"""What such a payload begins with. No pickle does, and no JSON of ARQ's, whose first key is another."""

_ENQUEUE = load("enqueue")


class ArqQueue:
    """A way for `DeadLetterQueue.requeue` into queues of ARQ.

    Args:
        pool: a connection to the server of the queues: an `ArqRedis`, or any asyncio client of redis-py.
    """

    adapter = "arq"

    def __init__(self, pool: Redis) -> None:
        self._pool = pool

    async def enqueue(self, job: ReplayJob) -> bool:
        """Put a job into its queue; False = a job with its id waits there, runs, or has left a result."""
        id = job.replay.job_id
        keys = (job_key_prefix + id, result_key_prefix + id, job.queue, in_progress_key_prefix + id)
        try:
            arguments = (id, written(job), PAYLOAD_LIFE_MS)
            reply = await self._ask(lambda: run_script(self._pool, _ENQUEUE, keys, arguments))
        except StoreUnavailable:
            raise
        except StoreError as error:  # such as a queue's name that is the key of something else
            raise LetterRefused(job.replay.id, f"its queue {job.queue!r} cannot take it: {error}") from error
        return int(reply) == 1

    async def pending(self, queue: str, job_id: str) -> bool:
        """Whether a job waits in its queue or runs. ARQ takes a job out of its queue as it ends."""

        async def look() -> bool:
            async with self._pool.pipeline(transaction=True) as pipe:
                pipe.zscore(queue, job_id)
                pipe.exists(in_progress_key_prefix + job_id)
                score, running = await pipe.execute()
            return score is not None or running > 0

        return bool(await self._ask(look))

    async def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return await question()
        except (OSError, UnicodeError, redis.exceptions.RedisError) as error:
            # An outage befalls every letter; so does a login that is refused.
            everybodys = is_outage(error) or isinstance(error, redis.exceptions.ConnectionError)
            kind = StoreUnavailable if everybodys else StoreError
            secrets = secrets_of(self._pool)
            raise kind(f"ARQ's server: {shown(error, secrets)}") from traced(error, secrets)


@dataclass(frozen=True, slots=True)
class Written:
    """A payload as `ArqQueue` writes it.

    Attributes:
        replay: which letter.
        task: its task's name.
        payload, payload_format: as in the letter.
        enqueued_ms: Unix milliseconds.
    """

    replay: Replay
    task: str
    payload: str
    payload_format: str
    enqueued_ms: int

    @property
    def raw(self) -> bytes:
        """The bytes that a letter of the job would keep."""
        return b64decode(self.payload) if self.payload_format == "opaque" else b""

    def job(self, decode: Callable[[bytes], Any], codec: Codec) -> dict[str, Any]:
        """The job as ARQ works with it. Raises whatever reading it does."""
        if self.payload_format == "opaque":
            return {**decode(self.raw), "t": None, "et": self.enqueued_ms}
        args, kwargs = unpack_arguments(self.payload, codec)
        return {"t": None, "f": self.task, "a": tuple(args), "k": kwargs, "et": self.enqueued_ms}


def written(job: ReplayJob) -> bytes:
    """The payload of a job."""
    replay = job.replay
    values = {
        "jobguard": "replay",
        "version": VERSION,
        "letter": [*replay.queue, replay.id, replay.number, replay.force, replay.variant],
        "task": job.task,
        "format": job.payload_format,
        "payload": job.payload,
        "enqueued_ms": int(time.time() * 1000),
    }
    return json.dumps(values, separators=(",", ":")).encode()


def is_replay(raw: bytes) -> bool:
    """Whether a payload is one of these."""
    return raw.startswith(MARK)


def read_replay(raw: bytes) -> Written:
    """Such a payload, taken apart. Raises if it is none, is forged or of another version."""
    values = json.loads(raw)
    check_version(values["version"])
    namespace, queue, id, number, force, variant = values["letter"]
    kind, payload, enqueued_ms = values["format"], values["payload"], values["enqueued_ms"]
    texts = (id, variant, values["task"], kind, payload)
    if not all(isinstance(each, str) for each in texts) or type(force) is not bool:
        raise ValueError("a part of a replay is not of its type")
    # Whoever can write to the queue has no say in which keys of the store are asked for.
    letters = LetterQueue(check_namespace(namespace), check_name("queue", queue))
    return Written(
        Replay(letters, id, count("number", number), force, variant),
        values["task"],
        payload,
        kind,
        count("enqueued_ms", enqueued_ms, least=0),
    )


def reading_replays(deserializer: Callable[[bytes], dict[str, Any]]) -> Callable[[bytes], dict[str, Any]]:
    """A deserialiser for whoever looks at queued jobs, which shows replays too, and jobs that have expired.

    Arguments that only a worker can read are not shown.
    """

    def read(raw: bytes) -> dict[str, Any]:
        if is_expired(raw):
            return {"t": None, "f": UNKNOWN_TASK, "a": (), "k": {}, "et": 0}
        if not is_replay(raw):
            return deserializer(raw)
        job = read_replay(raw)
        return {"t": None, "f": job.task, "a": (), "k": {}, "et": job.enqueued_ms}

    return read
