"""Jobs that take their worker down with them."""

from __future__ import annotations

import pytest

from tests.arq.harness import Bench

pytestmark = pytest.mark.anyio
GUARDED = pytest.mark.parametrize("task", ["retried", "keyed"])


async def restarted_until_the_letter(bench: Bench) -> int:
    """Run one worker after another, as a supervisor does; how many ended badly."""
    crashes = 0
    while not await bench.letters():
        worker = bench.start("scripted.WorkerSettings", "--burst")
        crashes += await worker.ended() != 0
        assert crashes < 5, "the poison is not recognised"
    return crashes


@GUARDED
async def test_a_job_that_kills_its_worker_is_dead_lettered_after_max_crashes(
    bench: Bench, task: str
) -> None:
    """`os._exit` in the body: two crashes are allowed, and other jobs go on beside the poison."""
    poison = await bench.enqueue(task, "a", ["exit"])
    others = [await bench.enqueue(task, f"b{n}", ["ok"]) for n in range(3)]
    assert await restarted_until_the_letter(bench) == 2
    letter = await bench.letter()
    assert (letter.job_id, letter.reason) == (poison.job_id, "crashes")
    assert (letter.crashes, letter.failures) == (2, 0)
    assert type(await bench.error(poison)).__name__ == "CrashLimitExceeded"
    assert len(bench.journal.runs("a")) == 2
    for n, job in enumerate(others):
        assert (await bench.result(job)).startswith(f"b{n} by run")
    assert await bench.leftovers() == []


@pytest.mark.parametrize("line", ["system_exit", "fatal"])
@GUARDED
async def test_a_base_exception_raised_by_a_task_is_a_crash(bench: Bench, task: str, line: str) -> None:
    """It ends an ARQ worker; here it does so a bounded number of times."""
    poison = await bench.enqueue(task, "a", [line])
    assert await restarted_until_the_letter(bench) == 2
    letter = await bench.letter()
    assert (letter.job_id, letter.reason, letter.crashes) == (poison.job_id, "crashes", 2)
    assert len(bench.journal.runs("a")) == 2
    assert await bench.leftovers() == []


@GUARDED
async def test_a_poisonous_job_that_recovers_loses_no_attempt(bench: Bench, task: str) -> None:
    """Crashes are counted apart from failures: after one, all three attempts are left."""
    job = await bench.enqueue(task, "a", ["exit", "fail", "fail", "ok"])
    assert await bench.start("scripted.WorkerSettings", "--burst").ended() == 3
    await bench.drain()
    assert await bench.result(job) == "a by run 4"
    last = await bench.journal.run("a", 4)
    assert (last["failures"], last["crashes"]) == (2, 1)
