"""Delay schedules: how they grow, what chance does to them, and which settings they refuse."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from datetime import timedelta
from statistics import fmean, quantiles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobguard.backoff import Jitter, Schedule, constant, exponential, fibonacci, linear
from jobguard.errors import ConfigurationError, InvalidType, InvalidValue

MAKERS: tuple[Callable[..., Schedule], ...] = (exponential, linear, fibonacci)

durations = st.floats(1e-3, 1e9)
jitters: st.SearchStrategy[Jitter] = st.sampled_from(("full", "equal", None))
failures = st.integers(1, 50) | st.integers(1, 10**400)
draws = st.floats(0, 1, exclude_max=True)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    first, second = sorted((draw(durations), draw(durations)))
    jitter = draw(jitters)
    return draw(
        st.sampled_from(
            [
                exponential(first, factor=draw(st.floats(1, 10)), cap=second, jitter=jitter),
                linear(first, step=draw(durations), cap=second, jitter=jitter),
                fibonacci(first, cap=second, jitter=jitter),
                constant(first, jitter=jitter),
            ]
        )
    )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (exponential(30, cap=600), [30, 60, 120, 240, 480, 600, 600]),
        (exponential(1, factor=3, cap=100), [1, 3, 9, 27, 81, 100, 100]),
        (exponential(5, factor=1), [5, 5, 5]),
        (linear(30, cap=100), [30, 60, 90, 100, 100]),
        (linear(10, step=5, cap=22), [10, 15, 20, 22, 22]),
        (fibonacci(10, cap=100), [10, 10, 20, 30, 50, 80, 100, 100]),
        (constant(7), [7, 7, 7]),
    ],
    ids=repr,
)
def test_bases_follow_the_named_progression_up_to_the_cap(schedule: Schedule, expected: list[float]) -> None:
    """The part without chance is what the schedule's name says, and never more than the cap."""
    assert [schedule.base(n) for n in range(1, len(expected) + 1)] == expected


def test_the_defaults_are_thirty_seconds_to_ten_minutes() -> None:
    """Without settings a growing schedule starts at 30 seconds and stops at 600."""
    for make in MAKERS:
        assert make().base(1) == 30
        assert make().base(1000) == 600


@pytest.mark.parametrize("n", [10**3, 10**6, 10**18, 10**400])
def test_a_huge_failure_number_gets_the_cap(n: int) -> None:
    """However often a job has failed, the base neither overflows nor has to be counted up to."""
    for make in MAKERS:
        assert make(cap=600).base(n) == 600
    assert exponential(5, factor=1).base(n) == 5
    assert constant(5).base(n) == 5


def test_growth_past_what_a_float_holds_gets_the_cap() -> None:
    """The largest settings there are grow to the cap as well."""
    for make in MAKERS:
        assert make(1e308, cap=1.7e308).base(3) == 1.7e308


@given(schedules(), failures)
def test_bases_never_shrink(schedule: Schedule, n: int) -> None:
    """A later failure never waits for less than an earlier one, chance aside."""
    assert schedule.base(n) <= schedule.base(n + 1)


@given(schedules(), failures, draws)
def test_delays_stay_between_nothing_and_the_base(schedule: Schedule, n: int, draw: float) -> None:
    """Jitter only ever shortens a delay: by all of it (full), by half (equal), or not at all."""
    base = schedule.base(n)
    least = {"full": 0.0, "equal": base / 2, None: base}[schedule.jitter]
    assert least <= schedule.delay(n, lambda: draw) <= base <= schedule.cap


@given(schedules(), failures)
def test_calling_a_schedule_draws_a_delay(schedule: Schedule, n: int) -> None:
    """`schedule(n)` is `delay` with the process's own source of chance."""
    state = random.getstate()
    drawn = schedule(n)
    random.setstate(state)
    assert drawn == schedule.delay(n, random.random)


@pytest.mark.parametrize("n", [1, 3, 50])
def test_full_jitter_spreads_evenly_over_the_whole_range(n: int) -> None:
    """Draws fill the range from nothing to the base in equal parts, at the cap as well."""
    schedule = exponential(30, cap=600)
    draw = random.Random(20_000 + n).random
    base = schedule.base(n)
    shares = [schedule.delay(n, draw) / base for _ in range(4000)]
    assert fmean(shares) == pytest.approx(0.5, abs=0.02)
    assert quantiles(shares, n=4) == pytest.approx([0.25, 0.5, 0.75], abs=0.03)


def test_equal_jitter_spreads_evenly_over_the_upper_half() -> None:
    """Half of the delay is certain, the rest is drawn."""
    schedule = exponential(30, cap=600, jitter="equal")
    draw = random.Random(7).random
    shares = [schedule.delay(9, draw) / 600 for _ in range(4000)]
    assert quantiles(shares, n=4) == pytest.approx([0.625, 0.75, 0.875], abs=0.02)


def test_growing_schedules_have_full_jitter_unless_told_otherwise() -> None:
    """What grows spreads by default; a constant delay is taken at its word."""
    assert [make().jitter for make in MAKERS] == ["full"] * 3
    assert constant(5).jitter is None


def test_durations_may_be_timedeltas() -> None:
    """Seconds and timedeltas of one length make equal schedules."""
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    assert exponential(minute, cap=hour) == exponential(60, cap=3600)
    assert linear(minute, step=minute, cap=hour) == linear(60, step=60, cap=3600)
    assert fibonacci(minute, cap=hour) == fibonacci(60, cap=3600)
    assert constant(minute) == constant(60)


@given(schedules())
def test_a_schedule_is_a_plain_value(schedule: Schedule) -> None:
    """Schedules hash, survive pickling, and their repr is the call that makes them."""
    names = {make.__name__: make for make in (*MAKERS, constant)}
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), names) == schedule
    assert {schedule: "found"}[schedule] == "found"


@pytest.mark.parametrize("maker", [*MAKERS, constant], ids=lambda maker: str(maker.__name__))
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1.5, InvalidValue),
        (timedelta(seconds=-1), InvalidValue),
        (float("nan"), InvalidValue),
        (float("inf"), InvalidValue),
        (10**400, InvalidValue),
        (True, InvalidType),
        ("30", InvalidType),
        (None, InvalidType),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_first_delay_that_is_no_time_is_refused(
    maker: Callable[..., Schedule], value: object, error: type[ConfigurationError]
) -> None:
    """A delay must be a finite time; the message names the argument and its value."""
    name = "delay" if maker is constant else "initial"
    with pytest.raises(error, match=f"^{name} must be ") as caught:
        maker(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("nothing", [0, 0.0, timedelta(0)], ids=repr)
def test_only_a_constant_delay_may_be_nothing(nothing: float | timedelta) -> None:
    """Running again at once can be meant; growing from nothing cannot."""
    assert constant(nothing).base(3) == 0
    for make in MAKERS:
        with pytest.raises(InvalidValue, match=r"^initial must be a finite duration of more than 0 seconds"):
            make(nothing)


@pytest.mark.parametrize(
    ("make", "name", "value", "error"),
    [
        (exponential, "cap", 29.9, InvalidValue),
        (linear, "cap", timedelta(seconds=1), InvalidValue),
        (fibonacci, "cap", 0, InvalidValue),
        (exponential, "cap", "600", InvalidType),
        (linear, "cap", float("inf"), InvalidValue),
        (exponential, "factor", 0.5, InvalidValue),
        (exponential, "factor", -2, InvalidValue),
        (exponential, "factor", float("nan"), InvalidValue),
        (exponential, "factor", float("inf"), InvalidValue),
        (exponential, "factor", 10**400, InvalidValue),
        (exponential, "factor", True, InvalidType),
        (exponential, "factor", "2", InvalidType),
        (linear, "step", 0, InvalidValue),
        (linear, "step", -1, InvalidValue),
        (linear, "step", False, InvalidType),
        (exponential, "jitter", "some", InvalidValue),
        (linear, "jitter", True, InvalidValue),
        (fibonacci, "jitter", "", InvalidValue),
        (fibonacci, "jitter", ["full"], InvalidValue),
    ],
    ids=lambda value: repr(value)[:24] if not callable(value) else value.__name__,
)
def test_an_impossible_setting_is_refused(
    make: Callable[..., Schedule], name: str, value: Any, error: type[ConfigurationError]
) -> None:
    """A setting that cannot be meant fails where it is written, by name and with its value."""
    with pytest.raises(error, match=f"^{name} must be ") as caught:
        make(30, **{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("n", [0, -1, True, 1.0, "1", None], ids=repr)
def test_only_failures_from_one_on_have_a_delay(n: Any) -> None:
    """Failures are counted from 1; anything else is a mistake in the caller."""
    schedule = exponential()
    for ask in (schedule, schedule.base):
        with pytest.raises(InvalidValue, match=r"^n must be the number of a failure"):
            ask(n)
