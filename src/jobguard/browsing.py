"""Reading a dead letter queue: pages, counts, causes and numbers, from indexes where those can answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio

from jobguard.codec import Codec
from jobguard.errors import InvalidValue
from jobguard.filters import MICROSECONDS, Filter, Moment, checked_moment, microseconds
from jobguard.letters import letter_in
from jobguard.policies import count as whole_number
from jobguard.stores.base import Store
from jobguard.stores.letters import (
    LARGEST_PAGE,
    MOST_TASKS,
    DeadLetter,
    Dimension,
    Entry,
    LetterQuery,
    LetterQueue,
    Tally,
)

HOUR = 3600 * MICROSECONDS
HOURS_TOLD, HOURS_TOLD_UNASKED = 48, 24
"""Hours that are counted one by one, at most: since a time, and where nobody says since when."""
COMMONEST = 100
"""Rows of a table of counts."""

Progress = Callable[[int], None]
"""Told how many letters have been looked at or dealt with, from time to time."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries, newest first, and where the next ones start.

    Attributes:
        entries: dead letters of this page.
        cursor: to be handed to the next `list`; None = this was the last page.
    """

    entries: tuple[DeadLetter, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Letters of one cause: the same error type, raised at the same place.

    Attributes:
        fingerprint: what they have in common.
        count: how many there are.
        first_seen, last_seen: when the oldest and the newest of them came into the queue; Unix seconds on
            the store's clock.
        tasks: the names of their tasks, the commonest first.
        sample: the newest one, or None if it has just gone.
    """

    fingerprint: str
    count: int
    first_seen: float
    last_seen: float
    tasks: tuple[str, ...]
    sample: DeadLetter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A queue in numbers.

    Attributes:
        dead, requeued, resolved: how many letters of each state it holds.
        evicted: how many have made room for others since the queue began.
        count: the dead ones that came since the time that was asked for.
        tasks, errors: those by task and by error type, the commonest first, at most 100 of each.
        hours: those by the hour in which they came, in UTC, oldest first; the last 48 hours at most.
    """

    dead: int
    requeued: int
    resolved: int
    evicted: int
    count: int
    tasks: Mapping[str, int] = field(default_factory=dict[str, int])
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    hours: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Place:
    """Where letters are: a store, one of its queues, and the codec of their arguments."""

    store: Store
    queue: LetterQueue
    codec: Codec

    async def query(self, asked: Filter) -> LetterQuery:
        """What the store is asked; its own clock says what "two hours ago" means."""
        now = (await self.store.letters.totals(self.queue)).now if asked.relative else 0
        return asked.query(now)

    async def newest(self) -> int | None:
        """The arrival of the newest letter of any state."""
        query = LetterQuery(state=None)
        async with aclosing(self.entries(Filter(), query, size=1, texts=False)) as entries:
            async for entry in entries:
                return entry.arrival
        return None

    async def snapshot(self, asked: Filter, until: int | None) -> LetterQuery | None:
        """The query for letters that were there at a time (None = now); None = there were none."""
        last = await self.newest() if until is None else until
        if last is None:
            return None
        query = await self.query(asked)
        return query._replace(until=last if query.until is None else min(last, query.until))

    async def find(self, id: str) -> Entry | None:
        """The entry with this id, or the last one with this deduplication key."""
        entry = await self.store.letters.get(self.queue, id)
        return await self.store.letters.find(self.queue, id) if entry is None else entry

    async def entries(
        self,
        asked: Filter,
        query: LetterQuery,
        *,
        cursor: str | None = None,
        size: int = LARGEST_PAGE,
        oldest_first: bool = False,
        texts: bool = True,
        progress: Progress | None = None,
    ) -> AsyncGenerator[Entry]:
        """Entries that a filter means, read in batches. Close it if you leave early.

        `texts=False`: whoever asks reads no letters, so they come only if the filter reads them.
        """
        reads = asked.reads_letters
        size = LARGEST_PAGE if reads else min(size, LARGEST_PAGE)
        looked_at = 0
        while True:
            page = await self.store.letters.page(
                self.queue, query, size, cursor, oldest_first=oldest_first, texts=texts or reads
            )
            for entry in page.entries:
                if not reads or asked.meets(letter_in(entry), self.codec):
                    yield entry
            looked_at += len(page.entries)
            if progress is not None:
                progress(looked_at)
            cursor = page.cursor
            if cursor is None:
                return


async def count(place: Place, asked: Filter, progress: Progress | None) -> int:
    query = await place.query(asked)
    if not asked.reads_letters and len(query.dimensions) < 2:
        return await place.store.letters.count(place.queue, query)
    found = 0
    async with aclosing(place.entries(asked, query, texts=False, progress=progress)) as entries:
        async for _ in entries:
            found += 1
    return found


async def read_page(place: Place, asked: Filter, limit: int, cursor: str | None) -> Page:
    found: list[Entry] = []
    query = await place.query(asked)
    async with aclosing(place.entries(asked, query, cursor=cursor, size=limit + 1)) as entries:
        async for each in entries:
            found.append(each)
            if len(found) > limit:
                break
    letters = tuple(map(letter_in, found[:limit]))
    return Page(letters, str(found[limit - 1].arrival) if len(found) > limit else None)


async def groups(place: Place, asked: Filter, limit: int, progress: Progress | None) -> list[Group]:
    if whole_number("limit", limit) > LARGEST_PAGE:
        raise InvalidValue(f"limit must be {LARGEST_PAGE} or less, not {limit!r}")
    query = await place.query(asked)
    tallies: list[Tally] | None = None
    if query.state is not None and query.until is None and not (asked.reads_letters or query.dimensions):
        tallies = await place.store.letters.tally(
            place.queue, Dimension.FINGERPRINT, state=query.state, since=query.since, limit=limit
        )
    if tallies is None:
        return await _counted_groups(place, asked, query, limit, progress)
    return [
        Group(
            fingerprint=tally.value,
            count=tally.count,
            first_seen=tally.first / MICROSECONDS,
            last_seen=tally.last / MICROSECONDS,
            tasks=tally.tasks,
            sample=None if tally.newest is None else letter_in(tally.newest),
        )
        for tally in tallies
    ]


async def _counted_groups(
    place: Place, asked: Filter, query: LetterQuery, limit: int, progress: Progress | None
) -> list[Group]:
    counts: Counter[str] = Counter()
    tasks: dict[str, Counter[str]] = {}
    newest: dict[str, Entry] = {}
    oldest: dict[str, Entry] = {}
    async with aclosing(place.entries(asked, query, texts=False, progress=progress)) as entries:
        async for entry in entries:
            kind = entry.fingerprint
            counts[kind] += 1
            tasks.setdefault(kind, Counter())[entry.task] += 1
            newest.setdefault(kind, entry)
            oldest[kind] = entry
    commonest = counts.most_common(limit)
    samples = {kind: await place.store.letters.get(place.queue, newest[kind].id) for kind, _ in commonest}
    return [
        Group(
            fingerprint=kind,
            count=number,
            first_seen=oldest[kind].arrival / MICROSECONDS,
            last_seen=newest[kind].arrival / MICROSECONDS,
            tasks=tuple(name for name, _ in tasks[kind].most_common(MOST_TASKS)),
            sample=None if (sample := samples[kind]) is None else letter_in(sample),
        )
        for kind, number in commonest
    ]


async def _counted_values(place: Place, dimension: Dimension, query: LetterQuery) -> dict[str, int]:
    counts: Counter[str] = Counter()
    async with aclosing(place.entries(Filter(), query, texts=False)) as entries:
        async for entry in entries:
            counts[entry.value(dimension)] += 1
    return dict(counts.most_common(COMMONEST))


async def stats(place: Place, since: Moment | None) -> Stats:
    letters, queue = place.store.letters, place.queue
    totals = await letters.totals(queue)
    start = None if since is None else microseconds(checked_moment("since", since), totals.now)
    told = totals.now - (HOURS_TOLD_UNASKED if start is None else HOURS_TOLD) * HOUR
    first = max(told, start or 0) // HOUR * HOUR
    counts: dict[Dimension, dict[str, int]] = {}
    hours: dict[int, int] = {}
    numbers: list[int] = []

    async def tally(dimension: Dimension) -> None:
        found = await letters.tally(queue, dimension, since=start, limit=COMMONEST)
        if found is None:
            counts[dimension] = await _counted_values(place, dimension, LetterQuery(since=start))
        else:
            counts[dimension] = {each.value: each.count for each in found}

    async def hour(begin: int) -> None:
        query = LetterQuery(since=max(begin, start or 0), until=begin + HOUR - 1)
        hours[begin] = await letters.count(queue, query)

    async def total() -> None:
        numbers.append(await letters.count(queue, LetterQuery(since=start)))

    async with anyio.create_task_group() as group:  # all of it in one round trip, where indexes answer
        group.start_soon(tally, Dimension.TASK)
        group.start_soon(tally, Dimension.ERROR)
        group.start_soon(total)
        for begin in range(first, totals.now + 1, HOUR):
            group.start_soon(hour, begin)
    return Stats(
        dead=totals.dead,
        requeued=totals.requeued,
        resolved=totals.resolved,
        evicted=totals.evicted,
        count=numbers[0],
        tasks=counts[Dimension.TASK],
        errors=counts[Dimension.ERROR],
        hours={_hour(begin): hours[begin] for begin in sorted(hours) if hours[begin]},
    )


def _hour(begin: int) -> str:
    return f"{datetime.fromtimestamp(begin // MICROSECONDS, UTC):%Y-%m-%dT%H:00Z}"
