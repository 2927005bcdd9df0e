"""How a requeue goes on: beside other jobs of a key, behind canaries, and in this process's own queue."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import anyio
import pytest

from jobguard import DeadLetterQueue, Filter, JobGuard, dead_letter, deduplicated
from jobguard.adapters.rerun import LocalQueue
from jobguard.errors import InvalidType
from jobguard.requeueing import Orders, Status
from tests.engine.harness import PATIENCE, Events, Forward, StoreProxy
from tests.letters.making import keep, letter
from tests.letters.replaying import Recorder, World, fail, ids

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]


def made(world: World, **settings: Any) -> Any:
    """A task that keeps dead letters."""

    @dead_letter(**settings)
    async def send(number: object) -> object:
        return await world.work(number)

    return send


# --- other jobs of the same key ---------------------------------------------------------------------


def claiming(world: World, **settings: Any) -> Any:
    @deduplicated(key="{number}", **settings)
    @dead_letter
    async def send(number: object, how: str = "") -> object:
        return await world.work(number)

    return send


@pytest.mark.parametrize(
    ("on_duplicate", "status", "done"),
    [("skip", Status.DUPLICATE, 1), ("fail", Status.REFUSED, 1), ("force", Status.REQUEUED, 2)],
)
async def test_work_that_another_job_has_done_is_skipped_refused_or_done_again(
    guard: JobGuard, letters: DeadLetterQueue, on_duplicate: Any, status: Status, done: int
) -> None:
    """As whoever asks for it says."""
    world = World()
    send = claiming(world)
    await fail(send, 1)
    world.broken = False
    await send(1)
    async with LocalQueue(guard, send) as via:
        report = await letters.requeue(Filter(), via=via, on_duplicate=on_duplicate)
    assert report.counts == {status: 1}
    assert world.done[1] == done
    assert await letters.count() == (0 if on_duplicate == "force" else 1)
    assert report.outcomes[0].why == "" or "has succeeded" in report.outcomes[0].why


async def test_work_that_another_job_takes_up_meanwhile_is_its_work(
    guard: JobGuard, letters: DeadLetterQueue, store: StoreProxy
) -> None:
    """The worker finds out; the letter is resolved as a duplicate."""
    world = World()
    send = claiming(world)
    await fail(send, 1)
    world.broken = False
    await send(1)
    store.then("look_up", _nothing_known)
    async with LocalQueue(guard, send) as via:
        await letters.requeue(Filter(), via=via)
    (resolved,) = [each async for each in letters.each("state=resolved")]
    assert resolved.resolution == "duplicate"
    assert world.done[1] == 1


async def _nothing_known(forward: Forward) -> object:
    return None


async def test_other_work_under_the_same_key_leaves_the_letter_to_somebody(
    guard: JobGuard, letters: DeadLetterQueue, store: StoreProxy
) -> None:
    """With `mismatch="raise"` it is dead again, and says why."""
    world = World()
    send = claiming(world, mismatch="raise")
    with pytest.raises(ValueError, match="no"):
        await send(1, how="slowly")
    world.broken = False
    await send(1, how="fast")
    store.then("look_up", _nothing_known)
    async with LocalQueue(guard, send) as via:
        await letters.requeue(Filter(), via=via)
    (again,) = [each async for each in letters.each()]
    assert (again.error_type, again.requeues) == ("jobguard.errors.PayloadMismatch", 1)
    assert world.done[1] == 1


async def test_a_letter_without_a_key_has_no_duplicates(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """Nobody claims such work, so nobody is asked."""
    world = World()
    send = made(world)
    await fail(send, 1)
    world.broken = False
    await send(1)
    async with LocalQueue(guard, send) as via:
        await letters.requeue(Filter(), via=via)
    assert world.done[1] == 2


# --- canaries ---------------------------------------------------------------------------------------


async def test_canaries_that_fail_again_stop_the_rest(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """The others are left as they are."""
    world = World()
    send = made(world)
    await fail(send, *range(5))
    async with LocalQueue(guard, send) as via:
        report = await letters.requeue(Filter(), via=via, canary=2)
    assert sorted(world.tries[5:]) == [0, 1]
    assert len(report.outcomes) == 2
    assert report.stopped == "2 of 2 replays have failed again, more than 20%"
    assert sorted([each.requeues async for each in letters.each()]) == [0, 0, 0, 1, 1]


async def test_canaries_that_succeed_let_the_rest_go(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """No sooner than they have ended."""
    world = World()
    send = made(world)
    await fail(send, *range(5))
    world.broken = False
    async with LocalQueue(guard, send) as via:
        report = await letters.requeue(Filter(), via=via, canary=2)
    assert (report.stopped, sorted(world.done)) == ("", [0, 1, 2, 3, 4])
    assert set(world.tries[5:7]) == {0, 1}


async def test_as_many_canaries_may_fail_as_one_can_bear(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """`max_failure_rate` says how many."""
    world = World()
    send = made(world)
    await fail(send, *range(3))
    async with LocalQueue(guard, send) as via:
        report = await letters.requeue(Filter(), via=via, canary=1, max_failure_rate=1.0)
    assert (report.stopped, len(report.outcomes)) == ("", 3)


async def test_canaries_that_do_not_end_stop_the_rest(letters: DeadLetterQueue) -> None:
    """Patience has an end."""
    await keep(letters, letter("a"), letter("b"))
    report = await letters.requeue(
        Filter(), via=Recorder(), unserved=True, canary=1, patience=timedelta(seconds=0.1)
    )
    assert report.stopped == "1 of 1 canaries have not ended within 0.1 s"
    assert await ids(letters) == ["b"]


async def test_too_many_failures_stop_the_rest(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """Without canaries, from ten on."""
    world = World()
    send = made(world)
    await fail(send, *range(130))
    async with LocalQueue(guard, send) as via:
        report = await letters.requeue(Filter(), via=via, max_failure_rate=0.5, rate=400)
    assert "have failed again, more than 50%" in report.stopped
    assert 10 <= len(report.outcomes) < 130


@pytest.mark.parametrize("limit", [None, 1])
async def test_a_rate_keeps_nobody_waiting_who_is_done(letters: DeadLetterQueue, limit: int | None) -> None:
    """It says when the next letter may go, and there is none."""
    await keep(letters, *map(letter, "a" if limit is None else "ab"))
    with anyio.fail_after(PATIENCE):
        report = await letters.requeue(Filter(), via=Recorder(), unserved=True, rate=0.001, limit=limit)
    assert [each.status for each in report.outcomes] == [Status.REQUEUED]


# --- as it happens ----------------------------------------------------------------------------------


async def test_outcomes_are_told_as_they_come(letters: DeadLetterQueue) -> None:
    """Whoever leaves early has enqueued no more than was told, and what was under way with it."""
    await keep(letters, *(letter(f"{number:03}") for number in range(120)))
    via = Recorder()
    async with aclosing(letters.requeueing(Filter(), [via], Orders(unserved=True))) as told:
        async for outcome in told:
            assert outcome.status is Status.REQUEUED
            break
    assert 1 <= len(via.jobs) <= 50


async def test_two_requeues_at_once_run_each_body_once(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """Whatever the two of them find out first."""
    world = World()
    send = made(world)
    await fail(send, *range(20))
    world.broken = False

    async def requeue() -> None:
        await letters.requeue(Filter(), via=via)

    async with LocalQueue(guard, send) as via, anyio.create_task_group() as group:
        group.start_soon(requeue)
        group.start_soon(requeue)
    assert world.done == dict.fromkeys(range(20), 1)
    assert await letters.count("state=resolved") == 20


async def test_a_local_queue_takes_jobs_inside_of_its_block_only(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """Outside of it nobody would wait for them."""
    send = made(World())
    await fail(send, 1)
    with pytest.raises(RuntimeError, match="'async with'"):
        await letters.requeue(Filter(), via=LocalQueue(guard, send), unserved=True)


async def test_a_local_queue_serves_decorated_functions_only(guard: JobGuard) -> None:
    """Others have no letters."""

    async def plain() -> None: ...

    with pytest.raises(InvalidType, match="decorated by jobguard"):
        LocalQueue(guard, plain)


async def test_a_task_that_does_not_run_here_is_refused(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """Another process may serve it."""
    await keep(letters, letter("a"))
    async with LocalQueue(guard) as via:
        report = await letters.requeue("a", via=via, unserved=True)
    assert "'shop.send' is none of the tasks that run here" in report.outcomes[0].why


@pytest.mark.parametrize(
    "payload", ["{", '{"args":"abc","kwargs":{}}', '{"args":[],"kwargs":{"$dict":[[5,1]]}}']
)
async def test_arguments_that_are_none_are_refused(
    guard: JobGuard, letters: DeadLetterQueue, payload: str
) -> None:
    """Nothing is run with them."""
    world = World()
    send = made(world)
    await fail(send, 1)
    (kept,) = [each async for each in letters.each()]
    await letters.clear()
    await keep(letters, replace(kept, payload=payload))
    async with LocalQueue(guard, send) as via:
        report = await letters.requeue(Filter(), via=via)
    assert "its arguments cannot be read here" in report.outcomes[0].why
    assert world.tries == [1]


async def test_the_context_of_a_local_queue_is_handed_to_tasks(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """As the first argument of those that take one."""
    seen: list[object] = []

    @dead_letter
    async def send(ctx: object, number: int) -> None:
        seen.append((ctx, number))
        if len(seen) == 1:
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        await send("first", 1)
    async with LocalQueue(guard, send, ctx="second") as via:
        await letters.requeue(Filter(), via=via)
    assert seen == [("first", 1), ("second", 1)]


async def test_named_arguments_of_any_number_are_no_context(
    guard: JobGuard, letters: DeadLetterQueue
) -> None:
    """Whatever the parameter that takes them is called: a task with `**ctx` is run again with its own."""
    seen: list[object] = []

    @dead_letter
    async def send(**ctx: object) -> None:
        seen.append(ctx)
        if len(seen) == 1:
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        await send(ctx="given", number=1)
    async with LocalQueue(guard, send, ctx="another") as via:
        await letters.requeue(Filter(), via=via)
    assert seen == [{"ctx": "given", "number": 1}] * 2


async def test_a_requeue_tells_no_event_of_its_own(letters: DeadLetterQueue, events: Events) -> None:
    """Jobs tell how they end."""
    await keep(letters, letter("a"))
    await letters.requeue("a", via=Recorder(), unserved=True)
    assert list(events) == []


async def test_replays_are_numbered_on(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """Each has a job id of its own; the last 20 are told."""
    world = World()
    send = made(world)
    await fail(send, 1)
    async with LocalQueue(guard, send) as via:
        for number in range(1, 23):
            await letters.requeue(Filter(), via=via, max_requeues=None)
            with anyio.fail_after(30):
                while (await letters.count()) == 0 or len(world.tries) <= number:  # noqa: ASYNC110
                    await anyio.sleep(0.001)
    (found,) = [each async for each in letters.each()]
    assert found.requeues == 22
    assert [each.number for each in found.replays] == list(range(3, 23))
    assert all(later.at >= earlier.at for earlier, later in pairwise(found.replays))
