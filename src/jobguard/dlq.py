"""Dead letter queues: what became of jobs that ended badly."""

from __future__ import annotations

import builtins
from dataclasses import dataclass

from jobguard.errors import InvalidType, InvalidValue, StoreError
from jobguard.letters import from_text, unreadable
from jobguard.policies import count
from jobguard.stores.base import DeadLetter, LetterQueue, Store

CLEARED_AT_ONCE = 500
"""Letters that one operation of `clear` removes at most."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries, newest first, and where the next ones start.

    Attributes:
        entries: dead letters of this page.
        cursor: to be handed to the next `list`; None = this was the last page.
    """

    entries: tuple[DeadLetter, ...]
    cursor: str | None


class DeadLetterQueue:
    """One dead letter queue of a store.

    Args:
        store: where the letters are.
        name: the queue's name, as in `@dead_letter(queue=...)`.
        namespace: the `JobGuard`'s namespace.

    Every method raises `StoreUnavailable` if the store does not answer.
    """

    def __init__(self, store: Store, name: str = "default", *, namespace: str = "jobguard") -> None:
        self._store = store
        self._queue = LetterQueue(check_name("namespace", namespace), check_name("name", name))

    @property
    def name(self) -> str:
        return self._queue.name

    async def count(self) -> int:
        """How many letters the queue holds."""
        return await self._store.count_letters(self._queue)

    async def get(self, id: str) -> DeadLetter | None:
        """The letter with this id, or None."""
        text = await self._store.get_letter(self._queue, id)
        return None if text is None else _read(id, text)

    async def list(self, limit: int = 50, cursor: str | None = None) -> Page:
        """Up to `limit` letters, newest first; pages stay in step while letters come and go.

        An entry that is no letter, since somebody else wrote it, has the reason `unreadable`.

        Raises:
            InvalidValue: `limit` is not from 1 to 500, or `cursor` is not one that a page gave.
        """
        if count("limit", limit) > 500:
            raise InvalidValue(f"limit must be 500 or less, not {limit!r}; ask for more pages instead")
        page = await self._store.page_letters(self._queue, limit, cursor)
        return Page(tuple(map(_read, page.ids, page.entries)), page.cursor)

    async def remove(self, id: str) -> bool:
        """Remove a letter for good; False = there was none."""
        return await self._store.remove_letter(self._queue, id)

    async def newest(self) -> str | None:
        """A mark of the newest letter there is, for `clear(until=...)`; None = there is none."""
        return (await self._store.clear_letters(self._queue, 0, None))[1]

    async def clear(self, until: str | None = None) -> int:
        """Remove every letter that the queue holds when this is called; how many those were.

        In batches, so that no single one holds the store up. Letters that come meanwhile stay.

        Args:
            until: what `newest` gave: letters that have come since stay too.
        """
        removed = 0
        while True:
            some, until = await self._store.clear_letters(self._queue, CLEARED_AT_ONCE, until)
            removed += some
            if some < CLEARED_AT_ONCE:
                return removed

    def named(self, name: str) -> DeadLetterQueue:
        """Another queue of the same store and namespace."""
        return DeadLetterQueue(self._store, name, namespace=self._queue.namespace)

    async def queues(self) -> builtins.list[str]:
        """The names of every queue of the namespace that has held a letter, sorted."""
        return await self._store.letter_queues(self._queue.namespace)

    def __repr__(self) -> str:
        return f"DeadLetterQueue({self._store!r}, {self._queue.name!r}, namespace={self._queue.namespace!r})"


def _read(id: str, text: str) -> DeadLetter:
    try:
        return from_text(text)
    except StoreError as error:
        return unreadable(id, error)


def check_name(setting: str, value: object) -> str:
    """A queue's or namespace's name: printable, without the braces that place keys in a Cluster.

    Raises:
        InvalidType, InvalidValue: it is not such a name.
    """
    if not isinstance(value, str):
        raise InvalidType(f"{setting} must be a string, not {value!r}")
    if not 0 < len(value) <= 200 or not value.isprintable() or any(c in value for c in "{} "):
        raise InvalidValue(
            f"{setting} must be 1 to 200 printable characters without spaces or braces, not {value!r}"
        )
    return value
