"""Dead letters' jobs on their way back: how they are put into a queue of ARQ, and how they look there.

A tool that puts a job back does not know how the queue's workers write payloads, and must not read what
others have pickled. So it writes a form of its own, JSON behind a mark, which every protected worker reads:
arguments as tagged JSON, or the bytes of the first payload as they were.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, cast

import redis.exceptions
from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix
from redis.asyncio import Redis

from jobguard.adapters.base import Replay, ReplayJob
from jobguard.codec import Codec
from jobguard.errors import LetterRefused, StoreError, StoreUnavailable
from jobguard.stores.letters import LetterQueue

PAYLOAD_LIFE_MS = 30 * 86_400_000
"""For how long after its planned start ARQ keeps a job that was enqueued without `_expires`."""
MARK = b'{"jobguard":"replay",'
"""What such a payload begins with. No pickle does, and no JSON of ARQ's, whose first key is another."""

_ENQUEUE = """\
--[[
Put a job into a queue of ARQ, unless a job with its id waits, runs, or has left a result: as
`ArqRedis.enqueue_job` does.

KEYS  1 payload      arq:job:<id>
      2 result       arq:result:<id>
      3 queue        sorted set, job id -> Unix time in ms from which it may run
      4 in progress  arq:in-progress:<id>
ARGV  1 job id
      2 payload
      3 life         ms for which the payload is kept
Returns 1, or 0 if there was one.
]]
-- A payload alone is what a worker has left that died as it ended the job, or a caller before the queue was
-- told; nobody will run it.
if redis.call('EXISTS', KEYS[2], KEYS[4]) > 0 or redis.call('ZSCORE', KEYS[3], ARGV[1]) then return 0 end
local time = redis.call('TIME')
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[3], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), ARGV[1])
return 1
"""


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
            reply = await self._ask(lambda: self._script(keys, (id, written(job), PAYLOAD_LIFE_MS)))
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

    async def _script(self, keys: tuple[str, ...], arguments: tuple[object, ...]) -> Any:
        client = cast(Any, self._pool)
        try:
            return await client.evalsha(_ENQUEUE_SHA, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            return await client.eval(_ENQUEUE, len(keys), *keys, *arguments)

    async def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return await question()
        except (OSError, UnicodeError, redis.exceptions.RedisError) as error:
            kind = StoreUnavailable if _is_outage(error) else StoreError
            raise kind(f"ARQ's server: {error}") from error


_ENQUEUE_SHA = sha1(_ENQUEUE.encode(), usedforsecurity=False).hexdigest()


def _is_outage(error: Exception) -> bool:
    return isinstance(error, (OSError, redis.exceptions.ConnectionError, redis.exceptions.TimeoutError))


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
        value = cast("Mapping[str, Any]", codec.decode(self.payload))
        args, kwargs = tuple(value["args"]), dict(value["kwargs"])
        return {"t": None, "f": self.task, "a": args, "k": kwargs, "et": self.enqueued_ms}


def written(job: ReplayJob) -> bytes:
    """The payload of a job."""
    replay = job.replay
    values = {
        "jobguard": "replay",
        "version": 1,
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
    """Such a payload, taken apart. Raises if it is none."""
    values = json.loads(raw)
    namespace, queue, id, number, force, variant = values["letter"]
    return Written(
        Replay(LetterQueue(str(namespace), str(queue)), str(id), int(number), bool(force), str(variant)),
        str(values["task"]),
        str(values["payload"]),
        str(values["format"]),
        int(values["enqueued_ms"]),
    )


def reading_replays(deserializer: Callable[[bytes], dict[str, Any]]) -> Callable[[bytes], dict[str, Any]]:
    """A deserialiser for whoever looks at queued jobs, which shows replays too.

    Arguments that only a worker can read are not shown.
    """

    def read(raw: bytes) -> dict[str, Any]:
        if not is_replay(raw):
            return deserializer(raw)
        job = read_replay(raw)
        return {"t": None, "f": job.task, "a": (), "k": {}, "et": job.enqueued_ms}

    return read
