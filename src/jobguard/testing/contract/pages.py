"""How dead letters are paged through, counted and summed up."""

from __future__ import annotations

import secrets

import anyio
import pytest

from jobguard.errors import InvalidType, InvalidValue
from jobguard.stores.base import Store
from jobguard.stores.letters import Dimension, Entry, LetterPage, LetterQuery, LetterQueue, LetterState, Tally
from jobguard.testing.contract.bench import ODD_TEXT

DEAD, REQUEUED, RESOLVED = LetterState


def letter(
    id: str,
    state: LetterState = DEAD,
    *,
    task: str = "send",
    error: str = "OSError",
    fingerprint: str = "f",
    key: str = "",
    text: str | None = None,
) -> Entry:
    """A letter as a caller hands it in."""
    return Entry(id, state, task, error, fingerprint, key, f"text {id}" if text is None else text)


async def fill(store: Store, queue: LetterQueue, *entries: str | Entry) -> None:
    """Put letters that are not there yet, one after the other."""
    for entry in entries:
        kept = await store.letters.put(queue, letter(entry) if isinstance(entry, str) else entry)
        assert kept.new is True


async def stored(store: Store, queue: LetterQueue, id: str) -> Entry:
    entry = await store.letters.get(queue, id)
    assert entry is not None
    return entry


async def drop(store: Store, queue: LetterQueue, *ids: str) -> None:
    assert await store.letters.remove(queue, [(id, None) for id in ids]) == [True] * len(ids)


async def grew(store: Store, queue: LetterQueue, entry: Entry, alert_over: int) -> bool:
    """Put a letter; whether it was told that the queue has grown past a bound."""
    return (await store.letters.put(queue, entry, alert_over=alert_over)).grew


async def died(store: Store, queue: LetterQueue, id: str, alert_over: int) -> bool:
    """Make a letter dead again, or keep it so; whether that was told that the queue has grown."""
    entry = (await stored(store, queue, id))._replace(state=DEAD)
    kept = await store.letters.replace(queue, entry, arrive=True, alert_over=alert_over)
    assert kept is not None
    return kept.grew


async def sizes(store: Store, queue: LetterQueue) -> tuple[int, int, int, int]:
    """How many letters are dead, requeued and resolved, and how many were evicted."""
    dead, requeued, resolved, evicted, _ = await store.letters.totals(queue)
    return dead, requeued, resolved, evicted


async def tallied(
    store: Store,
    queue: LetterQueue,
    dimension: Dimension,
    *,
    state: LetterState = DEAD,
    since: int | None = None,
    limit: int = 100,
) -> list[Tally]:
    """Tallies of values that are not too many."""
    found = await store.letters.tally(queue, dimension, state=state, since=since, limit=limit)
    assert found is not None
    return found


async def all_ids(
    store: Store, queue: LetterQueue, query: LetterQuery, limit: int = 3, *, oldest_first: bool = False
) -> str:
    """The ids, of one character each, that all pages of a query have together."""
    ids, cursor = "", None
    while True:
        page = await store.letters.page(queue, query, limit, cursor, oldest_first=oldest_first)
        assert len(page.entries) <= limit
        ids += ids_of(page)
        cursor = page.cursor
        if cursor is None:
            return ids


def ids_of(page: LetterPage) -> str:
    return "".join(entry.id for entry in page.entries)


MIXED = (
    letter("a", task="send", error="E", fingerprint="f"),
    letter("b", task="send", error="F", fingerprint="f"),
    letter("c", REQUEUED, task="pay", error="E", fingerprint="g"),
    letter("d", task="pay", error="E", fingerprint="f"),
    letter("e", RESOLVED, task="send", error="E", fingerprint="f"),
    letter("f", task="send", error="E", fingerprint="g"),
    letter("g", REQUEUED, task="send", error="E", fingerprint="f"),
)
"""Letters of every state, with values that overlap."""
QUERIES = [
    (LetterQuery(), "fdba"),
    (LetterQuery(REQUEUED), "gc"),
    (LetterQuery(None), "gfedcba"),
    (LetterQuery(task="send"), "fba"),
    (LetterQuery(error="E"), "fda"),
    (LetterQuery(fingerprint="f"), "dba"),
    (LetterQuery(None, task="send"), "gfeba"),
    (LetterQuery(None, fingerprint="g"), "fc"),
    (LetterQuery(RESOLVED, error="F"), ""),
    (LetterQuery(task="send", error="E"), "fa"),
    (LetterQuery(task="send", fingerprint="f"), "ba"),
    (LetterQuery(None, error="E", fingerprint="f"), "geda"),
    (LetterQuery(None, "send", "E", "f"), "gea"),
    (LetterQuery(task="send", error="none"), ""),
    (LetterQuery(task="none"), ""),
    (LetterQuery(task=""), ""),
]


class PageContract:
    """Part of `StoreContract`."""

    # Pages

    async def test_pages_newest_first(self, store: Store, queue: LetterQueue) -> None:
        """Pages follow each other from the newest letter to the oldest, and then end."""
        await fill(store, queue, *"abcde")
        first = await store.letters.page(queue, LetterQuery(), 2)
        assert first.entries == (await stored(store, queue, "e"), await stored(store, queue, "d"))
        second = await store.letters.page(queue, LetterQuery(), 2, first.cursor)
        assert ids_of(second) == "cb"
        third = await store.letters.page(queue, LetterQuery(), 2, second.cursor)
        assert (ids_of(third), third.cursor) == ("a", None)

    async def test_pages_oldest_first(self, store: Store, queue: LetterQueue) -> None:
        """The other way round, from the oldest letter to the newest."""
        await fill(store, queue, *"abcde")
        first = await store.letters.page(queue, LetterQuery(), 3, oldest_first=True)
        assert ids_of(first) == "abc"
        second = await store.letters.page(queue, LetterQuery(), 3, first.cursor, oldest_first=True)
        assert (ids_of(second), second.cursor) == ("de", None)

    async def test_pages_without_texts(self, store: Store, queue: LetterQueue) -> None:
        """Entries come without their texts where only the rest is asked for."""
        entry = letter("a", task=ODD_TEXT, error=ODD_TEXT, fingerprint=ODD_TEXT, key=ODD_TEXT)
        await fill(store, queue, entry)
        page = await store.letters.page(queue, LetterQuery(), 2, texts=False)
        assert page == LetterPage(((await stored(store, queue, "a"))._replace(text=""),), None)

    @pytest.mark.parametrize(("query", "ids"), QUERIES)
    @pytest.mark.parametrize("limit", [1, 3, 500])
    async def test_pages_through_what_a_query_means(
        self, store: Store, queue: LetterQueue, query: LetterQuery, ids: str, limit: int
    ) -> None:
        """All pages together have each letter that agrees with the query, once and in order."""
        await fill(store, queue, *MIXED)
        assert await all_ids(store, queue, query, limit) == ids
        assert await all_ids(store, queue, query, limit, oldest_first=True) == ids[::-1]

    async def test_pages_follow_the_changes_of_a_letter(self, store: Store, queue: LetterQueue) -> None:
        """A letter that is written anew is found by what it is now, and no more by what it was."""
        await fill(store, queue, *MIXED)
        was = await stored(store, queue, "b")
        await store.letters.replace(queue, was._replace(state=RESOLVED, task="pay", error="G"))
        assert await all_ids(store, queue, LetterQuery()) == "fda"
        assert await all_ids(store, queue, LetterQuery(error="F")) == ""
        assert await all_ids(store, queue, LetterQuery(RESOLVED)) == "eb"
        assert await all_ids(store, queue, LetterQuery(RESOLVED, error="G")) == "b"
        assert await all_ids(store, queue, LetterQuery(None, task="pay")) == "dcb"
        again = (await stored(store, queue, "b"))._replace(state=DEAD)
        await store.letters.replace(queue, again, arrive=True)
        assert await all_ids(store, queue, LetterQuery()) == "bfda"

    async def test_pages_and_counts_within_a_time(self, store: Store, queue: LetterQueue) -> None:
        """Letters of a time are those that arrived from its first microsecond to its last."""
        for at, entry in enumerate(MIXED):
            await store.letters.put(queue, entry, 100 + at)
        for query, ids in (
            (LetterQuery(since=101, until=103), "db"),
            (LetterQuery(None, since=101, until=105), "fedcb"),
            (LetterQuery(task="send", since=101), "fb"),
            (LetterQuery(task="send", until=100), "a"),
            (LetterQuery(task="send", error="E", since=101), "f"),
            (LetterQuery(since=107), ""),
            (LetterQuery(since=103, until=101), ""),
        ):
            assert await all_ids(store, queue, query, 2) == ids
            assert await all_ids(store, queue, query, 2, oldest_first=True) == ids[::-1]
            if len(query.dimensions) < 2:
                assert await store.letters.count(queue, query) == len(ids)

    async def test_ends_with_a_full_page(self, store: Store, queue: LetterQueue) -> None:
        """A page that takes the last letters says that no more follow."""
        await fill(store, queue, *"ab", letter("c", REQUEUED))
        for query, limit in ((LetterQuery(), 2), (LetterQuery(None), 3), (LetterQuery(task="send"), 2)):
            page = await store.letters.page(queue, query, limit)
            assert (len(page.entries), page.cursor) == (limit, None)

    async def test_has_an_empty_page_of_an_unknown_queue(self, store: Store, queue: LetterQueue) -> None:
        """Where there is no letter, a page is empty and the last."""
        for query, _ in QUERIES:
            assert await store.letters.page(queue, query, 10) == LetterPage((), None)

    async def test_pages_stay_in_step_while_letters_come_and_go(
        self, store: Store, queue: LetterQueue
    ) -> None:
        """A cursor holds its place: nothing is shown twice or skipped, its own entry's removal included."""
        await fill(store, queue, *"abcde")
        first = await store.letters.page(queue, LetterQuery(None), 2)
        await fill(store, queue, "f")
        await drop(store, queue, "d", "c")
        assert ids_of(await store.letters.page(queue, LetterQuery(None), 2, first.cursor)) == "ba"

    async def test_pages_through_many_letters_once(self, store: Store, queue: LetterQueue) -> None:
        """Letters written at one moment are each shown once."""
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(store.letters.put, queue, letter(chr(0x100 + number)))
        seen = await all_ids(store, queue, LetterQuery(), 7)
        assert sorted(seen) == [chr(0x100 + number) for number in range(100)]

    @pytest.mark.parametrize("query", [LetterQuery(), LetterQuery(task="send", error="OSError")])
    async def test_pages_through_large_letters_once(
        self, store: Store, queue: LetterQueue, query: LetterQuery
    ) -> None:
        """Letters of more bytes than are read at once come on several pages, whole, once and in order."""
        await fill(store, queue, *(letter(id, text=secrets.token_hex(150_000)) for id in "abcdefghijklmnop"))
        assert await all_ids(store, queue, query, 500) == "abcdefghijklmnop"[::-1]
        assert await all_ids(store, queue, query, 500, oldest_first=True) == "abcdefghijklmnop"

    async def test_pages_by_any_text(self, store: Store, queue: LetterQueue) -> None:
        """Values that letters are found by can be any text, and each is only itself."""
        values = [ODD_TEXT, "", ":", "task", "%s", "*", "}", "send", "send:", " send"]
        for id, value in zip("abcdefghij", values, strict=True):
            await fill(store, queue, letter(id, task=value, error=value, fingerprint=value))
        for id, value in zip("abcdefghij", values, strict=True):
            assert await all_ids(store, queue, LetterQuery(task=value)) == id
            assert await all_ids(store, queue, LetterQuery(error=value, fingerprint=value)) == id
            assert await store.letters.count(queue, LetterQuery(fingerprint=value)) == 1
        for dimension in Dimension:
            tallies = await tallied(store, queue, dimension)
            assert sorted(tally.value for tally in tallies) == sorted(values)

    @pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 40, "٣"])
    async def test_refuses_a_cursor_that_no_page_gave(
        self, store: Store, queue: LetterQueue, cursor: str
    ) -> None:
        """A cursor that no page came with is an error that shows it."""
        with pytest.raises(InvalidValue, match="cursor"):
            await store.letters.page(queue, LetterQuery(), 10, cursor)

    async def test_refuses_a_page_of_nothing(self, store: Store, queue: LetterQueue) -> None:
        """A page holds one letter at least, and a whole number of them; so does a tally."""
        with pytest.raises(InvalidValue, match="limit"):
            await store.letters.page(queue, LetterQuery(), 0)
        with pytest.raises(InvalidType, match="limit"):
            await store.letters.page(queue, LetterQuery(), 1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidValue, match="limit"):
            await store.letters.tally(queue, Dimension.TASK, limit=0)

    # Counts

    @pytest.mark.parametrize(("query", "ids"), [each for each in QUERIES if len(each[0].dimensions) < 2])
    async def test_counts_what_a_query_means(
        self, store: Store, queue: LetterQueue, query: LetterQuery, ids: str
    ) -> None:
        """Letters that agree with a query are counted."""
        assert await store.letters.count(queue, query) == 0
        await fill(store, queue, *MIXED)
        assert await store.letters.count(queue, query) == len(ids)

    async def test_refuses_to_count_by_several_dimensions(self, store: Store, queue: LetterQueue) -> None:
        """A count that no index has is an error that names what was asked for."""
        with pytest.raises(InvalidValue, match=r"error.*task"):
            await store.letters.count(queue, LetterQuery(task="send", error="E"))

    # Tallies

    async def test_tallies_every_dimension(self, store: Store, queue: LetterQueue) -> None:
        """The values of a state's letters come with their numbers, the commonest first."""
        for at, entry in enumerate(MIXED):
            await store.letters.put(queue, entry, 100 + at)
        tally = store.letters.tally
        assert await tally(queue, Dimension.TASK) == [Tally("send", 3, 100, 105), Tally("pay", 1, 103, 103)]
        assert await tally(queue, Dimension.ERROR) == [Tally("E", 3, 100, 105), Tally("F", 1, 101, 101)]
        assert await tally(queue, Dimension.FINGERPRINT) == [
            Tally("f", 3, 100, 103, ("send", "pay"), await stored(store, queue, "d")),
            Tally("g", 1, 105, 105, ("send",), await stored(store, queue, "f")),
        ]
        assert await tally(queue, Dimension.FINGERPRINT, state=RESOLVED) == [
            Tally("f", 1, 104, 104, ("send",), await stored(store, queue, "e"))
        ]

    async def test_tallies_since_a_time(self, store: Store, queue: LetterQueue) -> None:
        """Letters that arrived earlier do not count, and what is commonest is so among the others."""
        for at, task in enumerate(["a", "a", "a", "a", "b", "c", "c"]):
            await store.letters.put(queue, letter(str(at), task=task), 100 + at)
        since = [await store.letters.tally(queue, Dimension.TASK, since=at) for at in (103, 104, 106, 107)]
        assert since == [
            [Tally("c", 2, 105, 106), Tally("a", 1, 103, 103), Tally("b", 1, 104, 104)],
            [Tally("c", 2, 105, 106), Tally("b", 1, 104, 104)],
            [Tally("c", 1, 106, 106)],
            [],
        ]
        assert await store.letters.tally(queue, Dimension.TASK, since=104, limit=1) == [
            Tally("c", 2, 105, 106)
        ]

    async def test_tallies_the_commonest(self, store: Store, queue: LetterQueue) -> None:
        """No more values come than were asked for, and no more than 20 tasks of a fingerprint."""
        for number in range(30):
            for again in range(1 + number // 10):
                await fill(
                    store, queue, letter(f"{number}-{again}", task=str(number), error=str(number // 10))
                )
        commonest = await tallied(store, queue, Dimension.TASK, limit=10)
        assert sorted(tally.value for tally in commonest) == [str(number) for number in range(20, 30)]
        [kind] = await tallied(store, queue, Dimension.FINGERPRINT)
        assert sorted(kind.tasks[:10]) == [str(number) for number in range(20, 30)]
        assert sorted(kind.tasks[10:]) == [str(number) for number in range(10, 20)]
        assert (await tallied(store, queue, Dimension.ERROR, limit=1))[0].count == 30

    async def test_does_not_tally_too_many_values_since_a_time(
        self, store: Store, queue: LetterQueue
    ) -> None:
        """Of more than 500 values it is not told which are commonest since a time: the rarest may be."""
        before = [letter(str(number), task=str(number)) for number in range(499)]
        async with anyio.create_task_group() as group:
            for entry in before:
                group.start_soon(store.letters.put, queue, entry)
        since = (await store.letters.totals(queue)).now
        await fill(store, queue, letter("new", task="new"))
        [tally] = await tallied(store, queue, Dimension.TASK, since=since)
        assert (tally.value, tally.count) == ("new", 1)
        await fill(store, queue, letter("one more", task="one more"))
        assert await store.letters.tally(queue, Dimension.TASK, since=since) is None
        assert len(await tallied(store, queue, Dimension.TASK)) == 100

    async def test_tallies_what_is_there_now(self, store: Store, queue: LetterQueue) -> None:
        """Values of letters that have changed or gone are not told any more."""
        await fill(store, queue, letter("a", task="x"), letter("b", task="y"), letter("c", task="z"))
        await drop(store, queue, "a")
        await store.letters.replace(queue, (await stored(store, queue, "b"))._replace(state=RESOLVED))
        await store.letters.replace(queue, (await stored(store, queue, "c"))._replace(task="zz"))
        [tally] = await tallied(store, queue, Dimension.TASK)
        assert (tally.value, tally.count) == ("zz", 1)
        [kind] = await tallied(store, queue, Dimension.FINGERPRINT)
        assert kind.tasks == ("zz",)
        await drop(store, queue, "b", "c")
        assert await store.letters.tally(queue, Dimension.FINGERPRINT) == []
