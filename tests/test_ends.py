"""Ends that are cut short: a store that fails between two writes, a lock that is over, a closed call."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from jobguard import JobGuard, constant, deduplicated, retrying
from jobguard.adapters.base import Terms, Ticket, arriving
from jobguard.adapters.inprocess import LocalDelivery
from jobguard.errors import LeaseLost, StoreUnavailable
from jobguard.events import RetryScheduled
from jobguard.guard import delivering
from jobguard.primitives import is_job_already_processed, move_to_dead_letter_queue
from jobguard.stores import MemoryStore
from jobguard.stores.letters import Entry, Kept, LetterQueue
from jobguard.stores.memory_letters import MemoryLetters
from jobguard.testing import EventLog

pytestmark = pytest.mark.anyio


class Flaky(MemoryStore):
    """Does not answer when its first letter is put."""

    def __init__(self) -> None:
        super().__init__()
        self.flaky = FlakyLetters(time.monotonic)

    @property
    def letters(self) -> FlakyLetters:
        return self.flaky


class FlakyLetters(MemoryLetters):
    tries = 0

    async def put(
        self,
        queue: LetterQueue,
        entry: Entry,
        arrival: int | None = None,
        *,
        alert_over: int | None = None,
    ) -> Kept:
        self.tries += 1
        if self.tries == 1:
            raise StoreUnavailable("away")
        return await super().put(queue, entry, arrival, alert_over=alert_over)


class Pool:
    """As much of ARQ's pool as the primitives ask for."""

    default_queue_name = "arq:queue"

    async def get(self, key: str) -> bytes:
        return b"payload"


async def test_a_job_moved_by_hand_gets_its_letter_though_the_store_fails_once() -> None:
    """The record is written before the letter; the letter is tried again until it is there."""
    store = Flaky()
    guard = JobGuard(store)
    before = delivering.set(guard)
    try:
        ctx: dict[str, Any] = {"redis": Pool(), "job_id": "j", "enqueue_time": datetime.now(UTC)}
        assert not await is_job_already_processed(ctx, "k")
        moved = await move_to_dead_letter_queue(ctx, "k", ValueError("bad"))
    finally:
        delivering.reset(before)
    assert store.letters.tries == 2
    assert await guard.dead_letters().get(moved) is not None


class LostDelivery(LocalDelivery):
    """A queue's delivery whose lock on the job is over."""

    __slots__ = ()
    terms = Terms(durable=True)
    lost = True


async def test_an_unclaimed_run_whose_lock_is_over_records_nothing() -> None:
    """Without a claim there is no fence, so the outcome is left to whoever holds the job now."""
    log = EventLog()

    @retrying(attempts=3, backoff=constant(0))
    async def task() -> None:
        raise OSError("late")

    delivery = LostDelivery()
    async with JobGuard(MemoryStore(), hooks=[log]):
        before = arriving.set(Ticket(delivery))
        try:
            with pytest.raises(LeaseLost):
                await task()
        finally:
            arriving.reset(before)
    assert log.of(RetryScheduled) == []


@pytest.mark.parametrize("decorator", [deduplicated(), retrying()], ids=["claimed", "light"])
def test_a_call_may_be_closed_where_no_event_loop_runs(decorator: Any) -> None:
    """A coroutine that the garbage collector closes after its loop has gone raises nothing."""

    @decorator  # type: ignore[untyped-decorator]  # either of two
    async def task(x: int) -> None:
        await asyncio.sleep(3600)

    async def begin() -> Any:
        call = task(1)
        call.send(None)
        return call

    async def in_guard() -> Any:
        async with JobGuard(MemoryStore()):
            return await begin()

    call = asyncio.run(in_guard())
    call.close()
    assert call.cr_frame is None
