"""Jobs that ARQ fails to start, every time: they are put off, so that others have their turn."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from arq.utils import timestamp_ms
from redis.exceptions import ResponseError

from jobguard.adapters.arq.outages import answer
from jobguard.codec import clip

if TYPE_CHECKING:
    from arq.connections import ArqRedis

logger: logging.Logger = logging.getLogger("jobguard.arq")

PUT_OFF_MS = 3_600_000
"""Milliseconds until such a job is tried again: somebody may have mended it."""
TOLD = 10_000
"""So many ids are remembered, each to be logged once."""
SHOWN = 200
"""Characters of an id that are logged."""


_ABOUT_VALUES = ("WRONGTYPE ", "ERR value is not an integer", "ERR increment or decrement would overflow")
"""How answers begin that speak of what a key holds."""


def is_poison(error: Exception) -> bool:
    """Whether the server's answer is about one job: a key of it holds what ARQ has not put there.

    What a server says to each of its jobs is for the worker to end with.
    """
    return isinstance(error, ResponseError) and answer(error).startswith(_ABOUT_VALUES)


class SetAside:
    """Puts such jobs off.

    Args:
        queue: that the worker reads.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._told: dict[bytes, None] = {}

    async def put_off(self, pool: ArqRedis, job_id: bytes, why: str) -> None:
        """Have a job tried again much later. It stays in its queue, and nothing of it is deleted.

        Args:
            job_id: as the queue has it.
            why: what of the error may be logged.
        """
        if job_id not in self._told:
            self._told[job_id] = None
            while len(self._told) > TOLD:
                del self._told[next(iter(self._told))]
            name = clip(repr(job_id), SHOWN)
            logger.error("job %s cannot be run, and is tried again once an hour: %s", name, why)
        await pool.zadd(self._queue, {job_id: timestamp_ms() + PUT_OFF_MS}, xx=True, gt=True)
