"""Dead letters' jobs that go back into ARQ's queue, on stock workers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from arq.jobs import Job as QueuedJob
from redis.asyncio import Redis

from jobguard import DeadLetter, DeadLetterQueue
from jobguard.adapters.arq import ArqQueue
from jobguard.adapters.arq.replay import is_replay
from jobguard.adapters.base import Replay, ReplayJob
from jobguard.errors import StoreUnavailable
from jobguard.filters import Filter
from jobguard.requeueing import Requeued, Status
from jobguard.stores.letters import LetterQueue, LetterState
from jobguard.testing import EmbeddedValkey
from tests.arq.harness import Bench, wait_until

pytestmark = pytest.mark.anyio

FAILS = ["fail", "fail", "fail"]


def letters_of(bench: Bench) -> DeadLetterQueue:
    return bench.guard.dead_letters()


async def requeue(bench: Bench, *ids: str, **settings: object) -> list[Requeued]:
    """Requeue some letters, or all that are dead; what that came to."""
    which = ids or Filter()
    report = await letters_of(bench).requeue(which, via=ArqQueue(bench.pool), **settings)  # type: ignore[arg-type]
    assert report.stopped == ""
    return list(report.outcomes)


async def letter_now(bench: Bench, id: str) -> DeadLetter:
    letter = await letters_of(bench).get(id)
    assert letter is not None
    return letter


async def dead(bench: Bench, function: str = "retried", script: list[str] | None = None) -> DeadLetter:
    """A job that has died on a worker."""
    await bench.enqueue(function, "a", FAILS if script is None else script)
    await bench.drain()
    return await bench.letter()


@pytest.mark.parametrize("function", ["retried", "keyed"])
async def test_a_replay_that_succeeds_resolves_its_letter(bench: Bench, function: str) -> None:
    """The job runs again with its own arguments, attempts counted anew, and the letter says how it ended."""
    letter = await dead(bench, function, [*FAILS, "ok"])
    [outcome] = await requeue(bench, by="an operator")
    assert outcome == Requeued(letter.id, Status.REQUEUED, f"replay:jobguard:default:{letter.id}:1")
    waiting = await letter_now(bench, letter.id)
    assert (waiting.state, waiting.requeues) == (LetterState.REQUEUED, 1)
    assert [(each.number, each.job_id, each.by) for each in waiting.replays] == [
        (1, outcome.job_id, "an operator")
    ]
    await bench.drain()
    assert (await bench.journal.run("a", 4))["attempt"] == 1
    resolved = await letter_now(bench, letter.id)
    assert (resolved.state, resolved.resolution) == (LetterState.RESOLVED, "succeeded")
    assert await letters_of(bench).count() == 0
    assert await bench.leftovers() == []


async def test_a_replay_that_fails_makes_the_same_letter_dead_again(bench: Bench) -> None:
    """One entry tells of all attempts, and the count of its replays has risen."""
    letter = await dead(bench)
    await requeue(bench)
    await bench.drain()
    again = await bench.letter()
    assert (again.id, again.state, again.requeues) == (letter.id, LetterState.DEAD, 1)
    assert [each.attempt for each in again.attempts] == [1, 2, 3, 4, 5, 6]
    assert again.failures == 6
    assert again.first_seen == letter.first_seen
    assert again.payload == letter.payload
    assert again.job_id == f"replay:jobguard:default:{letter.id}:1"


async def test_a_letter_that_was_requeued_too_often_is_refused(bench: Bench) -> None:
    """A poison job does not go round and round."""
    letter = await dead(bench)
    await requeue(bench)
    await bench.drain()
    [outcome] = await requeue(bench, max_requeues=1)
    assert (outcome.status, "max_requeues=1" in outcome.why) == (Status.REFUSED, True)
    assert (await letter_now(bench, letter.id)).state is LetterState.DEAD


async def test_a_task_that_no_worker_serves_is_refused_and_others_go_on(bench: Bench) -> None:
    """Its worker would only bury it again; `unserved=True` sends it all the same."""
    await bench.enqueue("renamed", 1)
    await bench.enqueue("retried", "a", [*FAILS, "ok"])
    await bench.drain()
    outcomes = {outcome.status: outcome for outcome in await requeue(bench)}
    assert set(outcomes) == {Status.REFUSED, Status.REQUEUED}
    refused = outcomes[Status.REFUSED]
    assert "serves task 'renamed'" in refused.why
    [sent] = await requeue(bench, refused.id, unserved=True)
    assert sent.status is Status.REQUEUED
    await bench.drain()
    again = await letter_now(bench, refused.id)
    assert (again.state, again.reason, again.requeues) == (LetterState.DEAD, "unknown_task", 1)


async def test_a_payload_that_no_worker_could_read_is_refused(bench: Bench) -> None:
    """It is kept, byte for byte, until somebody says that a worker can read it now."""
    await bench.pool.set("arq:job:broken", b"\x80garbage")
    await bench.pool.zadd("arq:queue", {"broken": 1})
    await bench.drain()
    letter = await bench.letter()
    [outcome] = await requeue(bench)
    assert outcome.status is Status.REFUSED
    await requeue(bench, unserved=True)
    await bench.drain()
    again = await bench.letter()
    assert (again.id, again.reason, again.payload) == (letter.id, "undecodable", letter.payload)


async def test_a_requeue_cut_off_before_its_letter_was_written_runs_once(bench: Bench) -> None:
    """The job's id follows from the letter, so that whoever repeats it finds the job in its queue."""
    letter = await dead(bench, script=[*FAILS, "ok"])

    class Cut(Exception):
        pass

    class CutOff(ArqQueue):
        async def enqueue(self, job: object) -> bool:
            await super().enqueue(job)  # type: ignore[arg-type]
            raise Cut

    with pytest.raises(Cut):
        await letters_of(bench).requeue(letter.id, via=CutOff(bench.pool))
    assert (await letter_now(bench, letter.id)).state is LetterState.DEAD
    [outcome] = await requeue(bench, letter.id)
    assert outcome.status is Status.WAITING
    assert (await letter_now(bench, letter.id)).state is LetterState.REQUEUED
    await bench.drain()
    assert len(bench.journal.runs("a")) == 4
    assert (await letter_now(bench, letter.id)).state is LetterState.RESOLVED


async def test_a_replay_that_is_enqueued_twice_runs_once(bench: Bench) -> None:
    """ARQ forgets a job without a result, and takes its id again; the letter knows."""
    letter = await dead(bench, script=[*FAILS, "ok"])
    [outcome] = await requeue(bench, letter.id)
    payload = await bench.pool.get(f"arq:job:{outcome.job_id}")
    assert payload is not None
    assert is_replay(payload)
    await bench.drain(keep_result=0)
    await bench.pool.set(f"arq:job:{outcome.job_id}", payload)
    await bench.pool.zadd("arq:queue", {str(outcome.job_id): 1})
    await bench.drain(keep_result=0)
    assert len(bench.journal.runs("a")) == 4
    assert await bench.leftovers() == []


async def test_a_result_of_an_older_replay_is_not_taken_for_this_one(bench: Bench) -> None:
    """ARQ refuses an id that it has a result of; where the letter was not told, somebody has to decide."""
    letter = await dead(bench, script=[*FAILS, "ok"])
    await bench.pool.set(f"arq:result:replay:jobguard:default:{letter.id}:1", b"somebody's")
    [outcome] = await requeue(bench, letter.id)
    assert (outcome.status, "old result" in outcome.why) == (Status.REFUSED, True)
    [outcome] = await requeue(bench, letter.id, on_duplicate="force")
    assert (outcome.status, outcome.job_id) == (Status.REQUEUED, f"replay:jobguard:default:{letter.id}:2")
    await bench.drain()
    assert (await letter_now(bench, letter.id)).resolution == "succeeded"


async def test_a_replay_survives_its_workers_sigkill(bench: Bench) -> None:
    """Delivered again to another worker, it goes on as any job does, and its letter is resolved once."""
    letter = await dead(bench, script=[*FAILS, "exit", "ok"])
    await requeue(bench)
    killed = bench.start()
    await killed.ended()
    await bench.drain()
    assert (await letter_now(bench, letter.id)).resolution == "succeeded"
    assert len(bench.journal.runs("a")) == 5


async def test_another_jobs_success_makes_a_letter_a_duplicate(bench: Bench) -> None:
    """Replays pass deduplication: the work is not done twice, unless that is asked for."""
    letter = await dead(bench, "keyed", [*FAILS, "ok"])
    await bench.enqueue("keyed", "a", ["ok"])
    await bench.drain()
    [outcome] = await requeue(bench)
    assert (outcome.status, "has succeeded" in outcome.why) == (Status.DUPLICATE, True)
    assert (await letter_now(bench, letter.id)).state is LetterState.DEAD
    [outcome] = await requeue(bench, on_duplicate="fail")
    assert outcome.status is Status.REFUSED
    await requeue(bench, on_duplicate="force")
    await bench.drain()
    assert (await letter_now(bench, letter.id)).resolution == "succeeded"
    assert len(bench.journal.runs("a")) == 5


async def test_work_done_while_a_replay_waited_is_not_done_again(bench: Bench) -> None:
    """The replay meets its duplicate when it starts, and the letter says that another job did it."""
    letter = await dead(bench, "keyed", [*FAILS, "ok"])
    await requeue(bench)
    await bench.pool.zadd("arq:queue", {f"replay:jobguard:default:{letter.id}:1": 2**42})
    await bench.enqueue("keyed", "a", ["ok"])
    worker = bench.start()
    await bench.journal.run("a", 4)
    await wait_until(lambda: bench.journal.entries("Succeeded"))
    await bench.pool.zadd("arq:queue", {f"replay:jobguard:default:{letter.id}:1": 1})

    async def resolved() -> bool:
        return (await letter_now(bench, letter.id)).resolution == "duplicate"

    await wait_until(resolved)
    assert len(bench.journal.runs("a")) == 4
    assert worker.running


async def test_a_worker_that_writes_json_reads_replays(bench: Bench) -> None:
    """Whoever requeues need not know how the queue's workers write their payloads."""
    await bench.pool.enqueue_job("keyed", "a", ["fail", "fail", "ok"], _job_id="one")
    raw: dict[str, object] = {
        "t": None,
        "f": "keyed",
        "a": ["a", ["fail", "fail", "ok"]],
        "k": {},
        "et": 1_760_000_000_000,
    }
    await bench.pool.set("arq:job:one", json.dumps(raw))
    await bench.drain("as_json.WorkerSettings")
    letter = await bench.letter()
    await requeue(bench)
    await bench.drain("as_json.WorkerSettings")
    assert (await letter_now(bench, letter.id)).resolution == "succeeded"


async def test_an_opaque_payload_goes_back_as_it_was(bench: Bench) -> None:
    """Arguments that have no JSON form travel as their queue wrote them, and only a worker decodes them."""
    await bench.enqueue("retried", "a", [*FAILS, "ok"], unknown=Path)
    await bench.drain()
    letter = await bench.letter()
    assert letter.payload_format == "opaque"
    [outcome] = await requeue(bench)
    assert outcome.status is Status.REQUEUED
    await bench.drain()
    again = await bench.letter()  # the task takes no such argument, today as then
    assert (again.id, again.requeues, again.payload) == (letter.id, 1, letter.payload)


async def test_a_task_that_has_lost_its_guard_tells_its_letter(bench: Bench) -> None:
    """A function without decorators resolves the letter of its replay, or makes it dead again."""
    letter = await dead(bench, script=[*FAILS, "fail", "ok"])
    await bench.drain("plain.WorkerSettings")  # announces `retried` without a guard
    await requeue(bench)
    await bench.drain("plain.WorkerSettings")
    again = await bench.letter()
    assert (again.requeues, again.state) == (1, LetterState.DEAD)
    assert (again.failures, again.attempts[-1].message) == (4, "a failed in run 4")
    await requeue(bench)
    await bench.drain("plain.WorkerSettings")
    assert (await letter_now(bench, letter.id)).resolution == "succeeded"


async def test_a_replay_whose_guard_was_kept_from_starting_tells_its_letter(bench: Bench) -> None:
    """A foreign decorator around the guard fails: the letter is dead again, and not requeued for ever."""
    letter = await dead(bench, script=[*FAILS, "ok"])
    await requeue(bench)
    await bench.drain("wrapped.WorkerSettings")
    again = await bench.letter()
    assert (again.id, again.state, again.failures) == (letter.id, LetterState.DEAD, 4)
    assert "not today" in again.error_message
    await requeue(bench)
    bench.open("permit")
    await bench.drain("wrapped.WorkerSettings")
    assert (await letter_now(bench, letter.id)).resolution == "succeeded"
    assert [run["failures"] for run in bench.journal.runs("a")] == [0, 1, 2, 0]


async def test_queued_replays_can_be_listed(bench: Bench) -> None:
    """A pool of `create_pool` shows them among other jobs."""
    letter = await dead(bench)
    await requeue(bench)
    [shown] = await bench.pool.queued_jobs()
    assert (shown.function, shown.job_id) == ("retried", f"replay:jobguard:default:{letter.id}:1")


async def test_a_queue_out_of_reach_leaves_letters_dead(bench: Bench, tmp_path: Path) -> None:
    """What could not be enqueued was not written down either."""
    letter = await dead(bench)
    away = Redis(unix_socket_path=str(tmp_path / "nothing"))
    with pytest.raises(StoreUnavailable, match="ARQ's server"):
        await letters_of(bench).requeue(letter.id, via=ArqQueue(away))
    assert (await letter_now(bench, letter.id)).state is LetterState.DEAD
    await away.aclose()


async def test_many_letters_are_requeued_once_by_two_operators(bench: Bench) -> None:
    """Two requeues of the same letters at once put each job into its queue once."""
    for number in range(20):
        await bench.enqueue("retried", f"job {number}", [*FAILS, "ok"])
    await bench.drain()
    both = await asyncio.gather(requeue(bench), requeue(bench))
    sent = [each.id for each in [*both[0], *both[1]] if each.status is Status.REQUEUED]
    assert sorted(sent) == sorted(set(sent))
    assert len(sent) == 20
    await bench.drain()
    assert [len(bench.journal.runs(f"job {number}")) for number in range(20)] == [4] * 20
    assert await letters_of(bench).count("state=resolved") == 20


async def test_an_aborted_replay_resolves_its_letter(bench: Bench) -> None:
    """Whoever aborts the job does not want the work; the letter does not wait for it for ever."""
    letter = await dead(bench, script=[*FAILS, "wait never"])
    [outcome] = await requeue(bench)
    bench.start(allow_abort_jobs=True)
    await bench.journal.run("a", 4)
    assert await QueuedJob(str(outcome.job_id), bench.pool, _deserializer=bench.pool.job_deserializer).abort()

    async def resolved() -> bool:
        return (await letter_now(bench, letter.id)).resolution == "aborted"

    await wait_until(resolved)


async def test_a_replay_whose_payload_has_run_out_is_dead_again(bench: Bench) -> None:
    """The same letter, with the arguments that it has kept, and no other one beside it."""
    letter = await dead(bench)
    [outcome] = await requeue(bench)
    await bench.pool.delete(f"arq:job:{outcome.job_id}")
    await bench.drain()
    again = await bench.letter()
    assert (again.id, again.reason, again.state) == (letter.id, "expired", LetterState.DEAD)
    assert (again.task, again.payload, again.preview) == (letter.task, letter.payload, letter.preview)


async def test_a_replay_that_its_worker_cannot_read_keeps_its_task_and_key(bench: Bench) -> None:
    """A worker that lacks a codec must not make a letter that no worker can ever run."""
    letter = await dead(bench, "keyed", [*FAILS, "ok"])
    [outcome] = await requeue(bench)
    written = json.loads(await bench.pool.get(f"arq:job:{outcome.job_id}") or b"")
    written["payload"] = '{"$as":["unknown",1]}'
    await bench.pool.set(f"arq:job:{outcome.job_id}", json.dumps(written, separators=(",", ":")))
    await bench.drain()
    again = await bench.letter()
    assert (again.reason, again.task, again.key) == ("undecodable", letter.task, letter.key)
    assert (again.payload, again.requeues) == (letter.payload, 1)
    await requeue(bench)
    await bench.drain()
    assert (await letter_now(bench, letter.id)).resolution == "succeeded"


async def test_what_was_masked_stays_masked_without_a_guard(bench: Bench) -> None:
    """A function that has lost its `redact` does not bring to light what its letter masks."""
    await bench.enqueue("secretive", "a", FAILS, secret="hunter2 is the word")
    await bench.drain()
    letter = await bench.letter()
    assert "hunter2" not in f"{letter.preview}{letter.error_message}{letter.traceback}"
    await requeue(bench, unserved=True)
    await bench.drain("plain.WorkerSettings")
    again = await bench.letter()
    assert again.requeues == 1
    assert "hunter2" not in f"{again.preview}{again.error_message}{again.traceback}{again.attempts}"


@pytest.mark.parametrize("command", ["REPLICAOF 127.0.0.1 1", "CONFIG SET requirepass other"])
async def test_what_befalls_every_letter_is_no_refusal_of_one(command: str) -> None:
    """A replica that takes no writes, or a login that is refused: the letters are as good as before."""
    job = ReplayJob(
        Replay(LetterQueue("jobguard", "q"), "a", 1, False, ""), "arq:queue", "send", "{}", "json"
    )
    with EmbeddedValkey() as server:
        async with Redis.from_url(server.url) as client:
            await client.execute_command(*command.split())
            await client.connection_pool.disconnect()
            with pytest.raises(StoreUnavailable):
                await ArqQueue(client).enqueue(job)
