"""One delivery of one job, from start to settlement.

    claim → run under lease, limit and heartbeat → decide → settle

Every step that changes the store is one operation. A run without `@deduplicated` claims nothing,
and in-process it touches the store only to keep a dead letter.
"""

from __future__ import annotations

import inspect
import secrets
import time
from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple, NoReturn

import anyio

from jobguard.adapters.base import Delivery
from jobguard.codec import clip
from jobguard.decision import Action, Decision, attempts_of, crash_limit, decide
from jobguard.errors import (
    CrashLimitExceeded,
    Discard,
    DuplicateJob,
    GiveUp,
    LeaseLost,
    NotEncodable,
    PayloadMismatch,
    ResultNotStored,
    RetriesExhausted,
    Signal,
    StoreError,
    Undeliverable,
)
from jobguard.events import (
    DeadLettered,
    Deferred,
    DuplicateReplayed,
    DuplicateSkipped,
    Event,
    Failed,
    FellBack,
    Interrupted,
    OutcomeLost,
    OutcomeRefused,
    PayloadMismatched,
    RanUnguarded,
    ResultDropped,
    RetryScheduled,
    Snoozed,
    StoreFailed,
    Succeeded,
    TakenOver,
)
from jobguard.events import LeaseLost as LeaseLostEvent
from jobguard.history import add_failure, pack, unpack
from jobguard.job import NO_HISTORY, AttemptError, Duplicate, JobStatus, Run, _current
from jobguard.keys import Key
from jobguard.leases import Held
from jobguard.letters import (
    MESSAGE_LIMIT,
    Arguments,
    End,
    from_text,
    letter_id,
    message_of,
    to_text,
    type_name,
    write_letter,
)
from jobguard.policies import Deduplication
from jobguard.runtime import Runtime
from jobguard.scopes import Deadline
from jobguard.stores.base import (
    Claim,
    ClaimReply,
    Settlement,
    SettleReply,
    State,
    Verdict,
)
from jobguard.task import Task

RESULT_LIMIT = 64 * 1024
"""Characters of a stored result; a longer one is recorded without its value."""
UNFINISHED = 30 * 86_400.0
"""Seconds for which a record that is not finished is kept past its lease or due time."""
INTERRUPTION_BOUND = 2.0
"""Seconds that recording an interruption may hold a cancellation up."""
SETTLE_PAUSE, SETTLE_PAUSE_CAP = 0.1, 2.0
"""Seconds between tries to write an outcome while the store is out of reach."""
WAIT_PAUSE, WAIT_PAUSE_CAP = 0.05, 1.0
"""Seconds between looks at another job's record while waiting for it."""
OUTAGE_PAUSE = 5.0
"""Seconds after which a queue delivers a job again that an outage of the store kept from running."""


class Answer(NamedTuple):
    """What a delivery returns without running the body."""

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


_LOST = object()


async def execute(
    task: Task, runtime: Runtime, delivery: Delivery, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> object:
    """Carry a delivery through: claim, run, and again as long as the delivery allows it."""
    return await Execution(task, runtime, delivery, args, kwargs).carry_through()


async def recover(
    task: Task,
    runtime: Runtime,
    delivery: Delivery,
    run: Run,
    error: Exception,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> object:
    """Go on after a first in-process run that needed no claim and failed."""
    execution = Execution(task, runtime, delivery, args, kwargs)
    execution.started = run.started
    return await execution.carry_through(error)


class Execution:
    """One delivery on its way: the state that its steps share."""

    __slots__ = (
        "args",
        "attempts",
        "delivery",
        "fence",
        "held",
        "history",
        "identity",
        "key",
        "kwargs",
        "loaded",
        "offset",
        "pause",
        "phase",
        "plan",
        "record_key",
        "recorded",
        "runtime",
        "started",
        "task",
        "token",
        "waiting",
    )

    def __init__(
        self,
        task: Task,
        runtime: Runtime,
        delivery: Delivery,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> None:
        self.task = task
        self.plan = task.plan
        self.runtime = runtime
        self.delivery = delivery
        self.args = args
        self.kwargs = kwargs
        self.identity = delivery.ref.identity
        terms = delivery.terms
        self.attempts = 1 if terms.single else attempts_of(task.plan, terms.attempts, terms.unasked)
        self.key: Key | None = None
        self.record_key = ""
        if task.make_key is not None:
            self.key = task.make_key(args, kwargs)
            self.record_key = runtime.record_key(self.key.digest)
        elif delivery.terms.durable:
            self.record_key = runtime.record_key(letter_id(self.identity))
        self.token = ""
        self.fence: int | None = None
        self.held: Held | None = None
        self.history = NO_HISTORY
        self.offset = 0.0
        self.loaded = False
        self.recorded = False
        self.pause = WAIT_PAUSE
        self.waiting = False
        self.phase = Phase.IDLE
        self.started = time.monotonic()

    async def carry_through(self, error: Exception | None = None) -> object:
        """Run to an answer; `error` is how a first run has failed already."""
        try:
            answer = None if error is None else await self.failed(error)
            while answer is None:
                answer = await self.once()
            return answer.value
        except anyio.get_cancelled_exc_class():
            await self.interrupted()
            raise
        finally:
            self.let_go()

    async def once(self) -> Answer | None:
        """One run from claim to outcome; None = it is to be run again, now."""
        answer = await self.begin()
        if answer is not None:
            return answer
        self.phase = Phase.RUNNING
        if self.history.crashes >= crash_limit(self.plan):
            return await self.crashed_too_often()
        try:
            result = await self.run_body()
        except Exception as error:
            return await self.failed(error)
        if result is _LOST:
            self.phase = Phase.SETTLED
            self.tell(LeaseLostEvent, fence=self.fence)
            await self.leave_to_other(f"the lease of {self.task.name} ended while it ran")
        await self.succeeded(result)
        return Answer(result)

    # claim

    async def begin(self) -> Answer | None:
        """Claim the key, or read the job's history; an answer means that nothing is to be run."""
        deduplication = self.plan.deduplication
        try:
            while deduplication is not None and self.key is not None and self.record_key:
                reply = await self.claim(self.key, deduplication)
                if reply.verdict is Verdict.GRANTED:
                    self.take(reply)
                    return None
                answer = await self.refused(reply, self.key, deduplication)
                if answer is not None:
                    return answer
            if not self.loaded and self.delivery.number > 1:
                return await self.load_history()
        except StoreError as error:
            await self.without_store(error)
        return None

    async def claim(self, key: Key, deduplication: Deduplication) -> ClaimReply:
        """Send one claim under a new token, its lease counted from now on our own clock."""
        self.let_go()
        self.token = secrets.token_urlsafe(9)
        self.held = Held(self.record_key, self.token, anyio.current_time() + self.runtime.lease)
        self.phase = Phase.CLAIMING
        reply = await self.runtime.store.claim(self.claim_request(key, deduplication))
        self.phase = Phase.IDLE
        return reply

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

    def take(self, reply: ClaimReply) -> None:
        """Hold what was granted."""
        assert self.held is not None
        self.fence = reply.fence
        self.history, self.offset = unpack(reply.history, reply.crashes, reply.elapsed)
        self.started = time.monotonic() - self.history.elapsed
        self.runtime.heartbeat.add(self.held)
        left = reply.state is not None and not reply.state.ended
        if left and (reply.owner != self.identity or (reply.crashes > 0 and reply.state is State.PROCESSING)):
            self.tell(TakenOver, owner=reply.owner, fence=reply.fence, crashes=reply.crashes)

    async def refused(self, reply: ClaimReply, key: Key, deduplication: Deduplication) -> Answer | None:
        """What the table of `@deduplicated` says; None = look again, since the other has moved on."""
        mine = reply.owner == self.identity
        if reply.verdict is Verdict.ENDED:
            return await self.already_ended(reply.state, reply.body)
        if not mine and reply.fingerprint != key.fingerprint:
            if not self.waiting:
                self.tell(PayloadMismatched, owner=reply.owner)
            if deduplication.mismatch == "raise":
                raise PayloadMismatch(key.digest, reply.owner)
        if reply.verdict is Verdict.SUCCEEDED:
            return self.already_done(reply, deduplication, mine)
        if reply.verdict is Verdict.BUSY or deduplication.running in ("wait", "defer"):
            await self.wait_for_other(reply)
            return None
        return self.duplicate(reply, deduplication.running)

    async def wait_for_other(self, reply: ClaimReply) -> None:
        delay = max(reply.wait, WAIT_PAUSE_CAP)
        if not self.delivery.terms.durable:
            delay = min(delay, self.pause)
            self.pause = min(self.pause * 2, WAIT_PAUSE_CAP)
        if not self.waiting:
            self.waiting = True
            reason = "busy" if reply.verdict is Verdict.BUSY else "running"
            self.tell(Deferred, delay=delay, reason=reason)
        await self.delivery.later(delay)

    def already_done(self, reply: ClaimReply, deduplication: Deduplication, mine: bool) -> Answer:
        """Answer from a success: this job's own, or another's within its ttl."""
        if not mine and deduplication.done != "replay":
            return self.duplicate(reply, deduplication.done)
        self.tell(DuplicateReplayed, owner=reply.owner, own=mine)
        if reply.body is not None:
            try:
                return Answer(self.runtime.codec.decode(reply.body, self.task.returns))
            except NotEncodable as error:
                self.tell(ResultDropped, reason=str(error))
        if self.task.plain_result and not mine:
            raise ResultNotStored(
                f"{self.task.name} succeeded before, but its result was not stored (too large, or no "
                "encoding); return less, annotate the return type, or use done='skip'"
            )
        return Answer(Duplicate(self.key_text, JobStatus.SUCCESS, reply.owner))

    def duplicate(self, reply: ClaimReply, mode: str) -> Answer:
        assert reply.state is not None
        status = reply.state.status
        self.tell(DuplicateSkipped, status=status, owner=reply.owner)
        if mode == "raise":
            raise DuplicateJob(self.key_text, status, reply.owner)
        return Answer(Duplicate(self.key_text, status, reply.owner))

    async def load_history(self) -> Answer | None:
        """The history of a redelivered job that holds no claim: runs without an end are crashes."""
        self.loaded = True
        record = await self.runtime.store.look_up(self.record_key)
        if record is not None:
            self.recorded = True
            if record.state is State.SUCCESS:
                return Answer(self.runtime.codec.decode(record.body or "null", self.task.returns))
            if record.state.ended:
                return await self.already_ended(record.state, record.body)
            self.history, self.offset = unpack(record.history, 0, record.elapsed)
        crashes = max(self.delivery.number - 1 - self.history.runs, 0)
        self.history = self.history.with_crashes(crashes)
        self.started = time.monotonic() - self.history.elapsed
        if crashes:
            self.tell(TakenOver, owner=self.identity, fence=0, crashes=crashes)
        return None

    async def already_ended(self, state: State | None, body: str | None) -> Answer:
        """The job ended before, but its queue was not told: finish that, and run nothing."""
        if state is State.DEAD_LETTER and body is not None:
            letter = from_text(body)
            await self.keep_letter(body, letter.id)
            raise RetriesExhausted(
                f"the job had become a dead letter before: {letter.error_type}: {letter.error_message}"
            )
        raise RetriesExhausted(f"the job had failed before: {body}")

    async def without_store(self, error: StoreError) -> None:
        """The store is out of reach before the run: as `on_store_error` says."""
        self.tell(StoreFailed, operation="claim", error=repr(error))
        if self.runtime.on_store_error == "raise":
            await self.delivery.give_back(OUTAGE_PAUSE, error)
        self.held = None
        self.token = ""
        self.record_key = ""
        self.tell(RanUnguarded, error=repr(error))

    # run

    async def run_body(self) -> object:
        """Run the body once, under its lease and its limit; `_LOST` if the lease ended first."""
        run = Run(self.task.name, self.attempts, self.delivery.ref, self.history, self.key_digest, self.fence)
        mark = _current.set(run)
        try:
            if self.held is None:
                return await self.run_limited()
            async with self.held.deadline():
                return await self.run_limited()
            return _LOST
        finally:
            _current.reset(mark)

    async def run_limited(self) -> object:
        limit, what = self.limit()
        if limit is None:
            return await self.task.fn(*self.args, **self.kwargs)
        async with Deadline(anyio.current_time() + limit):
            return await self.task.fn(*self.args, **self.kwargs)
        raise TimeoutError(f"{self.task.name} was cancelled: it ran into {what} of {limit:g} s")

    def limit(self) -> tuple[float | None, str]:
        """The shortest of the limits that bound this attempt, and its name."""
        limits: list[tuple[float, str]] = []
        if self.plan.time_limit is not None:
            limits.append((self.plan.time_limit.seconds, "its time limit"))
        if self.delivery.terms.limit is not None:
            limits.append((self.delivery.terms.limit, "the worker's job timeout"))
        retrying = self.plan.retrying
        if retrying is not None and retrying.deadline is not None:
            limits.append((max(retrying.deadline - self.elapsed, 0.0), "what was left of its deadline"))
        return min(limits) if limits else (None, "")

    # settle

    async def succeeded(self, result: object) -> None:
        if self.held is not None or self.recorded:
            deduplication = self.plan.deduplication
            ttl = 0.0 if deduplication is None else deduplication.ttl
            await self.settle(State.SUCCESS, lasts=ttl, body=self.encode_result(result))
        self.tell(Succeeded, attempt=self.history.runs + 1, seconds=self.elapsed - self.history.elapsed)

    def encode_result(self, result: object) -> str | None:
        try:
            text = self.runtime.codec.encode(result, self.task.returns)
        except NotEncodable as error:
            reason = str(error)
        else:
            if len(text) <= RESULT_LIMIT:
                return text
            reason = f"{len(text)} characters are over the limit of {RESULT_LIMIT}"
        self.tell(ResultDropped, reason=reason)
        return None

    async def failed(self, error: Exception) -> Answer | None:
        """Decide what follows from a failed run: None = run again now, else the job has ended here."""
        signal = self.delivery.signal_in(error)
        elapsed = self.elapsed
        decision = decide(
            self.plan,
            self.history,
            error,
            attempts=self.attempts,
            elapsed=elapsed,
            signal=signal,
            expires=await self.delivery.expires(),
        )
        if decision.counted:
            self.history = add_failure(self.history, self.attempt_error(error))
        if decision.action is Action.FAIL:
            return await self.end(error, decision, isinstance(signal or error, Signal))
        if decision.action is Action.SNOOZE:
            self.history = self.history.with_snooze()
        await self.settle(State.RETRY, lasts=decision.delay)
        if decision.action is Action.SNOOZE:
            self.tell(Snoozed, delay=decision.delay, reason=message_of(error))
        else:
            self.tell(
                RetryScheduled,
                attempt=self.history.runs,
                failures=self.history.failures,
                delay=decision.delay,
                error=self.describe(error),
            )
        await self.delivery.later(decision.delay)
        return None

    async def end(self, error: Exception, decision: Decision, control_flow: bool) -> Answer:
        """No run is left: record it, keep the dead letter, and answer or raise."""
        policy = self.plan.dead_lettering
        recorded = _recorded(error)
        reason = error.reason if isinstance(error, Undeliverable) else decision.reason
        if decision.dead_letter and policy is not None:
            letter = write_letter(
                self.end_record(recorded, reason), policy, self.runtime.codec, self.call_record(error)
            )
            text = to_text(letter)
            await self.settle(State.DEAD_LETTER, lasts=0.0, body=text)
            if await self.keep_letter(text, letter.id):
                self.tell(
                    DeadLettered,
                    queue=policy.queue,
                    id=letter.id,
                    reason=reason,
                    error=self.describe(recorded),
                )
        else:
            await self.settle(State.FAILED, lasts=0.0, body=self.describe(recorded))
            self.tell(Failed, reason=reason, error=self.describe(recorded))
        fallback = self.plan.fallback
        if fallback is not None and decision.fall_back and isinstance(error, fallback.on):
            self.tell(FellBack, error=self.describe(error))
            return Answer(await self.fall_back(fallback.answer, error))
        error.add_note(
            f"jobguard: attempt {self.history.runs} of {self.task.name}, {self.elapsed:.3g} s after the first began"
        )
        if control_flow and not isinstance(error, Discard):
            raise RetriesExhausted(f"{self.task.name} has no run left ({decision.reason})") from error
        raise error

    async def fall_back(self, answer: object, error: Exception) -> object:
        value = answer(error, *self.args, **self.kwargs) if callable(answer) else answer
        return await value if inspect.isawaitable(value) else value

    async def crashed_too_often(self) -> Answer:
        """End a job that takes its worker down with it."""
        error = CrashLimitExceeded(
            f"{self.task.name} ended together with its worker {self.history.crashes} times "
            f"(max_crashes={crash_limit(self.plan)})"
        )
        dead_letter = self.plan.dead_lettering is not None
        decision = Decision(
            action=Action.FAIL, reason="crashes", counted=False, dead_letter=dead_letter, fall_back=True
        )
        return await self.end(error, decision, control_flow=False)

    async def interrupted(self) -> None:
        """Record that this run was cut off, in bounded time, whatever cancels us meanwhile."""
        retrying = self.phase is Phase.RETRYING
        if self.phase in (Phase.IDLE, Phase.SETTLED) or self.delivery.lost:
            return
        if retrying and self.delivery.terms.durable:
            return  # the failure is recorded, and the queue delivers the job again
        if not self.writes:
            self.tell(Interrupted, attempt=self.history.runs + 1, recorded=False)
            return
        recorded: list[bool] = []

        async def record() -> None:
            try:
                recorded.append(await self.record_interruption(retrying))
            except StoreError as error:
                self.tell(StoreFailed, operation="settle", error=repr(error))

        try:
            await self.runtime.background.see_through(record, INTERRUPTION_BOUND)
        finally:
            self.tell(Interrupted, attempt=max(self.history.runs, 1), recorded=recorded == [True])

    async def record_interruption(self, retrying: bool) -> bool:
        deduplication = self.plan.deduplication
        if self.phase is Phase.CLAIMING and self.key is not None and deduplication is not None:
            # The server may have granted the claim: asking again under the same token tells, and
            # brings the history that the interruption is added to.
            reply = await self.runtime.store.claim(self.claim_request(self.key, deduplication))
            if reply.verdict is not Verdict.GRANTED:
                return False
            self.fence = reply.fence
            self.history, self.offset = unpack(reply.history, reply.crashes, reply.elapsed)
        self.history = self.history.with_interruption()
        settlement = self.settlement(State.INTERRUPTED, 0.0, None)
        if retrying:
            # The claim was settled as RETRY already; without a fence a job changes its own record.
            settlement = settlement._replace(fence=None, token=secrets.token_urlsafe(9))
        self.delivery.interrupted(settlement)
        return (await self.runtime.store.settle(settlement)).accepted

    async def settle(self, state: State, *, lasts: float, body: str | None = None) -> None:
        """Write an outcome; again while the store is out of reach, until the lease ends.

        A refusal means that another claim has taken over: the outcome is not ours to record.
        """
        self.phase = Phase.RETRYING if state is State.RETRY else Phase.SETTLED
        if not self.writes:
            return None
        settlement = self.settlement(state, lasts, body)
        pause = SETTLE_PAUSE
        last = self.held.until if self.held is not None else anyio.current_time() + self.runtime.lease
        while True:
            try:
                reply = await self.send(settlement)
                break
            except StoreError as error:
                self.tell(StoreFailed, operation="settle", error=repr(error))
                if anyio.current_time() + pause >= last:
                    return await self.outcome_lost(state, error)
                await anyio.sleep(pause)
                pause = min(pause * 2, SETTLE_PAUSE_CAP)
        self.recorded = True
        if self.held is not None:
            await self.runtime.heartbeat.settled(self.held)
        if not reply.accepted:
            await self.fenced_off(state, reply)

    async def send(self, settlement: Settlement) -> SettleReply:
        try:
            return await self.runtime.store.settle(settlement)
        except anyio.get_cancelled_exc_class():
            # The body has ended: its outcome is written even if nobody waits for it any more.
            async def again() -> None:
                try:
                    await self.runtime.store.settle(settlement)
                except StoreError as error:
                    self.tell(OutcomeLost, outcome=settlement.state.status, error=repr(error))

            await self.runtime.background.see_through(again, INTERRUPTION_BOUND)
            raise

    async def fenced_off(self, state: State, reply: SettleReply) -> NoReturn:
        self.tell(
            OutcomeRefused, outcome=state.status, fence=self.fence, owner=reply.owner, owner_fence=reply.fence
        )
        await self.leave_to_other(
            f"the outcome of {self.task.name} was refused: {reply.owner!r} holds its key under fence {reply.fence}"
        )

    async def outcome_lost(self, state: State, error: StoreError) -> None:
        """Say loudly that an outcome could not be written. A success stands; the rest is tried again."""
        self.tell(OutcomeLost, outcome=state.status, error=repr(error))
        if state is not State.SUCCESS and self.delivery.terms.durable:
            await self.delivery.give_back(OUTAGE_PAUSE, error)

    async def leave_to_other(self, why: str) -> NoReturn:
        """End this delivery without a word on the job: it belongs to whoever holds the lease."""
        await self.delivery.give_back(self.runtime.lease, LeaseLost(why))

    async def keep_letter(self, text: str, id: str) -> bool:
        """Put a dead letter into its queue, trying as long as a lease lasts; True = it is there."""
        policy = self.plan.dead_lettering
        queue = self.runtime.letter_queue("default" if policy is None else policy.queue)
        pause = SETTLE_PAUSE
        last = anyio.current_time() + self.runtime.lease
        while True:
            try:
                await self.runtime.store.put_letter(queue, id, text)
                return True
            except StoreError as error:
                self.tell(StoreFailed, operation="put_letter", error=repr(error))
                if anyio.current_time() + pause >= last:
                    await self.outcome_lost(State.DEAD_LETTER, error)
                    return False
                await anyio.sleep(pause)
                pause = min(pause * 2, SETTLE_PAUSE_CAP)

    def settlement(self, state: State, lasts: float, body: str | None) -> Settlement:
        if not self.token:
            self.token = secrets.token_urlsafe(9)
        ended = state.ended
        return Settlement(
            key=self.record_key,
            owner=self.identity,
            token=self.token,
            fence=self.fence,
            state=state,
            lasts=lasts,
            keep=self.delivery.terms.keep_ended if ended else UNFINISHED,
            overdue=self.runtime.lease,
            fingerprint="" if self.key is None else self.key.fingerprint,
            history="" if ended else pack(self.history, self.first_offset),
            body=body,
        )

    # small print

    @property
    def writes(self) -> bool:
        """Whether outcomes go to the store: there is a claim, or a queue that may deliver again."""
        return self.record_key != "" and (self.held is not None or self.delivery.terms.durable)

    @property
    def first_offset(self) -> float:
        """Seconds between the first run's start and the record's, which a claim makes the same."""
        return self.offset if self.recorded or self.fence is not None else self.elapsed

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def key_digest(self) -> str | None:
        return None if self.key is None else self.key.digest

    @property
    def key_text(self) -> str:
        return self.key_digest or ""

    def end_record(self, error: Exception, reason: str) -> End:
        return End(
            adapter=self.delivery.adapter,
            job=self.delivery.ref,
            task=self.delivery.task or self.task.name,
            key=self.key_digest,
            history=self.history,
            error=error,
            reason=reason,
            raw=self.delivery.payload,
        )

    def call_record(self, error: Exception) -> Arguments | None:
        """The job's own arguments, unless the queue could not read them."""
        if isinstance(error, Undeliverable) and error.reason == "undecodable":
            return None
        args, names = self.task.own_arguments(self.args)
        return Arguments(args, self.kwargs, names)

    def attempt_error(self, error: Exception) -> AttemptError:
        return AttemptError(
            self.history.runs + 1, time.time(), type_name(error), clip(message_of(error), MESSAGE_LIMIT)
        )

    def describe(self, error: Exception) -> str:
        return clip(f"{type_name(error)}: {message_of(error)}", MESSAGE_LIMIT)

    def tell(self, kind: type[Event], **values: object) -> None:
        self.runtime.emit(kind(task=self.task.name, job=self.identity, key=self.key_digest, **values))

    def let_go(self) -> None:
        """Renew no longer what this run has held."""
        if self.held is not None:
            self.runtime.heartbeat.discard(self.held)


def _recorded(error: Exception) -> Exception:
    """What a record says went wrong: `raise GiveUp(...) from error` is about `error`."""
    cause = error.__cause__
    return cause if isinstance(error, GiveUp) and isinstance(cause, Exception) else error
