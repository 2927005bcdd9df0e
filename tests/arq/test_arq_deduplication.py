"""The table of `@deduplicated`, row by row, for jobs that an ARQ worker delivers."""

from __future__ import annotations

import signal
import time

import pytest
from arq.jobs import Job as QueuedJob

from jobguard import Duplicate, JobStatus
from jobguard.errors import DuplicateJob, PayloadMismatch
from tests.arq.harness import LEASE, Bench, WorkerProcess, running_in, wait_until

pytestmark = pytest.mark.anyio
TABLE = "table.WorkerSettings"


async def owned(bench: Bench, *script: str, lease: float = 60) -> tuple[WorkerProcess, QueuedJob]:
    """A worker, and the job that it runs: the owner of key `a`."""
    job = await bench.enqueue("owner", "a", list(script))
    worker = bench.start(TABLE, lease=lease)
    await bench.journal.run("a", 1)
    return worker, job


async def pending_retry(bench: Bench) -> tuple[WorkerProcess, QueuedJob]:
    """A worker, and a job that owns key `a` and waits for its retry, in an hour."""
    worker, job = await owned(bench, "fail", "ok")

    async def waits() -> bool:
        return len(bench.journal.entries("RetryScheduled")) == 1 and not await running_in(bench.pool, job)

    await wait_until(waits)
    return worker, job


async def due_now(bench: Bench, job: QueuedJob) -> None:
    """Make a deferred job due, as time would."""
    await bench.pool.zadd("arq:queue", {job.job_id: time.time() * 1000 - 1})


async def done(bench: Bench) -> QueuedJob:
    """A job of key `a` that has succeeded."""
    job = await bench.enqueue("owner", "a", ["ok"])
    await bench.drain(TABLE)
    assert await bench.result(job) == "a by run 1"
    return job


# other job, running or pending retry


async def test_skip_beside_a_running_owner(bench: Bench) -> None:
    """The duplicate's result is a `Duplicate` that names the owner; nothing runs twice."""
    _, owner = await owned(bench, "wait go")
    duplicate = await bench.result(await bench.enqueue("owner", "a", ["ok"]))
    assert isinstance(duplicate, Duplicate)
    assert not duplicate
    assert duplicate.status is JobStatus.PROCESSING
    assert owner.job_id in duplicate.owner
    bench.open("go")
    assert await bench.result(owner) == "a by run 1"
    assert len(bench.journal.runs("a")) == 1
    await bench.at_rest()


async def test_skip_beside_an_owner_that_waits_for_its_retry(bench: Bench) -> None:
    """Between attempts duplicates meet a running job, at status RETRY."""
    _, owner = await pending_retry(bench)
    duplicate = await bench.result(await bench.enqueue("owner", "a", ["ok"]))
    assert isinstance(duplicate, Duplicate)
    assert duplicate.status is JobStatus.RETRY
    assert owner.job_id in duplicate.owner
    assert len(bench.journal.runs("a")) == 1


@pytest.mark.parametrize("task", ["running_wait", "running_defer"])
async def test_waiting_is_deferring_and_ends_with_the_owners_result(bench: Bench, task: str) -> None:
    """No slot is held meanwhile: with one slot the owner could not end otherwise."""
    _, owner = await owned(bench, "wait go", lease=LEASE)
    duplicate = await bench.enqueue(task, "a", ["ok"])
    await wait_until(lambda: bench.journal.entries("Deferred"))
    bench.open("go")
    assert await bench.result(owner) == "a by run 1"
    assert await bench.result(duplicate) == "a by run 1"
    assert len(bench.journal.runs("a")) == 1
    await bench.at_rest()


async def test_a_waiting_job_runs_if_the_owner_fails(bench: Bench) -> None:
    """An ended failure blocks nobody, and waiting has used up no attempt and is no crash."""
    _, owner = await owned(bench, "wait go then discard", "ok", lease=LEASE)
    duplicate = await bench.enqueue("running_wait", "a", ["discard", "ok"])
    await wait_until(lambda: bench.journal.entries("Deferred"))
    bench.open("go")
    await bench.error(owner)
    assert await bench.result(duplicate) == "a by run 2"
    second = await bench.journal.run("a", 2)
    assert (second["attempt"], second["failures"], second["crashes"]) == (1, 0, 0)


async def test_raise_beside_a_running_owner(bench: Bench) -> None:
    """The duplicate ends with `DuplicateJob`, once, and leaves the owner's claim alone."""
    _, owner = await owned(bench, "wait go")
    error = await bench.error(await bench.enqueue("running_raise", "a", ["ok"]))
    assert isinstance(error, DuplicateJob)
    assert error.status is JobStatus.PROCESSING
    bench.open("go")
    assert await bench.result(owner) == "a by run 1"
    assert len(bench.journal.runs("a")) == 1


# other job, succeeded within ttl


async def test_replay_of_a_success(bench: Bench) -> None:
    """By default a duplicate of finished work gets its result."""
    await done(bench)
    duplicate = await bench.enqueue("owner", "a", ["fail"])
    await bench.drain(TABLE)
    assert await bench.result(duplicate) == "a by run 1"
    assert len(bench.journal.runs("a")) == 1


async def test_skip_of_a_success(bench: Bench) -> None:
    """`done="skip"`: the result is a `Duplicate`."""
    owner = await done(bench)
    job = await bench.enqueue("done_skip", "a", ["fail"])
    await bench.drain(TABLE)
    duplicate = await bench.result(job)
    assert isinstance(duplicate, Duplicate)
    assert duplicate.status is JobStatus.SUCCESS
    assert owner.job_id in duplicate.owner
    assert len(bench.journal.runs("a")) == 1


async def test_raise_of_a_success(bench: Bench) -> None:
    """`done="raise"`: the job ends with `DuplicateJob`."""
    await done(bench)
    job = await bench.enqueue("done_raise", "a", ["fail"])
    await bench.drain(TABLE)
    assert isinstance(await bench.error(job), DuplicateJob)
    assert len(bench.journal.runs("a")) == 1


async def test_run_after_a_success(bench: Bench) -> None:
    """`done="run"`: finished work is done again, only not at the same time."""
    await done(bench)
    job = await bench.enqueue("done_run", "a", ["ok"])
    await bench.drain(TABLE)
    assert await bench.result(job) == "a by run 2"


async def test_a_success_is_forgotten_after_its_ttl(bench: Bench) -> None:
    """From then on a job of this key does the work again."""
    first = await bench.enqueue("brief", "a", ["ok"])
    await bench.drain(TABLE)
    assert await bench.result(first) == "a by run 1"

    async def runs_again() -> bool:
        job = await bench.enqueue("brief", "a", ["ok"])
        return bool(await bench.result(job) == "a by run 2")

    bench.start(TABLE)
    await wait_until(runs_again)


# nothing, or an ended failure


async def test_an_ended_failure_blocks_nobody(bench: Bench) -> None:
    """The next job of the key runs, with a history of its own."""
    first = await bench.enqueue("brief", "a", ["fail", "ok"])
    await bench.drain(TABLE)
    second = await bench.enqueue("brief", "a", ["fail", "ok"])
    await bench.drain(TABLE)
    assert isinstance(await bench.error(first), ValueError)
    assert await bench.result(second) == "a by run 2"
    assert [run["attempt"] for run in bench.journal.runs("a")] == [1, 1]


# same job


async def test_the_same_job_waits_while_its_lease_is_live_elsewhere(bench: Bench) -> None:
    """ARQ hands it out again (its mark has gone): no second run beside the first, no attempt used."""
    worker, job = await owned(bench, "wait go")
    worker.send(signal.SIGSTOP)
    await bench.pool.delete(f"arq:in-progress:{job.job_id}")
    bench.start(TABLE)
    deferred = await wait_until(lambda: bench.journal.entries("Deferred"))
    assert deferred[0]["reason"] == "busy"
    bench.open("go")
    worker.send(signal.SIGCONT)
    assert await bench.result(job) == "a by run 1"
    assert len(bench.journal.runs("a")) == 1


async def test_the_same_job_takes_over_under_a_higher_fence_when_its_lease_is_over(bench: Bench) -> None:
    """After a crash the job goes on as itself."""
    worker, job = await owned(bench, "sleep 60", "ok", lease=LEASE)
    await worker.stop(signal.SIGKILL)
    await bench.drain(TABLE)
    assert await bench.result(job) == "a by run 2"
    first, second = bench.journal.runs("a")
    assert second["job_id"] == first["job_id"]
    assert second["fence"] > first["fence"]


async def test_the_same_job_returns_its_stored_result_if_it_has_succeeded(bench: Bench) -> None:
    """The worker died between the record and ARQ's own: the body is not run again."""
    job = await bench.enqueue("owner", "a", ["ok"])
    payload = await bench.pool.get(f"arq:job:{job.job_id}")
    await bench.drain(TABLE)
    # As if the worker had been killed before it told ARQ.
    await bench.pool.delete(f"arq:result:{job.job_id}")
    await bench.pool.set(f"arq:job:{job.job_id}", payload)
    await bench.pool.zadd("arq:queue", {job.job_id: 1})
    await bench.drain(TABLE)
    assert await bench.result(job) == "a by run 1"
    assert len(bench.journal.runs("a")) == 1
    assert [entry["own"] for entry in bench.journal.entries("DuplicateReplayed")] == [True]


# other job, whose owner has left its key


async def test_another_job_takes_over_an_interrupted_owner(bench: Bench) -> None:
    """The old owner, redelivered, is then the duplicate."""
    worker, owner = await owned(bench, "sleep 60", "ok")
    await worker.stop()
    # Out of reach for a while, so that the other one comes first.
    await bench.pool.zadd("arq:queue", {owner.job_id: time.time() * 1000 + 3_600_000})
    other = await bench.enqueue("owner", "a", ["ok"])
    bench.start(TABLE)
    assert await bench.result(other) == "a by run 2"
    await due_now(bench, owner)
    assert await bench.result(owner) == "a by run 2"
    assert len(bench.journal.runs("a")) == 2


async def test_another_job_takes_over_an_owner_whose_lease_is_over(bench: Bench) -> None:
    """Its first run begins with no attempt used: the crash was another job's."""
    worker, owner = await owned(bench, "sleep 60", "ok", lease=LEASE)
    await worker.stop(signal.SIGKILL)
    await bench.pool.zadd("arq:queue", {owner.job_id: time.time() * 1000 + 3_600_000})
    other = await bench.enqueue("running_wait", "a", ["ok"])
    bench.start(TABLE)
    assert await bench.result(other) == "a by run 2"
    assert (await bench.journal.run("a", 2))["failures"] == 0
    await due_now(bench, owner)
    assert await bench.result(owner) == "a by run 2"


# other arguments under the same key


async def test_other_arguments_under_a_key_are_told_or_refused(bench: Bench) -> None:
    """By default an event and a duplicate; `mismatch="raise"` ends the job."""
    await done(bench)
    told = await bench.enqueue("owner", "a", ["other"])
    refused = await bench.enqueue("strict", "a", ["other"])
    await bench.drain(TABLE)
    assert await bench.result(told) == "a by run 1"
    assert isinstance(await bench.error(refused), PayloadMismatch)
    assert len(bench.journal.entries("PayloadMismatched")) == 2
