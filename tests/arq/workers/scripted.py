"""Tasks that do what their second argument says, under every kind of guard."""

from __future__ import annotations

from datetime import timedelta

from jobguard import constant, dead_letter, deduplicated, retrying
from jobguard.adapters.arq import protect
from tests.arq.workers.common import LEASE, REDIS, Context, configure, note_event, note_startup, play


async def unguarded(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@retrying(attempts=3, backoff=constant(0.1), max_crashes=2)
@dead_letter
async def retried(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated(key="{label}", scope="keyed")
@retrying(attempts=3, backoff=constant(0.1), max_crashes=2)
@dead_letter
async def keyed(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated(key="{label}", scope="keyed", running="wait")
async def waiting(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@deduplicated(key="{label}")
@retrying(backoff=constant(0.1))
async def undecided(ctx: Context, label: str, script: list[str]) -> str:
    """Leaves the number of attempts to the worker."""
    return await play(ctx, label, script)


@deduplicated(key="{label}")
@retrying(attempts=3, backoff=constant(timedelta(days=2)))
@dead_letter
async def patient(ctx: Context, label: str, script: list[str]) -> str:
    """Waits for two days between its runs."""
    return await play(ctx, label, script)


@retrying(attempts=1)
@dead_letter(redact=("secret",))
async def secretive(ctx: Context, label: str, script: list[str], secret: str) -> str:
    """Fails with what it should not tell."""
    raise ValueError(secret)


@protect(lease=LEASE, hooks=[note_event])
@configure
class WorkerSettings:
    functions = [unguarded, retried, keyed, waiting, undecided, patient, secretive]  # noqa: RUF012
    redis_settings = REDIS
    on_startup = note_startup
    poll_delay = 0.05
