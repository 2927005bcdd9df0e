"""Protected ARQ workers, and tasks written by hand. Checked, never run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, assert_type

from arq.connections import ArqRedis, RedisSettings

from jobguard import dead_letter, deduplicated, retrying, time_limit
from jobguard.adapters.arq import create_pool, protect
from jobguard.events import Event
from jobguard.primitives import (
    get_retry_delay,
    is_job_already_processed,
    log_job_failure,
    mark_job_as_processed,
    move_to_dead_letter_queue,
)
from jobguard.stores import MemoryStore, RedisStore


@deduplicated(key="{message_id}")
@retrying(attempts=3)
async def send(ctx: dict[str, Any], message_id: str) -> str:
    return message_id


def on_event(event: Event) -> None: ...


@protect
class Bare:
    functions: ClassVar = [send]
    max_tries = 3


@protect()
class Called:
    functions: ClassVar = [send]


@protect(
    store=RedisStore.from_url("redis://localhost"),
    namespace="shop",
    lease=timedelta(seconds=5),
    defaults=(retrying(attempts=5), dead_letter(), time_limit(30), deduplicated()),
    hooks=[on_event],
    on_store_error="run",
)
class Configured:
    functions: ClassVar = [send]
    queue_name = "orders"


class Plain:
    queue_name = "orders"


def classes_keep_their_type() -> None:
    assert_type(Bare.max_tries, int)
    assert_type(Configured.queue_name, str)
    assert_type(Called(), Called)
    assert_type(protect(Plain), type[Plain])
    assert_type(protect(Plain, store=MemoryStore(), lease=5), type[Plain])
    assert_type(protect(lease=5)(Plain), type[Plain])
    assert_type(protect(Plain).queue_name, str)


def dicts_stay_dicts() -> None:
    settings: dict[str, Any] = {"functions": [send]}
    assert_type(protect(settings), dict[str, Any])
    assert_type(protect(settings, namespace="shop"), dict[str, Any])
    assert_type(protect()(settings), dict[str, Any])


def wrong_settings_are_errors() -> None:
    protect([send])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    protect(lease="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    protect(defaults=[5])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def jobs_are_enqueued_through_arqs_own_pool() -> None:
    assert_type(await create_pool(), ArqRedis)
    assert_type(await create_pool(RedisSettings(), default_queue_name="orders"), ArqRedis)


async def primitives(ctx: dict[str, Any], error: Exception) -> None:
    assert_type(await is_job_already_processed(ctx, "key"), bool)
    assert_type(await mark_job_as_processed(ctx, "key", ttl=timedelta(days=1)), bool)
    assert_type(await log_job_failure(ctx, "key", error, 1, 3, to="a"), None)
    assert_type(await move_to_dead_letter_queue(ctx, "key", error, to="a"), str)
    assert_type(await get_retry_delay(1), float)
    await is_job_already_processed(ctx, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
