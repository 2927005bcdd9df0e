"""Delay schedules: how long to wait after failure n, and how much of that is left to chance.

Jitter keeps jobs that failed together from coming back together. `"full"` draws from the whole
range below the delay, so it still spreads once the cap is reached; `"equal"` keeps half of the
delay and draws the rest; None waits for exactly the delay.
"""

from __future__ import annotations

import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Literal

from jobguard.errors import InvalidType, InvalidValue

Duration = float | timedelta
Jitter = Literal["full", "equal"] | None

_LARGEST = sys.float_info.max

_MANY = 2**64
"""More failures than any job will see; numbers far above no longer fit a float."""


@dataclass(frozen=True, slots=True, repr=False)
class Schedule(ABC):
    """Seconds to wait after each failure, from `initial` up to `cap`; failures are 1-based.

    `schedule(n)` draws a delay, `schedule.base(n)` is the part of it without chance.
    """

    initial: float
    cap: float
    jitter: Jitter

    def __call__(self, n: int) -> float:
        return self.delay(n, random.random)

    def delay(self, n: int, draw: Callable[[], float]) -> float:
        """The delay after failure `n`, with chance taken from `draw` (0 or more, below 1)."""
        base = self.base(n)
        if self.jitter == "full":
            return base * draw()
        if self.jitter == "equal":
            return base / 2 + base / 2 * draw()
        return base

    def base(self, n: int) -> float:
        """The delay after failure `n` before jitter: grown, but never past the cap.

        Raises:
            InvalidValue: `n` is not a whole number of 1 or more.
        """
        if type(n) is not int or n < 1:
            raise InvalidValue(f"n must be the number of a failure, 1 or more, not {n!r}")
        try:
            return min(self.cap, self._grown(min(n, _MANY)))
        except OverflowError:
            return self.cap

    @abstractmethod
    def _grown(self, n: int) -> float:
        """The delay after failure `n` as if there were no cap; past it, any number as large."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        return f"{type(self).__name__.lower()}({settings})"


@dataclass(frozen=True, slots=True, repr=False)
class Exponential(Schedule):
    """Each delay is the one before times `factor`."""

    factor: float

    def _grown(self, n: int) -> float:
        return self.initial * self.factor ** (n - 1)


@dataclass(frozen=True, slots=True, repr=False)
class Linear(Schedule):
    """Each delay is the one before plus `step`."""

    step: float

    def _grown(self, n: int) -> float:
        return self.initial + self.step * (n - 1)


@dataclass(frozen=True, slots=True, repr=False)
class Fibonacci(Schedule):
    """Each delay is the sum of the two before: 1, 1, 2, 3, 5 … times `initial`."""

    def _grown(self, n: int) -> float:
        this, following = 1, 1
        for _ in range(n - 1):
            if self.initial * this >= self.cap:
                break
            this, following = following, this + following
        return self.initial * this


@dataclass(frozen=True, slots=True, repr=False)
class Constant(Schedule):
    """Every delay is the same."""

    def _grown(self, n: int) -> float:
        return self.initial

    def __repr__(self) -> str:
        return f"constant({self.initial!r}, jitter={self.jitter!r})"


def exponential(
    initial: Duration = 30, *, factor: float = 2, cap: Duration = 600, jitter: Jitter = "full"
) -> Schedule:
    """Delays that grow by a factor: 30, 60, 120, 240, 480, 600, 600 … seconds by default.

    Args:
        initial: seconds or timedelta before jitter after the first failure.
        factor: by which each further delay grows; 1 or more.
        cap: seconds or timedelta that no delay exceeds.
        jitter: `"full"`, `"equal"` or None.

    Raises:
        InvalidType, InvalidValue: a setting cannot be used; the message names it.
    """
    first, top = _bounds(initial, cap)
    return Exponential(first, top, _jitter(jitter), _factor(factor))


def linear(
    initial: Duration = 30,
    *,
    step: Duration | None = None,
    cap: Duration = 600,
    jitter: Jitter = "full",
) -> Schedule:
    """Delays that grow by a step: 30, 60, 90, 120 … 600, 600 … seconds by default.

    Args:
        initial: seconds or timedelta before jitter after the first failure.
        step: seconds or timedelta by which each further delay grows; None (the default) is `initial`.
        cap: seconds or timedelta that no delay exceeds.
        jitter: `"full"`, `"equal"` or None.

    Raises:
        InvalidType, InvalidValue: a setting cannot be used; the message names it.
    """
    first, top = _bounds(initial, cap)
    return Linear(first, top, _jitter(jitter), first if step is None else _seconds("step", step))


def fibonacci(initial: Duration = 30, *, cap: Duration = 600, jitter: Jitter = "full") -> Schedule:
    """Delays that grow as the Fibonacci numbers: 30, 30, 60, 90, 150 … 600, 600 … seconds by default.

    Args:
        initial: seconds or timedelta before jitter after the first failure.
        cap: seconds or timedelta that no delay exceeds.
        jitter: `"full"`, `"equal"` or None.

    Raises:
        InvalidType, InvalidValue: a setting cannot be used; the message names it.
    """
    first, top = _bounds(initial, cap)
    return Fibonacci(first, top, _jitter(jitter))


def constant(delay: Duration, *, jitter: Jitter = None) -> Schedule:
    """The same delay after every failure.

    Args:
        delay: seconds or timedelta; 0 = at once.
        jitter: None (the default), `"full"` or `"equal"`.

    Raises:
        InvalidType, InvalidValue: a setting cannot be used; the message names it.
    """
    fixed = _seconds("delay", delay, zero=True)
    return Constant(fixed, fixed, _jitter(jitter))


def _bounds(initial: Duration, cap: Duration) -> tuple[float, float]:
    first, top = _seconds("initial", initial), _seconds("cap", cap)
    if top < first:
        raise InvalidValue(
            f"cap must be at least initial ({initial!r}), not {cap!r}; raise it or lower initial"
        )
    return first, top


def _seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Seconds of a delay. One that grows must not be 0: from nothing, it would stay nothing."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise InvalidType(f"{name} must be seconds or a timedelta, not {value!r}")
    if not 0 <= number <= _LARGEST or (number == 0 and not zero):
        bound = "0 or more" if zero else "more than 0"
        raise InvalidValue(f"{name} must be a finite duration of {bound} seconds, not {value!r}")
    return float(number)


def _factor(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(f"factor must be a number, not {value!r}")
    if not 1 <= value <= _LARGEST:
        raise InvalidValue(f"factor must be a finite number of 1 or more, not {value!r}")
    # A whole number would be raised to its power in full, however many digits that has.
    return float(value)


def _jitter(value: Jitter) -> Jitter:
    if value not in ("full", "equal", None):
        raise InvalidValue(f"jitter must be 'full', 'equal' or None, not {value!r}")
    return value
