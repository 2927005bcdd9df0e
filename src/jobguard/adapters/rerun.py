"""The way back for jobs of no queue: a process runs their dead letters' tasks itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from jobguard.adapters.base import Replay, ReplayJob, Ticket, arriving, served_name
from jobguard.adapters.inprocess import LocalDelivery
from jobguard.errors import InvalidType, LetterRefused, NotEncodable
from jobguard.guard import JobGuard, delivering
from jobguard.job import LOCAL, JobRef
from jobguard.policies import DAY
from jobguard.replays import replaying
from jobguard.task import Task, guard_of


class LocalQueue:
    """Runs dead letters of plain calls again, in this process: a `via` for `DeadLetterQueue.requeue`.

    Use it in an `async with` block; the block ends when all that it has started has ended. What a task
    raises is in its letter, and goes no further.

    There is no queue that all processes share, so what has been started elsewhere is not known here: let one
    process at a time run letters again, or deduplicate the task.

    Args:
        guard: where the tasks are guarded.
        tasks: decorated functions; a letter names its task as `module.qualname`.
        ctx: given to tasks whose first parameter is called `ctx`, `self` or `cls`.

    Raises:
        InvalidType: a task is not decorated.
    """

    adapter = LOCAL

    def __init__(self, guard: JobGuard, *tasks: Callable[..., object], ctx: object = None) -> None:
        self._guard = guard
        self._tasks: Mapping[str, Task] = {task.name: task for task in map(_task_of, tasks)}
        self._ctx = ctx
        self._jobs: dict[str, bool] = {}
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
        id = job.replay.job_id
        if id in self._jobs:
            return False
        self._jobs[id] = True
        self._group.start_soon(self._run, task, job.replay, args, kwargs)
        return True

    async def pending(self, queue: str, job_id: str) -> bool:
        """Whether a job has been started here and not ended."""
        return self._jobs.get(job_id, False)

    async def _run(self, task: Task, replay: Replay, args: list[Any], kwargs: dict[str, Any]) -> None:
        guard = delivering.set(self._guard)
        ticket = arriving.set(Ticket(_LocalReplay(replay)))
        current = replaying.set(replay)
        try:
            assert task.wrapper is not None
            await task.wrapper(*args, **kwargs)
        except Exception:  # it is in the letter
            pass
        finally:
            self._jobs[replay.job_id] = False
            replaying.reset(current)
            arriving.reset(ticket)
            delivering.reset(guard)

    def _arguments(self, task: Task, job: ReplayJob) -> tuple[list[Any], dict[str, Any]]:
        try:
            value: Any = self._guard.runtime.codec.decode(job.payload)
            args, kwargs = value["args"], value["kwargs"]
            if [type(args), type(kwargs)] != [list, dict] or not all(
                isinstance(name, str) for name in kwargs
            ):
                raise ValueError("they are no arguments")
        except (NotEncodable, LookupError, TypeError, ValueError) as error:
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
