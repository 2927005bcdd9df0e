"""What a protected worker does while it runs: marks, deliveries, and what is left to do after a job."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast

import anyio
from arq.constants import in_progress_key_prefix
from arq.jobs import Deserializer
from arq.worker import JobExecutionFailed, Retry, RetryJob
from redis.exceptions import RedisError

from jobguard.adapters.arq.delivery import ArqDelivery
from jobguard.adapters.arq.endings import Endings, WorkerFunction
from jobguard.adapters.arq.expired import stand_in
from jobguard.adapters.arq.incoming import CATCH_ALL, EXPIRED, AbortedUnseen, Incoming, incoming
from jobguard.adapters.arq.outages import shown
from jobguard.adapters.arq.replay import PAYLOAD_LIFE_MS
from jobguard.adapters.arq.serving import Serving
from jobguard.adapters.arq.sweeping import Sweeper
from jobguard.adapters.arq.transactions import Transactions
from jobguard.adapters.base import Ticket, arriving
from jobguard.errors import LeaseLost, StoreError, Undeliverable
from jobguard.events import LeaseLost as LeaseLostEvent
from jobguard.events import StoreFailed
from jobguard.guard import JobGuard, delivering
from jobguard.job import JobRef
from jobguard.leases import Heartbeat, Held
from jobguard.letters import Arguments, type_name
from jobguard.policies import DeadLettering
from jobguard.replays import Underway, underway
from jobguard.scopes import Deadline
from jobguard.stores.batching import secrets_of
from jobguard.stores.letters import UNKNOWN_TASK
from jobguard.task import Task

if TYPE_CHECKING:
    from arq.connections import ArqRedis

logger: logging.Logger = logging.getLogger("jobguard.arq")

Context = dict[Any, Any]


class RunningWorker:
    """One ARQ worker between start-up and shutdown.

    Args:
        pool: the worker's connection.
        guard: where its jobs are guarded.
        queue: the queue that it reads.
        entries: its functions by name.
        deserializer: how it reads payloads; None = ARQ's way.
        sweep: seconds between two sweeps of the queue; None = it is not swept.
    """

    def __init__(
        self,
        pool: ArqRedis,
        guard: JobGuard,
        queue: str,
        entries: Mapping[str, WorkerFunction],
        deserializer: Deserializer | None,
        sweep: float | None,
    ) -> None:
        self.pool = pool
        self.guard = guard
        self.queue = queue
        self._entries = entries
        runtime = guard.runtime
        self._lease = runtime.lease
        self._endings = Endings(guard, entries)
        self._transactions = Transactions(pool, queue, runtime.lease, self._at_end, self._stand_in)
        self._beats = Heartbeat(
            runtime.lease,
            self._transactions.renew,
            self._renewal_failed,
            runtime.background,
            runtime.heartbeat.lag,
        )
        self._unfinished: dict[str, ArqDelivery] = {}
        tasks = [name for name in entries if name != CATCH_ALL]
        self._serving = Serving(runtime, ArqDelivery.adapter, queue, tasks)
        self._sweeper = None if sweep is None else Sweeper(pool, runtime, queue, deserializer, sweep)

    def start(self) -> None:
        """Begin what goes on beside the jobs."""
        self._serving.start()
        if self._sweeper is not None:
            self._sweeper.start()

    async def before_job(self, ctx: Context, hook: Callable[[Context], Awaitable[object]] | None) -> None:
        """Hold the job's mark, wait until no earlier run of the job is left here, and call the hook.

        An earlier run has lost its lease, or the job would not have been picked up again. ARQ keeps
        its running jobs by id and would end the last of two runs of one job as failed. So the new
        run waits, and then gives the job back without having begun.
        """
        job, held = incoming.get(), self._transactions.mark(ctx["job_id"])
        self._beats.add(held)
        # ARQ's task of the job may end without another hook: Redis cuts it off.
        cast("asyncio.Task[None]", asyncio.current_task()).add_done_callback(
            functools.partial(self._ended, ctx["job_id"], held)
        )
        try:
            while (earlier := self._unfinished.get(ctx["job_id"])) is not None:
                if job is not None:
                    job.late = True
                if earlier.finished is None:
                    earlier.finished = anyio.Event()
                await earlier.finished.wait()
            if hook is not None:
                await hook(ctx)
        except anyio.get_cancelled_exc_class():
            self._beats.discard(held)
            raise
        if job is None:
            self._beats.discard(held)
        else:
            job.mark = held

    async def run(
        self, entry: WorkerFunction, ctx: Context, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """Run a job under the mark that keeps other workers off it."""
        job = incoming.get()
        if job is None:
            job = Incoming(b"", entry.name, None, int(ctx["enqueue_time"].timestamp() * 1000))
        job.started = True
        held = self._transactions.mark(ctx["job_id"]) if job.mark is None else job.mark
        delivery = self._delivery(entry, ctx, job, held)
        guard = delivering.set(self.guard)
        ticket = None if entry.task is None else Ticket(delivery, ctx)
        arrival = None if ticket is None else arriving.set(ticket)
        call = Arguments(args, kwargs, entry.parameters)
        here = underway.set(Underway(delivery, call, entry.task))
        if job.mark is None:
            self._beats.add(held)
        self._unfinished[delivery.ref.id] = delivery
        try:
            if job.late or delivery.lost:  # without its mark a run must not begin: another may have
                await delivery.uncount()
            else:
                deadline = Deadline()
                held.ends(deadline)
                with deadline:
                    if job.replay is None:
                        result = await self._call(entry, ctx, args, kwargs)
                    else:
                        body = functools.partial(self._call, entry, ctx, args, kwargs)
                        result = await self._endings.replayed(body, job.replay, delivery, call, ticket)
                    # A body that blocked its event loop ends by itself, however late.
                    if not delivery.lost:
                        return result
            lost = LeaseLostEvent(task=delivery.task, job=delivery.ref.identity, fence=None)
            self.guard.runtime.emit(lost)
            await delivery.leave(_mark_lost(delivery))
        except Exception as error:
            if not delivery.lost or isinstance(error.__cause__, LeaseLost):
                raise
            await delivery.leave(_mark_lost(delivery))
        finally:
            underway.reset(here)
            if arrival is not None:
                arriving.reset(arrival)
            delivering.reset(guard)

    async def _at_end(self, held: Held) -> None:
        # Only now, since a hook of the user's may take its time after the run; and no later, since a renewal
        # that arrives after ARQ has deleted the mark would lock the id for a lease.
        await self._beats.settled(held)

    def _ended(self, job_id: str, held: Held, task: asyncio.Task[None]) -> None:
        """ARQ's task of a job is over."""
        self._beats.discard(held)
        delivery = self._unfinished.get(job_id)
        if delivery is not None and delivery.token == held.token:
            del self._unfinished[job_id]
            if delivery.finished is not None:
                delivery.finished.set()

    async def _call(
        self, entry: WorkerFunction, ctx: Context, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        try:
            return await entry.call(ctx, *args, **kwargs)
        except (Retry, RetryJob) as error:
            if entry.task is None and entry.terms.single:
                raise JobExecutionFailed("the worker has retry_jobs=False") from error
            raise
        except Undeliverable as error:
            if entry.name == CATCH_ALL and error.reason == "expired":
                raise JobExecutionFailed(EXPIRED) from error  # as ARQ says it to whoever waits for the job
            raise

    async def _stand_in(self, job_id: str) -> bytes | None:
        return await stand_in(self.pool, self.queue, job_id, PAYLOAD_LIFE_MS)

    def _delivery(self, entry: WorkerFunction, ctx: Context, job: Incoming, held: Held) -> ArqDelivery:
        earlier = (job.tries or 1) - 1
        return ArqDelivery(
            self.pool,
            held,
            self._lease,
            ref=JobRef(self.queue, ctx["job_id"], job.enqueued_ms, _salt(job)),
            task=UNKNOWN_TASK if job.task is None else job.task,
            number=max(ctx["job_try"] - earlier, 1),
            terms=entry.terms,
            payload=job.kept or None,
            stored=job.raw or None,
            replay=job.replay,
        )

    async def after_job(self, ctx: Context) -> None:
        """What is left to do once ARQ has finished with a job; never raises."""
        delivery = self._unfinished.get(ctx["job_id"])
        if delivery is None or not delivery.again:
            return
        try:
            score = await self.pool.zscore(self.queue, delivery.ref.id)
            if delivery.settlement is not None and score is None:
                await self._endings.aborted(delivery.settlement, delivery.task, delivery.replay)
            elif self._is_cron(delivery) and not delivery.lost:
                # ARQ keeps a cron job's mark for a minute, which would hold its retry up.
                await self.pool.delete(in_progress_key_prefix + delivery.ref.id)
        except (RedisError, OSError, StoreError) as error:
            logger.warning("clearing up after job %r failed: %s", delivery.ref.id, self._shown(error))

    def _is_cron(self, delivery: ArqDelivery) -> bool:
        entry = self._entries.get(delivery.task)
        return entry is not None and entry.cron

    def aborted_unseen(self, job: AbortedUnseen) -> None:
        """ARQ ended a job without calling its function; called in the middle of that."""
        self.guard.runtime.background.owe(lambda: self._endings.unseen(job))

    async def aclose(self) -> None:
        """Finish what is still to be recorded."""
        await self._serving.aclose()
        if self._sweeper is not None:
            await self._sweeper.aclose()
        self._beats.rest()
        self.guard.runtime.heartbeat.rest()
        await self.guard.runtime.background.aclose()
        self._transactions.release()

    def _renewal_failed(self, error: Exception) -> None:
        self.guard.runtime.emit(StoreFailed(task="", operation="renew_marks", error=self._shown(error)))

    def _shown(self, error: Exception) -> str:
        return shown(error, secrets_of(self.pool))


def _mark_lost(delivery: ArqDelivery) -> LeaseLost:
    return LeaseLost(f"the mark of job {delivery.ref.id!r} ended while it ran")


def _salt(job: Incoming) -> str:
    """What tells payloads of one id apart whose time of enqueueing cannot be read."""
    known = job.error is None and job.expired is None
    return "" if known else blake2b(job.raw, digest_size=8).hexdigest()


async def undeliverable(ctx: Context, /, *args: Any, **kwargs: Any) -> None:
    """The body of the catch-all: says why the job cannot be run, and so has it dead-lettered."""
    job = incoming.get()
    if job is not None and job.expired is not None:
        raise Undeliverable("expired", str(job.expired))
    if job is not None and job.error is not None:
        # Without its cause: the error's text may hold the payload's bytes, which a letter keeps apart.
        raise Undeliverable("undecodable", f"the payload cannot be decoded: {type_name(job.error)}")
    name = None if job is None else job.task
    raise Undeliverable("unknown_task", f"no function {name!r} is registered with this worker")


def undeliverable_task() -> Task:
    return Task(undeliverable, (DeadLettering(),))
