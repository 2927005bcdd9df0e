"""What jobguard.testing gives to users' own tests."""

from __future__ import annotations

import anyio
import pytest

from jobguard import JobGuard, Snooze, current_job, retrying
from jobguard.events import RetryScheduled, Succeeded
from jobguard.stores import MemoryStore
from jobguard.testing import EventLog, no_wait

pytestmark = pytest.mark.anyio


async def test_no_wait_leaves_the_delays_out_and_nothing_else() -> None:
    """Retries of half a minute come at once inside `no_wait`, and still count."""
    runs: list[int] = []

    @retrying(attempts=3)
    async def flaky() -> str:
        runs.append(current_job().attempt)
        if len(runs) < 3:
            raise OSError("not yet")
        return "done"

    with anyio.fail_after(10), no_wait():
        assert await flaky() == "done"
    assert runs == [1, 2, 3]


async def test_no_wait_covers_snoozes_too() -> None:
    """A snooze of an hour takes no time inside `no_wait`."""
    runs: list[int] = []

    @retrying
    async def sleepy() -> int:
        runs.append(1)
        if len(runs) == 1:
            raise Snooze(after=3600)
        return len(runs)

    with anyio.fail_after(10), no_wait():
        assert await sleepy() == 2


async def test_an_event_log_keeps_events_by_kind() -> None:
    """What a hook is told can be asked for by kind, oldest first."""
    log = EventLog()

    @retrying(attempts=2, backoff=0)
    async def once_more() -> None:
        if current_job().attempt == 1:
            raise ValueError("first")

    async with JobGuard(MemoryStore(), hooks=[log]):
        await once_more()
    assert [event.attempt for event in log.of(RetryScheduled)] == [1]
    assert [event.attempt for event in log.of(Succeeded)] == [2]
    log.clear()
    assert log.events == []
