"""The dead letters of a memory store."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from jobguard.stores.letters import (
    LARGEST_PAGE,
    MOST_TASKS,
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
from jobguard.stores.paging import check_countable, check_removal, checked_arrival, page_size, page_start
from jobguard.stores.records import raw


class _Letters:
    """One dead letter queue: entries by id, and ids by arrival."""

    __slots__ = (
        "arrivals", "by_arrival", "entries", "evicted", "keys", "kinds", "last", "sizes", "teller", "told",
    )  # fmt: skip

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.arrivals: list[int] = []  # in order
        self.by_arrival: dict[int, str] = {}
        self.keys: dict[str, str] = {}
        self.sizes: Counter[LetterState] = Counter()
        self.kinds: Counter[tuple[LetterState, str]] = Counter()
        self.last = 0
        self.evicted = 0
        self.told = 0  # dead letters when somebody was told of too many, or the fewest since then
        self.teller: tuple[str, int] | None = None  # id and revision of the entry that was told of it

    def add(self, entry: Entry) -> None:
        self.entries[entry.id] = entry
        insort(self.arrivals, entry.arrival)
        self.by_arrival[entry.arrival] = entry.id
        self.sizes[entry.state] += 1
        self.kinds[entry.state, entry.fingerprint] += 1
        if entry.key:
            self.keys[entry.key] = entry.id

    def drop(self, entry: Entry) -> None:
        del self.entries[entry.id], self.by_arrival[entry.arrival]
        del self.arrivals[bisect_left(self.arrivals, entry.arrival)]
        self.sizes[entry.state] -= 1
        self.kinds[entry.state, entry.fingerprint] -= 1
        if not self.kinds[entry.state, entry.fingerprint]:
            del self.kinds[entry.state, entry.fingerprint]
        if self.keys.get(entry.key) == entry.id:
            del self.keys[entry.key]

    def note_fewest(self) -> None:
        """To be called before letters are written: a queue that was down may rise again."""
        self.told = min(self.told, self.sizes[LetterState.DEAD])

    def kept(self, entry: Entry, new: bool, alert_over: int | None) -> Kept:
        """What a write came to, of which this entry is what stands there."""
        dead, alone, grew = self.sizes[LetterState.DEAD], False, False
        if entry.state is LetterState.DEAD:
            alone = self.kinds[entry.state, entry.fingerprint] == 1
            if alert_over is not None and dead > alert_over:
                write = entry.id, entry.revision
                if self.told <= alert_over:
                    self.told, self.teller = dead, write
                grew = self.teller == write
        return Kept(new, dead, alone, grew)

    def next_arrival(self, now: int) -> int:
        self.last = max(now, self.last + 1)
        return self.last

    def free_arrival(self, arrival: int) -> int:
        while arrival in self.by_arrival:
            arrival += 1
        self.last = max(self.last, arrival)
        return arrival

    def between(self, first: int | None, last: int | None, *, oldest_first: bool = True) -> Iterator[Entry]:
        """Entries that arrived from one time to another, both included."""
        low = 0 if first is None else bisect_left(self.arrivals, first)
        high = len(self.arrivals) if last is None else bisect_right(self.arrivals, last)
        places = range(low, high) if oldest_first else range(high - 1, low - 1, -1)
        return (self.entries[self.by_arrival[self.arrivals[place]]] for place in places)


class MemoryLetters:
    """Keeps dead letters in this process.

    Args:
        clock: seconds that only rise; arrivals are the time of day that it began at, and what it counts.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = time.time() - clock()
        self._queues: dict[LetterQueue, _Letters] = {}

    def __repr__(self) -> str:
        return f"MemoryLetters({len(self._queues)} queues)"

    def _now(self) -> int:
        return int((self._began + self._clock()) * 1_000_000)

    def _of(self, queue: LetterQueue) -> _Letters:
        """A queue's letters; one that has held none stays unknown."""
        return self._queues.get(queue) or _Letters()

    async def put(
        self,
        queue: LetterQueue,
        entry: Entry,
        arrival: int | None = None,
        *,
        alert_over: int | None = None,
    ) -> Kept:
        given = None if arrival is None else checked_arrival(arrival)
        letters = self._queues.setdefault(queue, _Letters())
        there = letters.entries.get(entry.id)
        if there is not None:
            return letters.kept(there, False, alert_over)
        letters.note_fewest()
        at = letters.next_arrival(self._now()) if given is None else letters.free_arrival(given)
        new = entry._replace(revision=1, arrival=at)
        letters.add(new)
        return letters.kept(new, True, alert_over)

    async def replace(
        self, queue: LetterQueue, entry: Entry, *, arrive: bool = False, alert_over: int | None = None
    ) -> Kept | None:
        letters = self._of(queue)
        there = letters.entries.get(entry.id)
        if there is None:
            return None
        if there.revision != entry.revision:
            same = there == entry._replace(revision=entry.revision + 1, arrival=there.arrival)
            return letters.kept(there, False, alert_over) if same else None
        letters.note_fewest()
        letters.drop(there)
        at = letters.next_arrival(self._now()) if arrive else there.arrival
        after = entry._replace(revision=there.revision + 1, arrival=at)
        letters.add(after)
        return letters.kept(after, False, alert_over)

    async def get(self, queue: LetterQueue, id: str) -> Entry | None:
        return self._of(queue).entries.get(id)

    async def find(self, queue: LetterQueue, key: str) -> Entry | None:
        letters = self._of(queue)
        id = letters.keys.get(key)
        return None if id is None else letters.entries[id]

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
        since, until = query.since, query.until
        if start is not None and oldest_first:
            since = start + 1
        elif start is not None:
            until = start - 1
        found: list[Entry] = []
        for entry in self._of(queue).between(since, until, oldest_first=oldest_first):
            if not query.meets(entry):
                continue
            if len(found) == size:
                return LetterPage(tuple(found), str(found[-1].arrival))
            found.append(entry if texts else entry._replace(text=""))
        return LetterPage(tuple(found), None)

    async def count(self, queue: LetterQueue, query: LetterQuery) -> int:
        check_countable(query)
        return sum(map(query.meets, self._of(queue).between(query.since, query.until)))

    async def tally(
        self,
        queue: LetterQueue,
        dimension: Dimension,
        *,
        state: LetterState = LetterState.DEAD,
        since: int | None = None,
        limit: int = 100,
    ) -> list[Tally] | None:
        size = page_size(limit)
        groups: dict[str, list[Entry]] = {}
        for entry in self._of(queue).between(None, None):
            if entry.state is state:
                groups.setdefault(entry.value(dimension), []).append(entry)
        if since is not None and len(groups) > LARGEST_PAGE:
            return None
        commonest = sorted(groups, key=lambda value: (len(groups[value]), raw(value)), reverse=True)
        counted = [
            (value, [entry for entry in groups[value] if since is None or entry.arrival >= since])
            for value in (commonest[:size] if since is None else commonest)
        ]
        counted.sort(key=lambda pair: -len(pair[1]))
        return [
            _tally(dimension, value, entries, groups[value]) for value, entries in counted[:size] if entries
        ]

    async def remove(
        self, queue: LetterQueue, entries: Sequence[tuple[str, int | None]], *, evicted: bool = False
    ) -> list[bool]:
        check_removal(len(entries))
        letters = self._of(queue)
        removed: list[bool] = []
        for id, revision in entries:
            there = letters.entries.get(id)
            meant = there is not None and revision in (None, there.revision)
            if there is not None and meant:
                letters.drop(there)
            removed.append(meant)
        letters.evicted += sum(removed) if evicted else 0
        return removed

    async def totals(self, queue: LetterQueue) -> Totals:
        letters = self._of(queue)
        dead, requeued, resolved = (letters.sizes[state] for state in LetterState)
        return Totals(dead, requeued, resolved, letters.evicted, self._now())

    async def queues(self, namespace: str) -> list[str]:
        return sorted(queue.name for queue in self._queues if queue.namespace == namespace)


def _tally(dimension: Dimension, value: str, counted: list[Entry], whenever: list[Entry]) -> Tally:
    """What letters come to, oldest first, with the tasks of all that have their value in common."""
    count, first, last = len(counted), counted[0].arrival, counted[-1].arrival
    if dimension is not Dimension.FINGERPRINT:
        return Tally(value, count, first, last)
    tasks = Counter(entry.task for entry in whenever)
    names = sorted(tasks, key=lambda name: (tasks[name], raw(name)), reverse=True)
    return Tally(value, count, first, last, tuple(names[:MOST_TASKS]), counted[-1])
