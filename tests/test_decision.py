"""Every retry rule: what becomes of a job whose run raised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from math import inf, nan
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobguard.backoff import Schedule, constant, exponential, fibonacci, linear
from jobguard.decision import Action, Decision, attempts_of, crash_limit, decide
from jobguard.errors import Discard, GiveUp, RetryLater, Signal, Snooze, Undeliverable
from jobguard.job import NO_HISTORY, History
from jobguard.policies import LONGEST, DeadLettering, Fallback, Policies, Retrying


class Broad(Exception):
    """Root of a small family, to tell near from far in it."""


class Middle(Broad):
    """Between the two."""


class Narrow(Middle):
    """The most specific."""


class Other(Exception):
    """No relation."""


class Truthless:
    """An answer that will not say whether it is true."""

    def __bool__(self) -> bool:
        raise RuntimeError("neither")


def raises(error: Exception) -> Any:
    raise RuntimeError("broken on purpose")


FAMILY: tuple[type[Exception], ...] = (Broad, Middle, Narrow, Other)

kinds = st.sampled_from(FAMILY)
nonsense = st.sampled_from([nan, inf, -inf, -1.0, -1e308, 10**400, "30", b"", None, True, object(), 2 + 1j])
times = st.floats(0, 1e6)
draws = st.floats(0, 1, exclude_max=True)


def answering(value: object) -> Callable[[object], Any]:
    """A callable of one argument with a fixed answer."""
    return lambda _: value


def signals() -> st.SearchStrategy[Signal]:
    return (
        st.builds(RetryLater, after=st.none() | times)
        | st.builds(Snooze, after=times)
        | st.builds(GiveUp)
        | st.builds(Discard)
    )


def groups(leaves: st.SearchStrategy[Exception]) -> st.SearchStrategy[Exception]:
    """Errors, alone or in groups in groups."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, min_size=1, max_size=4).map(
            lambda held: ExceptionGroup("several", held)
        ),
        max_leaves=6,
    )


plain: st.SearchStrategy[Exception] = kinds.map(lambda kind: kind("failed"))
errors = groups(plain | signals())

schedules: st.SearchStrategy[Schedule] = st.sampled_from(
    [
        exponential(30, cap=600),
        exponential(2, cap=50, jitter=None),
        linear(5, cap=100, jitter="equal"),
        fibonacci(3, cap=40),
        constant(12),
    ]
)


def retryings(**settings: st.SearchStrategy[Any]) -> st.SearchStrategy[Retrying]:
    """Policies of all kinds, broken callables included."""
    given_settings: dict[str, st.SearchStrategy[Any]] = {
        "on": st.sampled_from([Exception, Broad, (Middle, Other), (), raises])
        | st.sampled_from([True, False, None, Truthless()]).map(answering),
        "never": st.lists(kinds, max_size=2).map(tuple),
        "attempts": st.none() | st.integers(1, 6),
        "attempts_given": st.booleans(),
        "backoff": schedules | st.just(raises) | (nonsense | times | st.timedeltas()).map(answering),
        "retry_after": st.none() | st.just(raises) | (nonsense | times | st.timedeltas()).map(answering),
        "max_retry_after": times,
        "deadline": st.none() | st.floats(1, 1e6),
        "max_snoozes": st.none() | st.integers(0, 5),
        "max_crashes": st.integers(1, 9),
    }
    return st.builds(Retrying, **(given_settings | settings))


nested = retryings()
policies = st.builds(
    Policies,
    retrying=st.none()
    | retryings(per=st.dictionaries(kinds, nested, max_size=3).map(lambda per: tuple(per.items()))),
    dead_lettering=st.none() | st.just(DeadLettering()),
    fallback=st.none() | st.just(Fallback(None)),
)
histories = st.builds(
    History,
    failures=st.integers(0, 8),
    interruptions=st.integers(0, 3),
    snoozes=st.integers(0, 8),
    crashes=st.integers(0, 3),
)
limits = st.none() | st.integers(1, 8)


def leaves(error: Exception) -> list[Exception]:
    """The errors inside of groups, told apart from the code under test."""
    if isinstance(error, ExceptionGroup):
        return [leaf for held in error.exceptions for leaf in leaves(held)]
    return [error]


def rule(
    error: Exception,
    retrying: Retrying | None = None,
    *,
    failures: int = 0,
    snoozes: int = 0,
    attempts: int | None = 3,
    elapsed: float = 0.0,
    draw: float = 0.5,
    signal: Signal | None = None,
    expires: float | None = None,
    kept: bool = False,
) -> Decision:
    """Decide, with the settings that a test is not about at their simplest."""
    plan = Policies(retrying=retrying, dead_lettering=DeadLettering() if kept else None)
    history = History(failures=failures, snoozes=snoozes)
    return decide(
        plan,
        history,
        error,
        attempts=attempts,
        elapsed=elapsed,
        draw=lambda: draw,
        signal=signal,
        expires=expires,
    )


STEADY = Retrying(backoff=constant(10))


# --- for all settings, histories and errors ------------------------------------------------------


@given(policies, histories, errors, limits, times, draws, st.none() | signals(), st.none() | times)
def test_every_failed_run_gets_a_sound_decision(
    plan: Policies,
    history: History,
    error: Exception,
    attempts: int | None,
    elapsed: float,
    draw: float,
    signal: Signal | None,
    expires: float | None,
) -> None:
    """No settings, history or error make deciding raise, and every delay is a time that can be recorded."""
    made = decide(
        plan,
        history,
        error,
        attempts=attempts,
        elapsed=elapsed,
        draw=lambda: draw,
        signal=signal,
        expires=expires,
    )
    assert 0 <= made.delay <= LONGEST
    if made.action is Action.FAIL:
        assert made.delay == 0
        assert made.fall_back is (made.reason != "discarded")
        assert made.dead_letter is (plan.dead_lettering is not None and made.reason != "discarded")
    else:
        assert not made.dead_letter
        assert not made.fall_back
        assert made.counted is (made.action is Action.RETRY)


@given(policies, histories, errors, st.integers(1, 8), times)
def test_a_failure_is_never_retried_past_the_attempts(
    plan: Policies, history: History, error: Exception, attempts: int, elapsed: float
) -> None:
    """A retry leaves the total of failures below the limit, unless an entry of `per` has its own."""
    own = [] if plan.retrying is None else [each for _, each in plan.retrying.per if each.attempts_given]
    most = max([attempts, *(inf if each.attempts is None else each.attempts for each in own)])
    made = decide(plan, history, error, attempts=attempts, elapsed=elapsed)
    assert made.action is not Action.RETRY or history.failures + 1 < most


@given(policies, histories, errors, times)
def test_without_a_limit_no_failure_is_the_last(
    plan: Policies, history: History, error: Exception, elapsed: float
) -> None:
    """With no limit on attempts, nobody is told that they are spent."""
    if plan.retrying is not None:
        per = tuple((kind, replace(each, attempts_given=False)) for kind, each in plan.retrying.per)
        plan = replace(plan, retrying=replace(plan.retrying, per=per))
    assert decide(plan, history, error, attempts=None, elapsed=elapsed).reason != "exhausted"


@given(policies, histories, errors, limits, times, st.none() | times)
def test_no_run_is_planned_past_the_deadline_or_the_expiry(
    plan: Policies,
    history: History,
    error: Exception,
    attempts: int | None,
    elapsed: float,
    expires: float | None,
) -> None:
    """The next run is due before the task's deadline and before the queue lets go of the job."""
    made = decide(plan, history, error, attempts=attempts, elapsed=elapsed, expires=expires)
    if made.action is not Action.FAIL:
        deadline = None if plan.retrying is None else plan.retrying.deadline
        assert deadline is None or elapsed + made.delay < deadline
        assert expires is None or made.delay < expires


@given(policies, histories, errors, kinds, kinds, limits)
def test_an_error_named_in_never_is_never_retried(
    plan: Policies,
    history: History,
    error: Exception,
    named: type[Exception],
    kind: type[Exception],
    attempts: int | None,
) -> None:
    """One `never` error is enough, whatever was raised beside it and whatever `per` says."""
    retrying = Retrying() if plan.retrying is None else plan.retrying
    plan = replace(plan, retrying=replace(retrying, never=(named,)))
    made = decide(plan, history, ExceptionGroup("two", [error, kind()]), attempts=attempts, elapsed=0)
    assert made.action is Action.FAIL or not issubclass(kind, named)


@given(policies, histories, errors, limits, times)
def test_discard_wins_over_everything(
    plan: Policies, history: History, error: Exception, attempts: int | None, elapsed: float
) -> None:
    """One `Discard` ends the job with nothing kept, whatever was raised beside it."""
    group = ExceptionGroup("several", [error, Discard()])
    made = decide(plan, history, group, attempts=attempts, elapsed=elapsed)
    assert replace(made, ignored=()) == Decision(Action.FAIL, "discarded", counted=False)


@given(policies, histories, errors, limits, times)
def test_giving_up_wins_over_all_but_discard(
    plan: Policies, history: History, error: Exception, attempts: int | None, elapsed: float
) -> None:
    """One `GiveUp` ends the job, whatever was raised beside it, unless that was a `Discard`."""
    group = ExceptionGroup("two", [GiveUp(), error])
    made = decide(plan, history, group, attempts=attempts, elapsed=elapsed)
    won = "discarded" if any(isinstance(leaf, Discard) for leaf in leaves(error)) else "gave_up"
    assert (made.action, made.reason, made.counted) == (Action.FAIL, won, won == "gave_up")


@given(policies, histories, groups(st.builds(Snooze, after=times)), limits, times)
def test_a_snooze_is_never_a_failure(
    plan: Policies, history: History, error: Exception, attempts: int | None, elapsed: float
) -> None:
    """A snooze is not counted, even when it is refused, and no limit on failures touches it."""
    made = decide(plan, history, error, attempts=attempts, elapsed=elapsed)
    assert not made.counted
    assert made.action is Action.SNOOZE or made.reason in ("snoozes", "deadline")


@given(schedules, st.integers(1, 30), draws, times, times)
def test_delays_lie_between_the_floor_and_the_larger_of_floor_and_cap(
    backoff: Schedule, failure: int, draw: float, wish: float, most: float
) -> None:
    """A delay is at least what the error asks for (so far as allowed), and else what the schedule draws."""
    retrying = Retrying(backoff=backoff, retry_after=lambda error: wish, max_retry_after=most)
    made = rule(Other(), retrying, failures=failure - 1, attempts=None, draw=draw)
    floor = min(wish, most)
    assert made.action is Action.RETRY
    assert floor <= made.delay <= max(floor, backoff.cap)
    assert made.delay == max(floor, backoff.delay(failure, lambda: draw))


@given(st.sets(kinds), kinds)
@example({Broad, Middle}, Narrow)
def test_the_most_specific_policy_per_error_applies(
    named: set[type[Exception]], kind: type[Exception]
) -> None:
    """Of the classes in `per`, the closest to the error's own decides; with none, the main policy does."""
    per = tuple((each, Retrying(backoff=constant(100 + FAMILY.index(each)))) for each in named)
    made = rule(kind(), replace(STEADY, per=per))
    closest = next((each for each in kind.__mro__ if each in named), None)
    assert made.delay == (10 if closest is None else 100 + FAMILY.index(closest))


@given(st.lists(plain | signals(), min_size=1, max_size=5), st.data())
def test_the_shape_and_order_of_a_group_do_not_matter(held: list[Exception], data: st.DataObject) -> None:
    """A group is judged by what it holds: flat, nested or shuffled gives one decision."""
    retrying = replace(STEADY, never=(Narrow,))
    shuffled = data.draw(st.permutations(held))
    deep: Exception = ExceptionGroup("several", shuffled)
    for _ in range(3):
        deep = ExceptionGroup("outer", [deep])
    assert rule(deep, retrying) == rule(ExceptionGroup("several", held), retrying)


# --- ordinary errors -----------------------------------------------------------------------------


def test_an_error_is_retried_after_the_delay_of_its_number() -> None:
    """The schedule is asked for the failure that just happened, counted from 1."""
    retrying = Retrying(backoff=exponential(30, cap=600, jitter=None))
    delays = [rule(Other(), retrying, failures=n, attempts=None).delay for n in range(6)]
    assert delays == [30, 60, 120, 240, 480, 600]


def test_jitter_takes_its_chance_from_the_caller() -> None:
    """`draw` is the only source of chance in a decision."""
    retrying = Retrying(backoff=exponential(40))
    assert [rule(Other(), retrying, draw=draw).delay for draw in (0.0, 0.25, 0.5)] == [0, 10, 20]


def test_the_last_attempt_ends_the_job() -> None:
    """With three attempts the third failure is the last."""
    made = [rule(Other(), STEADY, failures=n) for n in range(4)]
    assert [each.action for each in made] == [Action.RETRY, Action.RETRY, Action.FAIL, Action.FAIL]
    assert made[2] == Decision(Action.FAIL, "exhausted", counted=True, fall_back=True)


def test_interruptions_snoozes_and_crashes_use_no_attempt_up() -> None:
    """Only runs that raised count against `attempts`."""
    history = History(failures=0, interruptions=50, snoozes=50, crashes=50)
    made = decide(Policies(retrying=STEADY), history, Other(), attempts=2, elapsed=0)
    assert made.action is Action.RETRY


def test_without_a_retry_policy_an_error_ends_the_job() -> None:
    """Nobody asked for retries, so there are none."""
    assert rule(Other()).reason == "not_retryable"


@pytest.mark.parametrize("on", [Broad, (Broad, OSError), lambda error: isinstance(error, Broad)])
def test_only_errors_named_by_on_are_retried(on: Any) -> None:
    """`on` takes a type, several, or a predicate."""
    retrying = replace(STEADY, on=on)
    assert rule(Narrow(), retrying).action is Action.RETRY
    assert rule(Other(), retrying).reason == "not_retryable"


def test_never_wins_over_on_and_per() -> None:
    """An error that must not be retried is not, however closely another setting names it."""
    retrying = replace(STEADY, on=Narrow, never=(Broad,), per=((Narrow, STEADY),))
    assert rule(Narrow(), retrying).reason == "not_retryable"


def test_an_error_named_in_per_needs_no_mention_in_on() -> None:
    """A policy for an error is reason enough to retry it; its own `on` and `never` still hold."""
    assert rule(Narrow(), replace(STEADY, on=Other, per=((Broad, STEADY),))).action is Action.RETRY
    for own in (replace(STEADY, on=Other), replace(STEADY, never=(Middle,))):
        assert rule(Narrow(), replace(STEADY, per=((Broad, own),))).reason == "not_retryable"


@pytest.mark.parametrize("on", [raises, answering(Truthless())], ids=["raises", "truthless"])
def test_a_broken_predicate_retries_nothing_and_says_so(on: Any) -> None:
    """The task's error stays the one that is seen; a note on it tells of the predicate's."""
    error = Other("the real trouble")
    made = rule(error, replace(STEADY, on=on))
    assert made.reason == "not_retryable"
    assert [setting for setting, _, _ in made.ignored] == ["on"]
    assert "it raised RuntimeError, so nothing was retried" in error.__notes__[0]


def test_an_error_that_takes_no_notes_is_decided_all_the_same() -> None:
    """An exception class can break `add_note`; that must not hide what it is."""
    error = Other()
    error.__notes__ = cast("list[str]", "not a list")
    assert rule(error, replace(STEADY, on=raises)).reason == "not_retryable"


def test_attempts_of_an_entry_in_per_count_all_failures() -> None:
    """An entry's own number replaces the job's limit, either way, and is compared with the job's total."""
    fewer = replace(STEADY, per=((Narrow, replace(STEADY, attempts=2, attempts_given=True)),))
    more = replace(STEADY, per=((Narrow, replace(STEADY, attempts=9, attempts_given=True)),))
    endless = replace(STEADY, per=((Narrow, replace(STEADY, attempts=None, attempts_given=True)),))
    assert rule(Narrow(), fewer, failures=1, attempts=5).reason == "exhausted"
    assert rule(Other(), fewer, failures=1, attempts=5).action is Action.RETRY
    assert rule(Narrow(), more, failures=7, attempts=5).action is Action.RETRY
    assert rule(Narrow(), more, failures=8, attempts=5).reason == "exhausted"
    assert rule(Narrow(), endless, failures=99, attempts=5).action is Action.RETRY


def test_an_entry_in_per_without_a_number_has_the_limit_of_the_job() -> None:
    """The default of 3 in a nested policy is nobody's wish."""
    retrying = replace(STEADY, per=((Narrow, STEADY),))
    assert rule(Narrow(), retrying, failures=4, attempts=6).action is Action.RETRY
    assert rule(Narrow(), retrying, failures=5, attempts=6).reason == "exhausted"


# --- delays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", [40, timedelta(seconds=40)], ids=["seconds", "timedelta"])
def test_an_error_can_ask_for_a_longer_delay(wish: object) -> None:
    """`retry_after` is a floor: it lengthens a delay and never shortens one."""
    patient = Retrying(backoff=constant(100), retry_after=answering(wish))
    assert rule(Other(), replace(STEADY, retry_after=answering(wish))).delay == 40
    assert rule(Other(), patient).delay == 100


def test_max_retry_after_bounds_what_an_error_can_ask_for() -> None:
    """A server that names next year does not get it."""
    assert rule(Other(), replace(STEADY, retry_after=answering(1e9), max_retry_after=60)).delay == 60


@pytest.mark.parametrize("wish", [None, -5, nan, inf, 10**400, timedelta(-1), "30", True], ids=repr)
def test_a_senseless_retry_after_is_ignored(wish: object) -> None:
    """What is no time leaves the delay to the schedule."""
    assert rule(Other(), replace(STEADY, retry_after=answering(wish))).delay == 10


@pytest.mark.parametrize(
    ("retry_after", "told"),
    [
        (raises, "it raised RuntimeError"),
        (
            answering("30"),
            "it answered str where a finite number of seconds, a timedelta or None is expected",
        ),
        (
            answering(inf),
            "it answered float where a finite number of seconds, a timedelta or None is expected",
        ),
    ],
    ids=["raises", "text", "endless"],
)
def test_a_broken_retry_after_is_ignored_and_told_of(retry_after: Any, told: str) -> None:
    """The schedule's delay stands; the decision and a note on the error say why the wish was not heard."""
    error = Other()
    made = rule(error, replace(STEADY, retry_after=retry_after))
    name = retry_after.__qualname__
    assert made.delay == 10
    assert made.ignored == (("retry_after", name, told),)
    assert error.__notes__ == [f"jobguard: retry_after={name} was ignored: {told}"]


def test_an_answer_that_can_be_used_is_not_told_of() -> None:
    """None is one for `retry_after`: the error asks for nothing."""
    error = Other()
    assert rule(error, Retrying(backoff=answering(7), retry_after=answering(None))).ignored == ()
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize(
    ("answer", "delay"),
    [(7, 7), (timedelta(minutes=1), 60), (-3, 0), (nan, 0), (0, 0), (1e30, LONGEST)],
    ids=repr,
)
def test_a_backoff_may_be_any_callable(answer: object, delay: float) -> None:
    """A function of the failure's number serves as a schedule; the past is now, and time has a bound."""
    assert rule(Other(), Retrying(backoff=answering(answer))).delay == delay


@pytest.mark.parametrize("backoff", [raises, *map(answering, (inf, "7", None))])
def test_a_broken_backoff_is_stood_in_for_by_the_default_schedule(backoff: Any) -> None:
    """A job with a broken schedule must neither spin nor wait for ever. It is told of."""
    made = rule(Other(), Retrying(backoff=backoff), failures=1, draw=0.5)
    assert made.delay == 30
    assert [(setting, function) for setting, function, _ in made.ignored] == [
        ("backoff", backoff.__qualname__)
    ]


# --- time ----------------------------------------------------------------------------------------


def test_a_retry_at_the_deadline_is_too_late() -> None:
    """The next run has to start before the deadline."""
    retrying = replace(STEADY, deadline=60)
    assert rule(Other(), retrying, elapsed=49.9).action is Action.RETRY
    assert rule(Other(), retrying, elapsed=50).reason == "deadline"


def test_the_earlier_deadline_of_a_task_and_its_policy_per_error_holds() -> None:
    """A policy per error can tighten the task's deadline but not move it out."""
    for main, own in ((60, 1000), (1000, 60), (None, 60), (60, None)):
        retrying = replace(STEADY, deadline=main, per=((Narrow, replace(STEADY, deadline=own)),))
        assert rule(Narrow(), retrying, elapsed=49).action is Action.RETRY
        assert rule(Narrow(), retrying, elapsed=50).reason == "deadline"


def test_a_retry_that_the_queue_would_not_run_ends_the_job() -> None:
    """A job is not left to a queue that forgets it before it is due."""
    assert rule(Other(), STEADY, expires=10.1).action is Action.RETRY
    assert rule(Other(), STEADY, expires=10).reason == "expired"


# --- signals -------------------------------------------------------------------------------------


def test_retry_later_waits_exactly_as_long_as_it_says() -> None:
    """`after` is taken as it is, and `on`, `never` and `retry_after` have no say."""
    retrying = Retrying(on=Other, never=(RetryLater,), retry_after=lambda error: 500)
    made = rule(RetryLater(after=7), retrying)
    assert made == Decision(Action.RETRY, "retry_later", 7, counted=True)
    assert rule(RetryLater(after=0), retrying).delay == 0


def test_retry_later_without_a_time_leaves_it_to_the_schedule() -> None:
    """Also where there is no `@retrying`: then the default schedule serves."""
    assert rule(RetryLater(), STEADY).delay == 10
    assert rule(RetryLater(), draw=0.5).delay == 15


def test_retry_later_is_bounded_like_any_failure() -> None:
    """Attempts, deadline and the queue's patience end it, with or without `@retrying`."""
    assert rule(RetryLater(after=1), STEADY, failures=2).reason == "exhausted"
    assert rule(RetryLater(after=1), failures=2).reason == "exhausted"
    assert rule(RetryLater(after=60), replace(STEADY, deadline=60)).reason == "deadline"
    assert rule(RetryLater(after=60), expires=60).reason == "expired"


@pytest.mark.parametrize("signal", [RetryLater(after=1e30), Snooze(after=1e30)], ids=repr)
def test_a_signal_s_delay_is_bounded(signal: Signal) -> None:
    """No store could write when a longer one ends."""
    assert rule(signal, STEADY).delay == LONGEST


def test_snooze_runs_again_without_a_policy() -> None:
    """A snooze needs no `@retrying`, and then has no limit."""
    assert rule(Snooze(after=5), snoozes=10**6) == Decision(Action.SNOOZE, "snoozed", 5, counted=False)


def test_snooze_ignores_failures() -> None:
    """Failures up to the limit do not stop a snooze."""
    assert rule(Snooze(after=5), STEADY, failures=99).action is Action.SNOOZE


def test_spent_snoozes_end_the_job() -> None:
    """`max_snoozes` is how many there may be in all."""
    retrying = replace(STEADY, max_snoozes=2)
    assert [rule(Snooze(after=5), retrying, snoozes=n).reason for n in range(3)] == [
        "snoozed",
        "snoozed",
        "snoozes",
    ]


def test_a_snooze_is_bounded_by_time() -> None:
    """A job cannot sleep through its deadline or its expiry."""
    assert rule(Snooze(after=60), replace(STEADY, deadline=60)).reason == "deadline"
    assert rule(Snooze(after=60), expires=60).reason == "expired"


@pytest.mark.parametrize("kept", [True, False])
def test_giving_up_keeps_a_dead_letter_where_there_is_a_policy(kept: bool) -> None:
    """The job ends at once, counted as a failure; without `@dead_letter` nothing is kept."""
    made = rule(GiveUp("wrong number"), STEADY, kept=kept)
    assert made == Decision(Action.FAIL, "gave_up", counted=True, dead_letter=kept, fall_back=True)


def test_discarding_keeps_nothing_and_has_no_fallback() -> None:
    """The work is not wanted any more: no dead letter, no answer in its place, no failure."""
    assert rule(Discard(), STEADY, kept=True) == Decision(Action.FAIL, "discarded", counted=False)


def test_what_could_not_be_run_has_not_failed() -> None:
    """The job ends at once, whatever is to be retried, and for the reason that the queue's adapter gives."""
    made = rule(Undeliverable("undecodable", "no payload"), STEADY, kept=True)
    assert made == Decision(Action.FAIL, "undecodable", counted=False, dead_letter=True, fall_back=True)


def test_a_queue_signal_takes_the_place_of_the_error() -> None:
    """What the adapter read out of a queue's own exception is judged, not that exception."""
    made = rule(Other(), replace(STEADY, never=(Other,)), signal=RetryLater(after=3))
    assert made == Decision(Action.RETRY, "retry_later", 3, counted=True)


def test_a_signal_that_skipped_its_checks_is_followed_as_far_as_it_makes_sense() -> None:
    """A subclass can leave `after` with anything in it."""
    later, snooze = RetryLater(), Snooze(after=5)
    later.after, snooze.after = nan, inf
    assert rule(later, STEADY).delay == 0
    assert rule(snooze, STEADY).delay == 0


# --- groups --------------------------------------------------------------------------------------


def test_the_most_final_error_speaks_for_a_group() -> None:
    """From `Discard` down to `Snooze`: each beats all that come after it."""
    ranked: list[tuple[Exception, str]] = [
        (Discard(), "discarded"),
        (GiveUp(), "gave_up"),
        (Other(), "not_retryable"),
        (Broad(), "failed"),
        (RetryLater(after=99), "retry_later"),
        (Snooze(after=99), "snoozed"),
    ]
    retrying = replace(STEADY, never=(Other,))
    for at, (_, reason) in enumerate(ranked):
        group = ExceptionGroup("several", [error for error, _ in ranked[at:]])
        assert rule(group, retrying).reason == reason


def test_of_two_retryable_errors_the_more_patient_decides() -> None:
    """A group waits for the error that has to wait longest, and ends with one that has no run left."""
    patient, spent = (replace(STEADY, backoff=constant(50)), replace(STEADY, attempts=1, attempts_given=True))
    group = ExceptionGroup("two", [Other(), Broad()])
    assert rule(group, replace(STEADY, per=((Broad, patient),))).delay == 50
    assert rule(group, replace(STEADY, per=((Broad, spent),))).reason == "exhausted"


def test_a_group_in_groups_without_end_is_unwrapped() -> None:
    """Depth is no limit."""
    error: list[Exception] = [GiveUp()]
    for _ in range(5_000):
        error = [ExceptionGroup("deeper", error)]
    assert rule(error[0], STEADY).reason == "gave_up"


# --- limits --------------------------------------------------------------------------------------


def test_attempts_come_from_the_user_then_the_queue_then_the_default() -> None:
    """A number that was written wins; a default gives way to the queue's own limit."""
    written = Policies(retrying=Retrying(attempts=7, attempts_given=True))
    endless = Policies(retrying=Retrying(attempts=None, attempts_given=True))
    default = Policies(retrying=Retrying())
    assert [attempts_of(written, limit) for limit in (5, None)] == [7, 7]
    assert [attempts_of(endless, limit) for limit in (5, None)] == [None, None]
    assert [attempts_of(default, limit) for limit in (5, None)] == [5, 3]


def test_without_a_retry_policy_the_caller_says_how_often_a_job_may_ask_again() -> None:
    """Such a task has no attempts of its own; one, unless its queue grants more."""
    assert attempts_of(Policies(), 5) == 1
    assert attempts_of(Policies(), None, unasked=4) == 4


def test_crashes_are_limited_with_and_without_a_retry_policy() -> None:
    """Five by default: a job that takes workers down is bounded even if nobody asked."""
    assert crash_limit(Policies()) == 5
    assert crash_limit(Policies(retrying=Retrying(max_crashes=2))) == 2


def test_a_decision_needs_no_history() -> None:
    """The first run of a job has none, and `decide` draws its own chance then."""
    made = decide(Policies(retrying=Retrying()), NO_HISTORY, Other(), attempts=3, elapsed=0)
    assert made.action is Action.RETRY
    assert 0 <= made.delay <= 30
