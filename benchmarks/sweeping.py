"""What it takes to look through a queue of ARQ that holds a million jobs, and what a worker loses meanwhile.

The jobs are all put off, so that a worker on the queue runs none of them: it runs bursts of others, in turns
with a sweep going on in its own event loop and without one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any

from arq.connections import ArqRedis, RedisSettings
from arq.jobs import serialize_job
from arq.worker import Worker, create_worker
from arq.worker import func as arq_function

from benchmarks.harness import in_turns
from benchmarks.report import Bound, Line, microseconds
from jobguard import JobGuard
from jobguard.adapters.arq import create_pool, protect
from jobguard.adapters.arq.replay import PAYLOAD_LIFE_MS
from jobguard.adapters.arq.sweeping import Sweeper
from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey

ENTRIES = 1_000_000
WANING, GONE = 10_000, 10_000
"""Payloads that are about to run out, and that have, in the sweep that has something to do."""
BATCH = 5_000
JOBS = 200
"""Jobs in a burst."""
EVERY = 600.0
"""Seconds: the default of `protect(sweep=...)`."""
SWEEP_ON = 0.01
"""Seconds between sweeps while a worker is measured: one follows the other."""
SLOW = 50
"""Microseconds of a command from which on the server notes how long it took."""
DAY_MS = 86_400_000

SECONDS = Bound(120.0)
"""A fifth of the time between two sweeps."""
USUAL = Bound(2.0)
"""Milliseconds for which a command may keep all others waiting, as a rule: the longest of thousands says more
of what else the machine was doing."""
SLOWED = Bound(1.4)

QUEUE = "swept"
RIGHT = f"jobguard:sweep:{QUEUE}"
Context = dict[Any, Any]


async def sweeps(entries: int = ENTRIES) -> list[Line]:
    """Sweeps of a queue in which all is well, and of one in which a hundredth each is late and lost."""
    with EmbeddedValkey() as server:
        settings = RedisSettings(unix_socket_path=server.socket_path)
        pool = await create_pool(settings, default_queue_name=QUEUE)
        store = RedisStore(pool)
        try:
            await _fill(pool, entries)
            lines = await _swept(pool, store, entries)
            lines.append(await _working(pool, store))
            lines.append(await _mending(pool, store, entries))
        finally:
            await store.aclose()
            await pool.aclose()
    return lines


def _sweeper(pool: ArqRedis, store: RedisStore, every: float) -> Sweeper:
    return Sweeper(pool, JobGuard(store).runtime, QUEUE, None, every)


def _id(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


async def _fill(pool: ArqRedis, entries: int) -> None:
    """Jobs enqueued a day ago, for tomorrow."""
    now = int(time.time() * 1000)
    payload = serialize_job("send", ("+491234567", "hello", secrets.token_hex(8)), {}, None, now - DAY_MS)
    for at in range(0, entries, BATCH):
        ids = [_id(number) for number in range(at, min(at + BATCH, entries))]
        async with pool.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.set(f"arq:job:{id}", payload, px=PAYLOAD_LIFE_MS)
            pipe.zadd(QUEUE, {id: now + DAY_MS + number for number, id in enumerate(ids)})
            await pipe.execute()


async def _timed(pool: ArqRedis, store: RedisStore) -> float:
    """Seconds of one sweep."""
    await pool.delete(RIGHT)
    began = perf_counter()
    if await _sweeper(pool, store, EVERY).turn() != EVERY:
        raise RuntimeError("nobody else should have the right to sweep")
    return perf_counter() - began


async def _swept(pool: ArqRedis, store: RedisStore, entries: int) -> list[Line]:
    configure: Any = pool.config_set
    await configure("slowlog-log-slower-than", SLOW)
    await configure("slowlog-max-len", 100_000)
    await pool.slowlog_reset()
    await pool.config_resetstat()
    began = time.process_time()
    seconds = await _timed(pool, store)
    ours = time.process_time() - began
    stats = await pool.info("commandstats")
    slow: list[dict[str, Any]] = await pool.slowlog_get(100_000)
    durations = {name: [each["duration"] for each in slow if name in each["command"]] for name in COMMANDS}
    asked = [stats[f"cmdstat_{name.decode().lower()}"] for name in COMMANDS]
    calls, server = sum(each["calls"] for each in asked), sum(each["usec"] for each in asked) / 1e6
    lines = [
        Line(f"a sweep of {entries:,} entries", f"{calls:,.0f} commands", seconds, "s", SECONDS),
        Line("commands", f"{calls / seconds:,.0f} a second", 1000 * calls / entries, "a thousand entries"),
        Line("the server's part", f"{server:.2f} s", 100 * server / seconds, "% of its time"),
        Line("the worker's part", f"{ours:.2f} s", 100 * ours / seconds, "% of a processor"),
    ]
    for name, words in COMMANDS.items():
        longest = max(durations[name], default=SLOW)
        usual = stats[f"cmdstat_{name.decode().lower()}"]["usec_per_call"]
        lines.append(Line(words, f"at most {longest / 1000:.1f} ms", usual / 1000, "ms", USUAL))
    return lines


COMMANDS = {b"ZSCAN": "a page of entries", b"EVALSHA": "a look at their payloads"}


async def _working(pool: ArqRedis, store: RedisStore) -> Line:
    """Time of a worker's job while its event loop sweeps as well, over that without."""
    left, done = 0, asyncio.Event()

    async def send(ctx: Context, to: str, content: str, message_id: str) -> str:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()
        return message_id

    given: dict[str, Any] = {
        "functions": [arq_function(send, name="send")],
        "redis_pool": pool,
        "queue_name": QUEUE,
        "poll_delay": 0,
        "handle_signals": False,
        "log_results": False,
        "keep_result": 1,
    }
    settings = protect(given, sweep=None)
    spent = 0.0

    async def burst() -> None:
        nonlocal left, spent
        left = JOBS
        done.clear()
        for _ in range(JOBS):
            await pool.enqueue_job("send", "+491234567", "hello", secrets.token_hex(8))
        worker: Worker = create_worker(settings)
        began = perf_counter()
        main = asyncio.create_task(worker.main())
        await done.wait()
        spent += perf_counter() - began
        worker.burst, worker.max_burst_jobs = True, 0  # which ends it after a look at its queue
        await main
        if worker.on_shutdown is not None:
            await worker.on_shutdown(worker.ctx)

    async def alone(times: int) -> None:
        for _ in range(times // JOBS):
            await burst()

    async def beside_a_sweep(times: int) -> None:
        await pool.delete(RIGHT)
        sweeper = _sweeper(pool, store, SWEEP_ON)
        sweeper.start()
        try:
            await alone(times)
        finally:
            await sweeper.aclose()

    clock: Callable[[], float] = lambda: spent  # noqa: E731
    subjects = {"alone": alone, "swept": beside_a_sweep}
    timings = await in_turns(subjects, rounds=40, slice_seconds=0.2, step=JOBS, clock=clock)
    base, swept = timings["alone"], timings["swept"]
    shown = f"{microseconds(swept.seconds)} for {microseconds(base.seconds)}"
    return Line("a worker's job meanwhile", shown, swept.over(base), "x without", SLOWED)


async def _mending(pool: ArqRedis, store: RedisStore, entries: int) -> Line:
    """A sweep in which some payloads are extended, and some have gone."""
    waning = [_id(number) for number in range(0, entries, entries // WANING)]
    gone = [_id(number) for number in range(1, entries, entries // GONE)]
    async with pool.pipeline(transaction=False) as pipe:
        for id in waning:
            pipe.pexpire(f"arq:job:{id}", int(EVERY * 1000))
        pipe.delete(*(f"arq:job:{id}" for id in gone))
        await pipe.execute()
    seconds = await _timed(pool, store)
    if await pool.zcount(QUEUE, 1, 1) != len(gone):
        raise RuntimeError(f"{len(gone)} jobs should have run out")
    if any([await pool.pttl(f"arq:job:{id}") < DAY_MS for id in waning[:100]]):
        raise RuntimeError("payloads should have been extended")
    what = f"with {len(waning):,} extended, {len(gone):,} expired"
    return Line(what, "", seconds, "s", SECONDS)
