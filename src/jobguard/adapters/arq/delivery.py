"""One delivery of a job by ARQ: how it is put off, given back and kept from running out."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from arq.constants import job_key_prefix
from arq.worker import Retry, RetryJob
from redis.exceptions import RedisError

from jobguard.adapters.arq.counting import uncount
from jobguard.adapters.arq.outages import shown
from jobguard.adapters.arq.replay import PAYLOAD_LIFE_MS
from jobguard.adapters.base import Replay, Terms
from jobguard.errors import JobGuardError, RetryLater, Signal, StoreError
from jobguard.job import JobRef
from jobguard.leases import Held, now
from jobguard.stores.base import Settlement
from jobguard.stores.batching import secrets_of

if TYPE_CHECKING:
    from arq.connections import ArqRedis

logger: logging.Logger = logging.getLogger("jobguard.arq")

ARQ_LIFE_MS = 86_400_000
"""ARQ's own default: milliseconds after the planned start for which a payload is kept."""
CLOCKS_MS = 3_600_000
"""By how much the server's clock and an enqueuer's may differ, for a default life to be known as one."""
NO_EXPIRY, GONE = -1, -2
"""What Redis says in place of milliseconds left."""
PAYLOAD_MARGIN = 3600.0
"""Seconds that a payload has to last beyond the next run's start."""
LATE_FACTOR = 1.25
"""A run that lost its claim comes back after so many leases: its new holder has renewed it by then."""


def is_given(ends_ms: float, enqueued_ms: int) -> bool:
    """Whether the end of a payload's life is by an `_expires` that somebody gave, and not by ARQ's default.

    The two cannot be told apart for certain: what is shorter than ARQ's default by an hour was given.

    Args:
        ends_ms: when it will run out.
        enqueued_ms: when its job was enqueued. Both in Unix milliseconds.
    """
    return ends_ms < enqueued_ms + ARQ_LIFE_MS - CLOCKS_MS


class ArqDelivery:
    """What the engine knows of ARQ for one job: a `Delivery`, and what the worker has to know of its end.

    Attributes:
        job_key: the name of the key of the job's payload.
        again: the run ends without an outcome: the job is put off, given back or interrupted.
        settlement: what was recorded of an interrupted run, if anything: the job may have been aborted.
        finished: set once ARQ's task of the job is over; None while no later delivery waits for that.
    """

    adapter = "arq"

    __slots__ = (
        "_held",
        "_lease",
        "_life",
        "_pool",
        "_stored",
        "again",
        "finished",
        "identity",
        "number",
        "payload",
        "ref",
        "replay",
        "settlement",
        "task",
        "terms",
        "token",
    )

    def __init__(
        self,
        pool: ArqRedis,
        held: Held,
        lease: float,
        *,
        ref: JobRef,
        task: str,
        number: int,
        terms: Terms,
        payload: bytes | None,
        stored: bytes | None = None,
        replay: Replay | None = None,
    ) -> None:
        self._pool = pool
        self._held = held
        self._lease = lease
        self._life: int | None = None
        self.ref: JobRef = ref
        self.identity: str = ref.identity
        self.token: str = held.token
        self.task: str = task
        self.number: int = number
        self.terms: Terms = terms
        self.payload: bytes | None = payload
        self._stored = stored
        self.replay: Replay | None = replay
        self.again: bool = False
        self.finished: anyio.Event | None = None
        self.settlement: Settlement | None = None

    @property
    def lost(self) -> bool:
        return self._held.lost or now() >= self._held.until

    @property
    def job_key(self) -> str:
        return job_key_prefix + self.ref.id

    def signal_in(self, error: Exception) -> Signal | None:
        if isinstance(error, Retry):
            return RetryLater(repr(error), after=max(error.defer_score or 0, 0) / 1000)
        if isinstance(error, RetryJob):
            return RetryLater(repr(error), after=0)
        return None

    async def expires(self) -> float | None:
        """Seconds left of an `_expires` that the user gave; ARQ's own default can be extended."""
        life = await self._life_ms()
        if life == NO_EXPIRY:
            return None
        left = max(life, 0)
        return left / 1000 if is_given(time.time() * 1000 + left, self.ref.enqueued_ms) else None

    async def later(self, delay: float) -> NoReturn:
        await self._keep_payload(delay)
        self.again = True
        raise Retry(defer=delay)

    async def give_back(self, delay: float, error: JobGuardError) -> NoReturn:
        if isinstance(error, StoreError):
            await self.uncount()
            await self._keep_payload(delay)
            self.again = True
            raise Retry(defer=delay) from error
        await self.leave(error)

    async def leave(self, error: JobGuardError) -> NoReturn:
        """End a run that is not to have an outcome: the job is run again, unless it is another worker's now.

        What ARQ does then to a job whose mark is over is not sent: see `Transactions`.
        """
        self.again = True
        raise Retry(defer=self._lease * LATE_FACTOR) from error

    def interrupted(self, settlement: Settlement | None) -> None:
        self.again = True
        self.settlement = settlement

    async def _life_ms(self) -> int:
        """Milliseconds for which the payload is kept; `GONE`, or `NO_EXPIRY` (also if nobody can say)."""
        if self._life is None:
            life = await self._quietly(self._pool.pttl(self.job_key), "looking at a payload")
            self._life = NO_EXPIRY if life is None else int(life)
        return self._life

    async def _keep_payload(self, delay: float) -> None:
        """Let the payload outlast the delay, unless the user said when it expires."""
        life = await self._life_ms()
        needed = int((delay + PAYLOAD_MARGIN) * 1000)
        if life == NO_EXPIRY or life >= needed or await self.expires() is not None:
            return
        keep = int(delay * 1000) + PAYLOAD_LIFE_MS
        if life != GONE:
            await self._quietly(self._pool.pexpire(self.job_key, keep), "extending a payload")
        elif self._stored is not None:
            await self._quietly(
                self._pool.set(self.job_key, self._stored, px=keep, nx=True), "restoring a payload"
            )

    async def uncount(self) -> None:
        await self._quietly(uncount(self._pool, self.ref.queue, self.ref.id), "uncounting a delivery")

    async def _quietly(self, command: Awaitable[Any], what: str) -> Any:
        """A command whose failure must not become the job's: ARQ would end it for that."""
        try:
            return await command
        except (RedisError, OSError) as error:
            said = shown(error, secrets_of(self._pool))
            logger.warning("%s of job %r failed: %s", what, self.ref.id, said)
            return None
