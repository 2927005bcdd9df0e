"""Dead letters as they cross the seam between a queue of them and the store that keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from jobguard.job import AttemptError

UNKNOWN_TASK = "<unknown>"
"""What a letter says where the task's name could not be read."""
LARGEST_PAGE = 500
"""Entries that one operation reads at most: no operation of a store is unbounded."""
LARGEST_REMOVAL = 200
"""Entries that one operation removes at most: each takes a dozen changes of indexes and counters."""
MOST_TASKS = 20
"""Names of tasks that one tally has at most."""


class LetterState(StrEnum):
    """How far a dead letter has been worked through."""

    DEAD = "dead"
    """Its job ended badly, and nothing has been done about it."""
    REQUEUED = "requeued"
    """Its job is on its way again."""
    RESOLVED = "resolved"
    """Its job has come to a good end, or was found not to be wanted."""


class Dimension(StrEnum):
    """What a queue's letters are indexed and counted by, beside state and time."""

    TASK = "task"
    ERROR = "error"
    FINGERPRINT = "fingerprint"


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """One time that a letter's job was put into its queue again.

    Attributes:
        number: 1 for the first.
        job_id: under which it was put there.
        at: Unix seconds, for people.
        by: who asked for it, as they said.
    """

    number: int
    job_id: str
    at: float
    by: str


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of a letter's arguments.

    Attributes:
        path: which argument, as `"to"` or `"items.0.price"`.
        before, after: as JSON, masked where the argument is redacted. Nothing before: it was left out.
        at: Unix seconds, for people.
        by: who asked for it, as they said.
    """

    path: str
    before: str
    after: str
    at: float
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A job that ended badly, with all that is needed to understand it and to run it again.

    Attributes:
        id: of the entry, the same for every write of one job's end.
        adapter: which queue library the job came through; `"local"` in-process.
        queue: that library's queue.
        task: the task's name as its queue knows it, `"<unknown>"` where it could not be read.
        job_id: the queue's id of the job that ended last.
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
        attempts: each failed attempt's number, time and error, those of earlier replays included.
        failures, interruptions, crashes: counts over the job's life, earlier replays included.
        first_seen, failed_at: Unix seconds on the worker's clock, for people.
        worker: host and process id.
        requeues: how often the job was run again.
        version: of this layout.
        state: how far it has been worked through.
        resolution: of a resolved one: `succeeded`, `duplicate` (another job did the work), `discarded` or
            `aborted` (in its queue).
        parameters: names of the positional arguments in a JSON payload.
        redact: which arguments the task wants masked.
        original: the payload before it was first edited; None = it never was.
        edits, replays: what was changed, and when it was run again; the last 20 of each.
        imported: it came out of a file, so that its opaque payload is not to be trusted.
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
    state: LetterState = LetterState.DEAD
    resolution: str = ""
    parameters: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    original: str | None = None
    edits: tuple[Edit, ...] = ()
    replays: tuple[ReplayRecord, ...] = ()
    imported: bool = False


class LetterQueue(NamedTuple):
    """Which dead letter queue: names are unique within a namespace."""

    namespace: str
    name: str


class Entry(NamedTuple):
    """A letter as a store keeps it: what it is indexed by, and a text that the store does not read.

    Attributes:
        id: of the letter.
        state: how far it has been worked through.
        task, error, fingerprint: of the letter, as in `Dimension`.
        key: its deduplication key; "" = none.
        text: the letter; "" where only the rest was asked for.
        revision: counts writes of the entry, from 1; in a write, the one that is to be replaced.
        arrival: when it became dead, in microseconds on the store's clock; no two of a queue are alike.
    """

    id: str
    state: LetterState
    task: str
    error: str
    fingerprint: str
    key: str = ""
    text: str = ""
    revision: int = 0
    arrival: int = 0

    def value(self, dimension: Dimension) -> str:
        """What it has of a dimension."""
        if dimension is Dimension.TASK:
            return self.task
        return self.error if dimension is Dimension.ERROR else self.fingerprint


class LetterQuery(NamedTuple):
    """Which letters of a queue are meant: those that agree with all that is not None.

    Attributes:
        state: how far they have been worked through; None = whatever it is.
        task, error, fingerprint: exactly as in the entry.
        since, until: of their arrival, in microseconds on the store's clock, both included.
    """

    state: LetterState | None = LetterState.DEAD
    task: str | None = None
    error: str | None = None
    fingerprint: str | None = None
    since: int | None = None
    until: int | None = None

    @property
    def dimensions(self) -> dict[Dimension, str]:
        """The dimensions that are named, with their values."""
        values = {
            Dimension.FINGERPRINT: self.fingerprint,
            Dimension.ERROR: self.error,
            Dimension.TASK: self.task,
        }
        return {dimension: value for dimension, value in values.items() if value is not None}

    def meets(self, entry: Entry) -> bool:
        """Whether an entry is one of those."""
        return (
            self.state in (None, entry.state)
            and self.task in (None, entry.task)
            and self.error in (None, entry.error)
            and self.fingerprint in (None, entry.fingerprint)
            and (self.since is None or entry.arrival >= self.since)
            and (self.until is None or entry.arrival <= self.until)
        )


class LetterPage(NamedTuple):
    """Some entries, and where the next ones start (None = no more)."""

    entries: tuple[Entry, ...]
    cursor: str | None


class Kept(NamedTuple):
    """What writing a letter came to.

    Attributes:
        new: False = an entry with its id was there already.
        dead: how many dead ones the queue holds now.
        first_of_kind: it is the only dead one with its fingerprint.
        grew: they are more than the bound that was asked about, and this write is to tell of it: since it was
            last told, there have been no more than that. Written once more, it says so again.
    """

    new: bool
    dead: int
    first_of_kind: bool
    grew: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """Letters that have one value of a dimension in common.

    Attributes:
        value: of the dimension.
        count: how many there are.
        first, last: arrival of the oldest and of the newest, in microseconds on the store's clock.
        tasks: the names of their tasks, at most 20, the commonest first; only where fingerprints are counted.
        newest: one of them, or None if it has just gone; only where fingerprints are counted.
    """

    value: str
    count: int
    first: int
    last: int
    tasks: tuple[str, ...] = ()
    newest: Entry | None = None


class Totals(NamedTuple):
    """A queue in numbers: how many of each state it holds, how many were evicted, and the store's time."""

    dead: int
    requeued: int
    resolved: int
    evicted: int
    now: int
