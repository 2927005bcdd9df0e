"""An ARQ worker that goes on when Redis drops: its jobs run, and it looks for the server until it is back.

ARQ's own ends with the first error of a connection, together with all that it runs.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from arq.connections import create_pool, log_redis_info
from arq.constants import in_progress_key_prefix, job_key_prefix
from arq.cron import CronJob
from arq.utils import poll
from arq.worker import Worker
from redis.exceptions import ReadOnlyError

from jobguard.adapters.arq.incoming import Incoming, incoming
from jobguard.adapters.arq.outages import end, is_outage, is_refusal, within
from jobguard.backoff import exponential
from jobguard.errors import InvalidValue

logger: logging.Logger = logging.getLogger("jobguard.arq")

PAUSES = exponential(0.1, cap=5, jitter="equal")
"""Seconds between tries to reach a server that is away."""
GRACE_OF_SILENCE = 1.0
"""Seconds that an answer is still waited for once it is late: it may be us who did not look."""
TIDYING_BOUND = 1.0
"""Seconds for closing connections, and for what is to be deleted at the end."""
INTERRUPTION_BOUND = 5.0
"""Seconds for interrupted jobs to be written down."""
LAST_WRITE_BOUND = 1.0
"""Seconds of those for the last step of each."""
SHUTDOWN_BOUND, SHUTDOWN_BOUND_AWAY = 10.0, 3.0
"""Seconds for `on_shutdown`, and without Redis, for which what is still to be written would wait."""
PROBE: str = in_progress_key_prefix + "jobguard:probe"
"""A key that is written to learn whether the server takes writes; it lasts a millisecond."""

T = TypeVar("T")

_score: ContextVar[int] = ContextVar("jobguard_arq_score")
"""Where in its queue the job was picked up."""


class Exited(BaseException):
    """The user's code raised `SystemExit` or `KeyboardInterrupt`, on which asyncio drops everything."""


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
        for function in self.functions.values():
            function.coroutine = _contained(function.coroutine)
        self.begun: bool = False
        self._patience = patience
        self._away = False
        self._step: asyncio.Task[Any] | None = None
        self._moved = 0.0
        self._slots = 0
        self._runs: set[asyncio.Task[Any]] = set()
        self._ending: asyncio.Future[None] = self.loop.create_future()

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
            raise InvalidValue(f"no connection can be made with redis_settings: {error}") from error
        logger.info("Starting worker for %d functions: %s", len(self.functions), ", ".join(self.functions))
        self.ctx["redis"] = self.pool
        self.begun = True
        if self.on_startup is not None:
            await _contained(self.on_startup)(self.ctx)
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
                self._came_back()
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
            logger.warning(
                "Redis is away (%s: %s); jobs that run go on, and new ones wait for it",
                type(error).__name__,
                error,
            )
        if isinstance(error, (TimeoutError, ReadOnlyError)) and self._pool is not None:
            # A connection that is dead without knowing it, or that has stayed with the master of yesterday.
            await self._quietly(self.pool.connection_pool.disconnect(inuse_connections=True))

    def _came_back(self) -> None:
        if self._away:
            self._away = False
            logger.warning("Redis is back")
            self._last_health_check = 0
            self._catch_up_on_cron_jobs()

    def _catch_up_on_cron_jobs(self) -> None:
        """Let each cron job whose times have passed meanwhile run once, not once for each of them."""
        now = datetime.now(tz=self.timezone)
        for job in self.cron_jobs:
            while (missed := job.next_run) is not None:
                if _advance(job) > now:
                    job.next_run = missed
                    break

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        before = [job.next_run for job in self.cron_jobs]
        try:
            await super().run_cron(n, delay, num_windows)
        except Exception:
            for job, planned in zip(self.cron_jobs, before, strict=True):
                job.next_run = planned
            raise

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """As ARQ does, one by one: many at a distance take their time, and one that fails keeps no slot."""
        started = False
        for job_id in job_ids:
            if not self.allow_pick_jobs or self.job_counter >= self.max_jobs:
                return
            self._moved = self.loop.time()
            name = job_id.decode()
            before = self.tasks.get(name)
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
        _score.set(score)
        try:
            await super().run_job(job_id, score)
        except Exception as error:
            if not is_outage(error):
                raise
            logger.warning("job %r will be delivered again, Redis was away: %s", job_id, error)
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
        try:
            await self._answered(write())
        except Exception as error:
            job = incoming.get()
            if not is_outage(error) or job is None or not (finish or incr_score):
                raise  # one that is only given back is free as soon as its mark has run out
            if not await self._finish_late(job_id, job, finish, write):
                raise

    async def _answered(self, write: Coroutine[Any, Any, None]) -> None:
        """See a job's end written, while there is patience; it is short once the worker ends."""
        task = self.loop.create_task(write)
        try:
            await asyncio.wait(
                {task, self._ending}, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED
            )
            if self._ending.done():
                await asyncio.wait({task}, timeout=LAST_WRITE_BOUND)
            if not task.done():
                raise TimeoutError("no answer")
            task.result()
        finally:
            await end(task)

    async def _finish_late(
        self, job_id: str, job: Incoming, finish: bool, write: Callable[[], Coroutine[Any, Any, None]]
    ) -> bool:
        """Finish a job once Redis is back; False = its mark ran out before, or the worker ends."""
        for failure in itertools.count(1):
            pause, until = PAUSES(failure), 0.0 if job.mark is None else job.mark.until
            if self.loop.time() + pause >= until:
                return False
            await asyncio.wait({self._ending}, timeout=pause)
            if self._ending.done():
                return False
            try:
                async with asyncio.timeout_at(until):
                    if await self._unfinished(job_id, job, finish):
                        await write()
                return True
            except Exception as error:
                if not is_outage(error):
                    raise
        raise AssertionError("the count has no end")

    async def _unfinished(self, job_id: str, job: Incoming, finish: bool) -> bool:
        """Whether an end that nobody confirmed was not written: what has its id now may be another job."""
        if finish:
            return bool(await self.pool.get(job_key_prefix + job_id) == job.raw)
        return bool(await self.pool.zscore(self.queue_name, job_id) == _score.get())

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
        self._ending.set_result(None)
        if running := self.running:
            logger.warning("%d jobs are interrupted, to be run again", len(running))
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
                await within(bound, _contained(self.on_shutdown)(self.ctx))
            except (Exception, Exited) as error:
                done = self._away and is_outage(error)
                logger.log(
                    logging.WARNING if done else logging.ERROR,
                    "on_shutdown failed: %r",
                    error,
                    exc_info=not done,
                )
        await self._quietly(self.pool.aclose(close_connection_pool=True))
        self._pool = None
        return done

    async def _quietly(self, work: Any) -> None:
        """Something for Redis that is done if it is there; `work` is what redis-py takes for a coroutine."""
        try:
            await within(TIDYING_BOUND, work)
        except Exception as error:
            logger.debug("while Redis is away: %r", error)


def _advance(job: CronJob) -> datetime:
    """Let a cron job's next time be the one after it."""
    assert job.next_run is not None
    job.calculate_next(job.next_run)
    return job.next_run


def _contained(call: Any) -> Any:
    """A body or hook whose `SystemExit` ends the worker in order."""

    @functools.wraps(call)
    async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> object:
        try:
            return await call(ctx, *args, **kwargs)
        except (SystemExit, KeyboardInterrupt) as error:
            raise Exited(f"{getattr(call, '__qualname__', call)} raised {error!r}") from error

    return run
