"""Every error that jobguard raises, and the signals that a task may raise.

```
JobGuardError
├── ConfigurationError          a setting is wrong; raised at decoration or start-up
│   ├── InvalidType             … its type (also a TypeError)
│   └── InvalidValue            … its value (also a ValueError)
├── KeyNotEncodable             an argument cannot be part of a key (also a TypeError)
├── NoCurrentJob                current_job() outside a job (also a LookupError)
├── DuplicateJob                running="raise" or done="raise" met a duplicate
├── PayloadMismatch             same key, other payload, and mismatch="raise"
├── ResultNotStored             a success is known, its value is not
├── RetriesExhausted            no run is left, and the last error was a request for another
├── CrashLimitExceeded          the job took its worker down too often
├── Undeliverable               a queue handed over a job that no function can take
├── LeaseLost                   the claim went to another holder while the body ran
├── LetterRefused               a dead letter cannot be edited or requeued as asked
├── StoreError                  the store answered with an error
│   └── StoreUnavailable        the store did not answer
├── NotEncodable                a value cannot be written as tagged JSON
│   └── EncodingTooLarge        … since it would be larger than anything that is kept
└── Signal                      raised *inside* a task to steer it
    ├── RetryLater              a failure; run again later
    ├── Snooze                  not a failure; run again later
    ├── GiveUp                  no more runs; dead-letter it
    └── Discard                 no more runs, no dead letter
```
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta


class JobGuardError(Exception):
    """Root of all errors raised by jobguard."""


class ConfigurationError(JobGuardError):
    """A setting cannot be used as given; the message names it, its value and the cure."""


class InvalidType(ConfigurationError, TypeError):
    """A setting has the wrong type."""


class InvalidValue(ConfigurationError, ValueError):
    """A setting has the right type but an impossible value."""


class KeyNotEncodable(JobGuardError, TypeError):
    """An argument that should be part of the key has no stable encoding."""


class NotEncodable(JobGuardError, TypeError):
    """A value has no tagged JSON form."""


class EncodingTooLarge(NotEncodable):
    """A value's tagged JSON form would be larger than anything that is kept."""


class NoCurrentJob(JobGuardError, LookupError):
    """`current_job()` was called where no guarded task is running."""


class DuplicateJob(JobGuardError):
    """Another job with the same key is running, pending a retry, or has succeeded.

    Attributes:
        key: the key that both jobs share.
        status: what the other job is at.
        owner: identity of the other job.
    """

    def __init__(self, key: str, status: str, owner: str) -> None:
        super().__init__(key, status, owner)
        self.key = key
        self.status = status
        self.owner = owner

    def __str__(self) -> str:
        return f"another job with key {self.key!r} is at {self.status!s} (owner {self.owner!r})"


class PayloadMismatch(JobGuardError):
    """A job has the key of an earlier one but other arguments.

    Attributes:
        key: the key that both jobs share.
        owner: identity of the job that came first.
    """

    def __init__(self, key: str, owner: str) -> None:
        super().__init__(key, owner)
        self.key = key
        self.owner = owner

    def __str__(self) -> str:
        return (
            f"key {self.key!r} was first used by {self.owner!r} with other arguments; "
            "put them into the key, or use mismatch='event' if that is meant"
        )


class ResultNotStored(JobGuardError):
    """The work was done before, but its result could not be stored, so there is no value to replay."""


class RetriesExhausted(JobGuardError):
    """No run is left for a job whose last error was a request to run again; that error is the cause."""


class CrashLimitExceeded(JobGuardError):
    """The job's runs ended with their worker, or lost their lease, as often as `max_crashes` allows."""


class Undeliverable(JobGuardError):
    """A queue handed over a job that cannot be run at all.

    Attributes:
        reason: `unknown_task`, `undecodable` or `expired`, as in `DeadLetter.reason`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


class LeaseLost(JobGuardError):
    """The lease ended or went to another holder before the outcome could be recorded."""


class LetterRefused(JobGuardError):
    """A dead letter cannot be dealt with as asked.

    Attributes:
        id: of the letter.
        why: what stands in the way.
    """

    def __init__(self, id: str, why: str) -> None:
        super().__init__(id, why)
        self.id = id
        self.why = why

    def __str__(self) -> str:
        return f"letter {self.id!r}: {self.why}"


class StoreError(JobGuardError):
    """The store refused an operation."""


class StoreUnavailable(StoreError):
    """The store could not be reached, or did not answer in time; the operation may have taken effect."""


class Signal(JobGuardError):
    """Base of what a task raises to steer its own job."""


def _seconds(after: object) -> float:
    """Seconds of a delay, checked here so that a bad signal fails where it is raised."""
    if after is None:
        raise InvalidType(
            "after must be seconds or a timedelta, not None; RetryLater leaves the delay to the backoff"
        )
    seconds = after.total_seconds() if isinstance(after, timedelta) else after
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidType(f"after must be seconds or a timedelta, not {after!r}")
    if not 0 <= seconds <= sys.float_info.max:
        raise InvalidValue(f"after must be a finite number of seconds, 0 or more, not {after!r}")
    return float(seconds)


def _reason(value: str) -> str:
    """A signal's reason, and not the delay that somebody meant to write."""
    if isinstance(value, (int, float, timedelta)):
        raise InvalidType(f"reason must be text, not {value!r}; write after={value!r}")
    return value


class RetryLater(Signal):
    """Ask for another run. Counts as a failure, so `attempts` bounds it.

    Args:
        reason: text for logs and the dead letter.
        after: seconds or timedelta until the next run, 100 years at most; None (the default) leaves it to
            the backoff.

    Raises:
        InvalidType, InvalidValue: `after` is not such a duration, or `reason` is one.
    """

    def __init__(self, reason: str = "", *, after: float | timedelta | None = None) -> None:
        super().__init__(reason)
        self.reason: str = _reason(reason)
        self.after: float | None = None if after is None else _seconds(after)

    def __reduce__(self) -> tuple[object, ...]:
        return (_signal, (type(self), self.reason, self.after))


class Snooze(Signal):
    """Ask for another run without counting a failure. `max_snoozes` bounds it.

    Args:
        reason: text for logs.
        after: seconds or timedelta until the next run, 100 years at most; 0 = at once.

    Raises:
        InvalidType, InvalidValue: `after` is not such a duration, or `reason` is one.
    """

    def __init__(self, reason: str = "", *, after: float | timedelta) -> None:
        super().__init__(reason)
        self.reason: str = _reason(reason)
        self.after: float = _seconds(after)

    def __reduce__(self) -> tuple[object, ...]:
        return (_signal, (type(self), self.reason, self.after))


class GiveUp(Signal):
    """End the job now, whatever runs are left: a dead letter, or FAILED without `@dead_letter`."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Discard(Signal):
    """End the job now as FAILED, without a dead letter: the work is not wanted any more."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def _signal(kind: Callable[..., Signal], reason: str, after: float | None) -> Signal:
    """Rebuild a signal from its pickle; keyword-only settings need the help."""
    return kind(reason, after=after)
