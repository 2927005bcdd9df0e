"""Which settings the decorators take, and which they do not. Checked, never run."""

from __future__ import annotations

from datetime import timedelta
from typing import Never, assert_type

from jobguard import (
    Discard,
    Duplicate,
    GiveUp,
    RetryLater,
    Snooze,
    constant,
    dead_letter,
    deduplicated,
    exponential,
    fallback,
    fibonacci,
    linear,
    retrying,
    time_limit,
)
from jobguard.backoff import Schedule
from jobguard.guarding import Decorator
from jobguard.policies import DeadLettering, Deduplication, Fallback, Policy, Retrying, TimeLimit


def make_key(message_id: str) -> tuple[str, int]:
    return message_id, 1


def is_passing(error: Exception) -> bool:
    return True


def asked_for(error: Exception) -> float | None:
    return None


def asked_for_timedelta(error: Exception) -> timedelta:
    return timedelta(seconds=1)


def squares(failure: int) -> float:
    return failure**2


async def no_seconds(failure: int) -> float:
    return failure


class Doubling:
    def __call__(self, failure: int) -> int:
        return 1 << failure


def keys_and_durations() -> None:
    deduplicated("{message_id}")
    deduplicated(("to", "message_id"))
    deduplicated(key="{message_id}", ttl=60)
    deduplicated(key=("to", "message_id"), ttl=0.5)
    deduplicated(key=make_key, ttl=timedelta(days=1))
    deduplicated(None, scope="messages")
    deduplicated(key=None, mismatch="raise")
    deduplicated(key=1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    deduplicated(ttl="1d")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    deduplicated(running="stop")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    deduplicated(done="wait")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    deduplicated("{a}", "scope")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def errors_and_limits() -> None:
    retrying(on=ValueError)
    retrying(on=(ValueError, OSError), never=KeyError, attempts=None)
    retrying(on=is_passing, never=(KeyError, TypeError), attempts=5)
    retrying(retry_after=asked_for, max_retry_after=timedelta(minutes=5))
    retrying(retry_after=asked_for_timedelta, deadline=60)
    retrying(deadline=timedelta(hours=1), max_crashes=1, max_snoozes=10)
    retrying(on=BaseException)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    retrying(never=KeyboardInterrupt)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    retrying(attempts="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    retrying(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def schedules() -> None:
    assert_type(exponential(30, factor=2, cap=600, jitter="full"), Schedule)
    assert_type(linear(timedelta(seconds=1), step=2, cap=timedelta(minutes=1), jitter="equal"), Schedule)
    assert_type(fibonacci(1, jitter=None), Schedule)
    assert_type(constant(5), Schedule)
    assert_type(constant(5)(1), float)
    assert_type(constant(5).base(1), float)
    retrying(backoff=exponential())
    retrying(backoff=squares)
    retrying(backoff=Doubling())
    retrying(backoff=5)
    retrying(backoff=timedelta(seconds=5))
    retrying(backoff=no_seconds)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    retrying(backoff="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    exponential(jitter="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def settings_per_error() -> None:
    patient = retrying(attempts=10, backoff=constant(60))
    retrying(per={TimeoutError: patient, ConnectionError: retrying(attempts=2)})
    retrying(per={Exception: retrying()}, attempts=None)
    by_error: dict[type[Exception], Decorator[Retrying, Never]] = {OSError: patient}
    retrying(per=by_error)
    retrying(per={TimeoutError: time_limit(3)})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    retrying(per={"TimeoutError": patient})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    retrying(per={TimeoutError: 3})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


def the_others() -> None:
    dead_letter(queue="orders", redact=("customer.phone",), payload=False)
    dead_letter(redact=["content"])
    dead_letter(redact={"content"})
    dead_letter("orders")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    time_limit(timedelta(seconds=1))
    time_limit(0.5)
    time_limit(seconds=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    time_limit()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fallback()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    fallback(0, on=KeyboardInterrupt)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def a_decorator_knows_its_policy_and_what_it_adds() -> None:
    assert_type(deduplicated(), Decorator[Deduplication, Duplicate])
    assert_type(deduplicated(running="wait"), Decorator[Deduplication, Never])
    assert_type(retrying(), Decorator[Retrying, Never])
    assert_type(dead_letter(), Decorator[DeadLettering, Never])
    assert_type(time_limit(1), Decorator[TimeLimit, Never])
    assert_type(fallback("x"), Decorator[Fallback, str])
    assert_type(retrying().policy.attempts, int | None)


def decorators_of_several_kinds_fit_one_list() -> None:
    same: list[Decorator[Policy, Never]] = [retrying(), dead_letter(), deduplicated(running="wait")]
    every: list[Decorator[Policy, object]] = [*same, deduplicated(), fallback("x")]
    same = [deduplicated()]  # type: ignore[list-item]  # pyright: ignore[reportAssignmentType]
    every.extend(same)


def signals(kind: int) -> None:
    if kind == 1:
        raise RetryLater("busy", after=5)
    if kind == 2:
        raise RetryLater(after=timedelta(seconds=5)) from None
    if kind == 3:
        raise Snooze(after=60)
    if kind == 4:
        raise GiveUp("no such number")
    if kind == 5:
        raise Snooze()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    raise Discard
