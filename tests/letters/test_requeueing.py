"""Running dead letters' jobs again: which are put into a queue, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from jobguard import DeadLetterQueue, Filter, JobGuard, dead_letter
from jobguard.adapters.rerun import LocalQueue
from jobguard.requeueing import Requeued, Status
from jobguard.stores.letters import LetterState
from tests.engine.harness import Forward, StoreProxy
from tests.letters.making import keep, letter
from tests.letters.replaying import Recorder, World, fail, letter_with

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]


def made(world: World, **settings: Any) -> Any:
    """A task that keeps dead letters."""

    @dead_letter(**settings)
    async def send(number: object) -> object:
        return await world.work(number)

    return send


def in_words(outcome: Requeued) -> tuple[str, Status]:
    return outcome.id, outcome.status


# --- what is meant ----------------------------------------------------------------------------------


async def test_ids_are_requeued_oldest_first(letters: DeadLetterQueue) -> None:
    """In whatever order they are named, and each once."""
    await keep(letters, letter("a"), letter("b"), letter("c"))
    via = Recorder()
    report = await letters.requeue(["c", "a", "c"], via=via, unserved=True)
    assert {each.replay.id for each in via.jobs} == {"a", "c"}
    assert list(map(in_words, report.outcomes)) == [("a", Status.REQUEUED), ("c", Status.REQUEUED)]
    assert report.counts == {Status.REQUEUED: 2}
    assert report.stopped == ""


async def test_one_id_may_stand_alone(letters: DeadLetterQueue) -> None:
    """A text is an id, no filter."""
    await keep(letters, letter("a"))
    report = await letters.requeue("a", via=Recorder(), unserved=True)
    assert report.outcomes == (Requeued("a", Status.REQUEUED, f"replay:{letters.namespace}:default:a:1"),)


async def test_a_key_stands_for_its_last_letter(letters: DeadLetterQueue) -> None:
    """As everywhere; the report names the letter by its id."""
    await keep(letters, letter("a", key="k"), letter("b", key="k"))
    report = await letters.requeue(["k"], via=Recorder(), unserved=True)
    assert list(map(in_words, report.outcomes)) == [("b", Status.REQUEUED)]


async def test_a_letter_that_is_named_twice_is_enqueued_once(letters: DeadLetterQueue) -> None:
    """By its id and by its key."""
    await keep(letters, letter("a", key="k"))
    via = Recorder()
    await letters.requeue(["a", "k"], via=via, unserved=True)
    assert len(via.jobs) == 1
    assert (await letter_with(letters, "a")).requeues == 1


async def test_what_is_not_there_is_told_and_the_rest_goes_on(letters: DeadLetterQueue) -> None:
    """By what was given for it."""
    await keep(letters, letter("a"))
    report = await letters.requeue(["x", "a", "y"], via=Recorder(), unserved=True)
    assert {each.id: each.status for each in report.outcomes} == {
        "x": Status.MISSING,
        "y": Status.MISSING,
        "a": Status.REQUEUED,
    }


async def test_a_filter_means_dead_letters_unless_it_says_otherwise(letters: DeadLetterQueue) -> None:
    """All of a page and more."""
    await keep(letters, *(letter(f"{number:03}", failures=number % 2) for number in range(700)))
    via = Recorder()
    report = await letters.requeue(Filter(attempts=1), via=via, unserved=True)
    assert [each.id for each in report.outcomes] == [f"{number:03}" for number in range(1, 700, 2)]
    assert sorted(each.replay.id for each in via.jobs) == [each.id for each in report.outcomes]
    assert await letters.count() == 350


async def test_an_empty_queue_has_nothing_to_requeue(letters: DeadLetterQueue) -> None:
    """That is no error."""
    assert (await letters.requeue(Filter(), via=Recorder())).outcomes == ()


async def test_letters_that_come_meanwhile_are_not_taken(letters: DeadLetterQueue, store: StoreProxy) -> None:
    """A filter means what was there when it was asked."""
    await keep(letters, letter("a"))

    async def another_comes(forward: Forward) -> object:
        reply = await forward()
        await keep(letters, letter("new"), start=2_000_000_000_000_000)
        return reply

    store.then("page_letters", another_comes)
    report = await letters.requeue(Filter(), via=Recorder(), unserved=True)
    assert [each.id for each in report.outcomes] == ["a"]


async def test_jobs_that_fail_again_meanwhile_are_not_taken_twice(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """However many rounds of work there are."""
    world = World()
    send = made(world)
    await fail(send, *range(120))
    async with LocalQueue(guard, send) as via:
        report = await letters.requeue(Filter(), via=via)
    assert report.counts == {Status.REQUEUED: 120}
    assert world.tries[:120] == sorted(world.tries[120:]) == [*range(120)]


async def test_of_a_limit_the_oldest_are_taken(letters: DeadLetterQueue) -> None:
    """What is refused does not count."""
    await keep(letters, letter("0", adapter="other"), *(letter(each) for each in "abcd"))
    via = Recorder()
    report = await letters.requeue(Filter(), via=via, unserved=True, limit=2)
    assert sorted(each.replay.id for each in via.jobs) == ["a", "b"]
    assert report.counts == {Status.REFUSED: 1, Status.REQUEUED: 2}


async def test_at_a_rate_all_are_taken_in_their_order(letters: DeadLetterQueue) -> None:
    """A few at a time."""
    await keep(letters, *(letter(f"{number:02}") for number in range(12)))
    via = Recorder()
    report = await letters.requeue(Filter(), via=via, unserved=True, rate=100)
    assert [each.id for each in report.outcomes] == [f"{number:02}" for number in range(12)]
    assert sorted(each.replay.id for each in via.jobs) == [each.id for each in report.outcomes]
    assert report.counts == {Status.REQUEUED: 12}


@pytest.mark.parametrize("rate", [None, 1000])
async def test_a_dry_run_tells_what_would_happen_and_changes_nothing(
    guard: JobGuard, letters: DeadLetterQueue, rate: float | None
) -> None:
    """Neither letters nor queues."""
    await keep(letters, letter("a", args=["Ada"]), letter("b", adapter="other"), letter("c"))
    before = [each async for each in letters.each("state=all")]
    via = Recorder()
    report = await letters.requeue(
        ["a", "b", "x"], via=via, unserved=True, dry_run=True, edit={"to": "Bob"}, canary=1, rate=rate
    )
    assert {each.id: each.status for each in report.outcomes} == {
        "a": Status.WOULD,
        "b": Status.REFUSED,
        "x": Status.MISSING,
    }
    assert via.jobs == []
    assert [each async for each in letters.each("state=all")] == before


async def test_a_dry_run_keeps_the_limit(letters: DeadLetterQueue) -> None:
    """It tells what would happen, no more."""
    await keep(letters, *(letter(each) for each in "abc"))
    report = await letters.requeue(Filter(), via=Recorder(), unserved=True, dry_run=True, limit=2)
    assert report.counts == {Status.WOULD: 2}


# --- what the letter and the queue are told ---------------------------------------------------------


async def test_a_requeued_letter_tells_of_its_replay(letters: DeadLetterQueue) -> None:
    """Its number, the job, and who asked for it."""
    await keep(letters, letter("a"))
    await letters.requeue("a", via=Recorder(), unserved=True, by="carol")
    found = await letter_with(letters, "a")
    (record,) = found.replays
    assert (found.state, found.requeues) == (LetterState.REQUEUED, 1)
    assert (record.number, record.job_id, record.by) == (
        1,
        f"replay:{letters.namespace}:default:a:1",
        "carol",
    )


async def test_a_job_gets_what_the_letter_has_kept(letters: DeadLetterQueue) -> None:
    """Task, queue and payload as they were."""
    kept = letter("a", args=["Ada"], task="t", queue="q")
    await keep(letters, kept)
    via = Recorder()
    await letters.requeue("a", via=via, unserved=True)
    (job,) = via.jobs
    assert (job.task, job.queue, job.payload, job.payload_format) == ("t", "q", kept.payload, "json")


async def test_arguments_can_be_edited_on_the_way(letters: DeadLetterQueue) -> None:
    """The letter tells of it, as of any edit."""
    await keep(letters, letter("a", args=["Ada"]))
    via = Recorder()
    await letters.requeue("a", via=via, unserved=True, edit={"to": "Bob"}, by="carol")
    found = await letter_with(letters, "a")
    assert '"Bob"' in via.jobs[0].payload
    assert (found.payload, found.original) == (via.jobs[0].payload, letter("a", args=["Ada"]).payload)
    assert [(each.path, each.by) for each in found.edits] == [("to", "carol")]


async def test_an_edit_that_cannot_be_made_refuses_its_letter_alone(letters: DeadLetterQueue) -> None:
    """It stays dead, as it was."""
    await keep(letters, letter("a"), letter("b", args=["Ada"]))
    report = await letters.requeue(Filter(), via=Recorder(), unserved=True, edit={"to": "Bob"})
    assert list(map(in_words, report.outcomes)) == [("a", Status.REFUSED), ("b", Status.REQUEUED)]
    assert "no argument 'to'" in report.outcomes[0].why
    assert await letter_with(letters, "a") == letter("a")


async def test_an_edit_is_made_on_what_another_one_left(letters: DeadLetterQueue, store: StoreProxy) -> None:
    """Both land."""
    await keep(letters, letter("a", args=["Ada", "hi"]))

    async def another_edits(forward: Forward) -> object:
        await letters.edit("a", {"text": "ho"})
        return await forward()

    store.then("replace_letter", another_edits)
    via = Recorder()
    await letters.requeue("a", via=via, unserved=True, edit={"to": "Bob"})
    assert '["Bob","ho"]' in via.jobs[0].payload


async def test_a_letter_that_goes_while_it_is_edited_is_missing(
    letters: DeadLetterQueue, store: StoreProxy
) -> None:
    """Nothing is enqueued for it."""
    await keep(letters, letter("a", args=["Ada"]))

    async def removed(forward: Forward) -> object:
        await letters.remove("a")
        return await forward()

    store.then("replace_letter", removed)
    via = Recorder()
    report = await letters.requeue("a", via=via, unserved=True, edit={"to": "Bob"})
    assert report.counts == {Status.MISSING: 1}
    assert via.jobs == []


async def test_a_job_that_is_on_its_way_is_not_enqueued_again(letters: DeadLetterQueue) -> None:
    """It is told under which id it waits."""
    await keep(letters, letter("a"))
    via = Recorder()
    await letters.requeue("a", via=via, unserved=True)
    report = await letters.requeue("a", via=via, unserved=True)
    assert report.outcomes[0] == Requeued(
        "a", Status.WAITING, f"replay:{letters.namespace}:default:a:1", "its job has not ended yet"
    )
    assert len(via.jobs) == 1


async def test_a_job_that_has_gone_without_a_word_is_enqueued_anew(letters: DeadLetterQueue) -> None:
    """Its letter is still requeued, but no queue has it."""
    await keep(letters, letter("a"))
    via = Recorder()
    await letters.requeue("a", via=via, unserved=True)
    via.waiting.clear()
    await letters.requeue("a", via=via, unserved=True)
    assert [each.replay.number for each in via.jobs] == [1, 2]


async def test_an_old_result_in_the_queue_stands_in_the_way(letters: DeadLetterQueue) -> None:
    """Nobody can say what became of that job; `force` runs it once more."""
    await keep(letters, letter("a"))
    via = Recorder(known=[f"replay:{letters.namespace}:default:a:1"])
    report = await letters.requeue("a", via=via, unserved=True)
    assert (report.outcomes[0].status, len(via.jobs)) == (Status.REFUSED, 0)
    assert "on_duplicate='force'" in report.outcomes[0].why
    await letters.requeue("a", via=via, unserved=True, on_duplicate="force")
    assert [each.replay.number for each in via.jobs] == [2]
