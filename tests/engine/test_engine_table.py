"""What a job does when it meets an earlier one with its key: the table of `@deduplicated`, row by row."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from jobguard import (
    Discard,
    Duplicate,
    GiveUp,
    JobGuard,
    JobStatus,
    constant,
    dead_letter,
    deduplicated,
    retrying,
)
from jobguard.errors import DuplicateJob, PayloadMismatch
from jobguard.events import (
    Deferred,
    DuplicateReplayed,
    DuplicateSkipped,
    PayloadMismatched,
    RetryScheduled,
    Succeeded,
    TakenOver,
)
from jobguard.stores import MemoryStore
from jobguard.testing import ManualClock
from tests.engine.harness import Bench, Events, Gate, started, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]


class Counter:
    """Counts the runs of a body."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> int:
        self.runs += 1
        return self.runs


@pytest.fixture
def counter() -> Counter:
    return Counter()


# --- nothing, or an ended failure ----------------------------------------------------------------


async def test_a_key_that_nobody_has_used_is_run(counter: Counter) -> None:
    """Nothing is known of the key: the body runs and its result is returned."""

    @deduplicated
    async def task(x: int) -> int:
        return counter() * 10

    assert await task(1) == 10


async def test_other_keys_run_beside(counter: Counter) -> None:
    """A success stands in the way of its own key only."""

    @deduplicated(key="{x}")
    async def task(x: int) -> int:
        return counter()

    assert [await task(1), await task(2), await task(3)] == [1, 2, 3]


async def test_a_failure_frees_its_key(counter: Counter) -> None:
    """An ended failure does not stand in the way of the next job."""

    @deduplicated
    async def task(x: int) -> int:
        if counter() == 1:
            raise ValueError("once")
        return 7

    with pytest.raises(ValueError, match="once"):
        await task(1)
    assert await task(1) == 7


async def test_a_dead_letter_frees_its_key(counter: Counter) -> None:
    """A job that became a dead letter does not stand in the way of the next job."""

    @deduplicated
    @dead_letter
    async def task(x: int) -> int:
        if counter() == 1:
            raise ValueError("once")
        return 7

    with pytest.raises(ValueError, match="once"):
        await task(1)
    assert await task(1) == 7


@pytest.mark.parametrize("signal", [GiveUp, Discard])
async def test_a_job_that_gave_up_frees_its_key(counter: Counter, signal: type[GiveUp | Discard]) -> None:
    """However a job ended badly, the next one runs."""

    @deduplicated
    async def task(x: int) -> int:
        if counter() == 1:
            raise signal("no")
        return 7

    with pytest.raises(Exception, match="no"):
        await task(1)
    assert await task(1) == 7


async def test_a_new_claim_after_a_failure_is_no_takeover(counter: Counter, events: Events) -> None:
    """Nobody was pushed aside."""

    @deduplicated
    async def task(x: int) -> int:
        if counter() == 1:
            raise ValueError("once")
        return 7

    with pytest.raises(ValueError, match="once"):
        await task(1)
    await task(1)
    assert events.of(TakenOver) == []


# --- another job is running ----------------------------------------------------------------------


async def test_a_duplicate_of_a_running_job_is_skipped(counter: Counter) -> None:
    """`running="skip"` is the default: a `Duplicate` comes back at once."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> int:
        await gate()
        return counter()

    async with started(lambda: task(1)) as first:
        await gate.reached()
        answer = await task(1)
        assert isinstance(answer, Duplicate)
        assert answer.status is JobStatus.PROCESSING
        gate.open()
    assert (first.value, counter.runs) == (1, 1)


async def test_a_skip_names_the_key_and_the_owner(events: Events) -> None:
    """`Duplicate.key` and `.owner` are those of the events of the job that has the key."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    async with started(lambda: task(1)):
        await gate.reached()
        answer = await task(1)
        gate.open()
    assert isinstance(answer, Duplicate)
    succeeded = events.only(Succeeded)
    assert (answer.key, answer.owner) == (succeeded.key, succeeded.job)


async def test_a_skip_is_an_event(events: Events) -> None:
    """Nothing is hidden: the skip tells its own job apart from the owner."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    async with started(lambda: task(1)):
        await gate.reached()
        await task(1)
        gate.open()
    skipped = events.only(DuplicateSkipped)
    assert skipped.status is JobStatus.PROCESSING
    assert skipped.owner == events.only(Succeeded).job != skipped.job


@pytest.mark.parametrize("running", ["wait", "defer"])
async def test_a_duplicate_waits_for_the_running_job_and_gets_its_result(
    counter: Counter, running: str
) -> None:
    """In-process `defer` is `wait`: the table is read again when the owner ends."""
    gate = Gate()

    @deduplicated(running=running)  # type: ignore[call-overload,untyped-decorator]
    async def task(x: int) -> int:
        await gate()
        return counter() + 40

    async with started(lambda: task(1)) as first, started(lambda: task(1)) as second:
        await gate.reached()
        gate.open()
    assert (first.value, second.value, counter.runs) == (41, 41, 1)


async def test_a_wait_says_once_that_it_waits(events: Events) -> None:
    """One event, however often the record is looked at."""
    gate = Gate()

    @deduplicated(running="wait")
    async def task(x: int) -> None:
        await gate()

    async with started(lambda: task(1)):
        await gate.reached()
        async with started(lambda: task(1)):
            await until(lambda: events.of(Deferred))
            await anyio.sleep(0.3)
            gate.open()
    assert events.only(Deferred).reason == "running"


async def test_a_waiter_runs_when_the_owner_fails(counter: Counter) -> None:
    """The owner's failure frees the key, and the waiter takes it."""
    gate = Gate()

    @deduplicated(running="wait")
    async def task(x: int) -> int:
        await gate()
        if counter() == 1:
            raise ValueError("the first")
        return 7

    async with started(lambda: task(1)) as first, started(lambda: task(1)) as second:
        await gate.reached()
        gate.open()
    results = {repr(first.value or first.error), repr(second.value or second.error)}
    assert results == {"7", "ValueError('the first')"}


async def test_a_duplicate_of_a_running_job_raises_if_asked_to() -> None:
    """`running="raise"`: the error names key, status and owner."""
    gate = Gate()

    @deduplicated(running="raise")
    async def task(x: int) -> int:
        await gate()
        return 1

    async with started(lambda: task(1)) as first:
        await gate.reached()
        with pytest.raises(DuplicateJob) as caught:
            await task(1)
        gate.open()
    assert caught.value.status is JobStatus.PROCESSING
    assert caught.value.owner in str(caught.value)
    assert first.value == 1


@pytest.mark.parametrize("running", ["skip", "raise"])
async def test_between_attempts_a_duplicate_meets_running(counter: Counter, running: str) -> None:
    """A job that waits for its retry still has the key; the status says RETRY."""

    @deduplicated(running=running)  # type: ignore[call-overload,untyped-decorator]
    @retrying(attempts=2, backoff=constant(0.5))
    async def task(x: int) -> int:
        if counter() == 1:
            raise ValueError("once")
        return 7

    async def duplicate() -> JobStatus:
        try:
            answer = await task(1)
        except DuplicateJob as error:
            return JobStatus(error.status)
        assert isinstance(answer, Duplicate)
        return answer.status

    async with started(lambda: task(1)) as first:
        await until(lambda: counter.runs == 1)
        status = await duplicate()
        while status is JobStatus.PROCESSING:
            status = await duplicate()
    assert (status, first.value, counter.runs) == (JobStatus.RETRY, 7, 2)


# --- another job, which has left the key behind --------------------------------------------------


@pytest.mark.parametrize("where", ["memory-asyncio", "memory-trio"], indirect=True)
async def test_a_key_whose_lease_is_over_is_taken_over(bench: Bench, counter: Counter) -> None:
    """Another job takes the key when its owner's lease has ended, under a higher fence."""
    clock = ManualClock()
    bench.store.store = MemoryStore(clock=clock)
    gate = Gate()

    @deduplicated
    async def task(x: int) -> int:
        number = counter()
        if number == 1:
            await gate()
        return number

    async with started(lambda: task(1)) as first:
        await gate.reached()
        clock.advance(31)
        assert await task(1) == 2
        gate.open()
    taken = bench.events.only(TakenOver)
    assert (taken.crashes, first.ended) == (1, True)


@pytest.mark.parametrize("where", ["memory-asyncio", "memory-trio"], indirect=True)
async def test_a_retry_that_is_overdue_by_a_lease_is_taken_over(bench: Bench, counter: Counter) -> None:
    """A job that should have come back a lease ago is not waited for."""
    clock = ManualClock()
    bench.store.store = MemoryStore(clock=clock)

    @deduplicated
    @retrying(attempts=2, backoff=constant(2))
    async def task(x: int) -> int:
        number = counter()
        if number == 1:
            raise ValueError("once")
        return number

    async with started(lambda: task(1)) as first:
        await until(lambda: bench.events.of(RetryScheduled))
        clock.advance(2 + 29)
        answer = await task(1)
        assert isinstance(answer, Duplicate)
        assert answer.status is JobStatus.RETRY
        clock.advance(2)
        assert await task(1) == 2
    # The old owner is then the duplicate.
    assert first.value == 2


# --- another job has succeeded -------------------------------------------------------------------


async def test_a_duplicate_of_a_success_replays_its_result(counter: Counter) -> None:
    """`done="replay"` is the default."""

    @deduplicated
    async def task(x: int) -> int:
        return counter() + 40

    assert [await task(1), await task(1), counter.runs] == [41, 41, 1]


async def test_a_replay_is_an_event(events: Events) -> None:
    """It names the job that did the work, and says that it was another."""

    @deduplicated
    async def task(x: int) -> int:
        return 1

    await task(1)
    await task(1)
    replayed = events.only(DuplicateReplayed)
    assert (replayed.own, replayed.owner) == (False, events.only(Succeeded).job)


async def test_a_duplicate_of_a_success_is_skipped_if_asked_to(counter: Counter) -> None:
    """`done="skip"`: a `Duplicate` with status SUCCESS."""

    @deduplicated(done="skip")
    async def task(x: int) -> int:
        return counter()

    await task(1)
    answer = await task(1)
    assert isinstance(answer, Duplicate)
    assert (answer.status, counter.runs) == (JobStatus.SUCCESS, 1)


async def test_a_duplicate_of_a_success_raises_if_asked_to(counter: Counter) -> None:
    """`done="raise"`: the error has status SUCCESS."""

    @deduplicated(done="raise")
    async def task(x: int) -> int:
        return counter()

    await task(1)
    with pytest.raises(DuplicateJob) as caught:
        await task(1)
    assert (caught.value.status, counter.runs) == (JobStatus.SUCCESS, 1)


async def test_a_duplicate_of_a_success_runs_if_asked_to(counter: Counter) -> None:
    """`done="run"`: a success does not stand in the way, only a run does."""

    @deduplicated(done="run")
    async def task(x: int) -> int:
        return counter()

    assert [await task(1), await task(1), await task(1)] == [1, 2, 3]


async def test_done_run_does_not_run_beside_a_running_job(counter: Counter) -> None:
    """`done="run"` says nothing of a job that is still at work."""
    gate = Gate()

    @deduplicated(done="run")
    async def task(x: int) -> int:
        await gate()
        return counter()

    async with started(lambda: task(1)):
        await gate.reached()
        assert isinstance(await task(1), Duplicate)
        gate.open()
    assert counter.runs == 1


@pytest.mark.parametrize("where", ["memory-asyncio", "memory-trio"], indirect=True)
async def test_a_success_is_forgotten_after_its_ttl(bench: Bench, counter: Counter) -> None:
    """`ttl`, in seconds or as a timedelta, is how long a success answers duplicates."""
    clock = ManualClock()
    bench.store.store = MemoryStore(clock=clock)

    @deduplicated(ttl=timedelta(minutes=1))
    async def task(x: int) -> int:
        return counter()

    await task(1)
    clock.advance(59)
    assert await task(1) == 1
    clock.advance(2)
    assert await task(1) == 2


@pytest.mark.parametrize("where", ["memory-asyncio"], indirect=True)
async def test_a_success_answers_for_a_day_by_default(bench: Bench, counter: Counter) -> None:
    """The default ttl is one day."""
    clock = ManualClock()
    bench.store.store = MemoryStore(clock=clock)

    @deduplicated
    async def task(x: int) -> int:
        return counter()

    await task(1)
    clock.advance(timedelta(days=1) - timedelta(seconds=1))
    assert await task(1) == 1
    clock.advance(2)
    assert await task(1) == 2


@pytest.mark.parametrize("where", ["valkey-asyncio"], indirect=True)
async def test_a_short_ttl_ends_at_the_server(counter: Counter) -> None:
    """The server's clock ends it."""

    @deduplicated(ttl=0.05)
    async def task(x: int) -> int:
        return counter()

    await task(1)
    with anyio.fail_after(30):
        while await task(1) == 1:  # noqa: ASYNC110  the server's clock
            await anyio.sleep(0.01)


# --- another payload -----------------------------------------------------------------------------


async def test_a_duplicate_with_another_payload_is_an_event(events: Events) -> None:
    """A key over some arguments keeps a fingerprint of the rest; by default a mismatch is told of."""

    @deduplicated(key="{message_id}")
    async def task(message_id: str, text: str) -> str:
        return text

    await task("m1", "hello")
    assert await task("m1", "goodbye") == "hello"
    assert events.only(PayloadMismatched).owner == events.only(Succeeded).job


async def test_a_duplicate_with_the_same_payload_is_no_mismatch(events: Events) -> None:
    """However it is spelt."""

    @deduplicated(key="{message_id}")
    async def task(message_id: str, text: str = "hello") -> str:
        return text

    await task("m1", "hello")
    await task(message_id="m1")
    assert events.of(PayloadMismatched) == []


@pytest.mark.parametrize("done", ["replay", "skip", "raise"])
async def test_a_duplicate_with_another_payload_raises_if_asked_to(done: str) -> None:
    """`mismatch="raise"` comes before whatever `done` says; the error names the key and the owner."""

    @deduplicated(key="{message_id}", mismatch="raise", done=done)  # type: ignore[call-overload,untyped-decorator]
    async def task(message_id: str, text: str) -> str:
        return text

    await task("m1", "hello")
    with pytest.raises(PayloadMismatch) as caught:
        await task("m1", "goodbye")
    assert caught.value.owner in str(caught.value)
    assert caught.value.key in str(caught.value)


async def test_a_duplicate_of_a_running_job_with_another_payload_raises_if_asked_to() -> None:
    """A mismatch is seen while the first job runs, too."""
    gate = Gate()

    @deduplicated(key="{message_id}", mismatch="raise")
    async def task(message_id: str, text: str) -> None:
        await gate()

    async with started(lambda: task("m1", "hello")):
        await gate.reached()
        with pytest.raises(PayloadMismatch):
            await task("m1", "goodbye")
        gate.open()


async def test_a_freed_key_takes_another_payload(events: Events, counter: Counter) -> None:
    """After a failure, the job with the other payload is no duplicate."""

    @deduplicated(key="{message_id}", mismatch="raise")
    async def task(message_id: str, text: str) -> str:
        if counter() == 1:
            raise ValueError("once")
        return text

    with pytest.raises(ValueError, match="once"):
        await task("m1", "hello")
    assert await task("m1", "goodbye") == "goodbye"
    assert events.of(PayloadMismatched) == []


# --- scope ---------------------------------------------------------------------------------------


async def test_tasks_of_one_scope_share_their_keys(counter: Counter) -> None:
    """A success of the one answers the other."""

    @deduplicated(key="{x}", scope="shared")
    async def old_name(x: int) -> int:
        return counter()

    @deduplicated(key="{x}", scope="shared")
    async def new_name(x: int) -> int:
        return counter()

    assert [await old_name(1), await new_name(1), counter.runs] == [1, 1, 1]


async def test_tasks_have_scopes_of_their_own_by_default(counter: Counter) -> None:
    """The same arguments of another function are other work."""

    @deduplicated
    async def one(x: int) -> int:
        return counter()

    @deduplicated
    async def other(x: int) -> int:
        return counter()

    assert [await one(1), await other(1)] == [1, 2]


async def test_name_spaces_are_apart(bench: Bench, counter: Counter) -> None:
    """Two applications on one store do not meet."""

    @deduplicated
    async def task(x: int) -> int:
        return counter()

    await task(1)
    async with JobGuard(bench.store, namespace=bench.namespace + "-other"):
        assert await task(1) == 2
