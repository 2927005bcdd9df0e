"""What a job is, what it has been through, and which one is running here."""

from __future__ import annotations

from binascii import b2a_base64
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import StrEnum, auto
from hashlib import blake2b
from os import urandom
from typing import Any, NamedTuple, Protocol

from jobguard.errors import NoCurrentJob

LOCAL = "local"
"""The queue of jobs that no queue has handed out."""


class JobStatus(StrEnum):
    """Where a job stands."""

    PROCESSING = auto()
    SUCCESS = auto()
    FAILED = auto()
    RETRY = auto()
    DEAD_LETTER = auto()


class JobRef(NamedTuple):
    """One requested run. Queues reuse ids, so the time of enqueueing belongs to the identity.

    Where that time is unknown, `salt` tells jobs of one id apart.
    """

    queue: str
    id: str
    enqueued_ms: int = 0
    salt: str = ""

    @property
    def identity(self) -> str:
        """Text that names this job and no other."""
        plain = f"{self.queue}:{self.id}:{self.enqueued_ms}"
        return f"{plain}:{self.salt}" if self.salt else plain


class Duplicate(NamedTuple):
    """Returned in place of a result when the work was another job's. Falsy.

    A named tuple, so that it passes through pickle and JSON serialisers alike.

    Attributes:
        key: the deduplication key; for a dead letter's replay, the letter's id; without a key, the job's
            identity.
        status: what the other job is at.
        owner: identity of the other job.
    """

    key: str
    status: JobStatus
    owner: str

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class AttemptError:
    """One failed attempt: its number, when it failed (Unix seconds, for people), and how."""

    attempt: int
    at: float
    type: str
    message: str


@dataclass(frozen=True, slots=True)
class History:
    """What a job has been through before this run.

    Attributes:
        failures: runs that raised; what `attempts` counts.
        interruptions: runs ended by shutdown or cancellation.
        snoozes: runs that asked to be run again without failing.
        crashes: runs that ended with their worker or lost their lease.
        elapsed: seconds since the first run started, when this record was made.
        errors: the last failed attempts, oldest first.
    """

    failures: int = 0
    interruptions: int = 0
    snoozes: int = 0
    crashes: int = 0
    elapsed: float = 0.0
    errors: tuple[AttemptError, ...] = ()

    @property
    def runs(self) -> int:
        """How often the body was started before."""
        return self.failures + self.interruptions + self.snoozes + self.crashes

    def with_interruption(self) -> History:
        return replace(self, interruptions=self.interruptions + 1)

    def with_snooze(self) -> History:
        return replace(self, snoozes=self.snoozes + 1)

    def with_crashes(self, crashes: int) -> History:
        return self if crashes == self.crashes else replace(self, crashes=crashes)


NO_HISTORY = History()


class Running(Protocol):
    """What stays the same over all runs of a job.

    Attributes:
        name: the task's.
        attempts: how many runs may fail; None = no limit.
        ref: the job.
        key_digest: what makes jobs the same work, or None.
    """

    @property
    def name(self) -> str: ...
    @property
    def attempts(self) -> int | None: ...
    @property
    def ref(self) -> JobRef: ...
    @property
    def key_digest(self) -> str | None: ...


class Run(NamedTuple):
    """One run of a body, as it was when it began; `current_job()` reads it."""

    job: Running
    history: History
    fence: int | None


FirstRun = list[Any]
"""`[task, attempts, started, ref or None]`: a first in-process run without a claim.

A list, because it is made on every call of a task that only retries: an instance of a class costs
as much as the call itself. The job gets its id when somebody asks for it.
"""


class _FirstJob(NamedTuple):
    name: str
    attempts: int | None
    ref: JobRef
    key_digest: str | None = None


def ref_of(values: FirstRun) -> JobRef:
    """The job of such a run."""
    if values[3] is None:
        values[3] = JobRef(LOCAL, new_local_id()[0])
    ref: JobRef = values[3]
    return ref


def new_local_id() -> tuple[str, str]:
    """The id of a job that no queue has handed out, and a token for its first claim: random texts.

    Together, since to ask the system for randomness takes longer than all the rest.
    """
    random = urandom(25)
    return random[:16].hex(), b2a_base64(random[16:], newline=False).decode()


@dataclass(frozen=True, slots=True)
class Job:
    """The job that is running here, as `current_job()` shows it.

    Attributes:
        task: the task's name as its queue knows it, or `module.qualname` in-process.
        id: the queue's id of the job, or one made up in-process.
        queue: the queue's name, `"local"` in-process.
        attempt: which run of the body this is, 1-based.
        failures: earlier runs that raised.
        interruptions: earlier runs ended by shutdown or cancellation.
        crashes: earlier runs that ended with their worker.
        remaining: runs left if this one fails; None = no limit.
        last_error: how the last failed run failed, or None.
        key: what makes jobs the same work, or None without `@deduplicated`.
        fence: strictly rising number of this claim, to hand to storage that can refuse
            older ones; None without `@deduplicated`.
        idempotency_key: stable over all attempts, to hand to an API that takes one.
    """

    task: str
    id: str
    queue: str
    attempt: int
    failures: int
    interruptions: int
    crashes: int
    remaining: int | None
    last_error: AttemptError | None
    key: str | None
    fence: int | None
    idempotency_key: str = field(repr=False)


current_run: ContextVar[Run | FirstRun | None] = ContextVar("jobguard_run", default=None)


def current_job() -> Job:
    """The job that is running in this task or one it started.

    Raises:
        NoCurrentJob: outside a guarded task.
    """
    run = current_run.get()
    if run is None:
        raise NoCurrentJob(
            "no guarded task is running here; call current_job() inside a function decorated with "
            "@deduplicated, @retrying or another decorator of jobguard"
        )
    if isinstance(run, list):
        run = Run(_FirstJob(run[0], run[1], ref_of(run)), NO_HISTORY, None)
    job, history = run.job, run.history
    ref, key, attempts = job.ref, job.key_digest, job.attempts
    remaining = None if attempts is None else max(attempts - history.failures - 1, 0)
    source = ref.identity if key is None else key
    return Job(
        task=job.name,
        id=ref.id,
        queue=ref.queue,
        attempt=history.runs + 1,
        failures=history.failures,
        interruptions=history.interruptions,
        crashes=history.crashes,
        remaining=remaining,
        last_error=history.errors[-1] if history.errors else None,
        key=key,
        fence=run.fence,
        idempotency_key=blake2b(source.encode(), digest_size=16, person=b"jobguard-idem").hexdigest(),
    )
