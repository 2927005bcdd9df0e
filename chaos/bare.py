"""The same bodies under ARQ alone, as its documentation shows: retries raised by hand, no protection."""

from __future__ import annotations

from typing import Any

from arq.connections import RedisSettings

from arq import Retry
from chaos.orders import ATTEMPTS, Failure
from chaos.tasks import CONFIG, body, on_startup

Context = dict[str, Any]


async def keyed(ctx: Context, label: str, key: str, script: dict[str, Any]) -> str:
    try:
        return await body(ctx, label, key, script)
    except Failure as error:
        raise Retry(defer=0.2) from error


async def plain(ctx: Context, label: str, key: str, script: dict[str, Any]) -> str:
    return await keyed(ctx, label, key, script)


class WorkerSettings:
    """ARQ's own settings, with a timeout short enough for jobs of killed workers to come back in time."""

    functions = (keyed, plain)
    on_startup = on_startup
    redis_settings = RedisSettings(**CONFIG["redis"])
    max_jobs = 10
    max_tries = ATTEMPTS
    poll_delay = 0.1
    job_timeout = 10
    keep_result = 36_000
    job_completion_wait = 1
