"""What is special to dead letters on a server: bounds of one operation, and values of somebody else."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from redis.asyncio import Redis

from jobguard import DeadLetterQueue
from jobguard.errors import StoreError
from jobguard.stores import RedisStore
from jobguard.stores.letters import UNKNOWN_TASK, Dimension, Entry, LetterQuery, LetterQueue, LetterState

pytestmark = pytest.mark.anyio

QUEUE = LetterQueue("jobguard", "q")
ENTRIES = "{jobguard:dlq:q}:entries"


def letter(number: int, task: str = "send", error: str = "E", fingerprint: str = "f") -> Entry:
    return Entry(str(number), LetterState.DEAD, task, error, fingerprint, text=f"text {number}")


async def fill(store: RedisStore, letters: list[Entry]) -> None:
    await asyncio.gather(*(store.letters.put(QUEUE, each) for each in letters))


@pytest.mark.parametrize("oldest_first", [False, True])
async def test_looks_at_500_letters_at_once(redis_store: RedisStore, oldest_first: bool) -> None:
    """A query by several dimensions of which few agree has short pages, and finds all of them."""
    rare = {0, 600, 1199}
    await fill(redis_store, [letter(number, error="F" if number in rare else "E") for number in range(1200)])
    await fill(redis_store, [letter(number, "other", "F") for number in range(2000, 3500)])
    sizes: list[int] = []
    found: set[str] = set()
    cursor: str | None = None
    query = LetterQuery(task="send", error="F")
    while not sizes or cursor is not None:
        page = await redis_store.letters.page(QUEUE, query, 10, cursor, oldest_first=oldest_first)
        sizes.append(len(page.entries))
        found |= {entry.id for entry in page.entries}
        cursor = page.cursor
    assert sizes == [1, 1, 1]
    assert found == {str(number) for number in rare}


async def test_looks_at_the_rarest_dimension(redis_store: RedisStore) -> None:
    """Where one of several dimensions has few letters, one page is enough."""
    await fill(redis_store, [letter(number) for number in range(600)])
    await fill(redis_store, [letter(600, fingerprint="rare")])
    page = await redis_store.letters.page(
        QUEUE, LetterQuery(None, task="send", error="E", fingerprint="rare"), 10
    )
    assert ([entry.id for entry in page.entries], page.cursor) == (["600"], None)


async def test_a_page_has_500_letters_at_most(redis_store: RedisStore) -> None:
    """More letters than an operation may read are not read at once, however many are asked for."""
    await fill(redis_store, [letter(number) for number in range(501)])
    page = await redis_store.letters.page(QUEUE, LetterQuery(), 10_000)
    assert len(page.entries) == 500
    rest = await redis_store.letters.page(QUEUE, LetterQuery(), 10_000, page.cursor)
    assert (len(rest.entries), rest.cursor) == (1, None)


@pytest.mark.parametrize("query", [LetterQuery(), LetterQuery(task="send", error="E")])
async def test_a_page_ends_where_a_megabyte_was_read(redis_store: RedisStore, query: LetterQuery) -> None:
    """Or a few letters later: many large ones would keep everybody else waiting."""
    large = [letter(number)._replace(text=secrets.token_hex(200_000)) for number in range(30)]
    await fill(redis_store, large)
    sizes: list[int] = []
    cursor: str | None = None
    while not sizes or cursor is not None:
        page = await redis_store.letters.page(QUEUE, query, 500, cursor, texts=False)
        sizes.append(len(page.entries))
        cursor = page.cursor
    assert sizes == [5] * 6


async def test_a_removal_ends_where_a_megabyte_was_read(redis_store: RedisStore, redis_client: Redis) -> None:
    """The rest is removed by further ones, between which others are answered."""
    large = [letter(number)._replace(text=secrets.token_hex(300_000)) for number in range(30)]
    await fill(redis_store, large)
    ours: Any = redis_client
    await ours.config_resetstat()
    assert await redis_store.letters.remove(QUEUE, [(each.id, 1) for each in large]) == [True] * 30
    assert (await ours.info("commandstats"))["cmdstat_evalsha"]["calls"] >= 8  # of four letters each


async def test_a_tally_of_large_letters_has_all_of_them(redis_store: RedisStore) -> None:
    """Those that are too large to be read at once with the others come one by one."""
    large = [
        letter(number, fingerprint=str(number))._replace(text=secrets.token_hex(200_000))
        for number in range(20)
    ]
    await fill(redis_store, large)
    tallies = await redis_store.letters.tally(QUEUE, Dimension.FINGERPRINT)
    assert tallies is not None
    found = {each.value: each.newest.text for each in tallies if each.newest is not None}
    assert found == {each.fingerprint: each.text for each in large}


async def test_many_letters_of_one_time_find_their_places(redis_store: RedisStore) -> None:
    """Letters out of a file that all say the same time are kept one after the other."""
    await asyncio.gather(*(redis_store.letters.put(QUEUE, letter(number), 7) for number in range(100)))
    page = await redis_store.letters.page(QUEUE, LetterQuery(), 500, oldest_first=True)
    assert [entry.arrival for entry in page.entries] == list(range(7, 107))


async def test_a_value_of_somebody_else_can_be_shown_and_removed(
    redis_store: RedisStore, redis_client: Redis
) -> None:
    """An entry that is no letter of ours keeps its place and nobody from the others, and goes like any."""
    await fill(redis_store, [letter(1), letter(2)])
    ours: Any = redis_client
    await ours.hset(ENTRIES, "1", b"\xff nothing of ours")
    page = await redis_store.letters.page(QUEUE, LetterQuery(), 10)
    assert [(entry.id, entry.task, entry.revision) for entry in page.entries] == [
        ("2", "send", 1),
        ("1", UNKNOWN_TASK, 0),
    ]
    first = await redis_store.letters.page(QUEUE, LetterQuery(), 1, oldest_first=True)
    assert (first.entries[0].id, str(first.entries[0].arrival)) == ("1", first.cursor)
    bare = await redis_store.letters.page(QUEUE, LetterQuery(), 10, texts=False)
    assert [entry.text for entry in bare.entries] == ["", ""]
    both = await redis_store.letters.page(QUEUE, LetterQuery(task="send", error="E"), 10)
    assert [entry.id for entry in both.entries] == ["2"]
    assert (await redis_store.letters.put(QUEUE, letter(1))).new is False
    assert await redis_store.letters.replace(QUEUE, page.entries[1]) is None
    assert await redis_store.letters.remove(QUEUE, [("1", 1), ("1", None)]) == [False, True]
    assert (await redis_store.letters.totals(QUEUE)).dead == 1


async def test_an_index_that_leads_nowhere_is_passed_over(
    redis_store: RedisStore, redis_client: Redis
) -> None:
    """A letter that somebody has deleted behind the store's back is on no page."""
    await fill(redis_store, [letter(1), letter(2)])
    ours: Any = redis_client
    await ours.hdel(ENTRIES, "1")
    for query in (LetterQuery(), LetterQuery(task="send", error="E")):
        page = await redis_store.letters.page(QUEUE, query, 10)
        assert ([entry.id for entry in page.entries], page.cursor) == (["2"], None)


async def test_entries_of_somebody_else_hide_no_letter_and_can_be_cleared(
    redis_store: RedisStore, redis_client: Redis
) -> None:
    """Pages go on behind them; whoever clears or prunes the queue removes them with the rest."""
    await fill(redis_store, [letter(number) for number in range(20)])
    ours: Any = redis_client
    for number in (0, 3, 7, 15):
        await ours.hset(ENTRIES, str(number), b"nothing of ours")
    await ours.hdel(ENTRIES, "19")  # the newest
    letters = DeadLetterQueue(redis_store, "q")
    pages = [await letters.list(4)]
    while (cursor := pages[-1].cursor) is not None:
        pages.append(await letters.list(4, cursor))
    newest_first = [str(number) for number in range(18, -1, -1)]
    assert [each.id for page in pages for each in page.entries] == newest_first
    assert await letters.prune(keep=15) == 5
    assert await letters.clear() == 14


async def test_an_emptied_queue_leaves_its_name_and_its_last_arrival(
    redis_store: RedisStore, redis_client: Redis
) -> None:
    """No index outlives the letters that it leads to."""
    await fill(redis_store, [letter(number, str(number), str(number), str(number)) for number in range(9)])
    await redis_store.letters.remove(QUEUE, [(str(number), None) for number in range(9)])
    left = sorted(key for key in await redis_client.keys() if b":answer:" not in key)
    assert left == [b"jobguard:dlq", b"{jobguard:dlq:q}:info"]


async def test_forgetting_a_record_leaves_what_is_none(redis_store: RedisStore, redis_client: Redis) -> None:
    """The list of a namespace's queues has a name that a key may have too."""
    await fill(redis_store, [letter(1)])
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await redis_store.forget("jobguard:dlq")
    assert await redis_store.letters.queues("jobguard") == ["q"]
