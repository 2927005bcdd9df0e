"""Cancellation: never swallowed, never an outcome, and the key is free at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from jobguard import constant, current_job, dead_letter, deduplicated, fallback, retrying, time_limit
from jobguard.events import Interrupted, Succeeded
from jobguard.history import unpack
from jobguard.stores.base import State
from tests.engine.harness import PATIENCE, Bench, Forward, Gate, down, until

pytestmark = pytest.mark.anyio

asyncio_only = pytest.mark.parametrize("where", ["memory-asyncio", "valkey-asyncio"], indirect=True)

Call = Callable[[], Coroutine[Any, Any, object]]


class CancelledAt:
    """Runs a coroutine in the current asyncio task, and cancels that task as it waits for the k-th time.

    Attributes:
        waits: how often it has waited.
    """

    def __init__(self, call: Call, *points: int) -> None:
        self.waits = 0
        self._call = call
        self._points = points

    def __await__(self) -> Generator[Any, Any, object]:
        coroutine = self._call()
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited_for = coroutine.send(value) if error is None else coroutine.throw(error)
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits in self._points:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            value, error = None, None
            try:
                value = yield waited_for
            except BaseException as thrown:
                error = thrown


class CancelScopeAt:
    """Checkpoints that are counted; at the k-th a cancel scope is cancelled."""

    def __init__(self, k: int) -> None:
        self.scope = anyio.CancelScope()
        self.passed = 0
        self._k = k

    async def __call__(self) -> None:
        self.passed += 1
        if self.passed == self._k:
            self.scope.cancel()
        await anyio.lowlevel.checkpoint()


def interruptions(bench: Bench) -> int:
    """How many the last recorded history has."""
    recorded = bench.store.recorded(State.INTERRUPTED)
    return unpack(recorded[-1].history, 0.0)[0].interruptions if recorded else 0


async def expect_free_key(bench: Bench, task: Callable[[int], Coroutine[Any, Any, object]], n: int) -> None:
    """The key's next job runs at once, or gets the result if the body had returned."""
    bench.store.checkpoint = None
    with anyio.fail_after(PATIENCE):
        assert await task(n) == n


# --- at every point ------------------------------------------------------------------------------


@asyncio_only
async def test_a_native_cancellation_at_every_await_of_a_success(bench: Bench) -> None:
    """`Task.cancel()` at the k-th await, for every k: CancelledError comes out, the key is free or done."""
    finished: list[int] = []

    @deduplicated(key="{n}")
    async def task(n: int) -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        finished.append(n)
        return n

    async with bench.guard():
        for k in itertools.count(1):
            bench.events.clear()
            bench.store.settlements.clear()
            bench.store.checkpoint = lambda: asyncio.sleep(0)
            call = CancelledAt(lambda k=k: task(k), k)  # type: ignore[misc]

            async def run(call: CancelledAt = call) -> object:
                return await call

            running = asyncio.create_task(run())
            await asyncio.wait({running})
            if call.waits < k:
                assert running.result() == k
                break
            assert running.cancelled()
            states = {each.state for each in bench.store.settlements}
            assert states <= ({State.SUCCESS} if k in finished else {State.INTERRUPTED})
            assert len(bench.events.of(Interrupted)) <= 1
            assert interruptions(bench) <= 1
            await expect_free_key(bench, task, k)
            assert finished.count(k) == 1
    assert k >= 4


@asyncio_only
async def test_a_native_cancellation_at_every_await_of_a_failure(bench: Bench) -> None:
    """The same through failure, back-off and the second run."""
    done: set[int] = set()

    @deduplicated(key="{n}")
    @retrying(attempts=2, backoff=constant(0.01))
    @dead_letter
    async def task(n: int) -> int:
        await asyncio.sleep(0)
        if n not in done and current_job().attempt == 1:
            raise ValueError("once")
        return n

    async with bench.guard() as guard:
        for k in itertools.count(1):
            bench.events.clear()
            bench.store.settlements.clear()
            bench.store.checkpoint = lambda: asyncio.sleep(0)
            call = CancelledAt(lambda k=k: task(k), k)  # type: ignore[misc]

            async def run(call: CancelledAt = call) -> object:
                return await call

            running = asyncio.create_task(run())
            await asyncio.wait({running})
            if call.waits < k:
                assert running.result() == k
                break
            assert running.cancelled()
            assert bench.store.recorded(State.FAILED) == []
            assert bench.store.recorded(State.DEAD_LETTER) == []
            assert len(bench.events.of(Interrupted)) <= 1
            assert interruptions(bench) <= 1
            done.add(k)
            await expect_free_key(bench, task, k)
        assert await guard.dead_letters().count() == 0
    assert k >= 6


@asyncio_only
async def test_a_native_cancellation_at_every_await_of_a_bad_end(bench: Bench) -> None:
    """Once the last run has failed, its dead letter is recorded and kept, or neither."""

    @deduplicated(key="{n}")
    @dead_letter
    async def task(n: int) -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async with bench.guard() as guard:
        for k in itertools.count(1):
            bench.events.clear()
            bench.store.settlements.clear()
            before = await guard.dead_letters().count()
            bench.store.checkpoint = lambda: asyncio.sleep(0)
            call = CancelledAt(lambda k=k: task(k), k)  # type: ignore[misc]

            async def run(call: CancelledAt = call) -> object:
                return await call

            running = asyncio.create_task(run())
            await asyncio.wait({running})
            bench.store.checkpoint = None
            if call.waits < k:
                assert isinstance(running.exception(), ValueError)
                break
            assert running.cancelled()
            kept = await guard.dead_letters().count() - before
            assert kept == min(len(bench.store.recorded(State.DEAD_LETTER)), 1)
            assert len(bench.events.of(Interrupted)) + kept <= 1
    assert k >= 6


@asyncio_only
@pytest.mark.parametrize("gap", [1, 2, 3])
async def test_a_second_cancellation_while_the_first_is_recorded(bench: Bench, gap: int) -> None:
    """An impatient caller stops neither the recording nor gets anything but CancelledError."""

    @deduplicated(key="{n}")
    async def task(n: int) -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return n

    async with bench.guard() as guard:
        for k in itertools.count(1):
            bench.events.clear()
            bench.store.settlements.clear()
            bench.store.checkpoint = lambda: asyncio.sleep(0)
            call = CancelledAt(lambda k=k: task(k), k, k + gap)  # type: ignore[misc]

            async def run(call: CancelledAt = call) -> object:
                return await call

            running = asyncio.create_task(run())
            await asyncio.wait({running})
            if call.waits < k:
                break
            assert running.cancelled()
            await guard.runtime.background.aclose()
            assert interruptions(bench) <= 1
            await expect_free_key(bench, task, k)


async def test_a_cancelled_scope_at_every_checkpoint_of_a_success(bench: Bench) -> None:
    """The same with cancel scopes: before and after each operation, and in the body."""
    finished: list[int] = []

    @deduplicated(key="{n}")
    async def task(n: int) -> int:
        if bench.store.checkpoint is not None:
            await bench.store.checkpoint()
        finished.append(n)
        return n

    async with bench.guard():
        for k in itertools.count(1):
            bench.events.clear()
            bench.store.settlements.clear()
            point = CancelScopeAt(k)
            bench.store.checkpoint = point
            returned = False
            with point.scope:
                returned = await task(k) == k
            if point.passed < k:
                assert returned
                break
            assert not returned
            assert point.scope.cancelled_caught
            states = {each.state for each in bench.store.settlements}
            assert states <= ({State.SUCCESS} if k in finished else {State.INTERRUPTED})
            assert len(bench.events.of(Interrupted)) <= 1
            assert interruptions(bench) <= 1
            await expect_free_key(bench, task, k)
            assert finished.count(k) == 1
    assert k >= 5


# --- in the body ---------------------------------------------------------------------------------


async def cancelled_in_body(task: Callable[[int], Coroutine[Any, Any, object]], gate: Gate) -> None:
    """Cancel a call of `task(1)` while its body stands at the gate."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(task, 1)
            await gate.reached()
            group.cancel_scope.cancel()


async def test_an_interruption_is_an_event(bench: Bench) -> None:
    """It says which run was cut off, and that the store knows."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    async with bench.guard():
        await cancelled_in_body(task, gate)
    interrupted = bench.events.only(Interrupted)
    assert (interrupted.attempt, interrupted.recorded) == (1, True)
    assert bench.events.of(Succeeded) == []


async def test_an_interrupted_job_is_recorded_as_interrupted_once(bench: Bench) -> None:
    """One interruption, no failure, no crash."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    async with bench.guard():
        await cancelled_in_body(task, gate)
    record = await bench.record(bench.events.only(Interrupted).key)
    assert record is not None
    history, _ = unpack(record.history, record.elapsed)
    assert record.state is State.INTERRUPTED
    assert (history.interruptions, history.failures, record.crashes) == (1, 0, 0)


async def test_an_interrupted_job_s_key_is_free_at_once(bench: Bench) -> None:
    """Nobody has to wait for the lease to end."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> int:
        if not gate.entered:
            await gate()
        return 7

    async with bench.guard(lease=600):
        await cancelled_in_body(task, gate)
        assert await task(1) == 7


async def test_cancellation_during_the_back_off_frees_the_key(bench: Bench) -> None:
    """Nobody has to wait for a retry that will not come."""
    failed: list[int] = []

    @deduplicated
    @retrying(attempts=2, backoff=constant(3600))
    async def task(x: int) -> int:
        if not failed:
            failed.append(1)
            raise ValueError("once")
        return 7

    async with bench.guard():
        async with anyio.create_task_group() as group:
            group.start_soon(task, 1)
            await until(lambda: bench.store.recorded(State.RETRY))
            await anyio.sleep(0.05)
            group.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE):
            assert await task(1) == 7


async def test_a_waiting_duplicate_can_be_cancelled(bench: Bench) -> None:
    """It touches nothing of the owner's."""
    gate = Gate()

    @deduplicated(running="wait")
    async def task(x: int) -> int:
        await gate()
        return 7

    async with bench.guard(), anyio.create_task_group() as group:
        group.start_soon(task, 1)
        await gate.reached()
        with anyio.move_on_after(0.2) as scope:
            await task(1)
        assert scope.cancelled_caught
        assert bench.store.settlements == []
        gate.open()
    assert len(bench.events.of(Succeeded)) == 1


async def test_cancellation_passes_a_fallback_by(bench: Bench) -> None:
    """`@fallback` answers errors, not cancellations."""
    gate = Gate()
    answers: list[object] = []

    @deduplicated
    @fallback("stand-in")
    async def task(x: int) -> str:
        await gate()
        return "done"

    async def call(x: int) -> None:
        answers.append(await task(x))

    async with bench.guard():
        await cancelled_in_body(call, gate)
    assert answers == []


async def test_cancellation_is_no_failure_to_a_retry(bench: Bench) -> None:
    """No second run, no letter."""
    gate = Gate()

    @retrying(attempts=5, backoff=constant(0))
    @dead_letter
    async def task(x: int) -> None:
        await gate()

    async with bench.guard() as guard:
        await cancelled_in_body(task, gate)
        assert gate.entered == 1
        assert await guard.dead_letters().count() == 0


async def test_a_store_that_hangs_holds_a_cancellation_up_for_a_bounded_time_only(bench: Bench) -> None:
    """Recording the interruption is tried, not insisted on; leaving the guard waits for what is left."""
    gate, store_works = Gate(), anyio.Event()

    async def hangs(forward: Forward) -> object:
        await store_works.wait()
        return await forward()

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    bench.store.always("settle", hangs)
    async with bench.guard():
        await cancelled_in_body(task, gate)
        assert not bench.events.only(Interrupted).recorded
        store_works.set()


async def test_an_interruption_that_cannot_be_recorded_says_so(bench: Bench) -> None:
    """The cancellation goes on; the key is then free when the lease ends."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    bench.store.always("settle", down)
    async with bench.guard():
        await cancelled_in_body(task, gate)
    assert not bench.events.only(Interrupted).recorded


# --- wait_for, timeouts and task groups ----------------------------------------------------------


@asyncio_only
@pytest.mark.parametrize(
    "on", [Exception, (TimeoutError, ValueError), lambda error: True], ids=["type", "types", "predicate"]
)
async def test_wait_for_around_a_guarded_call_fires(bench: Bench, on: Any) -> None:
    """Whatever `on` says, the caller's time limit is the caller's."""
    gate = Gate()

    @deduplicated
    @retrying(attempts=None, on=on, backoff=constant(0))
    @dead_letter
    @fallback("stand-in")
    async def task(x: int) -> str:
        await gate()
        return "done"

    async with bench.guard():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task(1), 0.2)
    assert gate.entered == 1


@asyncio_only
async def test_wait_for_fires_during_the_back_off(bench: Bench) -> None:
    """A retry's sleep ends with its caller."""

    @retrying(attempts=None, backoff=constant(3600))
    async def task(x: int) -> None:
        raise ValueError("no")

    async with bench.guard():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task(1), 0.1)


async def test_a_caller_s_timeout_inside_a_time_limit_is_the_caller_s(bench: Bench) -> None:
    """Of two limits, each ends what it was put around."""
    gate = Gate()

    @retrying(attempts=5, backoff=constant(0))
    @time_limit(3600)
    async def task(x: int) -> None:
        await gate()

    async with bench.guard():
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.2):
                await task(1)
    assert gate.entered == 1


async def test_a_timeout_of_the_body_s_own_is_an_ordinary_error(bench: Bench) -> None:
    """It is retried like any other."""
    runs = []

    @deduplicated
    @retrying(attempts=2, backoff=constant(0))
    async def task(x: int) -> int:
        runs.append(1)
        if len(runs) == 1:
            with anyio.fail_after(0.01):
                await anyio.sleep(3600)
        return 7

    async with bench.guard():
        assert await task(1) == 7


async def test_a_cancellation_of_the_body_s_own_making_stays_inside(bench: Bench) -> None:
    """A body may cancel what it started itself."""

    @deduplicated
    async def task(x: int) -> int:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 3600)
            group.cancel_scope.cancel()
        return 7

    async with bench.guard():
        assert await task(1) == 7
    assert bench.events.of(Interrupted) == []


async def test_a_body_with_a_task_group_is_cancelled_as_a_whole(bench: Bench) -> None:
    """The children end, the interruption is counted once."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(gate)
            group.start_soon(gate)

    async with bench.guard():
        await cancelled_in_body(task, gate)
    assert bench.events.only(Interrupted).recorded


@asyncio_only
async def test_a_body_that_swallows_its_cancellation_has_succeeded(bench: Bench) -> None:
    """What the body makes of `CancelledError` is its own business; its result counts."""

    @deduplicated
    async def task(x: int) -> int:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return 7
        return 8

    async with bench.guard():
        running = asyncio.create_task(task(1))
        await asyncio.sleep(0.05)
        running.cancel()
        assert await running == 7
        assert await task(1) == 7


@asyncio_only
async def test_a_cancelled_error_raised_by_the_body_goes_on(bench: Bench) -> None:
    """Also where nobody called `cancel()` on us: an awaited task that was cancelled, say."""

    @deduplicated
    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> None:
        raise asyncio.CancelledError

    async with bench.guard():
        with pytest.raises(asyncio.CancelledError):
            await task(1)
    assert bench.events.only(Interrupted).recorded
