"""What every store promises: the records that cross the seam, and one method per atomic operation.

A store keeps two things. A *record* per key says who holds or has done a piece of work; a *dead
letter* is a job that ended badly. Keys arrive complete (namespace included); a store adds nothing.

All times that decide anything are the store's own. Callers pass durations in seconds.
Every operation may be sent again after a lost reply: the token makes the answer the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from jobguard.errors import InvalidType
from jobguard.job import JobStatus
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


class State(StrEnum):
    """What a record says of its key. One letter each: a million of them are kept."""

    PROCESSING = "P"
    RETRY = "R"
    INTERRUPTED = "I"
    SUCCESS = "S"
    FAILED = "F"
    DEAD_LETTER = "D"

    @property
    def status(self) -> JobStatus:
        """The public word; an interrupted job waits to be run again."""
        return _STATUS[self]

    @property
    def ended(self) -> bool:
        return self in _ENDED


_STATUS = {
    State.PROCESSING: JobStatus.PROCESSING,
    State.RETRY: JobStatus.RETRY,
    State.INTERRUPTED: JobStatus.RETRY,
    State.SUCCESS: JobStatus.SUCCESS,
    State.FAILED: JobStatus.FAILED,
    State.DEAD_LETTER: JobStatus.DEAD_LETTER,
}


_ENDED = frozenset({State.SUCCESS, State.FAILED, State.DEAD_LETTER})

UNFINISHED = 30 * 86_400.0
"""Seconds for which a record that is not finished is kept past its lease or due time."""


class Verdict(StrEnum):
    """The answer to a claim."""

    GRANTED = "granted"
    """The caller holds the key now."""
    BUSY = "busy"
    """The same job's lease is live under another token: another delivery of it is running."""
    RUNNING = "running"
    """Another job is running (state PROCESSING) or pending a retry (state RETRY)."""
    SUCCEEDED = "succeeded"
    """The same job has succeeded, or another one has within its ttl."""
    ENDED = "ended"
    """The same job has already failed or become a dead letter."""


class Claim(NamedTuple):
    """A request to hold `key` for the job `owner`.

    Attributes:
        key: the record's key, complete.
        owner: identity of the job.
        token: random id of this claim; sending the same one again gives the same answer.
        lease: seconds for which the claim holds without renewal.
        keep: seconds for which an unfinished record is kept after its lease or due time.
        fingerprint: of the payload outside the key; "" = none.
        rerun: True if another job's success does not count (`done="run"`).
    """

    key: str
    owner: str
    token: str
    lease: float
    keep: float
    fingerprint: str = ""
    rerun: bool = False


class ClaimReply(NamedTuple):
    """What a claim came to.

    Attributes:
        verdict: the answer.
        state: GRANTED: what the record said before (None = there was none); else what it says.
        owner: GRANTED: the job that held the record before ("" = none); else the holder.
        fence: GRANTED: the number of this claim; else the holder's.
        wait: BUSY and RUNNING: seconds until the lease ends or the retry is due (0 if overdue).
        crashes: runs of this key that ended without an outcome since it last ended.
        elapsed: GRANTED: seconds since this job's first claim of the key; else of no meaning.
        history: the text that this job's last settlement left; "" for a new one.
        fingerprint: the one stored with the record before this claim; "" = none.
        body: SUCCEEDED: the stored result; ENDED: the text left by the settlement; else None.
    """

    verdict: Verdict
    state: State | None
    owner: str
    fence: int
    wait: float
    crashes: int
    elapsed: float
    history: str
    fingerprint: str
    body: str | None


class Renewal(NamedTuple):
    """A request to make a lease last `lease` seconds from now."""

    key: str
    token: str
    lease: float


class Settlement(NamedTuple):
    """What a run came to.

    Attributes:
        key: the record's key, complete.
        owner: identity of the job.
        token: the claim's token; without a claim, random per delivery.
        fence: the claim's number; None = the job holds no claim (the record is its history only).
        state: RETRY, INTERRUPTED, SUCCESS, FAILED or DEAD_LETTER.
        lasts: RETRY: seconds until the run is due; ended states: seconds for which other jobs
            see them (a success's ttl).
        keep: seconds for which the record is kept at least, for this job's own redelivery.
            How long it lives in all, `lives` tells.
        overdue: RETRY: seconds past due after which another job may take over (a lease).
        fingerprint: of the payload outside the key; "" = none.
        history: opaque text handed back by the next claim of the same job; ended states drop it.
        body: a success's result or a dead letter's text; None = none.
    """

    key: str
    owner: str
    token: str
    fence: int | None
    state: State
    lasts: float
    keep: float
    overdue: float = 0.0
    fingerprint: str = ""
    history: str = ""
    body: str | None = None

    @property
    def lives(self) -> float:
        """Seconds for which the record is there, from the settlement on."""
        if self.state.ended:
            return max(self.lasts, self.keep)
        if self.state is State.RETRY:
            return self.lasts + self.overdue + self.keep
        return self.keep


class SettleReply(NamedTuple):
    """`accepted`, or refused because another claim has taken over; then whose and which."""

    accepted: bool
    owner: str = ""
    fence: int = 0


class Record(NamedTuple):
    """What the store knows of a key.

    Attributes:
        key: the record's key.
        state: what it says.
        owner: identity of the job.
        fence: number of its last claim (0 = never claimed).
        wait: seconds until the lease ends, the retry is due or the ended state stops counting
            for other jobs; 0 if that is past.
        crashes: see `ClaimReply.crashes`.
        elapsed: seconds since the first claim, or the first settlement where there was none.
        history: opaque text of the last settlement.
        fingerprint: of the payload outside the key.
        body: result or dead letter text, if any.
    """

    key: str
    state: State
    owner: str
    fence: int
    wait: float
    crashes: int
    elapsed: float
    history: str
    fingerprint: str
    body: str | None


class LetterStore(Protocol):
    """The dead letters of a store; `Store.letters`. One method, one atomic operation.

    Raises what a `Store` does.
    """

    async def put(
        self,
        queue: LetterQueue,
        entry: Entry,
        arrival: int | None = None,
        *,
        alert_over: int | None = None,
    ) -> Kept:
        """Keep a letter, unless one with its id is there, which stays as it was.

        Args:
            queue: whose.
            entry: its revision and arrival are given by the store.
            arrival: as in `Entry`, for a letter that comes from elsewhere; the next free one from there
                on is taken. None = now, and later than every other of the queue.
            alert_over: dead letters, of more of which somebody is to be told; see `Kept.grew`.
        """
        ...

    async def replace(
        self, queue: LetterQueue, entry: Entry, *, arrive: bool = False, alert_over: int | None = None
    ) -> Kept | None:
        """Write an entry anew, if it still has the revision that the given one names; else None.

        The same if the very same was written by the last change: the call is sent again after a lost reply.

        Args:
            queue: whose.
            entry: task, error, fingerprint and key may differ from what is there.
            arrive: it becomes the newest of the queue; else it keeps its place.
            alert_over: as for `put`.
        """
        ...

    async def get(self, queue: LetterQueue, id: str) -> Entry | None:
        """The entry with this id, or None."""
        ...

    async def find(self, queue: LetterQueue, key: str) -> Entry | None:
        """The entry last written with this deduplication key; None = there is none, or it has gone."""
        ...

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
        """Up to `limit` entries, newest first, from `cursor` on.

        A page can be short and not be the last: what is read at once is bounded in bytes too. Where a query
        names several dimensions, 500 entries of the rarest are looked at, so that it can be empty as well.

        Args:
            queue: whose.
            query: which of its letters.
            limit: 1 to 500.
            cursor: the arrival behind which to go on, as text: where an earlier page of the same order
                ended; None = the first page.
            oldest_first: the other order.
            texts: False = entries come without their texts.
        """
        ...

    async def count(self, queue: LetterQueue, query: LetterQuery) -> int:
        """How many letters meet a query that names one dimension at most.

        Raises:
            InvalidValue: it names several.
        """
        ...

    async def tally(
        self,
        queue: LetterQueue,
        dimension: Dimension,
        *,
        state: LetterState = LetterState.DEAD,
        since: int | None = None,
        limit: int = 100,
    ) -> list[Tally] | None:
        """The values of a dimension that most letters of a state have, the commonest first.

        None: the state's letters have more than 500 values, too many to count each of them since a time.

        Where fingerprints are counted, the names of tasks are those of the state's letters of all times.

        Args:
            queue: whose.
            dimension: of what.
            state: of the letters.
            since: only those that arrived then or later count; in microseconds on the store's clock.
            limit: 1 to 500 values.
        """
        ...

    async def remove(
        self, queue: LetterQueue, entries: Sequence[tuple[str, int | None]], *, evicted: bool = False
    ) -> list[bool]:
        """Remove up to 200 entries for good: whether each was there, and as it was meant.

        Large ones may take several operations, so that no single one holds the store up.

        Args:
            queue: whose.
            entries: ids, each with the revision that is meant, or None = whichever it is.
            evicted: they make room for others, and count as evicted.

        Raises:
            InvalidValue: those are more than 200.
        """
        ...

    async def totals(self, queue: LetterQueue) -> Totals:
        """A queue in numbers."""
        ...

    async def queues(self, namespace: str) -> list[str]:
        """The name of every queue of a namespace that has held a letter, sorted."""
        ...


@runtime_checkable
class Store(Protocol):
    """One method, one atomic operation. `jobguard.testing.StoreContract` says what each must do.

    Raises (all methods):
        StoreUnavailable: no answer; the operation may or may not have taken effect.
        StoreError: the server answered with an error.
    """

    @property
    def letters(self) -> LetterStore:
        """The store's dead letters."""
        ...

    async def claim(self, claim: Claim) -> ClaimReply:
        """Hold a key for a job, or say who does."""
        ...

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        """Prolong many leases in one round trip; False = lost (other token, ended, or gone).

        Checks the token, never re-creates a record, never shortens a lease.
        """
        ...

    async def settle(self, settlement: Settlement) -> SettleReply:
        """Record what a run came to, unless another claim has taken over."""
        ...

    async def look_up(self, key: str) -> Record | None:
        """What is known of a key, or None."""
        ...

    async def forget(self, key: str) -> bool:
        """Remove a record, whatever its state; False = there was none."""
        ...

    async def announce(self, namespace: str, names: Sequence[str], lasts: float) -> None:
        """Make known for `lasts` seconds that somebody serves these names."""
        ...

    async def served(self, namespace: str, name: str) -> bool:
        """Whether a name was announced, and still lasts."""
        ...

    async def aclose(self) -> None:
        """Release what the store itself opened. Clients handed in stay open."""
        ...


def check_store(store: object) -> Store:
    """A store, as far as its methods tell. Anything else is not shown: a URL has a password in it."""
    if not isinstance(store, Store) or isinstance(store, type):
        raise InvalidType(
            f"store must have the methods of jobguard.stores.Store, not be of type {type(store).__name__}; "
            "write RedisStore.from_url(url) or MemoryStore()"
        )
    return store
