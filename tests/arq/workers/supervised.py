"""A worker whose server may be away, or ask for a password."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import replace

from arq import cron
from jobguard import constant, dead_letter, deduplicated, retrying
from jobguard.adapters.arq import protect
from tests.arq.workers.common import LEASE, REDIS, SETTINGS, Context, configure, note, note_event, play

REDIS_SETTINGS = replace(
    REDIS, password=os.environ.get("TEST_PASSWORD"), database=int(os.environ.get("TEST_DATABASE", "0"))
)
CRON = SETTINGS.pop("cron", False)


async def start_up(ctx: Context) -> None:
    note("startup")
    if "TEST_STARTUP_FAILS" in os.environ:
        raise RuntimeError("cannot start")
    while "TEST_STARTUP_HANGS" in os.environ:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(600)


async def note_shutdown(ctx: Context) -> None:
    note("shutdown")
    while "TEST_SHUTDOWN_HANGS" in os.environ:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(600)


@retrying(attempts=3, backoff=constant(0.1))
@dead_letter
async def retried(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated(key="{label}")
@retrying(attempts=3, backoff=constant(0.1))
@dead_letter
async def keyed(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


async def ticking(ctx: Context) -> str:
    return await play(ctx, "tick", ["ok"])


@protect(lease=LEASE, hooks=[note_event])
@configure
class WorkerSettings:
    functions = [retried, keyed]  # noqa: RUF012
    cron_jobs = [cron(ticking, second=set(range(60)))] if CRON else None
    redis_settings = REDIS_SETTINGS
    on_startup = start_up
    on_shutdown = note_shutdown
    poll_delay = 0.05


@configure
class Unprotected:
    functions = [retried]  # noqa: RUF012
    redis_settings = REDIS_SETTINGS
