"""A run that lost its lease and goes on late: the job belongs to the new holder by then."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable

import pytest
from arq.jobs import Job as QueuedJob

from tests.arq.harness import LEASE, Bench, WorkerProcess, running_in, wait_until

pytestmark = pytest.mark.anyio
TASKS = ("retried", "keyed", "unguarded")


async def intact(bench: Bench, job: QueuedJob) -> bool:
    """The job's queue entry, payload and mark are there, and it has no result."""
    return bool(
        await running_in(bench.pool, job)
        and await bench.pool.exists(f"arq:job:{job.job_id}")
        and await bench.pool.zscore("arq:queue", job.job_id) is not None
        and not await bench.pool.exists(f"arq:result:{job.job_id}")
    )


async def all_intact(bench: Bench, jobs: Iterable[QueuedJob]) -> None:
    """Wait until the holder's heartbeat has restored every mark, and nothing else is missing."""

    async def check() -> bool:
        return all([await intact(bench, job) for job in jobs])

    await wait_until(check)


async def frozen_and_taken_over(bench: Bench, second: str) -> tuple[WorkerProcess, dict[str, QueuedJob]]:
    """A worker stopped in the middle of jobs that a second worker has begun again since."""
    jobs = {task: await bench.enqueue(task, task, ["sleep 60", second, "fail"]) for task in TASKS}
    frozen = bench.start()
    for task in TASKS:
        await bench.journal.run(task, 1)
    frozen.send(signal.SIGSTOP)
    holder = bench.start()
    for task in TASKS:
        assert (await bench.journal.run(task, 2))["pid"] == holder.pid
    return frozen, jobs


async def wake(frozen: WorkerProcess) -> None:
    """Let a frozen worker go on, until it has left its jobs."""
    frozen.send(signal.SIGCONT)
    await wait_until(lambda: frozen.output().count("retrying job") == len(TASKS))


async def test_a_late_run_leaves_the_job_of_the_new_holder_alone(bench: Bench) -> None:
    """Mark, payload, queue entry and result stay the new holder's, whose outcome is the job's."""
    frozen, jobs = await frozen_and_taken_over(bench, "wait go")
    await wake(frozen)
    await all_intact(bench, jobs.values())
    bench.open("go")
    for task, job in jobs.items():
        assert await bench.result(job) == f"{task} by run 2"
    await bench.at_rest()
    assert [len(bench.journal.runs(task)) for task in TASKS] == [2, 2, 2]
    assert await bench.letters() == []


async def test_a_late_run_makes_no_ghost_of_a_job_that_has_ended(bench: Bench) -> None:
    """The new holder has finished before the late one wakes up: nothing comes back to the queue."""
    frozen, jobs = await frozen_and_taken_over(bench, "ok")
    for task, job in jobs.items():
        assert await bench.result(job) == f"{task} by run 2"
    await wake(frozen)
    await bench.at_rest()
    # Longer than a lost run that was put off would take to come back.
    await asyncio.sleep(LEASE * 1.5)
    assert await bench.leftovers() == []
    for task, job in jobs.items():
        assert await bench.result(job) == f"{task} by run 2"
    assert [len(bench.journal.runs(task)) for task in TASKS] == [2, 2, 2]
    assert await bench.letters() == []


@pytest.mark.parametrize(
    ("task", "late"),
    [
        *[(task, late) for task in TASKS for late in ("ok", "fail")],
        ("retried", "give_up"),
        ("unguarded", "retry 0"),
    ],
)
async def test_the_late_end_of_a_body_that_blocked_is_not_the_jobs(
    bench: Bench, task: str, late: str
) -> None:
    """A body that keeps its event loop busy cannot be cancelled in time; its end counts for nothing."""
    job = await bench.enqueue(task, "a", [f"block late then {late}", "wait go", "fail"])
    workers = {worker.pid: worker for worker in (bench.start(), bench.start())}
    blocked = workers[(await bench.journal.run("a", 1))["pid"]]
    await bench.journal.run("a", 2)
    bench.open("late")
    await wait_until(lambda: "retrying job" in blocked.output())
    await all_intact(bench, [job])
    bench.open("go")
    assert await bench.result(job) == "a by run 2"
    await bench.at_rest()
    assert len(bench.journal.runs("a")) == 2
    assert await bench.letters() == []


async def test_lost_leases_count_as_crashes(bench: Bench) -> None:
    """A job that keeps losing its lease is ended like one that kills its worker."""
    job = await bench.enqueue("keyed", "a", ["sleep 60"])
    for crash in (1, 2):
        worker = bench.start()
        await bench.journal.run("a", crash)
        worker.send(signal.SIGSTOP)
    bench.start()
    assert type(await bench.error(job)).__name__ == "CrashLimitExceeded"
    letter = await bench.letter()
    assert (letter.reason, letter.crashes, letter.failures) == ("crashes", 2, 0)


@pytest.mark.parametrize("task", TASKS)
async def test_a_worker_does_not_run_a_job_beside_its_own_lost_run(bench: Bench, task: str) -> None:
    """The lost body takes its time to clean up; ARQ would end the job as failed for the two of them."""
    job = await bench.enqueue(task, "a", ["linger go", "ok"])
    worker = bench.start()
    await bench.journal.run("a", 1)
    worker.send(signal.SIGSTOP)

    async def free() -> bool:
        return not await running_in(bench.pool, job)

    await wait_until(free, "the mark's end")
    worker.send(signal.SIGCONT)
    await wait_until(lambda: running_in(bench.pool, job), "the worker picking the job up again")
    assert len(bench.journal.runs("a")) == 1
    bench.open("go")
    assert await bench.result(job) == "a by run 2"
    await bench.at_rest()
    assert len(bench.journal.runs("a")) == 2


@pytest.mark.parametrize("task", TASKS)
async def test_a_body_that_blocks_its_only_worker_past_the_lease_is_run_again(
    bench: Bench, task: str
) -> None:
    """The worker itself picks the job up again before the late run has ended; neither disturbs the other."""
    job = await bench.enqueue(task, "a", ["block late", "ok"])
    worker = bench.start()
    await bench.journal.run("a", 1)

    async def free() -> bool:
        return not await running_in(bench.pool, job)

    await wait_until(free, "the mark's end")
    # The worker's own clock for the lease started a moment after the mark's.
    await asyncio.sleep(LEASE / 2)
    bench.open("late")
    # A keyed run that nobody has taken over may still record its success.
    assert await bench.result(job) in (["a by run 1", "a by run 2"] if task == "keyed" else ["a by run 2"])
    await bench.at_rest()
    assert worker.running
    assert (await bench.result(job)).endswith(str(len(bench.journal.runs("a"))))


async def test_a_worker_shut_down_with_a_lost_run_leaves_the_job_of_the_new_holder_alone(
    bench: Bench,
) -> None:
    """The cancellation of a late run is no more the job's than its end would be."""
    frozen, jobs = await frozen_and_taken_over(bench, "wait go")
    await frozen.thaw_and_stop()  # with 1 where ARQ is cancelled while it writes an end: that is its way
    await all_intact(bench, jobs.values())
    bench.open("go")
    for task, job in jobs.items():
        assert await bench.result(job) == f"{task} by run 2"
    await bench.at_rest()
    assert [len(bench.journal.runs(task)) for task in TASKS] == [2, 2, 2]
    assert await bench.letters() == []
