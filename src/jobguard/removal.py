"""Taking letters out of a dead letter queue: those that a filter means, or the oldest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from jobguard.browsing import Place, Progress
from jobguard.errors import InvalidValue
from jobguard.filters import Filter, ago, microseconds
from jobguard.letters import letter_in
from jobguard.policies import count as whole_number
from jobguard.stores.letters import LARGEST_REMOVAL, DeadLetter, LetterQuery

OnEvict = Callable[[Sequence[DeadLetter]], None]
"""Given the letters that are about to be removed to make room for others."""


async def remove_all(place: Place, asked: Filter, until: int | None, progress: Progress | None) -> int:
    """Remove what a filter means, of the letters that were there at a time (None = now)."""
    query = await place.snapshot(asked, until)
    if query is None:
        return 0
    removed = 0
    cursor: str | None = None
    letters, reads = place.store.letters, asked.reads_letters
    while True:
        page = await letters.page(place.queue, query, LARGEST_REMOVAL, cursor, oldest_first=True, texts=reads)
        meant = [
            (entry.id, entry.revision or None)  # what cannot be read has none
            for entry in page.entries
            if not reads or asked.meets(letter_in(entry), place.codec)
        ]
        removed += sum(await letters.remove(place.queue, meant))
        if progress is not None:
            progress(removed)
        cursor = page.cursor
        if cursor is None:
            return removed


async def prune(
    place: Place,
    *,
    older_than: str | float | timedelta | None,
    keep: int | None,
    query: LetterQuery,
    on_evict: OnEvict | None,
    dry_run: bool,
    progress: Progress | None,
) -> int:
    """Remove the oldest letters that a query means: what is too old, and (where both are asked) too much."""
    if older_than is None and keep is None:
        raise InvalidValue("older_than and keep must not both be None: say what is to go")
    letters = place.store.letters
    until = -1
    if older_than is not None:
        until = microseconds(ago("older_than", older_than), (await letters.totals(place.queue)).now)
    least = None if keep is None else whole_number("keep", keep, least=0)

    async def spare(since: int | None) -> int:
        """How many of the letters from a time on are too much."""
        return 0 if least is None else await letters.count(place.queue, query._replace(since=since)) - least

    if dry_run:
        bounds: list[int] = []
        if older_than is not None:
            bounds.append(await letters.count(place.queue, query._replace(until=until)))
        if least is not None:
            bounds.append(max(await spare(query.since), 0))
        return min(bounds)
    removed = 0
    cursor: str | None = None
    while True:
        page = await letters.page(
            place.queue, query, LARGEST_REMOVAL, cursor, oldest_first=True, texts=on_evict is not None
        )
        # Counted after the page: what others have removed since is in the page, and not too much any more.
        # From the page on: of what came before it, letters that have changed stay in addition to the newest.
        much = await spare(query.since if cursor is None else int(cursor) + 1)
        meant = [
            entry
            for number, entry in enumerate(page.entries)
            if (least is None or number < much) and (older_than is None or entry.arrival <= until)
        ]
        if on_evict is not None and meant:
            on_evict([letter_in(entry) for entry in meant])
        if meant:
            named = [(entry.id, entry.revision or None) for entry in meant]
            removed += sum(await letters.remove(place.queue, named, evicted=True))
            if progress is not None:
                progress(removed)
        cursor = page.cursor
        if cursor is None or len(meant) < len(page.entries):
            return removed
