"""What the engine asks of whoever delivers a job: a queue's adapter, or the caller in-process."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NoReturn, Protocol, runtime_checkable
from urllib.parse import quote, unquote

from jobguard.errors import ConfigurationError, JobGuardError, Signal
from jobguard.job import JobRef
from jobguard.policies import check_name, check_namespace
from jobguard.stores.base import Settlement
from jobguard.stores.letters import LetterQueue


@dataclass(frozen=True, slots=True)
class Terms:
    """What a queue lays down for the jobs that it delivers.

    Attributes:
        attempts: the default for `attempts` where the task says nothing; None = the task's own.
        unasked: the limit for a task without `@retrying`, whose runs are repeated only at its own
            request (`RetryLater`, a queue's control flow).
        single: True where the queue is set never to run a job twice.
        limit: seconds that one attempt may take; None = no limit.
        durable: whether a job is delivered again after its worker has gone, so that its history
            must be written down.
        keep_ended: seconds for which the record of an ended job is kept for a late redelivery.
    """

    attempts: int | None = None
    unasked: int = 1
    single: bool = False
    limit: float | None = None
    durable: bool = False
    keep_ended: float = 0.0


@dataclass(frozen=True, slots=True)
class Replay:
    """Which dead letter a job runs again.

    Attributes:
        queue: the letter's dead letter queue.
        id: of the letter.
        number: 1 for its first replay.
        force: the work is to be done even if another job with its key has done it.
        variant: which arguments it is for, once they were edited; "" = those that they were at first.
    """

    queue: LetterQueue
    id: str
    number: int
    force: bool = False
    variant: str = ""

    @property
    def job_id(self) -> str:
        """The id of the job: the same however often it is asked for, so that it is enqueued once."""
        where = ":".join(quote(part, safe="") for part in (*self.queue, self.id))
        return f"replay:{where}:{self.number}" + (f":{self.variant}" if self.variant else "")


def replay_of(job_id: str) -> Replay | None:
    """The replay whose job has this id, if it is such an id."""
    kind, *parts = job_id.split(":")
    if kind != "replay" or len(parts) not in (4, 5) or not re.fullmatch("[1-9][0-9]{0,14}", parts[3]):
        return None
    namespace, name, id = map(unquote, parts[:3])
    try:  # somebody else may have made it up
        queue = LetterQueue(check_namespace(namespace), check_name("queue", name))
    except ConfigurationError:
        return None
    return Replay(queue, id, int(parts[3]), variant="".join(parts[4:]))


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """A job for a queue, made of a dead letter.

    Attributes:
        replay: which letter.
        queue: the queue's name.
        task: the task's name as that queue knows it.
        payload, payload_format: as in the letter; never None.
    """

    replay: Replay
    queue: str
    task: str
    payload: str
    payload_format: str


@runtime_checkable
class Requeuer(Protocol):
    """A queue library's way to take jobs: what `DeadLetterQueue.requeue` enqueues through.

    Attributes:
        adapter: the library's name, as in `DeadLetter.adapter`.
    """

    @property
    def adapter(self) -> str: ...

    async def enqueue(self, job: ReplayJob) -> bool:
        """Put a job into its queue; False = a job with its id is known there, waiting, running or ended.

        Raises:
            LetterRefused: this job cannot be put there.
            StoreError: the queue did not answer, or refused.
        """
        ...

    async def pending(self, queue: str, job_id: str) -> bool:
        """Whether a job waits or runs.

        Raises:
            StoreError: the queue did not answer, or refused.
        """
        ...


def served_name(adapter: str, queue: str, task: str) -> str:
    """What a worker announces for each task that it serves."""
    return f"{adapter}:{quote(queue, safe='')}:{task}"


class Delivery(Protocol):
    """One delivery of one job.

    Attributes:
        adapter: the queue library's name, `"local"` in-process.
        ref: the job.
        identity: what `ref.identity` says.
        token: random text of this delivery, for the first claim.
        task: the task's name as the queue knows it; None = the task's own name.
        number: how often the job has been delivered, this time included; 1-based.
        terms: what the queue lays down.
        payload: the job as the queue stores it; None = there is no such thing.
        lost: the queue's own lock on the job is over; another delivery of it may be running.
        replay: the dead letter that the job runs again, or None.
    """

    @property
    def adapter(self) -> str: ...
    @property
    def ref(self) -> JobRef: ...
    @property
    def identity(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def task(self) -> str | None: ...
    @property
    def number(self) -> int: ...
    @property
    def terms(self) -> Terms: ...
    @property
    def payload(self) -> bytes | None: ...
    @property
    def lost(self) -> bool: ...
    @property
    def replay(self) -> Replay | None: ...

    def signal_in(self, error: Exception) -> Signal | None:
        """The signal that the queue's own control-flow exception stands for, if it is one."""
        ...

    async def expires(self) -> float | None:
        """Seconds after which the queue will not run the job any more; None = no such limit."""
        ...

    async def later(self, delay: float) -> None:
        """Have the job run again after `delay` seconds.

        A queue's delivery ends here, by the exception that the queue knows. In-process it sleeps.
        """
        ...

    async def give_back(self, delay: float, error: JobGuardError) -> NoReturn:
        """End this delivery without an outcome and without counting it: `error` prevented a run.

        A queue delivers the job again after `delay` seconds; in-process `error` is raised.
        """
        ...

    async def uncount(self) -> None:
        """Take this delivery out of the queue's count: nothing was run. Never raises."""
        ...

    def interrupted(self, settlement: Settlement | None) -> None:
        """Told what was recorded of a cancelled run, for a queue that finds out later why it was."""
        ...


class Ticket:
    """A delivery on its way to the task: the first guard that starts takes it, once.

    Args:
        delivery: of the job.
        context: what the queue hands to every task as its first argument; None = nothing.
    """

    __slots__ = ("_context", "_delivery")

    def __init__(self, delivery: Delivery, context: object = None) -> None:
        self._delivery: Delivery | None = delivery
        self._context = context

    def fills_first(self, args: tuple[object, ...]) -> bool:
        """Whether a call's first argument is the queue's and none of the job's, whatever its name."""
        return bool(args) and self._context is not None and args[0] is self._context

    @property
    def taken(self) -> bool:
        """Whether a guard has started, which so tells how the job ends."""
        return self._delivery is None

    def take(self) -> Delivery | None:
        delivery, self._delivery = self._delivery, None
        return delivery


arriving: ContextVar[Ticket | None] = ContextVar("jobguard_delivery", default=None)
"""Set by an adapter around the call of a task."""
