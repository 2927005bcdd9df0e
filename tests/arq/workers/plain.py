"""A worker whose functions have no guard of their own."""

from __future__ import annotations

from jobguard.adapters.arq import protect
from tests.arq.workers.common import LEASE, REDIS, Context, configure, note_event, note_startup, play


async def retried(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


async def secretive(ctx: Context, label: str, script: list[str], secret: str) -> str:
    raise ValueError(secret)


@protect(lease=LEASE, hooks=[note_event])
@configure
class WorkerSettings:
    functions = [retried, secretive]  # noqa: RUF012
    redis_settings = REDIS
    on_startup = note_startup
    poll_delay = 0.05
