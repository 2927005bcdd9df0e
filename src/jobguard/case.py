"""One delivery on its way: the state that claiming, running and settling share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import NamedTuple

import anyio

from jobguard import events
from jobguard.adapters.base import Delivery
from jobguard.codec import clip, redactor
from jobguard.decision import attempts_of
from jobguard.errors import StoreError, Undeliverable
from jobguard.history import pack
from jobguard.job import NO_HISTORY, History, JobRef
from jobguard.keys import Key
from jobguard.leases import Held, new_token
from jobguard.letters import MESSAGE_LIMIT, Arguments, End, letter_id, message_of, type_name
from jobguard.policies import Deduplication, Policies
from jobguard.runtime import Runtime
from jobguard.stores.base import UNFINISHED, Claim, Settlement, State
from jobguard.stores.letters import LetterQueue
from jobguard.task import Task

WAIT_PAUSE, LONGEST_WAIT_PAUSE = 0.05, 1.0
"""Seconds between looks at another job's record while waiting for it in-process."""
SHORTEST_DEFERRAL = 1.0
"""Seconds after which a queue lets a job look again at another one, at least."""
LEASE_MARGIN = 0.05
"""Seconds past the end of a lease at which a queue lets a job look again."""


class Answer(NamedTuple):
    """What a delivery returns."""

    value: object


class Phase(Enum):
    """How far a delivery has come; says what a cancellation leaves to be recorded."""

    IDLE = auto()
    """Nothing of this run is in the store."""
    CLAIMING = auto()
    """A claim was sent and not answered."""
    RUNNING = auto()
    """The run has begun and has no outcome."""
    RETRYING = auto()
    """The run has failed, and the next one is waited for."""
    SETTLED = auto()
    """The outcome was sent."""


class Case:
    """One delivery of one job: who asks for what, what it holds, and how far it has come."""

    key: Key | None = None
    record_key: str = ""
    mask: Callable[[str], str] | None = None
    also_masked: Callable[[str], str] = str
    token: str = ""
    fence: int | None = None
    sent: float = 0.0
    held: Held | None = None
    history: History = NO_HISTORY
    offset: float = 0.0
    loaded: bool = False
    recorded: bool = False
    pause: float = WAIT_PAUSE
    waiting: bool = False
    phase: Phase = Phase.IDLE

    def __init__(
        self,
        task: Task,
        runtime: Runtime,
        delivery: Delivery,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> None:
        terms = delivery.terms
        self.task: Task = task
        self.plan: Policies = task.plan
        if terms.single and task.plan.retrying is not None:
            self.plan = replace(task.plan, retrying=replace(task.plan.retrying, attempts=1, per=()))
        self.runtime: Runtime = runtime
        self.delivery: Delivery = delivery
        self.args: tuple[object, ...] = args
        self.kwargs: Mapping[str, object] = kwargs
        self.identity: str = delivery.identity
        self.started: float = time.monotonic()

    def find_key(self) -> None:
        """Find where the job's record is: under its key, else its own. Raises what a key function does."""
        make_key = self.task.make_key
        try:
            if make_key is not None:
                self.key = make_key(self.args, self.kwargs)
        finally:
            if self.key is not None:
                self.record_key = self.runtime.record_key(self.key.digest)
            elif self.delivery.terms.durable:
                self.record_key = self.runtime.record_key(letter_id(self.identity))

    @property
    def attempts(self) -> int | None:
        """How many runs may fail; None = no limit."""
        terms = self.delivery.terms
        return 1 if terms.single else attempts_of(self.task.plan, terms.attempts, terms.unasked)

    @property
    def name(self) -> str:
        """The task's, as the queue knows it: one name in events, letters and the queue's own tools."""
        return self.delivery.task or self.task.name

    @property
    def ref(self) -> JobRef:
        return self.delivery.ref

    def claim_request(self, key: Key, deduplication: Deduplication) -> Claim:
        return Claim(
            self.record_key,
            self.identity,
            self.token,
            self.runtime.lease,
            UNFINISHED,
            key.fingerprint,
            deduplication.done == "run",
        )

    def settlement(self, state: State, lasts: float = 0.0, body: str | None = None) -> Settlement:
        if self.token == "":
            self.token = new_token()
        # Where there was no claim, the record begins with the first settlement: after the first run.
        first = self.offset if self.recorded or self.fence is not None else self.elapsed
        ended = state.ended
        return Settlement(
            self.record_key,
            self.identity,
            self.token,
            self.fence,
            state,
            lasts,
            self.delivery.terms.keep_ended if ended else UNFINISHED,
            self.runtime.lease,  # how long a retry may be overdue
            "" if self.key is None else self.key.fingerprint,
            "" if ended else pack(self.history, first),
            body,
        )

    def end_record(self, error: Exception, reason: str) -> End:
        return End(
            adapter=self.delivery.adapter,
            job=self.delivery.ref,
            task=self.name,
            key=self.key_digest,
            history=replace(self.history, elapsed=self.elapsed),
            error=error,
            reason=reason,
            raw=self.delivery.payload,
        )

    def arguments(self, error: Exception) -> Arguments | None:
        """The job's own arguments, unless the queue could not read them."""
        if isinstance(error, Undeliverable) and error.reason != "unknown_task":
            return None
        return Arguments(*self.task.own_arguments(self.args, self.kwargs))

    def let_go(self) -> bool:
        """Renew no longer what this run has held. False = a renewal is on its way and may still arrive."""
        return self.held is None or self.runtime.heartbeat.discard(self.held)

    @property
    def writes(self) -> bool:
        """Whether outcomes go to the store: there is a claim, or a queue that may deliver again."""
        claims = self.held is not None or self.phase is Phase.CLAIMING
        return self.record_key != "" and (claims or self.delivery.terms.durable)

    @property
    def letter_queue(self) -> LetterQueue:
        """Where the job's letter is, or would be."""
        replay, policy = self.delivery.replay, self.plan.dead_lettering
        if replay is not None:
            return replay.queue
        return self.runtime.letter_queue("default" if policy is None else policy.queue)

    @property
    def lease_end(self) -> float:
        return anyio.current_time() + self.runtime.lease

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def key_digest(self) -> str | None:
        return None if self.key is None else self.key.digest

    def message(self, error: BaseException) -> str:
        """An error's text without what `redact` names: it goes to logs, records and letters."""
        policy = self.plan.dead_lettering
        if self.mask is None:
            self.mask = str
            if policy is not None and policy.redact:
                args, kwargs, names = self.task.own_arguments(self.args, self.kwargs)
                self.mask = redactor(args, kwargs, names, policy.redact)
        return clip(self.also_masked(self.mask(message_of(error))), MESSAGE_LIMIT)

    def describe(self, error: BaseException) -> str:
        """An error in one line."""
        return f"{type_name(error)}: {self.message(error)}"

    def told(self, operation: str) -> Callable[[StoreError], None]:
        """Something that tells of a failed store operation."""

        def tell(error: StoreError) -> None:
            self.tell(events.StoreFailed, operation=operation, error=repr(error))

        return tell

    def tell(self, kind: type[events.Event], **values: object) -> None:
        if self.hears(kind):
            self.runtime.emit(self.event(kind, **values))

    def hears(self, kind: type[events.Event]) -> bool:
        """Whether anybody would be told of such an event."""
        return events.heard(self.runtime.hooks, kind)

    def event(self, kind: type[events.Event], **values: object) -> events.Event:
        """Something that happens to this job."""
        return kind(task=self.name, job=self.identity, key=self.key_digest, **values)
