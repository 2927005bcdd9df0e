"""What happened, told as it happens: one frozen record a kind, and the hooks that receive them.

A hook is any callable that takes an event. It is called where the thing happened, so it must be
quick; what it raises is logged and goes no further.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from typing import Protocol

from jobguard.job import JobStatus

logger: logging.Logger = logging.getLogger("jobguard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a job.

    Attributes:
        task: the task's name as its queue knows it, as in `DeadLetter.task`; in-process, and for a guarded
            call in another task's body, `module.qualname`.
        job: identity of the job (`queue:id:milliseconds`, and what else tells jobs of one id apart), or `""`.
        key: the deduplication key, or None.
    """

    task: str
    job: str = ""
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded(Event):
    """The body returned. Not sent for a first in-process run without a claim, which costs nothing."""

    attempt: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateSkipped(Event):
    """Another job has the key, and this one was not run."""

    status: JobStatus
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateReplayed(Event):
    """The work was done before; its stored result was returned. `own`: by this very job."""

    owner: str
    own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadMismatched(Event):
    """A duplicate came with other arguments than the job that had the key first."""

    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred(Event):
    """The job was put off without a run, for `delay` seconds. `reason` is `busy` or `running`."""

    delay: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver(Event):
    """The key was claimed from a job that had left it: crashed, interrupted or overdue.

    `owner`: of the claim before. `fence`: the new claim's number; None of a task without a key, whose own job
    was delivered again after a crash.
    """

    owner: str
    fence: int | None
    crashes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """A run failed; the next is due in `delay` seconds."""

    attempt: int
    failures: int
    delay: float
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingIgnored(Event):
    """A function that `retrying` was given (`backoff`, `retry_after`, `on`) raised, or gave no usable answer.

    `backoff` is stood in for by the default schedule, `retry_after` by no floor, and `on` by no retry.
    """

    setting: str
    function: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snoozed(Event):
    """The body asked to be run again in `delay` seconds without having failed."""

    delay: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted(Event):
    """A run was cancelled. `recorded`: whether the store knows of it."""

    attempt: int
    recorded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost(Event):
    """The lease ended while the body ran, which was cancelled, or before it had begun."""

    fence: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopBlocked(Event):
    """Nothing else ran in this process for `seconds` at least, a considerable share of a `lease`.

    A body that computes or waits without `await`, a process that was stopped or had no CPU. Leases
    are not renewed meanwhile. Noticed only while some are held.
    """

    seconds: float
    lease: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRefused(Event):
    """A late outcome was fenced off: `owner` has taken the key over under a higher fence."""

    outcome: JobStatus
    fence: int | None
    owner: str
    owner_fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The job ended as FAILED. `reason` as in `DeadLetter.reason`, or `discarded` or `aborted`."""

    reason: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettered(Event):
    """The job was kept as a dead letter."""

    queue: str
    id: str
    reason: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFingerprint(Event):
    """The only dead letter of its kind came into a queue: jobs have begun to fail in a new way.

    `error` is masked as the letter is.
    """

    queue: str
    fingerprint: str
    id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueGrew(Event):
    """A dead letter queue holds more than `alert_over` of its tasks says; told once on the way up.

    Told again when the queue had come down to that number in between. A worker that dies as it writes the
    letter may take this with it.
    """

    queue: str
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted(Event):
    """The oldest letters of a queue were removed to keep its `retention` or `max_entries`."""

    queue: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionFailed(Event):
    """`on_evict` raised; the letters that it was given stay."""

    queue: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack(Event):
    """`@fallback` answered in place of the task."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultDropped(Event):
    """The work succeeded, but its result could not be stored; it cannot be replayed."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFailed(Event):
    """A store operation failed. `operation` names it."""

    operation: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RanUnguarded(Event):
    """The store was out of reach and `on_store_error="run"`: the body ran without a claim."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeLost(Event):
    """An outcome could not be recorded before the lease ended. The job may run again elsewhere."""

    outcome: JobStatus
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultStoreUsed(Event):
    """No `JobGuard` is active: records are kept in this process's memory only."""

    cure: str = "enter 'async with JobGuard(store)', or protect the worker that runs the task"


class Hook(Protocol):
    """Receives every event. Called in the task in which it happened."""

    def __call__(self, event: Event, /) -> None: ...


_LEVELS: dict[type[Event], int] = {
    Succeeded: logging.DEBUG,
    DuplicateSkipped: logging.INFO,
    DuplicateReplayed: logging.INFO,
    Deferred: logging.INFO,
    RetryScheduled: logging.WARNING,
    Snoozed: logging.INFO,
    Interrupted: logging.INFO,
    DeadLettered: logging.ERROR,
    Failed: logging.ERROR,
    OutcomeLost: logging.CRITICAL,
}


def heard(hooks: Collection[Hook], kind: type[Event]) -> bool:
    """Whether anybody would be told of such an event: most jobs end in one that nobody asks for."""
    return len(hooks) > 0 or logger.isEnabledFor(_LEVELS.get(kind, logging.WARNING))


def log_event(event: Event) -> None:
    """The hook that is always there: one line an event to the logger `jobguard`.

    Every value is `repr`ed, so that text from jobs cannot forge a line.
    """
    level = _LEVELS.get(type(event), logging.WARNING)
    if logger.isEnabledFor(level):
        values = " ".join(
            f"{field.name}={getattr(event, field.name)!r}"
            for field in fields(event)
            if getattr(event, field.name) not in (None, "")
        )
        logger.log(level, "%s %s", type(event).__name__, values)


def emit(hooks: Iterable[Hook], event: Event) -> None:
    """Tell every hook; one that raises is logged and stops neither the others nor the job."""
    log_event(event)
    for hook in hooks:
        try:
            hook(event)
        except Exception:
            logger.exception("hook %r failed on %s", hook, type(event).__name__)
