"""Jobs that are aborted, and job ids that are used again."""

from __future__ import annotations

import pytest
from arq.jobs import Job as QueuedJob

from jobguard import Duplicate
from tests.arq.harness import PATIENCE, Bench, running_in, wait_until

pytestmark = pytest.mark.anyio
GUARDED = pytest.mark.parametrize("task", ["retried", "keyed"])


async def aborted(job: QueuedJob) -> bool:
    return await job.abort(timeout=PATIENCE, poll_delay=0.03)


async def assert_free(bench: Bench, task: str) -> None:
    """Another job of the same key does the work."""
    runs = len(bench.journal.runs("a"))
    job = await bench.enqueue(task, "a", ["ok"])
    assert await bench.result(job) == f"a by run {runs + 1}"


@GUARDED
async def test_a_job_aborted_while_it_runs_ends_and_frees_its_key(bench: Bench, task: str) -> None:
    """The body is cancelled, the job is FAILED, and neither run again nor dead-lettered."""
    job = await bench.enqueue(task, "a", ["sleep 60", "ok"])
    bench.start(allow_abort_jobs=True)
    await bench.journal.run("a", 1)
    assert await aborted(job)
    await wait_until(lambda: bench.journal.entries("Failed"))
    assert [entry["reason"] for entry in bench.journal.entries("Failed")] == ["aborted"]
    assert [entry["task"] for entry in bench.journal.entries("Failed")] == [task]
    run_key = bench.journal.runs("a")[0]["key"]
    assert [entry["key"] for entry in bench.journal.entries("Failed")] == [run_key]
    assert len(bench.journal.entries("cancelled", "a")) == 1
    await assert_free(bench, task)
    assert await bench.letters() == []
    await bench.at_rest()


@GUARDED
async def test_a_job_aborted_between_its_runs_ends_and_frees_its_key(bench: Bench, task: str) -> None:
    """A job that waits for its retry is not run again."""
    job = await bench.enqueue(task, "a", ["retry 3600", "ok"])
    bench.start(allow_abort_jobs=True)

    async def waits() -> bool:
        return len(bench.journal.entries("RetryScheduled")) == 1 and not await running_in(bench.pool, job)

    await wait_until(waits)
    assert await aborted(job)
    await wait_until(lambda: bench.journal.entries("Failed"))
    await assert_free(bench, task)
    assert len(bench.journal.runs("a")) == 2
    assert await bench.letters() == []
    await bench.at_rest()


@GUARDED
async def test_a_job_aborted_before_its_start_never_runs(bench: Bench, task: str) -> None:
    """Its key was never taken, and stays free."""
    job = await bench.enqueue(task, "a", ["ok"], _defer_by=3600)
    bench.start(allow_abort_jobs=True)
    assert await aborted(job)
    assert bench.journal.runs("a") == []
    await assert_free(bench, task)
    await bench.at_rest()


async def test_aborting_a_duplicate_leaves_the_owner_alone(bench: Bench) -> None:
    """A job that waits for another of its key ends without touching that one's claim."""
    owner = await bench.enqueue("keyed", "a", ["wait go"])
    bench.start(allow_abort_jobs=True)
    await bench.journal.run("a", 1)
    duplicate = await bench.enqueue("waiting", "a", ["ok"])
    await wait_until(lambda: bench.journal.entries("Deferred"))
    assert await aborted(duplicate)
    third = await bench.enqueue("keyed", "a", ["ok"])
    assert isinstance(await bench.result(third), Duplicate)
    bench.open("go")
    assert await bench.result(owner) == "a by run 1"
    assert len(bench.journal.runs("a")) == 1


@GUARDED
async def test_a_job_id_used_again_is_another_job(bench: Bench, task: str) -> None:
    """The second job starts afresh: the first one's failures and end are not its own."""
    first = await bench.enqueue(task, "a", ["fail", "fail", "fail", "fail", "ok"], _job_id="again")
    await bench.drain(keep_result=0)
    assert len(bench.journal.runs("a")) == 3
    second = await bench.enqueue(task, "a", ["fail", "fail", "fail", "fail", "ok"], _job_id="again")
    await bench.drain()
    assert first.job_id == second.job_id
    assert await bench.result(second) == "a by run 5"
    assert [run["failures"] for run in bench.journal.runs("a")] == [0, 1, 2, 0, 1]


async def test_a_job_id_used_again_for_work_that_is_done_replays_it(bench: Bench) -> None:
    """To deduplication it is another job with the same key."""
    await bench.enqueue("keyed", "a", ["ok"], _job_id="again")
    await bench.drain(keep_result=0)
    second = await bench.enqueue("keyed", "a", ["ok"], _job_id="again")
    await bench.drain()
    assert await bench.result(second) == "a by run 1"
    assert len(bench.journal.runs("a")) == 1


async def test_a_job_enqueued_with_a_high_job_try_has_not_crashed(bench: Bench) -> None:
    """`_job_try` sets ARQ's count; it says nothing about what the job has been through."""
    job = await bench.enqueue("retried", "a", ["fail", "ok"], _job_try=7)
    await bench.drain()
    assert await bench.result(job) == "a by run 2"
    assert [run["crashes"] for run in bench.journal.runs("a")] == [0, 0]
