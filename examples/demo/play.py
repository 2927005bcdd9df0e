"""The demo's plot: start, enqueue, kill the worker, start another, wait; then do what an operator does.

That is: renew the access token that had expired, look at the dead letters, and have those run again that
can now succeed. The accounts come last, and cover it all.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from arq.connections import ArqRedis, RedisSettings
from arq.constants import in_progress_key_prefix, result_key_prefix

from examples.demo.accounts import Report, draw_up
from examples.demo.keeper import Broken, Keeper
from examples.demo.orders import INCOMING, Order, draw_orders
from examples.demo.records import Records, existing, files, lines, seen
from examples.demo.screen import Screen
from examples.demo.shell import Shell
from examples.demo.stand_ins import ADDRESSES, FIRST_TOKEN
from examples.whatsapp import WhatsAppTokenExpired
from jobguard import JobGuard
from jobguard.adapters.arq import create_pool
from jobguard.letters import type_name
from jobguard.stores import RedisStore

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
EXPIRED = f"error={type_name(WhatsAppTokenExpired(''))}"
"""The filter for what a new token mends."""
CANARIES, REPLAYED = 2, 3
"""Replays that must succeed before the rest goes, and how many `keep` does in all: the others are to try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a demo is to be.

    Attributes:
        jobs, seed: as on the command line.
        run: a name that is in everything it writes.
        url: of its Redis.
        keep: it is to go on after the accounts: the worker stays, and some that could be run again do too.
        started: monotonic time of its start.
    """

    jobs: int
    seed: int
    run: str
    url: str
    keep: bool
    started: float

    @property
    def line(self) -> str:
        """What starts such a demo again."""
        keep = " --keep" if self.keep else ""
        return f"python examples/arq_worker.py --jobs {self.jobs} --seed {self.seed}{keep}"


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


async def play(plan: Plan, keeper: Keeper, screen: Screen) -> Report:
    """One demo from start to accounts."""
    screen.milestone(f"{plan.jobs} jobs, seed {plan.seed}: {plan.line}")
    services = await _start_stand_ins(keeper, plan.seed)
    environment = _worker_environment(plan, services, keeper.directory)
    pool = await create_pool(RedisSettings.from_dsn(plan.url), default_queue_name=plan.run)
    try:
        orders = draw_orders(plan.jobs, plan.seed, plan.run, services["files"])
        stage = Stage(pool, keeper, screen, orders, plan.run)
        records = Records(pool, JobGuard(RedisStore(pool), namespace=plan.run), plan.run)
        _start_worker(keeper, environment)
        await _enqueue(stage, late=False)
        in_flight = await _kill_in_the_middle(stage)
        _start_worker(keeper, environment)
        await _enqueue(stage, late=True)
        complaints: list[str] = []
        if await _wait_until_at_rest(stage, "second worker"):
            await records.remember_letters()
            complaints = await _work_through_the_letters(stage, plan, environment)
        if not plan.keep:
            keeper.end("worker")
        return draw_up(
            await records.of(stage.orders, stage.job_ids),
            seen(keeper.directory),
            lines(keeper.directory / "events.jsonl"),
            in_flight,
            files(keeper.directory / "downloads"),
            time.monotonic() - plan.started,
            complaints,
            stage.reply_ids,
        )
    finally:
        await pool.aclose()


async def _work_through_the_letters(stage: Stage, plan: Plan, environment: dict[str, str]) -> list[str]:
    """Do what an operator does with dead letters whose cause has gone; what went wrong with it."""
    shell = Shell(stage.keeper, stage.screen, operator_environment(plan))
    shell.remark("everything is at rest, and these jobs are dead letters")
    await shell.jobguard("dlq", "queues")
    await shell.jobguard("dlq", "groups", "--queue", "whatsapp")
    shell.remark("the access token had expired: get a new one, and restart the worker with it")
    stage.keeper.end("worker")
    token = await _renew_token(environment["WHATSAPP_API_URL"])
    _start_worker(stage.keeper, environment | {"WHATSAPP_TOKEN": token})
    shell.remark(f"what it was to send can go out now: {CANARIES} first, and the rest once these are through")
    canaries = ["--canary", str(CANARIES), *(["--limit", str(REPLAYED)] if plan.keep else [])]
    await shell.jobguard("dlq", "requeue", EXPIRED, "since=1h", "--queue", "whatsapp", *canaries, "--yes")
    await _wait_until_at_rest(stage, "replays")
    await shell.jobguard("dlq", "queues")
    shell.remark(f"what is left says why{'; some of it is left to try' if plan.keep else ''}")
    await shell.jobguard("dlq", "list", "--queue", "whatsapp", "--limit", "10")
    await shell.jobguard("dlq", "groups", "--queue", "downloads")
    return shell.complaints


async def _renew_token(api: str) -> str:
    async with httpx.AsyncClient() as client:
        response = await client.get(
            f"{api}/oauth/access_token",
            params={"grant_type": "fb_exchange_token", "fb_exchange_token": FIRST_TOKEN},
        )
        return str(response.raise_for_status().json()["access_token"])


def operator_environment(plan: Plan) -> dict[str, str]:
    """What `jobguard` has to know to find the demo's letters."""
    return {"JOBGUARD_URL": plan.url, "JOBGUARD_NAMESPACE": plan.run}


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


def _worker_environment(plan: Plan, services: dict[str, str], directory: Path) -> dict[str, str]:
    """The stock worker's settings: the services are stand-ins, and everything is a little faster."""
    return {
        **os.environ,
        "REDIS_URL": plan.url,
        "WHATSAPP_API_URL": f"{services['api']}/v21.0",
        "WHATSAPP_TOKEN": FIRST_TOKEN,
        "WHATSAPP_PHONE_NUMBER_ID": "15550100",
        "DOWNLOAD_DIR": str(directory / "downloads"),
        "WORKER_QUEUE": plan.run,
        "WORKER_NAMESPACE": plan.run,
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


async def _wait_until_at_rest(stage: Stage, who: str) -> bool:
    """Until the queue is empty: ARQ removes a job from it as it writes the job's result.

    False = it has not become empty, and nothing happens any more.
    """
    total = len(stage.job_ids)
    quiet = _Quiet(stage.keeper)
    while (left := await stage.pool.zcard(stage.queue)) > 0:
        done = await _count_results(stage.pool, stage.job_ids)
        stage.screen.progress(who, done, total)
        if quiet.check(done, left):
            stage.screen.milestone(f"no progress for {PATIENCE:g} s: what is left counts as lost")
            return False
        await asyncio.sleep(LOOK_PAUSE)
    return True


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
        self._last: tuple[int, ...] = ()
        self._since = time.monotonic()

    def check(self, *counts: int) -> bool:
        """Whether the counts have been the same for long.

        Raises:
            Broken: the worker has ended by itself.
        """
        _heed_cancellation()
        if not self._keeper.running("worker"):
            raise Broken(f"the worker has ended:\n{self._keeper.log_of('worker')[-5000:]}")
        if counts != self._last:
            self._last, self._since = counts, time.monotonic()
        return time.monotonic() - self._since > PATIENCE


async def _count_results(pool: ArqRedis, job_ids: Collection[str]) -> int:
    return int(await pool.exists(*(result_key_prefix + job_id for job_id in job_ids)))


async def _in_progress(stage: Stage) -> set[str]:
    return await existing(stage.pool, in_progress_key_prefix, stage.job_ids)
