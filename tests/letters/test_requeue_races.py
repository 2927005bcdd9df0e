"""Letters that change while they are requeued: by operators, workers and crashes that come in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest

from jobguard import DeadLetterQueue, Filter, JobGuard, dead_letter
from jobguard.adapters.base import ReplayJob, replay_of
from jobguard.adapters.rerun import LocalQueue
from jobguard.errors import InvalidValue
from jobguard.exchange import import_
from jobguard.letters import to_text
from jobguard.replays import SUCCEEDED, is_due, keep_again, resolve
from jobguard.requeueing import Status
from jobguard.stores.letters import LetterState
from tests.letters.making import keep, letter
from tests.letters.replaying import Recorder, letter_with

pytestmark = pytest.mark.anyio

Meanwhile = Callable[[], Awaitable[object]]


class Interfering(Recorder):
    """A queue where something happens the first time that it is asked for something."""

    def __init__(self, *, enqueued: Meanwhile | None = None, asked: Meanwhile | None = None) -> None:
        super().__init__()
        self._enqueued = enqueued
        self._asked = asked

    async def enqueue(self, job: ReplayJob) -> bool:
        new = await super().enqueue(job)
        if self._enqueued is not None:
            meanwhile, self._enqueued = self._enqueued, None
            await meanwhile()
        return new

    async def pending(self, queue: str, job_id: str) -> bool:
        if self._asked is not None:
            meanwhile, self._asked = self._asked, None
            await meanwhile()
            return False
        return await super().pending(queue, job_id)


async def requeue_once(letters: DeadLetterQueue) -> ReplayJob:
    """Put the letter `a` into a queue that runs nothing; its job."""
    via = Recorder()
    await letters.requeue("a", via=via, unserved=True)
    return via.jobs[0]


async def test_a_job_that_succeeds_while_it_is_asked_for_is_not_run_again(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """The letter is looked at again before a requeued one is given another number."""
    await keep(letters, letter("a"))
    job = await requeue_once(letters)

    async def succeed() -> None:
        await resolve(guard.store, job.replay.queue, job.replay, SUCCEEDED)

    via = Interfering(asked=succeed)
    [outcome] = (await letters.requeue("a", via=via, unserved=True)).outcomes
    assert (outcome.status, via.jobs) == (Status.REFUSED, [])
    assert (await letter_with(letters, "a")).state is LetterState.RESOLVED


async def test_a_job_that_ends_before_its_letter_is_written_keeps_its_end(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """Whoever has enqueued it does not write over what its worker has written."""
    await keep(letters, letter("a"))
    via: Interfering

    async def succeed() -> None:
        replay = via.jobs[0].replay
        await resolve(guard.store, replay.queue, replay, SUCCEEDED)

    via = Interfering(enqueued=succeed)
    [outcome] = (await letters.requeue("a", via=via, unserved=True)).outcomes
    assert outcome.status is Status.REQUEUED
    assert (await letter_with(letters, "a")).resolution == "succeeded"


async def test_a_letter_that_is_removed_before_its_turn_is_not_run(letters: DeadLetterQueue) -> None:
    """Each letter is read when its turn comes, however long ago its page was."""
    await keep(letters, letter("a"), letter("b"))
    via = Interfering(enqueued=lambda: letters.remove("b"))
    report = await letters.requeue(Filter(), via=via, unserved=True, rate=9.0)  # one at a time
    assert [outcome.status for outcome in report.outcomes] == [Status.REQUEUED, Status.MISSING]
    assert [job.replay.id for job in via.jobs] == ["a"]


async def test_a_letter_that_is_edited_before_its_turn_runs_with_its_new_arguments(
    letters: DeadLetterQueue,
) -> None:
    """The job has what the letter says."""
    await keep(letters, letter("a", args=["x"]), letter("b", args=["y"]))
    via = Interfering(enqueued=lambda: letters.edit("b", {"to": "z"}))
    report = await letters.requeue(["a", "b"], via=via, unserved=True, rate=9.0)
    assert [outcome.status for outcome in report.outcomes] == [Status.REQUEUED] * 2
    assert '"z"' in via.jobs[1].payload


async def test_an_edit_after_a_crash_has_its_own_job_and_the_old_one_is_not_due(
    letters: DeadLetterQueue,
) -> None:
    """The job that was enqueued before the crash has the old arguments: its letter waits for other ones."""

    class Crash(Exception):
        pass

    async def crash() -> None:
        raise Crash

    await keep(letters, letter("a", args=["x"]))
    via = Interfering(enqueued=crash)
    with pytest.raises(Crash):
        await letters.requeue("a", via=via, unserved=True)
    await letters.edit("a", {"to": "z"})
    [outcome] = (await letters.requeue("a", via=via, unserved=True)).outcomes
    assert outcome.status is Status.REQUEUED
    old, new = via.jobs
    now = await letter_with(letters, "a")
    assert (is_due(now, old.replay), is_due(now, new.replay)) == (False, True)
    assert replay_of(new.replay.job_id) == new.replay


async def test_an_edit_between_enqueueing_and_writing_is_enqueued_too(letters: DeadLetterQueue) -> None:
    """A requeue that finds its letter edited puts the job with the new arguments into the queue as well."""
    await keep(letters, letter("a", args=["x"]))
    via = Interfering(enqueued=lambda: letters.edit("a", {"to": "z"}))
    [outcome] = (await letters.requeue("a", via=via, unserved=True)).outcomes
    assert outcome.job_id == via.jobs[1].replay.job_id
    assert is_due(await letter_with(letters, "a"), via.jobs[1].replay)


async def test_a_lost_jobs_letter_has_the_next_one_run_however_quick_its_worker_is(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """Its letter is dead again before the job is enqueued, which so finds it waiting for its end."""
    await keep(letters, letter("a"))
    await requeue_once(letters)  # and that job is lost
    due: list[bool] = []

    async def look() -> None:
        replay = via.jobs[0].replay
        due.append(is_due(await letter_with(letters, "a"), replay))
        await resolve(guard.store, replay.queue, replay, SUCCEEDED)

    via = Interfering(enqueued=look)
    [outcome] = (await letters.requeue("a", via=via, unserved=True)).outcomes
    assert (outcome.status, via.jobs[0].replay.number, due) == (Status.REQUEUED, 2, [True])
    assert (await letter_with(letters, "a")).state is LetterState.RESOLVED


async def test_a_lost_jobs_letter_can_be_requeued_again_after_a_crash(letters: DeadLetterQueue) -> None:
    """Whoever dies between enqueueing and writing: the same command finds the job that is there."""

    async def crash() -> None:
        raise ConnectionError

    await keep(letters, letter("a"))
    await requeue_once(letters)
    via = Interfering(enqueued=crash)
    with pytest.raises(ConnectionError):
        await letters.requeue("a", via=via, unserved=True)
    [outcome] = (await letters.requeue("a", via=via, unserved=True)).outcomes
    assert (outcome.status, len(via.jobs)) == (Status.WAITING, 1)
    assert is_due(await letter_with(letters, "a"), via.jobs[0].replay)


async def test_a_letter_that_has_died_again_before_its_turn_is_left_alone(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """A filter found it as it was: nobody has looked at what it has died of since."""
    await keep(letters, letter("a"), letter("b"))
    other = Recorder()

    async def die_again() -> None:
        await letters.requeue("b", via=other, unserved=True)
        replay = other.jobs[0].replay
        await keep_again(guard.store, replay.queue, replay, letter("b", error_type="ValueError"))

    via = Interfering(enqueued=die_again)
    report = await letters.requeue(Filter(), via=via, unserved=True, rate=9.0)
    assert [outcome.id for outcome in report.outcomes] == ["a"]
    assert [job.replay.id for job in via.jobs] == ["a"]
    assert (await letter_with(letters, "b")).state is LetterState.DEAD


@pytest.mark.parametrize("confirmed", [True, False])
async def test_arguments_of_a_job_on_its_way_cannot_be_changed(
    letters: DeadLetterQueue, confirmed: bool
) -> None:
    """Neither silently left as they were, nor changed behind a run whose end nobody would write down."""

    async def crash() -> None:
        raise ConnectionError

    await keep(letters, letter("a", args=["x"]))
    via = Interfering(enqueued=None if confirmed else crash)
    with suppress(ConnectionError):
        await letters.requeue("a", via=via, unserved=True)
    [outcome] = (await letters.requeue("a", via=via, unserved=True, edit={"to": "z"})).outcomes
    assert outcome.status is Status.REFUSED
    assert "cannot be changed" in outcome.why
    assert len(via.jobs) == 1
    assert (await letter_with(letters, "a")).edits == ()


async def test_two_ways_of_one_kind_are_refused(letters: DeadLetterQueue) -> None:
    """Else jobs would go one of them, and nobody could say which."""
    with pytest.raises(InvalidValue, match="via must lead to each queue library once"):
        await letters.requeue("a", via=[Recorder(), Recorder()])


async def test_a_key_out_of_a_file_that_is_none_is_refused_by_itself(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """What the store has under it may be anything."""
    hostile = to_text(letter("a", key="dlq"))
    good = to_text(replace(letter("b"), failed_at=2.0))
    assert (await import_(letters, [hostile, good])).imported == 2
    report = await letters.requeue(Filter(), via=Recorder(), unserved=True)
    assert {outcome.id: outcome.status for outcome in report.outcomes}["b"] is Status.REQUEUED


@pytest.mark.parametrize(
    "changes", [{"requeues": -1}, {"requeues": 10**30}, {"queue": "a\nb"}, {"adapter": "x" * 300}], ids=str
)
async def test_lines_with_impossible_values_are_refused(
    letters: DeadLetterQueue, changes: dict[str, Any]
) -> None:
    """They would break whatever is made of them later."""
    line = to_text(letter("a", **changes))
    assert (await import_(letters, [line])).refusals == 1


async def test_two_local_queues_run_a_letter_once(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """The job is claimed while it runs, as another process would see."""
    runs: list[str] = []
    second: LocalQueue

    @dead_letter
    async def send(to: str) -> None:
        runs.append(to)
        [outcome] = (await letters.requeue("a", via=second)).outcomes
        runs.append(outcome.status)

    name: str = send.__jobguard__.name  # type: ignore[attr-defined]
    await keep(letters, letter("a", args=["x"], task=name))
    async with LocalQueue(guard, send) as first, LocalQueue(guard, send) as second:
        await letters.requeue("a", via=first)
    assert runs == ["x", Status.WAITING]
    assert (await letter_with(letters, "a")).resolution == "succeeded"


async def test_an_end_that_comes_late_changes_nothing(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """What a letter does not wait for any more is not written into it, good or bad."""
    await keep(letters, letter("a"))
    first = (await requeue_once(letters)).replay
    await keep_again(guard.store, first.queue, first, letter("a"))
    before = await letter_with(letters, "a")
    await resolve(guard.store, first.queue, first, SUCCEEDED)
    await keep_again(guard.store, first.queue, first, letter("a"))
    assert await letter_with(letters, "a") == before
    assert (before.state, before.requeues) == (LetterState.DEAD, 1)


async def test_a_local_queue_takes_a_job_once(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """Also where another one, of another process, has it."""
    gate = anyio.Event()

    @dead_letter
    async def send(to: str) -> None:
        await gate.wait()

    name: str = send.__jobguard__.name  # type: ignore[attr-defined]
    await keep(letters, letter("a", args=["x"], task=name))
    job = await requeue_once(letters)
    async with LocalQueue(guard, send) as first, LocalQueue(guard, send) as second:
        assert [await each.enqueue(job) for each in (first, first, second)] == [True, False, False]
        assert await second.pending("local", job.replay.job_id)
        gate.set()
    assert not await first.pending("local", job.replay.job_id)
