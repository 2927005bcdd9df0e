"""How the end of a run reaches a server that drops: it is written again, while the job's mark holds."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from arq.constants import job_key_prefix

from jobguard.adapters.arq.expired import is_expired
from jobguard.adapters.arq.incoming import Incoming, incoming
from jobguard.adapters.arq.outages import end, is_outage
from jobguard.adapters.arq.runs import Run, running
from jobguard.backoff import exponential

if TYPE_CHECKING:
    from arq.connections import ArqRedis

PAUSES = exponential(0.1, cap=5, jitter="equal")
"""Seconds between tries to reach a server that is away."""
LAST_WRITE_BOUND = 1.0
"""Seconds for an end to be written once the worker itself ends."""

Write = Callable[[], Coroutine[Any, Any, None]]


class EndWriter:
    """Writes the ends of one worker's runs.

    Args:
        pool: asked for the worker's connection.
        queue: that it reads.
        patience: seconds without an answer after which a try has failed.
    """

    def __init__(self, pool: Callable[[], ArqRedis], queue: str, patience: float) -> None:
        self._pool = pool
        self._queue = queue
        self._patience = patience
        self._hurry: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hurry(self) -> None:
        """The worker ends: from now on there is little time for each."""
        if not self._hurry.done():
            self._hurry.set_result(None)

    async def write(self, write: Write, *, done: bool, lasting: bool) -> None:
        """Write an end, with as many tries as the mark leaves time for.

        Args:
            write: makes one try, which is one transaction.
            done: the end says that the job is done, and not only put off.
            lasting: whether it says more than that the mark is free, as it is soon by itself.

        Raises:
            RedisError, OSError: it was not written, as far as is known.
        """
        run, job = running.get(), incoming.get()
        try:
            await self._answered(write(), run)
        except Exception as error:
            if not is_outage(error) or job is None or not lasting:
                raise
            if not await self._late(run, job, write, done):
                raise

    async def _answered(self, writing: Coroutine[Any, Any, None], run: Run) -> None:
        """See an end written while there is patience, and its mark."""
        loop = asyncio.get_running_loop()
        left = run.until - loop.time()
        # Without its mark nothing is sent, which is said at once.
        bound = min(self._patience, left) if left > 0 else self._patience
        task = loop.create_task(writing)
        try:
            await asyncio.wait({task, self._hurry}, timeout=bound, return_when=asyncio.FIRST_COMPLETED)
            if self._hurry.done():
                await asyncio.wait({task}, timeout=LAST_WRITE_BOUND)
            if not task.done():
                raise TimeoutError("no answer")
            task.result()
        finally:
            await end(task)

    async def _late(self, run: Run, job: Incoming, write: Write, done: bool) -> bool:
        """Write an end once Redis is back; False = the mark ran out before, or the worker ends."""
        loop = asyncio.get_running_loop()
        for failure in itertools.count(1):
            pause, until = PAUSES(failure), run.until
            if loop.time() + pause >= until:
                return False
            await asyncio.wait({self._hurry}, timeout=pause)
            if self._hurry.done():
                return False
            try:
                async with asyncio.timeout_at(until):
                    if await self._is_unwritten(run, job, done):
                        await write()
                return True
            except Exception as error:
                if not is_outage(error):
                    raise
        raise AssertionError("the count has no end")

    async def _is_unwritten(self, run: Run, job: Incoming, done: bool) -> bool:
        """Whether an end that nobody confirmed was not written: what has its id now may be another job."""
        pool = self._pool()
        if done:
            payload: bytes | None = await pool.get(job_key_prefix + run.job_id)
            if payload is not None and not is_expired(payload):
                return payload == job.raw
            # The payload may have run out meanwhile, and the queue's entry still be there.
        score = await pool.zscore(self._queue, run.job_id)
        return score is not None and int(score) == run.score
