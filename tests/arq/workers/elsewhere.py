"""A worker whose records are on another server than its queue."""

from __future__ import annotations

import os

from jobguard import constant, dead_letter, deduplicated, retrying
from jobguard.adapters.arq import protect
from jobguard.stores import RedisStore
from tests.arq.workers.common import LEASE, REDIS, SETTINGS, Context, configure, note_event, play

ON_STORE_ERROR = SETTINGS.pop("on_store_error", "raise")


@deduplicated(key="{label}")
@retrying(attempts=3, backoff=constant(0.1))
@dead_letter
async def keyed(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@retrying(attempts=3, backoff=constant(1), max_crashes=1)
async def retried(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@protect(
    store=RedisStore.from_url(os.environ["TEST_STORE"]),
    lease=LEASE,
    hooks=[note_event],
    on_store_error=ON_STORE_ERROR,
)
@configure
class WorkerSettings:
    functions = [keyed, retried]  # noqa: RUF012
    redis_settings = REDIS
    poll_delay = 0.05
