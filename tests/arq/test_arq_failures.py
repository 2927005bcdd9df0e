"""Runs that fail under a stock ARQ worker."""

from __future__ import annotations

import asyncio

import pytest

from jobguard.errors import RetriesExhausted
from tests.arq.harness import Bench

pytestmark = pytest.mark.anyio
GUARDED = pytest.mark.parametrize("task", ["retried", "keyed"])


@GUARDED
async def test_a_failed_run_is_repeated_until_one_succeeds(bench: Bench, task: str) -> None:
    """An exception uses up one attempt, and the next run knows of it."""
    job = await bench.enqueue(task, "a", ["fail", "fail", "ok"])
    await bench.drain()
    assert await bench.result(job) == "a by run 3"
    assert [run["failures"] for run in bench.journal.runs("a")] == [0, 1, 2]
    assert [run["crashes"] for run in bench.journal.runs("a")] == [0, 0, 0]
    assert await bench.leftovers() == []


@GUARDED
async def test_a_job_that_fails_each_time_becomes_a_dead_letter(bench: Bench, task: str) -> None:
    """After the last attempt the letter is kept and the exception goes on to the queue as it was."""
    job = await bench.enqueue(task, "a", ["fail"])
    await bench.drain()
    error = await bench.error(job)
    assert isinstance(error, ValueError)
    assert str(error) == "a failed in run 3"
    letter = await bench.letter()
    assert (letter.task, letter.job_id, letter.reason) == (task, job.job_id, "exhausted")
    assert (letter.failures, letter.crashes, letter.interruptions) == (3, 0, 0)
    assert [attempt.message for attempt in letter.attempts] == [f"a failed in run {n}" for n in (1, 2, 3)]
    assert len(bench.journal.runs("a")) == 3
    assert await bench.leftovers() == []


@pytest.mark.parametrize("task", ["retried", "nobodys"])
async def test_events_and_letters_name_a_task_as_its_queue_does(bench: Bench, task: str) -> None:
    """So that alerts, letters and the queue's own tools go together; also of a task that no worker has."""
    await bench.enqueue(task, "a", ["fail"])
    await bench.drain()
    assert (await bench.letter()).task == task
    for event in ("DeadLettered", "NewFingerprint"):
        assert [told["task"] for told in bench.journal.entries(event)] == [task]


@GUARDED
async def test_the_job_timeout_is_an_ordinary_failed_attempt(bench: Bench, task: str) -> None:
    """ARQ alone would cancel the task for good; here it is run again, and its last end is ours."""
    saved = await bench.enqueue(task, "a", ["sleep 60", "ok"])
    lost = await bench.enqueue(task, "b", ["sleep 60"])
    await bench.drain(job_timeout=0.5)
    assert await bench.result(saved) == "a by run 2"
    assert [run["failures"] for run in bench.journal.runs("a")] == [0, 1]
    error = await bench.error(lost)
    assert isinstance(error, TimeoutError)
    assert "job timeout of 0.5 s" in str(error)
    assert (await bench.letter()).reason == "exhausted"
    assert len(bench.journal.runs("b")) == 3
    assert len(bench.journal.entries("cancelled")) == 4


@GUARDED
async def test_retry_raised_by_a_task_counts_and_its_delay_is_honoured(bench: Bench, task: str) -> None:
    """ARQ's own `Retry` is a failed attempt that says when to come back."""
    job = await bench.enqueue(task, "a", ["retry 0.8", "ok"])
    await bench.drain()
    assert await bench.result(job) == "a by run 2"
    first, second = bench.journal.runs("a")
    assert second["failures"] == 1
    assert second["at"] - first["at"] >= 0.8


@pytest.mark.parametrize("line", ["retry 0.05", "retry_job", "later 0.05"])
@GUARDED
async def test_asking_for_another_run_each_time_comes_to_an_end(bench: Bench, task: str, line: str) -> None:
    """The queue gets `RetriesExhausted`, since it would follow its own `Retry` for ever."""
    job = await bench.enqueue(task, "a", [line])
    await bench.drain()
    assert isinstance(await bench.error(job), RetriesExhausted)
    assert (await bench.letter()).reason == "exhausted"
    assert len(bench.journal.runs("a")) == 3


async def test_a_task_without_retrying_may_ask_for_as_many_runs_as_the_worker_allows(bench: Bench) -> None:
    """`max_tries` of the worker bounds what a task asks for itself; an exception still ends it."""
    asking = await bench.enqueue("waiting", "a", ["retry 0.05"])
    failing = await bench.enqueue("waiting", "b", ["fail"])
    await bench.drain(max_tries=4)
    assert isinstance(await bench.error(asking), RetriesExhausted)
    assert isinstance(await bench.error(failing), ValueError)
    assert len(bench.journal.runs("a")) == 4
    assert len(bench.journal.runs("b")) == 1


async def test_max_tries_of_the_worker_is_the_default_for_attempts(bench: Bench) -> None:
    """`@retrying` without `attempts` takes the queue's number; one that was written stands."""
    undecided = await bench.enqueue("undecided", "a", ["fail"])
    decided = await bench.enqueue("keyed", "b", ["fail"])
    await bench.drain(max_tries=2)
    await bench.error(undecided)
    await bench.error(decided)
    assert len(bench.journal.runs("a")) == 2
    assert len(bench.journal.runs("b")) == 3


async def test_a_snooze_uses_up_no_attempt(bench: Bench) -> None:
    """A job may put itself off more often than it may fail."""
    job = await bench.enqueue("keyed", "a", [*["snooze 0.05"] * 4, "fail", "ok"])
    await bench.drain()
    assert await bench.result(job) == "a by run 6"
    assert [run["failures"] for run in bench.journal.runs("a")] == [0, 0, 0, 0, 0, 1]
    assert [run["crashes"] for run in bench.journal.runs("a")] == [0] * 6


async def test_giving_up_dead_letters_at_once_and_discarding_keeps_nothing(bench: Bench) -> None:
    """Both end the job in its first run; only `GiveUp` leaves a letter."""
    given_up = await bench.enqueue("keyed", "a", ["give_up"])
    discarded = await bench.enqueue("keyed", "b", ["discard"])
    await bench.drain()
    assert isinstance(await bench.error(given_up), RetriesExhausted)
    assert type(await bench.error(discarded)).__name__ == "Discard"
    letter = await bench.letter()
    assert (letter.job_id, letter.reason) == (given_up.job_id, "gave_up")
    assert len(bench.journal.runs("a")) == len(bench.journal.runs("b")) == 1


async def test_retry_jobs_false_means_one_attempt(bench: Bench) -> None:
    """No task gets a second run for a failure or for asking, guarded or not."""
    jobs = [
        await bench.enqueue("keyed", "a", ["fail"]),
        await bench.enqueue("retried", "b", ["retry 0.05"]),
        await bench.enqueue("unguarded", "c", ["retry 0.05"]),
        await bench.enqueue("unguarded", "d", ["retry_job"]),
    ]
    await bench.drain(retry_jobs=False)
    for job in jobs:
        await bench.error(job)
    assert [len(bench.journal.runs(label)) for label in "abcd"] == [1, 1, 1, 1]
    assert len(await bench.letters()) == 2


async def test_an_unguarded_task_keeps_the_behaviour_of_arq(bench: Bench) -> None:
    """A plain exception ends it, its own `Retry` is followed up to `max_tries`, nothing is kept."""
    failing = await bench.enqueue("unguarded", "a", ["fail", "ok"])
    asking = await bench.enqueue("unguarded", "b", ["retry 0.05"])
    slow = await bench.enqueue("unguarded", "c", ["sleep 60", "ok"])
    twice = await bench.enqueue("unguarded", "d", ["retry_job", "ok"])
    await bench.drain(max_tries=2, job_timeout=0.5)
    assert isinstance(await bench.error(failing), ValueError)
    assert "max 2 retries exceeded" in str(await bench.error(asking))
    assert isinstance(await bench.error(slow), asyncio.TimeoutError)
    assert await bench.result(twice) == "d by run 2"
    assert [len(bench.journal.runs(label)) for label in "abcd"] == [1, 2, 1, 2]
    assert await bench.letters() == []
