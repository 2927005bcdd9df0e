"""Leases: who holds a key, who takes it over, and what becomes of a run that comes too late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from threading import Thread

import anyio
import pytest

from jobguard import Duplicate, JobGuard, JobStatus, current_job, deduplicated, retrying
from jobguard.errors import LeaseLost
from jobguard.events import LeaseLost as LeaseLostEvent
from jobguard.events import OutcomeLost, OutcomeRefused, Succeeded, TakenOver
from jobguard.stores.base import Claim, ClaimReply, Renewal, State, Verdict
from tests.engine.harness import Bench, Forward, Gate, down, started, until

pytestmark = pytest.mark.anyio


def stop_renewing(bench: Bench) -> None:
    """Let leases end at the store while their holders believe that they go on: zombies."""

    async def renew(renewals: Sequence[Renewal]) -> list[bool]:
        return [True] * len(renewals)

    bench.store.renew = renew  # type: ignore[method-assign]


async def test_a_hundred_calls_at_once_run_one_body(bench: Bench) -> None:
    """However many ask at the same time, exactly one runs; the others are its duplicates."""
    runs = 0
    answers: list[object] = []

    @deduplicated(running="wait")
    async def task(x: int) -> int:
        nonlocal runs
        runs += 1
        await anyio.sleep(0.05)
        return 42

    async def call() -> None:
        answers.append(await task(1))

    async with bench.guard():
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(call)
    assert (runs, answers) == (1, [42] * 100)


async def test_a_hundred_calls_at_once_are_skipped_but_for_one(bench: Bench) -> None:
    """With `skip`, ninety-nine come back empty-handed."""
    gate = Gate()
    answers: list[object] = []

    @deduplicated
    async def task(x: int) -> int:
        await gate()
        return 42

    async def call() -> None:
        answers.append(await task(1))

    async with bench.guard():
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(call)
                await until(lambda: len(answers) == 99)
                gate.open()
    assert (gate.entered, [a for a in answers if not isinstance(a, Duplicate)]) == (1, [42])


async def test_guards_of_two_processes_run_one_body(bench: Bench) -> None:
    """What counts is the store: two guards on one name space exclude one another."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> int:
        await gate()
        return 1

    async def elsewhere() -> object:
        async with bench.guard():
            return await task(1)

    async with bench.guard(), started(lambda: task(1)):
        await gate.reached()
        assert isinstance(await elsewhere(), Duplicate)
        gate.open()


async def test_a_heartbeat_keeps_a_lease_shorter_than_the_body(bench: Bench) -> None:
    """A body that takes several leases is run once, and nobody takes its key."""
    runs = 0

    @deduplicated
    async def task(x: int) -> int:
        nonlocal runs
        runs += 1
        await until(lambda: bench.store.count("renew") >= 4)
        return runs

    async with bench.guard(lease=1.5), started(lambda: task(1)) as first:
        await until(lambda: runs == 1)
        while not first.ended:
            assert isinstance(await task(1), Duplicate | int)
            await anyio.sleep(0.05)
    assert (first.value, runs) == (1, 1)
    assert bench.events.of(TakenOver) == []


async def test_a_zombie_s_success_is_refused(bench: Bench) -> None:
    """A run that ends after its key was taken over does not record its result."""
    gate = Gate()
    runs = 0

    @deduplicated(running="wait")
    async def task(x: int) -> str:
        nonlocal runs
        runs += 1
        if runs == 1:
            await gate()
            return "late"
        return "in time"

    stop_renewing(bench)
    async with bench.guard(lease=0.3):
        async with started(lambda: task(1)) as zombie:
            await gate.reached()
            assert await task(1) == "in time"
            gate.open()
        assert isinstance(zombie.error, LeaseLost)
        assert await task(1) == "in time"


async def test_a_refused_outcome_is_an_event_with_both_fences(bench: Bench) -> None:
    """The fence rises with each takeover, and the refusal names the owner's and the newcomer's."""
    gate = Gate()
    fences: list[int | None] = []

    @deduplicated(running="wait")
    async def task(x: int) -> None:
        fences.append(current_job().fence)
        if len(fences) == 1:
            await gate()

    stop_renewing(bench)
    async with bench.guard(lease=0.3), started(lambda: task(1)):
        await gate.reached()
        await task(1)
        gate.open()
    zombie, newcomer = fences
    assert zombie is not None
    assert newcomer is not None
    assert newcomer > zombie
    refused = bench.events.only(OutcomeRefused)
    assert (refused.outcome, refused.fence, refused.owner_fence) == (JobStatus.SUCCESS, zombie, newcomer)
    assert refused.owner == bench.events.only(Succeeded).job


async def test_a_zombie_s_failure_is_refused(bench: Bench) -> None:
    """It does not undo the newcomer's claim, and is not run again."""
    first, second = Gate(), Gate()
    runs = 0

    @deduplicated(running="wait")
    @retrying(attempts=3, backoff=0)
    async def task(x: int) -> str:
        nonlocal runs
        runs += 1
        if runs == 1:
            await first()
            raise ValueError("late")
        await second()
        return "in time"

    stop_renewing(bench)
    async with bench.guard(lease=0.5), started(lambda: task(1)) as zombie:
        await first.reached()
        async with started(lambda: task(1)) as newcomer:
            await second.reached()
            first.open()
            await until(lambda: zombie.ended)
            assert runs == 2
            second.open()
    assert isinstance(zombie.error, LeaseLost)
    assert newcomer.value == "in time"
    assert bench.events.only(OutcomeRefused).outcome is JobStatus.RETRY


async def test_a_takeover_counts_a_crash(bench: Bench) -> None:
    """The run that left the key behind is a crash of the work."""
    gate = Gate()
    seen: list[int] = []

    @deduplicated(running="wait")
    async def task(x: int) -> None:
        seen.append(current_job().crashes)
        if len(seen) == 1:
            await gate()

    stop_renewing(bench)
    async with bench.guard(lease=0.3), started(lambda: task(1)):
        await gate.reached()
        await task(1)
        gate.open()
    assert seen == [0, 1]
    assert bench.events.only(TakenOver).crashes == 1


async def test_losing_the_lease_cancels_the_body(bench: Bench) -> None:
    """When the store says that the lease is another's, the body ends at its next await."""
    gate = Gate()
    cancelled = []

    @deduplicated
    async def task(x: int) -> None:
        try:
            await gate()
        except anyio.get_cancelled_exc_class():
            cancelled.append(True)
            raise

    async def lost(forward: Forward) -> object:
        return [False]

    bench.store.always("renew", lost)
    async with bench.guard(lease=0.6), started(lambda: task(1)) as outcome:
        await gate.reached()
    assert (cancelled, type(outcome.error)) == ([True], LeaseLost)
    assert bench.events.only(LeaseLostEvent).fence is not None


async def test_a_holder_that_cannot_renew_stops_by_its_own_clock(bench: Bench) -> None:
    """With the store out of reach, the body is cancelled when the lease is over."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    bench.store.always("renew", down)
    async with bench.guard(lease=0.5), started(lambda: task(1)) as outcome:
        await gate.reached()
    assert isinstance(outcome.error, LeaseLost)


async def test_a_failed_renewal_does_no_harm_if_the_next_one_works(bench: Bench) -> None:
    """A beat that is missed is made up for before the lease ends."""

    @deduplicated
    async def task(x: int) -> int:
        await until(lambda: bench.store.count("renew") >= 4)
        return 1

    bench.store.then("renew", down)
    async with bench.guard(lease=1.5):
        assert await task(1) == 1


async def test_a_run_that_lost_its_lease_records_nothing(bench: Bench) -> None:
    """The job is left to whoever holds the lease now."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    bench.store.always("renew", down)
    async with bench.guard(lease=0.5), started(lambda: task(1)):
        await gate.reached()
    assert [each.state for each in bench.store.settlements] == []


async def test_a_run_that_lost_its_lease_leaves_a_key_that_can_be_taken(bench: Bench) -> None:
    """The next job takes over and runs."""
    gate = Gate()

    @deduplicated(running="wait")
    async def task(x: int) -> int:
        if not gate.entered:
            await gate()
        return 7

    bench.store.always("renew", down)
    async with bench.guard(lease=0.5):
        async with started(lambda: task(1)):
            await gate.reached()
        assert await task(1) == 7


async def test_a_body_that_blocks_past_its_lease_is_cancelled_at_its_next_await(bench: Bench) -> None:
    """No heartbeat can be sent while the event loop is blocked, so the lease is not trusted any more."""
    went_on = []

    @deduplicated
    async def task(x: int) -> None:
        time.sleep(0.8)  # noqa: ASYNC251  that is the point
        await anyio.sleep(0.05)
        went_on.append(True)

    async with bench.guard(lease=0.5):
        with pytest.raises(LeaseLost):
            await task(1)
    assert went_on == []


async def test_a_blocked_body_does_not_touch_who_took_over_meanwhile(bench: Bench) -> None:
    """The key was taken while the event loop stood still: that claim goes on as it was."""
    granted: list[ClaimReply] = []

    async def take_over(key: str) -> None:
        store = bench.elsewhere()
        claim = Claim(f"{bench.namespace}:{key}", "queue:other:0", "token", 60, 60)
        while (reply := await store.claim(claim)).verdict is not Verdict.GRANTED:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        granted.append(reply)
        await store.aclose()

    @deduplicated
    async def task(x: int) -> None:
        key = str(current_job().key)
        thread = Thread(target=lambda: asyncio.run(take_over(key)))
        thread.start()
        thread.join()  # blocks the event loop past the lease
        await anyio.sleep(0.05)

    async with bench.guard(lease=0.5):
        with pytest.raises(LeaseLost):
            await task(1)
    record = await bench.record(bench.events.only(LeaseLostEvent).key)
    assert record is not None
    assert (record.owner, record.state, record.fence) == (
        "queue:other:0",
        State.PROCESSING,
        granted[0].fence,
    )
    assert record.wait > 0


async def test_a_run_that_returns_after_blocking_past_its_lease_is_judged_by_the_store(bench: Bench) -> None:
    """Nobody took the key meanwhile: the finished work is recorded and not done again."""
    runs = []

    @deduplicated
    async def task(x: int) -> int:
        runs.append(1)
        time.sleep(0.8)  # noqa: ASYNC251
        return 7

    async with bench.guard(lease=0.5):
        assert await task(1) == 7
        assert await task(1) == 7
    assert len(runs) == 1
    assert bench.events.of(OutcomeLost) == []


async def test_a_settled_job_is_no_longer_renewed(bench: Bench) -> None:
    """The heartbeat renews what is held, and only that."""
    gate = Gate()
    sizes: list[int] = []
    renew = bench.store.renew

    async def counted(renewals: Sequence[Renewal]) -> list[bool]:
        sizes.append(len(renewals))
        return await renew(renewals)

    bench.store.renew = counted  # type: ignore[method-assign]

    @deduplicated
    async def held(x: int) -> None:
        await gate()

    @deduplicated
    async def short(x: int) -> None: ...

    async with bench.guard(lease=0.9), started(lambda: held(1)):
        await gate.reached()
        for n in range(5):
            await short(n)
        await until(lambda: len(sizes) >= 3)
        gate.open()
    assert set(sizes) == {1}


async def test_nothing_is_renewed_between_attempts(bench: Bench) -> None:
    """A job that waits for its retry holds no lease; its due time protects it."""

    @deduplicated
    @retrying(attempts=2, backoff=0.5)
    async def task(x: int) -> int:
        if current_job().attempt == 1:
            raise ValueError("once")
        return current_job().attempt

    async with bench.guard(lease=0.3):
        assert await task(1) == 2
    assert len(bench.store.recorded(State.RETRY)) == 1


async def test_the_process_ends_with_leases_held_by_nobody(bench: Bench) -> None:
    """A guard that is left stops its heartbeat."""

    @deduplicated
    async def task(x: int) -> None: ...

    guard: JobGuard = bench.guard(lease=0.3)
    async with guard:
        await task(1)
    before = bench.store.count("renew")
    await anyio.sleep(0.5)
    assert bench.store.count("renew") == before


async def test_a_fence_is_strictly_rising_over_the_life_of_a_key(bench: Bench) -> None:
    """Whatever came between: success, failure, retry."""
    fences: list[int] = []

    @deduplicated(done="run")
    @retrying(attempts=2, backoff=0)
    async def task(x: int) -> None:
        fences.append(current_job().fence or 0)
        if len(fences) % 3 == 0:
            raise ValueError("every third")

    async with bench.guard():
        for _ in range(6):
            await task(1)
    assert fences == sorted(set(fences))
    assert fences[0] > 0
