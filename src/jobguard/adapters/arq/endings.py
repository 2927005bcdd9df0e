"""Ends of jobs that no guard sees: what ARQ ends by itself, and replays of functions without a guard."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from arq.worker import Retry, RetryJob

from jobguard.adapters.arq.delivery import ArqDelivery
from jobguard.adapters.arq.incoming import AbortedUnseen
from jobguard.adapters.base import Replay, Terms, Ticket
from jobguard.errors import StoreError
from jobguard.events import Failed, OutcomeLost, StoreFailed
from jobguard.guard import JobGuard
from jobguard.job import NO_HISTORY, AttemptError, JobRef
from jobguard.leases import new_token, now
from jobguard.letters import Arguments, End, letter_id, type_name, write_letter
from jobguard.persistence import persist
from jobguard.policies import DAY, DeadLettering
from jobguard.replays import ABORTED, SUCCEEDED, is_due, keep_again, letter_behind, resolve
from jobguard.settling import OUTAGE_PAUSE
from jobguard.stores.base import Settlement, State
from jobguard.stores.letters import DeadLetter
from jobguard.task import Task, parameters_of

logger: logging.Logger = logging.getLogger("jobguard.arq")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerFunction:
    """A function of the worker.

    Attributes:
        name: what ARQ knows it by.
        call: the coroutine function.
        task: its guard, also one under foreign decorators; None = it keeps ARQ's own behaviour.
        terms: what the worker's settings lay down for it.
        cron: ARQ started it by the clock.
        parameters: the names of what it is called with, but for the first, which ARQ fills whatever its
            name. A foreign decorator may call the task below it with anything else.
    """

    name: str
    call: Callable[..., Awaitable[object]]
    task: Task | None
    terms: Terms
    cron: bool
    parameters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.task is not None and self.task.wrapper is self.call:
            names = parameters_of(partial(self.task.fn, None))
        else:
            names = parameters_of(partial(self.call, None), below=False)
        object.__setattr__(self, "parameters", names)

    def digests(self, job: AbortedUnseen) -> list[str]:
        """Whatever the key of a job may be: a foreign decorator may hand the context on to the task, or not.

        None where it has none. Raises what a key function does.
        """
        task = self.task
        if task is None or task.make_key is None:
            return []
        below: list[tuple[Task, tuple[object, ...]]] = [(task, ({}, *job.args))]
        if task.wrapper is not self.call and not task.takes_context:
            below = [(task, job.args), (task.given_context(), ({}, *job.args))]
        found: list[str] = []
        for each, args in below:
            with suppress(TypeError):  # it is not called like this
                if each.make_key is not None:
                    found.append(each.make_key(args, job.kwargs).digest)
        return found


class Endings:
    """Writes down how jobs have ended.

    Args:
        guard: where the worker's jobs are guarded.
        functions: of the worker, by name.
    """

    def __init__(self, guard: JobGuard, functions: Mapping[str, WorkerFunction]) -> None:
        self._guard = guard
        self._functions = functions

    async def aborted(self, settlement: Settlement, task: str | None, replay: Replay | None) -> None:
        """A cancelled job that is not in its queue any more was aborted: it ends, and frees its key."""
        entry = self._functions.get(task or "")
        ended = settlement._replace(state=State.FAILED, keep=DAY, history="", body="aborted in its queue")
        name = "" if entry is None else entry.name
        guard = self._guard
        failed = self._told(name, settlement.owner, "settle")
        if (await self._persist(lambda: guard.store.settle(ended), failed)).accepted:
            await self._abandoned(replay, settlement.owner)
            keyed = entry is not None and entry.task is not None and entry.task.make_key is not None
            key = settlement.key.removeprefix(guard.runtime.record_key("")) if keyed else None
            guard.runtime.emit(Failed(task=name, job=settlement.owner, key=key, reason="aborted", error=""))

    async def _abandoned(self, replay: Replay | None, identity: str) -> None:
        """Whoever aborts a replay does not want the work: its letter is resolved."""
        if replay is not None:
            await self._persist(
                lambda: resolve(self._guard.store, replay.queue, replay, ABORTED),
                self._told("", identity, "resolve_letter"),
            )

    async def replayed(
        self,
        body: Callable[[], Awaitable[object]],
        replay: Replay,
        delivery: ArqDelivery,
        call: Arguments,
        ticket: Ticket | None,
    ) -> object:
        """Run a dead letter's job again, and tell the letter how it ended where no guard does.

        What ARQ itself ends (its own timeout, `max_tries`) the letter is not told of: it stays requeued.

        Args:
            body: runs the job.
            replay: which one it is.
            delivery: of the job.
            call: the job's arguments.
            ticket: of the function's guard, which may not start for a foreign decorator around it; None = the
                function has none now.
        """
        store, queue = self._guard.store, replay.queue
        name, identity = delivery.task, delivery.ref.identity
        if ticket is None:
            letter = await self._behind(replay, delivery)
            if letter is not None and not is_due(letter, replay):
                return None
        try:
            result = await body()
        except (Retry, RetryJob):
            raise
        except Exception as error:
            if not delivery.lost and (ticket is None or not ticket.taken):
                again = _again(delivery, error, await self._behind(replay, delivery), call, self._guard)
                try:
                    await self._persist(
                        lambda: keep_again(store, queue, replay, again),
                        self._told(name, identity, "put_letter"),
                    )
                except StoreError as outage:
                    await delivery.give_back(OUTAGE_PAUSE, outage)
            raise
        if not delivery.lost and (ticket is None or not ticket.taken):
            try:
                await self._persist(
                    lambda: resolve(store, queue, replay, SUCCEEDED),
                    self._told(name, identity, "resolve_letter"),
                )
            except StoreError as error:
                status, runtime = State.SUCCESS.status, self._guard.runtime
                runtime.emit(OutcomeLost(task=name, job=identity, outcome=status, error=repr(error)))
        return result

    async def _behind(self, replay: Replay, delivery: ArqDelivery) -> DeadLetter | None:
        """The letter of a replay. An outage gives the job back."""
        try:
            return await letter_behind(self._guard.store, replay.queue, replay)
        except StoreError as error:
            self._told(delivery.task, delivery.ref.identity, "get_letter")(error)
            await delivery.give_back(OUTAGE_PAUSE, error)

    async def unseen(self, job: AbortedUnseen) -> None:
        """ARQ has ended a job without calling its function. Never raises."""
        ref = JobRef(job.queue, job.job_id, job.enqueued_ms)
        try:
            await self._aborted_unseen(job, ref)
        except StoreError as error:  # hooks have been told of each try
            logger.error("the end of job %r could not be recorded: %r", ref.id, error)
        except Exception as error:  # a key function is the user's code
            logger.error("the end of job %r could not be recorded: %s", ref.id, type_name(error))
            self._told(job.task, ref.identity, "settle")(error)

    async def _aborted_unseen(self, job: AbortedUnseen, ref: JobRef) -> None:
        entry = self._functions.get(job.task)
        if entry is None or entry.task is None:
            await self._abandoned(job.replay, ref.identity)
            return
        digest = await self._held(entry.digests(job) or [letter_id(ref.identity)], ref.identity)
        settlement = Settlement(
            key=self._guard.runtime.record_key(digest),
            owner=ref.identity,
            token=new_token(),
            fence=None,
            state=State.FAILED,
            lasts=0.0,
            keep=DAY,
        )
        await self.aborted(settlement, job.task, job.replay)

    async def _held(self, digests: Sequence[str], identity: str) -> str:
        """Which of some keys a job has; the first if it has none yet."""
        store, runtime = self._guard.store, self._guard.runtime
        for digest in digests[1:]:
            record = await store.look_up(runtime.record_key(digest))
            if record is not None and record.owner == identity:
                return digest
        return digests[0]

    async def _persist(self, write: Callable[[], Awaitable[T]], failed: Callable[[StoreError], None]) -> T:
        """Write what no later run will, trying for as long as a lease lasts."""
        runtime = self._guard.runtime
        return await persist(write, failed, now() + runtime.lease, runtime.background)

    def _told(self, task: str, job: str, operation: str) -> Callable[[Exception], None]:
        """What tells hooks of a failure."""

        def tell(error: Exception) -> None:
            runtime = self._guard.runtime
            runtime.emit(StoreFailed(task=task, job=job, operation=operation, error=repr(error)))

        return tell


def _again(
    delivery: ArqDelivery, error: Exception, letter: DeadLetter | None, call: Arguments, guard: JobGuard
) -> DeadLetter:
    """The letter of a replay that has failed again, masked as the one before was."""
    redact, names = (letter.redact, letter.parameters) if letter is not None else ((), ())
    end = End(
        adapter=delivery.adapter,
        job=delivery.ref,
        task=delivery.task,
        key=None,
        history=NO_HISTORY,
        error=error,
        reason="exhausted",
        raw=delivery.payload,
    )
    call = replace(call, names=names)
    again = write_letter(end, DeadLettering(redact=redact), guard.runtime.codec, call)
    failed = AttemptError(1, again.failed_at, again.error_type, again.error_message)
    return replace(again, failures=1, attempts=(failed,))
