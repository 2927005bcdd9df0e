"""What every store promises: the records that cross the seam, and one method per atomic operation.

A store keeps two things. A *record* per key says who holds or has done a piece of work; a *dead
letter* is a job that ended badly. Keys arrive complete (namespace included); a store adds nothing.

All times that decide anything are the store's own. Callers pass durations in seconds.
Every operation may be sent again after a lost reply: the token makes the answer the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from jobguard.job import AttemptError, JobStatus


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

UNKNOWN_TASK = "<unknown>"
"""What a letter says where the task's name could not be read."""
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
            A record lives for max(lasts, keep), a RETRY for lasts + keep.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A job that ended badly, with all that is needed to understand it and to run it again.

    Attributes:
        id: of the entry, the same for every write of one job's end.
        adapter: which queue library the job came through; `"local"` in-process.
        queue: that library's queue.
        task: the task's name as its queue knows it, `"<unknown>"` where it could not be read.
        job_id: the queue's id of the job.
        enqueued_ms: when it was enqueued, Unix milliseconds; 0 = unknown.
        key: the deduplication key, or None.
        payload: the arguments as tagged JSON, or the queue's own bytes in base64, or None.
        payload_format: `"json"` or `"opaque"`; without a payload `"too_large"` or `"none"` (not wanted,
            or not encodable): a preview only, which cannot be run again.
        preview: arguments as redacted JSON, for people.
        error_type, error_message, traceback: of the last error, as text.
        causes: the chain of causes, outermost first, as text.
        reason: why no run is left, in a word: exhausted, gave_up, not_retryable, deadline,
            crashes, snoozes, unknown_task, undecodable, expired, moved; `unreadable` stands for an entry
            of which the store has something else than a letter.
        fingerprint: of error type and code location; groups entries of one cause.
        attempts: each failed attempt's number, time and error.
        failures, interruptions, crashes: counts over the job's life.
        first_seen, failed_at: Unix seconds on the worker's clock, for people.
        worker: host and process id.
        requeues: how often the entry was run again.
        version: of this layout.
    """

    id: str
    adapter: str
    queue: str
    task: str
    job_id: str
    enqueued_ms: int
    key: str | None
    payload: str | None
    payload_format: str
    preview: str
    error_type: str
    error_message: str
    traceback: str
    causes: tuple[str, ...]
    reason: str
    fingerprint: str
    attempts: tuple[AttemptError, ...]
    failures: int
    interruptions: int
    crashes: int
    first_seen: float
    failed_at: float
    worker: str
    requeues: int = 0
    version: int = 1


class LetterQueue(NamedTuple):
    """Which dead letter queue: names are unique within a namespace."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class LetterPage:
    """One page of entries, newest first: texts, where the next page starts (None = no more), and ids."""

    entries: tuple[str, ...]
    cursor: str | None
    ids: tuple[str, ...] = field(default=(), compare=False)


@runtime_checkable
class Store(Protocol):
    """One method, one atomic operation. `jobguard.testing.StoreContract` says what each must do.

    Raises (all methods):
        StoreUnavailable: no answer; the operation may or may not have taken effect.
        StoreError: the server answered with an error.
    """

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

    async def put_letter(self, queue: LetterQueue, id: str, text: str) -> bool:
        """Keep a dead letter; False = one with this id was there already, and stays as it was."""
        ...

    async def get_letter(self, queue: LetterQueue, id: str) -> str | None:
        """A dead letter's text, or None."""
        ...

    async def page_letters(self, queue: LetterQueue, limit: int, cursor: str | None) -> LetterPage:
        """Up to `limit` texts, newest first by (time, id), from `cursor` on."""
        ...

    async def count_letters(self, queue: LetterQueue) -> int:
        """How many dead letters a queue holds."""
        ...

    async def remove_letter(self, queue: LetterQueue, id: str) -> bool:
        """Remove a dead letter; False = there was none."""
        ...

    async def clear_letters(
        self, queue: LetterQueue, limit: int, until: str | None
    ) -> tuple[int, str | None]:
        """Remove up to `limit` letters, oldest first, of those that arrived no later than `until` says.

        Args:
            queue: whose.
            limit: no more than 500 are removed at once; 0 removes none and only says what to hand on.
            until: what the call before returned, so that letters which came since stay; None = all
                that are there now.

        Returns:
            How many were removed, and what to hand to the next call (None = there was none at all).
        """
        ...

    async def letter_queues(self, namespace: str) -> list[str]:
        """The name of every queue of a namespace that has held a letter, sorted."""
        ...

    async def aclose(self) -> None:
        """Release what the store itself opened. Clients handed in stay open."""
        ...
