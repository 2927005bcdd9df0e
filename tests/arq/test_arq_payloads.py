"""Payloads that cannot be run, that run out, or that are written in another format."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job as QueuedJob

from arq import create_pool as arq_create_pool
from jobguard.adapters.arq import create_pool
from tests.arq.harness import Bench, running_in, wait_until

pytestmark = pytest.mark.anyio
DAYS_MS = 86_400_000


def dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, default=repr).encode()


async def put_off(bench: Bench, job: QueuedJob, label: str = "a") -> None:
    """Wait until the job's first run is over and the job waits for its next."""
    await wait_until(lambda: [e for e in bench.journal.entries("RetryScheduled") if job.job_id in e["job"]])

    async def waiting() -> bool:
        return not await running_in(bench.pool, job)

    await wait_until(waiting)


async def test_a_job_for_an_unknown_function_becomes_a_dead_letter(bench: Bench) -> None:
    """ARQ would fail it and drop its arguments; the letter keeps its name and payload."""
    unknown = await bench.enqueue("renamed", 1, to="you")
    known = await bench.enqueue("keyed", "a", ["ok"])
    payload = await bench.pool.get(f"arq:job:{unknown.job_id}")
    await bench.drain()
    assert await bench.result(known) == "a by run 1"
    letter = await bench.letter()
    assert (letter.task, letter.reason, letter.job_id) == ("renamed", "unknown_task", unknown.job_id)
    assert payload is not None
    assert letter.payload is not None
    assert "you" in letter.preview
    assert type(await bench.error(unknown)).__name__ == "Undeliverable"
    assert await bench.leftovers() == []


async def test_an_undecodable_payload_becomes_a_dead_letter_with_its_bytes(bench: Bench) -> None:
    """ARQ would delete it; here nothing of it is lost and other jobs go on."""
    await bench.pool.set("arq:job:broken", b"\x80garbage")
    await bench.pool.zadd("arq:queue", {"broken": 1})
    good = await bench.enqueue("keyed", "a", ["ok"])
    await bench.drain()
    assert await bench.result(good) == "a by run 1"
    letter = await bench.letter()
    assert (letter.task, letter.reason, letter.job_id) == ("<unknown>", "undecodable", "broken")
    assert letter.payload is not None
    assert await bench.leftovers() == []


async def test_two_undecodable_payloads_under_one_id_leave_two_letters(bench: Bench) -> None:
    """Nobody knows when they were enqueued; their bytes tell them apart."""
    for payload in (b"\x80first", b"\x80second"):
        await bench.pool.set("arq:job:broken", payload)
        await bench.pool.zadd("arq:queue", {"broken": 1})
        await bench.drain(keep_result=0)
    letters = await bench.letters()
    assert [letter.job_id for letter in letters] == ["broken", "broken"]
    assert all("first" not in letter.error_message + letter.traceback for letter in letters)


async def test_what_cannot_be_run_for_different_reasons_is_of_different_kinds(bench: Bench) -> None:
    """Each is a group of its own, and tells of itself when it comes first."""
    for id in ("one", "two"):
        await bench.pool.set(f"arq:job:{id}", b"\x80garbage")
        await bench.pool.zadd("arq:queue", {id: 1})
    await bench.enqueue("renamed")
    await bench.enqueue("elsewhere")
    await bench.pool.zadd("arq:queue", {"gone": 1})
    await bench.drain()
    kinds = [letter.fingerprint for letter in await bench.letters()]
    assert (len(kinds), len(set(kinds))) == (5, 4)


async def test_two_expired_jobs_of_one_id_leave_two_letters(bench: Bench) -> None:
    """Each is a job of its own."""
    for _ in range(2):
        await bench.pool.zadd("arq:queue", {"gone": 1})
        await bench.drain(keep_result=0)
    assert [letter.job_id for letter in await bench.letters()] == ["gone", "gone"]


async def test_a_long_name_of_a_function_is_cut(bench: Bench) -> None:
    """The name is whatever somebody enqueued."""
    await bench.enqueue("f" * 5_000)
    await bench.drain()
    letter = await bench.letter()
    assert len(letter.task) <= 200
    assert len(letter.error_message) < 400


async def test_json_serialisers_carry_jobs_results_and_duplicates(bench: Bench) -> None:
    """The user's serialisers serve for payloads and results alike; a `Duplicate` passes through."""
    settings = RedisSettings(unix_socket_path=bench.environ["TEST_SOCKET"])
    pool = await create_pool(settings, job_serializer=dump, job_deserializer=json.loads)
    try:
        first = await pool.enqueue_job("keyed", "a", ["wait go"])
        worker = bench.start("as_json.WorkerSettings")
        run = await bench.journal.run("a", 1)
        second = await pool.enqueue_job("keyed", "a", ["ok"])
        failing = await pool.enqueue_job("keyed", "b", ["fail"])
        unknown = await pool.enqueue_job("renamed", "c")
        assert first is not None
        assert second is not None
        assert failing is not None
        assert unknown is not None
        key, status, owner = await bench.result(second)
        assert (key, status, first.job_id in owner) == (run["key"], "processing", True)
        bench.open("go")
        assert await bench.result(first) == "a by run 1"
        await wait_until(failing.result_info)
        await wait_until(unknown.result_info)
        await worker.stop()
        letters = {letter.task: letter for letter in await bench.letters()}
        assert {task: letter.reason for task, letter in letters.items()} == {
            "keyed": "exhausted",
            "renamed": "unknown_task",
        }
    finally:
        await pool.aclose()


async def test_an_undecodable_json_payload_becomes_a_dead_letter(bench: Bench) -> None:
    """JSON of the wrong shape and no JSON at all are alike."""
    for name, payload in {"text": b"no json", "list": b"[1]", "object": b'{"f": "keyed"}'}.items():
        await bench.pool.set(f"arq:job:{name}", payload)
        await bench.pool.zadd("arq:queue", {name: 1})
    await bench.drain("as_json.WorkerSettings")
    letters = await bench.letters()
    assert {letter.job_id for letter in letters} == {"text", "list", "object"}
    assert {letter.reason for letter in letters} == {"undecodable"}
    assert await bench.leftovers() == []


async def test_a_payload_outlasts_a_retry_delay_longer_than_its_life(bench: Bench) -> None:
    """ARQ keeps payloads for a day; one that waits two days for its retry is still there then."""
    pool = await arq_create_pool(RedisSettings(unix_socket_path=bench.environ["TEST_SOCKET"]))
    try:
        job = await pool.enqueue_job("patient", "a", ["fail", "ok"])
    finally:
        await pool.aclose()
    assert job is not None
    assert await bench.pool.pttl(f"arq:job:{job.job_id}") <= DAYS_MS
    bench.start()
    await put_off(bench, job)
    assert await bench.pool.pttl(f"arq:job:{job.job_id}") > 2 * DAYS_MS
    # Two days later.
    await bench.pool.zadd("arq:queue", {job.job_id: time.time() * 1000 - 1})
    assert await bench.result(QueuedJob(job.job_id, bench.pool)) == "a by run 2"


@pytest.mark.parametrize(("life", "script"), [(600, "fail"), (5, "sleep 6 then fail")])
async def test_a_payload_that_was_to_expire_before_the_retry_is_dead_lettered(
    bench: Bench, life: int, script: str
) -> None:
    """An explicit `_expires` is the user's word: it is kept, and the job ends with a letter."""
    job = await bench.enqueue("patient", "a", [script, "ok"], _expires=life)
    await bench.drain()
    assert isinstance(await bench.error(job), ValueError)
    letter = await bench.letter()
    assert (letter.job_id, letter.reason, letter.failures) == (job.job_id, "expired", 1)
    assert letter.payload is not None
    assert len(bench.journal.runs("a")) == 1
    assert await bench.leftovers() == []


async def test_a_job_that_expired_before_any_worker_ran_it_is_dead_lettered(bench: Bench) -> None:
    """Only its id is known by then; that much is kept, and the job is never run."""
    job = await bench.enqueue("keyed", "a", ["ok"], _expires=0.05)

    async def gone() -> bool:
        return not await bench.pool.exists(f"arq:job:{job.job_id}")

    await wait_until(gone)
    await bench.drain()
    letter = await bench.letter()
    assert (letter.task, letter.job_id, letter.reason) == ("<unknown>", job.job_id, "expired")
    assert bench.journal.runs("a") == []
    assert await bench.leftovers() == []


async def test_jobs_enqueued_through_our_pool_are_kept_for_thirty_days(bench: Bench) -> None:
    """Longer than ARQ's day, so that a queue may stand still over a week-end."""
    job = await bench.enqueue("keyed", "a", ["ok"])
    assert await bench.pool.pttl(f"arq:job:{job.job_id}") > 29 * DAYS_MS
