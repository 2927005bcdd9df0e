"""Cron jobs of the supervised worker when Redis is away as they are due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.cron import CronJob
from redis.exceptions import ConnectionError as RedisConnectionError

from arq import cron
from jobguard.adapters.arq.crons import last_due
from jobguard.testing import EmbeddedValkey
from tests.arq.harness import wait_until
from tests.arq.inprocess import Context, working

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("lost", [False, True])
async def test_a_cron_job_that_was_enqueued_is_not_enqueued_again_for_another_that_was_not(
    pool: ArqRedis, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """Jobs that need not be unique have no id to recognise them by; a unique one keeps the first try's."""
    runs: list[str] = []
    cut: list[str] = []
    enqueue = ArqRedis.enqueue_job

    async def cut_once(self: ArqRedis, function: str, *args: Any, **options: Any) -> Any:
        first = function == "second" and not cut
        if first:
            cut.append(function)
        if lost or not first:
            job = await enqueue(self, function, *args, **options)
        if first:
            raise RedisConnectionError("reset")
        return job

    def at_start(name: str, unique: bool) -> CronJob:
        async def run(ctx: Context) -> None:
            runs.append(name)

        return cron(run, name=name, month=1, day=1, run_at_startup=True, unique=unique, keep_result=60)

    async def body(ctx: Context) -> None:
        runs.append("last")

    monkeypatch.setattr(ArqRedis, "enqueue_job", cut_once)
    jobs = [at_start("first", False), at_start("second", True), at_start("third", False)]
    async with working(valkey, body, poll_delay=0.01, cron_jobs=jobs):
        await wait_until(lambda: len(runs) >= 3)
        await enqueue(pool, "task")
        await wait_until(lambda: "last" in runs)
    assert sorted(runs) == ["first", "last", "second", "third"]
    assert cut == ["second"]


@pytest.mark.parametrize(
    "times",
    [
        {"second": set(range(60))},
        {"second": 0},
        {"minute": {5, 6}, "microsecond": 0},
        {"hour": 3, "minute": 7},
    ],
)
@pytest.mark.parametrize("ago", [1, 59, 3601, 100_000])
async def test_the_last_missed_time_of_a_cron_job_is_found_in_few_steps(
    times: dict[str, Any], ago: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one that walking from time to time would come to; which took seconds after a long outage."""

    async def body(ctx: Context) -> None: ...

    now = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
    job = cron(body, **times)
    job.calculate_next(now - timedelta(seconds=ago))
    walked, expected = replace(job), None
    while walked.next_run is not None and walked.next_run <= now:
        expected = walked.next_run
        walked.calculate_next(expected)
    steps: list[datetime] = []
    step = CronJob.calculate_next

    def counted(self: CronJob, before: datetime) -> None:
        steps.append(before)
        step(self, before)

    monkeypatch.setattr(CronJob, "calculate_next", counted)
    assert last_due(job, now) == expected
    assert len(steps) <= 20
