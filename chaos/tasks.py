"""What the campaign's workers run: bodies that do as their script says and write down that they did.

Imported in a worker's process, whose environment says where everything is.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from pathlib import Path
from random import Random
from typing import Any

from arq.connections import RedisSettings

from chaos.journal import Journal
from chaos.orders import ATTEMPTS, MAX_CRASHES, Failure
from jobguard import Discard, Snooze, constant, current_job, dead_letter, deduplicated, retrying
from jobguard.adapters.arq import protect
from jobguard.errors import NoCurrentJob

Context = dict[str, Any]

CONFIG: dict[str, Any] = json.loads(os.environ["CHAOS_CONFIG"])
BIRTH = int(os.environ["CHAOS_BIRTH"])
"""What this process is called in journals: the system uses its own numbers again."""
DIRECTORY = Path(CONFIG["directory"])
JOURNAL = Journal(DIRECTORY / "bodies.journal")
MENDED = DIRECTORY / "mended"
"""Exists once the cause of all failures has gone."""
LAST_SNOOZE = 3
"""Delivery from which on a body snoozes no more."""
STEP = 0.08
"""Seconds between two signs of life of a body."""


async def body(ctx: Context, label: str, key: str, script: dict[str, Any]) -> str:
    """Do as told: hold for some time, then fail so many times, snooze, discard or succeed."""
    run, seen = secrets.token_hex(6), _seen(ctx)
    JOURNAL.write("begin", run=run, label=label, key=key, pid=BIRTH, **seen)
    how = "broken"
    try:
        for _ in range(max(round(script.get("hold", 0) / STEP), 1)):
            await asyncio.sleep(STEP)
            JOURNAL.write("step", run=run)
        if not MENDED.exists():
            early = ctx["job_try"] <= LAST_SNOOZE
            if early and Random(f"{label} {ctx['job_try']}").random() < script.get("snooze", 0):
                how = "snooze"
                raise Snooze(after=0.2)
            if script.get("discard"):
                how = "discard"
                raise Discard("as told")
            if seen["failures"] < script.get("fail", 0):
                how = "fail"
                raise Failure(label)
        how = "ok"
    except asyncio.CancelledError:
        how = "cancelled"
        raise
    finally:
        JOURNAL.write("end", run=run, how=how)
    return label


def _seen(ctx: Context) -> dict[str, Any]:
    """What the body is told of its job."""
    try:
        job = current_job()
    except NoCurrentJob:  # bare ARQ
        return {"fence": None, "failures": ctx["job_try"] - 1}
    return {"fence": job.fence, "failures": job.failures}


@deduplicated(key="{key}", ttl=3600)
@retrying(attempts=ATTEMPTS, max_crashes=MAX_CRASHES, backoff=constant(0.2))
@dead_letter
async def keyed(ctx: Context, label: str, key: str, script: dict[str, Any]) -> str:
    return await body(ctx, label, key, script)


@retrying(attempts=ATTEMPTS, max_crashes=MAX_CRASHES, backoff=constant(0.2))
@dead_letter
async def plain(ctx: Context, label: str, key: str, script: dict[str, Any]) -> str:
    return await body(ctx, label, key, script)


async def on_startup(ctx: Context) -> None:
    JOURNAL.write("ready", pid=BIRTH)


@protect(lease=CONFIG["lease"])
class WorkerSettings:
    """Under jobguard's protection."""

    functions = (keyed, plain)
    on_startup = on_startup
    redis_settings = RedisSettings(**CONFIG["redis"])
    max_jobs = 10
    poll_delay = 0.1
    job_timeout = 60
    keep_result = 36_000
    job_completion_wait = 1
