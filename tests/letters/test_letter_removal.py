"""Taking letters out of a queue: by id, by filter, all of them, or the oldest, by hand or by its bounds."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given

from jobguard import DeadLetter, DeadLetterQueue, Filter, JobGuard, dead_letter
from jobguard.errors import ConfigurationError, InvalidValue, StoreUnavailable
from jobguard.events import Evicted, EvictionFailed, StoreFailed
from jobguard.exchange import import_, spill_to
from jobguard.stores.letters import LetterQueue, LetterState
from tests.engine.harness import Bench, Events, Forward, StoreProxy, down, until
from tests.letters.making import (
    EVENT_LOOP,
    HOUR,
    START,
    fresh_queue,
    ids_of,
    keep,
    letter,
    meant,
    random_filters,
    random_letters,
)

pytestmark = pytest.mark.anyio


def some(number: int) -> list[DeadLetter]:
    return [letter(f"{each:04}") for each in range(number)]


# --- remove, remove_all, clear -------------------------------------------------------------------


@pytest.mark.parametrize("state", list(LetterState))
async def test_a_letter_is_removed_by_its_id_whatever_its_state(
    letters: DeadLetterQueue, state: LetterState
) -> None:
    """Once; then there is none."""
    await keep(letters, letter("a", state=state), letter("b"))
    assert await letters.remove("a") is True
    assert await letters.remove("a") is False
    assert await ids_of(letters, "state=all") == ["b"]


@EVENT_LOOP
@given(given=random_letters, filter=random_filters)
async def test_what_a_filter_means_is_removed_and_nothing_else(
    letters: DeadLetterQueue, given: list[DeadLetter], filter: Filter
) -> None:
    """Whether or not letters must be read for it."""
    queue = fresh_queue(letters)
    await keep(queue, *given)
    expected = [each.id for each in meant(filter, given)]
    assert await queue.remove_all(filter) == len(expected)
    assert await ids_of(queue, "state=all") == [each.id for each in given if each.id not in expected]


async def test_a_queue_is_cleared_of_every_state(letters: DeadLetterQueue) -> None:
    """In batches, each of which is told."""
    await keep(letters, *some(450), *(letter(each, state=each) for each in LetterState))
    told: list[int] = []
    assert await letters.clear(progress=told.append) == 453
    assert told == [200, 400, 453]
    assert await letters.count("state=all") == 0


async def test_an_empty_queue_is_cleared_of_nothing(letters: DeadLetterQueue) -> None:
    """Nor is there a newest letter."""
    assert await letters.clear() == 0
    assert await letters.newest() is None


async def test_other_queues_are_left_alone(letters: DeadLetterQueue) -> None:
    """Each is cleared by itself."""
    await keep(letters, letter("a"))
    await keep(letters.named("other"), letter("a"))
    await letters.clear()
    assert await letters.named("other").count() == 1


@pytest.mark.parametrize("filter", ["state=dead", "attempts=1"])
async def test_letters_that_come_meanwhile_stay(
    letters: DeadLetterQueue, store: StoreProxy, filter: str
) -> None:
    """What was not there when it was asked for was not meant."""
    await keep(letters, *some(201))

    async def another_comes(forward: Forward) -> object:
        reply = await forward()
        await keep(letters, letter("new"), start=START + 10_000)
        return reply

    store.then("remove_letters", another_comes)
    assert await letters.remove_all(filter) == 201
    assert await ids_of(letters) == ["new"]


async def test_letters_that_change_meanwhile_stay(letters: DeadLetterQueue, store: StoreProxy) -> None:
    """They are not any more what was looked at."""
    await keep(letters, letter("a", args=["Ada"]), letter("b"))

    async def edited_meanwhile(forward: Forward) -> object:
        reply = await forward()
        await letters.edit("a", {"to": "Bob"})
        return reply

    await letters.newest()  # asks for a page of its own
    store.then("page_letters", _plainly, edited_meanwhile)
    assert await letters.clear() == 1
    assert await ids_of(letters) == ["a"]


async def _plainly(forward: Forward) -> object:
    return await forward()


@pytest.mark.parametrize("remove", ["clear", "remove_all"])
async def test_what_came_after_a_mark_stays(letters: DeadLetterQueue, remove: str) -> None:
    """The mark is what `newest` gave, when somebody looked."""
    await keep(letters, letter("seen"))
    mark = await letters.newest()
    await keep(letters, letter("new"), start=START + 5)
    if remove == "clear":
        assert await letters.clear(mark) == 1
    else:
        assert await letters.remove_all("state=dead", until=mark) == 1
    assert await ids_of(letters) == ["new"]


@pytest.mark.parametrize("mark", ["", "now", "-1", "1" * 17])
async def test_a_mark_that_newest_did_not_give_is_refused(letters: DeadLetterQueue, mark: str) -> None:
    """By name, before anything is removed."""
    await keep(letters, letter("a"))
    with pytest.raises(InvalidValue, match=f"until .*{mark!r}"):
        await letters.clear(mark)
    assert await letters.count() == 1


async def test_removals_are_no_evictions(letters: DeadLetterQueue) -> None:
    """Somebody wanted them gone."""
    await keep(letters, *some(3))
    await letters.remove("0000")
    await letters.clear()
    assert (await letters.stats()).evicted == 0


# --- prune ---------------------------------------------------------------------------------------


async def now_of(guard: JobGuard) -> int:
    """What the store's clock shows, in microseconds."""
    return (await guard.store.letters.totals(LetterQueue("any", "any"))).now


@pytest.mark.parametrize("older_than", ["90m", 5400, timedelta(minutes=90)])
async def test_what_is_too_old_is_pruned(letters: DeadLetterQueue, guard: JobGuard, older_than: Any) -> None:
    """By the store's clock."""
    await keep(letters, *some(4), start=await now_of(guard) - 4 * HOUR, step=HOUR)
    assert await letters.prune(older_than=older_than) == 3
    assert await ids_of(letters) == ["0003"]


async def test_what_is_too_much_is_pruned(letters: DeadLetterQueue) -> None:
    """The oldest, in batches of 200."""
    await keep(letters, *some(450))
    told: list[int] = []
    assert await letters.prune(keep=20, progress=told.append) == 430
    assert told == [200, 400, 430]
    assert await ids_of(letters) == [f"{each:04}" for each in range(430, 450)]


@pytest.mark.parametrize(("keep_number", "left"), [(1, 2), (3, 3), (0, 2), (9, 4)])
async def test_of_what_is_old_the_newest_letters_stay(
    letters: DeadLetterQueue, guard: JobGuard, keep_number: int, left: int
) -> None:
    """With both bounds, only what is too old and too much goes: the careful reading."""
    await keep(letters, *some(4), start=await now_of(guard) - 4 * HOUR, step=HOUR)
    would = await letters.prune(older_than="150m", keep=keep_number, dry_run=True)
    assert await letters.prune(older_than="150m", keep=keep_number) == would == 4 - left
    assert await letters.count() == left


async def test_only_letters_of_a_state_are_pruned_if_one_is_named(letters: DeadLetterQueue) -> None:
    """By default of all."""
    await keep(letters, *(letter(each, state=each) for each in LetterState))
    assert await letters.prune(keep=0, state="resolved") == 1
    assert await ids_of(letters, "state=all") == ["dead", "requeued"]
    assert await letters.prune(keep=0) == 2


async def test_a_dry_run_tells_how_many_would_go(letters: DeadLetterQueue, guard: JobGuard) -> None:
    """And removes none."""
    await keep(letters, *some(4), start=await now_of(guard) - 4 * HOUR, step=HOUR)
    assert await letters.prune(keep=1, dry_run=True) == 3
    assert await letters.prune(older_than="150m", dry_run=True) == 2
    assert await letters.prune(keep=10, dry_run=True) == 0
    assert await letters.count() == 4


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({}, ["older_than and keep", "None"]),
        ({"keep": -1}, ["keep", "-1"]),
        ({"keep": 1.5}, ["keep", "1.5"]),
        ({"older_than": "soon"}, ["older_than", "'soon'"]),
        ({"older_than": -1}, ["older_than", "negative"]),
        ({"older_than": True}, ["older_than", "True"]),
        ({"keep": 1, "state": "gone"}, ["state", "'gone'"]),
        ({"keep": 1, "on_evict": "old.jsonl"}, ["on_evict", "spill_to('old.jsonl')"]),
        ({"keep": 1, "on_evict": anyio.sleep}, ["on_evict must be a plain function"]),
    ],
)
async def test_bounds_that_cannot_be_are_named(
    letters: DeadLetterQueue, settings: dict[str, Any], parts: list[str]
) -> None:
    """Nothing is removed then."""
    await keep(letters, *some(2))
    with pytest.raises(ConfigurationError) as raised:
        await letters.prune(**settings)
    assert [part for part in parts if part not in str(raised.value)] == []
    assert await letters.count() == 2


async def test_what_is_pruned_counts_as_evicted(letters: DeadLetterQueue) -> None:
    """For as long as the queue lives."""
    await keep(letters, *some(5))
    await letters.prune(keep=3)
    await letters.prune(keep=1)
    assert (await letters.stats()).evicted == 4


async def test_letters_are_shown_before_they_are_pruned(letters: DeadLetterQueue) -> None:
    """Whole, oldest first, 200 at most."""
    await keep(letters, *some(301))
    shown: list[Sequence[DeadLetter]] = []
    await letters.prune(keep=1, on_evict=shown.append)
    assert [len(each) for each in shown] == [200, 100]
    assert [each for batch in shown for each in batch] == some(300)


async def test_letters_stay_if_whoever_is_shown_them_raises(letters: DeadLetterQueue) -> None:
    """The batches before that one have gone."""
    await keep(letters, *some(301))
    shown: list[Sequence[DeadLetter]] = []

    def show(batch: Sequence[DeadLetter]) -> None:
        shown.append(batch)
        if len(shown) == 2:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await letters.prune(keep=1, on_evict=show)
    assert await letters.count() == 101


@pytest.mark.parametrize("operation", ["page_letters", "count_letters", "remove_letters"])
async def test_two_that_prune_at_once_remove_no_more_than_one(
    letters: DeadLetterQueue, store: StoreProxy, operation: str
) -> None:
    """Wherever the second one comes in between, the queue keeps what it is to keep."""
    await keep(letters, *some(30))

    async def another_prunes(forward: Forward) -> object:
        await letters.prune(keep=20)
        return await forward()

    store.then(operation, another_prunes)
    await letters.prune(keep=20)
    assert await ids_of(letters) == [f"{each:04}" for each in range(10, 30)]


async def test_the_newest_stay_also_where_older_ones_change_meanwhile(
    letters: DeadLetterQueue, store: StoreProxy
) -> None:
    """What changes stays as well: it does not cost one of the newest its place, which was not asked for."""
    await keep(letters, *(letter(f"{each:04}", args=["Ada"]) for each in range(450)))
    changed = [f"{each:04}" for each in range(100)]

    async def edited_meanwhile(forward: Forward) -> object:
        reply = await forward()
        for id in changed:
            await letters.edit(id, {"to": "Bob"})
        return reply

    store.then("page_letters", edited_meanwhile)
    assert await letters.prune(keep=150) == 200
    assert await ids_of(letters) == [*changed, *(f"{each:04}" for each in range(300, 450))]


# --- the bounds of a queue -----------------------------------------------------------------------


def failing(**settings: Any) -> Callable[[int], Awaitable[object]]:
    @dead_letter(**settings)
    async def send(number: int) -> None:
        raise ValueError(number)

    return send


async def fail(task: Callable[[int], Awaitable[object]], *numbers: int) -> None:
    for number in numbers:
        with pytest.raises(ValueError, match=str(number)):
            await task(number)


async def settled(letters: DeadLetterQueue, number: int) -> None:
    """Wait until a queue holds so many."""
    with anyio.fail_after(30):
        while await letters.count("state=all") != number:  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def test_a_queue_keeps_as_many_as_it_may(
    letters: DeadLetterQueue, events: Events, guard: JobGuard
) -> None:
    """The oldest make room, whatever their state, and an event tells how many."""
    await keep(letters, letter("first", state=LetterState.RESOLVED))
    await fail(failing(max_entries=3), *range(5))
    await settled(letters, 3)
    await until(lambda: sum(each.number for each in events.of(Evicted)) == 3)
    found = [each.error_message async for each in letters.each(oldest_first=True)]
    assert found == ["2", "3", "4"]
    assert (await letters.stats()).evicted == 3


@pytest.mark.parametrize("number", [1, 5])
async def test_letters_whose_jobs_are_on_their_way_take_nobodys_room(bench: Bench, number: int) -> None:
    """A queue whose letters are all requeued keeps what fails next, and is over its bound meanwhile."""
    async with bench.guard() as guard:
        letters = guard.dead_letters()
        requeued = [letter(f"{each}", state=LetterState.REQUEUED) for each in range(3)]
        await keep(letters, *requeued, letter("done", state=LetterState.RESOLVED))
        await fail(failing(max_entries=3), *range(number))
    assert await letters.count("state=requeued") == 3
    assert await letters.count("state=resolved") == (1 if number == 1 else 0)
    assert await letters.count() == min(number, 3)


async def test_a_queue_keeps_letters_as_long_as_it_may(letters: DeadLetterQueue, guard: JobGuard) -> None:
    """Looked at when another one comes."""
    await keep(letters, *some(2), start=await now_of(guard) - 3 * HOUR)
    await fail(failing(retention=timedelta(hours=2)), 1)
    await settled(letters, 1)


async def test_nothing_is_evicted_unless_somebody_says_so(
    letters: DeadLetterQueue, events: Events, guard: JobGuard
) -> None:
    """The bounds are looked at no sooner than a queue has some."""
    await keep(letters, *some(2), start=1)
    await fail(failing(), 1)
    await guard.runtime.background.aclose()
    assert await letters.count() == 3
    assert events.of(Evicted) == []


async def test_evictions_are_over_when_the_guard_is_left(bench: Bench) -> None:
    """A process that ends leaves no queue over its bounds."""
    async with bench.guard() as guard:
        await fail(failing(max_entries=1), *range(4))
    assert await guard.dead_letters().count() == 1


async def test_many_letters_are_evicted_as_one(bench: Bench) -> None:
    """Where things go on beside the job: on asyncio."""
    async with bench.guard() as guard:
        await fail(failing(max_entries=1), *range(4))
        at_once = len(bench.events.of(Evicted))
    assert await guard.dead_letters().count() == 1
    if at_once == 0:
        assert [each.number for each in bench.events.of(Evicted)] == [3]


async def test_evicted_letters_go_where_the_task_says(bench: Bench, tmp_path: Path) -> None:
    """Into a file of lines that can be imported again, readable by its owner only."""
    file = tmp_path / "spilled.jsonl"
    async with bench.guard() as guard:
        await fail(failing(max_entries=1, on_evict=spill_to(file)), *range(4))
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    other = guard.dead_letters("other")
    with file.open(encoding="utf-8") as lines:
        report = await import_(other, lines)
    assert (report.imported, report.refusals) == (3, 0)
    assert [each.error_message async for each in other.each(oldest_first=True)] == ["0", "1", "2"]


async def test_a_full_disk_costs_no_letter_of_a_file(letters: DeadLetterQueue, tmp_path: Path) -> None:
    """Its torn line stays alone; what comes once there is room again has lines of its own."""
    file = tmp_path / "spilled.jsonl"
    await keep(letters, *some(2))
    await letters.prune(keep=1, on_evict=spill_to(file))
    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"id":"0001","adap')
    await letters.prune(keep=0, on_evict=spill_to(file))
    other = letters.named("other")
    with file.open(encoding="utf-8") as lines:
        report = await import_(other, lines)
    assert (report.imported, [number for number, _ in report.refused]) == (2, [2])
    assert await ids_of(other) == ["0000", "0001"]


async def test_letters_stay_if_on_evict_raises(bench: Bench) -> None:
    """An event tells of it, and the job is none the worse."""

    def full(batch: Sequence[DeadLetter]) -> None:
        raise OSError("disk full")

    async with bench.guard() as guard:
        await fail(failing(max_entries=1, on_evict=full), *range(3))
    assert await guard.dead_letters().count() == 3
    assert "disk full" in bench.events.of(EvictionFailed)[0].error
    assert bench.events.of(Evicted) == []


async def test_a_store_that_does_not_answer_keeps_its_letters(bench: Bench) -> None:
    """An event tells of it; the next letter makes another try."""
    bench.store.always("remove_letters", down)
    async with bench.guard() as guard:
        await fail(failing(max_entries=1), 1, 2)
    assert await guard.dead_letters().count() == 2
    assert {each.operation for each in bench.events.of(StoreFailed)} == {"evict"}


async def test_what_is_not_there_cannot_be_asked(letters: DeadLetterQueue, store: StoreProxy) -> None:
    """Every method raises where the store does not answer."""
    await keep(letters, letter("a"))
    for operation in ("page_letters", "remove_letters"):
        store.then(operation, down)
        with pytest.raises(StoreUnavailable):
            await letters.clear()
    assert await letters.count() == 1


@pytest.mark.parametrize("filter", ["", "  "])
async def test_a_text_without_terms_removes_nothing(letters: DeadLetterQueue, filter: str) -> None:
    """It is what a script makes of a variable that is not set; all letters are meant by `Filter()`."""
    await keep(letters, letter("a"))
    with pytest.raises(InvalidValue, match=r"for all write Filter\(\)"):
        await letters.remove_all(filter)
    assert await letters.count() == 1
