"""What becomes of a dead letter whose job is run again, and of what it has told so far."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobguard import (
    DeadLetterQueue,
    Discard,
    Filter,
    GiveUp,
    JobGuard,
    constant,
    dead_letter,
    deduplicated,
    retrying,
)
from jobguard.adapters.base import Replay, ReplayJob
from jobguard.adapters.rerun import LocalQueue
from jobguard.events import DeadLettered, DuplicateSkipped, Succeeded
from jobguard.policies import Policies
from jobguard.stores.letters import DeadLetter, LetterQueue, LetterState
from jobguard.task import Task
from tests.engine.harness import Bench, Events, Gate, StoreProxy, down, reply_lost
from tests.letters.making import keep, letter
from tests.letters.replaying import World, fail, ids, letter_with

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]


def made(world: World, attempts: int = 1, **settings: Any) -> Any:
    """A task with so many attempts that keeps dead letters."""

    @retrying(attempts=attempts, backoff=constant(0))
    @dead_letter(**settings)
    async def send(number: object, secret: str = "") -> object:
        return await world.work(number)

    return send


async def only(letters: DeadLetterQueue) -> DeadLetter:
    """The one letter there is, of whatever state."""
    (found,) = [each async for each in letters.each("state=all")]
    return found


async def requeue(guard: JobGuard, letters: DeadLetterQueue, *tasks: Any, **settings: Any) -> None:
    """Run all dead letters again, to their ends."""
    async with LocalQueue(guard, *tasks) as via:
        await letters.requeue(Filter(), via=via, **settings)


# --- how a replay ends ---------------------------------------------------------------------------


async def test_a_replay_that_succeeds_resolves_its_letter(
    guard: JobGuard, letters: DeadLetterQueue, events: Events
) -> None:
    """Which stays, with all that it went through."""
    world = World()
    send = made(world)
    await fail(send, 1)
    world.broken = False
    await requeue(guard, letters, send, by="carol")
    found = await only(letters)
    assert (found.state, found.resolution, found.requeues) == (LetterState.RESOLVED, "succeeded", 1)
    assert found.replays[0].by == "carol"
    assert len(events.of(Succeeded)) == 1


async def test_a_replay_that_fails_makes_the_same_letter_dead_again(
    guard: JobGuard, letters: DeadLetterQueue, events: Events
) -> None:
    """One entry, with the attempts of both jobs, numbered on, and the last error."""
    world = World()
    send = made(world, attempts=2)
    await fail(send, 1)
    before = await only(letters)
    world.error = LookupError("again")
    await requeue(guard, letters, send)
    after = await only(letters)
    assert (after.id, after.state, after.requeues) == (before.id, LetterState.DEAD, 1)
    assert [(each.attempt, each.type) for each in after.attempts] == [
        (1, "ValueError"),
        (2, "ValueError"),
        (3, "LookupError"),
        (4, "LookupError"),
    ]
    assert (after.failures, after.error_type) == (4, "LookupError")
    assert after.first_seen == before.first_seen
    assert after.failed_at >= before.failed_at
    assert [each.id for each in events.of(DeadLettered)] == [before.id, before.id]


async def test_a_letter_that_is_dead_again_is_the_newest(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """It came last."""
    world = World()
    send = made(world)
    await fail(send, 1, 2)
    first, second = await ids(letters)
    async with LocalQueue(guard, send) as via:
        await letters.requeue(first, via=via)
    assert await ids(letters) == [second, first]


async def test_the_attempts_of_many_replays_are_counted_and_the_last_are_told(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """50 of them."""
    world = World()
    send = made(world, attempts=20)
    await fail(send, 1)
    for _ in range(3):
        await requeue(guard, letters, send)
    found = await only(letters)
    assert found.failures == 80
    assert [each.attempt for each in found.attempts] == list(range(31, 81))


async def test_a_replay_counts_its_attempts_anew(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """It is a new job, with all its retries."""
    world = World()
    send = made(world, attempts=3)
    await fail(send, 1)
    await requeue(guard, letters, send)
    assert len(world.tries) == 6


async def test_a_replay_that_is_discarded_resolves_its_letter(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """The work was not wanted any more."""
    world = World()
    send = made(world)
    await fail(send, 1)
    world.error = Discard("no longer wanted")
    await requeue(guard, letters, send)
    found = await only(letters)
    assert (found.state, found.resolution) == (LetterState.RESOLVED, "discarded")


async def test_a_replay_that_gives_up_is_dead_again(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """With that reason."""
    world = World()
    send = made(world)
    await fail(send, 1)
    world.error = GiveUp("no such customer")
    await requeue(guard, letters, send)
    found = await only(letters)
    assert (found.state, found.reason) == (LetterState.DEAD, "gave_up")


async def test_a_resolved_letter_of_an_edit_keeps_what_was_changed(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """The job ran with the new arguments, and the letter has the old ones too."""
    world = World()
    send = made(world)
    await fail(send, 1)
    world.broken = False
    await requeue(guard, letters, send, edit={"number": 2})
    found = await only(letters)
    assert dict(world.done) == {2: 1}
    assert found.original is not None
    assert [each.after for each in found.edits] == ["2"]


async def test_a_letter_keeps_its_arguments_edits_and_replays_when_it_is_dead_again(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """And its next replay runs with them."""
    world = World()
    send = made(world)
    await fail(send, 1)
    first = await only(letters)
    await requeue(guard, letters, send, edit={"number": 2})
    await requeue(guard, letters, send)
    found = await only(letters)
    assert world.tries == [1, 2, 2]
    assert found.original == first.payload
    assert len(found.edits) == 1
    assert [each.number for each in found.replays] == [1, 2]


# --- tasks that have changed since ---------------------------------------------------------------


def stripped(task: Any) -> Any:
    """The same task without `@dead_letter`, as a later release has it."""
    world_task: Task = task.__jobguard__
    bare = retrying(attempts=1)(world_task.fn)
    assert Policies.of(bare.__jobguard__.policies).dead_lettering is None  # type: ignore[attr-defined]
    return bare


async def test_a_task_without_dead_letters_keeps_the_one_it_has(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """What has a letter does not lose it."""
    world = World()
    send = made(world)
    await fail(send, 1)
    await requeue(guard, letters, stripped(send))
    found = await only(letters)
    assert (found.state, found.requeues, len(found.attempts)) == (LetterState.DEAD, 1, 2)


async def test_what_a_letter_masks_stays_masked(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """Also where its task masks nothing any more."""
    world = World()
    send = made(world, redact=("secret",))
    with pytest.raises(ValueError, match="no"):
        await send(1, secret="hunter2")
    world.error = LookupError("hunter2 is wrong")
    await requeue(guard, letters, stripped(send))
    found = await only(letters)
    shown = [found.preview, found.error_message, found.traceback, found.attempts[-1].message]
    assert found.error_type == "LookupError"
    assert [text for text in shown if "hunter2" in text] == []
    assert found.redact == ("secret",)


async def test_a_mismatch_shows_nothing_that_is_masked(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """The letter that comes back is written by the task's own rules."""
    world = World()

    @deduplicated(key="{number}", mismatch="raise")
    @dead_letter(redact=("secret",))
    async def send(number: object, secret: str) -> object:
        return await world.work(number)

    with pytest.raises(ValueError, match="no"):
        await send(1, "hunter2")
    world.broken = False
    await send(1, "other")
    store: Any = guard.store

    async def nothing_known(forward: object) -> object:
        return None

    store.then("look_up", nothing_known)
    await requeue(guard, letters, send)
    found = await only(letters)
    assert found.error_type == "jobguard.errors.PayloadMismatch"
    assert json.loads(found.preview)["secret"] == "[redacted]"


# --- letters and replays that miss each other ----------------------------------------------------


async def test_a_letter_that_is_removed_while_its_replay_waits_lets_it_run(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """As an ordinary job; nothing is written of a success."""
    world = World()
    send = made(world)
    await fail(send, 1)
    world.broken = False
    job, id = await replay_of(letters)
    await letters.remove(id)
    async with LocalQueue(guard, send) as via:
        await via.enqueue(job)
    assert world.done == {1: 1}
    assert await letters.count("state=all") == 0


async def test_a_letter_that_is_removed_while_its_replay_runs_comes_back_if_that_fails(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """A failure is never lost."""
    world = World()
    gate = Gate()

    @dead_letter
    async def send(number: int) -> object:
        if world.tries:
            await gate()
        return await world.work(number)

    await fail(send, 1)
    (id,) = await ids(letters)
    async with LocalQueue(guard, send) as via:
        await letters.requeue(id, via=via)
        await gate.reached()
        await letters.remove(id)
        gate.open()
    found = await only(letters)
    assert (found.id, found.state, found.requeues) == (id, LetterState.DEAD, 1)


async def replay_of(letters: DeadLetterQueue, number: int = 1) -> tuple[ReplayJob, str]:
    """The job that a requeue would make of the one letter."""
    found = await only(letters)
    assert found.payload is not None
    replay = Replay(LetterQueue(letters.namespace, letters.name), found.id, number)
    return ReplayJob(replay, found.queue, found.task, found.payload, found.payload_format), found.id


@pytest.mark.parametrize("number", [0, 2, 7])
async def test_a_replay_for_which_no_letter_waits_is_not_run(
    guard: JobGuard, letters: DeadLetterQueue, events: Events, number: int
) -> None:
    """It was dealt with before, or is none of this letter."""
    world = World()
    send = made(world)
    await fail(send, 1)
    job, _ = await replay_of(letters, number)
    async with LocalQueue(guard, send) as via:
        await via.enqueue(job)
    assert world.tries == [1]
    assert len(events.of(DuplicateSkipped)) == 1


async def test_a_replay_of_a_resolved_letter_is_not_run_again(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """Another process may deliver it once more."""
    world = World()
    send = made(world)
    await fail(send, 1)
    job, _ = await replay_of(letters)
    world.broken = False
    await requeue(guard, letters, send)
    async with LocalQueue(guard, send) as via:
        await via.enqueue(job)
    assert world.done == {1: 1}


async def test_a_replay_that_ends_before_it_is_told_of_is_told_by_its_worker(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """The requeue was cut off after the job was enqueued, and never wrote the letter."""
    world = World()
    send = made(world)
    await fail(send, 1)
    world.broken = False
    job, _ = await replay_of(letters)
    async with LocalQueue(guard, send) as via:
        await via.enqueue(job)
    found = await only(letters)
    assert (found.state, found.requeues) == (LetterState.RESOLVED, 1)
    assert [each.number for each in found.replays] == [1]


@pytest.mark.parametrize("fault", [down, reply_lost])
@pytest.mark.parametrize("broken", [True, False])
async def test_the_end_of_a_replay_is_written_again_until_it_is(
    guard: JobGuard, letters: DeadLetterQueue, store: StoreProxy, fault: Any, broken: bool
) -> None:
    """And counts once, however often it is."""
    world = World()
    send = made(world)
    await fail(send, 1)
    world.broken = broken
    job, _ = await replay_of(letters)
    store.then("replace_letter", fault, fault)
    async with LocalQueue(guard, send) as via:
        await via.enqueue(job)
    found = await only(letters)
    assert (found.state, found.requeues) == (LetterState.DEAD if broken else LetterState.RESOLVED, 1)
    assert found.failures == (2 if broken else 1)


async def test_a_replay_that_ran_while_the_store_was_away_keeps_its_letter(
    bench: Bench, letters: DeadLetterQueue
) -> None:
    """Run unguarded, of a task that keeps no letters any more: its failure is one all the same."""
    world = World()
    send = made(world)
    await fail(send, 1)
    job, _ = await replay_of(letters)
    guard = bench.guard(on_store_error="run")
    async with LocalQueue(guard, stripped(send)) as via:
        bench.store.then("get_letter", down)
        await via.enqueue(job)
    found = await only(letters)
    assert (found.state, found.requeues) == (LetterState.DEAD, 1)


async def test_a_letter_by_another_hand_can_be_replayed(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """Whoever knows the task's name and its arguments."""
    world = World()
    world.broken = False
    send = made(world)
    await keep(letters, letter("a", args=[1], task=send.__jobguard__.name))
    await requeue(guard, letters, send)
    assert (await letter_with(letters, "a")).resolution == "succeeded"
