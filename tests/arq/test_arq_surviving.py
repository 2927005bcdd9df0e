"""The supervised worker when a single command fails: what it gives back, and what it does not write twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.typing import WorkerCoroutine
from arq.worker import Retry, Worker, func
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

from arq import cron
from jobguard import current_job, dead_letter, retrying
from jobguard.adapters.arq import create_pool
from jobguard.adapters.arq.lateness import EndWriter
from jobguard.adapters.arq.surviving import SurvivingWorker
from jobguard.testing import EmbeddedValkey
from tests.arq.harness import wait_until
from tests.arq.inprocess import Context, working

pytestmark = pytest.mark.anyio


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


async def test_an_end_is_written_again_though_the_payload_ran_out_meanwhile(
    pool: ArqRedis, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No payload says that the job has ended, unless its entry has gone from the queue as well."""
    runs: list[str] = []
    tries = failing_ends(monkeypatch, "finish_job", 1)

    async def body(ctx: Context) -> None:
        runs.append(ctx["job_id"])
        await pool.delete(f"arq:job:{ctx['job_id']}")

    await pool.enqueue_job("task")
    async with working(valkey, body, poll_delay=0.01) as worker:
        await wait_until(lambda: runs)
        await wait_until(lambda: not worker.running)
        assert not await pool.exists("arq:queue")
    assert (len(runs), len(tries)) == (1, 2)


async def test_the_end_of_a_job_that_was_aborted_before_its_start_is_written_again(
    pool: ArqRedis, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The abort is forgotten on the server by then: the job would be delivered again, and run."""
    runs: list[str] = []
    tries = failing_ends(monkeypatch, "finish_failed_job", 1)

    async def body(ctx: Context) -> None:
        runs.append(ctx["job_id"])

    async def empty() -> bool:
        return not await pool.exists("arq:queue")

    job = await pool.enqueue_job("task")
    assert job is not None
    await pool.zadd("arq:abort", {job.job_id: 1})
    async with working(valkey, body, poll_delay=0.01, allow_abort_jobs=True) as worker:
        await wait_until(lambda: tries)
        await wait_until(lambda: not worker.running)
        assert await empty()
    assert (runs, len(tries)) == ([], 2)


def failing_ends(monkeypatch: pytest.MonkeyPatch, method: str, failures: float) -> list[object]:
    """Let so many tries of ARQ's to write an end fail before they are sent; all tries."""
    write = getattr(Worker, method)
    tries: list[object] = []

    async def end(self: Worker, *how: Any) -> None:
        tries.append(how)
        if len(tries) <= failures:
            raise RedisConnectionError("reset")
        await write(self, *how)

    monkeypatch.setattr(Worker, method, end)
    return tries


async def test_a_job_that_ends_while_the_server_is_full_is_not_run_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A transaction that the server refuses is refused for now; the worker goes on, and so does the mark."""
    runs: list[str] = []
    full = asyncio.Event()

    async def body(ctx: Context) -> None:
        runs.append(ctx["job_id"])
        await full.wait()

    with EmbeddedValkey() as server:
        pool = await create_pool(RedisSettings(unix_socket_path=server.socket_path))
        await pool.enqueue_job("task", _job_id="one")
        async with working(server, body, poll_delay=0.01) as worker:
            await wait_until(lambda: runs)
            await pool.config_set("maxmemory", "1")
            full.set()
            await wait_until(lambda: "Redis is away" in caplog.text)
            await pool.config_set("maxmemory", "0")
            await wait_until(lambda: not worker.running)
            assert not await pool.exists("arq:queue")
        await pool.aclose()
    assert runs == ["one"]


async def test_an_argument_may_have_any_name(pool: ArqRedis, valkey: EmbeddedValkey) -> None:
    """ARQ gives the context by place, so `ctx` is a name like others."""
    seen: list[object] = []

    async def body(context: Context, /, **given: Any) -> None:
        seen.append(given)

    await pool.enqueue_job("task", ctx="a", call="b", args="c")
    async with working(valkey, cast(WorkerCoroutine, body), poll_delay=0.01):
        await wait_until(lambda: seen)
    assert seen == [{"ctx": "a", "call": "b", "args": "c"}]


async def test_the_functions_of_the_settings_stay_as_they_are() -> None:
    """Several workers of one process share them; the next times of cron jobs are each one's own."""

    async def body(ctx: Context) -> None: ...

    function, job = func(body, name="task"), cron(body, name="tick", second=0)
    for _ in range(2):
        worker = SurvivingWorker(patience=5, functions=[function], cron_jobs=[job])
        assert worker.functions["tick"] is worker.cron_jobs[0] is not job
        assert worker.functions["task"] is not function
    assert function.coroutine is job.coroutine is body


@retrying(attempts=3, max_crashes=1)
@dead_letter
async def counted(ctx: Context) -> None:
    """Says how many crashes are known, and waits if it is told to."""
    ctx["crashes"].append(current_job().crashes)
    await ctx["go"].wait()


async def test_ends_that_outages_cut_off_are_no_crashes() -> None:
    """Nothing but the count of deliveries says that the job was run; however often, it is no poison."""
    ctx: Context = {"crashes": [], "go": asyncio.Event()}
    with EmbeddedValkey(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        pool = await create_pool(RedisSettings(unix_socket_path=server.socket_path))
        await pool.enqueue_job("task", _job_id="one")
        async with working(server, counted, ctx=ctx, lease=1, poll_delay=0.01) as worker:
            for run in range(1, 4):
                await wait_until(lambda: len(ctx["crashes"]) == run)  # noqa: B023
                server.kill()
                ctx["go"].set()
                await wait_until(lambda: not worker.running)
                ctx["go"].clear()
                server.start()
            await wait_until(lambda: len(ctx["crashes"]) == 4)
            ctx["go"].set()
            await wait_until(lambda: not worker.running)
            assert not await pool.exists("arq:queue")
        await pool.aclose()
    assert ctx["crashes"] == [0, 0, 0, 0]


async def test_ends_that_fail_while_the_server_answers_others_are_crashes(
    pool: ArqRedis, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that always breaks its connection, by the size of its result for one, is given up some time."""

    async def given_up(*how: object) -> bool:
        return False

    tries = failing_ends(monkeypatch, "finish_job", 1)
    monkeypatch.setattr(EndWriter, "_late", given_up)
    ctx: Context = {"crashes": [], "go": asyncio.Event()}
    ctx["go"].set()
    await pool.enqueue_job("task")
    async with working(valkey, counted, ctx=ctx, lease=1, poll_delay=0.01):
        await wait_until(lambda: len(tries) == 2)
    assert ctx["crashes"] == [0]
