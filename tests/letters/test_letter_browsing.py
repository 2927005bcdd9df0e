"""Counting, listing, grouping: what a queue of dead letters answers is what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given

from jobguard import DeadLetter, DeadLetterQueue, Filter, JobGuard
from jobguard.errors import InvalidType, InvalidValue
from jobguard.stores.letters import Entry, LetterQueue, LetterState
from tests.engine.harness import Bench, Forward, StoreProxy
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


async def now_of(guard: JobGuard) -> int:
    """What the store's clock shows, in microseconds."""
    return (await guard.store.letters.totals(LetterQueue("any", "any"))).now


# --- filters -------------------------------------------------------------------------------------


@EVENT_LOOP
@given(given=random_letters, filter=random_filters)
async def test_all_ways_to_read_mean_the_same_letters(
    letters: DeadLetterQueue, given: list[DeadLetter], filter: Filter
) -> None:
    """Each, list, count and groups agree with a look at every letter."""
    queue = fresh_queue(letters)
    await keep(queue, *given)
    expected = meant(filter, given)
    ids = [each.id for each in expected]
    assert await ids_of(queue, filter) == ids
    assert await ids_of(queue, str(filter)) == ids
    assert [each.id async for each in queue.each(filter)] == ids[::-1]
    assert [each.id for each in (await queue.list(filter=filter)).entries] == ids[::-1]
    assert await queue.count(filter) == len(ids)
    groups = await queue.groups(filter)
    assert {each.fingerprint: each.count for each in groups} == Counter(each.fingerprint for each in expected)
    for group in groups:
        alike = [each for each in expected if each.fingerprint == group.fingerprint]
        assert group.sample == alike[-1]
        assert set(group.tasks) == {each.task for each in alike}
        arrivals = [(START + given.index(each)) / 1_000_000 for each in (alike[0], alike[-1])]
        assert [group.first_seen, group.last_seen] == pytest.approx(arrivals, abs=1e-6)


@pytest.mark.parametrize("state", ["dead", "requeued", "resolved"])
async def test_a_filter_of_one_state_means_no_other(letters: DeadLetterQueue, state: Any) -> None:
    """And `all` means each of them."""
    await keep(letters, *(letter(each, state=each) for each in LetterState))
    assert await ids_of(letters, Filter(state=state)) == [state]
    assert await letters.count(Filter(state=state)) == 1
    assert await letters.count(Filter(state="all")) == 3


async def test_so_long_ago_is_told_by_the_clock_of_the_store(
    letters: DeadLetterQueue, guard: JobGuard, store: StoreProxy
) -> None:
    """Whatever this machine's clock shows."""
    now = await now_of(guard)
    await keep(letters, letter("old"), letter("new"), start=now - 3 * HOUR, step=2 * HOUR)

    async def an_hour_later(forward: Forward) -> object:
        totals: Any = await forward()
        return totals._replace(now=totals.now + HOUR)

    assert await ids_of(letters, "since=90m") == ["new"]
    assert await ids_of(letters, "until=2h") == ["old"]
    store.always("total_letters", an_hour_later)
    assert await ids_of(letters, "since=90m") == []
    assert await ids_of(letters, "until=2h") == ["old", "new"]


async def test_no_time_ago_is_now(letters: DeadLetterQueue, guard: JobGuard) -> None:
    """`timedelta(0)` is a time like any other."""
    await keep(letters, letter("old"), start=await now_of(guard) - HOUR)
    assert await ids_of(letters, Filter(since=timedelta(0))) == []
    assert await ids_of(letters, Filter(until=timedelta(0))) == ["old"]


@pytest.mark.parametrize("read", ["count", "list", "groups"])
async def test_a_filter_that_is_none_is_refused(letters: DeadLetterQueue, read: str) -> None:
    """Its type is named."""
    method: Callable[..., Awaitable[object]] = getattr(letters, read)
    with pytest.raises(InvalidType, match="filter must be a Filter or its text, not 5"):
        await method(filter=5)


async def test_a_letter_that_nobody_can_read_stands_among_the_others(
    letters: DeadLetterQueue, bench: Bench
) -> None:
    """So that it can be seen and removed, with its id and the reason `unreadable`."""
    queue = LetterQueue(bench.namespace, letters.name)
    entry = Entry("odd", LetterState.DEAD, "t", "E", "f", "", "no letter", 0, 0)
    await bench.backing.letters.put(queue, entry, START)
    await keep(letters, letter("even"), start=START + 1)
    assert [(each.id, each.reason) async for each in letters.each()] == [
        ("even", "exhausted"),
        ("odd", "unreadable"),
    ]
    assert await letters.remove("odd")


# --- get, count, list ----------------------------------------------------------------------------


async def test_a_letter_is_found_by_its_id_or_its_key(letters: DeadLetterQueue) -> None:
    """The last one of a key."""
    await keep(letters, letter("a", key="k"), letter("b", key="k"))
    assert await letters.get("a") == letter("a", key="k")
    assert await letters.get("k") == letter("b", key="k")
    assert await letters.get("c") is None


async def test_without_a_filter_the_dead_ones_are_counted(letters: DeadLetterQueue) -> None:
    """What is requeued or resolved was dealt with."""
    assert await letters.count() == 0
    await keep(letters, *(letter(each, state=each) for each in LetterState))
    assert await letters.count() == 1


async def test_pages_follow_each_other(letters: DeadLetterQueue) -> None:
    """Newest first; the last one has no cursor."""
    await keep(letters, *(letter(str(number)) for number in range(5)))
    first = await letters.list(2)
    second = await letters.list(2, first.cursor)
    third = await letters.list(2, second.cursor)
    assert [[each.id for each in page.entries] for page in (first, second, third)] == [
        ["4", "3"],
        ["2", "1"],
        ["0"],
    ]
    assert third.cursor is None


async def test_a_page_that_ends_with_the_last_letter_is_the_last(letters: DeadLetterQueue) -> None:
    """No empty page follows."""
    await keep(letters, letter("a"), letter("b"))
    assert (await letters.list(2)).cursor is None


@pytest.mark.parametrize("filter", [None, "attempts=1"])
async def test_pages_stay_in_step_while_letters_come_and_go(
    letters: DeadLetterQueue, filter: str | None
) -> None:
    """What was there all the time is seen once."""
    await keep(letters, *(letter(str(number)) for number in range(6)))
    first = await letters.list(2, filter=filter)
    await keep(letters, letter("new"), start=START + 100)
    await letters.remove("4")  # where the cursor points
    await letters.remove("2")
    second = await letters.list(2, first.cursor, filter=filter)
    assert [each.id for each in second.entries] == ["3", "1"]


async def test_a_filter_that_reads_letters_fills_its_pages(letters: DeadLetterQueue) -> None:
    """However many it passes over."""
    await keep(letters, *(letter(str(number), failures=number % 7) for number in range(40)))
    page = await letters.list(3, filter=Filter(attempts=3))
    assert [each.id for each in page.entries] == ["38", "31", "24"]
    assert [each.id for each in (await letters.list(3, page.cursor, filter=Filter(attempts=3))).entries] == [
        "17",
        "10",
        "3",
    ]


@pytest.mark.parametrize("limit", [0, -1, 501, True, 1.5, "5"])
@pytest.mark.parametrize("read", ["list", "groups"])
async def test_a_limit_that_cannot_be_is_named(letters: DeadLetterQueue, limit: Any, read: str) -> None:
    """1 to 500, a whole number."""
    method: Callable[..., Awaitable[object]] = getattr(letters, read)
    with pytest.raises((InvalidType, InvalidValue), match=f"limit.*{limit!r}"):
        await method(limit=limit)


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1" * 17, "\u0661"])
async def test_a_cursor_that_no_page_gave_is_refused(letters: DeadLetterQueue, cursor: str) -> None:
    """By name, with its value."""
    with pytest.raises(InvalidValue, match=f"cursor .*{cursor!r}"):
        await letters.list(cursor=cursor)


async def test_progress_is_told_of_what_was_looked_at(letters: DeadLetterQueue) -> None:
    """Where letters are read one by one."""
    await keep(letters, *(letter(str(number)) for number in range(3)))
    seen: list[int] = []
    await letters.count("attempts=1", progress=seen.append)
    await letters.groups("attempts=1", progress=seen.append)
    _ = [each async for each in letters.each(progress=seen.append)]
    assert seen == [3, 3, 3]


# --- groups and stats ----------------------------------------------------------------------------


@pytest.mark.parametrize("filter", [None, "attempts=1"])
async def test_groups_tell_the_commonest_cause_first(letters: DeadLetterQueue, filter: str | None) -> None:
    """Whether an index answers or the letters are read."""
    kept = [letter(str(number), fingerprint=each) for number, each in enumerate("abbbaac")]
    await keep(letters, *kept, letter("more", fingerprint="b"))
    groups = await letters.groups(filter, 2)
    assert [(each.fingerprint, each.count) for each in groups] == [("b", 4), ("a", 3)]


async def test_groups_since_a_time_count_what_came_since(letters: DeadLetterQueue, guard: JobGuard) -> None:
    """By the store's clock."""
    now = await now_of(guard)
    await keep(letters, letter("a"), letter("b", fingerprint="f2"), start=now - 3 * HOUR, step=2 * HOUR)
    assert [each.fingerprint for each in await letters.groups("since=2h")] == ["f2"]


async def test_a_new_cause_is_seen_among_many_old_ones(letters: DeadLetterQueue, guard: JobGuard) -> None:
    """Since a time, what came since is told, however many causes, tasks and errors there were before."""
    now = await now_of(guard)
    old = [letter(f"{n}", fingerprint=f"f{n}", task=f"t{n}", error_type=f"E{n}") for n in range(500)]
    await keep(letters, *old, letter("twice", fingerprint="f1"), start=now - 3 * HOUR)
    new = letter("new", fingerprint="fresh", task="fresh.task", error_type="Fresh")
    await keep(letters, new, start=now - HOUR // 2)
    assert [(each.fingerprint, each.count) for each in await letters.groups("since=1h")] == [("fresh", 1)]
    stats = await letters.stats("1h")
    assert (dict(stats.tasks), dict(stats.errors)) == ({"fresh.task": 1}, {"Fresh": 1})


async def test_stats_tell_states_tasks_errors_and_hours(letters: DeadLetterQueue, guard: JobGuard) -> None:
    """The dead ones by what they are, the rest in numbers."""
    now = await now_of(guard)
    hour = now // HOUR * HOUR
    await keep(
        letters,
        letter("a", task="pay", error_type="OSError"),
        letter("b", task="send"),
        letter("c", task="send"),
        letter("d", state=LetterState.REQUEUED),
        letter("e", state=LetterState.RESOLVED),
        start=hour - HOUR,
        step=1,
    )
    await keep(letters, letter("now", task="send"), start=hour)
    stats = await letters.stats()
    assert (stats.dead, stats.requeued, stats.resolved, stats.evicted, stats.count) == (4, 1, 1, 0, 4)
    assert list(stats.tasks.items()) == [("send", 3), ("pay", 1)]
    assert list(stats.errors.items()) == [("TimeoutError", 3), ("OSError", 1)]
    assert list(stats.hours.values()) == [3, 1]
    assert all(hour.endswith(":00Z") for hour in stats.hours)


@pytest.mark.parametrize("since", ["2h", timedelta(hours=2)])
async def test_stats_since_a_time_leave_out_what_came_before(
    letters: DeadLetterQueue, guard: JobGuard, since: Any
) -> None:
    """Counts of tasks, errors and hours alike; states are counted as ever."""
    now = await now_of(guard)
    await keep(letters, letter("a", task="old"), letter("b"), start=now - 3 * HOUR, step=2 * HOUR)
    stats = await letters.stats(since)
    assert (stats.dead, stats.count, sum(stats.hours.values())) == (2, 1, 1)
    assert dict(stats.tasks) == {"shop.send": 1}


async def test_stats_of_an_empty_queue_are_zero(letters: DeadLetterQueue) -> None:
    """No hour is told in which nothing came."""
    stats = await letters.stats("7d")
    assert (stats.dead, stats.count, dict(stats.tasks), dict(stats.hours)) == (0, 0, {}, {})


async def test_stats_name_a_time_that_cannot_be_read(letters: DeadLetterQueue) -> None:
    """As filters do."""
    with pytest.raises(InvalidValue, match=r"since must be .*'soon'"):
        await letters.stats("soon")


async def test_queues_are_those_that_have_held_a_letter(letters: DeadLetterQueue) -> None:
    """Sorted by name."""
    for name in ("b", "a"):
        await keep(letters.named(name), letter("x"))
    assert await letters.queues() == ["a", "b"]
