"""Deliveries that an outage of Redis cut off, while their worker lived, are no crashes.

ARQ counts a delivery as it begins, and crashes are deliveries without an end. One that left no other trace is
taken out of the count. In doubt a crash too many is counted rather than one too few: a job that always breaks
its own connection, by the size of its result for one, looks the same but for the worker's other connections.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from redis.exceptions import ResponseError

from jobguard.adapters.arq.counting import uncount
from jobguard.adapters.arq.outages import is_outage
from jobguard.adapters.arq.runs import Run

if TYPE_CHECKING:
    from arq.connections import ArqRedis

logger: logging.Logger = logging.getLogger("jobguard.arq")

KEPT = 10_000
"""How many deliveries are remembered at most."""


class CutOffs:
    """Remembers such deliveries until Redis is back.

    Args:
        queue: that the worker reads.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._runs: deque[Run] = deque(maxlen=KEPT)

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, run: Run) -> None:
        """A delivery is over, and was for nothing."""
        self._runs.append(run)

    async def uncount(self, pool: ArqRedis, outages: int) -> None:
        """Take out of the count what is remembered; called when Redis has just answered.

        Each is tried once: whether a try of which nothing was heard has taken effect, nobody knows.

        Args:
            outages: how many the worker has met by now. It must have met one during the run.
        """
        while self._runs:
            run = self._runs.popleft()
            if run.outages == outages:
                continue
            try:
                await uncount(pool, self._queue, run.job_id, run.score)
            except ResponseError as error:
                if is_outage(error):
                    raise
                logger.debug("the count of job %r is left as it is: %s", run.job_id, type(error).__name__)
