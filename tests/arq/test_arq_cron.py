"""Cron jobs of a protected worker."""

from __future__ import annotations

import signal

import pytest

from tests.arq.harness import LEASE, Bench, wait_until

pytestmark = pytest.mark.anyio
CRON = "crons.WorkerSettings"


async def test_a_failing_cron_job_is_retried_soon(bench: Bench) -> None:
    """ARQ keeps the mark of a cron job for a minute; its retry does not wait for that."""
    bench.start(CRON, script=["fail", "ok"])
    second = await bench.journal.run("guarded", 2)
    assert second["failures"] == 1
    await wait_until(lambda: bench.journal.entries("done", "guarded"))


async def test_a_cron_job_that_fails_each_time_becomes_a_dead_letter(bench: Bench) -> None:
    """Under the name that ARQ gives it."""
    bench.start(CRON, script=["fail"])
    letter = await bench.letter()
    assert (letter.task, letter.reason, letter.failures) == ("cron:guarded", "exhausted", 2)


async def test_a_finished_cron_job_keeps_its_mark(bench: Bench) -> None:
    """That is how ARQ keeps other workers from running the same tick again."""
    bench.start(CRON, script=["ok"])
    for label in ("guarded", "unguarded"):
        job_id = (await bench.journal.run(label, 1))["job_id"]

        async def kept(job_id: str = job_id) -> bool:
            return int(await bench.pool.pttl(f"arq:in-progress:{job_id}")) > 30_000

        await wait_until(kept)
        assert not await bench.pool.exists(f"arq:job:{job_id}")


async def test_the_cron_job_of_a_killed_worker_runs_again_when_its_lease_ends(bench: Bench) -> None:
    """Not after the longest timeout, as with ARQ alone; and a long one keeps its mark meanwhile."""
    first = bench.start(CRON, script=[f"sleep {LEASE * 2} then sleep 60", "ok"])
    run = await bench.journal.run("guarded", 1)
    await first.stop(signal.SIGKILL)
    bench.start(CRON, script=["ok"])

    def again() -> bool:
        return [each["job_id"] for each in bench.journal.runs("guarded")].count(run["job_id"]) == 2

    await wait_until(again)
