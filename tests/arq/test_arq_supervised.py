"""`python -m jobguard.adapters.arq`: a worker that outlives its server, and ends in order."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from arq.connections import RedisSettings
from click.testing import CliRunner

from jobguard import JobGuard
from jobguard.adapters.arq import create_pool
from jobguard.adapters.arq.__main__ import cli
from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey
from tests.arq.harness import Bench, WorkerProcess, wait_until

pytestmark = pytest.mark.anyio

WORKER = "supervised.WorkerSettings"
AWAY, BACK = "Redis is away", "Redis is back"
LONG = 30
"""Seconds of a lease that no outage in these tests outlasts."""


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedValkey]:
    with EmbeddedValkey(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.fixture
async def bench(server: EmbeddedValkey, tmp_path: Path) -> AsyncIterator[Bench]:
    """A queue on a server that a test may kill."""
    pool = await create_pool(RedisSettings(unix_socket_path=server.socket_path))
    bench = Bench(pool, JobGuard(RedisStore(pool)), server.socket_path, tmp_path)
    bench.program = "jobguard.adapters.arq"
    yield bench
    for worker in bench.workers:
        worker.kill()
        sys.stdout.write(worker.output())
    await pool.aclose()


def start(bench: Bench, *options: str, **settings: object) -> WorkerProcess:
    return bench.start(WORKER, *options, **{"lease": LONG, **settings})


async def said(worker: WorkerProcess, text: str, times: int = 1) -> None:
    await wait_until(lambda: worker.output().count(text) >= times, f"{text!r} in the worker's log")


@pytest.mark.parametrize("task", ["keyed", "retried"])
async def test_a_body_survives_the_death_of_its_server(
    bench: Bench, server: EmbeddedValkey, task: str
) -> None:
    """The body ends while the server is gone; its outcome is written when it is back, and nothing repeats."""
    worker = start(bench)
    job = await bench.enqueue(task, "a", ["wait go"])
    await bench.journal.run("a", 1)
    server.kill()
    await said(worker, AWAY)
    bench.open("go")
    await wait_until(lambda: bench.journal.entries("done"))
    server.start()
    assert await bench.result(job) == "a by run 1"
    later = await bench.enqueue(task, "b", ["ok"])
    assert await bench.result(later) == "b by run 1"
    await bench.at_rest()
    assert len(bench.journal.runs("a")) == 1
    assert (worker.output().count(AWAY), worker.output().count(BACK)) == (1, 1)
    assert await worker.stop() == 0


async def test_arqs_own_command_ends_with_its_server(bench: Bench, server: EmbeddedValkey) -> None:
    """The contrast: the same settings, and the body is cut off with the worker."""
    bench.program = "arq"
    worker = bench.start(WORKER)
    await bench.enqueue("keyed", "a", ["wait go"])
    await bench.journal.run("a", 1)
    server.kill()
    assert await worker.ended() != 0
    assert bench.journal.entries("done") == []


async def test_a_worker_waits_for_a_server_that_starts_after_it(bench: Bench, server: EmbeddedValkey) -> None:
    """ARQ gives up after five tries."""
    job = await bench.enqueue("keyed", "a", ["ok"])
    server.kill()
    worker = start(bench)
    await said(worker, AWAY)
    assert bench.journal.entries("startup") == []
    server.start()
    assert await bench.result(job) == "a by run 1"
    assert (worker.output().count(AWAY), worker.output().count(BACK)) == (1, 1)


async def test_many_outages_cost_a_worker_no_slot(bench: Bench, server: EmbeddedValkey) -> None:
    """A worker with one slot takes jobs after each of them."""
    worker = start(bench, max_jobs=1, lease=1.5)
    for number in range(1, 4):
        job = await bench.enqueue("keyed", f"job {number}", ["ok"])
        assert await bench.result(job) == f"job {number} by run 1"
        server.kill()
        await said(worker, AWAY, number)
        server.start()
        await said(worker, BACK, number)
    job = await bench.enqueue("keyed", "last", ["ok"])
    assert await bench.result(job) == "last by run 1"


async def test_a_server_that_falls_silent_does_not_hold_the_worker_up(
    bench: Bench, server: EmbeddedValkey
) -> None:
    """Nothing answers and nothing breaks: the worker notices by the clock, and goes on afterwards."""
    worker = start(bench, "--patience", "0.5")
    job = await bench.enqueue("keyed", "a", ["wait go"])
    await bench.journal.run("a", 1)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        await said(worker, AWAY)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await said(worker, BACK)
    bench.open("go")
    assert await bench.result(job) == "a by run 1"
    assert len(bench.journal.runs("a")) == 1


async def test_a_cron_job_whose_times_pass_in_an_outage_runs_once_for_them(
    bench: Bench, server: EmbeddedValkey
) -> None:
    """It is late and not lost; and not run again and again."""
    worker = start(bench, cron=True)
    await wait_until(lambda: bench.journal.runs("tick"))
    server.kill()
    await said(worker, AWAY)
    before, killed = len(bench.journal.runs("tick")), time.time()
    await wait_until(lambda: time.time() > killed + 4)
    server.start()
    await said(worker, BACK)
    await wait_until(lambda: len(bench.journal.runs("tick")) >= before + 2)
    due = {entry["job_id"] for entry in bench.journal.runs("tick")}
    times = sorted(int(name.rpartition(":")[2]) / 1000 for name in due)
    missed = [at for at in times if killed + 1 < at < killed + 4]
    assert len(missed) <= 1


async def test_sigterm_lets_running_jobs_end_and_takes_no_more(bench: Bench) -> None:
    """The grace period is no delay: the worker ends with its last job."""
    worker = start(bench, "--grace", "60")
    running = await bench.enqueue("keyed", "a", ["wait go"])
    await bench.journal.run("a", 1)
    worker.send(signal.SIGTERM)
    await said(worker, "no more jobs are taken")
    waiting = await bench.enqueue("keyed", "b", ["ok"])
    bench.open("go")
    assert await worker.ended() == 0
    assert await bench.result(running) == "a by run 1"
    assert bench.journal.runs("b") == []
    assert await bench.pool.zscore("arq:queue", waiting.job_id) is not None
    assert len(bench.journal.entries("shutdown")) == 1


async def test_jobs_that_outlast_the_grace_period_are_interrupted_and_run_again(bench: Bench) -> None:
    """No attempt is used up, and the next worker need not wait for a lease."""
    worker = start(bench, "--grace", "0.3")
    job = await bench.enqueue("keyed", "a", ["sleep 600", "ok"])
    await bench.journal.run("a", 1)
    assert await worker.stop() == 0
    assert len(bench.journal.entries("Interrupted")) == 1
    start(bench)
    assert await bench.result(job) == "a by run 2"
    second = await bench.journal.run("a", 2)
    assert (second["failures"], second["interruptions"], second["crashes"]) == (0, 1, 0)


async def test_the_grace_period_is_that_of_the_settings(bench: Bench) -> None:
    """`job_completion_wait`, where the command line says nothing."""
    worker = start(bench, job_completion_wait=1)
    await bench.enqueue("keyed", "a", ["sleep 600"])
    await bench.journal.run("a", 1)
    assert await worker.stop() == 0
    assert "has 1 s to end (jobs: 1)" in worker.output()
    assert len(bench.journal.entries("Interrupted")) == 1


async def test_a_second_signal_ends_the_grace_period(bench: Bench) -> None:
    """Whoever presses Ctrl-C twice is in a hurry."""
    worker = start(bench, "--grace", "600")
    await bench.enqueue("keyed", "a", ["sleep 600"])
    await bench.journal.run("a", 1)
    worker.send(signal.SIGINT)
    await said(worker, "no more jobs are taken")
    assert await worker.stop(signal.SIGINT) == 0
    assert len(bench.journal.entries("Interrupted")) == 1
    assert len(bench.journal.entries("shutdown")) == 1


@pytest.mark.parametrize("silent", [False, True])
async def test_a_worker_can_be_ended_while_its_server_is_away(
    bench: Bench, server: EmbeddedValkey, silent: bool
) -> None:
    """With a running job, too; nothing can be written down, and the lease's end sets the job free."""
    worker = start(bench, "--grace", "0.3", "--patience", "0.5")
    await bench.enqueue("keyed", "a", ["sleep 600"])
    await bench.journal.run("a", 1)
    if silent:
        os.kill(server.pid, signal.SIGSTOP)
    else:
        server.kill()
    try:
        await said(worker, AWAY)
        assert await worker.stop() == 0
    finally:
        if silent:
            os.kill(server.pid, signal.SIGCONT)
    assert len(bench.journal.entries("shutdown")) == 1


async def test_a_worker_can_be_ended_before_its_server_was_there(
    bench: Bench, server: EmbeddedValkey
) -> None:
    """What has not started up is not shut down either."""
    server.kill()
    worker = start(bench)
    await said(worker, AWAY)
    assert await worker.stop() == 0
    assert bench.journal.entries("shutdown") == []


async def test_a_job_that_does_not_end_does_not_keep_the_worker(bench: Bench) -> None:
    """It swallows its cancellation; the exit code says so, and another worker takes over."""
    worker = start(bench, "--grace", "0.1", lease=1.5)
    job = await bench.enqueue("keyed", "a", ["linger never", "ok"])
    await bench.journal.run("a", 1)
    assert await worker.stop() == 75
    start(bench, lease=1.5)
    assert await bench.result(job) == "a by run 2"


async def test_a_burst_ends_with_its_last_job(bench: Bench) -> None:
    """Exit code 0, and no job is cut short."""
    jobs = [await bench.enqueue("keyed", f"job {number}", ["sleep 0.2"]) for number in range(20)]
    worker = start(bench, "--burst")
    assert await worker.ended() == 0
    for number, job in enumerate(jobs):
        assert await bench.result(job) == f"job {number} by run 1"
    assert len(bench.journal.entries("shutdown")) == 1


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("supervised.NoSuchSettings", "no such"),
        ("nowhere.WorkerSettings", "nowhere"),
        ("supervised.Unprotected", "is not protected"),
        ("supervised.note_shutdown", "not a class or a dict"),
        ("with_url.WorkerSettings", "redis_settings must be RedisSettings"),
    ],
)
async def test_settings_that_cannot_be_used_end_with_78(bench: Bench, module: str, said: str) -> None:
    """In one line, without a traceback."""
    worker = bench.start(module)
    assert await worker.ended() == 78
    assert len(worker.output().splitlines()) == 1
    assert said.replace("no such", "NoSuchSettings") in worker.output()


async def test_settings_that_arq_refuses_end_with_78(bench: Bench) -> None:
    """What ARQ raises is said in the last line."""
    worker = start(bench, functions=[])
    assert await worker.ended() == 78
    assert "at least one function" in worker.output().splitlines()[-1]


async def test_a_database_that_does_not_exist_is_a_wrong_setting(bench: Bench) -> None:
    """Waiting would not help."""
    bench.environ["TEST_DATABASE"] = "1000"
    worker = start(bench)
    assert await worker.ended() == 78
    assert "out of range" in worker.output()


async def test_a_wrong_password_ends_with_77(bench: Bench, tmp_path: Path) -> None:
    """The worker does not knock again and again."""
    with EmbeddedValkey(password="right") as locked:
        bench.environ |= {"TEST_SOCKET": locked.socket_path, "TEST_PASSWORD": "wrong"}
        worker = start(bench)
        assert await worker.ended() == 77
    assert worker.output().count("refuses") == 1
    assert AWAY not in worker.output()


async def test_a_server_that_takes_no_writes_counts_as_away(bench: Bench) -> None:
    """A replica, since a failover: ARQ takes its refusals for marks of other workers."""
    job = await bench.enqueue("keyed", "a", ["ok"])
    await bench.pool.slaveof("127.0.0.1", 1)
    worker = start(bench)
    await said(worker, AWAY)
    await bench.pool.slaveof()
    await said(worker, BACK)
    assert await bench.result(job) == "a by run 1"


@pytest.mark.parametrize("verb", ["system_exit", "fatal"])
async def test_a_base_exception_of_a_job_ends_the_worker_in_order(bench: Bench, verb: str) -> None:
    """Whatever code `sys.exit` was given; the other jobs are interrupted, and no crash of theirs."""
    worker = start(bench)
    other = await bench.enqueue("keyed", "other", ["sleep 600", "ok"])
    await bench.journal.run("other", 1)
    await bench.enqueue("keyed", "deadly", [verb, "ok"])
    assert await worker.ended() == 1
    assert len(bench.journal.entries("shutdown")) == 1
    start(bench)
    assert await bench.result(other) == "other by run 2"
    second = await bench.journal.run("other", 2)
    assert (second["interruptions"], second["crashes"]) == (1, 0)


async def test_a_failing_start_up_ends_the_worker(bench: Bench) -> None:
    """The user's own hook has failed: whoever supervises the process decides."""
    bench.environ["TEST_STARTUP_FAILS"] = "1"
    worker = start(bench)
    assert await worker.ended() == 1
    assert "cannot start" in worker.output()
    assert len(bench.journal.entries("shutdown")) == 1


@pytest.mark.parametrize(("hook", "code"), [("STARTUP", 75), ("SHUTDOWN", 1)])
async def test_a_hook_that_swallows_its_cancellation_does_not_keep_the_process(
    bench: Bench, hook: str, code: int
) -> None:
    """Nothing in the event loop can end it, so a thread ends the process."""
    bench.environ[f"TEST_{hook}_HANGS"] = "1"
    bench.program = "tests.arq.workers.impatient"
    worker = start(bench)
    await bench.ready(worker)
    assert await worker.stop() == code


async def test_a_job_that_cannot_be_read_is_named_and_no_data_of_others(bench: Bench) -> None:
    """The worker goes on. What redis-py repeats of commands is not logged."""
    await bench.enqueue("keyed", "secret", ["ok"], _job_id="poisoned")
    await cast(Any, bench.pool).hset("arq:retry:poisoned", "a", "b")
    worker = start(bench)
    await said(worker, "job b'poisoned' cannot be run")
    job = await bench.enqueue("keyed", "b", ["ok"])
    assert await bench.result(job) == "b by run 1"
    assert "INCR" not in worker.output()
    assert await worker.stop() == 0


async def test_the_file_shows_that_the_worker_lives(
    bench: Bench, server: EmbeddedValkey, tmp_path: Path
) -> None:
    """It is renewed while Redis is away too, not while the event loop stands still, and goes in the end."""
    alive = tmp_path / "alive"

    async def renewed() -> None:
        before = alive.stat().st_mtime_ns
        await wait_until(lambda: alive.stat().st_mtime_ns > before)

    worker = start(bench, "--alive", str(alive))
    await wait_until(alive.exists)
    assert alive.read_text() == f"{worker.pid}\n"
    await renewed()
    server.kill()
    await said(worker, AWAY)
    await renewed()
    server.start()
    await bench.enqueue("retried", "a", ["block go"])
    await bench.journal.run("a", 1)
    before = alive.stat().st_mtime_ns
    blocked = time.monotonic()
    await wait_until(lambda: time.monotonic() > blocked + 3)
    assert alive.stat().st_mtime_ns == before
    bench.open("go")
    await renewed()
    assert await worker.stop() == 0
    assert not alive.exists()


async def test_a_file_that_cannot_be_written_is_a_wrong_option(bench: Bench) -> None:
    """It would have the worker killed, again and again; the settings are not to blame."""
    worker = start(bench, "--alive", "/nowhere/alive")
    assert await worker.ended() == 2
    assert "--alive" in worker.output().splitlines()[-1]
    assert "/nowhere/alive" in worker.output().splitlines()[-1]


async def test_check_is_that_of_arq(bench: Bench) -> None:
    """0 while a worker's record of health is there, else 1."""
    start(bench)
    await wait_until(lambda: bench.pool.exists("arq:queue:health-check"))
    assert await start(bench, "--check").ended() == 0
    await bench.pool.delete("arq:queue:health-check")
    assert await start(bench, "--check").ended() == 1


def test_a_log_dictionary_that_cannot_be_imported_is_the_options_fault() -> None:
    """And not that of the worker's settings."""
    result = CliRunner().invoke(cli, ["module.WorkerSettings", "--custom-log-dict", "nowhere.LOGS"])
    assert result.exit_code == 2
    assert "--custom-log-dict" in result.output
    assert "worker settings" not in result.output
