"""What a queue says about itself when a letter comes: a new kind of failure, or very many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jobguard import DeadLetterQueue, dead_letter
from jobguard.adapters.rerun import LocalQueue
from jobguard.errors import InvalidValue
from jobguard.events import DeadLettered, NewFingerprint, QueueGrew
from tests.engine.harness import Bench, Events, Fault, Gate, reply_lost, sent_twice

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]


@dead_letter(redact=("secret",))
async def send(kind: str, secret: str = "") -> None:
    raise {"value": ValueError, "lookup": LookupError}[kind](f"cannot send {secret}")


async def fail(task: Callable[..., Awaitable[object]], *args: object) -> None:
    with pytest.raises((ValueError, LookupError)):
        await task(*args)


async def test_a_new_kind_of_failure_is_told_once(events: Events) -> None:
    """However many jobs fail in that way."""
    for kind in ("value", "value", "lookup", "value", "lookup"):
        await fail(send, kind)
    first, second = events.of(NewFingerprint)
    assert first.fingerprint != second.fingerprint
    assert [each.id for each in events.of(DeadLettered) if each.id in (first.id, second.id)] == [
        first.id,
        second.id,
    ]
    assert (first.queue, first.task) == ("default", send.__jobguard__.name)  # type: ignore[attr-defined]
    assert first.error.startswith("ValueError: ")


async def test_a_kind_that_was_dealt_with_is_new_again(events: Events, letters: DeadLetterQueue) -> None:
    """When its last dead letter has gone, the next one is the only one."""
    await fail(send, "value")
    await letters.clear()
    await fail(send, "value")
    assert len(events.of(NewFingerprint)) == 2


async def test_each_queue_has_its_own_kinds(events: Events) -> None:
    """A queue's first letter is always new."""

    async def body() -> None:
        raise ValueError

    for name in ("a", "b"):
        await fail(dead_letter(queue=name)(body))
    assert [each.queue for each in events.of(NewFingerprint)] == ["a", "b"]


async def test_the_error_is_masked_as_the_letter_is(events: Events) -> None:
    """An alert goes further than a store."""
    await fail(send, "value", "hunter2")
    assert "hunter2" not in events.only(NewFingerprint).error


async def test_a_replay_that_fails_again_is_nothing_new(
    events: Events, letters: DeadLetterQueue, bench: Bench
) -> None:
    """Its kind is known, and whoever asked for it is told how it went."""
    await fail(send, "value")
    guard = bench.guard()
    async with LocalQueue(guard, send) as via:
        await letters.requeue(await ids(letters), via=via)
    assert await letters.count() == 1
    assert len(events.of(NewFingerprint)) == 1


async def ids(letters: DeadLetterQueue) -> list[str]:
    return [each.id async for each in letters.each()]


async def test_a_queue_that_grows_is_told_once_on_the_way_up(
    events: Events, letters: DeadLetterQueue
) -> None:
    """When it holds one more than it should; again only after it was below."""

    @dead_letter(alert_over=2)
    async def task() -> None:
        raise ValueError

    for _ in range(5):
        await fail(task)
    told = events.only(QueueGrew)
    assert (told.queue, told.dead) == ("default", 3)
    await letters.clear()
    for _ in range(3):
        await fail(task)
    assert len(events.of(QueueGrew)) == 2


async def test_a_queue_that_grows_by_replays_is_told(
    events: Events, letters: DeadLetterQueue, bench: Bench
) -> None:
    """Jobs that are run again and die again carry it past its bound as new ones do."""

    gate, waits = Gate(), False

    @dead_letter(alert_over=1)
    async def task() -> None:
        if waits:
            await gate()
        raise ValueError

    await fail(task)
    await fail(task)
    waits = True
    async with LocalQueue(bench.guard(), task) as via:
        await letters.requeue(await ids(letters), via=via)
        await gate.reached(2)
        assert await letters.count() == 0
        gate.open()
    assert [each.dead for each in events.of(QueueGrew)] == [2, 2]


@pytest.mark.parametrize("fault", [reply_lost, sent_twice])
async def test_a_queue_that_grows_is_told_though_the_reply_was_lost(
    events: Events, bench: Bench, fault: Fault
) -> None:
    """Written again, the letter is the one that carried the queue past its bound all the same."""

    @dead_letter(alert_over=0)
    async def task() -> None:
        raise ValueError

    bench.store.then("put_letter", fault)
    await fail(task)
    await fail(task)
    assert events.only(QueueGrew).dead == 1


async def test_the_first_letter_may_be_one_too_many(events: Events) -> None:
    """`alert_over=0` tells of the first one."""

    @dead_letter(alert_over=0)
    async def task() -> None:
        raise ValueError

    await fail(task)
    assert events.only(QueueGrew).dead == 1


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"alert_over": -1}, "alert_over .*-1"),
        ({"max_entries": 0}, "max_entries .*0"),
        ({"retention": 0}, "retention .*0"),
    ],
)
async def test_bounds_of_a_queue_are_checked_at_decoration(settings: dict[str, Any], part: str) -> None:
    """By name, with the value."""
    with pytest.raises(InvalidValue, match=part):
        dead_letter(**settings)
