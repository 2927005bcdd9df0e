"""The rows of the table for the *same* job: a queue that delivers it again, as any adapter would."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, NoReturn

import anyio
import pytest

from jobguard import (
    Duplicate,
    GiveUp,
    JobGuard,
    RetryLater,
    Snooze,
    constant,
    current_job,
    dead_letter,
    deduplicated,
    fallback,
    retrying,
)
from jobguard.adapters.base import Terms, Ticket, arriving
from jobguard.errors import CrashLimitExceeded, JobGuardError, LeaseLost, RetriesExhausted, Signal
from jobguard.events import (
    DeadLettered,
    Deferred,
    DuplicateReplayed,
    Interrupted,
    NewFingerprint,
    OutcomeLost,
    Succeeded,
    TakenOver,
)
from jobguard.job import JobRef
from jobguard.policies import LONGEST
from jobguard.stores.base import Settlement, State
from tests.engine.harness import Bench, Events, Gate, down, started, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]

Task = Callable[..., Coroutine[Any, Any, object]]


class Again(Exception):
    """The queue is to deliver the job again: `delay` seconds from now."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.delay = delay


class GivenBack(Exception):
    """The delivery ended without an outcome; its cause prevented a run."""


class QueueDelivery:
    """A delivery by a queue that keeps its jobs."""

    adapter = "fake"
    task: str | None = None
    payload: bytes | None = b"raw"
    lost = False
    replay = None

    def __init__(self, ref: JobRef, number: int, terms: Terms) -> None:
        self.ref: JobRef = ref
        self.identity: str = ref.identity
        self.token: str = uuid.uuid4().hex
        self.number: int = number
        self.terms: Terms = terms
        self.uncounted = 0
        self.settlement: Settlement | None = None

    def signal_in(self, error: Exception) -> Signal | None:
        return None

    async def expires(self) -> float | None:
        return None

    async def later(self, delay: float) -> NoReturn:
        raise Again(delay)

    async def give_back(self, delay: float, error: JobGuardError) -> NoReturn:
        raise GivenBack from error

    async def uncount(self) -> None:
        self.uncounted += 1

    def interrupted(self, settlement: Settlement | None) -> None:
        self.settlement = settlement


class QueuedJob:
    """One job of a queue, to be delivered as often as a test wants."""

    def __init__(self, task: Task, *args: object, terms: Terms | None = None) -> None:
        self.ref = JobRef("queue", uuid.uuid4().hex, 1)
        self.deliveries: list[QueueDelivery] = []
        self._task = task
        self._args = args
        self._terms = Terms(durable=True, keep_ended=600) if terms is None else terms

    async def __call__(self) -> object:
        """Deliver the job once more."""
        delivery = QueueDelivery(self.ref, len(self.deliveries) + 1, self._terms)
        self.deliveries.append(delivery)
        token = arriving.set(Ticket(delivery))
        try:
            return await self._task(*self._args)
        finally:
            arriving.reset(token)

    async def cut_off(self, gate: Gate) -> None:
        """Deliver the job, and cancel it where its body stands at the gate."""
        async with anyio.create_task_group() as group:
            group.start_soon(self)
            await gate.reached()
            group.cancel_scope.cancel()


class Crash(BaseException):
    """Ends a run as the end of its process would."""


# --- the same job, with a claim ------------------------------------------------------------------


async def test_a_job_that_is_running_elsewhere_is_put_off(events: Events) -> None:
    """Its lease is live: the other delivery goes on, and this one uses no attempt."""
    gate = Gate()

    @deduplicated
    @retrying(attempts=1)
    async def task(x: int) -> int:
        await gate()
        return current_job().attempt

    job = QueuedJob(task, 1)
    async with started(job) as first:
        await gate.reached()
        with pytest.raises(Again):
            await job()
        gate.open()
    assert first.value == 1
    assert events.only(Deferred).reason == "busy"


async def test_an_interrupted_job_goes_on_at_once() -> None:
    """The redelivery takes the key back: one interruption, no failure, the next attempt."""
    gate = Gate()

    @deduplicated
    @retrying(attempts=1)
    async def task(x: int) -> tuple[int, int, int, int]:
        if not gate.entered:
            await gate()
        job = current_job()
        return job.attempt, job.interruptions, job.failures, job.crashes

    job = QueuedJob(task, 1)
    await job.cut_off(gate)
    assert await job() == (2, 1, 0, 0)


async def test_ten_interruptions_use_no_attempt() -> None:
    """As many deploys as there are."""
    gate = Gate()

    @deduplicated
    @retrying(attempts=1)
    async def task(x: int) -> int:
        if gate.entered < 10:
            await gate()
        return current_job().interruptions

    job = QueuedJob(task, 1)
    for n in range(10):
        async with anyio.create_task_group() as group:
            group.start_soon(job)
            await gate.reached(n + 1)
            group.cancel_scope.cancel()
    assert await job() == 10


async def test_a_crashed_job_is_taken_over_when_its_lease_is_over(bench: Bench) -> None:
    """Until then it is put off; then the crash is counted, and no failure."""

    @deduplicated
    @retrying(attempts=1)
    async def task(x: int) -> tuple[int, int]:
        if current_job().crashes == 0:
            raise Crash
        return current_job().crashes, current_job().failures

    job = QueuedJob(task, 1)
    async with bench.guard(lease=0.5):
        with pytest.raises(Crash):
            await job()
        with anyio.fail_after(60):
            while True:
                try:
                    assert await job() == (1, 0)
                    break
                except Again as again:
                    await anyio.sleep(min(again.delay, 0.1))
    assert bench.events.only(TakenOver).crashes == 1


async def test_a_retry_that_is_due_is_run_with_its_history() -> None:
    """The failure is remembered, the fence rises, the idempotency key stays."""
    seen: list[tuple[int, int, str]] = []
    fences: list[int] = []

    @deduplicated
    @retrying(attempts=3, backoff=constant(5))
    async def task(x: int) -> str:
        job = current_job()
        seen.append((job.attempt, job.failures, job.idempotency_key))
        fences.append(job.fence or 0)
        if len(seen) < 3:
            raise ValueError(f"no {len(seen)}")
        assert job.last_error is not None
        return job.last_error.message

    job = QueuedJob(task, 1)
    for _ in range(2):
        with pytest.raises(Again) as again:
            await job()
        assert again.value.delay == 5
    assert await job() == "no 2"
    key = seen[0][2]
    assert seen == [(1, 0, key), (2, 1, key), (3, 2, key)]
    assert fences == sorted(set(fences))


async def test_a_job_that_has_succeeded_already_returns_its_result(events: Events) -> None:
    """The queue was not told: nothing is run, and `own` says whose work it was."""
    runs = []

    @deduplicated
    async def task(x: int) -> list[int]:
        runs.append(1)
        return []

    job = QueuedJob(task, 1)
    assert [await job(), await job()] == [[], []]
    assert len(runs) == 1
    assert events.only(DuplicateReplayed).own is True


@pytest.mark.parametrize("done", ["skip", "raise", "run"])
async def test_a_job_s_own_success_is_returned_whatever_done_says(done: str) -> None:
    """`done` is about others."""
    runs = []

    @deduplicated(done=done)  # type: ignore[call-overload,untyped-decorator]
    async def task(x: int) -> int:
        runs.append(1)
        return 7

    job = QueuedJob(task, 1)
    assert [await job(), await job()] == [7, 7]
    assert len(runs) == 1


async def test_a_queue_is_told_why_a_task_gave_up() -> None:
    """Whoever waits for the job reads the reason; that runs were left would say nothing."""

    @retrying(attempts=5)
    async def task(x: int) -> None:
        raise GiveUp("the account is closed")

    with pytest.raises(RetriesExhausted, match=r"task gave up: the account is closed$"):
        await QueuedJob(task, 1)()


async def test_a_job_that_has_failed_already_is_not_run_again() -> None:
    """The queue was not told: it gets an error that says so."""
    runs = []

    @deduplicated
    async def task(x: int) -> None:
        runs.append(1)
        raise ValueError("the first time")

    job = QueuedJob(task, 1)
    with pytest.raises(ValueError, match="the first time"):
        await job()
    with pytest.raises(RetriesExhausted, match="the first time"):
        await job()
    assert len(runs) == 1


async def test_a_job_that_is_a_dead_letter_already_has_one_letter(guard: JobGuard) -> None:
    """Delivered again, it is neither run nor kept twice."""
    runs = []

    @deduplicated
    @dead_letter
    async def task(x: int) -> None:
        runs.append(1)
        raise ValueError("no")

    job = QueuedJob(task, 1)
    with pytest.raises(ValueError, match="no"):
        await job()
    with pytest.raises(RetriesExhausted):
        await job()
    assert len(runs) == 1
    assert await guard.dead_letters().count() == 1


async def test_a_letter_that_was_recorded_but_not_kept_is_kept_on_redelivery(
    bench: Bench, events: Events
) -> None:
    """The process ended between the two writes: the letter is made good from the record, and is told of."""

    @deduplicated
    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    async def crash(forward: object) -> object:
        raise Crash

    job = QueuedJob(task, 1)
    bench.store.then("put_letter", crash)
    async with bench.guard() as guard:
        with pytest.raises(Crash):
            await job()
        assert await guard.dead_letters().count() == 0
        with pytest.raises(RetriesExhausted):
            await job()
        (letter,) = (await guard.dead_letters().list()).entries
    assert letter.error_message == "no"
    assert events.only(NewFingerprint).id == letter.id


async def test_a_fallback_answers_for_a_job_that_has_failed_already() -> None:
    """The queue gets the same kind of answer as if it had been told the first time."""

    @deduplicated
    @fallback("stand-in")
    async def task(x: int) -> str:
        raise ValueError("no")

    job = QueuedJob(task, 1)
    assert [await job(), await job()] == ["stand-in", "stand-in"]


# --- another job under a queue -------------------------------------------------------------------


@pytest.mark.parametrize("running", ["wait", "defer"])
async def test_under_a_queue_waiting_holds_no_slot(running: str, events: Events) -> None:
    """`wait` is `defer`: the delivery ends, and the job comes back."""
    gate = Gate()

    @deduplicated(running=running)  # type: ignore[call-overload,untyped-decorator]
    async def task(x: int) -> int:
        await gate()
        return 7

    duplicate = QueuedJob(task, 1)
    async with started(QueuedJob(task, 1)):
        await gate.reached()
        with pytest.raises(Again):
            await duplicate()
        gate.open()
    assert await duplicate() == 7
    assert events.only(Deferred).reason == "running"


async def test_an_interrupted_job_s_key_goes_to_another_job_and_the_owner_is_the_duplicate(
    events: Events,
) -> None:
    """The newcomer takes over; the old owner, delivered again, gets its result."""
    gate = Gate()
    runs: list[str] = []

    @deduplicated
    async def task(x: int) -> str:
        if not gate.entered:
            await gate()
        runs.append(current_job().id)
        return current_job().id

    owner, newcomer = QueuedJob(task, 1), QueuedJob(task, 1)
    await owner.cut_off(gate)
    assert await newcomer() == newcomer.ref.id
    assert await owner() == newcomer.ref.id
    assert runs == [newcomer.ref.id]
    assert events.only(TakenOver).owner == owner.ref.identity


async def test_a_newcomer_has_a_history_of_its_own() -> None:
    """Failures of the old owner are not the newcomer's."""
    gate = Gate()
    failures: list[int] = []

    @deduplicated
    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> None:
        failures.append(current_job().failures)
        if len(failures) == 1:
            raise ValueError("the owner's")
        if len(failures) == 2:
            await gate()

    owner, newcomer = QueuedJob(task, 1), QueuedJob(task, 1)
    with pytest.raises(Again):
        await owner()
    await owner.cut_off(gate)
    await newcomer()
    assert failures == [0, 1, 0]


async def test_an_old_owner_delivered_while_the_newcomer_runs_is_skipped() -> None:
    """It is a duplicate like any other now."""
    first, second = Gate(), Gate()

    @deduplicated
    async def task(x: int) -> None:
        await (second if first.entered else first)()

    owner, newcomer = QueuedJob(task, 1), QueuedJob(task, 1)
    await owner.cut_off(first)
    async with started(newcomer):
        await second.reached()
        answer = await owner()
        assert isinstance(answer, Duplicate)
        assert answer.owner == newcomer.ref.identity
        second.open()


# --- jobs without a claim ------------------------------------------------------------------------


async def test_a_job_without_a_claim_keeps_its_history_over_deliveries() -> None:
    """Failures and their errors are written down where the job is delivered again."""
    seen: list[tuple[int, int]] = []

    @retrying(attempts=3, backoff=constant(5))
    async def task(x: int) -> str:
        seen.append((current_job().attempt, current_job().failures))
        raise ValueError(f"no {len(seen)}")

    job = QueuedJob(task, 1)
    for _ in range(2):
        with pytest.raises(Again):
            await job()
    with pytest.raises(ValueError, match="no 3"):
        await job()
    assert seen == [(1, 0), (2, 1), (3, 2)]


async def test_snoozes_and_requests_are_kept_over_deliveries() -> None:
    """Each as what it is."""
    seen: list[tuple[int, int]] = []
    signals = [Snooze(after=9), RetryLater(after=8)]

    @retrying(attempts=2)
    async def task(x: int) -> int:
        seen.append((current_job().attempt, current_job().failures))
        if signals:
            raise signals.pop(0)
        return 7

    job = QueuedJob(task, 1)
    for delay in (9, 8):
        with pytest.raises(Again) as again:
            await job()
        assert again.value.delay == delay
    assert await job() == 7
    assert seen == [(1, 0), (2, 0), (3, 1)]


@pytest.mark.parametrize("error", [RetryLater(after=1e30), ValueError("no")], ids=["signal", "backoff"])
async def test_a_delay_without_measure_is_a_hundred_years(error: Exception) -> None:
    """What a signal or a backoff asks for can be recorded, so that attempts are used up."""
    failures: list[int] = []

    @retrying(attempts=2, backoff=lambda n: 1e30)
    async def task(x: int) -> None:
        failures.append(current_job().failures)
        raise error

    job = QueuedJob(task, 1)
    with pytest.raises(Again) as again:
        await job()
    assert again.value.delay == LONGEST
    with pytest.raises((ValueError, RetriesExhausted)):
        await job()
    assert failures == [0, 1]


async def test_a_delivery_that_left_no_word_was_a_crash() -> None:
    """Without a claim, deliveries are counted."""

    @retrying(attempts=1)
    async def task(x: int) -> tuple[int, int]:
        if current_job().attempt == 1:
            raise Crash
        return current_job().crashes, current_job().failures

    job = QueuedJob(task, 1)
    with pytest.raises(Crash):
        await job()
    assert await job() == (1, 0)


async def test_an_interruption_without_a_claim_is_no_crash() -> None:
    """It is written down before the worker goes."""
    gate = Gate()

    @retrying(attempts=1)
    async def task(x: int) -> tuple[int, int, int]:
        if not gate.entered:
            await gate()
        job = current_job()
        return job.interruptions, job.crashes, job.failures

    job = QueuedJob(task, 1)
    await job.cut_off(gate)
    assert job.deliveries[0].settlement is not None
    assert await job() == (1, 0, 0)


async def test_a_job_that_crashes_too_often_is_dead_lettered_without_a_run(guard: JobGuard) -> None:
    """`max_crashes` bounds what takes its worker down."""
    runs = []

    @retrying(attempts=None, max_crashes=3)
    @dead_letter
    async def task(x: int) -> None:
        runs.append(1)
        raise Crash

    job = QueuedJob(task, 1)
    for _ in range(3):
        with pytest.raises(Crash):
            await job()
    with pytest.raises(CrashLimitExceeded):
        await job()
    assert len(runs) == 3
    (letter,) = (await guard.dead_letters().list()).entries
    assert (letter.reason, letter.crashes, letter.adapter, letter.queue) == ("crashes", 3, "fake", "queue")


async def test_the_deadline_survives_deferral() -> None:
    """It counts from the first start, over all deliveries."""

    @retrying(attempts=None, deadline=0.3, backoff=constant(0))
    async def task(x: int) -> None:
        raise ValueError("no")

    job = QueuedJob(task, 1)
    with pytest.raises(Again):
        await job()
    await anyio.sleep(0.4)
    with pytest.raises((ValueError, TimeoutError)):
        await job()


async def test_an_ended_job_without_a_claim_is_not_run_again(guard: JobGuard) -> None:
    """Terminal markers outlive the queue's entry."""
    runs = []

    @dead_letter
    async def task(x: int) -> None:
        runs.append(1)
        raise ValueError("no")

    job = QueuedJob(task, 1)
    with pytest.raises(ValueError, match="no"):
        await job()
    with pytest.raises(RetriesExhausted):
        await job()
    assert len(runs) == 1
    assert await guard.dead_letters().count() == 1


class Old(Enum):
    ONE = 1


async def test_a_success_that_cannot_be_read_any_more_is_still_a_success(guard: JobGuard) -> None:
    """A retried job had succeeded, the queue was not told, and a deploy changed the return type."""
    runs = []

    async def body(x: int) -> Old:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("once")
        return Old.ONE

    async def changed(x: int) -> int:
        runs.append(1)
        return 7

    job = QueuedJob(retrying(attempts=3, backoff=constant(0))(body), 1)
    with pytest.raises(Again):
        await job()
    assert await job() is Old.ONE
    job._task = retrying(attempts=3)(changed)
    await job()  # does not fail
    assert len(runs) == 2


# --- outages -------------------------------------------------------------------------------------


async def test_an_outage_before_the_run_uses_no_attempt(bench: Bench) -> None:
    """An infrastructure failure: the job is given back as it was."""

    @deduplicated
    @retrying(attempts=1)
    async def task(x: int) -> tuple[int, int]:
        return current_job().attempt, current_job().failures

    job = QueuedJob(task, 1)
    bench.store.then("claim", down, down)
    for _ in range(2):
        with pytest.raises(GivenBack):
            await job()
    assert await job() == (1, 0)


@pytest.mark.parametrize("operation", ["settle", "put_letter"])
async def test_a_bad_end_that_cannot_be_written_is_not_told_to_the_queue(
    bench: Bench, operation: str
) -> None:
    """The job is tried again rather than lost."""

    @deduplicated
    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    bench.store.always(operation, down)
    async with bench.guard(lease=0.4):
        with pytest.raises(GivenBack):
            await QueuedJob(task, 1)()
    assert bench.events.of(DeadLettered) == []
    assert len(bench.events.of(OutcomeLost)) == 1


async def test_a_success_that_cannot_be_written_is_told_to_the_queue(bench: Bench) -> None:
    """The work is done: the queue's own record has to do."""

    @deduplicated
    async def task(x: int) -> int:
        return 7

    bench.store.always("settle", down)
    async with bench.guard(lease=0.4):
        assert await QueuedJob(task, 1)() == 7
    assert len(bench.events.of(OutcomeLost)) == 1


async def test_a_run_that_lost_its_lease_is_given_back(bench: Bench) -> None:
    """It is neither failed nor finished: whoever holds the lease now decides."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    bench.store.always("renew", down)
    async with bench.guard(lease=0.4):
        with pytest.raises(GivenBack) as caught:
            await QueuedJob(task, 1)()
    assert isinstance(caught.value.__cause__, LeaseLost)
    assert bench.store.settlements == []


async def test_a_delivery_cancelled_before_its_run_is_not_counted(bench: Bench) -> None:
    """No run has begun: the queue's count of deliveries must not take it for a crash."""
    entered = anyio.Event()

    async def hangs(forward: object) -> object:
        entered.set()
        await anyio.sleep(3600)
        raise AssertionError

    @retrying(attempts=1)
    async def task(x: int) -> int:
        return current_job().crashes

    job = QueuedJob(task, 1)
    job.deliveries.append(QueueDelivery(job.ref, 1, job._terms))  # one that crashed
    bench.store.then("look_up", hangs)
    async with anyio.create_task_group() as group:
        group.start_soon(job)
        await entered.wait()
        group.cancel_scope.cancel()
    assert job.deliveries[-1].uncounted == 1
    assert bench.events.of(Interrupted) == []
    assert bench.store.recorded(State.INTERRUPTED) == []


async def test_a_delivery_is_consumed_by_the_first_guard_that_starts(events: Events) -> None:
    """A guarded call inside of the body is an in-process job of its own."""

    @retrying(attempts=1)
    async def inner(x: int) -> str:
        return current_job().queue

    @deduplicated
    async def outer(x: int) -> tuple[str, str]:
        return current_job().queue, await inner(x)

    assert await QueuedJob(outer, 1)() == ("queue", "local")
    await until(lambda: events.of(Succeeded))
