"""Tasks whose bodies do what a word says, and write down what they did."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

from arq.constants import abort_jobs_ss
from arq.utils import timestamp_ms
from arq.worker import func as arq_function
from redis.exceptions import RedisError

from jobguard import Discard, GiveUp, Snooze, constant, current_job, dead_letter, deduplicated, retrying

Context = dict[str, Any]

LEASE = 1.2
"""Seconds; short, as most of a case is to wait for it, with room for a busy machine."""
ATTEMPTS = 3
PAUSE = timedelta(seconds=0.15)
"""Between attempts: some polls, so that one of them finds nothing, each time."""
PATIENCE = 40.0
"""Seconds after which what is not finished never will be."""


class Failure(Exception):
    """What bodies fail with."""


async def body(ctx: Context, label: str, does: str) -> str:
    """Do what a word says, and write down what was done."""
    note, run, job = ctx["note"], secrets.token_hex(4), current_job()
    note(
        "begin",
        run=run,
        label=label,
        job_id=job.id,
        attempt=job.attempt,
        failures=job.failures,
        crashes=job.crashes,
        interruptions=job.interruptions,
        fence=job.fence,
        pid=os.getpid(),
    )
    how = "broken"
    try:
        how = await _act(ctx, does, job.failures)
    except asyncio.CancelledError:
        how = "cancelled"
        raise
    finally:
        note("end", run=run, label=label, how=how)
    match how:
        case "fail":
            raise Failure(label)
        case "snooze":
            raise Snooze(after=PAUSE)
        case "discard":
            raise Discard("as told")
        case "give_up":
            raise GiveUp("as told")
        case _:
            return label


async def _act(ctx: Context, does: str, failures: int) -> str:
    """What the body does, up to how it ends; that depends on what it is told, and not on who was killed."""
    directory: Path = ctx["directory"]
    verb, _, rest = does.partition(" ")
    match verb:
        case "fail":
            return "fail" if failures < int(rest) else "ok"
        case "broken":
            return "ok" if (directory / "mended").exists() else "fail"
        case "snooze":
            return "snooze" if first_time(directory / "snoozed") else "ok"
        case "stop":
            if ctx["mortal"] and first_time(directory / "stopped"):
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(PATIENCE)
        case "last":
            await asyncio.sleep(LEASE * 0.8)
        case "hold":
            (directory / "holding").touch()
            while not (directory / "over").exists():  # noqa: ASYNC110  # a file tells nobody
                await asyncio.sleep(0.1)
        case "abort":
            await _ask_for_abortion(ctx)
            await asyncio.sleep(LEASE * 1.5)
        case "discard" | "give_up":
            return verb
        case _:
            pass
    return "ok"


async def _ask_for_abortion(ctx: Context) -> None:
    """What `Job.abort` sends, until it has been heard."""
    while True:
        try:
            await ctx["redis"].zadd(abort_jobs_ss, {current_job().id: timestamp_ms()})
        except (RedisError, OSError):
            await asyncio.sleep(0.1)
        else:
            return


def first_time(marker: Path) -> bool:
    """Whether nobody has been here; from now on, somebody has."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@deduplicated(key="{label}")
@retrying(attempts=ATTEMPTS, backoff=constant(PAUSE))
@dead_letter
async def claimed(ctx: Context, label: str, does: str) -> str:
    """A job whose key is claimed."""
    return await body(ctx, label, does)


@retrying(attempts=ATTEMPTS, backoff=constant(PAUSE))
async def retried(ctx: Context, label: str, does: str) -> str:
    """A job that is only retried: the queue alone knows of a success."""
    return await body(ctx, label, does)


@retrying(attempts=ATTEMPTS, backoff=constant(PAUSE))
@dead_letter
async def kept(ctx: Context, label: str, does: str) -> str:
    """A job without a key, of which a dead letter is kept."""
    return await body(ctx, label, does)


FUNCTIONS = [arq_function(each, name=each.__name__) for each in (claimed, retried, kept)]
