"""A task written by hand with the primitives, under a bare and under a protected worker."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from arq.connections import ArqRedis, RedisSettings

from jobguard import Filter, JobGuard, dead_letter, primitives
from jobguard.adapters.arq import ArqQueue, create_pool
from jobguard.arguments import arguments_of
from jobguard.codec import Codec
from jobguard.errors import InvalidType, StoreUnavailable
from jobguard.guard import delivering
from jobguard.keeping import keep
from jobguard.primitives import (
    is_job_already_processed,
    log_job_failure,
    mark_job_as_processed,
    move_to_dead_letter_queue,
)
from jobguard.requeueing import Status
from jobguard.stores import MemoryStore, RedisStore
from jobguard.stores.base import State
from jobguard.testing import EmbeddedValkey
from tests.arq.harness import Bench, wait_until
from tests.arq.inprocess import working

pytestmark = pytest.mark.anyio
NOT_A_RECORD = (b":dlq", b":served", b":sweep:arq:queue")
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
    told = [(event["id"], event["reason"]) for event in bench.journal.entries("DeadLettered")]
    assert told == ([(letter.id, "moved")] if worker.endswith("Protected") else [])
    assert [attempt.attempt for attempt in letter.attempts] == [1, 2, 3]
    assert (letter.task, letter.payload_format) == (
        ("classic", "json") if worker.endswith("Protected") else ("<unknown>", "opaque")
    )
    [key] = [
        name async for name in bench.pool.scan_iter(match="jobguard:*") if not name.endswith(NOT_A_RECORD)
    ]
    record = await bench.guard.store.look_up(key.decode())
    assert record is not None
    assert record.state is State.DEAD_LETTER
    assert await bench.leftovers() == []
    later = await bench.enqueue("classic", "a", ["ok"])
    await bench.drain(worker)
    assert await bench.result(later) == "a by run 4"


# --- what a letter says of its job -----------------------------------------------------------

FAILS = ["fail", "fail", "fail"]


async def requeue(bench: Bench) -> None:
    report = await bench.guard.dead_letters().requeue(Filter(), via=ArqQueue(bench.pool))
    assert [outcome.status for outcome in report.outcomes] == [Status.REQUEUED]


async def test_the_letter_of_a_protected_worker_can_be_run_again(bench: Bench) -> None:
    """It has the task's name and its arguments, as that of a decorated task has."""
    await bench.enqueue("classic", "a", script=[*FAILS, "ok"])
    await bench.drain("classic.Protected")
    letter = await bench.letter()
    assert (letter.task, letter.payload_format) == ("classic", "json")
    assert arguments_of(letter, Codec()) == {"label": "a", "script": [*FAILS, "ok"]}
    assert json.loads(letter.preview) == {
        "label": "a",
        "script": [*FAILS, "ok"],
        "job_key": "classic:a",
    }
    await requeue(bench)
    await bench.drain("classic.Protected")
    assert len(bench.journal.runs("a")) == 4
    resolved = await bench.guard.dead_letters().get(letter.id)
    assert resolved is not None
    assert resolved.resolution == "succeeded"


@pytest.mark.parametrize(("kind", "form"), [(list, "json"), (deque, "opaque")])
async def test_a_job_that_is_moved_again_after_its_letter_has_gone_can_be_run_again(
    bench: Bench, kind: type[Any], form: str
) -> None:
    """The new letter has what the first one had, and not the form in which that came back."""
    await bench.enqueue("classic", "a", kind(FAILS * 2 + ["ok"]))
    await bench.drain("classic.Protected")
    first = await bench.letter()
    await requeue(bench)
    await bench.guard.dead_letters().remove(first.id)
    await bench.drain("classic.Protected")
    again = await bench.letter()
    assert (again.task, again.payload_format, again.payload) == ("classic", form, first.payload)
    await requeue(bench)
    await bench.drain("classic.Protected")
    assert len(bench.journal.runs("a")) == 7
    assert await bench.letters() == []


async def test_what_the_task_wants_of_its_letters_holds_for_a_moved_one(
    bench: Bench, valkey: EmbeddedValkey
) -> None:
    """`redact` masks its texts and details, and `payload=False` keeps no arguments."""

    @dead_letter(redact=("pin",), payload=False)
    async def careful(ctx: dict[Any, Any], pin: str) -> None:
        await move_to_dead_letter_queue(ctx, "k", ValueError(f"no card {pin}"), told=f"{pin} was typed")

    await bench.enqueue("task", "open sesame")
    async with working(valkey, careful):
        letter = await bench.letter()
    assert (letter.task, letter.payload_format) == ("task", "none")
    assert "open sesame" not in repr(letter)
    assert json.loads(letter.preview) == {
        "pin": "[redacted]",
        "job_key": "k",
        "told": "[redacted] was typed",
    }


@pytest.mark.parametrize(("given", "told"), [({"task": "send"}, "send"), ({}, "<unknown>")])
async def test_a_bare_worker_is_told_the_task_of_a_moved_job(
    bench: Bench, given: dict[str, Any], told: str
) -> None:
    """It hands no name to its tasks."""
    await move_to_dead_letter_queue(context(bench, "one"), "k", ValueError(), **given)
    assert (await bench.letter()).task == told


async def test_a_task_is_named_by_text(bench: Bench) -> None:
    """The function itself is what its queue does not know."""
    with pytest.raises(
        InvalidType, match="task must be the name that the task is enqueued by, not <function"
    ):
        await move_to_dead_letter_queue(context(bench, "one"), "k", ValueError(), task=cast(str, context))
    assert await bench.letters() == []


def context(at: Bench | ArqRedis, job_id: str) -> dict[str, Any]:
    """What a bare worker hands to a task."""
    pool = at.pool if isinstance(at, Bench) else at
    return {"redis": pool, "job_id": job_id, "enqueue_time": datetime(2024, 1, 1, tzinfo=UTC)}


async def test_a_job_that_logged_a_failure_may_still_succeed(bench: Bench) -> None:
    """The success is recorded, so that other jobs see it."""
    ctx = context(bench, "one")
    assert not await is_job_already_processed(ctx, "k")
    await log_job_failure(ctx, "k", ValueError(), 1, 3)
    assert await mark_job_as_processed(ctx, "k")
    assert await is_job_already_processed(context(bench, "two"), "k")


async def test_a_job_whose_work_was_taken_over_leaves_no_letter(bench: Bench) -> None:
    """The work is the other job's by then."""
    ctx = context(bench, "one")
    await is_job_already_processed(ctx, "k")
    await log_job_failure(ctx, "k", ValueError(), 1, 3)
    assert not await is_job_already_processed(context(bench, "two"), "k")
    assert await move_to_dead_letter_queue(ctx, "k", ValueError())
    assert await bench.letters() == []


async def test_calls_of_a_bare_worker_share_one_connection(bench: Bench) -> None:
    """A store of its own for each call would keep a connection for each."""
    ctx = context(bench, "one")
    for _ in range(5):
        await is_job_already_processed(ctx, "k")
    assert len(bench.pool.connection_pool._in_use_connections) == 1


async def test_what_a_failure_says_stays_in_its_line_of_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither an error's own `repr` nor a detail's name can forge a line or flood the log."""

    class Odd(Exception):
        def __repr__(self) -> str:
            return "odd\nforged" + "x" * 10_000

    await log_job_failure(context(bench, "one"), "k", Odd(), 1, 3, **{"a\nb": "y" * 10_000})
    [message] = [record.getMessage() for record in caplog.records if "failed on attempt" in record.message]
    assert "\n" not in message
    assert len(message) < 5_000


PRIMITIVES: dict[str, Callable[[dict[str, Any]], Awaitable[object]]] = {
    "is_job_already_processed": lambda ctx: is_job_already_processed(ctx, "k"),
    "mark_job_as_processed": lambda ctx: mark_job_as_processed(ctx, "k"),
    "log_job_failure": lambda ctx: log_job_failure(ctx, "k", ValueError(), 1, 3),
    "move_to_dead_letter_queue": lambda ctx: move_to_dead_letter_queue(ctx, "k", ValueError()),
}


@pytest.mark.parametrize("primitive", PRIMITIVES.values(), ids=PRIMITIVES)
async def test_a_ctx_that_no_worker_has_made_is_refused(
    bench: Bench, primitive: Callable[[dict[str, Any]], Awaitable[object]]
) -> None:
    """By a message that names what it lacks, as the one of a start-up hook does."""
    with pytest.raises(
        InvalidType, match=r"an ARQ worker hands to its tasks; it lacks 'redis', 'job_id', 'e"
    ):
        await primitive({})
    with pytest.raises(InvalidType, match=r"it lacks 'job_id', 'enqueue_time'$"):
        await primitive({"redis": bench.pool})


# --- moving a job while its server is away ---------------------------------------------------


@pytest.fixture
def server() -> Iterator[EmbeddedValkey]:
    """A server that keeps what it has while it is away."""
    with EmbeddedValkey(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.fixture
async def away(server: EmbeddedValkey) -> AsyncIterator[dict[str, Any]]:
    """The ctx of a job that has failed once, and whose server has gone since."""
    pool = await create_pool(RedisSettings(unix_socket_path=server.socket_path))
    await pool.set("arq:job:one", b"payload")
    ctx = context(pool, "one")
    await log_job_failure(ctx, "k", ValueError("first"), 1, 2)
    server.kill()
    yield ctx
    await pool.aclose()


async def test_a_job_is_moved_once_its_server_is_back(
    server: EmbeddedValkey, away: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What is read for its letter is tried again as what is written is; the letter lacks nothing."""
    moving = asyncio.ensure_future(move_to_dead_letter_queue(away, "k", ValueError("second")))
    await wait_until(lambda: "moving job 'one' to the dead letters failed" in caplog.text)
    server.start()
    letter = await JobGuard(RedisStore(away["redis"])).dead_letters().get(await moving)
    assert letter is not None
    assert [attempt.message for attempt in letter.attempts] == ["first"]
    assert (letter.error_message, letter.payload_format) == ("second", "opaque")


async def test_a_payload_that_cannot_be_read_is_an_error_of_the_store(away: dict[str, Any]) -> None:
    """After a lease; also where the store itself is elsewhere, and answers."""
    elsewhere = delivering.set(JobGuard(MemoryStore(), lease=0.2))
    with pytest.raises(StoreUnavailable, match="ARQ's server: ConnectionError"):
        await move_to_dead_letter_queue(away, "k", ValueError())
    delivering.reset(elsewhere)


async def test_a_letter_that_is_kept_late_tells_of_every_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim has been ended by then, and the job's history with it."""
    ctx, failures = context(bench, "one"), [StoreUnavailable("away")]

    async def fail_once(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await keep(*arguments)

    monkeypatch.setattr(primitives, "keep", fail_once)
    await log_job_failure(ctx, "k", ValueError("first"), 1, 2)
    await move_to_dead_letter_queue(ctx, "k", ValueError("second"))
    assert failures == []
    assert [attempt.message for attempt in (await bench.letter()).attempts] == ["first"]
