"""The way back for jobs of no queue: a process runs their dead letters' tasks itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from jobguard.adapters.base import Replay, ReplayJob, Ticket, arriving, served_name
from jobguard.adapters.inprocess import LocalDelivery
from jobguard.errors import InvalidType, LetterRefused, NotEncodable, StoreError
from jobguard.guard import JobGuard, delivering
from jobguard.job import LOCAL, JobRef
from jobguard.leases import Held, new_token, now
from jobguard.letters import Arguments, letter_id, unpack_arguments
from jobguard.policies import DAY, count
from jobguard.replays import Underway, underway
from jobguard.stores.base import UNFINISHED, Claim, State, Verdict
from jobguard.task import Task, guard_of

logger: logging.Logger = logging.getLogger("jobguard")


class LocalQueue:
    """Runs dead letters of plain calls again, in this process: a `via` for `DeadLetterQueue.requeue`.

    Use it in an `async with` block; the block ends when all that it has started has ended. What a task
    raises is in its letter, and goes no further.

    A job is claimed in the guard's store while it runs, so that of several processes one runs it. If its
    process dies, its letter stays requeued, and can be run again once the lease has ended.

    Args:
        guard: where the tasks are guarded.
        tasks: decorated functions; a letter names its task as `module.qualname`.
        ctx: given to tasks whose first parameter is called `ctx`, `self` or `cls`.
        at_once: jobs that run together at most; others wait, claimed.

    Raises:
        InvalidType: a task is not decorated.
    """

    adapter = LOCAL

    def __init__(
        self, guard: JobGuard, *tasks: Callable[..., object], ctx: object = None, at_once: int = 100
    ) -> None:
        self._guard = guard
        self._tasks: Mapping[str, Task] = {task.name: task for task in map(_task_of, tasks)}
        self._ctx = ctx
        self._limiter = anyio.CapacityLimiter(count("at_once", at_once))
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        runtime = self._guard.runtime
        names = [served_name(LOCAL, LOCAL, name) for name in self._tasks]
        await runtime.store.announce(runtime.namespace, names, DAY)
        self._group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        group, self._group = self._group, None
        assert group is not None
        return await group.__aexit__(kind, error, traceback)

    async def enqueue(self, job: ReplayJob) -> bool:
        """Start a job; False = it was started here before."""
        if self._group is None:
            raise RuntimeError("a LocalQueue takes jobs inside of its 'async with' block only")
        task = self._tasks.get(job.task)
        if task is None:
            raise LetterRefused(job.replay.id, f"{job.task!r} is none of the tasks that run here")
        args, kwargs = self._arguments(task, job)
        runtime, id = self._guard.runtime, job.replay.job_id
        token, sent = new_token(), now()
        claim = Claim(self._record(id), id, token, runtime.lease, UNFINISHED)
        granted = False
        with anyio.CancelScope(shield=True):  # what is claimed is to be started
            granted = (await runtime.store.claim(claim)).verdict is Verdict.GRANTED
            if granted:
                held = Held(claim.key, token, sent + runtime.lease)
                runtime.heartbeat.add(held)
                self._group.start_soon(self._run, task, job.replay, args, kwargs, held)
        return granted

    async def pending(self, queue: str, job_id: str) -> bool:
        """Whether a job has been started, here or elsewhere, and not ended."""
        record = await self._guard.store.look_up(self._record(job_id))
        return record is not None and record.state is State.PROCESSING and record.wait > 0

    def _record(self, job_id: str) -> str:
        return self._guard.runtime.record_key(letter_id(job_id))

    async def _run(
        self, task: Task, replay: Replay, args: list[Any], kwargs: dict[str, Any], held: Held
    ) -> None:
        runtime = self._guard.runtime
        guard = delivering.set(self._guard)
        delivery = _LocalReplay(replay)
        ticket = arriving.set(Ticket(delivery))
        call = Arguments(*task.own_arguments(tuple(args), kwargs))
        here = underway.set(Underway(delivery, call, task))
        try:
            assert task.wrapper is not None
            async with self._limiter:
                await task.wrapper(*args, **kwargs)
        except StoreError:
            logger.exception("letter %r could not be run again", replay.id)
        except Exception:  # it is in the letter
            pass
        finally:
            underway.reset(here)
            arriving.reset(ticket)
            delivering.reset(guard)
            await runtime.heartbeat.settled(held)
            with anyio.CancelScope(shield=True), suppress(StoreError):
                await runtime.store.forget(held.name)

    def _arguments(self, task: Task, job: ReplayJob) -> tuple[list[Any], dict[str, Any]]:
        try:
            args, kwargs = unpack_arguments(job.payload, self._guard.runtime.codec)
        except (NotEncodable, ValueError) as error:
            raise LetterRefused(job.replay.id, f"its arguments cannot be read here: {error}") from error
        return [*([self._ctx] if task.takes_context else []), *args], kwargs


class _LocalReplay(LocalDelivery):
    """The delivery of a job that runs a dead letter again."""

    __slots__ = ("replay",)

    def __init__(self, replay: Replay) -> None:
        super().__init__(JobRef(LOCAL, replay.job_id))
        self.replay: Replay | None = replay


def _task_of(fn: Callable[..., object]) -> Task:
    task = guard_of(fn)
    if task is None:
        raise InvalidType(f"tasks must be functions decorated by jobguard, not {fn!r}")
    return task
