"""How dead letters are kept and changed, and who is known to serve what."""

from __future__ import annotations

import secrets

import anyio
import pytest

from jobguard.errors import InvalidType, InvalidValue
from jobguard.stores.base import Store
from jobguard.stores.letters import Entry, Kept, LetterQueue, LetterState
from jobguard.testing.contract.bench import LONG, ODD_TEXT, SHORT, until
from jobguard.testing.contract.pages import (
    DEAD,
    REQUEUED,
    RESOLVED,
    PageContract,
    died,
    drop,
    fill,
    grew,
    letter,
    sizes,
    stored,
)


class LetterContract(PageContract):
    """Part of `StoreContract`."""

    # Keeping

    @pytest.mark.parametrize("state", LetterState)
    async def test_keeps_a_letter(self, store: Store, queue: LetterQueue, state: LetterState) -> None:
        """A letter is kept as it was written, whatever texts it has, with a revision and an arrival."""
        task, error, fingerprint, key, text = (f"{number} {ODD_TEXT}" for number in range(5))
        entry = Entry(f"id {ODD_TEXT}", state, task, error, fingerprint, key, text)
        await fill(store, queue, entry)
        found = await stored(store, queue, entry.id)
        assert found == entry._replace(revision=1, arrival=found.arrival)
        assert found.arrival > 0

    async def test_keeps_empty_texts(self, store: Store, queue: LetterQueue) -> None:
        """A letter of which nothing is known can be kept, and is found by what is not there."""
        await fill(store, queue, Entry("", DEAD, "", "", ""))
        assert (await stored(store, queue, ""))[:7] == ("", DEAD, "", "", "", "", "")
        assert await store.letters.find(queue, "") is None

    async def test_keeps_a_large_letter(self, store: Store, queue: LetterQueue) -> None:
        """A letter of many kilobytes comes back whole."""
        large = "".join(f"{number * number} " for number in range(40_000))
        await fill(store, queue, letter("a", text=large))
        assert (await stored(store, queue, "a")).text == large

    async def test_keeps_the_first_letter_of_an_id(self, store: Store, queue: LetterQueue) -> None:
        """A second write of one job's end changes nothing."""
        await fill(store, queue, letter("a", key="k", text="first"))
        again = letter("a", REQUEUED, task="other", key="l", text="second")
        assert (await store.letters.put(queue, again)).new is False
        assert (await stored(store, queue, "a")).text == "first"
        assert await sizes(store, queue) == (1, 0, 0, 0)
        assert await store.letters.find(queue, "l") is None

    async def test_writes_a_letter_once_in_a_race(self, store: Store, queue: LetterQueue) -> None:
        """Of many writes of one id, one is kept."""
        replies: list[Kept] = []

        async def put(text: str) -> None:
            replies.append(await store.letters.put(queue, letter("a", text=text)))

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(put, str(number))
        assert sorted(replies) == [Kept(False, 1, True)] * 49 + [Kept(True, 1, True)]

    async def test_tells_how_many_are_dead(self, store: Store, queue: LetterQueue) -> None:
        """Whoever puts a letter learns how many dead ones there are, and whether its kind is new."""
        put = store.letters.put
        assert await put(queue, letter("a", fingerprint="f")) == Kept(True, 1, True)
        assert await put(queue, letter("b", fingerprint="g")) == Kept(True, 2, True)
        assert await put(queue, letter("c", fingerprint="f")) == Kept(True, 3, False)
        assert await put(queue, letter("d", RESOLVED, fingerprint="h")) == Kept(True, 3, False)
        assert await put(queue, letter("e", fingerprint="h")) == Kept(True, 4, True)
        assert await put(queue, letter("b", fingerprint="f")) == Kept(False, 4, True)
        await drop(store, queue, "c")
        assert await put(queue, letter("a")) == Kept(False, 3, True)

    async def test_tells_one_writer_that_a_queue_has_grown(self, store: Store, queue: LetterQueue) -> None:
        """Of the writes that make letters dead, new and again, the one past the bound is told."""
        await fill(store, queue, letter("b", REQUEUED), letter("c", REQUEUED), letter("d", RESOLVED))
        assert await grew(store, queue, letter("a"), 1) is False
        assert await died(store, queue, "b", 1) is True
        assert await died(store, queue, "c", 1) is False
        assert await grew(store, queue, letter("e"), 1) is False
        assert await grew(store, queue, letter("f", RESOLVED), 1) is False

    async def test_tells_again_that_a_queue_has_grown(self, store: Store, queue: LetterQueue) -> None:
        """Once it had come down to the bound, in whatever way and however shortly."""
        assert [await grew(store, queue, letter(id), 2) for id in "abcd"] == [False, False, True, False]
        await drop(store, queue, "a")
        assert await grew(store, queue, letter("e"), 2) is False
        await drop(store, queue, "b")
        was = await stored(store, queue, "c")
        await store.letters.replace(queue, was._replace(state=RESOLVED))
        assert await died(store, queue, "c", 2) is True
        assert await died(store, queue, "c", 2) is False

    async def test_tells_the_next_writer_who_asks_that_a_queue_has_grown(
        self, store: Store, queue: LetterQueue
    ) -> None:
        """Letters of which nobody asked have carried it past the bound, or down and up again."""
        await fill(store, queue, *"abc")
        assert await grew(store, queue, letter("d"), 2) is True
        await drop(store, queue, "a", "b")
        await fill(store, queue, *"efg")
        assert await grew(store, queue, letter("h"), 2) is True
        assert await grew(store, queue, letter("i"), 2) is False

    async def test_tells_of_every_bound_by_itself(self, store: Store, queue: LetterQueue) -> None:
        """A queue that is past one bound has still to pass a higher one."""
        assert await grew(store, queue, letter("a"), 0) is True
        assert await grew(store, queue, letter("b"), 2) is False
        assert await grew(store, queue, letter("c"), 0) is False
        assert await grew(store, queue, letter("d"), 2) is True
        assert await grew(store, queue, letter("e"), 2) is False

    async def test_tells_the_same_writer_again_that_a_queue_has_grown(
        self, store: Store, queue: LetterQueue
    ) -> None:
        """A write whose reply was lost is done again, and is what passed the bound all the same."""
        assert await grew(store, queue, letter("a"), 0) is True
        assert await grew(store, queue, letter("b"), 0) is False
        assert await grew(store, queue, letter("a"), 0) is True
        assert await grew(store, queue, letter("b"), 0) is False
        await drop(store, queue, "b")
        was = await stored(store, queue, "a")
        await store.letters.replace(queue, was._replace(state=REQUEUED))
        assert await died(store, queue, "a", 0) is True
        change = (await stored(store, queue, "a"))._replace(revision=2)
        kept = await store.letters.replace(queue, change, arrive=True, alert_over=0)
        assert kept == Kept(False, 1, True, True)

    async def test_has_no_letter_of_an_unknown_id(self, store: Store, queue: LetterQueue) -> None:
        """An id that was never written, or a queue that never was, has nothing."""
        letters = store.letters
        assert await letters.get(queue, "a") is None
        assert await letters.find(queue, "k") is None
        assert await letters.remove(queue, [("a", None)]) == [False]
        assert await letters.replace(queue, letter("a")) is None
        assert await letters.queues(queue.namespace) == []

    async def test_keeps_queues_apart(self, store: Store, queue: LetterQueue) -> None:
        """One id in two queues is two letters."""
        other = queue._replace(name="other")
        await fill(store, queue, letter("a", key="k", text="here"))
        await fill(store, other, letter("a", key="k", text="there"))
        await drop(store, other, "a")
        assert (await stored(store, queue, "a")).text == "here"
        assert await store.letters.find(queue, "k") is not None
        assert await store.letters.find(other, "k") is None

    # Arrival

    async def test_arrivals_rise(self, store: Store, queue: LetterQueue) -> None:
        """Letters written at one moment have arrivals of their own, in order, on the store's clock."""
        before = (await store.letters.totals(queue)).now
        await fill(store, queue, *(str(number) for number in range(30)))
        arrivals = [(await stored(store, queue, str(number))).arrival for number in range(30)]
        assert arrivals == sorted(set(arrivals))
        assert before <= arrivals[0]
        assert arrivals[-1] - 30 <= (await store.letters.totals(queue)).now

    async def test_takes_an_arrival_from_elsewhere(self, store: Store, queue: LetterQueue) -> None:
        """A letter that brings its arrival along takes that, or the next one that is free."""
        await fill(store, queue, "new")
        for id, state in (("a", DEAD), ("b", REQUEUED), ("c", RESOLVED), ("d", DEAD)):
            await store.letters.put(queue, letter(id, state), 1000)
        await store.letters.put(queue, letter("e"), 1002)
        await store.letters.put(queue, letter("f"), 998)
        await store.letters.put(queue, letter("g"), 998)
        await store.letters.put(queue, letter("h"), 999)
        await store.letters.put(queue, letter("i"), 0)
        arrivals = {id: (await stored(store, queue, id)).arrival for id in "abcdefghi"}
        assert arrivals == {
            "a": 1000,
            "b": 1001,
            "c": 1002,
            "d": 1003,
            "e": 1004,
            "f": 998,
            "g": 999,
            "h": 1005,
            "i": 0,
        }

    async def test_counts_on_from_the_future(self, store: Store, queue: LetterQueue) -> None:
        """A letter that comes after one from the future is later than that."""
        ahead = (await store.letters.totals(queue)).now + 10**12
        await store.letters.put(queue, letter("early"), ahead)
        await fill(store, queue, "late")
        assert (await stored(store, queue, "late")).arrival == ahead + 1
        await drop(store, queue, "early", "late")
        await fill(store, queue, "latest")
        assert (await stored(store, queue, "latest")).arrival == ahead + 2

    @pytest.mark.parametrize("arrival", [-1, 2**53])
    async def test_refuses_an_arrival_out_of_all_time(
        self, store: Store, queue: LetterQueue, arrival: int
    ) -> None:
        """An arrival that a store cannot count on from is an error that shows it."""
        with pytest.raises(InvalidValue, match=f"arrival.*{arrival}"):
            await store.letters.put(queue, letter("a"), arrival)
        with pytest.raises(InvalidType, match="arrival"):
            await store.letters.put(queue, letter("a"), 1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert await store.letters.get(queue, "a") is None

    # Changing

    async def test_replaces_a_letter(self, store: Store, queue: LetterQueue) -> None:
        """An entry is written anew in all of its parts, and stays where it is."""
        await fill(store, queue, letter("a", key="k"), "b")
        before = await stored(store, queue, "a")
        after = Entry("a", REQUEUED, ODD_TEXT, "E", "g", "l", "new", before.revision)
        assert await store.letters.replace(queue, after) is not None
        assert await stored(store, queue, "a") == after._replace(revision=2, arrival=before.arrival)
        assert await store.letters.find(queue, "k") is None
        assert await store.letters.find(queue, "l") == await stored(store, queue, "a")
        assert await sizes(store, queue) == (1, 1, 0, 0)

    async def test_makes_a_replaced_letter_the_newest(self, store: Store, queue: LetterQueue) -> None:
        """A letter that becomes dead again arrives again."""
        await fill(store, queue, "a", "b")
        entry = await stored(store, queue, "a")
        assert await store.letters.replace(queue, entry, arrive=True) is not None
        arrival = (await stored(store, queue, "a")).arrival
        assert arrival > (await stored(store, queue, "b")).arrival
        await fill(store, queue, "c")
        assert (await stored(store, queue, "c")).arrival > arrival

    async def test_does_not_replace_what_has_changed(self, store: Store, queue: LetterQueue) -> None:
        """A change that was made to an older revision, or to a letter that has gone, is refused."""
        await fill(store, queue, "a")
        first = await stored(store, queue, "a")
        assert await store.letters.replace(queue, first._replace(text="one")) is not None
        assert await store.letters.replace(queue, first._replace(text="two")) is None
        assert await store.letters.replace(queue, first._replace(text="one", state=RESOLVED)) is None
        assert await store.letters.replace(queue, first._replace(revision=3)) is None
        assert (await stored(store, queue, "a")).text == "one"
        await drop(store, queue, "a")
        assert await store.letters.replace(queue, first._replace(revision=2)) is None
        assert await store.letters.get(queue, "a") is None

    @pytest.mark.parametrize("arrive", [False, True])
    async def test_accepts_the_same_change_again(
        self, store: Store, queue: LetterQueue, arrive: bool
    ) -> None:
        """A change that is sent again after a lost reply is made once, and answered the same."""
        await fill(store, queue, "a")
        change = (await stored(store, queue, "a"))._replace(state=REQUEUED, text="x", key="k")
        assert await store.letters.replace(queue, change, arrive=arrive) is not None
        there = await stored(store, queue, "a")
        assert await store.letters.replace(queue, change, arrive=arrive) is not None
        assert await stored(store, queue, "a") == there

    async def test_makes_one_change_of_a_revision(self, store: Store, queue: LetterQueue) -> None:
        """Of many changes of one revision at once, one is made."""
        await fill(store, queue, "a")
        entry = await stored(store, queue, "a")
        made: list[str] = []

        async def replace(task: str) -> None:
            if await store.letters.replace(queue, entry._replace(task=task)):
                made.append(task)

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(replace, str(number))
        assert made == [(await stored(store, queue, "a")).task]

    # Finding by key

    async def test_finds_the_last_letter_written_with_a_key(self, store: Store, queue: LetterQueue) -> None:
        """Of several letters with one key the last written one is found, be it new or changed."""
        await fill(store, queue, letter("a", key="k"), letter("b", key="k"), letter("c", key="other"))
        assert await store.letters.find(queue, "k") == await stored(store, queue, "b")
        await store.letters.replace(queue, (await stored(store, queue, "a"))._replace(text="new"))
        assert await store.letters.find(queue, "k") == await stored(store, queue, "a")

    async def test_forgets_a_key_with_its_letter(self, store: Store, queue: LetterQueue) -> None:
        """A key leads nowhere once the letter that it led to is gone; other letters' keys stay."""
        await fill(store, queue, letter("a", key="k"), letter("b", key="k"))
        await drop(store, queue, "a")
        assert await store.letters.find(queue, "k") == await stored(store, queue, "b")
        await drop(store, queue, "b")
        assert await store.letters.find(queue, "k") is None

    # Removing

    async def test_removes_letters(self, store: Store, queue: LetterQueue) -> None:
        """Many letters go at once, and each one's answer says whether it was there."""
        await fill(store, queue, *"abc")
        ids = [("a", None), ("x", None), ("c", None), ("a", None)]
        assert await store.letters.remove(queue, ids) == [True, False, True, False]
        assert await store.letters.get(queue, "a") is None
        assert await sizes(store, queue) == (1, 0, 0, 0)
        assert await store.letters.remove(queue, []) == []

    async def test_removes_large_letters(self, store: Store, queue: LetterQueue) -> None:
        """Letters of more bytes than are read at once all go, and what is not there is told in its place."""
        await fill(store, queue, *(letter(id, text=secrets.token_hex(150_000)) for id in "abcdefghijklmnop"))
        ids = [(id, None) for id in "abcdefghxijklmnop"]
        assert await store.letters.remove(queue, ids, evicted=True) == [id != "x" for id, _ in ids]
        assert await sizes(store, queue) == (0, 0, 0, 16)

    async def test_removes_the_revision_that_is_meant(self, store: Store, queue: LetterQueue) -> None:
        """A letter that has changed meanwhile stays, unless whichever it is was meant."""
        await fill(store, queue, "a")
        await store.letters.replace(queue, await stored(store, queue, "a"))
        assert await store.letters.remove(queue, [("a", 1)]) == [False]
        assert await store.letters.remove(queue, [("a", 2)]) == [True]

    async def test_takes_a_removed_letter_for_a_new_one(self, store: Store, queue: LetterQueue) -> None:
        """A letter whose id was removed begins anew."""
        await fill(store, queue, "a")
        first = await stored(store, queue, "a")
        await drop(store, queue, "a")
        await fill(store, queue, letter("a", text="again"))
        again = await stored(store, queue, "a")
        assert (again.revision, again.text) == (1, "again")
        assert again.arrival > first.arrival

    async def test_counts_what_was_evicted(self, store: Store, queue: LetterQueue) -> None:
        """Letters that made room for others are counted, those that were removed for themselves are not."""
        await fill(store, queue, *"abcd")
        await drop(store, queue, "a")
        ids = [("b", None), ("c", 1), ("d", 7), ("x", None)]
        assert await store.letters.remove(queue, ids, evicted=True) == [True, True, False, False]
        assert await sizes(store, queue) == (1, 0, 0, 2)
        await store.letters.remove(queue, [("d", None)], evicted=True)
        assert await sizes(store, queue) == (0, 0, 0, 3)

    async def test_refuses_to_remove_too_many(self, store: Store, queue: LetterQueue) -> None:
        """200 letters can be removed at once; more are an error, and none of them goes."""
        await fill(store, queue, "0")
        ids = [(str(number), None) for number in range(201)]
        with pytest.raises(InvalidValue, match=r"200 .*201"):
            await store.letters.remove(queue, ids)
        assert await store.letters.remove(queue, ids[:200]) == [True] + [False] * 199

    # A queue as a whole

    async def test_tells_a_queues_totals(self, store: Store, queue: LetterQueue) -> None:
        """Every state is counted, and the time is the store's, in microseconds."""
        assert await sizes(store, queue) == (0, 0, 0, 0)
        await fill(store, queue, "a", "b", "c", letter("d", REQUEUED), letter("e", REQUEUED))
        await fill(store, queue, letter("f", RESOLVED))
        assert await sizes(store, queue) == (3, 2, 1, 0)
        began = (await store.letters.totals(queue)).now

        async def later() -> bool:
            return (await store.letters.totals(queue)).now >= began + SHORT * 1_000_000

        await until(later)

    async def test_lists_the_queues_of_a_namespace(self, store: Store, queue: LetterQueue) -> None:
        """Every queue that has held a letter is listed, sorted, and none of another namespace."""
        await fill(store, queue._replace(name="b"), "x")
        await fill(store, queue._replace(name="a"), "x")
        await fill(store, queue._replace(namespace=queue.namespace + "-other", name="c"), "x")
        await drop(store, queue._replace(name="a"), "x")
        await store.letters.totals(queue._replace(name="asked"))
        assert await store.letters.queues(queue.namespace) == ["a", "b"]
        assert await store.letters.queues(queue.namespace + "-none") == []

    # Who serves what

    async def test_knows_what_is_served(self, store: Store, queue: LetterQueue) -> None:
        """Names are served from when they are announced, in their own namespace, whatever they are."""
        names = [ODD_TEXT, "", *map(str, range(1200))]
        await store.announce(queue.namespace, names, LONG)
        for name in (ODD_TEXT, "", "0", "1199"):
            assert await store.served(queue.namespace, name) is True
        assert await store.served(queue.namespace, "other") is False
        assert await store.served(f"{queue.namespace}-other", "0") is False
        await store.announce(queue.namespace, [], LONG)

    async def test_forgets_what_is_served_no_more(self, store: Store, queue: LetterQueue) -> None:
        """A name that nobody announces again is served no more, whatever is announced beside it."""
        await store.announce(queue.namespace, ["short", "long"], SHORT)
        await store.announce(queue.namespace, ["long"], LONG)

        async def over() -> bool:
            return not await store.served(queue.namespace, "short")

        await until(over)
        await store.announce(queue.namespace, ["other"], SHORT)
        assert await store.served(queue.namespace, "long") is True
        assert await store.served(queue.namespace, "short") is False

    async def test_never_shortens_an_announcement(self, store: Store, queue: LetterQueue) -> None:
        """A name that one announces for long outlasts another's short announcement."""
        await store.announce(queue.namespace, ["a"], LONG)
        await store.announce(queue.namespace, ["a", "b"], SHORT)

        async def over() -> bool:
            return not await store.served(queue.namespace, "b")

        await until(over)
        assert await store.served(queue.namespace, "a") is True
