"""An event loop that stood still: what was due meanwhile comes all at once, and late."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest

from jobguard import current_job, deduplicated
from jobguard.errors import LeaseLost
from jobguard.events import LeaseLost as LeaseLostEvent
from jobguard.events import LoopBlocked
from jobguard.stores.base import State
from tests.engine.harness import Bench, Forward, Outcome, started, until

pytestmark = pytest.mark.anyio

LEASE = 1.2
"""Seconds; a heartbeat comes every 0.4."""
PAST_THE_LEASE = 1.35
"""Seconds for which the event loop stands still."""
SHORT_OF_IT = 0.95


def stand_still(seconds: float = PAST_THE_LEASE) -> None:
    time.sleep(seconds)


async def test_a_block_is_told_once(bench: Bench) -> None:
    """With the share of a lease that it took, at the least, and the lease."""

    @deduplicated
    async def task(x: int) -> None:
        stand_still(SHORT_OF_IT)
        await until(lambda: bench.events.of(LoopBlocked))

    async with bench.guard(lease=LEASE):
        with anyio.fail_after(60):
            await task(1)
    told = bench.events.only(LoopBlocked)
    assert told.seconds > LEASE / 3
    assert (told.lease, told.task) == (LEASE, "")


async def test_two_guards_tell_of_a_block_each(bench: Bench) -> None:
    """Each has leases of its own that were not renewed."""

    @deduplicated
    async def inner(x: int) -> None:
        stand_still(SHORT_OF_IT)
        await until(lambda: len(bench.events.of(LoopBlocked)) == 2)

    @deduplicated
    async def outer(x: int) -> None:
        async with bench.guard(lease=LEASE):
            await inner(x)

    async with bench.guard(lease=LEASE):
        with anyio.fail_after(60):
            await outer(1)
    assert len(bench.events.of(LoopBlocked)) == 2


async def test_a_run_does_not_begin_without_its_lease(bench: Bench) -> None:
    """The process stood still between the claim and the body: another may have begun by now."""
    runs: list[int] = []

    @deduplicated
    async def task(x: int) -> None:
        runs.append(x)

    async def claim(forward: Forward) -> object:
        reply = await forward()
        stand_still()
        return reply

    bench.store.then("claim", claim)
    async with bench.guard(lease=LEASE):
        with anyio.fail_after(60), pytest.raises(LeaseLost):
            await task(1)
        assert runs == []
        assert bench.store.settlements == []
        await task(1)
    assert runs == [1]
    assert bench.events.only(LeaseLostEvent).fence is not None


async def test_a_late_renewal_revives_nothing(bench: Bench) -> None:
    """The store has granted it in time; we hear of that when our own clock has ended the lease."""
    went_on = False

    @deduplicated
    async def task(x: int) -> None:
        nonlocal went_on
        await until(lambda: bench.store.count("renew") == 1)
        await anyio.sleep(0.05)
        went_on = True

    async def renew(forward: Forward) -> object:
        reply = await forward()
        stand_still(SHORT_OF_IT)  # a lease counted from the renewal would still hold
        return reply

    bench.store.then("renew", renew)
    async with bench.guard(lease=LEASE):
        with anyio.fail_after(60), pytest.raises(LeaseLost):
            await task(1)
    assert not went_on
    assert bench.store.count("renew") == 1


@pytest.mark.parametrize("wakes", [0.3, 1.19, 1.3], ids=lambda wakes: f"after {wakes} s")
async def test_no_body_goes_on_past_an_await_after_its_lease(bench: Bench, wakes: float) -> None:
    """The heartbeat, the alarm and the body's own wake-up are all due at once, in any order.

    What was about to go on when the loop stood still goes on to its next await, as it would if the
    process had been stopped a moment later; nothing gets further.
    """
    steps: list[str] = []
    fences: list[int | None] = []

    @deduplicated
    async def task(x: int) -> None:
        fences.append(current_job().fence)
        steps.append("begun")
        await anyio.sleep(wakes)
        steps.append("woken")
        await anyio.lowlevel.checkpoint()
        steps.append("gone on")

    outcome: Outcome
    async with bench.guard(lease=LEASE), started(lambda: task(1)) as outcome:
        await until(lambda: steps)
        stand_still()
        await until(lambda: outcome.ended)
    assert isinstance(outcome.error, LeaseLost)
    assert "gone on" not in steps
    assert bench.store.count("renew") == 0
    assert bench.store.recorded(State.SUCCESS) == []
