"""Workers that are killed or shut down while they run jobs, and jobs that outlast a lease."""

from __future__ import annotations

import signal

import pytest

from tests.arq.harness import LEASE, Bench, running_in, wait_until

pytestmark = pytest.mark.anyio
GUARDED = pytest.mark.parametrize("task", ["retried", "keyed"])


async def test_the_job_of_a_killed_worker_runs_again_when_its_lease_ends(bench: Bench) -> None:
    """SIGKILL is a crash: counted apart, no attempt used, and over within a lease, not 310 s."""
    jobs = {
        name: await bench.enqueue(name, name, ["sleep 60", "ok"])
        for name in ("retried", "keyed", "unguarded")
    }
    first = bench.start()
    for name in jobs:
        await bench.journal.run(name, 1)
    await first.stop(signal.SIGKILL)
    await bench.drain()
    for name, job in jobs.items():
        assert await bench.result(job) == f"{name} by run 2"
    for name in ("retried", "keyed"):
        second = await bench.journal.run(name, 2)
        assert (second["crashes"], second["failures"], second["interruptions"]) == (1, 0, 0)
        assert (second["attempt"], second["remaining"]) == (2, 2)
    assert await bench.leftovers() == []


async def test_sigterm_interrupts_a_run_and_the_next_worker_repeats_it_at_once(bench: Bench) -> None:
    """A shutdown is neither a failure nor a crash, and nobody waits for the lease to end."""
    jobs = {name: await bench.enqueue(name, name, ["sleep 60", "ok"]) for name in ("retried", "keyed")}
    first = bench.start(lease=60)
    for name in jobs:
        await bench.journal.run(name, 1)
    assert await first.stop() == 0
    assert len(bench.journal.entries("cancelled")) == 2
    await bench.drain(lease=60)
    for name, job in jobs.items():
        assert await bench.result(job) == f"{name} by run 2"
        second = await bench.journal.run(name, 2)
        assert (second["interruptions"], second["failures"], second["crashes"]) == (1, 0, 0)
        assert second["remaining"] == 2
    assert await bench.leftovers() == []


async def test_sigterm_with_completion_wait_lets_a_run_finish(bench: Bench) -> None:
    """The worker takes no new job, ends this one, and then itself."""
    job = await bench.enqueue("keyed", "a", ["wait go"])
    worker = bench.start(job_completion_wait=60)
    await bench.journal.run("a", 1)
    worker.send(signal.SIGTERM)
    await wait_until(lambda: "allow_pick_jobs" in worker.output())
    late = await bench.enqueue("keyed", "b", ["ok"])
    bench.open("go")
    assert await worker.ended() == 0
    assert await bench.result(job) == "a by run 1"
    assert bench.journal.entries("cancelled") == []
    assert bench.journal.runs("b") == []
    await bench.drain()
    assert await bench.result(late) == "b by run 1"


async def test_a_run_that_outlasts_the_completion_wait_is_interrupted(bench: Bench) -> None:
    """When the grace period is over, the run is cut off as by a plain SIGTERM."""
    job = await bench.enqueue("keyed", "a", ["sleep 60", "ok"])
    worker = bench.start(job_completion_wait=1, lease=60)
    await bench.journal.run("a", 1)
    assert await worker.stop() == 0
    await bench.drain(lease=60)
    assert await bench.result(job) == "a by run 2"
    second = await bench.journal.run("a", 2)
    assert (second["interruptions"], second["failures"], second["crashes"]) == (1, 0, 0)


async def test_ten_deploys_in_a_row_use_up_no_attempt(bench: Bench) -> None:
    """Ten times the body is cut off; the eleventh run still has every attempt that it began with."""
    script = [*["sleep 60"] * 10, "ok"]
    jobs = {name: await bench.enqueue(name, name, script) for name in ("retried", "keyed")}
    for deploy in range(1, 11):
        worker = bench.start(lease=60)
        for name in jobs:
            await bench.journal.run(name, deploy)
        assert await worker.stop() == 0
    await bench.drain(lease=60)
    for name, job in jobs.items():
        assert await bench.result(job) == f"{name} by run 11"
        last = await bench.journal.run(name, 11)
        assert (last["interruptions"], last["failures"], last["crashes"]) == (10, 0, 0)
        assert (last["attempt"], last["remaining"]) == (11, 2)
    assert await bench.letters() == []


async def test_a_body_longer_than_several_leases_runs_once(bench: Bench) -> None:
    """The heartbeat keeps an idle second worker off it, whatever the guard, and other jobs go on."""
    names = ("retried", "keyed", "unguarded")
    jobs = {name: await bench.enqueue(name, name, [f"sleep {LEASE * 3}"]) for name in names}
    first = bench.start()
    for name in names:
        await bench.journal.run(name, 1)
    await bench.ready(bench.start())
    other = await bench.enqueue("keyed", "b", ["ok"])
    assert await bench.result(other) == "b by run 1"
    for name, job in jobs.items():
        assert await bench.result(job) == f"{name} by run 1"
        assert [run["pid"] for run in bench.journal.runs(name)] == [first.pid]
    await bench.at_rest()


@GUARDED
async def test_a_killed_worker_after_a_failure_leaves_both_counts(bench: Bench, task: str) -> None:
    """Failures, interruptions and crashes of one job are told apart over many workers."""
    job = await bench.enqueue(task, "a", ["fail", "sleep 60", "sleep 60", "ok"])
    first = bench.start()
    await bench.journal.run("a", 2)
    await first.stop()
    second = bench.start()
    await bench.journal.run("a", 3)
    await second.stop(signal.SIGKILL)
    await bench.drain()
    assert await bench.result(job) == "a by run 4"
    last = await bench.journal.run("a", 4)
    assert (last["failures"], last["interruptions"], last["crashes"]) == (1, 1, 1)


async def test_an_interruption_between_runs_changes_nothing(bench: Bench) -> None:
    """A worker that stops while a job waits for its retry has nothing to record."""
    job = await bench.enqueue("keyed", "a", ["retry 1", "ok"])
    worker = bench.start()

    async def waits() -> bool:
        return len(bench.journal.entries("RetryScheduled")) == 1 and not await running_in(bench.pool, job)

    await wait_until(waits)
    assert await worker.stop() == 0
    await bench.drain()
    assert await bench.result(job) == "a by run 2"
    second = await bench.journal.run("a", 2)
    assert (second["failures"], second["interruptions"], second["crashes"]) == (1, 0, 0)


async def test_an_interrupted_job_runs_again_also_with_retry_jobs_false(bench: Bench) -> None:
    """That setting forbids repeating failures; ARQ alone would give an interrupted job up for it."""
    job = await bench.enqueue("keyed", "a", ["sleep 60", "ok"])
    worker = bench.start(retry_jobs=False)
    await bench.journal.run("a", 1)
    assert await worker.stop() == 0
    await bench.drain(retry_jobs=False)
    assert await bench.result(job) == "a by run 2"
