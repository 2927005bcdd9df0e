"""ARQ's own transactions on a job: what comes too late is not sent, a payload that has gone is replaced."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker, create_worker, func

from jobguard import JobGuard
from jobguard.adapters.arq import create_pool, protect
from jobguard.events import Event, LeaseLost
from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey
from tests.arq.harness import LEASE

pytestmark = pytest.mark.anyio
Context = dict[Any, Any]


@pytest.fixture
def settings(valkey: EmbeddedValkey) -> RedisSettings:
    return RedisSettings(unix_socket_path=valkey.socket_path)


@pytest.fixture
async def pool(settings: RedisSettings) -> AsyncIterator[ArqRedis]:
    pool = await create_pool(settings)
    await pool.flushall()
    yield pool
    await pool.aclose()


def worker(settings: RedisSettings, task: Callable[[Context], Awaitable[object]], **options: Any) -> Worker:
    """A stock worker in a burst, protected, with one function."""
    hooks = options.pop("hooks", ())
    given: dict[str, Any] = {
        "functions": [func(task, name="task")],  # type: ignore[arg-type]
        "redis_settings": settings,
        "burst": True,
        "poll_delay": 0.05,
        "handle_signals": False,
        **options,
    }
    return create_worker(protect(given, lease=LEASE, hooks=hooks))


async def run(worker: Worker) -> None:
    await worker.async_run()
    await worker.close()


async def letters(pool: ArqRedis) -> list[tuple[str, str]]:
    queue = JobGuard(RedisStore(pool)).dead_letters()
    return [(letter.job_id, letter.reason) async for letter in queue.each()]


async def test_a_job_does_not_begin_whose_mark_has_run_out_since(
    pool: ArqRedis, settings: RedisSettings
) -> None:
    """The process stands still between marking and running: the job may be another worker's by now."""
    events: list[Event] = []
    runs: list[int] = []
    reads: list[bytes] = []

    def read(raw: bytes) -> Any:
        reads.append(raw)
        if len(reads) == 1:
            time.sleep(LEASE * 1.2)
        return pickle.loads(raw)

    async def task(ctx: Context) -> None:
        runs.append(ctx["job_try"])

    await pool.enqueue_job("task")
    await run(worker(settings, task, job_deserializer=read, hooks=[events.append]))
    assert runs == [1]
    assert len([event for event in events if isinstance(event, LeaseLost)]) == 1


@pytest.mark.parametrize("end", ["returns", "raises", "retries"])
async def test_an_end_that_comes_after_the_marks_changes_nothing(
    pool: ArqRedis, settings: RedisSettings, end: str
) -> None:
    """Between the body's end and ARQ's transaction the process stood still; the job is another's."""
    job = await pool.enqueue_job("task", _job_id="a")
    assert job is not None
    runs: list[int] = []
    before: list[list[object]] = []

    async def keys() -> list[object]:
        of_job = [await pool.get(f"arq:{kind}:a") for kind in ("job", "in-progress", "result")]
        return [*of_job, await pool.zscore("arq:queue", "a")]

    async def task(ctx: Context) -> str:
        runs.append(ctx["job_try"])
        if len(runs) > 1:
            return "second"
        if end == "raises":
            raise ValueError(end)
        return "first"

    async def stand_still(ctx: Context) -> None:
        if not before:
            time.sleep(LEASE * 1.2)  # noqa: ASYNC251  it is to block
            await pool.set("arq:in-progress:a", b"another's", px=60_000)
            before.append(await keys())

    async def look(ctx: Context) -> None:
        before.append(await keys())
        await pool.delete("arq:in-progress:a")

    await run(worker(settings, task, on_job_end=stand_still, after_job_end=look))
    assert before[0] == before[1]
    assert await job.result(timeout=5) == "second"
    assert runs == [1, 2]


async def test_a_worker_that_dies_over_an_expired_job_leaves_it_to_the_next(
    pool: ArqRedis, settings: RedisSettings
) -> None:
    """Its letter is written before the queue is told, once, whoever comes to write it."""

    async def task(ctx: Context) -> None: ...

    await pool.zadd("arq:queue", {"gone": 1})
    dying = worker(settings, task)

    async def die(*_: object, **__: object) -> None:
        raise ConnectionError("it died")

    dying.finish_job = die  # type: ignore[method-assign]
    dying.finish_failed_job = die  # type: ignore[method-assign]
    with pytest.raises(ConnectionError, match="it died"):
        await dying.async_run()
    await dying.close()
    assert await letters(pool) == [("gone", "expired")]
    assert await pool.zcard("arq:queue") == 1
    await pool.delete("arq:in-progress:gone")
    await run(worker(settings, task))
    assert await letters(pool) == [("gone", "expired")]
    assert await pool.zcard("arq:queue") == 0


async def test_what_is_left_in_the_queue_of_a_job_that_has_ended_goes(
    pool: ArqRedis, settings: RedisSettings
) -> None:
    """It is no job that expired: its result stays, and there is no letter."""

    async def task(ctx: Context) -> None: ...

    await pool.zadd("arq:queue", {"ended": 1})
    await pool.set("arq:result:ended", b"its result", px=60_000)
    await run(worker(settings, task))
    assert await pool.zcard("arq:queue") == 0
    assert await pool.get("arq:result:ended") == b"its result"
    assert await letters(pool) == []


async def test_a_pool_is_left_as_it_was(pool: ArqRedis) -> None:
    """A worker that was given somebody's pool gives it back."""

    async def task(ctx: Context) -> None: ...

    before = pool.pipeline
    settings: dict[str, Any] = {
        "functions": [func(task, name="task")],
        "redis_pool": pool,
        "burst": True,
        "handle_signals": False,
    }
    workers = [create_worker(protect(settings)) for _ in range(2)]
    for worker in workers:
        await worker.async_run()
    for worker in workers:
        assert pool.pipeline != before
        await worker.on_shutdown(worker.ctx)  # type: ignore[misc]
    assert pool.pipeline == before


async def test_pipelines_of_tasks_are_as_without_protection(pool: ArqRedis, settings: RedisSettings) -> None:
    """Whatever their keys are called: a job's id, or a key that is not there."""
    replies: list[object] = []

    async def task(ctx: Context) -> None:
        async with ctx["redis"].pipeline(transaction=True) as pipe:
            pipe.hget("none", "field")
            pipe.get(ctx["job_id"])
            pipe.get("arq:job:" + ctx["job_id"])
            pipe.psetex("k", time_ms=5_000, value="v")
            pipe.pexpire("k", 9_000, nx=True)
            pipe.delete("k", "none")
            replies.extend(await pipe.execute())

    await pool.enqueue_job("task", _job_id="order:7")
    await run(worker(settings, task))
    assert replies[:2] == [None, None]
    assert isinstance(replies[2], bytes)
    assert replies[3:] == [True, False, 1]


async def test_an_end_that_was_held_up_on_its_way_changes_nothing(
    pool: ArqRedis, settings: RedisSettings
) -> None:
    """It was sent in time and arrives when the job is another worker's: the server compares."""
    runs: list[int] = []

    async def task(ctx: Context) -> int:
        runs.append(ctx["job_try"])
        if len(runs) == 1:
            await pool.set("arq:in-progress:a", b"another's", px=1_000)
        return len(runs)

    job = await pool.enqueue_job("task", _job_id="a")
    assert job is not None
    await run(worker(settings, task))
    assert await job.result(timeout=5) == 2
    assert runs == [1, 2]


async def test_a_hook_may_take_longer_than_a_lease(pool: ArqRedis, settings: RedisSettings) -> None:
    """The mark is renewed until the end of the run is sent."""
    runs: list[int] = []

    async def task(ctx: Context) -> None:
        runs.append(ctx["job_try"])

    async def slow(ctx: Context) -> None:
        await asyncio.sleep(LEASE * 1.3)

    await pool.enqueue_job("task")
    await run(worker(settings, task, on_job_end=slow))
    assert runs == [1]


async def test_workers_of_one_class_share_a_process(pool: ArqRedis, settings: RedisSettings) -> None:
    """The end of one does not shorten the other's timeouts."""
    go = asyncio.Event()

    async def task(ctx: Context) -> str:
        await go.wait()
        return "done"

    protected = protect(
        {
            "functions": [func(task, name="task")],
            "redis_settings": settings,
            "burst": True,
            "poll_delay": 0.05,
            "handle_signals": False,
        },
        lease=LEASE,
    )
    idle, busy = create_worker(protected), create_worker(protected)
    await run(idle)
    job = await pool.enqueue_job("task")
    assert job is not None
    running = asyncio.ensure_future(run(busy))
    await asyncio.sleep(LEASE * 1.3)
    go.set()
    await running
    assert await job.result(timeout=5) == "done"


async def test_a_mark_lasts_a_lease_whatever_the_timeouts_are(
    pool: ArqRedis, settings: RedisSettings
) -> None:
    """ARQ would set it for the longest timeout and ten seconds."""
    left: list[int] = []

    async def task(ctx: Context) -> None:
        left.append(await ctx["redis"].pttl(f"arq:in-progress:{ctx['job_id']}"))

    await pool.enqueue_job("task")
    await run(worker(settings, task, job_timeout=300))
    assert 0 < left[0] <= LEASE * 1000
