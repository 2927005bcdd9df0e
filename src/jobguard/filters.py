"""Which dead letters are meant: one grammar for Python and the command line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, cast

from jobguard.arguments import alike, arguments_of, checked_path, value_at
from jobguard.codec import Codec
from jobguard.errors import InvalidType, InvalidValue
from jobguard.stores.letters import DeadLetter, LetterQuery, LetterState

Moment = str | timedelta | datetime
"""A time: so long ago (`"2h"`, a timedelta), or a date and time (`"2026-11-24T09:00"`, an aware datetime)."""
StateName = LetterState | Literal["dead", "requeued", "resolved", "all"]
Attempts = int | tuple[int | None, int | None]
"""A number of failed attempts, or the least and the most (None = no bound)."""

MICROSECONDS = 1_000_000
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([smhdw])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ARGUMENT = "arg."


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Dead letters that agree with everything given. Without any setting: all that are dead.

    `task`, `error`, `fingerprint`, `since`, `until` and `state` are answered from indexes. `attempts`, `key`
    and `arguments` read the letters themselves, in batches.

    Attributes:
        task: the task's name, whole.
        error: the error's type as a letter has it: `"TimeoutError"`, `"httpx.ConnectError"`.
        fingerprint: what groups letters of one cause.
        since, until: when the letter came into the queue, by the store's clock: so long ago, or a date and
            time. A text without a time zone is local time; a datetime must have one.
        state: `"dead"` (default), `"requeued"`, `"resolved"`, or `"all"`.
        attempts: how often the job failed, replays included: a number, or the least and the most.
        key: the deduplication key.
        arguments: from paths (`"to"`, `"customer.phone"`, `"items.0.price"`) to values. A number also means
            its text. Arguments that only the queue's worker can read are compared as the preview shows them.

    Raises:
        ConfigurationError: a setting cannot be used; the message names it.
    """

    task: str | None = None
    error: str | None = None
    fingerprint: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    state: StateName = LetterState.DEAD
    attempts: Attempts | None = None
    key: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])

    def __post_init__(self) -> None:
        for name in ("task", "error", "fingerprint", "key"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InvalidType(f"{name} must be text, not {value!r}")
        for name in ("since", "until"):
            if getattr(self, name) is not None:
                _moment(name, getattr(self, name))
        _state(self.state)
        _range(self.attempts)
        if not isinstance(self.arguments, Mapping):
            raise InvalidType(f"arguments must map paths to values, not be {self.arguments!r}")
        for path in self.arguments:
            checked_path(path)

    @classmethod
    def parse(cls, terms: str | Iterable[str]) -> Filter:
        """A filter from terms as the command line takes them: `error=TimeoutError since=2h arg.to=Ada`.

        Args:
            terms: `name=value` each, where name is that of a setting, or `arg.` and a path. `attempts` takes
                `3`, `2..5`, `3..` or `..5`; a value of an argument is JSON, or else text. One text is split
                as a shell does.

        Raises:
            InvalidValue: a term is malformed, is given twice, or has a value that cannot be used.
        """
        settings: dict[str, object] = {}
        arguments: dict[str, object] = {}
        for term in _split(terms):
            name, equals, value = term.partition("=")
            into, put = (
                (arguments, name.removeprefix(_ARGUMENT)) if name.startswith(_ARGUMENT) else (settings, name)
            )
            if not equals or (into is settings and name not in _READ):
                raise InvalidValue(
                    f"{term!r} is not a filter; write name=value, where name is one of {', '.join(_READ)}, "
                    "or arg. and the path of an argument"
                )
            if put in into:
                raise InvalidValue(f"{name!r} is given twice; write it once")
            if into is settings and _ANOTHER.search(value):
                raise InvalidValue(f"{term!r} looks like several filters in one: quote each by itself")
            into[put] = _value(value) if into is arguments else _READ[name](value)
        make = cast("Callable[..., Filter]", cls)
        return make(**settings, arguments=arguments)

    @property
    def reads_letters(self) -> bool:
        """Whether letters must be read to answer; else indexes do."""
        return self.attempts is not None or self.key is not None or len(self.arguments) > 0

    @property
    def relative(self) -> bool:
        """Whether the store must be asked what time it is."""
        moments = [_moment("", each) for each in (self.since, self.until) if each is not None]
        return any(isinstance(each, timedelta) for each in moments)

    def query(self, now: int) -> LetterQuery:
        """What a store is asked. `now`: its time, in microseconds."""
        state = _state(self.state)
        return LetterQuery(
            state,
            self.task,
            self.error,
            self.fingerprint,
            None if self.since is None else microseconds(self.since, now),
            None if self.until is None else microseconds(self.until, now),
        )

    def meets(self, letter: DeadLetter, codec: Codec) -> bool:
        """Whether a letter that answers the query agrees with the rest, too."""
        least, most = _range(self.attempts)
        if letter.failures < least or (most is not None and letter.failures > most):
            return False
        if self.key is not None and letter.key != self.key:
            return False
        if not self.arguments:
            return True
        arguments = arguments_of(letter, codec)
        for path, wanted in self.arguments.items():
            try:
                if not alike(value_at(arguments, path), wanted):
                    return False
            except (LookupError, RecursionError):
                return False
        return True

    def __str__(self) -> str:
        """The terms that say the same; a shell can read them."""
        terms = [
            f"{each.name}={_setting(getattr(self, each.name))}"
            for each in fields(self)
            if each.name != "arguments" and getattr(self, each.name) not in (None, each.default)
        ]
        terms += [f"{_ARGUMENT}{path}={_argument(value)}" for path, value in self.arguments.items()]
        return shlex.join(terms)


def as_filter(given: Filter | str | None) -> Filter:
    """A filter, also from its text."""
    if given is None:
        return Filter()
    if isinstance(given, str):
        return Filter.parse(given)
    if not isinstance(given, Filter):
        raise InvalidType(f"filter must be a Filter or its text, not {given!r}")
    return given


def ago(name: str, value: object) -> timedelta:
    """A length of time: a timedelta, seconds, or a text such as `"2h"` or `"30d"`."""
    if isinstance(value, str):
        found = _AGO.fullmatch(value)
        if found is None:
            raise InvalidValue(f"{name} must be a length of time such as 30m, 2h or 7d, not {value!r}")
        try:
            return int(Decimal(found[1]) * _UNITS[found[2]] * MICROSECONDS) * _MICROSECOND
        except OverflowError:
            raise InvalidValue(f"{name} must be a length of time, not {value!r}") from None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            value = timedelta(seconds=value)
        except (OverflowError, ValueError):
            raise InvalidValue(f"{name} must be a length of time, not {value!r}") from None
    if not isinstance(value, timedelta):
        raise InvalidType(f"{name} must be a length of time, as a timedelta or as text, not {value!r}")
    if value < timedelta(0):
        raise InvalidValue(f"{name} must be a length of time that is not negative, not {value!r}")
    return value


def checked_moment(name: str, value: Moment) -> Moment:
    """A time that can be read. `name`: of the setting, for the error."""
    _moment(name, value)
    return value


def _split(terms: str | Iterable[str]) -> Iterable[str]:
    if not isinstance(terms, str):
        return terms
    try:
        return shlex.split(terms)
    except ValueError as error:
        raise InvalidValue(f"filter {terms!r} cannot be read: {error}; check its quotes") from None


_DATE_DIGITS = 8
"""Of a date without separators. More of them are seconds since 1970 or the like, and not the year 1767."""


def _moment(name: str, value: object) -> timedelta | datetime:
    if isinstance(value, str):
        if _AGO.fullmatch(value):
            return ago(name, value)
        try:
            if value.isdigit() and len(value) > _DATE_DIGITS:
                raise ValueError(value)
            parsed = datetime.fromisoformat(value)
            return parsed.astimezone() if parsed.tzinfo is None else parsed
        except (ValueError, OverflowError, OSError):  # no date, or one that no clock here can show
            raise InvalidValue(
                f"{name} must be so long ago, such as 30m, 2h or 7d, or a date and time such as "
                f"2026-11-24T09:00, not {value!r}"
            ) from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidValue(f"{name} must have a time zone, which {value!r} lacks; add tzinfo=UTC")
        return value
    if isinstance(value, timedelta):
        return ago(name, value)
    raise InvalidType(f"{name} must be a timedelta, a datetime or text, not {value!r}")


def microseconds(value: Moment, now: int) -> int:
    """A time on the store's clock. `now`: what it shows."""
    moment = _moment("", value)
    if isinstance(moment, timedelta):
        return max(now - moment // _MICROSECOND, 0)
    return max((moment - _EPOCH) // _MICROSECOND, 0)


def _state(value: object) -> LetterState | None:
    """The state that is meant; None = whichever."""
    if value == "all":
        return None
    try:
        return LetterState(cast(str, value))
    except ValueError:
        words = ", ".join([*LetterState, "all"])
        raise InvalidValue(f"state must be one of {words}, not {value!r}") from None


def _range(value: object) -> tuple[int, int | None]:
    if value is None:
        return 0, None
    pair = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value, value))
    if len(pair) != 2 or not all(each is None or type(each) is int for each in pair):
        raise InvalidType(f"attempts must be a number, or a pair of the least and the most, not {value!r}")
    least, most = cast("tuple[int | None, int | None]", pair)
    if least is None and most is None:
        raise InvalidValue("attempts must have a least or a most, not (None, None); leave it out to mean all")
    if (least or 0) < 0 or (most is not None and most < (least or 0)):
        raise InvalidValue(f"attempts must run from a number to one that is no smaller, not {value!r}")
    return least or 0, most


def _read_attempts(text: str) -> Attempts:
    first, dots, last = text.partition("..")
    for each in (first, last):
        if each and not (each.isascii() and each.isdigit() and len(each) < 10):
            raise InvalidValue(f"attempts must be a number or a range such as 2..5, not {text!r}")
    if not first and not last:  # such as what a script makes of two empty variables: it is not to mean all
        raise InvalidValue(f"attempts must be a number or a range such as 2..5, not {text!r}")
    if not dots:
        return int(first)
    return (int(first) if first else None, int(last) if last else None)


_READ: dict[str, Callable[[str], object]] = {
    "task": str,
    "error": str,
    "fingerprint": str,
    "since": str,
    "until": str,
    "state": str,
    "attempts": _read_attempts,
    "key": str,
}


_ANOTHER = re.compile(rf"\s(?:{'|'.join(_READ)}|arg\.\S+)=")


def _value(text: str) -> object:
    """What somebody means by a text: JSON if it is any, else the text.

    A number that JSON would write in another way stays text: `1.50` and `1e5` may be names.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return text if type(value) in (int, float) and str(value) != text else value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _setting(value: object) -> str:
    """A setting's value as its term has it."""
    if isinstance(value, tuple):
        return "..".join("" if each is None else str(each) for each in cast("tuple[object, ...]", value))
    if isinstance(value, timedelta):
        seconds, rest = divmod(value // _MICROSECOND, MICROSECONDS)
        return f"{seconds}.{rest:06}s" if rest else f"{seconds}s"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _argument(value: object) -> str:
    """An argument's value as its term has it."""
    if isinstance(value, str) and _value(value) == value:
        return value
    return json.dumps(value, default=str)
