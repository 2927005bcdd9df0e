"""What becomes of a job whose run raised: run it again, and when, or end it.

Pure and total: settings, counts and an exception go in, a decision comes out, and nothing that a
user's predicate or callable raises goes further. Every retry rule lives here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import IntEnum, StrEnum, auto
from math import inf
from typing import NamedTuple, cast

from jobguard.backoff import Schedule, exponential
from jobguard.errors import Discard, GiveUp, RetryLater, Signal, Snooze, Undeliverable
from jobguard.job import History
from jobguard.policies import LONGEST, Policies, Retrying

_BACKOFF = exponential(30, cap=600)
_STANDARD = Retrying(backoff=_BACKOFF)
"""For what has to be known where there is no `@retrying`: a signal is followed there as well."""


class Action(StrEnum):
    """What to do with the job."""

    RETRY = auto()
    """The run failed; run it again."""
    SNOOZE = auto()
    """The run asked for another one without having failed."""
    FAIL = auto()
    """No run is left."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do after a run that raised.

    Attributes:
        action: run again or end.
        reason: why, in a word. RETRY: `failed` or `retry_later`; SNOOZE: `snoozed`; FAIL:
            `exhausted`, `gave_up`, `not_retryable`, `deadline`, `expired`, `snoozes`, `discarded`, or
            what an `Undeliverable` says.
        delay: seconds until the next run, 100 years at most; 0 where there is none.
        counted: whether the run was a failure. `Snooze`, `Discard` and `Undeliverable` are not, even where
            they end the job.
        dead_letter: whether the job is to be kept as a dead letter.
        fall_back: whether `@fallback` may answer.
        ignored: functions among the settings that gave no usable answer, and what was wrong with it.
    """

    action: Action
    reason: str
    delay: float = 0.0
    counted: bool = True
    dead_letter: bool = False
    fall_back: bool = False
    ignored: tuple[Ignored, ...] = ()


class Ignored(NamedTuple):
    """A function of the user's whose answer could not be used."""

    setting: str
    function: str
    problem: str


def attempts_of(policies: Policies, queue_limit: int | None = None, unasked: int = 1) -> int | None:
    """How many failures end the job: what the user wrote, else the queue's limit, else the default.

    None = no limit, which only the user can ask for. Without `@retrying` it is `unasked`: such a
    job is run again only at its own request.
    """
    retrying = policies.retrying
    if retrying is None:
        return unasked
    if retrying.attempts_given or queue_limit is None:
        return retrying.attempts
    return queue_limit


def crash_limit(policies: Policies) -> int:
    """How many crashes a job may have before it is ended."""
    return _STANDARD.max_crashes if policies.retrying is None else policies.retrying.max_crashes


def decide(
    policies: Policies,
    history: History,
    error: Exception,
    *,
    attempts: int | None,
    elapsed: float,
    draw: Callable[[], float] = random.random,
    signal: Signal | None = None,
    expires: float | None = None,
) -> Decision:
    """What to do with a job whose run raised `error`.

    An exception group is judged by what it holds, and its most final error speaks for all of it:
    `Discard`, then `GiveUp`, an error that is not retryable, one that is, `RetryLater`, `Snooze`.

    Args:
        policies: what the task asks for.
        history: what the job went through before this run.
        error: what the run raised.
        attempts: total failures that end the job (None = no limit). An entry of `per` has its own if
            the user gave it one.
        elapsed: seconds from the start of the first run to this failure.
        draw: chance for jitter, from 0 to below 1.
        signal: what a queue's own control-flow exception means; judged in place of `error`.
        expires: seconds from now after which the queue will not run the job any more (None = never).
    """
    judge = _Judge(policies, history, attempts, elapsed, draw, expires)
    rulings = map(judge.rule, leaves(error if signal is None else signal))
    # Of two alike, the one that ends the job is more final, then the one that waits longer.
    made = max(rulings, key=lambda each: (each[0], each[1].action is Action.FAIL, each[1].delay))[1]
    return replace(made, ignored=tuple(judge.ignored)) if judge.ignored else made


class _Weight(IntEnum):
    """How final an error in a group is; the heaviest speaks for the group."""

    SNOOZE = auto()
    LATER = auto()
    RETRYABLE = auto()
    NOT_RETRYABLE = auto()
    GIVE_UP = auto()
    DISCARD = auto()


@dataclass(frozen=True, slots=True)
class _Judge:
    """The rules, for one failed run."""

    policies: Policies
    history: History
    attempts: int | None
    elapsed: float
    draw: Callable[[], float]
    expires: float | None
    ignored: list[Ignored] = field(default_factory=list[Ignored])

    def rule(self, error: Exception) -> tuple[_Weight, Decision]:
        """What one error, not a group, comes to."""
        match error:
            case Undeliverable():
                # Nothing was run that could have failed.
                return _Weight.NOT_RETRYABLE, self._fail(error.reason, counted=False)
            case Discard():
                return _Weight.DISCARD, Decision(Action.FAIL, "discarded", counted=False)
            case GiveUp():
                return _Weight.GIVE_UP, self._fail("gave_up")
            case Snooze():
                return _Weight.SNOOZE, self._snooze(error)
            case RetryLater():
                return _Weight.LATER, self._later(error)
            case _:
                retrying = self._retrying_for(error)
        if retrying is None:
            return _Weight.NOT_RETRYABLE, self._fail("not_retryable")
        return _Weight.RETRYABLE, self._failed(error, retrying)

    def _snooze(self, signal: Snooze) -> Decision:
        limit = self._main.max_snoozes
        if limit is not None and self.history.snoozes >= limit:
            return self._fail("snoozes", counted=False)
        delay = _seconds(signal.after) or 0.0
        return self._again(Action.SNOOZE, "snoozed", delay, self._main.deadline)

    def _later(self, signal: RetryLater) -> Decision:
        if self._spent(self.attempts):
            return self._fail("exhausted")
        after = _seconds(signal.after)
        delay = self._backoff(signal, self._main) if after is None else after
        return self._again(Action.RETRY, "retry_later", delay, self._main.deadline)

    def _failed(self, error: Exception, retrying: Retrying) -> Decision:
        own = retrying is not self.policies.retrying and retrying.attempts_given
        if self._spent(retrying.attempts if own else self.attempts):
            return self._fail("exhausted")
        delay = max(self._backoff(error, retrying), self._floor(error, retrying))
        deadlines = [each for each in (self._main.deadline, retrying.deadline) if each is not None]
        return self._again(Action.RETRY, "failed", delay, min(deadlines, default=None))

    def _again(self, action: Action, reason: str, delay: float, deadline: float | None) -> Decision:
        """Another run after `delay`, if there is still time for it."""
        counted = action is Action.RETRY
        delay = min(delay, LONGEST)  # what is longer cannot be recorded
        if deadline is not None and self.elapsed + delay >= deadline:
            return self._fail("deadline", counted=counted)
        if self.expires is not None and delay >= self.expires:
            return self._fail("expired", counted=counted)
        return Decision(action, reason, delay, counted=counted)

    def _fail(self, reason: str, *, counted: bool = True) -> Decision:
        kept = self.policies.dead_lettering is not None
        return Decision(Action.FAIL, reason, counted=counted, dead_letter=kept, fall_back=True)

    @property
    def _main(self) -> Retrying:
        return _STANDARD if self.policies.retrying is None else self.policies.retrying

    def _spent(self, attempts: int | None) -> bool:
        return attempts is not None and self.history.failures + 1 >= attempts

    def _retrying_for(self, error: Exception) -> Retrying | None:
        """The policy that applies to an error, or None if it is not to be retried.

        The class of `per` closest to the error's own decides. `never` of the main policy holds
        whatever `per` says; `on` of the main policy does not matter to an error named in `per`.
        """
        main = self.policies.retrying
        if main is None or isinstance(error, main.never):
            return None
        per = dict(main.per)
        retrying = next((per[kind] for kind in type(error).__mro__ if kind in per), main)
        if isinstance(error, retrying.never) or not self._wanted(error, retrying):
            return None
        return retrying

    def _backoff(self, error: Exception, retrying: Retrying) -> float:
        """The schedule's delay. One that gives no answer is stood in for by the default schedule."""
        backoff = retrying.backoff
        n = self.history.failures + 1

        def answer() -> object:
            return backoff.delay(n, self.draw) if isinstance(backoff, Schedule) else backoff(n)

        delay = self._answer("backoff", backoff, error, answer)
        return _BACKOFF.delay(n, self.draw) if delay is None else delay

    def _wanted(self, error: Exception, retrying: Retrying) -> bool:
        """Whether `on` names an error. A predicate that raises has not asked for a retry."""
        on = retrying.on
        if isinstance(on, (type, tuple)):
            return isinstance(error, on)
        try:
            return bool(on(error))
        except Exception as broken:
            self._ignore("on", on, error, f"it raised {type(broken).__name__}, so nothing was retried")
            return False

    def _floor(self, error: Exception, retrying: Retrying) -> float:
        """Seconds that the error itself asks to be left alone, as far as `max_retry_after` goes."""
        retry_after = retrying.retry_after
        if retry_after is None:
            return 0.0
        wish = self._answer("retry_after", retry_after, error, lambda: retry_after(error), none=True)
        return 0.0 if wish is None else min(wish, retrying.max_retry_after)

    def _answer(
        self,
        setting: str,
        function: object,
        error: Exception,
        question: Callable[[], object],
        *,
        none: bool = False,
    ) -> float | None:
        """Seconds that a user's callable answers; None, which is told of, if it has no usable answer.

        Args:
            none: None is one.
        """
        try:
            given = question()
        except Exception as broken:
            self._ignore(setting, function, error, f"it raised {type(broken).__name__}")
            return None
        seconds = _seconds(given)
        if seconds is None and not (none and given is None):
            expected = "a finite number of seconds" + (", a timedelta or None" if none else " or a timedelta")
            self._ignore(
                setting, function, error, f"it answered {type(given).__name__} where {expected} is expected"
            )
        return seconds

    def _ignore(self, setting: str, function: object, error: Exception, problem: str) -> None:
        """Have a function told of, and note it on the error; one that takes no notes is left as it is."""
        name = type(function).__qualname__
        with suppress(Exception):
            name = str(getattr(function, "__qualname__", name))
        self.ignored.append(Ignored(setting, name, problem))
        with suppress(Exception):
            error.add_note(f"jobguard: {setting}={name} was ignored: {problem}")


def leaves(error: Exception) -> Iterator[Exception]:
    """The errors inside of groups inside of groups; an error that is no group is its own leaf."""
    pending = [error]
    while pending:
        each = pending.pop()
        if isinstance(each, ExceptionGroup):
            pending.extend(reversed(cast("ExceptionGroup[Exception]", each).exceptions))
        else:
            yield each


def _seconds(value: object) -> float | None:
    """Seconds of a duration, 0 for one in the past or NaN; None for what is not a finite duration at all."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    try:
        seconds = float(number)
    except OverflowError:
        return None
    if seconds == inf:
        return None
    return seconds if seconds > 0 else 0.0
