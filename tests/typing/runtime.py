"""Guards, stores, dead letters, hooks and the current job. Checked, never run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type

from redis.asyncio import Redis, RedisCluster

from jobguard import (
    DeadLetter,
    DeadLetterQueue,
    Duplicate,
    Job,
    JobGuard,
    JobStatus,
    Page,
    current_job,
)
from jobguard.codec import Codec
from jobguard.errors import ConfigurationError, InvalidType, InvalidValue, JobGuardError, StoreUnavailable
from jobguard.events import DeadLettered, Event, Hook, RetryScheduled
from jobguard.job import AttemptError
from jobguard.stores import MemoryStore, RedisStore
from jobguard.stores.base import Store


def both_stores_are_stores(client: Redis, cluster: RedisCluster) -> None:
    stores: list[Store] = [
        MemoryStore(),
        MemoryStore(clock=lambda: 0.0),
        RedisStore(client),
        RedisStore(cluster),
        RedisStore.from_url("redis://localhost", ssl_ca_certs="ca.pem"),
    ]
    assert_type(RedisStore.from_url("redis://localhost"), RedisStore)
    assert_type(JobGuard(stores[0]).store, Store)
    JobGuard(client)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Half:
    async def forget(self, key: str) -> bool:
        return False


def half_a_store_is_none() -> None:
    JobGuard(Half())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def count_events(event: Event) -> None:
    assert_type(event.task, str)
    assert_type(event.job, str)
    assert_type(event.key, str | None)
    if isinstance(event, RetryScheduled):
        assert_type(event.delay, float)
    elif isinstance(event, DeadLettered):
        assert_type(event.id, str)


class Metrics:
    def __call__(self, event: Event, /) -> None: ...

    def record(self, event: Event) -> None: ...


@dataclass
class Point:
    x: int


def write_point(point: Point) -> int:
    return point.x


def only_retries(event: RetryScheduled) -> None: ...


def hooks_are_any_callables() -> None:
    seen: list[Event] = []
    hooks: list[Hook] = [count_events, Metrics(), Metrics().record, print, seen.append]
    JobGuard(MemoryStore(), hooks=hooks)
    JobGuard(MemoryStore(), hooks=(count_events, lambda event: seen.append(event)))
    JobGuard(MemoryStore(), hooks=[only_retries])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    JobGuard(MemoryStore(), hooks=count_events)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def settings_of_a_guard() -> None:
    codec = Codec().register(Point, "point", write_point, Point)
    assert_type(codec, Codec)
    JobGuard(MemoryStore(), namespace="shop", lease=5, codec=codec, on_store_error="run")
    JobGuard(MemoryStore(), lease=timedelta(seconds=5), on_store_error="raise")
    JobGuard(MemoryStore(), on_store_error="hide")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    JobGuard(MemoryStore(), "shop")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Shop(JobGuard):
    """A guard of a user's own."""


async def a_guard_is_entered_as_itself() -> None:
    async with JobGuard(MemoryStore()) as guard:
        assert_type(guard, JobGuard)
    async with Shop(MemoryStore()) as shop:
        assert_type(shop, Shop)


async def dead_letters(guard: JobGuard) -> None:
    queue = guard.dead_letters()
    assert_type(queue, DeadLetterQueue)
    assert_type(DeadLetterQueue(guard.store, "orders", namespace="shop").name, str)
    assert_type(await guard.dead_letters("orders").count(), int)
    page = await queue.list(limit=10, cursor=None)
    assert_type(page, Page)
    assert_type(page.entries, tuple[DeadLetter, ...])
    assert_type(await queue.list(10, page.cursor), Page)
    assert_type(await queue.get("id"), DeadLetter | None)
    assert_type(await queue.remove("id"), bool)
    assert_type(await queue.queues(), list[str])
    letter = page.entries[0]
    assert_type(letter.task, str)
    assert_type(letter.key, str | None)
    assert_type(letter.attempts, tuple[AttemptError, ...])
    letter.task = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def the_current_job() -> None:
    job = current_job()
    assert_type(job, Job)
    assert_type(job.task, str)
    assert_type(job.id, str)
    assert_type(job.attempt, int)
    assert_type(job.failures, int)
    assert_type(job.interruptions, int)
    assert_type(job.crashes, int)
    assert_type(job.remaining, int | None)
    assert_type(job.last_error, AttemptError | None)
    assert_type(job.key, str | None)
    assert_type(job.fence, int | None)
    assert_type(job.idempotency_key, str)
    job.attempt = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def values(duplicate: Duplicate) -> None:
    key, status, owner = duplicate
    assert_type((key, status, owner), tuple[str, JobStatus, str])
    text: str = status
    text.upper()


def errors_can_be_caught_as_what_they_are() -> None:
    errors: list[type[JobGuardError]] = [ConfigurationError, InvalidType, InvalidValue, StoreUnavailable]
    type_errors: list[type[TypeError]] = [InvalidType]
    value_errors: list[type[ValueError]] = [InvalidValue]
    assert_type(errors[0](), JobGuardError)
    assert_type(type_errors[0](), TypeError)
    assert_type(value_errors[0](), ValueError)
