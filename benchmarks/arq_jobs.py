"""What three decorators cost an ARQ worker, beside none and beside the pair that many write by hand.

The pair asks for the result before the work and keeps it afterwards. It is not atomic: two jobs that
ask at once both work. All of them run the same body in ARQ's own worker, in bursts, without a pause
between polls; what counts is the processor time of this process, which does nothing else meanwhile.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from typing import Any

from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker, create_worker
from redis.asyncio import Redis

from benchmarks.harness import Work, in_turns
from benchmarks.report import Bound, Line, microseconds
from jobguard import dead_letter, deduplicated, retrying
from jobguard.adapters.arq import create_pool, protect
from jobguard.testing import EmbeddedValkey

DAY = 86_400
JOBS = 200
"""Jobs in a burst."""

Context = dict[Any, Any]


def answer(message_id: str) -> dict[str, object]:
    return {"id": message_id, "sent": True}


async def bare(ctx: Context, to: str, content: str, message_id: str) -> dict[str, object]:
    return answer(message_id)


async def pair(ctx: Context, to: str, content: str, message_id: str) -> dict[str, object]:
    redis: Redis = ctx["redis"]
    known = await redis.get(f"done:{message_id}")
    if known is not None:
        found: dict[str, object] = json.loads(known)
        return found
    result = answer(message_id)
    await redis.setex(f"done:{message_id}", DAY, json.dumps(result))
    return result


@deduplicated(key="{message_id}")
@retrying(attempts=3)
@dead_letter
async def guarded(ctx: Context, to: str, content: str, message_id: str) -> dict[str, object]:
    return answer(message_id)


def plain_settings(function: Callable[..., Any], pool: ArqRedis, queue: str) -> dict[str, Any]:
    return {
        "functions": [function],
        "redis_pool": pool,
        "queue_name": queue,
        "poll_delay": 0,
        "burst": True,
        "handle_signals": False,
        "log_results": False,
    }


class Meter:
    """The processor time that workers have taken so far."""

    def __init__(self) -> None:
        self._spent = 0.0

    def read(self) -> float:
        return self._spent

    def bursts(self, settings: dict[str, Any], name: str, pool: ArqRedis) -> Work:
        """Workers one after the other, each for a burst of jobs; to enqueue these does not count."""

        async def work(times: int) -> None:
            for _ in range(times // JOBS):
                for _ in range(JOBS):
                    await pool.enqueue_job(name, "+491234567", "hello", secrets.token_hex(8))
                worker: Worker = create_worker(settings)
                start = time.process_time()
                await worker.main()
                self._spent += time.process_time() - start
                if worker.jobs_complete != JOBS:
                    raise RuntimeError(f"{name}: {worker!r} should have completed {JOBS} jobs")
                if worker.on_shutdown is not None:
                    await worker.on_shutdown(worker.ctx)

        return work


async def arq_jobs() -> list[Line]:
    """Processor time of a worker by job."""
    with EmbeddedValkey() as server:
        return await _compare(RedisSettings(unix_socket_path=server.socket_path))


async def _compare(redis_settings: RedisSettings) -> list[Line]:
    meter = Meter()
    subjects: dict[str, Work] = {}
    pools: list[ArqRedis] = []
    for title, function, adapt in (
        ("bare ARQ", bare, dict),
        ("GET before, SETEX after", pair, dict),
        ("jobguard, three decorators", guarded, protect),
    ):
        pool = await create_pool(redis_settings, default_queue_name=function.__name__)
        pools.append(pool)
        settings = adapt(plain_settings(function, pool, function.__name__))
        subjects[title] = meter.bursts(settings, function.__name__, pool)
    timings = await in_turns(subjects, rounds=16, slice_seconds=0.2, step=JOBS, clock=meter.read)
    for pool in pools:
        await pool.aclose()
    base, naive, ours = timings.values()
    return [
        *(
            Line(title, microseconds(timing.seconds), timing.over(base), "x bare")
            for title, timing in timings.items()
            if timing is not ours
        ),
        Line(
            "jobguard, three decorators",
            microseconds(ours.seconds),
            ours.over(base),
            "x bare",
            Bound(1.3),
        ),
        Line("the same", microseconds(ours.seconds), ours.over(naive), "x the pair", Bound(1.05)),
    ]
