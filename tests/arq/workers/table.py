"""One task for each choice of `@deduplicated`, all with the same keys."""

from __future__ import annotations

from jobguard import constant, deduplicated, retrying
from jobguard.adapters.arq import protect
from tests.arq.workers.common import LEASE, REDIS, Context, configure, note_event, note_startup, play

again = retrying(attempts=3, backoff=constant(3600))


@deduplicated("{label}", scope="table")
@again
async def owner(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated("{label}", scope="table", running="wait")
async def running_wait(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated("{label}", scope="table", running="defer")
async def running_defer(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated("{label}", scope="table", running="raise")
@retrying(attempts=3, backoff=constant(0.1), never=Exception)
async def running_raise(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated("{label}", scope="table", done="skip")
async def done_skip(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated("{label}", scope="table", done="raise")
async def done_raise(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated("{label}", scope="table", done="run")
async def done_run(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated("{label}", scope="table", mismatch="raise")
async def strict(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated("{label}", scope="table", ttl=1)
async def brief(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@protect(lease=LEASE, hooks=[note_event])
@configure
class WorkerSettings:
    functions = [  # noqa: RUF012
        owner, running_wait, running_defer, running_raise, done_skip, done_raise, done_run, strict, brief,
    ]  # fmt: skip
    redis_settings = REDIS
    on_startup = note_startup
    poll_delay = 0.05
