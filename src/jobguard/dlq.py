"""Dead letter queues: what became of jobs that ended badly, and what can be done about it."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta

from jobguard import browsing, removal
from jobguard.adapters.base import Requeuer
from jobguard.arguments import NotEditable, edited
from jobguard.browsing import COMMONEST, Group, Page, Place, Progress, Stats
from jobguard.codec import Codec, check_codec
from jobguard.errors import InvalidValue, LetterRefused
from jobguard.filters import Filter, Moment, StateName, as_filter
from jobguard.letters import entry_of, letter_in
from jobguard.policies import Duration, check_name, check_namespace, evicting, seconds
from jobguard.policies import count as whole_number
from jobguard.removal import OnEvict
from jobguard.requeueing import (
    OnDuplicate,
    Orders,
    Requeued,
    Requeueing,
    RequeueReport,
    Status,
    Stopped,
)
from jobguard.returning import Meant
from jobguard.stores.base import LetterStore, Store, check_store
from jobguard.stores.letters import LARGEST_PAGE, DeadLetter, Entry, LetterQueue, LetterState

__all__ = [
    "DeadLetterQueue",
    "Group",
    "OnEvict",
    "Page",
    "Progress",
    "RequeueReport",
    "Requeued",
    "Stats",
    "Status",
]


class DeadLetterQueue:
    """One dead letter queue of a store.

    A letter is `dead` until it is put into its job's queue again (`requeue`), `requeued` until that job
    ends, and then `resolved` if that went well, or `dead` again. Where nothing else is said, methods are
    about the dead ones; a `Filter` names others.

    Args:
        store: where the letters are.
        name: the queue's name, as in `@dead_letter(queue=...)`.
        namespace: the `JobGuard`'s namespace.
        codec: the `JobGuard`'s codec; reads and writes kept arguments.

    Raises:
        ConfigurationError: a setting is wrong; the message names it.

    Every method raises `StoreUnavailable` if the store does not answer.
    """

    def __init__(
        self, store: Store, name: str = "default", *, namespace: str = "jobguard", codec: Codec | None = None
    ) -> None:
        queue = LetterQueue(check_namespace(namespace), check_name("name", name))
        self._place = Place(check_store(store), queue, Codec() if codec is None else check_codec(codec))

    @property
    def name(self) -> str:
        """The queue's name, as in `@dead_letter(queue=...)`."""
        return self._place.queue.name

    @property
    def namespace(self) -> str:
        """The `JobGuard`'s namespace."""
        return self._place.queue.namespace

    async def count(self, filter: Filter | str | None = None, *, progress: Progress | None = None) -> int:
        """How many letters there are that a filter means. Without one: how many are dead.

        At once where the filter names at most one of task, error and fingerprint, beside state and times.
        Else the letters are counted one by one.
        """
        return await browsing.count(self._place, as_filter(filter), progress)

    async def get(self, id: str) -> DeadLetter | None:
        """The letter with this id, or the last one with this deduplication key; else None.

        A key leads to the letter that was written with it last, and nowhere once that has gone. The filter
        `key=` finds all letters that have it.
        """
        entry = await self._place.find(id)
        return None if entry is None else letter_in(entry)

    async def list(
        self, limit: int = 50, cursor: str | None = None, *, filter: Filter | str | None = None
    ) -> Page:
        """Up to `limit` letters, newest first; pages stay in step while letters come and go.

        An entry that is no letter, since somebody else wrote it, has the reason `unreadable`.

        Args:
            limit: 1 to 500.
            cursor: where an earlier page ended.
            filter: which letters; None = the dead ones.

        Raises:
            InvalidValue: `limit` is not from 1 to 500, `cursor` is not one that a page gave, or the filter
                cannot be read.
        """
        if whole_number("limit", limit) > LARGEST_PAGE:
            raise InvalidValue(
                f"limit must be {LARGEST_PAGE} or less, not {limit!r}; ask for more pages instead"
            )
        return await browsing.read_page(self._place, as_filter(filter), limit, cursor)

    async def each(
        self,
        filter: Filter | str | None = None,
        *,
        oldest_first: bool = False,
        progress: Progress | None = None,
    ) -> AsyncGenerator[DeadLetter]:
        """Every letter that a filter means, read in batches; those that come meanwhile may be among them."""
        asked = as_filter(filter)
        query = await self._place.query(asked)
        found = self._place.entries(asked, query, oldest_first=oldest_first, progress=progress)
        async with aclosing(found):
            async for entry in found:
                yield letter_in(entry)

    async def groups(
        self,
        filter: Filter | str | None = None,
        limit: int = COMMONEST,
        *,
        progress: Progress | None = None,
    ) -> builtins.list[Group]:
        """The commonest causes: the same error, raised at the same place.

        At once where the filter names nothing but a state and, up to 500 causes, `since`. Else the letters
        are counted one by one.

        Args:
            filter: which letters; None = the dead ones.
            limit: causes to name, 1 to 500.
            progress: told how many letters have been looked at.
        """
        return await browsing.groups(self._place, as_filter(filter), limit, progress)

    async def stats(self, since: Moment | None = None) -> Stats:
        """The dead letters by task, by error type and by hour.

        Args:
            since: only those that came since, by the store's clock: `"24h"`, a timedelta, a date and time, or
                an aware datetime. None = all of them, and the hours of the last day.
        """
        return await browsing.stats(self._place, since)

    async def edit(self, id: str, changes: Mapping[str, object], *, by: str = "") -> DeadLetter | None:
        """Change arguments of a dead letter; it as it is now, or None if there is no such letter.

        What the arguments were stays in `original`, and what was changed, when and by whom in `edits`.

        A requeue that was cut off may have left a job with the old arguments in its queue, and nothing in the
        letter tells: that job is not started any more, but if it runs already, its end is not written down.
        `requeue(edit=)` asks the queue first, and refuses the letter.

        Args:
            id: of the letter, or its deduplication key.
            changes: from paths (`"to"`, `"customer.phone"`, `"items.0.price"`) to new values.
            by: who asked for it.

        Raises:
            LetterRefused: the letter is not dead, or does not keep its arguments as JSON, or has no such
                argument, or the value has no form in the store.
            InvalidValue: a path is malformed.
        """
        while True:
            entry = await self._place.find(id)
            if entry is None:
                return None
            if entry.state is not LetterState.DEAD:
                raise LetterRefused(entry.id, f"it is {entry.state}, {_EDITABLE[entry.state]}")
            try:
                letter = edited(letter_in(entry), changes, self._place.codec, by)
            except NotEditable as error:
                raise LetterRefused(entry.id, str(error)) from None
            written = await self._letters.replace(self._place.queue, entry_of(letter, entry.revision))
            if written is not None:
                return letter

    async def requeue(
        self,
        which: str | Iterable[str] | Filter,
        *,
        via: Requeuer | Sequence[Requeuer],
        rate: float | None = None,
        limit: int | None = None,
        edit: Mapping[str, object] | None = None,
        on_duplicate: OnDuplicate = "skip",
        max_requeues: int | None = 5,
        canary: int = 0,
        max_failure_rate: float | None = None,
        patience: Duration = 300.0,
        trust_imported: bool = False,
        unserved: bool = False,
        dry_run: bool = False,
        by: str = "",
    ) -> RequeueReport:
        """Put the jobs of letters into their queues again; what that came to, letter by letter.

        Guarantee: cut off at any point, no letter is lost and no job is enqueued twice; to call it again
        completes it. The letter stays, as `requeued`, until its job ends. A replay counts its attempts anew.
        A letter that cannot be run again is refused by itself, and the others go on.

        Args:
            which: ids or deduplication keys, or a filter. A filter means the letters that are there when
                this is called; jobs that fail again meanwhile are not taken twice.
            via: the way into the queues, such as `jobguard.adapters.arq.ArqQueue(pool)`.
            rate: jobs a second at most; None = as fast as it goes.
            limit: letters to put into their queues at most, the oldest first.
            edit: changes of arguments, as for `edit`.
            on_duplicate: what to do where another job with the letter's key runs or has succeeded: `"skip"`
                (default) leaves the letter as it is, `"fail"` refuses it, `"force"` has the work done again.
            max_requeues: letters that were run again so often are refused; None = never. Default 5.
            canary: requeue so many first, and the rest only once these have ended and not too many of them
                have failed again.
            max_failure_rate: stop when more than this share of what was requeued and has ended has failed
                again, from ten on. Default None: 0.2 with canaries, else nobody looks.
            patience: seconds or timedelta to wait for canaries. Default 300.
            trust_imported: also run opaque payloads that were imported from a file.
            unserved: also enqueue what no worker has said it serves.
            dry_run: only say what would happen.
            by: who asks for it, for the letter's history.

        Raises:
            ConfigurationError: a setting cannot be used; the message names it.
            StoreError: the store or the queue did not answer; what is done stays done.
        """
        orders = Orders(
            rate=rate,
            limit=limit,
            edit={} if edit is None else edit,
            on_duplicate=on_duplicate,
            max_requeues=max_requeues,
            canary=canary,
            max_failure_rate=max_failure_rate,
            patience=seconds("patience", patience),
            trust_imported=trust_imported,
            unserved=unserved,
            dry_run=dry_run,
            by=by,
        )
        ways = via if isinstance(via, Sequence) else [via]
        outcomes: builtins.list[Requeued] = []
        try:
            async with aclosing(self.requeueing(which, ways, orders)) as told:
                async for outcome in told:
                    outcomes.append(outcome)  # noqa: PERF401  # what has come before it is stopped counts
        except Stopped as stopped:
            return RequeueReport(tuple(outcomes), str(stopped))
        return RequeueReport(tuple(outcomes))

    async def requeueing(
        self,
        which: str | Iterable[str] | Filter,
        via: Sequence[Requeuer],
        orders: Orders,
        *,
        until: str | None = None,
    ) -> AsyncGenerator[Requeued]:
        """`requeue`, told letter by letter as it happens. Close it if you leave early.

        Args:
            which, via: as for `requeue`.
            orders: its other settings.
            until: what `newest` gave: a filter means no letters that have come since.

        Raises:
            Stopped: too much has failed again, or canaries have not ended in time.
            ConfigurationError: `which` or `via` cannot be used; the message names it.
        """
        place = self._place
        work = Requeueing(place.store, place.queue, place.codec, via, orders)
        if isinstance(which, str) and "=" in which:  # ids that jobguard makes have none
            raise InvalidValue(f"which must be ids or a Filter, not {which!r}; write Filter.parse({which!r})")
        if isinstance(which, Filter):
            query = await place.snapshot(which, _mark(until))
            if query is None:
                return
            letters = _as_found(place.entries(which, query, oldest_first=True, texts=False))
        else:
            letters = _oldest_first(place, dict.fromkeys([which] if isinstance(which, str) else which))
        async with aclosing(letters), aclosing(work.run(letters)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def now(self) -> int:
        """What the store's clock says, in microseconds since 1970."""
        return (await self._letters.totals(self._place.queue)).now

    async def take_in(self, letter: DeadLetter, arrival: int) -> bool:
        """Keep a letter that comes from elsewhere; False = one with its id is there, and stays.

        Args:
            letter: what to keep.
            arrival: when it came into its queue, in microseconds; about that time it takes its place.
        """
        return (await self._letters.put(self._place.queue, entry_of(letter), arrival)).new

    async def remove(self, id: str) -> bool:
        """Remove a letter for good, whatever its state; False = there was none."""
        return (await self._letters.remove(self._place.queue, [(id, None)]))[0]

    async def remove_all(
        self,
        filter: Filter | str,
        *,
        until: str | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Remove every letter that a filter means when this is called; how many those were.

        In batches of 200, of less where letters are large, so that no single one holds the store up. Letters
        that come or change meanwhile stay.

        Args:
            filter: which letters.
            until: what `newest` gave: letters that have come since stay too.
            progress: told how many have been removed.
        """
        if isinstance(filter, str) and not filter.strip():  # such as what a script makes of an empty variable
            raise InvalidValue(f"filter must say which letters, not {filter!r}; for all write Filter()")
        return await removal.remove_all(self._place, as_filter(filter), _mark(until), progress)

    async def newest(self) -> str | None:
        """A mark of the newest letter there is, for bulk work with `until`; None = there is none."""
        newest = await self._place.newest()
        return None if newest is None else str(newest)

    async def clear(self, until: str | None = None, *, progress: Progress | None = None) -> int:
        """Remove every letter, of whatever state, that the queue holds when this is called; how many.

        In batches, as `remove_all`. Letters that come meanwhile stay.

        Args:
            until: what `newest` gave: letters that have come since stay too.
            progress: told how many have been removed.
        """
        return await self.remove_all(Filter(state="all"), until=until, progress=progress)

    async def prune(
        self,
        *,
        older_than: str | float | timedelta | None = None,
        keep: int | None = None,
        state: StateName = "all",
        on_evict: OnEvict | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Remove the oldest letters; how many those were. They count as evicted.

        With both `older_than` and `keep`, a letter goes only if it is old and not one of the newest.

        Args:
            older_than: those that came into the queue so long ago: `"30d"`, seconds or a timedelta.
            keep: the newest ones stay, so many of them.
            state: only `"dead"`, `"requeued"` or `"resolved"` ones; default `"all"`.
            on_evict: given the letters before they are removed; if it raises, they stay.
            dry_run: say how many it would be, and remove nothing.
            progress: told how many have been removed.

        Raises:
            ConfigurationError: neither `older_than` nor `keep` is given, or one of them cannot be used.
        """
        return await removal.prune(
            self._place,
            older_than=older_than,
            keep=keep,
            query=Filter(state=state).query(0),
            on_evict=evicting(on_evict),
            dry_run=dry_run,
            progress=progress,
        )

    def named(self, name: str) -> DeadLetterQueue:
        """Another queue of the same store and namespace."""
        place = self._place
        return DeadLetterQueue(place.store, name, namespace=place.queue.namespace, codec=place.codec)

    async def queues(self) -> builtins.list[str]:
        """The names of every queue of the namespace that has held a letter, sorted."""
        return await self._letters.queues(self._place.queue.namespace)

    @property
    def _letters(self) -> LetterStore:
        return self._place.store.letters

    def __repr__(self) -> str:
        queue = self._place.queue
        return f"DeadLetterQueue({self._place.store!r}, {queue.name!r}, namespace={queue.namespace!r})"


_EDITABLE = {
    LetterState.REQUEUED: (
        "and only what is dead can be edited: wait until its job has ended, or if that was lost, give the "
        "changes to requeue(edit=...)"
    ),
    LetterState.RESOLVED: "and only what is dead can be edited",
}
"""Why a letter of this state cannot be edited, and what can be done."""


async def _as_found(found: AsyncGenerator[Entry]) -> AsyncGenerator[Meant]:
    async with aclosing(found):
        async for entry in found:
            yield Meant(entry.id, entry.arrival)


async def _oldest_first(place: Place, given: Iterable[str]) -> AsyncGenerator[Meant]:
    """Letters by their ids, also by their keys, in the order in which they died; last what there is not."""
    arrivals: dict[str, int] = {}
    missing: builtins.list[str] = []
    for id in given:
        entry = await place.find(id)
        if entry is None:
            missing.append(id)
        else:
            arrivals[entry.id] = entry.arrival
    for id in (*sorted(arrivals, key=lambda id: arrivals[id]), *missing):
        yield Meant(id)


def _mark(until: str | None) -> int | None:
    """What `newest` meant."""
    if until is None:
        return None
    if not (until.isascii() and until.isdigit() and len(until) <= 16):
        raise InvalidValue(f"until must be what newest() gave, not {until!r}")
    return int(until)
