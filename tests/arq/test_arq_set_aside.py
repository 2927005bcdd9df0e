"""Queue entries on which ARQ's worker itself fails, every time."""

from __future__ import annotations

from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.utils import timestamp_ms
from arq.worker import Worker, func
from redis.exceptions import ResponseError

from jobguard.testing import EmbeddedValkey
from tests.arq.harness import wait_until
from tests.arq.inprocess import Context, working

pytestmark = pytest.mark.anyio

POISON = ["member", "payload", "count"]


async def plant(pool: Any, where: str) -> bytes:
    """A queue entry on which ARQ's worker fails for good, due before all others; its id."""
    member = b"\xff\xfe" if where == "member" else b"poison"
    await pool.zadd("arq:queue", {member: 5})
    if where == "payload":
        await pool.hset("arq:job:poison", "a", "b")
    if where == "count":
        await pool.set("arq:job:poison", b"")
        await pool.hset("arq:retry:poison", "a", "b")
    return member


@pytest.mark.parametrize("where", POISON)
async def test_a_job_that_cannot_even_be_started_is_put_off_and_kept(
    pool: ArqRedis, valkey: EmbeddedValkey, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Other jobs have their turn, and whoever looks for it finds all of it where it was."""
    runs: list[str] = []

    async def body(ctx: Context) -> None:
        runs.append(ctx["job_id"])

    async def put_off() -> bool:
        score = await pool.zscore("arq:queue", member)
        assert score is not None
        return bool(score > timestamp_ms() + 3_000_000)

    member = await plant(pool, where)
    await pool.enqueue_job("task", _job_id="one")
    async with working(valkey, body, poll_delay=0.01, max_jobs=1):
        await wait_until(lambda: runs)
        await wait_until(put_off)
        await pool.zadd("arq:queue", {member: 5})
        await pool.delete("arq:in-progress:poison")
        await wait_until(put_off)
        await pool.enqueue_job("task", _job_id="two")
        await wait_until(lambda: len(runs) == 2)
    assert caplog.text.count("cannot be run") == 1
    assert await pool.exists("arq:job:poison") == (where != "member")


@pytest.mark.parametrize("where", POISON)
async def test_arqs_own_worker_ends_with_such_a_job(
    pool: ArqRedis, valkey: EmbeddedValkey, where: str
) -> None:
    """The contrast."""

    async def body(ctx: Context) -> None: ...

    await plant(pool, where)
    worker = Worker(
        functions=[func(body, name="task")], redis_pool=pool, poll_delay=0.01, handle_signals=False
    )
    with pytest.raises((UnicodeDecodeError, ResponseError)):
        await worker.async_run()
