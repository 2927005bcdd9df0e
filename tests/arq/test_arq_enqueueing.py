"""A connection that is lost while a job is enqueued: the job is there, or its caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job
from arq.worker import create_worker, func
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import WatchError

from arq import create_pool as arq_create_pool
from jobguard.adapters.arq import create_pool, protect
from jobguard.adapters.arq.enqueueing import insist

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(redis_client: Redis, redis_url: str) -> RedisSettings:
    return RedisSettings(unix_socket_path=redis_url.removeprefix("unix://"))


@pytest.fixture
async def pool(settings: RedisSettings) -> AsyncIterator[ArqRedis]:
    pool = await create_pool(settings)
    yield pool
    await pool.aclose()


def losing_replies(pool: ArqRedis, times: int, *, executed: bool) -> None:
    """Let the pool lose its connection so often as this task writes, before or after the server has it."""
    pipeline: Callable[..., Any] = pool.pipeline
    left, task = [times], asyncio.current_task()

    def broken(*args: Any, **kwargs: Any) -> Any:
        pipe = pipeline(*args, **kwargs)
        execute = pipe.execute

        async def lose() -> Any:
            if left[0] == 0 or asyncio.current_task() is not task:
                return await execute()
            left[0] -= 1
            if executed:
                await execute()
            else:
                await pipe.reset()
            raise WatchError("A ConnectionError occurred on while watching one or more keys")

        pipe.execute = lose
        return pipe

    pool.pipeline = broken  # type: ignore[method-assign]


async def test_arq_takes_a_lost_connection_for_a_job_that_exists(settings: RedisSettings) -> None:
    """The job is nowhere, and its caller is told that it was enqueued before."""
    pool = await arq_create_pool(settings)
    losing_replies(pool, 1, executed=False)
    assert await pool.enqueue_job("send", _job_id="a") is None
    assert await pool.exists("arq:job:a") == 0
    await pool.aclose()


@pytest.mark.parametrize("id", ["a", None])
async def test_a_job_that_is_nowhere_is_an_error(pool: ArqRedis, id: str | None) -> None:
    """Its caller can enqueue it again."""
    losing_replies(pool, 1, executed=False)
    with pytest.raises(Disconnected, match="enqueued"):
        await pool.enqueue_job("send", 1, _job_id=id, to="Ada")
    job = await pool.enqueue_job("send", 1, _job_id=id, to="Ada")
    assert isinstance(job, Job)
    [queued] = await pool.queued_jobs()
    assert (queued.job_id, queued.args, queued.kwargs) == (job.job_id, (1,), {"to": "Ada"})


async def test_arguments_may_be_called_anything(pool: ArqRedis) -> None:
    """Also as our own are."""
    await pool.enqueue_job("send", pool=1, enqueue=2)
    [queued] = await pool.queued_jobs()
    assert queued.kwargs == {"pool": 1, "enqueue": 2}


async def test_a_pool_insists_once(pool: ArqRedis) -> None:
    """However many workers it is given to."""
    before = pool.enqueue_job
    insist(pool)
    assert pool.enqueue_job == before


async def test_a_job_whose_reply_was_lost_is_there_once(pool: ArqRedis) -> None:
    """Its id was made up here, so it is the caller's own."""
    losing_replies(pool, 1, executed=True)
    job = await pool.enqueue_job("send", _queue_name="other")
    assert job is not None
    assert await pool.zcard("other") == 1
    info = await job.info()
    assert info is not None
    assert info.function == "send"


async def test_an_id_that_is_taken_is_refused(pool: ArqRedis) -> None:
    """While the job waits, as by ARQ."""
    assert await pool.enqueue_job("send", _job_id="a") is not None
    assert await pool.enqueue_job("send", _job_id="a") is None


async def test_jobs_enqueue_others_as_safely(settings: RedisSettings) -> None:
    """The pool that a protected worker hands to its tasks insists too."""
    seen: list[object] = []

    async def follow_up(ctx: dict[str, Any]) -> None:
        losing_replies(ctx["redis"], 1, executed=True)
        seen.append(await ctx["redis"].enqueue_job("later"))

    async def later(ctx: dict[str, Any]) -> None:
        seen.append(ctx["job_id"])

    pool = await create_pool(settings)
    await pool.enqueue_job("follow_up")
    await pool.aclose()
    worker = create_worker(
        protect(
            {
                "functions": [func(follow_up, name="follow_up"), func(later, name="later")],
                "redis_settings": settings,
                "burst": True,
                "poll_delay": 0.02,
                "handle_signals": False,
            }
        )
    )
    await worker.async_run()
    await worker.close()
    assert isinstance(seen[0], Job)
    assert seen[1:] == [seen[0].job_id]
