"""A task written by hand with the primitives, in the classic order."""

from __future__ import annotations

from arq.worker import Retry

from jobguard.adapters.arq import protect
from jobguard.primitives import (
    get_retry_delay,
    is_job_already_processed,
    log_job_failure,
    mark_job_as_processed,
    move_to_dead_letter_queue,
)
from tests.arq.workers.common import LEASE, REDIS, Context, configure, note, note_event, play

LIMIT = 3


async def classic(ctx: Context, label: str, script: list[str]) -> str | None:
    key = f"classic:{label}"
    if await is_job_already_processed(ctx, key):
        note("skipped", label=label, job_id=ctx["job_id"])
        return None
    try:
        result = await play(ctx, label, script)
    except Exception as error:
        attempt = ctx["job_try"]
        await log_job_failure(ctx, key, error, attempt, LIMIT, label=label)
        if attempt < LIMIT:
            note("delay", label=label, seconds=await get_retry_delay(attempt))
            raise Retry(defer=0.1) from error
        await move_to_dead_letter_queue(ctx, key, error, label=label)
        raise
    await mark_job_as_processed(ctx, key)
    return result


@configure
class Bare:
    functions = [classic]  # noqa: RUF012
    redis_settings = REDIS
    max_tries = LIMIT
    poll_delay = 0.05


@protect(lease=LEASE, hooks=[note_event])
class Protected(Bare):
    pass
