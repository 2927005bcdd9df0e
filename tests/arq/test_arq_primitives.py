"""A task written by hand with the primitives, under a bare and under a protected worker."""

from __future__ import annotations

import pytest

from tests.arq.harness import Bench, wait_until

pytestmark = pytest.mark.anyio
WORKERS = pytest.mark.parametrize("worker", ["classic.Bare", "classic.Protected"])


@WORKERS
async def test_work_is_done_once_however_many_jobs_ask_for_it(bench: Bench, worker: str) -> None:
    """The second job finds the first one's success."""
    first = await bench.enqueue("classic", "a", ["ok"])
    await bench.drain(worker)
    second = await bench.enqueue("classic", "a", ["ok"])
    await bench.drain(worker)
    assert await bench.result(first) == "a by run 1"
    assert await bench.result(second) is None
    assert len(bench.journal.runs("a")) == 1


@WORKERS
async def test_two_jobs_of_a_key_in_one_worker_at_once_do_the_work_once(bench: Bench, worker: str) -> None:
    """The check claims the work, so looking first and working later leaves no gap."""
    jobs = [await bench.enqueue("classic", "a", ["wait go"]) for _ in range(2)]
    process = bench.start(worker)
    await wait_until(lambda: bench.journal.entries("skipped", "a"))
    bench.open("go")
    results = [await bench.result(job) for job in jobs]
    await process.stop()
    assert sorted(results, key=str) == [None, "a by run 1"]
    assert len(bench.journal.runs("a")) == 1


@WORKERS
async def test_a_failed_run_is_logged_and_its_retry_gets_the_work_again(bench: Bench, worker: str) -> None:
    """`log_job_failure` releases the claim, so the same job may claim it once more."""
    job = await bench.enqueue("classic", "a", ["fail", "fail", "ok"])
    process = await bench.drain(worker)
    assert await bench.result(job) == "a by run 3"
    assert [run["job_try"] for run in bench.journal.runs("a")] == [1, 2, 3]
    assert [entry["seconds"] for entry in bench.journal.entries("delay")] == [30, 60]
    assert "failed on attempt 2 of 3" in process.output()
    assert await bench.letters() == []


@WORKERS
async def test_after_the_last_attempt_the_job_is_moved_and_its_error_goes_on(
    bench: Bench, worker: str
) -> None:
    """The letter tells of each attempt; the key is free for another job afterwards."""
    job = await bench.enqueue("classic", "a", ["fail", "fail", "fail", "ok"])
    await bench.drain(worker)
    assert isinstance(await bench.error(job), ValueError)
    letter = await bench.letter()
    assert (letter.job_id, letter.reason, letter.error_type) == (job.job_id, "moved", "ValueError")
    assert [attempt.attempt for attempt in letter.attempts] == [1, 2, 3]
    assert letter.payload is not None
    assert await bench.leftovers() == []
    later = await bench.enqueue("classic", "a", ["ok"])
    await bench.drain(worker)
    assert await bench.result(later) == "a by run 4"
