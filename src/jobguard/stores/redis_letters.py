"""The dead letters of a store on Redis or Valkey; `lua/_letter.lua` says how they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from jobguard.stores.batching import Batcher
from jobguard.stores.commands import load_script
from jobguard.stores.entries import pack, unpack
from jobguard.stores.letters import (
    Dimension,
    Entry,
    Kept,
    LetterPage,
    LetterQuery,
    LetterQueue,
    LetterState,
    Tally,
    Totals,
)
from jobguard.stores.paging import (
    check_countable,
    check_removal,
    checked_arrival,
    page_size,
    page_start,
    states_of,
)
from jobguard.stores.records import call_token, raw, text
from jobguard.stores.replies import flag, reading, whole

_PUT = load_script("put_letter")
_REPLACE = load_script("replace_letter")
_FIND = load_script("find_letter")
_PAGE = load_script("page_letters")
_COUNT = load_script("count_letters")
_TALLY = load_script("tally_letters")
_REMOVE = load_script("remove_letters")
_TOTAL = load_script("total_letters")


class RedisLetters:
    """Keeps dead letters on a server.

    Args:
        batcher: takes commands there.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def __repr__(self) -> str:
        return "RedisLetters()"

    async def put(
        self,
        queue: LetterQueue,
        entry: Entry,
        arrival: int | None = None,
        *,
        alert_over: int | None = None,
    ) -> Kept:
        at = _number(None if arrival is None else checked_arrival(arrival))
        mark, tail = pack(entry)
        # The index first: a queue that nobody can find would hide its letters.
        index = (None, 0, (b"SADD", _index(queue.namespace), raw(queue.name)))
        most = _number(alert_over)
        put = (_PUT, 1, (_stem(queue), raw(entry.id), mark, tail, at, call_token(), most))
        if self._batcher.clustered:
            await self._batcher.run_all([index])
            [reply] = await self._batcher.run_all([put])
        else:
            _, reply = await self._batcher.run_all([index, put])
        with reading:
            return _kept(reply)

    async def replace(
        self, queue: LetterQueue, entry: Entry, *, arrive: bool = False, alert_over: int | None = None
    ) -> Kept | None:
        mark, tail = pack(entry)
        replaced = await self._batcher.run(
            _REPLACE,
            1,
            _stem(queue),
            raw(entry.id),
            mark,
            tail,
            b"%d" % entry.revision,
            b"1" if arrive else b"",
            _number(alert_over),
        )
        with reading:
            return None if replaced is None else _kept(replaced)

    async def get(self, queue: LetterQueue, id: str) -> Entry | None:
        packed = await self._batcher.run(None, 0, b"HGET", _key(queue, "entries"), raw(id))
        with reading:
            return None if packed is None else unpack(id, packed)

    async def find(self, queue: LetterQueue, key: str) -> Entry | None:
        found = await self._batcher.run(_FIND, 2, _key(queue, "entries"), _key(queue, "keys"), raw(key))
        with reading:
            return None if found is None else unpack(text(found[0]), found[1])

    async def page(
        self,
        queue: LetterQueue,
        query: LetterQuery,
        limit: int,
        cursor: str | None = None,
        *,
        oldest_first: bool = False,
        texts: bool = True,
    ) -> LetterPage:
        size, start = page_size(limit), page_start(cursor)
        lowest, highest = _bounds(query)
        if start is not None:
            # A page goes on behind the last entry of the one before, which was within the query's bounds.
            lowest, highest = (b"(%d" % start, highest) if oldest_first else (lowest, b"(%d" % start)
        states = states_of(query)
        named = [each for pair in query.dimensions.items() for each in pair]
        reply = await self._batcher.run(
            _PAGE,
            1,
            _stem(queue),
            b"%d" % size,
            lowest,
            highest,
            b"1" if oldest_first else b"",
            b"1" if texts else b"",
            b"%d" % len(states),
            *map(raw, (*states, *named)),
        )
        with reading:
            last, *found = reply
            each = zip(found[::3], found[1::3], found[2::3], strict=True)
            entries = tuple(
                unpack(text(id), packed, int(float(at)), with_text=texts) for id, at, packed in each
            )
            return LetterPage(entries, text(last) or None)

    async def count(self, queue: LetterQueue, query: LetterQuery) -> int:
        check_countable(query)
        suffix = "".join(f":{dimension}:{value}" for dimension, value in query.dimensions.items())
        indexes = [_key(queue, f"{state}{suffix}") for state in states_of(query)]
        number = await self._batcher.run(_COUNT, len(indexes), *indexes, *_bounds(query))
        with reading:
            return whole(number)

    async def tally(
        self,
        queue: LetterQueue,
        dimension: Dimension,
        *,
        state: LetterState = LetterState.DEAD,
        since: int | None = None,
        limit: int = 100,
    ) -> list[Tally] | None:
        start = _number(since)
        size = b"%d" % page_size(limit)
        found = await self._batcher.run(_TALLY, 1, _stem(queue), raw(state), raw(dimension), start, size)
        if found == b"many":
            return None
        with reading:
            tallies = [_tally(*each) for each in found]
            left = {place: text(each[5]) for place, each in enumerate(found) if len(each) == 6}
        for place, id in left.items():  # one by one: together they are large
            tallies[place] = replace(tallies[place], newest=await self.get(queue, id))
        return tallies

    async def remove(
        self, queue: LetterQueue, entries: Sequence[tuple[str, int | None]], *, evicted: bool = False
    ) -> list[bool]:
        check_removal(len(entries))
        meant = [(raw(id), _number(revision)) for id, revision in entries]
        removed: list[bool] = []
        while len(removed) < len(meant):  # large ones are not done at once
            rest = meant[len(removed) :]
            reply = await self._batcher.run(
                _REMOVE, 1, _stem(queue), call_token(), b"1" if evicted else b"", *chain.from_iterable(rest)
            )
            with reading:
                answers = [flag(each) for each in reply]
                if not 0 < len(answers) <= len(rest):
                    raise ValueError(f"{len(answers)} answers to {len(rest)} questions")
                removed += answers
        return removed

    async def totals(self, queue: LetterQueue) -> Totals:
        keys = [_key(queue, state) for state in LetterState]
        numbers = await self._batcher.run(_TOTAL, 4, *keys, _key(queue, "info"))
        with reading:
            return Totals(*map(whole, numbers))

    async def queues(self, namespace: str) -> list[str]:
        names = await self._batcher.run(None, 0, b"SMEMBERS", _index(namespace))
        with reading:
            return sorted(map(text, names))


def _index(namespace: str) -> bytes:
    return raw(f"{namespace}:dlq")


def _stem(queue: LetterQueue) -> bytes:
    """What all keys of a queue begin with; the braces keep them in one slot of a Cluster."""
    return raw(f"{{{queue.namespace}:dlq:{queue.name}}}")


def _key(queue: LetterQueue, name: str) -> bytes:
    return b"%b:%b" % (_stem(queue), raw(name))


def _number(value: int | None) -> bytes:
    """A number as scripts take it; empty = none."""
    return b"" if value is None else b"%d" % value


def _kept(reply: Sequence[object]) -> Kept:
    new, dead, kind, grew = map(whole, reply)
    return Kept(new == 1, dead, kind == 1, grew == 1)


def _bounds(query: LetterQuery) -> tuple[bytes, bytes]:
    """The arrivals that a query means, as sorted sets take them."""
    return (
        b"-inf" if query.since is None else b"%d" % query.since,
        b"+inf" if query.until is None else b"%d" % query.until,
    )


def _tally(
    value: bytes,
    count: int,
    first: bytes,
    last: bytes,
    tasks: Sequence[bytes] = (),
    id: bytes = b"",
    packed: bytes | None = None,
) -> Tally:
    newest = None if packed is None else unpack(text(id), packed)
    return Tally(text(value), whole(count), int(first), int(last), tuple(map(text, tasks)), newest)
