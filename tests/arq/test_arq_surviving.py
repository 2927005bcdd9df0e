"""The supervised worker when a single command fails: what it gives back, and what it does not write twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.typing import WorkerCoroutine
from arq.worker import Retry, Worker, func
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

from jobguard.adapters.arq import create_pool, protect
from jobguard.adapters.arq.surviving import SurvivingWorker
from jobguard.testing import EmbeddedValkey
from tests.arq.harness import wait_until

pytestmark = pytest.mark.anyio

Context = dict[Any, Any]


@pytest.fixture
async def pool(valkey: EmbeddedValkey) -> AsyncIterator[ArqRedis]:
    pool = await create_pool(RedisSettings(unix_socket_path=valkey.socket_path))
    await pool.flushall()
    yield pool
    await pool.aclose()


@asynccontextmanager
async def working(
    valkey: EmbeddedValkey, body: WorkerCoroutine, **settings: Any
) -> AsyncIterator[SurvivingWorker]:
    """A worker that runs `task` while the block does."""
    protected = protect(
        {
            "functions": [func(body, name="task")],
            "redis_settings": RedisSettings(unix_socket_path=valkey.socket_path),
            **settings,
        }
    )
    known = {name: value for name, value in protected.items() if not name.startswith("__")}
    worker = SurvivingWorker(patience=5, **known)
    serving = asyncio.get_running_loop().create_task(worker.serve())
    yield worker
    serving.cancel()
    await asyncio.wait({serving})
    await worker.halt()
    await worker.interrupt()
    await worker.shut_down()


async def test_a_start_that_fails_keeps_no_slot(
    pool: ArqRedis, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ARQ counts the job as running from before it asks Redis for it."""
    failures = 5
    runs: list[str] = []
    watch = Pipeline.watch

    async def failing(self: Any, *names: str) -> Any:
        nonlocal failures
        if failures and names[0].startswith("arq:in-progress"):
            failures -= 1
            raise RedisConnectionError("reset")
        return await watch(self, *names)

    async def body(ctx: Context) -> None:
        runs.append(ctx["job_id"])

    monkeypatch.setattr(Pipeline, "watch", failing)
    await pool.enqueue_job("task")
    async with working(valkey, body, max_jobs=1, poll_delay=0.01):
        await wait_until(lambda: runs)
    assert failures == 0


def replies_lost(monkeypatch: pytest.MonkeyPatch, then: Callable[[], Awaitable[object]]) -> list[str]:
    """Let the first end that ARQ writes take effect, do something, and say that the connection broke."""
    finish_job = Worker.finish_job
    written: list[str] = []

    async def finish(self: Worker, job_id: str, *how: Any) -> None:
        await finish_job(self, job_id, *how)
        written.append(job_id)
        if len(written) == 1:
            await then()
            raise RedisConnectionError("reset")

    monkeypatch.setattr(Worker, "finish_job", finish)
    return written


async def test_an_end_whose_reply_was_lost_does_not_end_the_next_job_of_its_id(
    pool: ArqRedis, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id was free as soon as the end was written, and has been used again."""
    runs: list[str] = []

    async def body(ctx: Context) -> None:
        runs.append(ctx["job_id"])

    async def again() -> None:
        assert await pool.enqueue_job("task", _job_id="one") is not None

    written = replies_lost(monkeypatch, again)
    await pool.enqueue_job("task", _job_id="one")
    # Seldom enough to come after the first try to write the end once more.
    async with working(valkey, body, keep_result=0, poll_delay=1):
        await wait_until(lambda: len(runs) == 2)
        await wait_until(lambda: len(written) == 2)
    assert not await pool.exists("arq:queue")


async def test_a_retry_whose_reply_was_lost_is_not_put_off_twice(
    pool: ArqRedis, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ARQ adds the delay to the job's time in the queue."""

    async def body(ctx: Context) -> None:
        raise Retry(defer=1000)

    async def nothing() -> None: ...

    written = replies_lost(monkeypatch, nothing)
    job = await pool.enqueue_job("task")
    assert job is not None
    enqueued = await pool.zscore("arq:queue", job.job_id)
    assert enqueued is not None
    async with working(valkey, body, poll_delay=0.01) as worker:
        await wait_until(lambda: written)
        await wait_until(lambda: not worker.running)
        due = await pool.zscore("arq:queue", job.job_id)
    assert due is not None
    assert 1_000_000 <= due - enqueued < 2_000_000
    assert len(written) == 1


async def test_an_end_that_was_not_written_is_written_again(
    pool: ArqRedis, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke before the command was sent; the body is not repeated for that."""
    runs: list[str] = []
    finish_job, tries = Worker.finish_job, 0

    async def finish(self: Worker, *how: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RedisConnectionError("reset")
        await finish_job(self, *how)

    async def body(ctx: Context) -> None:
        runs.append(ctx["job_id"])

    async def empty() -> bool:
        return not await pool.exists("arq:queue")

    monkeypatch.setattr(Worker, "finish_job", finish)
    await pool.enqueue_job("task")
    async with working(valkey, body, poll_delay=0.01):
        await wait_until(empty)
    assert (len(runs), tries) == (1, 2)
