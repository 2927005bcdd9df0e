"""Runs that are cancelled and fail at that: a cancellation is no failure, whatever comes out of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from jobguard import JobGuard, constant, current_job, deduplicated, fallback, retrying
from jobguard.events import Interrupted, RetryScheduled
from jobguard.stores import MemoryStore
from jobguard.stores.base import Settlement, SettleReply
from jobguard.testing import EventLog

pytestmark = pytest.mark.anyio

ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
TRIO = pytest.mark.parametrize("anyio_backend", ["trio"])


class CleanUpFailed(OSError):
    """What a body's clean-up raises."""


@ASYNCIO
@pytest.mark.parametrize("claimed", [True, False])
async def test_a_failed_clean_up_after_a_cancellation_is_not_retried(claimed: bool) -> None:
    """A body whose `finally` raises while it is cancelled runs once, and its error goes on."""
    runs: list[int] = []
    log = EventLog()

    async def body(x: int) -> None:
        runs.append(current_job().attempt)
        try:
            await anyio.sleep_forever()
        finally:
            raise CleanUpFailed

    task = retrying(attempts=5, backoff=constant(0))(body)
    if claimed:
        task = deduplicated(running="wait")(task)
    async with JobGuard(MemoryStore(), hooks=[log]):
        with anyio.fail_after(20), pytest.raises(CleanUpFailed):
            await asyncio.wait_for(task(1), 0.05)
    assert runs == [1]
    assert len(log.of(Interrupted)) == 1
    assert log.of(RetryScheduled) == []


@ASYNCIO
async def test_a_run_that_is_cancelled_again_while_that_is_recorded_is_recorded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One interruption of one attempt, however often the task is cancelled."""
    begun = asyncio.Event()
    log, store = EventLog(), MemoryStore()
    settle = store.settle

    @deduplicated
    async def task(x: int) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            raise CleanUpFailed

    async def impatient(settlement: Settlement) -> SettleReply:
        call.cancel()
        await asyncio.sleep(0)
        return await settle(settlement)

    monkeypatch.setattr(store, "settle", impatient)
    async with JobGuard(store, hooks=[log]):
        call = asyncio.create_task(task(1))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert [event.attempt for event in log.of(Interrupted)] == [1]


@ASYNCIO
async def test_a_cancelled_task_group_whose_child_fails_is_not_retried() -> None:
    """The group of errors that a cancelled `asyncio.TaskGroup` raises is an interruption."""
    runs: list[int] = []
    begun = asyncio.Event()
    log = EventLog()

    async def child() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise CleanUpFailed

    @deduplicated
    @retrying(attempts=5, backoff=constant(0))
    async def task(x: int) -> None:
        runs.append(x)
        begun.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    async with JobGuard(MemoryStore(), hooks=[log]):
        call = asyncio.create_task(task(1))
        await begun.wait()
        await asyncio.sleep(0)
        call.cancel()
        # From Python 3.13 on the group has its task cancelled once more, so that it is that which comes out.
        with pytest.raises((BaseExceptionGroup, asyncio.CancelledError)):
            await call
        assert len(log.of(Interrupted)) == 1
        assert runs == [1]


@TRIO
async def test_a_cancelled_native_nursery_is_an_interruption() -> None:
    """trio wraps what comes out of a nursery in a group; the key is free for the next job at once."""
    import trio

    runs: list[int] = []
    log = EventLog()

    @deduplicated
    async def task(x: int) -> int:
        runs.append(x)
        if len(runs) == 1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
        return len(runs)

    async with JobGuard(MemoryStore(), hooks=[log]):
        with trio.move_on_after(0.05):
            await task(1)
        assert [event.recorded for event in log.of(Interrupted)] == [True]
        assert await task(1) == 2


@ASYNCIO
async def test_a_task_that_once_swallowed_a_cancellation_still_retries() -> None:
    """asyncio counts a swallowed cancellation for ever; an error without a trace of it is retried."""
    runs: list[int] = []

    @retrying(attempts=2, backoff=constant(0))
    async def flaky() -> int:
        runs.append(1)
        if len(runs) == 1:
            raise OSError("passing")
        return len(runs)

    async def stubborn() -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return await flaky()

    async with JobGuard(MemoryStore()):
        call = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        call.cancel()
        assert await call == 2


async def test_a_fallback_covers_an_error_inside_a_group() -> None:
    """`on` of a fallback is asked of the errors in a group too."""

    @fallback("instead", on=ValueError)
    async def grouped() -> str:
        raise ExceptionGroup("several", [ValueError("one")])

    async with JobGuard(MemoryStore()):
        assert await grouped() == "instead"
