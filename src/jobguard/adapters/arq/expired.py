"""What stands in the place of a payload that has run out, so that the job is delivered, and so dead-lettered.

Of such a job ARQ would say that it expired, and forget it. A worker that gets this in place of a payload
ends the job as any other that it cannot run: its letter is written before the queue is told, once, whoever
dies or fails on the way; those who wait for its result get ARQ's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from arq.constants import job_key_prefix, result_key_prefix, retry_key_prefix
from redis.asyncio import Redis

from jobguard.adapters.arq.scripts import load, run_script
from jobguard.adapters.arq.shape import check_version
from jobguard.adapters.base import Replay, replay_of
from jobguard.leases import new_token

MARK = b'{"jobguard":"expired",'
"""What it begins with."""

_STAND_IN = load("stand_in")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Expired:
    """All that is known of a job whose payload has run out.

    Attributes:
        job_id: its id.
        planned_ms: when it was to start, or to start again: Unix milliseconds.
        delivered: how often a worker had been given it.
    """

    job_id: str
    planned_ms: int
    delivered: int

    @property
    def replay(self) -> Replay | None:
        """The dead letter that the job ran again, if any."""
        return replay_of(self.job_id)

    def __str__(self) -> str:
        try:
            planned = (_EPOCH + timedelta(milliseconds=self.planned_ms)).isoformat(" ", "milliseconds")
        except OverflowError:  # the year 10000, or whatever somebody wrote there
            planned = f"{self.planned_ms} ms"
        times = "once" if self.delivered == 1 else f"{self.delivered} times"
        return (
            f"the payload of job {self.job_id!r} ran out before the job could run; it was planned for "
            f"{planned}, and delivered {times} before"
        )


def is_expired(raw: bytes) -> bool:
    """Whether a payload is one of these."""
    return raw.startswith(MARK)


def read_expired(raw: bytes) -> Expired:
    """What such a payload says. Raises if it is none, or of another version."""
    values = json.loads(raw)
    check_version(values["version"])
    return Expired(str(values["job"]), int(values["planned_ms"]), int(values["delivered"]))


async def stand_in(pool: Redis, queue: str, job_id: str, life_ms: int) -> bytes | None:
    """Put what is known of a job in its payload's place, for the worker that has marked it.

    Returns what is there now; None = the job has ended, and nothing of it is left in the queue.
    """
    keys = (queue, job_key_prefix + job_id, result_key_prefix + job_id, retry_key_prefix + job_id)
    payload: bytes | None = await run_script(pool, _STAND_IN, keys, (job_id, new_token(), life_ms))
    return payload
