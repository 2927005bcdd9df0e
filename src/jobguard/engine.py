"""One delivery of one job, from start to settlement.

    claim → run under lease, limit and heartbeat → decide → settle

Every step that changes the store is one operation. A run without `@deduplicated` claims nothing,
and in-process it touches the store only to keep a dead letter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from math import inf

import anyio

from jobguard import events
from jobguard.adapters.inprocess import LocalDelivery
from jobguard.case import Answer, Case, Phase
from jobguard.claiming import begin, open_replay
from jobguard.decision import Action, Decision, crash_limit, decide, leaves
from jobguard.errors import (
    CrashLimitExceeded,
    Discard,
    GiveUp,
    NotEncodable,
    PayloadMismatch,
    Signal,
    Undeliverable,
)
from jobguard.history import add_failure
from jobguard.job import AttemptError, FirstRun, Run, current_run, ref_of
from jobguard.leases import now
from jobguard.letters import type_name, write_letter
from jobguard.policies import DeadLettering
from jobguard.runtime import Runtime
from jobguard.scopes import Deadline, cut_off, on_asyncio
from jobguard.settling import answer_or_raise, interrupted, keep_letter, leave_to_other, settle
from jobguard.stores.base import State
from jobguard.stores.letters import DeadLetter
from jobguard.task import Task

RESULT_LIMIT = 64 * 1024
"""Bytes of a stored result; a longer one is recorded without its value."""

_LOST = object()


async def recover(
    task: Task,
    runtime: Runtime,
    run: FirstRun,
    error: Exception,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> object:
    """Go on after a first in-process run that needed no claim and failed."""
    case = Case(task, runtime, LocalDelivery(ref_of(run)), args, kwargs)
    case.started = run[2]
    case.phase = Phase.RUNNING
    return await carry_through(case, error)


async def carry_through(case: Case, error: Exception | None = None) -> object:
    """Claim, run, and again as long as the delivery allows it. `error` is how a first run has failed."""
    answer: Answer | None = None
    try:
        if case.delivery.replay is not None:
            answer = await open_replay(case, case.delivery.replay)
        if error is not None:
            answer = await failed_or_cut_off(case, error)
        elif answer is None:
            try:
                case.find_key()
            except Exception as refused:
                # Arguments that have no key end the job: another run would not help.
                answer = await end(case, refused, _spent(case, "not_retryable"))
        while answer is None:
            answer = await begin(case)
            if answer is None:
                answer = await run(case)
        return answer.value
    except PayloadMismatch as error:
        if case.delivery.replay is not None:
            # It is not the work that the other has done, so its letter waits for somebody to look at it.
            policy = case.plan.dead_lettering or DeadLettering()
            await keep_letter(case, letter_of(case, policy, error, error, "not_retryable"))
        raise
    except GeneratorExit:
        raise  # closed unfinished, where there may be no event loop to ask about anything
    except anyio.get_cancelled_exc_class():
        await interrupted(case)
        raise
    except BaseExceptionGroup as group:
        if group.subgroup(anyio.get_cancelled_exc_class()) is not None:  # out of a native nursery
            await interrupted(case)
        raise
    finally:
        if case.held is not None:
            case.let_go()


async def run(case: Case) -> Answer | None:
    """One run, to its outcome; None = it is to be run again, now."""
    case.phase = Phase.RUNNING
    if case.history.crashes >= crash_limit(case.plan):
        return await crashed_too_often(case)
    try:
        result = await run_body(case)
    except Exception as error:
        return await failed_or_cut_off(case, error)
    if result is _LOST:
        case.phase = Phase.SETTLED
        case.tell(events.LeaseLost, fence=case.fence)
        await leave_to_other(case, f"the lease of {case.task.name} ended while it ran")
    await succeeded(case, result)
    return Answer(result)


async def run_body(case: Case) -> object:
    """Run the body once, under its lease and the shortest of its limits; `_LOST` if the lease ended first."""
    held = case.held
    if held is not None and now() >= held.until:
        return _LOST  # this process stood still after the claim: somebody else may have begun
    limit, what = shortest_limit(case)
    deadline = Deadline(inf if limit is None else now() + limit)
    before = current_run.set(Run(case, case.history, case.fence))
    try:
        if held is not None:
            held.ends(deadline)
        with deadline:
            return await case.task.fn(*case.args, **case.kwargs)
    except Exception:
        if held is None or not held.over:
            raise  # else it is a clean-up that failed
    finally:
        try:  # noqa: SIM105  # `suppress` takes as long as all the rest
            current_run.reset(before)
        except ValueError:
            pass  # closed from another context, there is nothing to restore
    if held is not None and held.over:
        return _LOST
    raise TimeoutError(f"{case.task.name} was cancelled: it ran into {what} of {limit:g} s")


def shortest_limit(case: Case) -> tuple[float | None, str]:
    """The shortest of the limits that bound this attempt, and its name."""
    plan, queues = case.plan, case.delivery.terms.limit
    limits: list[tuple[float, str]] = []
    if plan.time_limit is not None:
        limits.append((plan.time_limit.seconds, "its time limit"))
    if queues is not None:
        limits.append((queues, "the worker's job timeout"))
    if plan.retrying is not None and plan.retrying.deadline is not None:
        limits.append((max(plan.retrying.deadline - case.elapsed, 0.0), "what was left of its deadline"))
    return min(limits) if limits else (None, "")


async def succeeded(case: Case, result: object) -> None:
    event: events.Event | None = None
    if case.hears(events.Succeeded):
        seconds = case.elapsed - case.history.elapsed
        event = case.event(events.Succeeded, attempt=case.history.runs + 1, seconds=seconds)
    if case.held is None and not case.recorded and case.delivery.replay is None:
        if event is not None:
            case.runtime.emit(event)
        return
    deduplication = case.plan.deduplication
    ttl = 0.0 if deduplication is None else deduplication.ttl
    await settle(case, State.SUCCESS, event, lasts=ttl, body=encode_result(case, result))


def encode_result(case: Case, result: object) -> str | None:
    try:
        text = case.runtime.codec.encode(result, case.task.returns)
    except NotEncodable as error:
        reason = str(error)
    else:
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if size <= RESULT_LIMIT:
            return text
        reason = f"{size} bytes are over the limit of {RESULT_LIMIT}"
    case.tell(events.ResultDropped, reason=reason)
    return None


async def failed_or_cut_off(case: Case, error: Exception) -> Answer | None:
    """A failed run; or one that was cancelled and failed at that, which is no failure.

    In-process the error goes on, as it would without us. A queue has to see the cancellation.
    """
    if not cut_off(error):
        return await failed(case, error)
    await interrupted(case)
    if case.delivery.terms.durable and on_asyncio():
        raise asyncio.CancelledError from error
    raise error


async def failed(case: Case, error: Exception) -> Answer | None:
    """Decide what follows from a failed run: None = run again now, else the job has ended here."""
    inside = tuple(leaves(error))
    signal = case.delivery.signal_in(inside[0]) if len(inside) == 1 else None
    decision = decide(
        case.plan,
        case.history,
        error,
        attempts=case.attempts,
        elapsed=case.elapsed,
        signal=signal,
        expires=await case.delivery.expires(),
    )
    for setting, function, problem in decision.ignored:
        case.tell(events.SettingIgnored, setting=setting, function=function, problem=problem)
    attempt = case.history.runs + 1
    if decision.counted:
        seen = AttemptError(attempt, time.time(), type_name(error), case.message(error))
        case.history = add_failure(case.history, seen)
    if decision.action is Action.FAIL:
        return await end(case, error, decision, control_flow=isinstance(signal or error, Signal))
    if decision.action is Action.SNOOZE:
        case.history = case.history.with_snooze()
        event = case.event(events.Snoozed, delay=decision.delay, reason=case.message(error))
    else:
        event = case.event(
            events.RetryScheduled,
            attempt=attempt,
            failures=case.history.failures,
            delay=decision.delay,
            error=case.describe(error),
        )
    await settle(case, State.RETRY, event, lasts=decision.delay)
    await case.delivery.later(decision.delay)
    return None


async def end(case: Case, error: Exception, decision: Decision, *, control_flow: bool = False) -> Answer:
    """No run is left: record it, keep the dead letter, and answer or raise."""
    policy = case.plan.dead_lettering
    cause = _cause_of(error)
    reason = error.reason if isinstance(error, Undeliverable) else decision.reason
    told = case.describe(cause)
    if decision.dead_letter and policy is not None:
        letter = letter_of(case, policy, error, cause, reason)
        queue = case.letter_queue.name
        event = case.event(events.DeadLettered, queue=queue, id=letter.id, reason=reason, error=told)
        await settle(case, State.DEAD_LETTER, event, letter=letter)
    else:
        await settle(case, State.FAILED, case.event(events.Failed, reason=reason, error=told), body=told)
    with suppress(Exception):  # an exception class may refuse notes
        error.add_note(
            f"jobguard: attempt {max(case.history.runs, 1)} of {case.task.name}, "
            f"{case.elapsed:.3g} s after the first began"
        )
    exhausted = control_flow and not isinstance(error, Discard)
    return await answer_or_raise(case, error, fall_back=decision.fall_back, exhausted=exhausted)


def letter_of(
    case: Case, policy: DeadLettering, error: Exception, cause: Exception, reason: str
) -> DeadLetter:
    end, again = case.end_record(cause, reason), case.delivery.replay
    letter = write_letter(end, policy, case.runtime.codec, case.arguments(error), case.also_masked)
    return letter if again is None else replace(letter, id=again.id)


async def crashed_too_often(case: Case) -> Answer:
    """End a job that takes its worker down with it."""
    limit = crash_limit(case.plan)
    error = CrashLimitExceeded(
        f"{case.history.crashes} runs of {case.task.name} ended with their worker, or lost their lease "
        f"(max_crashes={limit})"
    )
    return await end(case, error, _spent(case, "crashes"))


def _spent(case: Case, reason: str) -> Decision:
    """The end of a job whose last run did not fail."""
    kept = case.plan.dead_lettering is not None
    return Decision(Action.FAIL, reason, counted=False, dead_letter=kept, fall_back=True)


def _cause_of(error: Exception) -> Exception:
    """What a record says went wrong: `raise GiveUp(...) from error` is about `error`."""
    cause = error.__cause__
    return cause if isinstance(error, GiveUp) and isinstance(cause, Exception) else error
