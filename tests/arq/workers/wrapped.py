"""A worker whose function has somebody else's decorator around its guard, which may not let it start."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

from jobguard import constant, dead_letter, retrying
from jobguard.adapters.arq import protect
from tests.arq.workers.common import (
    DIRECTORY,
    LEASE,
    REDIS,
    Context,
    configure,
    note_event,
    note_startup,
    play,
)

Task = Callable[[Context, str, list[str]], Awaitable[str]]


def permitted(task: Task) -> Task:
    @functools.wraps(task)
    async def ask_first(ctx: Context, label: str, script: list[str]) -> str:
        if not (DIRECTORY / "gate-permit").exists():
            raise PermissionError("not today")
        return await task(ctx, label, script)

    return ask_first


@permitted
@retrying(attempts=3, backoff=constant(0.1), max_crashes=2)
@dead_letter
async def retried(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@protect(lease=LEASE, hooks=[note_event])
@configure
class WorkerSettings:
    functions = [retried]  # noqa: RUF012
    redis_settings = REDIS
    on_startup = note_startup
    poll_delay = 0.05
