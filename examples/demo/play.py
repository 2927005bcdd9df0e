"""The demo's plot: start, enqueue, kill the worker, start another, wait, look at what happened."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arq.connections import ArqRedis, RedisSettings
from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix
from arq.jobs import Job, JobResult

from examples import arq_worker
from examples.demo.accounts import JobRecord, Report, Seen, draw_up
from examples.demo.keeper import Broken, Keeper
from examples.demo.orders import INCOMING, SEND, Order, draw_orders
from examples.demo.screen import Screen
from examples.demo.stand_ins import ADDRESSES, API_LOG, FILES_LOG, REPLIES_LOG
from jobguard import Duplicate, JobGuard
from jobguard.adapters.arq import create_pool
from jobguard.stores import RedisStore
from jobguard.stores.base import State
from jobguard.task import guard_of

LEASE = 2.5
JOB_TIMEOUT = 2.0
"""Seconds; short, so that recovering from the kill and cutting off a hang can be watched."""
DOWNLOAD_LIMIT = 200_000
KILL_AT = 0.4
"""The share of jobs done when the worker is killed."""
BUSY = 5
"""Jobs in flight that the kill waits for."""
PATIENCE = 30.0
"""Seconds without any progress after which jobs count as lost."""
LOOK_PAUSE = 0.1
START_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What the acts share."""

    pool: ArqRedis
    keeper: Keeper
    screen: Screen
    orders: Sequence[Order]
    queue: str

    @property
    def reply_ids(self) -> list[str]:
        """Jobs that the tasks enqueue, one a message."""
        return sorted({f"reply-{order.subject}" for order in self.orders if order.task == INCOMING})

    @property
    def job_ids(self) -> list[str]:
        return [*(order.job_id for order in self.orders), *self.reply_ids]


async def play(
    jobs: int, seed: int, *, run: str, url: str, keeper: Keeper, screen: Screen, started: float
) -> Report:
    """One demo from start to accounts."""
    screen.milestone(f"{jobs} jobs, seed {seed}: python examples/arq_worker.py --jobs {jobs} --seed {seed}")
    services = await _start_stand_ins(keeper, seed)
    environment = _worker_environment(run, url, services, keeper.directory)
    pool = await create_pool(RedisSettings.from_dsn(url), default_queue_name=run)
    try:
        stage = Stage(pool, keeper, screen, draw_orders(jobs, seed, run, services["files"]), run)
        _start_worker(keeper, environment)
        await _enqueue(stage, late=False)
        in_flight = await _kill_in_the_middle(stage)
        _start_worker(keeper, environment)
        await _enqueue(stage, late=True)
        await _wait_until_at_rest(stage)
        keeper.end("worker")
        return draw_up(
            await _records(stage, JobGuard(RedisStore(pool), namespace=run)),
            _seen(keeper.directory),
            _lines(keeper.directory / "events.jsonl"),
            in_flight,
            _files(keeper.directory / "downloads"),
            time.monotonic() - started,
        )
    finally:
        await pool.aclose()


async def _start_stand_ins(keeper: Keeper, seed: int) -> dict[str, str]:
    """Start the services; their URLs."""
    command = [sys.executable, "-m", "examples.demo.stand_ins", str(keeper.directory), str(seed)]
    keeper.start("stand-ins", command, os.environ)
    deadline = time.monotonic() + START_TIMEOUT
    addresses = keeper.directory / ADDRESSES
    while not addresses.exists():
        if time.monotonic() > deadline or not keeper.running("stand-ins"):
            raise Broken(f"the stand-ins did not start:\n{keeper.log_of('stand-ins')}")
        await asyncio.sleep(LOOK_PAUSE)
    urls: dict[str, str] = json.loads(addresses.read_text())
    return urls


def _worker_environment(run: str, url: str, services: dict[str, str], directory: Path) -> dict[str, str]:
    """The stock worker's settings: the services are stand-ins, and everything is a little faster."""
    return {
        **os.environ,
        "REDIS_URL": url,
        "WHATSAPP_API_URL": f"{services['api']}/v21.0",
        "WHATSAPP_TOKEN": "stand-in",
        "WHATSAPP_PHONE_NUMBER_ID": "15550100",
        "DOWNLOAD_DIR": str(directory / "downloads"),
        "WORKER_QUEUE": run,
        "WORKER_NAMESPACE": run,
        "WORKER_LEASE": str(LEASE),
        "WORKER_JOB_TIMEOUT": str(JOB_TIMEOUT),
        "WORKER_POLL_DELAY": "0.05",
        "WORKER_RETRY_FIRST": "0.3",
        "WORKER_RETRY_CAP": "2",
        "WORKER_DOWNLOAD_LIMIT": str(DOWNLOAD_LIMIT),
        "WORKER_REPLY_URL": services["replies"],
        "WORKER_EVENT_LOG": str(directory / "events.jsonl"),
    }


def _start_worker(keeper: Keeper, environment: dict[str, str]) -> None:
    keeper.start("worker", [sys.executable, "-m", "arq", "examples.arq_worker.WorkerSettings"], environment)


async def _enqueue(stage: Stage, *, late: bool) -> None:
    for order in stage.orders:
        _heed_cancellation()
        if order.late is late:
            job = await stage.pool.enqueue_job(order.task, *order.arguments, _job_id=order.job_id)
            assert job is not None, f"job id {order.job_id} is taken"


async def _kill_in_the_middle(stage: Stage) -> set[str]:
    """SIGKILL the worker when it is well under way; ids of the jobs that it was running."""
    total = len(stage.job_ids)
    quiet = _Quiet(stage.keeper)
    while True:
        done = await _count_results(stage.pool, stage.job_ids)
        stage.screen.progress("first worker", done, total)
        if done >= KILL_AT * total and (
            len(await _in_progress(stage)) >= BUSY or done >= 2 * KILL_AT * total
        ):
            break
        quiet.check(done)
        await asyncio.sleep(LOOK_PAUSE / 4)
    stage.keeper.kill("worker")
    # ARQ's marks of running jobs outlive the worker by up to a lease.
    in_flight = await _in_progress(stage)
    stage.screen.milestone(f"worker killed with {len(in_flight)} jobs in flight, after {done} jobs")
    return in_flight


async def _wait_until_at_rest(stage: Stage) -> None:
    """Until the queue is empty: ARQ removes a job from it as it writes the job's result."""
    total = len(stage.job_ids)
    quiet = _Quiet(stage.keeper)
    while await stage.pool.zcard(stage.queue) > 0:
        done = await _count_results(stage.pool, stage.job_ids)
        stage.screen.progress("second worker", done, total)
        if quiet.check(done):
            stage.screen.milestone(f"no progress for {PATIENCE:g} s: what is left counts as lost")
            return
        await asyncio.sleep(LOOK_PAUSE)


def _heed_cancellation() -> None:
    """End here if we are to end.

    A Ctrl-C that comes between two commands can get lost in the next: redis-py first looks whether its
    connection is still good, in a time-out of zero, which takes the cancellation for its own.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling() > 0:
        raise asyncio.CancelledError


class _Quiet:
    """Notices when nothing happens any more."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._done = -1
        self._since = time.monotonic()

    def check(self, done: int) -> bool:
        """Whether nothing has been done for long.

        Raises:
            Broken: the worker has ended by itself.
        """
        _heed_cancellation()
        if not self._keeper.running("worker"):
            raise Broken(f"the worker has ended:\n{self._keeper.log_of('worker')[-5000:]}")
        if done != self._done:
            self._done, self._since = done, time.monotonic()
        return time.monotonic() - self._since > PATIENCE


async def _count_results(pool: ArqRedis, job_ids: Collection[str]) -> int:
    return int(await pool.exists(*(result_key_prefix + job_id for job_id in job_ids)))


async def _in_progress(stage: Stage) -> set[str]:
    return await _existing(stage.pool, in_progress_key_prefix, stage.job_ids)


async def _existing(pool: ArqRedis, prefix: str, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs that have such a key."""
    async with pool.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.exists(prefix + job_id)
        found: list[int] = await pipe.execute()
    return {job_id for job_id, exists in zip(job_ids, found, strict=True) if exists}


async def _records(stage: Stage, guard: JobGuard) -> list[JobRecord]:
    """Every job as ARQ's results, jobguard's records and the dead letters show it."""
    letters = await _letters(guard)
    known = {order.job_id: order for order in stage.orders}
    ended = await _existing(stage.pool, result_key_prefix, stage.job_ids)
    waiting = await _existing(stage.pool, job_key_prefix, stage.job_ids)
    records: list[JobRecord] = []
    answered: set[str] = set()
    for job_id in stage.job_ids:
        order = known.get(job_id)
        if order is None and job_id not in ended | waiting | answered:
            continue  # a message that was not answered has no reply to send
        task, subject = (SEND, job_id) if order is None else (order.task, order.subject)
        result = await Job(job_id, stage.pool, _queue_name=stage.queue).result_info()
        success = result is not None and result.success
        value = result.result if result is not None and success else None
        if task == INCOMING and isinstance(value, str):
            answered.add(value)
        records.append(
            JobRecord(
                job_id=job_id,
                task=task,
                subject=subject,
                ended=result is not None,
                success=success,
                duplicate=isinstance(value, Duplicate),
                result=value,
                owns_success=result is not None and await _owns_success(guard, stage.queue, task, result),
                letter=letters.get(job_id),
            )
        )
    return records


async def _owns_success(guard: JobGuard, queue: str, task: str, result: JobResult) -> bool:
    """Whether jobguard's record of the work is a success of this very job."""
    task_guard = guard_of(getattr(arq_worker, task))
    if task_guard is None or task_guard.make_key is None:
        return False
    key = task_guard.make_key(({}, *result.args), result.kwargs)
    record = await guard.store.look_up(guard.runtime.record_key(key.digest))
    if record is None or record.state is not State.SUCCESS:
        return False
    return record.owner.startswith(f"{queue}:{result.job_id}:")


async def _letters(guard: JobGuard) -> dict[str, str]:
    """What each dead letter says, by job."""
    letters: dict[str, str] = {}
    for name in await guard.dead_letters().queues():
        cursor: str | None = None
        while True:
            page = await guard.dead_letters(name).list(limit=100, cursor=cursor)
            for letter in page.entries:
                letters[letter.job_id] = f"{name}: {letter.error_message}"
            cursor = page.cursor
            if cursor is None:
                break
    return letters


def _seen(directory: Path) -> Seen:
    return Seen(*(list(_lines(directory / name)) for name in (API_LOG, FILES_LOG, REPLIES_LOG)))


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    """The lines of JSON in a file, if it is there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _files(directory: Path) -> dict[str, str]:
    """The sha256 of each file that has its final name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.glob("[!.]*")}
