"""Worker settings in every form that ARQ takes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from arq.worker import func

from jobguard import constant, dead_letter, retrying
from jobguard.adapters.arq import protect
from tests.arq.workers.common import LEASE, REDIS, Context, note, note_event, play


@retrying(backoff=constant(0.1))
@dead_letter
async def guarded(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


async def bare_task(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@protect
class Bare:
    functions = [guarded]  # noqa: RUF012
    redis_settings = REDIS
    poll_delay = 0.05


class Plain:
    functions: Sequence[object] = (guarded, bare_task)
    redis_settings = REDIS
    poll_delay = 0.05
    max_tries = 4


@protect(lease=LEASE)
class Inherited(Plain):
    """Everything but the protection is inherited, which ARQ alone would ignore."""


class Subclass(Inherited):
    """Protected since its base is."""

    max_tries = 2


class Called(Plain):
    pass


protect(Called, lease=LEASE)

AS_DICT = protect({"functions": [guarded], "redis_settings": REDIS, "poll_delay": 0.05, "max_tries": 4})


class Unprotected:
    functions = [guarded]  # noqa: RUF012
    redis_settings = REDIS
    poll_delay = 0.05


@protect(lease=LEASE, defaults=[retrying(attempts=2, backoff=constant(0.1)), dead_letter(queue="others")])
class Defaults(Plain):
    pass


@protect(lease=LEASE)
class Entries(Plain):
    """Functions with settings of their own."""

    functions = (
        func(guarded, name="twice", max_tries=2),
        func(guarded, name="quick", timeout=0.5, max_tries=1),
        func(bare_task, name="bare", timeout=0.5),
        "tests.arq.workers.styles.guarded",
    )
    job_timeout = 60


async def on_startup(ctx: Context) -> None:
    note("hook", name="on_startup")
    ctx["service"] = "of mine"


async def on_shutdown(ctx: Context) -> None:
    note("hook", name="on_shutdown", service=ctx["service"])


async def on_job_start(ctx: Context) -> None:
    note("hook", name="on_job_start", job_id=ctx["job_id"])


async def on_job_end(ctx: Context) -> None:
    note("hook", name="on_job_end", job_id=ctx["job_id"])


async def after_job_end(ctx: Context) -> None:
    note("hook", name="after_job_end", job_id=ctx["job_id"])


@retrying
async def shows_ctx(ctx: Context) -> list[str]:
    note("ctx", service=ctx["service"], given=ctx["given"], job_try=ctx["job_try"])
    return sorted(ctx)


@protect(hooks=[note_event])
class Hooks(Plain):
    functions = (shows_ctx,)
    ctx = {"given": "in settings"}  # noqa: RUF012
    on_startup = on_startup
    on_shutdown = on_shutdown
    on_job_start = on_job_start
    on_job_end = on_job_end
    after_job_end = after_job_end


async def broken(ctx: Context) -> None:
    raise ConnectionError("a hook that fails")


@protect
class BrokenHooks(Plain):
    on_job_start = broken
    on_job_end = broken
    after_job_end = broken


async def slow(ctx: Context) -> None:
    note("hook", name="slow")
    await asyncio.sleep(LEASE * 2)


@protect(lease=LEASE, hooks=[note_event])
class SlowHook(Plain):
    on_job_start = slow
