"""Payloads that run out while their jobs wait, and the sweeper that looks for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job as QueuedJob
from arq.jobs import serialize_job
from arq.worker import JobExecutionFailed, Worker

from jobguard import Filter, JobGuard
from jobguard.adapters.arq import ArqQueue, protect, sweeping
from jobguard.adapters.arq.scripts import run_script
from jobguard.adapters.arq.sweeping import Sweeper
from jobguard.errors import InvalidType, InvalidValue
from jobguard.events import Event, StoreFailed
from jobguard.stores import RedisStore
from jobguard.stores.commands import Script
from jobguard.stores.letters import LetterState
from tests.arq.harness import Bench, running_in, wait_until

pytestmark = pytest.mark.anyio
SWEPT = "swept.WorkerSettings"
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RIGHT = "jobguard:sweep:arq:queue"


def now_ms() -> int:
    return int(time.time() * 1000)


def sweeper(bench: Bench, every: float = 600.0) -> Sweeper:
    return Sweeper(bench.pool, bench.guard.runtime, "arq:queue", None, every)


async def swept(bench: Bench) -> None:
    """Sweep the queue now, whoever did so lately."""
    await bench.pool.delete(RIGHT)
    assert await sweeper(bench).turn() == 600


async def put(
    bench: Bench, id: str, *, age_ms: int = 0, life_ms: int = 60_000, due_ms: int = HOUR_MS
) -> None:
    """A job that was enqueued a while ago, whose payload will soon run out."""
    payload = serialize_job("keyed", (id, ["ok"]), {}, None, now_ms() - age_ms)
    await bench.pool.set(f"arq:job:{id}", payload, px=life_ms)
    await bench.pool.zadd("arq:queue", {id: now_ms() + due_ms})


async def put_gone(bench: Bench, *ids: str, due_ms: int = HOUR_MS) -> None:
    """Entries whose payload has run out already."""
    await bench.pool.zadd("arq:queue", {id: now_ms() + due_ms for id in ids})


async def life_ms(bench: Bench, id: str) -> int:
    return int(await bench.pool.pttl(f"arq:job:{id}"))


async def all_letters(bench: Bench) -> list[str]:
    """The ids of the jobs of all dead letters."""
    return sorted([letter.job_id async for letter in bench.guard.dead_letters().each(Filter(state="all"))])


def interfering(
    monkeypatch: pytest.MonkeyPatch, script: Script, act: Callable[[Sequence[Any]], Awaitable[None]]
) -> None:
    """Have something done, each time, just before one of the sweeper's scripts is sent."""
    real = run_script

    async def run(client: Any, each: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        if each is script:
            await act(keys)
        return await real(client, each, keys, arguments)

    monkeypatch.setattr(sweeping, "run_script", run)


async def test_a_payload_about_to_run_out_by_default_is_extended(bench: Bench) -> None:
    """ARQ keeps it for a day; a job that waits for longer is still there, and is run in the end."""
    bench.environ["TEST_SWEEP"] = "600"
    await put(bench, "a", age_ms=DAY_MS - 1_200_000, life_ms=1_200_000)
    bench.start(SWEPT)

    async def extended() -> bool:
        return await life_ms(bench, "a") > 29 * DAY_MS

    await wait_until(extended)
    await bench.pool.zadd("arq:queue", {"a": now_ms()})
    assert await bench.result(QueuedJob("a", bench.pool)) == "a by run 1"


async def test_an_expiry_that_was_given_is_kept(bench: Bench) -> None:
    """And not taken for ARQ's default, which looks the same once it is about to run out."""
    job = await bench.enqueue("keyed", "a", ["ok"], _expires=60, _defer_by=timedelta(hours=1))
    await put(bench, "b", age_ms=DAY_MS)
    await swept(bench)
    assert 0 < await life_ms(bench, job.job_id) <= 60_000
    assert await life_ms(bench, "b") > 29 * DAY_MS


async def test_an_expiry_that_was_given_ends_as_a_dead_letter(bench: Bench) -> None:
    """No worker would have come to the job for an hour; the letter says what is known of it."""
    job = await bench.enqueue("keyed", "a", ["ok"], _expires=1, _defer_by=timedelta(hours=1))
    score = await bench.pool.zscore("arq:queue", job.job_id)
    assert score is not None
    bench.start(SWEPT)
    letter = await bench.letter()
    assert (letter.job_id, letter.queue, letter.reason) == (job.job_id, "arq:queue", "expired")
    assert (letter.task, letter.payload_format, letter.failures) == ("<unknown>", "none", 0)
    planned = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(score / 1000))
    assert f"planned for {planned}" in letter.error_message
    assert "delivered 0 times" in letter.error_message
    assert repr(await bench.error(job)) == repr(JobExecutionFailed("job expired"))
    await bench.at_rest()
    assert bench.journal.runs("a") == []
    [event] = bench.journal.entries("DeadLettered")
    assert (event["id"], event["reason"]) == (letter.id, "expired")
    assert bench.journal.entries("StoreFailed") == []


async def test_a_payload_that_cannot_be_read_is_extended(bench: Bench) -> None:
    """Nobody can say that it was to expire; a worker will dead-letter it with its bytes."""
    await bench.pool.set("arq:job:broken", b"\x80garbage", px=60_000)
    await bench.pool.set("arq:job:list", b"[1]", px=60_000)
    await put_gone(bench, "broken", "list")
    await swept(bench)
    assert await life_ms(bench, "broken") > 29 * DAY_MS
    assert await life_ms(bench, "list") > 29 * DAY_MS
    assert await bench.pool.get("arq:job:broken") == b"\x80garbage"


async def test_payloads_that_last_long_enough_are_left_alone(bench: Bench) -> None:
    """Three sweeps' time is enough; one that never runs out is too."""
    await put(bench, "long", age_ms=DAY_MS, life_ms=1_900_000)
    await put(bench, "short", age_ms=DAY_MS, life_ms=1_700_000)
    await put(bench, "kept", age_ms=DAY_MS)
    await bench.pool.persist("arq:job:kept")
    await swept(bench)
    assert await life_ms(bench, "long") < 1_900_000
    assert await life_ms(bench, "short") > 29 * DAY_MS
    assert await life_ms(bench, "kept") == -1


async def test_many_large_payloads_are_read_in_portions(bench: Bench) -> None:
    """Not all of them at once: together they may be larger than the worker's memory."""
    ids = [f"large{n}" for n in range(5)]
    for id in ids:
        await bench.pool.set(f"arq:job:{id}", b"x" * 400_000, px=60_000)
    await put_gone(bench, *ids)
    before = await bench.pool.info("commandstats")
    await swept(bench)
    after = await bench.pool.info("commandstats")
    calls = [stats.get("cmdstat_mget", {"calls": 0})["calls"] for stats in (before, after)]
    assert calls[1] - calls[0] == 3
    assert [await life_ms(bench, id) > 29 * DAY_MS for id in ids] == [True] * 5


async def test_an_extension_does_not_reach_another_payload_under_the_same_id(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that ends and is enqueued again meanwhile, with an expiry of its own, keeps that."""
    await put(bench, "a", age_ms=DAY_MS)

    async def again(keys: Sequence[Any]) -> None:
        await put(bench, "a")

    interfering(monkeypatch, sweeping._EXTEND, again)
    await swept(bench)
    assert 0 < await life_ms(bench, "a") <= 60_000


async def test_workers_that_sweep_one_queue_leave_one_letter_for_each_job(bench: Bench) -> None:
    """Whoever sweeps, and whoever is given the job: also beside ARQ, which comes to what is due itself."""
    late = [f"late{n}" for n in range(20)]
    due = [f"due{n}" for n in range(20)]
    workers = [bench.start(SWEPT, keep_result=0, lease=30) for _ in range(3)]
    for worker in workers:
        await bench.ready(worker)
    await put_gone(bench, *late)
    await put_gone(bench, *due, due_ms=-1000)
    await bench.at_rest()
    for worker in workers:
        assert await worker.stop() == 0, worker.output()
    assert await all_letters(bench) == sorted(late + due)
    assert len(bench.journal.entries("DeadLettered")) == 40


async def test_a_worker_that_dies_after_the_letter_leaves_one(bench: Bench) -> None:
    """The queue was not told, so another worker ends the job again, with the same letter."""
    bench.open("deadly")
    await put_gone(bench, "a")
    assert await bench.start(SWEPT).ended() == 3
    assert len(bench.journal.entries("DeadLettered")) == 1
    first = await bench.letter()
    assert await bench.pool.zscore("arq:queue", "a") is not None
    await bench.drain()
    assert await bench.letter() == first
    assert await bench.leftovers() == []


async def test_a_sweeper_that_dies_before_the_letter_costs_nothing(bench: Bench) -> None:
    """What it has put in the payload's place is delivered by the next worker, swept or not."""
    await put_gone(bench, "a")
    await swept(bench)
    assert await all_letters(bench) == []
    await bench.drain()
    assert (await bench.letter()).job_id == "a"
    assert await bench.leftovers() == []


async def test_a_dead_sweepers_right_ends_by_itself(bench: Bench) -> None:
    """Another worker waits for that, and sweeps."""
    await bench.pool.set(RIGHT, "a dead one's", px=1000)
    await put_gone(bench, "a")
    worker = bench.start(SWEPT)
    await bench.ready(worker)
    assert (await bench.letter()).job_id == "a"


async def test_one_worker_of_a_queue_sweeps_and_the_others_leave_it_alone(bench: Bench) -> None:
    """While it does so, and until the queue is to be swept again."""
    await put_gone(bench, "a")
    await bench.pool.set(RIGHT, "another's", px=20_000)
    assert 0 < await sweeper(bench).turn() <= 20.1
    assert await bench.pool.exists("arq:job:a") == 0
    await bench.pool.delete(RIGHT)
    assert await sweeper(bench).turn() == 600
    await put_gone(bench, "b")
    assert 0 < await sweeper(bench, 50).turn() <= 50
    assert await bench.pool.exists("arq:job:a", "arq:job:b") == 1
    assert 0 < await bench.pool.pttl(RIGHT) <= 600_000


async def test_a_sweeper_stops_when_another_has_taken_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its right had ended, for it was stopped for longer than a lease."""

    async def taken(keys: Sequence[Any]) -> None:
        await bench.pool.set(RIGHT, "another's", px=20_000)

    interfering(monkeypatch, sweeping._LOOK, taken)
    await put_gone(bench, "a")
    assert 0 < await sweeper(bench).turn() <= 20.1
    assert await bench.pool.exists("arq:job:a") == 0
    assert await bench.pool.get(RIGHT) == b"another's"


async def test_a_payload_that_is_back_meanwhile_is_left_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job enqueued under the id of one that has expired is run, and has no letter."""

    async def enqueue(keys: Sequence[Any]) -> None:
        await bench.enqueue("keyed", "a", ["ok"], _job_id="a")

    interfering(monkeypatch, sweeping._MARK_EXPIRED, enqueue)
    await put_gone(bench, "a")
    await swept(bench)
    await bench.drain()
    assert await bench.result(QueuedJob("a", bench.pool)) == "a by run 1"
    assert await all_letters(bench) == []


async def test_an_entry_that_has_left_its_queue_meanwhile_does_not_come_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job has ended, or was taken out by hand."""

    async def remove(keys: Sequence[Any]) -> None:
        await bench.pool.zrem("arq:queue", "a")

    interfering(monkeypatch, sweeping._MARK_EXPIRED, remove)
    await put_gone(bench, "a")
    await swept(bench)
    assert await bench.leftovers() == []


async def test_a_job_in_progress_is_left_alone(bench: Bench) -> None:
    """It may outlive its payload: its run began in time."""
    job = await bench.enqueue("keyed", "a", ["wait go"])
    bench.start(SWEPT, lease=30)
    await bench.journal.run("a", 1)
    await bench.pool.delete(f"arq:job:{job.job_id}")
    assert await running_in(bench.pool, job)
    await swept(bench)
    assert await bench.pool.exists(f"arq:job:{job.job_id}") == 0
    bench.open("go")
    assert await bench.result(job) == "a by run 1"
    await bench.at_rest()
    assert await all_letters(bench) == []


@pytest.mark.parametrize("kind", ["in-progress", "result"])
async def test_what_a_worker_has_or_had_is_left_alone(bench: Bench, kind: str) -> None:
    """A mark says that it runs; a result says that it has ended, and that a lost run has made the entry."""
    await bench.pool.set(f"arq:{kind}:a", b"1")
    await put_gone(bench, "a")
    await swept(bench)
    assert await bench.pool.exists("arq:job:a") == 0
    await bench.pool.delete(f"arq:{kind}:a")
    await swept(bench)
    assert await bench.pool.exists("arq:job:a") == 1


async def test_a_queue_of_thousands_is_swept_in_batches(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No script call sees more than 500 entries, and all of them are seen, beside those that come and go."""
    sizes: list[int] = []
    ids = [f"{n:04}" for n in range(4000)]
    gone, waning = ids[::16], ids[1::16]
    async with bench.pool.pipeline(transaction=False) as pipe:
        for id in set(ids) - set(gone):
            payload = serialize_job("keyed", (id, ["ok"]), {}, None, now_ms() - DAY_MS)
            pipe.set(f"arq:job:{id}", payload, px=60_000 if id in set(waning) else 30 * DAY_MS)
        pipe.zadd("arq:queue", {id: now_ms() + HOUR_MS for id in ids})
        await pipe.execute()
    passing = iter(range(10_000))
    leaving = iter(ids[2::16])

    async def come_and_go(keys: Sequence[Any]) -> None:
        sizes.append(len(keys) - 1)
        await put_gone(bench, *(f"new{next(passing)}" for _ in range(100)))
        await bench.pool.zrem("arq:queue", *(next(leaving) for _ in range(10)))
        # Put off: the entry stays, at another place.
        await bench.pool.zadd("arq:queue", {id: now_ms() + 2 * HOUR_MS for id in gone[:50]})

    interfering(monkeypatch, sweeping._LOOK, come_and_go)
    await swept(bench)
    assert max(sizes) <= 500
    assert len(sizes) >= 8
    assert await bench.pool.exists(*(f"arq:job:{id}" for id in gone)) == len(gone)
    assert all([await life_ms(bench, id) > 29 * DAY_MS for id in waning])


@pytest.mark.parametrize(
    "id", ['quo"te', "back\\slash", "sla/sh", "ümlaut", "new\nline", "with: colon", "%s"]
)
async def test_job_ids_of_any_text_are_told_as_they_are(bench: Bench, id: str) -> None:
    """They are whatever somebody enqueued."""
    await put_gone(bench, id)
    await swept(bench)
    await bench.drain()
    letter = await bench.letter()
    assert (letter.job_id, letter.reason) == (id, "expired")
    assert await bench.leftovers() == []


async def test_deliveries_before_are_told_and_are_no_crashes(bench: Bench) -> None:
    """More of them than `max_crashes` allows: the job has expired all the same."""
    await bench.pool.set("arq:retry:a", 7)
    await put_gone(bench, "a")
    await swept(bench)
    await bench.drain()
    letter = await bench.letter()
    assert (letter.reason, letter.crashes) == ("expired", 0)
    assert "delivered 7 times before" in letter.error_message


async def test_two_expired_jobs_of_one_id_and_one_plan_leave_two_letters(bench: Bench) -> None:
    """Each is a job of its own."""
    for _ in range(2):
        await bench.pool.zadd("arq:queue", {"gone": now_ms() // DAY_MS * DAY_MS + 9 * DAY_MS})
        await swept(bench)
        await bench.drain(keep_result=0)
    assert await all_letters(bench) == ["gone", "gone"]


async def test_a_replay_that_expires_makes_its_letter_dead_again(bench: Bench) -> None:
    """The letter of a job that was put back keeps all that it has, arguments too."""
    await bench.enqueue("retried", "a", ["fail"])
    await bench.drain()
    first = await bench.letter()
    queue = bench.guard.dead_letters()
    await queue.requeue(first.id, via=ArqQueue(bench.pool))
    [(id, _)] = await bench.pool.zrange("arq:queue", 0, -1, withscores=True)
    await bench.pool.delete(b"arq:job:" + id)
    await swept(bench)
    await bench.drain()
    again = await bench.letter()
    assert (again.id, again.state, again.reason) == (first.id, LetterState.DEAD, "expired")
    assert (again.payload, again.requeues, again.failures) == (first.payload, 1, first.failures)


async def test_those_who_look_at_the_queue_are_shown_jobs_that_have_expired(bench: Bench) -> None:
    """A pool of `create_pool` reads what the sweeper has put there."""
    await put_gone(bench, "a")
    await swept(bench)
    [job] = await bench.pool.queued_jobs()
    assert (job.job_id, job.function) == ("a", "<unknown>")


async def test_a_failing_sweep_is_told_and_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an event; whatever it is, the worker goes on."""
    errors: list[Exception] = [OSError("away"), ValueError("a fault of ours")]
    told: list[Event] = []

    async def fail(keys: Sequence[Any]) -> None:
        if errors:
            raise errors.pop(0)

    interfering(monkeypatch, sweeping._LOOK, fail)
    guard = JobGuard(RedisStore(bench.pool), lease=0.2, hooks=[told.append])
    failing = Sweeper(bench.pool, guard.runtime, "arq:queue", None, 0.1)
    await put_gone(bench, "a")
    failing.start()

    async def marked() -> bool:
        return bool(await bench.pool.exists("arq:job:a"))

    await wait_until(marked)
    await failing.aclose()
    failures = [(event.operation, event.error) for event in told if isinstance(event, StoreFailed)]
    assert failures == [
        ("sweep", "OSError: away"),
        ("sweep", "ValueError: a fault of ours"),
    ]


async def test_a_worker_sweeps_soon_after_its_start(bench: Bench) -> None:
    """Ten minutes are for the second time."""
    bench.environ["TEST_SWEEP"] = "600"
    await put_gone(bench, "a")
    bench.start(SWEPT)
    assert (await bench.letter()).job_id == "a"


async def test_a_worker_may_be_told_not_to_sweep(bench: Bench) -> None:
    """`sweep=None`: the queue is as ARQ has it."""
    bench.environ["TEST_SWEEP"] = "never"
    await put(bench, "a", age_ms=DAY_MS)
    worker = bench.start(SWEPT)
    other = await bench.enqueue("keyed", "b", ["ok"])
    assert await bench.result(other) == "b by run 1"
    assert await worker.stop() == 0
    assert 0 < await life_ms(bench, "a") <= 60_000
    assert await bench.pool.exists(RIGHT) == 0


async def test_arq_alone_forgets_a_job_whose_payload_runs_out(bench: Bench) -> None:
    """What all of this is for: no letter, no run, and nothing but a line in a log."""
    await put_gone(bench, "a", due_ms=-1)

    async def task(ctx: dict[Any, Any]) -> None: ...

    settings = RedisSettings(unix_socket_path=bench.environ["TEST_SOCKET"])
    worker = Worker([task], redis_settings=settings, burst=True, poll_delay=0.02, handle_signals=False)
    await worker.async_run()
    await worker.close()
    assert await bench.leftovers() == []
    assert await all_letters(bench) == []


@pytest.mark.parametrize(
    ("sweep", "error"), [(0, InvalidValue), (-1, InvalidValue), ("600", InvalidType), (True, InvalidType)]
)
def test_an_interval_that_is_none_is_refused(sweep: Any, error: type[Exception]) -> None:
    """When the worker is defined."""

    async def task(ctx: dict[Any, Any]) -> None: ...

    with pytest.raises(error, match="sweep"):
        protect({"functions": [task]}, sweep=sweep)


async def test_a_sweep_ends_with_its_worker_though_a_cancellation_is_swallowed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `asyncio.wait_for` of Python 3.11 can do, in which redis-py 8 writes."""
    sweeping_now = sweeper(bench)
    begun = asyncio.Event()

    async def deaf(self: Sweeper) -> float:
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(600)
        return 600.0

    monkeypatch.setattr(Sweeper, "turn", deaf)
    sweeping_now.start()
    await begun.wait()
    async with asyncio.timeout(20):
        await sweeping_now.aclose()
