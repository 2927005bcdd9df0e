"""`@retrying`, `@time_limit` and the signals, as a caller in-process sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from jobguard import (
    Discard,
    GiveUp,
    JobGuard,
    JobStatus,
    RetryLater,
    Snooze,
    constant,
    current_job,
    dead_letter,
    deduplicated,
    exponential,
    retrying,
    time_limit,
)
from jobguard.errors import CrashLimitExceeded, RetriesExhausted
from jobguard.events import DeadLettered, Failed, RetryScheduled, SettingIgnored, Snoozed
from jobguard.stores.base import State
from tests.engine.harness import Bench, Events, Gate, started

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]

AT_ONCE = constant(0)


class Flaky:
    """A body that raises some errors, one a run, and then returns its number of runs."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.runs = 0

    def __call__(self) -> int:
        self.runs += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.runs


def always(make: Callable[[], Exception]) -> Callable[[], int]:
    def raises() -> int:
        raise make()

    return raises


# --- attempts ------------------------------------------------------------------------------------


async def test_an_error_that_passes_is_not_seen_by_the_caller() -> None:
    """The result of the run that worked is returned."""
    body = Flaky(ValueError("1"), ValueError("2"))

    @retrying(backoff=AT_ONCE)
    async def task(x: int) -> int:
        return body()

    assert await task(1) == 3


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_attempts_is_the_number_of_runs(attempts: int) -> None:
    """All runs, the first included."""
    body = Flaky(*[ValueError(str(n)) for n in range(20)])

    @retrying(attempts=attempts, backoff=AT_ONCE)
    async def task(x: int) -> int:
        return body()

    with pytest.raises(ValueError, match=str(attempts - 1)):
        await task(1)
    assert body.runs == attempts


async def test_three_attempts_are_the_default() -> None:
    """Without a word on `attempts`."""
    body = Flaky(*[ValueError(str(n)) for n in range(20)])

    @retrying(backoff=AT_ONCE)
    async def task(x: int) -> int:
        return body()

    with pytest.raises(ValueError, match="2"):
        await task(1)
    assert body.runs == 3


async def test_no_limit_on_attempts() -> None:
    """`attempts=None` goes on until it works."""
    body = Flaky(*[ValueError("again")] * 30)

    @retrying(attempts=None, backoff=AT_ONCE)
    async def task(x: int) -> int:
        return body()

    assert await task(1) == 31


async def test_each_call_has_attempts_of_its_own() -> None:
    """Every call is a job."""
    seen: list[int] = []

    @retrying(attempts=2, backoff=AT_ONCE)
    async def task(x: int) -> None:
        seen.append(current_job().attempt)
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await task(1)
    assert seen == [1, 2, 1, 2]


async def test_the_last_exception_is_raised_as_it_was() -> None:
    """The very object, not a wrapper around it."""
    last = ValueError("last")
    body = Flaky(ValueError("first"), last)

    @retrying(attempts=2, backoff=AT_ONCE)
    async def task(x: int) -> int:
        return body()

    with pytest.raises(ValueError, match="last") as caught:
        await task(1)
    assert caught.value is last
    assert caught.value.__cause__ is None


async def test_the_last_exception_has_a_note_of_the_attempt_and_the_time() -> None:
    """For whoever reads the traceback."""

    @retrying(attempts=2, backoff=AT_ONCE)
    async def task(x: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        await task(1)
    (note,) = caught.value.__notes__
    assert "attempt 2" in note
    assert " s " in note


async def test_an_exception_raised_again_each_time_gets_one_note_per_job() -> None:
    """Errors kept and raised twice do not pile up what earlier attempts said."""
    error = ValueError("the same")

    @retrying(attempts=3, backoff=AT_ONCE)
    async def task(x: int) -> None:
        raise error

    with pytest.raises(ValueError, match="the same"):
        await task(1)
    assert len(error.__notes__) == 1


@dataclass(frozen=True)
class Sealed(Exception):
    """An error that cannot be changed, not even by a note."""

    code: int


async def test_an_exception_that_takes_no_note_is_raised_without_one() -> None:
    """The note is a courtesy: it never stands in for the error."""

    @retrying(attempts=2, backoff=AT_ONCE)
    async def task(x: int) -> None:
        raise Sealed(5)

    with pytest.raises(Sealed):
        await task(1)


async def test_a_retry_is_an_event(events: Events) -> None:
    """Which attempt failed, how, and when the next one is due."""

    @retrying(attempts=2, backoff=constant(0.001))
    async def task(x: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await task(1)
    scheduled = events.only(RetryScheduled)
    assert (scheduled.attempt, scheduled.failures, scheduled.delay) == (1, 1, 0.001)
    assert scheduled.error == "ValueError: no"


async def test_the_end_of_the_runs_is_an_event(events: Events) -> None:
    """Without `@dead_letter` the job is FAILED, and the event says why."""

    @retrying(attempts=1, backoff=AT_ONCE)
    async def task(x: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await task(1)
    failed = events.only(Failed)
    assert (failed.reason, failed.error) == ("exhausted", "ValueError: no")


# --- delays --------------------------------------------------------------------------------------


async def test_the_delays_are_the_schedule_s(events: Events) -> None:
    """`schedule(n)` after failure n."""

    @retrying(attempts=4, backoff=exponential(0.001, jitter=None))
    async def task(x: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await task(1)
    assert [event.delay for event in events.of(RetryScheduled)] == [0.001, 0.002, 0.004]


@pytest.mark.parametrize(
    "backoff",
    [0.002, timedelta(milliseconds=2), lambda n: 0.002],
    ids=["seconds", "timedelta", "function"],
)
async def test_a_backoff_may_be_a_duration_or_a_function(events: Events, backoff: object) -> None:
    """Seconds, a timedelta, or a function of the failure's number."""

    @retrying(attempts=2, backoff=backoff)  # type: ignore[call-overload,untyped-decorator]
    async def task(x: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await task(1)
    assert events.only(RetryScheduled).delay == 0.002


async def test_retry_after_is_a_floor(events: Events) -> None:
    """What the error asks for is waited for at least; what it does not ask for is the schedule's."""
    body = Flaky(ValueError("0.004"), ValueError("0.001"), KeyError("no wish"))

    def wish(error: Exception) -> float | None:
        return float(str(error)) if isinstance(error, ValueError) else None

    @retrying(attempts=4, backoff=constant(0.002), retry_after=wish)
    async def task(x: int) -> int:
        return body()

    assert await task(1) == 4
    assert [event.delay for event in events.of(RetryScheduled)] == [0.004, 0.002, 0.002]


async def test_retry_after_is_bounded(events: Events) -> None:
    """A server that asks for a year gets `max_retry_after`."""
    body = Flaky(ValueError("no"))

    @retrying(backoff=AT_ONCE, retry_after=lambda error: timedelta(days=365), max_retry_after=0.003)
    async def task(x: int) -> int:
        return body()

    await task(1)
    assert events.only(RetryScheduled).delay == 0.003


async def test_a_retry_after_whose_answer_is_of_no_use_is_an_event_each_time(events: Events) -> None:
    """It names the function, what it answered and what is expected; the delay is the schedule's."""
    body = Flaky(ValueError("1"), ValueError("2"))

    def from_header(error: Exception) -> Any:
        return str(error)

    @retrying(attempts=3, backoff=AT_ONCE, retry_after=from_header)
    async def task(x: int) -> int:
        return body()

    assert await task(1) == 3
    assert [event.delay for event in events.of(RetryScheduled)] == [0, 0]
    told = [(event.setting, event.function, event.problem) for event in events.of(SettingIgnored)]
    expected = "it answered str where a finite number of seconds, a timedelta or None is expected"
    assert told == [("retry_after", from_header.__qualname__, expected)] * 2


# --- which errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "on",
    [ValueError, (KeyError, ValueError), lambda e: isinstance(e, ValueError)],
    ids=["type", "types", "predicate"],
)
async def test_only_what_on_names_is_retried(on: object) -> None:
    """A type, several, or a predicate."""
    body = Flaky(ValueError("yes"), TypeError("no"))

    @retrying(on=on, attempts=5, backoff=AT_ONCE)  # type: ignore[call-overload,untyped-decorator]
    async def task(x: int) -> int:
        return body()

    with pytest.raises(TypeError, match="no"):
        await task(1)
    assert body.runs == 2


async def test_never_ends_the_job_at_once(events: Events) -> None:
    """Whatever `on` says, subclasses included."""
    body = Flaky(UnicodeError("no"))

    @retrying(never=ValueError, attempts=5, backoff=AT_ONCE)
    async def task(x: int) -> int:
        return body()

    with pytest.raises(UnicodeError):
        await task(1)
    assert body.runs == 1
    assert events.only(Failed).reason == "not_retryable"


async def test_an_error_may_have_settings_of_its_own(events: Events) -> None:
    """`per`: the closest class decides on attempts and delay."""
    body = Flaky(KeyError("1"), ValueError("2"), KeyError("3"), KeyError("4"))

    @retrying(attempts=9, backoff=AT_ONCE, per={LookupError: retrying(attempts=4, backoff=0.001)})
    async def task(x: int) -> int:
        return body()

    with pytest.raises(KeyError, match="4"):
        await task(1)
    assert [event.delay for event in events.of(RetryScheduled)] == [0.001, 0.0, 0.001]


async def test_an_exception_that_is_no_exception_is_not_handled() -> None:
    """`KeyboardInterrupt` and the like pass through untouched, at once."""

    class Ends(BaseException):
        pass

    body = Flaky(Ends())

    @deduplicated
    @retrying(attempts=5, backoff=AT_ONCE)
    @dead_letter
    async def task(x: int) -> int:
        return body()

    with pytest.raises(Ends):
        await task(1)
    assert body.runs == 1


async def test_an_exception_group_is_judged_by_what_it_holds() -> None:
    """A task group's errors are looked into."""
    body = Flaky(ExceptionGroup("group", [ValueError("1"), ExceptionGroup("inner", [ValueError("2")])]))

    @retrying(on=ValueError, backoff=AT_ONCE)
    async def task(x: int) -> int:
        return body()

    assert await task(1) == 2


async def test_an_exception_group_with_an_error_that_is_not_retryable_is_not_retried() -> None:
    """The most final of the errors decides, and the group goes on as it was."""
    group = ExceptionGroup("group", [ValueError("1"), KeyError("2")])

    @retrying(on=ValueError, backoff=AT_ONCE)
    async def task(x: int) -> None:
        raise group

    with pytest.raises(ExceptionGroup) as caught:
        await task(1)
    assert caught.value is group


async def test_an_error_out_of_a_real_task_group_is_retried() -> None:
    """As the body's own."""
    body = Flaky(ValueError("once"))

    async def child() -> None:
        body()

    @retrying(on=ValueError, backoff=AT_ONCE)
    async def task(x: int) -> int:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
        return body.runs

    assert await task(1) == 2


async def test_a_signal_out_of_a_task_group_is_followed() -> None:
    """`Discard` in a child discards the job."""
    runs = []

    async def child() -> None:
        raise Discard("not wanted")

    @retrying(backoff=AT_ONCE)
    async def task(x: int) -> None:
        runs.append(1)
        async with anyio.create_task_group() as group:
            group.start_soon(child)

    with pytest.raises((Discard, ExceptionGroup)):
        await task(1)
    assert len(runs) == 1


# --- time ----------------------------------------------------------------------------------------


async def test_a_time_limit_is_an_ordinary_timeout_error() -> None:
    """It names the task and the limit."""
    gate = Gate()

    @time_limit(0.05)
    async def task(x: int) -> None:
        await gate()

    with pytest.raises(TimeoutError, match=r"0\.05"):
        await task(1)


async def test_a_time_limit_is_retried() -> None:
    """Each attempt has the whole limit."""
    runs = []

    @time_limit(timedelta(milliseconds=50))
    @retrying(attempts=3, backoff=AT_ONCE)
    async def task(x: int) -> int:
        runs.append(1)
        if len(runs) < 3:
            await anyio.sleep(3600)
        return len(runs)

    assert await task(1) == 3


async def test_a_time_limit_lets_the_body_clean_up() -> None:
    """The body's `finally` is run before the error goes on."""
    cleaned = []

    @time_limit(0.05)
    async def task(x: int) -> None:
        try:
            await anyio.sleep(3600)
        finally:
            cleaned.append(True)

    with pytest.raises(TimeoutError):
        await task(1)
    assert cleaned == [True]


async def test_a_body_within_its_time_limit_is_left_alone() -> None:
    """Its result is returned."""

    @time_limit(60)
    async def task(x: int) -> int:
        await anyio.lowlevel.checkpoint()
        return 7

    assert await task(1) == 7


async def test_the_deadline_ends_the_running_attempt(events: Events) -> None:
    """A run that goes past it is cancelled with a TimeoutError, and there is no other."""
    runs = []

    @retrying(attempts=None, deadline=0.1, backoff=AT_ONCE)
    async def task(x: int) -> None:
        runs.append(1)
        await anyio.sleep(3600)

    with pytest.raises(TimeoutError):
        await task(1)
    assert len(runs) == 1
    assert events.only(Failed).reason == "deadline"


async def test_the_deadline_ends_retries_that_would_come_too_late(events: Events) -> None:
    """No sleep past the deadline: the job ends at once, with its own error."""

    @retrying(attempts=None, deadline=60, backoff=constant(3600))
    async def task(x: int) -> None:
        raise ValueError("no")

    with anyio.fail_after(30), pytest.raises(ValueError, match="no"):
        await task(1)
    assert events.only(Failed).reason == "deadline"


async def test_the_deadline_counts_from_the_first_start() -> None:
    """Over all attempts, not each."""
    attempts: list[int] = []

    @retrying(attempts=None, deadline=0.3, backoff=constant(0.02))
    async def task(x: int) -> None:
        attempts.append(current_job().attempt)
        await anyio.sleep(0.02)
        raise ValueError("no")

    with anyio.fail_after(30), pytest.raises((ValueError, TimeoutError)):
        await task(1)
    assert attempts == list(range(1, len(attempts) + 1))


# --- signals -------------------------------------------------------------------------------------


async def test_retry_later_asks_for_another_run(events: Events) -> None:
    """After as long as it says; it counts as a failure."""
    body = Flaky(RetryLater("busy", after=0.001))

    @retrying(attempts=2)
    async def task(x: int) -> int:
        return body()

    assert await task(1) == 2
    scheduled = events.only(RetryScheduled)
    assert (scheduled.failures, scheduled.delay) == (1, 0.001)


async def test_retry_later_leaves_the_delay_to_the_schedule(events: Events) -> None:
    """Without `after`."""
    body = Flaky(RetryLater())

    @retrying(attempts=2, backoff=0.002)
    async def task(x: int) -> int:
        return body()

    await task(1)
    assert events.only(RetryScheduled).delay == 0.002


async def test_retry_later_with_no_run_left_is_exhausted() -> None:
    """A request for another run cannot be let through as such: it is the cause."""

    @retrying(attempts=2)
    async def task(x: int) -> None:
        raise RetryLater("busy", after=0)

    with pytest.raises(RetriesExhausted) as caught:
        await task(1)
    assert isinstance(caught.value.__cause__, RetryLater)


async def test_a_snooze_is_no_failure(events: Events) -> None:
    """It uses up no attempt."""
    seen: list[tuple[int, int]] = []

    @retrying(attempts=1)
    async def task(x: int) -> int:
        seen.append((current_job().attempt, current_job().failures))
        if len(seen) < 4:
            raise Snooze("not yet", after=0.001)
        return 7

    assert await task(1) == 7
    assert seen == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert [(event.delay, event.reason) for event in events.of(Snoozed)] == [(0.001, "not yet")] * 3
    assert events.of(RetryScheduled) == []


async def test_a_snooze_needs_no_retrying() -> None:
    """A signal is followed under any of the decorators."""
    body = Flaky(Snooze(after=0), Snooze(after=0))

    @deduplicated
    async def task(x: int) -> int:
        return body()

    assert await task(1) == 3


async def test_a_snoozing_job_keeps_its_key(bench: Bench) -> None:
    """A duplicate meets a pending run."""
    body = Flaky(Snooze(after=0))

    @deduplicated
    async def task(x: int) -> int:
        return body()

    await task(1)
    assert [each.state for each in bench.store.settlements] == [State.RETRY, State.SUCCESS]


async def test_snoozes_are_bounded_by_max_snoozes(events: Events, guard: JobGuard) -> None:
    """One more ends the job."""
    body = Flaky(*[Snooze(after=0) for _ in range(9)])

    @retrying(attempts=1, max_snoozes=2)
    @dead_letter
    async def task(x: int) -> int:
        return body()

    with pytest.raises(RetriesExhausted) as caught:
        await task(1)
    assert isinstance(caught.value.__cause__, Snooze)
    assert body.runs == 3
    assert events.only(DeadLettered).reason == "snoozes"


async def test_give_up_ends_the_job_at_once(events: Events) -> None:
    """Whatever runs are left; FAILED without `@dead_letter`."""
    body = Flaky(GiveUp("wrong number"))

    @retrying(attempts=None, backoff=AT_ONCE)
    async def task(x: int) -> int:
        return body()

    with pytest.raises(RetriesExhausted) as caught:
        await task(1)
    assert isinstance(caught.value.__cause__, GiveUp)
    assert body.runs == 1
    assert events.only(Failed).reason == "gave_up"


async def test_give_up_dead_letters_the_job(guard: JobGuard) -> None:
    """With `@dead_letter`, its reason is the letter's message."""

    @retrying(attempts=None, backoff=AT_ONCE)
    @dead_letter
    async def task(x: int) -> None:
        raise GiveUp("wrong number")

    with pytest.raises(RetriesExhausted):
        await task(1)
    (letter,) = (await guard.dead_letters().list()).entries
    assert (letter.reason, letter.error_message) == ("gave_up", "wrong number")


async def test_the_cause_of_giving_up_is_what_is_recorded(guard: JobGuard, events: Events) -> None:
    """`raise GiveUp from error` is about `error`."""

    @dead_letter
    async def task(x: int) -> None:
        try:
            raise KeyError("the real one")
        except KeyError as error:
            raise GiveUp("no use") from error

    with pytest.raises(RetriesExhausted):
        await task(1)
    (letter,) = (await guard.dead_letters().list()).entries
    assert (letter.error_type, letter.error_message) == ("KeyError", "'the real one'")
    assert "KeyError" in events.only(DeadLettered).error


async def test_discard_ends_the_job_as_failed(events: Events, guard: JobGuard) -> None:
    """No more runs and no dead letter; the caller sees it as it is."""
    body = Flaky(Discard("too late"))

    @retrying(attempts=None, backoff=AT_ONCE)
    @dead_letter
    async def task(x: int) -> int:
        return body()

    with pytest.raises(Discard, match="too late"):
        await task(1)
    assert body.runs == 1
    assert events.only(Failed).reason == "discarded"
    assert await guard.dead_letters().count() == 0


async def test_a_discarded_job_s_record_says_failed(bench: Bench) -> None:
    """For whoever asks the store."""

    @deduplicated
    async def task(x: int) -> None:
        raise Discard("too late")

    with pytest.raises(Discard):
        await task(1)
    assert [each.state.status for each in bench.store.settlements] == [JobStatus.FAILED]


# --- crashes -------------------------------------------------------------------------------------


async def test_work_that_crashes_too_often_is_ended(bench: Bench) -> None:
    """`max_crashes` runs of a key that ended without an outcome end the next job without a run."""
    runs = []

    class Crash(BaseException):
        """Ends the run as the end of its process would: nothing is recorded."""

    @deduplicated(running="wait")
    @retrying(max_crashes=2, backoff=AT_ONCE)
    @dead_letter
    async def task(x: int) -> None:
        runs.append(1)
        raise Crash

    async with bench.guard(lease=0.2) as guard:
        for _ in range(2):
            with pytest.raises(Crash):
                await task(1)
        with pytest.raises(CrashLimitExceeded, match="max_crashes=2"):
            await task(1)
        (letter,) = (await guard.dead_letters().list()).entries
    assert len(runs) == 2
    assert (letter.reason, letter.crashes) == ("crashes", 2)


async def test_a_base_exception_is_a_crash_that_holds_its_key_until_the_lease_ends(bench: Bench) -> None:
    """It is no interruption: the next job takes over and counts it."""

    class Crash(BaseException):
        pass

    seen: list[int] = []

    @deduplicated(running="wait")
    async def task(x: int) -> int:
        seen.append(current_job().crashes)
        if len(seen) == 1:
            raise Crash
        return 7

    async with bench.guard(lease=0.2):
        with pytest.raises(Crash):
            await task(1)
        assert await task(1) == 7
    assert seen == [0, 1]


async def test_a_retry_sleeps_without_holding_others_up() -> None:
    """In-process the call sleeps; other keys run meanwhile."""
    body = Flaky(ValueError("once"))

    @deduplicated
    @retrying(backoff=0.3)
    async def task(x: int) -> int:
        return body() if x == 1 else x

    async with started(lambda: task(1)) as first:
        await anyio.sleep(0.05)
        assert await task(5) == 5
        assert not first.ended
    assert first.value == 2
