"""An ARQ worker that goes on when Redis drops: its jobs run, and it looks for the server until it is back.

ARQ's own ends with the first error of a connection, together with all that it runs.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from arq.connections import create_pool, log_redis_info
from arq.constants import in_progress_key_prefix
from arq.cron import CronJob
from arq.utils import poll
from arq.worker import Function, Worker
from redis.exceptions import ReadOnlyError

from jobguard.adapters.arq.containing import Exited, contained
from jobguard.adapters.arq.crons import last_due
from jobguard.adapters.arq.cutoffs import CutOffs
from jobguard.adapters.arq.incoming import incoming
from jobguard.adapters.arq.lateness import PAUSES, EndWriter
from jobguard.adapters.arq.outages import end, is_outage, is_refusal, shown, traced, within
from jobguard.adapters.arq.protect import running_worker
from jobguard.adapters.arq.runs import Run, marked_until, running
from jobguard.adapters.arq.setaside import SetAside, is_poison
from jobguard.errors import InvalidValue
from jobguard.leases import now
from jobguard.stores.batching import secrets_of

logger: logging.Logger = logging.getLogger("jobguard.arq")

GRACE_OF_SILENCE = 1.0
"""Seconds that an answer is still waited for once it is late: it may be us who did not look."""
TIDYING_BOUND = 1.0
"""Seconds for closing connections, and for what is to be deleted at the end."""
INTERRUPTION_BOUND = 5.0
"""Seconds for interrupted jobs to be written down."""
SHUTDOWN_BOUND, SHUTDOWN_BOUND_AWAY = 10.0, 3.0
"""Seconds for `on_shutdown`, and without Redis, for which what is still to be written would wait."""
PROBE: str = in_progress_key_prefix + "jobguard:probe"
"""A key that is written to learn whether the server takes writes; it lasts a millisecond."""

T = TypeVar("T")
F = TypeVar("F", bound="Function | CronJob")


class SurvivingWorker(Worker):
    """ARQ's worker, whose `serve` outlives outages of Redis.

    Args:
        patience: seconds without an answer after which Redis counts as away.
        settings: those of ARQ's worker.

    Attributes:
        begun: `on_startup` was called.
    """

    def __init__(self, *, patience: float, **settings: Any) -> None:
        settings["handle_signals"] = False
        super().__init__(**settings)
        # Copies, since the settings are not this worker's alone.
        self.cron_jobs: list[CronJob] = [_contained(job) for job in self.cron_jobs]
        self.functions: dict[str, Function | CronJob] = {
            name: _contained(function) for name, function in self.functions.items()
        }
        self.functions.update((job.name, job) for job in self.cron_jobs)
        self.begun: bool = False
        self._patience = patience
        self._away = False
        self._step: asyncio.Task[Any] | None = None
        self._moved = 0.0
        self._slots = 0
        self._runs: set[asyncio.Task[Any]] = set()
        self._outages = 0
        self._ends = EndWriter(lambda: self.pool, self.queue_name, patience)
        self._cut_offs = CutOffs(self.queue_name)
        self._set_aside = SetAside(self.queue_name)

    @property
    def running(self) -> set[asyncio.Task[Any]]:
        """The jobs that run, one that ARQ has lost sight of included: it keeps one of each id."""
        return {task for task in (*self.tasks.values(), *self._runs) if not task.done()}

    @property
    def failure(self) -> BaseException | None:
        """What a job has raised that is to end the worker."""
        ended = (task for task in self.tasks.values() if task.done() and not task.cancelled())
        return next((error for task in ended if (error := task.exception()) is not None), None)

    @property
    def stuck(self) -> bool:
        """Whether the polling loop has not come on for much longer than it lets itself be held up."""
        step = self._step
        late = self.loop.time() > self._moved + 3 * (self._patience + GRACE_OF_SILENCE)
        return step is not None and not step.done() and late

    async def serve(self) -> None:
        """Start up and run jobs, until a burst has started its last.

        Raises:
            ConfigurationError: Redis cannot be reached with these settings.
            RedisError: it refuses what a worker has to do.
        """
        try:
            await self._until_answered(self._connect)
        except Exception as error:
            if is_refusal(error):
                raise
            said = self.shown(error)
            raise InvalidValue(f"no connection can be made with redis_settings: {said}") from error
        logger.info("Starting worker for %d functions: %s", len(self.functions), ", ".join(self.functions))
        self.ctx["redis"] = self.pool
        self.begun = True
        if self.on_startup is not None:
            await contained(self.on_startup)(self.ctx)
        async for _ in poll(float(self.poll_delay_s)):
            if await self._until_answered(self._look):
                return

    async def _connect(self) -> None:
        if self._pool is None:
            assert self.redis_settings is not None
            self._pool = await create_pool(
                replace(self.redis_settings, conn_retries=0),
                job_deserializer=self.job_deserializer,
                job_serializer=self.job_serializer,
                default_queue_name=self.queue_name,
                expires_extra_ms=self.expires_extra_ms,
            )
        await log_redis_info(self.pool, logger.info)

    async def _look(self) -> bool:
        """Look at the queue once; whether a burst has nothing left to start."""
        if self._away or not self.allow_pick_jobs or self.job_counter >= self.max_jobs:
            await self._probe()  # ARQ might ask nothing, and would take the server to be there
        if self._cut_offs:
            await self._probe()
            await self._cut_offs.uncount(self.pool, self._outages)
        await self._poll_iteration()
        if not self.burst:
            return False
        if 0 <= self.max_burst_jobs <= self._jobs_started():
            return True
        return not await self.pool.zcard(self.queue_name)

    async def _probe(self) -> None:
        await self.pool.psetex(PROBE, 1, b"")

    async def _until_answered(self, make_step: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a step, which is made again for as long as Redis is away."""
        for failure in itertools.count(1):
            try:
                answer = await self._in_time(make_step())
            except Exception as error:
                if not is_outage(error):
                    raise
                await self._went_away(error)
            else:
                await self._came_back()
                return answer
            await asyncio.sleep(PAUSES(failure))
        raise AssertionError("the count has no end")

    async def _in_time(self, step: Coroutine[Any, Any, T]) -> T:
        """The result of a step that keeps coming on."""
        self._moved = self.loop.time()
        self._step = task = self.loop.create_task(step)
        while not task.done():
            if (left := self._moved + self._patience - self.loop.time()) > 0:
                await asyncio.wait({task}, timeout=left)
                continue
            await asyncio.wait({task}, timeout=GRACE_OF_SILENCE)
            if not task.done() and self.loop.time() > self._moved + self._patience:
                await end(task)
                raise TimeoutError(f"no answer for {self._patience:g} s")
        return task.result()

    async def _went_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            self._outages += 1
            logger.warning(
                "Redis is away (%s); jobs that run go on, and new ones wait for it", self.shown(error)
            )
        if isinstance(error, (TimeoutError, ReadOnlyError)) and self._pool is not None:
            # A connection that is dead without knowing it, or that has stayed with the master of yesterday.
            await self._quietly(self.pool.connection_pool.disconnect(inuse_connections=True))

    async def _came_back(self) -> None:
        if self._away:
            self._away = False
            logger.warning("Redis is back")
            self._last_health_check = 0
            await self._catch_up_on_cron_jobs()

    async def _catch_up_on_cron_jobs(self) -> None:
        """Let each cron job whose times have passed meanwhile run once, not once for each of them."""
        time = datetime.now(tz=self.timezone)
        for job in self.cron_jobs:
            if (missed := last_due(job, time)) is not None:
                job.next_run = missed
            await asyncio.sleep(0)

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """As ARQ does, one by one: only the one that fails is enqueued again, by the same time."""
        each = self.cron_jobs
        try:
            for job in each:
                self._moved = self.loop.time()
                if job.next_run is None and job.run_at_startup:
                    job.next_run = n  # the id is made of it
                planned, self.cron_jobs = job.next_run, [job]
                try:
                    await super().run_cron(n, delay, num_windows)
                except BaseException:
                    job.next_run = planned
                    raise
        finally:
            self.cron_jobs = each

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """As ARQ does, one by one: many at a distance take their time, and one that fails keeps no slot."""
        started = False
        for job_id in job_ids:
            if not self.allow_pick_jobs or self.job_counter >= self.max_jobs:
                return
            self._moved = self.loop.time()
            try:
                name = job_id.decode()
            except UnicodeDecodeError as error:
                await self._set_aside.put_off(self.pool, job_id, str(error.reason))
                continue
            before = self.tasks.get(name)
            marked_until.set(now() + self._lease)
            try:
                await super().start_jobs([job_id])
                if self.tasks.get(name) is not before:
                    self._slots += 1
                    started = True
            except BaseException:
                while self.job_counter > self._slots:
                    super()._release_sem_dec_counter_on_complete()
                raise
        if job_ids and not started:
            # ARQ takes a server's refusal of a mark for one that another worker has set.
            await self._probe()

    def _release_sem_dec_counter_on_complete(self) -> None:
        self._slots -= 1
        super()._release_sem_dec_counter_on_complete()

    async def run_job(self, job_id: str, score: int) -> None:
        """As ARQ does. A job that Redis cuts off is delivered again when its mark has run out."""
        task = asyncio.current_task()
        assert task is not None
        self._runs.add(task)
        run = Run(job_id, score, self._outages, marked_until.get())
        running.set(run)
        try:
            await super().run_job(job_id, score)
        except Exception as error:
            if is_outage(error):
                logger.warning(
                    "job %r will be delivered again, Redis was away: %s", job_id, self.shown(error)
                )
                if run.was_for_nothing(incoming.get()):
                    self._cut_offs.add(run)
            elif is_poison(error) and not run.begun(incoming.get()):
                await self._quietly(self._set_aside.put_off(self.pool, job_id.encode(), self.shown(error)))
            else:
                raise
        finally:
            self._runs.discard(task)

    async def finish_job(
        self,
        job_id: str,
        finish: bool,
        result_data: bytes | None,
        result_timeout_s: float | None,
        keep_result_forever: bool,
        incr_score: int | None,
        keep_in_progress: float | None,
    ) -> None:
        """As ARQ does, and again while the job's mark certainly holds."""
        running.get().ending = finish
        write = functools.partial(
            super().finish_job,
            job_id,
            finish,
            result_data,
            result_timeout_s,
            keep_result_forever,
            incr_score,
            keep_in_progress,
        )
        await self._ends.write(write, done=finish, lasting=finish or bool(incr_score))

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:
        """As `finish_job`, for a job whose function was not called."""
        running.get().ending = True
        write = functools.partial(super().finish_failed_job, job_id, result_data)
        await self._ends.write(write, done=True, lasting=True)

    @property
    def _lease(self) -> float:
        """Seconds that a mark holds from when it is set."""
        worker = running_worker()
        return self.in_progress_timeout_s if worker is None else float(worker.guard.runtime.lease)

    def shown(self, error: BaseException) -> str:
        """What may be logged of an error."""
        return shown(error, self._secrets)

    def traced(self, error: BaseException) -> BaseException:
        """An error whose traceback may be logged."""
        return traced(error, self._secrets)

    @property
    def _secrets(self) -> frozenset[str]:
        if self._pool is not None:
            return secrets_of(self._pool)
        password = None if self.redis_settings is None else self.redis_settings.password
        return frozenset() if password is None else frozenset({password})

    async def rest(self, bound: float) -> None:
        """Pick no more jobs, and wait until none is about to start."""
        self.allow_pick_jobs = False
        if self._step is not None and not self._step.done():
            await asyncio.wait({self._step}, timeout=bound)

    async def halt(self) -> None:
        """Look at the queue no more."""
        if self._step is not None:
            await end(self._step)

    async def interrupt(self) -> None:
        """Cancel what runs, and wait for it within bounds: a second time would only hide what is left."""
        self._ends.hurry()
        if running := self.running:
            logger.warning("jobs interrupted, to be run again: %d", len(running))
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=INTERRUPTION_BOUND)

    async def shut_down(self) -> bool:
        """Call `on_shutdown`, and leave Redis; False = the hook failed."""
        if self._pool is None:
            return True
        await self._quietly(self.pool.delete(self.health_check_key))
        done = True
        if self.begun and self.on_shutdown is not None:
            bound = SHUTDOWN_BOUND_AWAY if self._away else SHUTDOWN_BOUND
            try:
                await within(bound, contained(self.on_shutdown)(self.ctx))
            except (Exception, Exited) as error:
                done = self._away and is_outage(error)
                logger.log(
                    logging.WARNING if done else logging.ERROR,
                    "on_shutdown failed: %s",
                    self.shown(error),
                    exc_info=None if done else self.traced(error),
                )
        await self._quietly(self.pool.aclose(close_connection_pool=True))
        self._pool = None
        return done

    async def _quietly(self, work: Any) -> None:
        """Something for Redis that is done if it is there; `work` is what redis-py takes for a coroutine."""
        try:
            await within(TIDYING_BOUND, work)
        except Exception as error:
            logger.debug("while Redis is away: %s", self.shown(error))


def _contained(function: F) -> F:
    """A function of the worker whose `SystemExit` ends it in order."""
    return replace(function, coroutine=contained(function.coroutine))
