"""What a task asks for: one frozen record per decorator, checked when it is made.

A record holds settings and says nothing of how they are carried out; the engine reads them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from jobguard.backoff import Schedule, constant, exponential, fibonacci, linear
from jobguard.errors import InvalidType, InvalidValue

if TYPE_CHECKING:
    from jobguard.stores.letters import DeadLetter

C = TypeVar("C", bound=str)
F = TypeVar("F")

Duration = float | timedelta
Running = Literal["skip", "wait", "raise", "defer"]
Done = Literal["replay", "skip", "raise", "run"]
Mismatch = Literal["event", "raise"]
ExceptionTypes = type[Exception] | tuple[type[Exception], ...]
OnError = ExceptionTypes | Callable[[Exception], bool]

DAY = 86_400.0
LONGEST = 36_525 * DAY
"""A hundred years in seconds: far more than any job needs, and still a time that every store can write."""


@dataclass(frozen=True, slots=True)
class Deduplication:
    """`@deduplicated`: claim a key before the run. Durations in seconds."""

    key: str | tuple[str, ...] | Callable[..., object] | None = None
    scope: str | None = None
    ttl: float = DAY
    running: Running = "skip"
    done: Done = "replay"
    mismatch: Mismatch = "event"


@dataclass(frozen=True, slots=True)
class Retrying:
    """`@retrying`: which errors earn another run, how many, and after which delay.

    `attempts` is None for no limit; `attempts_given` tells a default, which a queue's own limit
    may replace, from a number that the user wrote.
    """

    on: OnError = Exception
    never: tuple[type[Exception], ...] = ()
    attempts: int | None = 3
    attempts_given: bool = False
    backoff: Callable[[int], float] = field(default_factory=lambda: exponential(30, cap=600))
    per: tuple[tuple[type[Exception], Retrying], ...] = ()
    retry_after: Callable[[Exception], float | timedelta | None] | None = None
    max_retry_after: float = 3600.0
    deadline: float | None = None
    max_crashes: int = 5
    max_snoozes: int | None = None


@dataclass(frozen=True, slots=True)
class DeadLettering:
    """`@dead_letter`: keep the job when no run is left. `retention` in seconds."""

    queue: str = "default"
    redact: tuple[str, ...] = ()
    payload: bool = True
    retention: float | None = None
    max_entries: int | None = None
    on_evict: Callable[[Sequence[DeadLetter]], None] | None = None
    alert_over: int | None = None


@dataclass(frozen=True, slots=True)
class Fallback:
    """`@fallback`: an answer once everything else is spent."""

    answer: object
    on: tuple[type[Exception], ...] = (Exception,)


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """`@time_limit`: seconds that one attempt may take."""

    seconds: float


LONGEST_NAME = 200
"""Characters of a queue's or namespace's name."""

Policy = Deduplication | Retrying | DeadLettering | Fallback | TimeLimit

_ORDER: dict[type, int] = {Deduplication: 0, Retrying: 1, TimeLimit: 2, DeadLettering: 3, Fallback: 4}


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of one task, at most one of a kind."""

    deduplication: Deduplication | None = None
    retrying: Retrying | None = None
    time_limit: TimeLimit | None = None
    dead_lettering: DeadLettering | None = None
    fallback: Fallback | None = None

    @classmethod
    def of(cls, policies: tuple[Policy, ...]) -> Policies:
        """Gather policies given in any order."""
        found: dict[type, Policy] = {type(policy): policy for policy in policies}
        return cls(
            deduplication=cast("Deduplication | None", found.get(Deduplication)),
            retrying=cast("Retrying | None", found.get(Retrying)),
            time_limit=cast("TimeLimit | None", found.get(TimeLimit)),
            dead_lettering=cast("DeadLettering | None", found.get(DeadLettering)),
            fallback=cast("Fallback | None", found.get(Fallback)),
        )


def in_order(policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
    """Policies in the one order in which they are listed, whatever order they were written in."""
    return tuple(sorted(policies, key=lambda policy: _ORDER[type(policy)]))


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Seconds of a duration setting.

    Raises:
        InvalidType: it is neither a number nor a timedelta.
        InvalidValue: it is negative, not finite, over 100 years, or zero where `zero` is False.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise InvalidType(f"{name} must be seconds or a timedelta, not {value!r}")
    if not 0 <= number < float("inf") or (number == 0 and not zero):
        bound = "0 or more" if zero else "more than 0"
        raise InvalidValue(f"{name} must be a finite duration of {bound} seconds, not {value!r}")
    if number > LONGEST:
        raise InvalidValue(
            f"{name} must be at most 100 years ({LONGEST:.0f} seconds), not {value!r}; lower it"
        )
    return float(number)


def lease_of(value: object, *, least: float) -> float:
    """Seconds of a lease. Below `least` it would end on the way to being renewed."""
    lease = seconds("lease", value)
    if lease < least:
        raise InvalidValue(
            f"lease must be at least {least:g} s, not {value!r}: it is renewed three times in that time, and "
            "what holds one up for longer ends the jobs that run; leave it at 30 unless the jobs of a killed "
            "worker have to be back sooner"
        )
    return lease


def count(name: str, value: object, *, least: int = 1) -> int:
    """A whole number setting of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise InvalidValue(f"{name} must be {least} or more, not {value!r}")
    return value


def choice(name: str, value: object, choices: tuple[C, ...]) -> C:
    """One of a few words."""
    for word in choices:
        if word == value:
            return word
    raise InvalidValue(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def check_name(setting: str, value: object) -> str:
    """A queue's or namespace's name: printable, without the braces that place keys in a Cluster.

    Raises:
        InvalidType, InvalidValue: it is not such a name.
    """
    if not isinstance(value, str):
        raise InvalidType(f"{setting} must be a string, not {value!r}")
    if not 0 < len(value) <= LONGEST_NAME or not value.isprintable() or any(c in value for c in "{} "):
        raise InvalidValue(
            f"{setting} must be 1 to {LONGEST_NAME} printable characters without spaces or braces, "
            f"not {value!r:.{LONGEST_NAME + 50}}"
        )
    return value


def check_namespace(value: object) -> str:
    """A namespace: a name without the word that stands between it and a dead letter queue's name in keys.

    With it, `a` and its queue `b:dlq:c` would have the keys of `a:dlq:b` and its queue `c`.

    Raises:
        InvalidType, InvalidValue: it is not one.
    """
    name = check_name("namespace", value)
    if "dlq" in name.split(":"):
        raise InvalidValue(f"namespace must not have 'dlq' between colons, as {name!r} has; choose another")
    return name


def exception_types(name: str, value: object) -> tuple[type[Exception], ...]:
    """An exception type or several; only those below `Exception`, since others end the worker."""
    kinds = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise InvalidType(f"{name} must be an exception type or a tuple of them, not {value!r}")
        if not issubclass(kind, Exception):
            raise InvalidValue(
                f"{name} must name subclasses of Exception, not {kind!r}: cancellation and "
                "interpreter exits are never handled; leave it out"
            )
    return cast("tuple[type[Exception], ...]", kinds)


def retry_on(value: object) -> OnError:
    """The `on` of a retry policy: types, or a predicate over the exception."""
    if isinstance(value, (type, tuple)):
        return exception_types("on", cast(object, value))
    if not callable(value):
        raise InvalidType(f"on must be an exception type, a tuple of them or a predicate, not {value!r}")
    if is_async(value):
        raise InvalidType(f"on must be a plain predicate, not the coroutine function {value!r}; write def")
    return cast("Callable[[Exception], bool]", value)


def is_async(value: object) -> bool:
    """Whether calling `value` gives a coroutine: a function, a partial of one, or an object."""
    while isinstance(value, functools.partial):
        value = cast("functools.partial[object]", value).func
    if inspect.iscoroutinefunction(value):
        return True
    return callable(value) and inspect.iscoroutinefunction(type(value).__call__)


def plain(name: str, value: F) -> F:
    """A function whose call answers at once."""
    if is_async(value):
        raise InvalidType(f"{name} must be a plain function, not the coroutine function {value!r}; write def")
    return value


def function(name: str, value: F, kind: str, cure: str = "") -> F:
    """A plain function of that kind, or None."""
    if value is not None and not callable(value):
        raise InvalidType(f"{name} must be a function {kind}, not {value!r}{cure}")
    return plain(name, value)


def evicting(value: F) -> F:
    """An `on_evict`, or None. The file to which letters are to go is a likely slip."""
    cure = f"; write spill_to({value!r})" if isinstance(value, (str, PurePath)) else ""
    return function("on_evict", value, "of the letters", cure)


def schedule(name: str, value: object) -> Callable[[int], float]:
    """A backoff: a schedule, a callable from failure number to seconds, or a fixed duration."""
    if isinstance(value, Schedule):
        return value
    for make in (exponential, linear, fibonacci, constant):
        if value is make:
            raise InvalidType(f"{name} must be a schedule, not what makes one; write {make.__name__}(30)")
    if callable(value):
        return plain(name, cast("Callable[[int], float]", value))
    if isinstance(value, bool) or not isinstance(value, (int, float, timedelta)):
        listed = isinstance(value, (list, tuple))
        cure = "; for a list of delays write lambda n: delays[min(n, len(delays)) - 1]" if listed else ""
        raise InvalidType(
            f"{name} must be a schedule such as exponential(30, cap=600), a function from failure number to "
            f"seconds, or one delay in seconds or as a timedelta, not {value!r}{cure}"
        )
    return constant(seconds(name, value, zero=True))
