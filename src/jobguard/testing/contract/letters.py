"""How dead letters are kept, paged through and removed."""

from __future__ import annotations

import anyio
import pytest

from jobguard.errors import InvalidType, InvalidValue
from jobguard.stores.base import LetterPage, LetterQueue, Store
from jobguard.testing.contract.bench import ODD_TEXT


async def fill(store: Store, queue: LetterQueue, *ids: str) -> None:
    for id in ids:
        assert await store.put_letter(queue, id, f"text {id}") is True


class LetterContract:
    """Part of `StoreContract`."""

    async def test_keeps_a_letter(self, store: Store, queue: LetterQueue) -> None:
        """A dead letter is kept as it was written."""
        assert await store.put_letter(queue, "a", ODD_TEXT) is True
        assert await store.get_letter(queue, "a") == ODD_TEXT
        assert await store.count_letters(queue) == 1

    async def test_keeps_the_first_letter_of_an_id(self, store: Store, queue: LetterQueue) -> None:
        """A second write of one job's end changes nothing."""
        await store.put_letter(queue, "a", "first")
        assert await store.put_letter(queue, "a", "second") is False
        assert await store.get_letter(queue, "a") == "first"
        assert await store.count_letters(queue) == 1

    async def test_has_no_letter_of_an_unknown_id(self, store: Store, queue: LetterQueue) -> None:
        """An id that was never written, or a queue that never was, has nothing."""
        assert await store.get_letter(queue, "a") is None
        assert await store.remove_letter(queue, "a") is False
        assert await store.count_letters(queue) == 0
        assert await store.page_letters(queue, 10, None) == LetterPage((), None)

    async def test_removes_a_letter(self, store: Store, queue: LetterQueue) -> None:
        """A removed letter is gone from the count and from every page."""
        await fill(store, queue, "a", "b")
        assert await store.remove_letter(queue, "a") is True
        assert await store.remove_letter(queue, "a") is False
        assert await store.get_letter(queue, "a") is None
        assert await store.count_letters(queue) == 1
        assert await store.page_letters(queue, 10, None) == LetterPage(("text b",), None)

    async def test_pages_newest_first(self, store: Store, queue: LetterQueue) -> None:
        """Pages follow each other from the newest letter to the oldest, and then end."""
        await fill(store, queue, *"abcde")
        first = await store.page_letters(queue, 2, None)
        assert first.entries == ("text e", "text d")
        second = await store.page_letters(queue, 2, first.cursor)
        assert second.entries == ("text c", "text b")
        assert await store.page_letters(queue, 2, second.cursor) == LetterPage(("text a",), None)

    async def test_pages_say_whose_letters_they_have(self, store: Store, queue: LetterQueue) -> None:
        """A page names the id of each of its letters."""
        await fill(store, queue, *"abc")
        assert (await store.page_letters(queue, 2, None)).ids == ("c", "b")
        assert (await store.page_letters(queue, 9, None)).ids == ("c", "b", "a")

    async def test_marks_the_newest_letter(self, store: Store, queue: LetterQueue) -> None:
        """To clear nothing says where a later call is to stop."""
        await fill(store, queue, *"ab")
        removed, until = await store.clear_letters(queue, 0, None)
        await fill(store, queue, "c")
        assert removed == 0
        assert await store.clear_letters(queue, 9, until) == (2, until)
        assert await store.page_letters(queue, 9, None) == LetterPage(("text c",), None)

    async def test_ends_with_a_full_page(self, store: Store, queue: LetterQueue) -> None:
        """A page that takes the last letters says that no more follow."""
        await fill(store, queue, *"ab")
        assert await store.page_letters(queue, 2, None) == LetterPage(("text b", "text a"), None)

    async def test_pages_stay_in_step_while_letters_come_and_go(
        self, store: Store, queue: LetterQueue
    ) -> None:
        """A cursor holds its place: nothing is shown twice or skipped, its own entry's removal included."""
        await fill(store, queue, *"abcde")
        first = await store.page_letters(queue, 2, None)
        await fill(store, queue, "f")
        for id in "dc":
            await store.remove_letter(queue, id)
        assert await store.page_letters(queue, 2, first.cursor) == LetterPage(("text b", "text a"), None)

    async def test_pages_through_many_letters_once(self, store: Store, queue: LetterQueue) -> None:
        """Letters written at one moment are each shown once."""
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(store.put_letter, queue, f"{number}", f"{number}")
        assert await store.count_letters(queue) == 100
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = await store.page_letters(queue, 7, cursor)
            seen += page.entries
            cursor = page.cursor
            if cursor is None:
                break
        assert sorted(seen) == sorted(str(number) for number in range(100))

    async def test_writes_a_letter_once_in_a_race(self, store: Store, queue: LetterQueue) -> None:
        """Of many writes of one id, one is kept."""
        written: list[bool] = []

        async def put(text: str) -> None:
            written.append(await store.put_letter(queue, "a", text))

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(put, str(number))
        assert written.count(True) == 1
        assert await store.count_letters(queue) == 1

    async def test_clears_a_queue_in_batches(self, store: Store, queue: LetterQueue) -> None:
        """Letters go oldest first, so many at once, and what came after the first batch stays."""
        await fill(store, queue, *"abcde")
        await fill(store, queue._replace(name="other"), "x")
        removed, until = await store.clear_letters(queue, 2, None)
        assert removed == 2
        assert (await store.page_letters(queue, 10, None)).entries == ("text e", "text d", "text c")
        await fill(store, queue, "f")
        assert await store.clear_letters(queue, 2, until) == (2, until)
        assert await store.clear_letters(queue, 2, until) == (1, until)
        assert await store.clear_letters(queue, 2, until) == (0, until)
        assert await store.page_letters(queue, 10, None) == LetterPage(("text f",), None)
        assert await store.count_letters(queue) == 1
        assert await store.count_letters(queue._replace(name="other")) == 1

    async def test_clears_an_empty_queue(self, store: Store, queue: LetterQueue) -> None:
        """Where there is no letter, nothing is removed and there is nothing to go on from."""
        assert await store.clear_letters(queue, 10, None) == (0, None)
        await fill(store, queue, "a")
        await store.remove_letter(queue, "a")
        assert await store.clear_letters(queue, 10, None) == (0, None)

    async def test_lists_the_queues_of_a_namespace(self, store: Store, queue: LetterQueue) -> None:
        """Every queue that has held a letter is listed, sorted, and none of another namespace."""
        await fill(store, queue._replace(name="b"), "x")
        await fill(store, queue._replace(name="a"), "x")
        await fill(store, queue._replace(namespace=queue.namespace + "-other", name="c"), "x")
        await store.remove_letter(queue._replace(name="a"), "x")
        assert await store.letter_queues(queue.namespace) == ["a", "b"]
        assert await store.letter_queues(queue.namespace + "-none") == []

    async def test_keeps_queues_apart(self, store: Store, queue: LetterQueue) -> None:
        """One id in two queues is two letters."""
        other = queue._replace(name="other")
        await store.put_letter(queue, "a", "here")
        await store.put_letter(other, "a", "there")
        assert await store.get_letter(queue, "a") == "here"
        assert await store.get_letter(other, "a") == "there"

    @pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 40, "٣"])
    async def test_refuses_a_cursor_that_no_page_gave(
        self, store: Store, queue: LetterQueue, cursor: str
    ) -> None:
        """A cursor that no page came with is an error that shows it."""
        with pytest.raises(InvalidValue, match="cursor"):
            await store.page_letters(queue, 10, cursor)

    async def test_refuses_a_page_of_nothing(self, store: Store, queue: LetterQueue) -> None:
        """A page holds one letter at least, and a whole number of them."""
        with pytest.raises(InvalidValue, match="limit"):
            await store.page_letters(queue, 0, None)
        with pytest.raises(InvalidType, match="limit"):
            await store.page_letters(queue, 1.5, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
