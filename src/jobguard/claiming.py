"""From a delivery to the right to run it: claim its key, or find out who has it or has done it."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from jobguard import events
from jobguard.adapters.base import Replay
from jobguard.case import LEASE_MARGIN, LONGEST_WAIT_PAUSE, SHORTEST_DEFERRAL, Answer, Case, Phase
from jobguard.codec import redactor
from jobguard.errors import (
    DuplicateJob,
    NotEncodable,
    PayloadMismatch,
    ResultNotStored,
    RetriesExhausted,
    StoreError,
)
from jobguard.history import unpack
from jobguard.job import NO_HISTORY, Duplicate, JobStatus
from jobguard.keys import Key
from jobguard.leases import Held, new_token, now
from jobguard.letters import from_text
from jobguard.meeting import Course, course_of, took_over
from jobguard.policies import DeadLettering, Deduplication
from jobguard.replays import DISCARDED, DUPLICATE, SUCCEEDED, is_due, letter_behind
from jobguard.settling import OUTAGE_PAUSE, answer_or_raise, end_replay, keep_letter
from jobguard.stores.base import ClaimReply, State, Verdict
from jobguard.stores.letters import DeadLetter, LetterState


async def open_replay(case: Case, replay: Replay) -> Answer | None:
    """See that a dead letter's replay is still to run, and how; an answer means that it is not."""
    letter: DeadLetter | None = None
    answer: Answer | None = None
    try:
        letter = await letter_behind(case.runtime.store, case.letter_queue, replay)
        if letter is not None and letter.state is LetterState.RESOLVED and letter.requeues == replay.number:
            answer = await own_success(case)
    except StoreError as error:
        await without_store(case, error)
    if answer is not None:
        return answer
    if letter is not None and not is_due(letter, replay):
        status = _STANDING[letter.state]
        case.tell(events.DuplicateSkipped, status=status, owner=replay.job_id)
        return Answer(Duplicate(replay.id, status, replay.job_id))
    plan = case.plan
    if plan.dead_lettering is None:  # it has a letter, whatever its task says today
        plan = replace(plan, dead_lettering=DeadLettering(queue=replay.queue.name))
    if letter is not None and letter.redact:
        # What is masked in the letter stays masked, whatever its task calls it today.
        args, kwargs, _ = case.task.own_arguments(case.args, case.kwargs)
        case.also_masked = redactor(args, kwargs, letter.parameters, letter.redact)
    if replay.force and plan.deduplication is not None:
        plan = replace(plan, deduplication=replace(plan.deduplication, done="run", running="defer"))
    case.plan = plan
    return None


async def own_success(case: Case) -> Answer | None:
    """The result of this very job, if it has succeeded and only its queue was not told."""
    with suppress(Exception):  # a key function is the user's code; whoever runs the job sees what it raises
        case.find_key()
    record = await case.runtime.store.look_up(case.record_key) if case.record_key else None
    if record is None or record.state is not State.SUCCESS or record.owner != case.identity:
        return None
    return answer_from_success(case, record.owner, record.body)


_STANDING = {
    LetterState.DEAD: JobStatus.DEAD_LETTER,
    LetterState.REQUEUED: JobStatus.PROCESSING,
    LetterState.RESOLVED: JobStatus.SUCCESS,
}


async def begin(case: Case) -> Answer | None:
    """Claim the key, or read the job's history; an answer means that nothing is to be run."""
    deduplication, key, store = case.plan.deduplication, case.key, case.runtime.store
    try:
        while deduplication is not None and key is not None and case.record_key:
            if case.held is not None:
                case.let_go()
                case.held = None
            case.token = case.delivery.token if case.token == "" else new_token()
            case.sent = time.monotonic()
            case.phase = Phase.CLAIMING
            reply = await store.claim(case.claim_request(key, deduplication))
            case.phase = Phase.IDLE
            course = course_of(reply, deduplication, case.identity)
            if course is Course.RUN:
                take(case, reply)
                return None
            if reply.fingerprint != key.fingerprint and reply.owner != case.identity:
                compare(case, reply, key, deduplication)
            if course is Course.REPLAY:
                await end_replay(case, SUCCEEDED if reply.owner == case.identity else DUPLICATE)
                return answer_from_success(case, reply.owner, reply.body)
            if course is not Course.WAIT:
                return await end_without_run(case, course, reply)
            await wait_for_other(case, reply)
        if case.delivery.number > 1 and not case.loaded and case.record_key:
            return await load_history(case)
    except StoreError as error:
        await without_store(case, error)
    return None


def take(case: Case, reply: ClaimReply) -> None:
    """Hold what was granted."""
    # The lease is counted from before the claim left, by our own clocks: the event loop's has its own zero.
    until = now() - (time.monotonic() - case.sent) + case.runtime.lease
    case.held = Held(case.record_key, case.token, until)
    case.fence = reply.fence
    case.runtime.heartbeat.add(case.held)
    if reply.state is None:  # nothing was known of the key
        if case.history is NO_HISTORY:
            case.started = time.monotonic()
        return
    case.history, case.offset = unpack(reply.history, reply.elapsed)
    case.history = case.history.with_crashes(reply.crashes)
    case.started = time.monotonic() - case.history.elapsed
    if took_over(reply, case.identity):
        case.tell(events.TakenOver, owner=reply.owner, fence=reply.fence, crashes=reply.crashes)


def compare(case: Case, reply: ClaimReply, key: Key, deduplication: Deduplication) -> None:
    """Say, or raise, that a duplicate came with other arguments than the job before it."""
    if not case.waiting:
        case.tell(events.PayloadMismatched, owner=reply.owner)
    if deduplication.mismatch == "raise":
        raise PayloadMismatch(key.digest, reply.owner)


async def wait_for_other(case: Case, reply: ClaimReply) -> None:
    """Let the other go on: a queue brings us back when its lease is over, in-process we look often."""
    least = 0.0 if reply.verdict is Verdict.BUSY else SHORTEST_DEFERRAL
    delay = max(reply.wait + LEASE_MARGIN, least)
    if not case.delivery.terms.durable:
        delay = case.pause
        case.pause = min(case.pause * 2, LONGEST_WAIT_PAUSE)
    if not case.waiting:
        case.waiting = True
        reason = "busy" if reply.verdict is Verdict.BUSY else "running"
        case.tell(events.Deferred, delay=delay, reason=reason)
    await case.delivery.later(delay)


async def end_without_run(case: Case, course: Course, reply: ClaimReply) -> Answer:
    """End as a duplicate that is skipped, or with what is known of this job's own end."""
    if course is Course.CLOSE:
        return await close(case, reply.state, reply.body)
    assert reply.state is not None
    assert case.key is not None
    status = reply.state.status
    case.tell(events.DuplicateSkipped, status=status, owner=reply.owner)
    await end_replay(case, DUPLICATE)
    if course is Course.RAISE:
        raise DuplicateJob(case.key.digest, status, reply.owner)
    return Answer(Duplicate(case.key.digest, status, reply.owner))


def answer_from_success(case: Case, owner: str, body: str | None) -> Answer:
    """Answer from a success: this job's own, or another's within its ttl."""
    mine = owner == case.identity
    case.tell(events.DuplicateReplayed, owner=owner, own=mine)
    if body is not None:
        try:
            return Answer(case.runtime.codec.decode(body, case.task.returns))
        except NotEncodable as error:
            case.tell(events.ResultDropped, reason=str(error))
    if case.task.plain_result and not mine:
        raise ResultNotStored(
            f"{case.task.name} succeeded before, but its result was not stored (too large, or it has no "
            "encoding); return less, annotate the return type, or use done='skip'"
        )
    return Answer(Duplicate(case.key_digest or case.identity, JobStatus.SUCCESS, owner))


async def load_history(case: Case) -> Answer | None:
    """The history of a redelivered job that holds no claim: runs without an end were crashes."""
    case.loaded = True
    record = await case.runtime.store.look_up(case.record_key)
    known = 0
    if record is not None:
        case.recorded = True
        if record.state is State.SUCCESS:
            await end_replay(case, SUCCEEDED)
            return answer_from_success(case, record.owner, record.body)
        if record.state.ended:
            return await close(case, record.state, record.body)
        case.history, case.offset = unpack(record.history, record.elapsed)
        known = case.history.crashes
    ends = case.history.runs - known
    case.history = case.history.with_crashes(max(case.delivery.number - 1 - ends, 0))
    case.started = time.monotonic() - case.history.elapsed
    if case.history.crashes > known:
        case.tell(events.TakenOver, owner=case.identity, fence=None, crashes=case.history.crashes)
    return None


async def close(case: Case, state: State | None, body: str | None) -> Answer:
    """The job ended before, but its queue was not told: finish that, and run nothing."""
    told = f"the job had failed before: {body}"
    if state is State.DEAD_LETTER and body is not None:
        told = "the job had become a dead letter before"
        try:
            letter = from_text(body)
        except StoreError as error:
            case.told("settle")(error)  # there is nothing to put: the record says only that it ended
        else:
            await keep_letter(case, letter)
            told = f"{told}: {letter.error_type}: {letter.error_message}"
    elif state is State.FAILED:
        await end_replay(case, DISCARDED)
    return await answer_or_raise(case, RetriesExhausted(told), fall_back=True)


async def without_store(case: Case, error: StoreError) -> None:
    """The store is out of reach before the run: as `on_store_error` says."""
    case.phase = Phase.IDLE
    case.tell(events.StoreFailed, operation="claim", error=repr(error))
    if case.runtime.on_store_error == "raise":
        await case.delivery.give_back(OUTAGE_PAUSE, error)
    case.held = None
    case.record_key = ""
    case.tell(events.RanUnguarded, error=repr(error))
