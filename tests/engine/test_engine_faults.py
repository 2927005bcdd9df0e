"""A store that fails in the middle: lost replies, outages, and outcomes that cannot be written."""

from __future__ import annotations

import anyio
import pytest

from jobguard import Duplicate, JobStatus, constant, dead_letter, deduplicated, retrying
from jobguard.errors import StoreUnavailable
from jobguard.events import (
    DeadLettered,
    DuplicateReplayed,
    OutcomeLost,
    OutcomeRefused,
    RanUnguarded,
    StoreFailed,
    Succeeded,
)
from jobguard.stores.base import State
from tests.engine.harness import Bench, Gate, down, reply_lost, sent_twice, started, until

pytestmark = pytest.mark.anyio


# --- the reply is lost, and the operation is sent again ------------------------------------------


async def test_a_claim_sent_twice_is_granted_once(bench: Bench) -> None:
    """Claiming again with my own token succeeds: the body runs, once, and its success is recorded."""
    runs = []

    @deduplicated
    async def task(x: int) -> int:
        runs.append(1)
        return 1

    bench.store.then("claim", sent_twice)
    async with bench.guard():
        assert await task(1) == 1
        assert await task(1) == 1
    assert len(runs) == 1


async def test_a_success_sent_twice_is_recorded_once(bench: Bench) -> None:
    """Settling again with my own token is accepted."""

    @deduplicated
    async def task(x: int) -> int:
        return 1

    bench.store.then("settle", sent_twice)
    async with bench.guard():
        assert await task(1) == 1
        assert await task(1) == 1
    assert bench.events.of(OutcomeRefused) == []
    assert len(bench.events.of(DuplicateReplayed)) == 1


async def test_a_success_whose_reply_was_lost_is_sent_again(bench: Bench) -> None:
    """The engine cannot know that it was recorded; the second answer says so."""
    runs = []

    @deduplicated
    async def task(x: int) -> int:
        runs.append(1)
        return 1

    bench.store.then("settle", reply_lost)
    async with bench.guard():
        assert await task(1) == 1
        assert await task(1) == 1
    assert len(runs) == 1
    assert [each.token for each in bench.store.recorded(State.SUCCESS)].count(
        bench.store.settlements[0].token
    ) in (1, 2)
    assert bench.events.of(OutcomeRefused) == []


@pytest.mark.parametrize("fault", [reply_lost, sent_twice])
async def test_a_retry_whose_reply_was_lost_is_recorded_once(bench: Bench, fault: object) -> None:
    """Two failures are two, whatever was sent how often."""
    runs = []

    @deduplicated
    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> int:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("again")
        return 1

    bench.store.then("settle", fault)  # type: ignore[arg-type]
    async with bench.guard():
        assert await task(1) == 1
    assert len(runs) == 3


@pytest.mark.parametrize("fault", [reply_lost, sent_twice])
async def test_a_dead_letter_whose_reply_was_lost_is_kept_once(bench: Bench, fault: object) -> None:
    """The letter's id is the same for every write of one job's end."""

    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    bench.store.then("put_letter", fault)  # type: ignore[arg-type]
    async with bench.guard() as guard:
        with pytest.raises(ValueError, match="no"):
            await task(1)
        assert await guard.dead_letters().count() == 1
    assert len(bench.events.of(DeadLettered)) == 1


async def test_a_claim_whose_reply_was_lost_leaves_no_key_behind_for_ever(bench: Bench) -> None:
    """Nobody knows of the granted claim; its lease ends like any other."""

    @deduplicated(running="wait")
    async def task(x: int) -> int:
        return 1

    bench.store.then("claim", reply_lost)
    async with bench.guard(lease=0.3):
        with pytest.raises(StoreUnavailable):
            await task(1)
        assert await task(1) == 1


# --- outage before the run -----------------------------------------------------------------------


async def test_an_outage_before_the_run_raises_by_default(bench: Bench) -> None:
    """`on_store_error="raise"`: without a claim the body does not run."""
    runs = []

    @deduplicated
    @retrying(attempts=3, backoff=constant(0))
    @dead_letter
    async def task(x: int) -> None:
        runs.append(1)

    bench.store.always("claim", down)
    async with bench.guard() as guard:
        with pytest.raises(StoreUnavailable):
            await task(1)
        assert await guard.dead_letters().count() == 0
    assert runs == []


async def test_an_outage_is_an_event(bench: Bench) -> None:
    """Which operation failed, and how."""

    @deduplicated
    async def task(x: int) -> None: ...

    bench.store.always("claim", down)
    async with bench.guard():
        with pytest.raises(StoreUnavailable):
            await task(1)
    failed = bench.events.only(StoreFailed)
    assert failed.operation == "claim"
    assert "no answer" in failed.error


async def test_an_outage_before_the_run_lets_the_body_run_if_asked_to(bench: Bench) -> None:
    """`on_store_error="run"`: the work is done unguarded, and an event says so."""

    @deduplicated
    async def task(x: int) -> int:
        return 7

    bench.store.always("claim", down)
    async with bench.guard(on_store_error="run"):
        assert await task(1) == 7
    assert "no answer" in bench.events.only(RanUnguarded).error


async def test_an_unguarded_run_records_nothing(bench: Bench) -> None:
    """It has no claim, so it has no right to the key."""

    @deduplicated
    async def task(x: int) -> int:
        return 7

    bench.store.then("claim", down)
    async with bench.guard(on_store_error="run"):
        await task(1)
    assert bench.store.settlements == []


async def test_an_unguarded_run_is_retried_as_any_other(bench: Bench) -> None:
    """`@retrying` needs no store in-process."""
    runs = []

    @deduplicated
    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> int:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("again")
        return 7

    bench.store.always("claim", down)
    bench.store.always("settle", down)
    async with bench.guard(on_store_error="run"):
        assert await task(1) == 7


async def test_a_retry_needs_no_store(bench: Bench) -> None:
    """`@retrying` alone works through any outage."""
    runs = []

    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> int:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("again")
        return 7

    async with bench.guard():
        assert await task(1) == 7
    assert bench.store.calls == []


# --- outage after the run ------------------------------------------------------------------------


async def test_a_success_that_cannot_be_written_at_first_is_written_later(bench: Bench) -> None:
    """It is tried again with pauses while the lease holds."""
    runs = []

    @deduplicated
    async def task(x: int) -> int:
        runs.append(1)
        return 1

    bench.store.then("settle", down, down)
    async with bench.guard():
        assert await task(1) == 1
        assert await task(1) == 1
    assert len(runs) == 1
    assert bench.events.of(OutcomeLost) == []
    assert [event.operation for event in bench.events.of(StoreFailed)] == ["settle", "settle"]


async def test_a_success_that_cannot_be_written_at_all_is_returned(bench: Bench) -> None:
    """The work is done: its caller gets the result, and an event says that the record is missing."""
    runs = []

    @deduplicated
    async def task(x: int) -> int:
        runs.append(1)
        return 1

    bench.store.always("settle", down)
    async with bench.guard(lease=0.8):
        assert await task(1) == 1
    assert bench.events.only(OutcomeLost).outcome is JobStatus.SUCCESS
    assert len(runs) == 1
    assert bench.store.count("settle") > 1


async def test_a_job_whose_success_was_lost_has_succeeded(bench: Bench) -> None:
    """For its caller, and so for the events."""

    @deduplicated
    async def task(x: int) -> int:
        return 1

    bench.store.always("settle", down)
    async with bench.guard(lease=0.5):
        await task(1)
    assert len(bench.events.of(Succeeded)) == 1


async def test_a_success_is_being_written_while_the_lease_is_renewed(bench: Bench) -> None:
    """Until the outcome is known to be recorded, nobody else gets the key."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> int:
        await gate()
        return 1

    bench.store.then("settle", down, down, down)
    async with bench.guard(lease=5), started(lambda: task(1)) as first:
        await gate.reached()
        gate.open()
        await until(lambda: bench.store.count("settle") >= 2)
        answer = await task(1)
        assert isinstance(answer, Duplicate)
        assert answer.status is JobStatus.PROCESSING
    assert first.value == 1


async def test_a_failure_that_cannot_be_written_goes_to_the_caller_all_the_same(bench: Bench) -> None:
    """The error of the body is what the caller has to know; the lost record is an event."""

    @deduplicated
    async def task(x: int) -> None:
        raise ValueError("the body's")

    bench.store.always("settle", down)
    async with bench.guard(lease=0.5):
        with pytest.raises(ValueError, match="the body's"):
            await task(1)
    assert bench.events.only(OutcomeLost).outcome is JobStatus.FAILED


async def test_a_dead_letter_that_cannot_be_written_at_first_is_written_later(bench: Bench) -> None:
    """It is tried again before the exception goes on."""

    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    bench.store.then("put_letter", down, down)
    async with bench.guard() as guard:
        with pytest.raises(ValueError, match="no"):
            await task(1)
        assert await guard.dead_letters().count() == 1


async def test_a_dead_letter_that_cannot_be_written_at_all_is_an_event(bench: Bench) -> None:
    """The caller gets the body's error; the loss is reported loudly, and no letter is claimed to exist."""

    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    bench.store.always("put_letter", down)
    async with bench.guard(lease=0.5):
        with pytest.raises(ValueError, match="no"):
            await task(1)
    assert bench.events.only(OutcomeLost).outcome is JobStatus.DEAD_LETTER
    assert bench.events.of(DeadLettered) == []
    assert bench.store.count("put_letter") > 1


async def test_the_letter_is_written_before_the_exception_goes_on(bench: Bench) -> None:
    """Whoever sees the error can find the letter."""
    order: list[str] = []

    async def noted(forward: object) -> object:
        await anyio.sleep(0.05)
        reply = await forward()  # type: ignore[operator]
        order.append("letter")
        return reply

    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    bench.store.then("put_letter", noted)
    async with bench.guard():
        try:
            await task(1)
        except ValueError:
            order.append("exception")
    assert order == ["letter", "exception"]
