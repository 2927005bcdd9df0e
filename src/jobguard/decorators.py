"""The public decorators. Each adds one policy to a function's guard; one engine runs them all.

A decorator returns a new function around the *original* one, so that nothing is wrapped twice
and the order of decorators does not matter. Settings are checked here, at decoration.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, Never, ParamSpec, TypeVar, cast, overload

from jobguard import policies
from jobguard.errors import InvalidType, InvalidValue
from jobguard.guarding import Decorator, add_policy, no_function
from jobguard.job import Duplicate
from jobguard.policies import (
    DAY,
    DeadLettering,
    Deduplication,
    Done,
    Duration,
    ExceptionTypes,
    Fallback,
    Mismatch,
    OnError,
    Policy,
    Retrying,
    Running,
    TimeLimit,
    check_name,
)
from jobguard.stores.letters import DeadLetter

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")

Template = str | tuple[str, ...]
KeySetting = Template | Callable[..., object]


class _Unset:
    """What a setting is before anybody sets it, where None has a meaning."""

    def __repr__(self) -> str:
        return "<default>"


_UNSET = _Unset()


@overload
def deduplicated(
    fn: Callable[P, Coroutine[Any, Any, R]], /
) -> Callable[P, Coroutine[Any, Any, R | Duplicate]]: ...
@overload
def deduplicated(
    template: Template | None = None,
    /,
    *,
    key: KeySetting | None = None,
    scope: str | None = None,
    ttl: Duration = DAY,
    running: Literal["wait", "raise", "defer"],
    done: Literal["replay", "raise", "run"] = "replay",
    mismatch: Mismatch = "event",
) -> Decorator[Deduplication, Never]: ...
@overload
def deduplicated(
    template: Template | None = None,
    /,
    *,
    key: KeySetting | None = None,
    scope: str | None = None,
    ttl: Duration = DAY,
    running: Running = "skip",
    done: Done = "replay",
    mismatch: Mismatch = "event",
) -> Decorator[Deduplication, Duplicate]: ...
def deduplicated(
    given: object = None,
    /,
    *,
    key: KeySetting | None = None,
    scope: str | None = None,
    ttl: Duration = DAY,
    running: Running = "skip",
    done: Done = "replay",
    mismatch: Mismatch = "event",
) -> object:
    """Run the work of equal calls once, however many jobs ask for it.

    Two jobs are the same work if their keys are equal. Guarantee: while a lease is valid, no two
    runs for one key hold it, and a late one is fenced off. A job that crashed is taken over when
    its lease has ended. Bodies may still repeat after a crash: hand
    `current_job().idempotency_key` to whatever must not.

    Args:
        key: template over parameters (`"{message_id}"`, `"{event.id}"`), tuple of parameter names,
            or function that gets the call's arguments (by keyword: `key=...`); None (default) = all
            arguments. A first parameter named ctx, self or cls is left out, and refused as a part of a key;
            something in it may be one (`"{self.account}"`).
        scope: what keys are unique within; default `module.qualname`. Name it to let tasks share
            keys, or to keep keys when a task is renamed.
        ttl: seconds or timedelta for which a success answers duplicates. Default one day.
        running: what a duplicate does while another job runs or waits for a retry: `"skip"`
            (default) returns a `Duplicate`; `"wait"` and `"defer"` wait for the other's end, in-process
            by sleeping and under a queue by coming back later; `"raise"` raises `DuplicateJob`.
        done: what a duplicate of a success does: `"replay"` (default) returns the stored result,
            `"skip"` a `Duplicate`; `"raise"` raises `DuplicateJob`; `"run"` runs again.
        mismatch: the key is the same but arguments outside it differ: `"event"` (default) or `"raise"`.

    Raises:
        ConfigurationError: at decoration; a setting is wrong, and the message names it.
        KeyNotEncodable: when called; an argument of the key has no stable encoding.
        DuplicateJob, PayloadMismatch, ResultNotStored: when called; as chosen above.
        StoreUnavailable: when called; the store is out of reach and `on_store_error="raise"`.
    """
    if isinstance(given, Decorator):
        raise no_function("@deduplicated", cast(object, given))
    answers_later = policies.is_async(given)
    bare = isinstance(given, (staticmethod, classmethod)) or (
        inspect.isfunction(given) and given.__name__ != "<lambda>"
    )
    if given is not None and key is not None:
        raise InvalidType(f"deduplicated got two keys, {given!r} and key={key!r}; leave one out")
    if answers_later and not bare:
        raise InvalidType(
            f"@deduplicated needs a coroutine function (async def), not {given!r}; "
            "call it in an async def function and decorate that"
        )
    policy = Deduplication(
        key=policies.plain("key", key) if bare or given is None else cast(KeySetting, given),
        scope=None if scope is None else _text("scope", scope),
        ttl=policies.seconds("ttl", ttl),
        running=policies.choice("running", running, ("skip", "wait", "raise", "defer")),
        done=policies.choice("done", done, ("replay", "skip", "raise", "run")),
        mismatch=policies.choice("mismatch", mismatch, ("event", "raise")),
    )
    if bare:
        return add_policy(cast("Callable[..., object]", given), policy)
    return Decorator[Deduplication, Duplicate](policy)


@overload
def retrying(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
@overload
def retrying(
    *,
    on: OnError = Exception,
    never: ExceptionTypes = (),
    attempts: int | None = 3,
    backoff: Callable[[int], float] | Duration = ...,
    per: Mapping[type[Exception], Decorator[Retrying, Never]] | None = None,
    retry_after: Callable[[Exception], Duration | None] | None = None,
    max_retry_after: Duration = 3600.0,
    deadline: Duration | None = None,
    max_crashes: int = 5,
    max_snoozes: int | None = None,
) -> Decorator[Retrying, Never]: ...
def retrying(
    fn: Callable[..., object] | None = None,
    /,
    *,
    on: object = Exception,
    never: object = (),
    attempts: int | _Unset | None = _UNSET,
    backoff: object = _UNSET,
    per: Mapping[type[Exception], Decorator[Retrying, Never]] | None = None,
    retry_after: Callable[[Exception], Duration | None] | None = None,
    max_retry_after: Duration = 3600.0,
    deadline: Duration | None = None,
    max_crashes: int = 5,
    max_snoozes: int | None = None,
) -> object:
    """Run the job again after an error that may pass.

    Under a queue the job is put off and its worker freed; in-process the call sleeps. Shutdowns,
    cancellations and snoozes use up no attempt; crashes are counted apart. The last exception is
    raised as it was, with a note on attempt and time.

    Args:
        on: exception types, or a function from exception to bool: what earns another run. Default
            `Exception`. Cancellation and interpreter exits never do.
        never: exception types that end the job at once, whatever `on` says.
        attempts: total runs that may fail; None = no limit. Default 3, or the queue's own limit
            (ARQ's `max_tries`) where that is set.
        backoff: schedule, function from failure number (1-based) to seconds, or fixed duration.
            Default `exponential(30, cap=600)`: up to 30, 60, 120 … 600 s, with full jitter.
        per: other `retrying(...)` settings per exception type; the closest class wins. Their
            `attempts` count all failures of the job.
        retry_after: function from exception to seconds, a timedelta or None: a floor for the delay, as a
            Retry-After header gives it.
        max_retry_after: seconds or timedelta that such a floor may be at most. Default 3600.
        deadline: seconds or timedelta since the first start, after which no run starts or goes on. Default
            none.
        max_crashes: runs that may end together with their worker, or lose their lease. Default 5.
        max_snoozes: snoozes that a job may take; None (default) = no limit.

    Raises:
        ConfigurationError: at decoration; a setting is wrong, and the message names it.
        RetriesExhausted: when called; no run is left and the last error was itself a request to
            run again (`RetryLater`, ARQ's `Retry`), or `GiveUp`; that one is its cause.
    """
    given = True
    if isinstance(attempts, _Unset):
        attempts, given = Retrying().attempts, False
    elif attempts is not None:
        attempts = policies.count("attempts", attempts)
    policy = Retrying(
        on=policies.retry_on(on),
        never=policies.exception_types("never", never),
        attempts=attempts,
        attempts_given=given,
        backoff=Retrying().backoff if isinstance(backoff, _Unset) else policies.schedule("backoff", backoff),
        per=_per_error(per),
        retry_after=policies.function("retry_after", retry_after, "from exception to seconds"),
        max_retry_after=policies.seconds("max_retry_after", max_retry_after, zero=True),
        deadline=None if deadline is None else policies.seconds("deadline", deadline),
        max_crashes=policies.count("max_crashes", max_crashes),
        max_snoozes=None if max_snoozes is None else policies.count("max_snoozes", max_snoozes, least=0),
    )
    return Decorator[Retrying, Never](policy) if fn is None else add_policy(fn, policy)


@overload
def dead_letter(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
@overload
def dead_letter(
    *,
    queue: str = "default",
    redact: Iterable[str] = (),
    payload: bool = True,
    retention: Duration | None = None,
    max_entries: int | None = None,
    on_evict: Callable[[Sequence[DeadLetter]], None] | None = None,
    alert_over: int | None = None,
) -> Decorator[DeadLettering, Never]: ...
def dead_letter(
    fn: Callable[..., object] | None = None,
    /,
    *,
    queue: str = "default",
    redact: Iterable[str] = (),
    payload: bool = True,
    retention: Duration | None = None,
    max_entries: int | None = None,
    on_evict: Callable[[Sequence[DeadLetter]], None] | None = None,
    alert_over: int | None = None,
) -> object:
    """Keep the job as a dead letter when no run is left, then let its exception go on.

    Guarantee: the letter is written before the queue is told that the job has ended; if that
    cannot be done, the job is run again. Nothing is evicted unless `retention` or `max_entries` says so.

    The last four settings are the queue's: give all tasks that share one the same, best by sharing the
    decorator (`kept = dead_letter(queue=...)`).

    Args:
        queue: name of the dead letter queue. Default `"default"`.
        redact: parameter names or dotted paths (`"customer.phone"`, `"cards.0.pin"`, `"cards.*.pin"`) whose
            values are masked in the letter's preview, message and traceback. `"cards.pin"` is that of every
            item of a list. The payload keeps them: it is what is run again.
        payload: whether to keep the arguments, so that the job can be run again. Default True.
        retention: seconds or timedelta for which the queue keeps a letter. Default None: for ever.
        max_entries: letters that the queue keeps, whatever their state; the oldest make room. Default None:
            any number. Bounds are looked at within a second after a letter has come.
        on_evict: given the letters before they are removed for either reason, 200 at most; if it raises, they
            stay. `jobguard.exchange.spill_to(path)` appends them to a file.
        alert_over: the event `QueueGrew` is sent when the queue comes to hold more dead letters than this,
            replays that die again included.

    Raises:
        ConfigurationError: at decoration; a setting is wrong, and the message names it.
    """
    if isinstance(redact, str):
        raise InvalidType(f"redact must be several names, not the string {redact!r}; write ({redact!r},)")
    if not isinstance(redact, Iterable):
        raise InvalidType(f"redact must be a tuple of names, not {redact!r}")
    if not isinstance(payload, bool):
        raise InvalidType(f"payload must be True or False, not {payload!r}")
    policy = DeadLettering(
        queue=check_name("queue", queue),
        redact=tuple(_path("redact", path) for path in redact),
        payload=payload,
        retention=None if retention is None else policies.seconds("retention", retention),
        max_entries=None if max_entries is None else policies.count("max_entries", max_entries),
        on_evict=policies.evicting(on_evict),
        alert_over=None if alert_over is None else policies.count("alert_over", alert_over, least=0),
    )
    return Decorator[DeadLettering, Never](policy) if fn is None else add_policy(fn, policy)


@overload
def fallback(
    answer: Callable[..., Awaitable[A]], /, *, on: ExceptionTypes = Exception
) -> Decorator[Fallback, A]: ...
@overload
def fallback(answer: Callable[..., A], /, *, on: ExceptionTypes = Exception) -> Decorator[Fallback, A]: ...
@overload
def fallback(answer: A, /, *, on: ExceptionTypes = Exception) -> Decorator[Fallback, A]: ...
def fallback(answer: object, /, *, on: ExceptionTypes = Exception) -> Decorator[Fallback, object]:
    """Answer in place of the task once everything else is spent.

    The answer goes to the caller or the queue, but it is no success: the job stays FAILED or
    DEAD_LETTER, and the answer is never replayed. `Discard` and cancellation pass it by.

    Args:
        answer: a value, or a function (plain or async) that gets the exception and the call's
            arguments.
        on: exception types that are answered. Default `Exception`; others are raised.

    Raises:
        ConfigurationError: at decoration; a setting is wrong, and the message names it.
    """
    return Decorator[Fallback, object](Fallback(answer, policies.exception_types("on", on)))


def time_limit(seconds: Duration, /) -> Decorator[TimeLimit, Never]:
    """Bound each attempt: a run that takes longer is cancelled and fails with `TimeoutError`.

    That is an ordinary error, which `@retrying` may answer with another run.

    Args:
        seconds: seconds or timedelta for one attempt.

    Raises:
        ConfigurationError: at decoration; the limit is not a positive duration.
    """
    if callable(seconds):
        raise InvalidType(f"@time_limit needs its limit, and got {seconds!r}; write @time_limit(30)")
    return Decorator[TimeLimit, Never](TimeLimit(policies.seconds("seconds", seconds)))


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidType(f"{name} must be a string, not {value!r}")
    if value == "":
        raise InvalidValue(f"{name} must not be empty")
    return value


def _path(name: str, value: object) -> str:
    path = _text(name, value)
    if "" in path.split("."):  # it would lead nowhere, and leave a secret in clear
        raise InvalidValue(f"{name} must be names with dots between, not {path!r}; leave out the odd dot")
    return path


def _per_error(per: Mapping[type[Exception], object] | None) -> tuple[tuple[type[Exception], Retrying], ...]:
    """The settings of `per`, each made by `retrying(...)`."""
    found: list[tuple[type[Exception], Retrying]] = []
    if per is not None and not isinstance(per, Mapping):
        raise InvalidType(f"per must be a dict from exception type to retrying(...), not {per!r}")
    for kind, settings in () if per is None else per.items():
        if isinstance(kind, tuple):
            raise InvalidType(
                f"per must map one exception type each, not the tuple {kind!r}; write an entry for each"
            )
        policies.exception_types("per", kind)
        policy = (
            cast("Decorator[Policy, object]", settings).policy
            if isinstance(settings, Decorator)
            else settings
        )
        if not isinstance(policy, Retrying):
            raise InvalidType(f"per must map exception types to retrying(...), not to {settings!r}")
        found.append((kind, policy))
    return tuple(found)
