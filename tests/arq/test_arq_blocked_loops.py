"""A body that blocks its worker's event loop past the lease: nothing in that process can end it or renew."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.worker import func

from jobguard.adapters.arq import create_pool, protect
from jobguard.adapters.arq.surviving import SurvivingWorker
from jobguard.events import Event, LeaseLost
from jobguard.testing import EmbeddedValkey
from tests.arq.harness import LEASE, Bench, wait_until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("program", ["arq", "jobguard.adapters.arq"])
async def test_another_worker_takes_a_blocked_job_over_and_its_neighbours(bench: Bench, program: str) -> None:
    """The block is told once; a neighbour ends at its next await; what comes late counts for nothing."""
    bench.program = program
    blocking = await bench.enqueue("keyed", "blocking", ["wait now then block late", "ok"])
    neighbour = await bench.enqueue("keyed", "neighbour", ["sleep 60", "ok"])
    blocked = bench.start()
    await bench.journal.run("blocking", 1)
    await bench.journal.run("neighbour", 1)
    bench.open("now")
    other = bench.start()
    assert (await bench.journal.run("blocking", 2))["pid"] == other.pid
    assert (await bench.journal.run("neighbour", 2))["pid"] == other.pid
    assert await bench.result(blocking) == "blocking by run 2"
    assert bench.journal.entries("LoopBlocked") == []
    bench.open("late")
    await wait_until(lambda: bench.journal.entries("cancelled", "neighbour"))
    told = await wait_until(lambda: bench.journal.entries("LoopBlocked"))
    await wait_until(lambda: blocked.output().count("retrying job") == 2)
    assert [(entry["pid"], entry["lease"]) for entry in told] == [(blocked.pid, LEASE)]
    assert len(bench.journal.entries("LoopBlocked")) == 1
    assert await bench.result(neighbour) == "neighbour by run 2"
    await bench.at_rest()
    assert [len(bench.journal.runs(label)) for label in ("blocking", "neighbour")] == [2, 2]
    assert await bench.letters() == []


@pytest.fixture
async def pool(valkey: EmbeddedValkey) -> AsyncIterator[ArqRedis]:
    pool = await create_pool(RedisSettings(unix_socket_path=valkey.socket_path))
    await pool.flushall()
    yield pool
    await pool.aclose()


async def test_a_job_does_not_begin_whose_mark_has_run_out_since(
    pool: ArqRedis, valkey: EmbeddedValkey
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

    async def task(ctx: dict[Any, Any]) -> None:
        runs.append(ctx["job_try"])

    settings: dict[str, Any] = {
        "functions": [func(task, name="task")],
        "redis_settings": RedisSettings(unix_socket_path=valkey.socket_path),
        "job_deserializer": read,
        "poll_delay": 0.05,
    }
    protected = protect(settings, lease=LEASE, hooks=[events.append])
    protected.pop("__jobguard_settings__")
    await pool.enqueue_job("task")
    worker = SurvivingWorker(patience=5, **protected)
    serving = asyncio.get_running_loop().create_task(worker.serve())

    async def done() -> bool:
        return not await pool.exists("arq:queue")

    await wait_until(done)
    serving.cancel()
    await asyncio.wait({serving})
    await worker.halt()
    await worker.shut_down()
    assert runs == [1]
    assert len([event for event in events if isinstance(event, LeaseLost)]) == 1
