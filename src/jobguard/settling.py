"""Writing down what a delivery came to, and what follows if that is refused or impossible."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import NoReturn

from jobguard import events
from jobguard.case import Answer, Case, Phase
from jobguard.decision import leaves
from jobguard.errors import GiveUp, LeaseLost, RetriesExhausted, StoreError
from jobguard.history import unpack
from jobguard.keeping import put, tell_and_trim
from jobguard.leases import new_token
from jobguard.letters import to_text
from jobguard.persistence import persist
from jobguard.policies import DeadLettering
from jobguard.replays import DISCARDED, SUCCEEDED, resolve
from jobguard.stores.base import SettleReply, State, Verdict
from jobguard.stores.letters import DeadLetter, Kept

INTERRUPTION_BOUND = 2.0
"""Seconds that recording an interruption may hold a cancellation up."""
OUTAGE_PAUSE = 5.0
"""Seconds after which a queue delivers a job again that an outage of the store held up."""


async def settle(
    case: Case,
    state: State,
    event: events.Event | None,
    *,
    lasts: float = 0.0,
    body: str | None = None,
    letter: DeadLetter | None = None,
) -> None:
    """Write an outcome, then what follows for a dead letter, and then tell of it, if there is an event.

    Again while the store is out of reach, until the lease ends; to the end if the caller is
    cancelled meanwhile. A refusal means that another claim has taken over: the outcome is not ours
    to record.
    """
    case.phase = Phase.RETRYING if state is State.RETRY else Phase.SETTLED
    follow_up = _follow_up(case, state, letter)
    if follow_up is None and not case.writes:
        if event is not None:
            case.runtime.emit(event)
        return
    if case.held is None and case.delivery.lost:
        # Without a claim there is no fence: what keeps two runs apart is the queue's own lock.
        await leave_to_other(case, f"the queue's lock on {case.task.name} ended while it ran")
    settlement = None
    if case.writes:
        settlement = case.settlement(state, lasts, body if letter is None else to_text(letter))
    store = case.runtime.store
    step = "settle"

    async def write() -> SettleReply:
        nonlocal step
        step = "settle"
        kept: Kept | None = None
        reply = SettleReply(True) if settlement is None else await store.settle(settlement)
        if reply.accepted:
            if follow_up is not None:
                step, change = follow_up
                kept = await change()
            if event is not None:
                case.runtime.emit(event)
            if kept is not None and letter is not None:
                await tell_and_trim(case.runtime, case.letter_queue, letter, _policy(case), kept)
        return reply

    def failed(error: StoreError) -> None:
        case.told(step)(error)

    until = case.lease_end if case.held is None else case.held.until
    try:
        reply = await persist(write, failed, until, case.runtime.background)
    except StoreError as error:
        await outcome_lost(case, state, error)
        if letter is None and event is not None:  # it came to that all the same; a dead letter did not
            case.runtime.emit(event)
        return
    case.recorded = True
    if not case.let_go() and case.held is not None:
        await case.runtime.heartbeat.settled(case.held)
    if not reply.accepted:
        case.tell(
            events.OutcomeRefused,
            outcome=state.status,
            fence=case.fence,
            owner=reply.owner,
            owner_fence=reply.fence,
        )
        await leave_to_other(
            case,
            f"the outcome of {case.task.name} was refused: {reply.owner!r} holds its key under fence "
            f"{reply.fence}",
        )


def _follow_up(
    case: Case, state: State, letter: DeadLetter | None
) -> tuple[str, Callable[[], Awaitable[Kept | None]]] | None:
    """What an outcome changes among the dead letters, and its name: nothing, for most."""
    if letter is not None:
        return "put_letter", lambda: _keep(case, letter)
    replay = case.delivery.replay
    if replay is None or not state.ended:
        return None
    # What fails without a letter of its own was discarded: a replay always has a letter else.
    resolution = SUCCEEDED if state is State.SUCCESS else DISCARDED

    async def change() -> None:
        await resolve(case.runtime.store, case.letter_queue, replay, resolution)

    return "resolve_letter", change


async def _keep(case: Case, letter: DeadLetter) -> Kept | None:
    return await put(case.runtime.store, case.letter_queue, letter, _policy(case), case.delivery.replay)


def _policy(case: Case) -> DeadLettering:
    policy = case.plan.dead_lettering
    return DeadLettering() if policy is None else policy


async def keep_letter(case: Case, letter: DeadLetter) -> None:
    """Keep the dead letter of a job that ended in an earlier run, trying as long as a lease lasts."""

    async def write() -> None:
        kept = await _keep(case, letter)
        if kept is not None:
            await tell_and_trim(case.runtime, case.letter_queue, letter, _policy(case), kept)

    await _persist(case, "put_letter", write, State.DEAD_LETTER)


async def end_replay(case: Case, resolution: str) -> None:
    """Write down, for the letter of a replay, that its job needed no run."""
    replay = case.delivery.replay
    if replay is not None:
        store, queue = case.runtime.store, case.letter_queue
        await _persist(
            case, "resolve_letter", lambda: resolve(store, queue, replay, resolution), State.SUCCESS
        )


async def _persist(case: Case, step: str, write: Callable[[], Awaitable[object]], state: State) -> None:
    try:
        await persist(write, case.told(step), case.lease_end, case.runtime.background)
    except StoreError as error:
        await outcome_lost(case, state, error)


async def outcome_lost(case: Case, state: State, error: StoreError) -> None:
    """Say loudly that an outcome could not be written. A success stands; the rest is tried again."""
    case.tell(events.OutcomeLost, outcome=state.status, error=repr(error))
    if state is not State.SUCCESS and case.delivery.terms.durable:
        await case.delivery.give_back(OUTAGE_PAUSE, error)


async def leave_to_other(case: Case, why: str) -> NoReturn:
    """End this delivery without a word on the job: it belongs to whoever holds the lease."""
    await case.delivery.give_back(case.runtime.lease, LeaseLost(why))


async def answer_or_raise(
    case: Case, error: Exception, *, fall_back: bool, exhausted: bool = False
) -> Answer:
    """`@fallback`'s answer if it covers the error; else the error, or that no run is left."""
    fallback = case.plan.fallback
    covered = fallback is not None and any(isinstance(each, fallback.on) for each in (error, *leaves(error)))
    if fallback is not None and fall_back and covered:
        case.tell(events.FellBack, error=case.describe(error))
        answer = fallback.answer
        value = answer(error, *case.args, **case.kwargs) if callable(answer) else answer
        return Answer(await value if inspect.isawaitable(value) else value)
    if exhausted:
        what = f"gave up: {case.message(error)}" if isinstance(error, GiveUp) else "has no run left"
        raise RetriesExhausted(f"{case.task.name} {what}") from error
    raise error


async def interrupted(case: Case) -> None:
    """Record that this run was cut off, once, in bounded time, whatever cancels us meanwhile."""
    phase, writes = case.phase, case.writes
    case.phase = Phase.SETTLED  # whoever cancels us meanwhile has us come here again
    if phase is Phase.SETTLED or case.delivery.lost:
        return
    if phase is Phase.IDLE:
        # No run has begun. A queue that counts deliveries would take this one for a crash.
        await case.runtime.background.see_through(case.delivery.uncount, INTERRUPTION_BOUND)
        return
    if phase is Phase.RETRYING and case.delivery.terms.durable:
        return  # the failure is recorded, and the queue delivers the job again
    attempt = case.history.runs + 1
    recorded: list[bool] = []

    async def record() -> None:
        try:
            recorded.append(await record_interruption(case, phase))
        except StoreError as error:
            case.told("settle")(error)

    try:
        if writes:
            await case.runtime.background.see_through(record, INTERRUPTION_BOUND)
    finally:
        case.tell(events.Interrupted, attempt=attempt, recorded=recorded == [True])


async def record_interruption(case: Case, phase: Phase) -> bool:
    """Add an interruption to the record, and free the key for others."""
    deduplication = case.plan.deduplication
    if phase is Phase.CLAIMING and case.key is not None and deduplication is not None:
        # The server may have granted the claim: asking again under the same token tells, and
        # brings the history that the interruption is added to.
        reply = await case.runtime.store.claim(case.claim_request(case.key, deduplication))
        if reply.verdict is not Verdict.GRANTED:
            return False
        case.fence = reply.fence
        case.history, case.offset = unpack(reply.history, reply.elapsed)
    case.history = case.history.with_interruption()
    settlement = case.settlement(State.INTERRUPTED)
    if phase is Phase.RETRYING:
        # The claim was settled as RETRY already; without a fence a job changes its own record.
        settlement = settlement._replace(fence=None, token=new_token())
    case.delivery.interrupted(settlement)
    return (await case.runtime.store.settle(settlement)).accepted
