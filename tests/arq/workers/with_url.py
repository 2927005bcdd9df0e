"""A worker whose settings have a URL where ARQ wants `RedisSettings`."""

from __future__ import annotations

from jobguard.adapters.arq import protect
from tests.arq.workers.common import Context


async def task(ctx: Context) -> None: ...


@protect
class WorkerSettings:
    functions = (task,)
    redis_settings = "redis://:secret@localhost:6379/0"
