"""Cron jobs with and without a guard."""

from __future__ import annotations

from arq import cron
from jobguard import constant, dead_letter, retrying
from jobguard.adapters.arq import protect
from tests.arq.workers.common import LEASE, REDIS, SETTINGS, Context, configure, note_event, play

SCRIPT: list[str] = SETTINGS.pop("script")


@retrying(attempts=2, backoff=constant(0.1))
@dead_letter
async def guarded(ctx: Context) -> str:
    return await play(ctx, "guarded", SCRIPT)


async def unguarded(ctx: Context) -> str:
    return await play(ctx, "unguarded", ["ok"])


@protect(lease=LEASE, hooks=[note_event])
@configure
class WorkerSettings:
    # Due once a year, so that only the start-up counts.
    cron_jobs = [  # noqa: RUF012
        cron(guarded, month=1, day=1, hour=0, minute=0, run_at_startup=True),
        cron(unguarded, month=1, day=1, hour=0, minute=0, run_at_startup=True),
    ]
    redis_settings = REDIS
    poll_delay = 0.05
