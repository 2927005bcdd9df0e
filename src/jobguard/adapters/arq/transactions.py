"""ARQ's transactions on a job, looked at on their way: where it marks the job, reads it, and ends its run.

ARQ marks a job for its longest timeout, so as to keep other workers off it, and tells nobody. Of a job whose
payload has run out it says that it expired, and forgets it. And it deletes a job's mark, payload and queue
entry at the end of every run, also of one whose mark has run out, so that the job may be another worker's by
now. It has no hook for any of these, but makes all of them in pipelines of the worker's pool.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from arq.constants import in_progress_key_prefix, job_key_prefix
from redis.asyncio.client import Pipeline

from jobguard.adapters.arq.expired import is_expired
from jobguard.adapters.arq.scripts import load, run_script
from jobguard.leases import Held, new_token, now

if TYPE_CHECKING:
    from arq.connections import ArqRedis

logger: logging.Logger = logging.getLogger("jobguard.arq")

_END = load("end_run")
_RENEW = load("renew_marks")


@dataclass(slots=True, eq=False)
class Marked:
    """A job that ARQ has marked and is about to run.

    Attributes:
        job_id: its id.
        held: the mark.
        read: its payload was asked for.
    """

    job_id: str
    held: Held
    read: bool = False


_marked: ContextVar[Marked | None] = ContextVar("jobguard_arq_marked", default=None)
"""What was marked last. ARQ starts a job's own task right after that, which so inherits it."""
_worker: ContextVar[Transactions | None] = ContextVar("jobguard_arq_transactions", default=None)
"""Whose transactions these are, where several workers share a pool."""


class Transactions:
    """The transactions of one worker.

    A mark lasts a lease and bears a token. The end of a run is one operation on the server, which does
    nothing if the mark bears another token by then: what it says of the job is not this run's to say.

    Args:
        pool: the worker's. Its pipelines are looked at from now on, until `release`.
        queue: the queue that the worker reads.
        lease: seconds for which a mark holds.
        ending: called before the end of a run is sent; no renewal of its mark may be on its way after that.
        gone: what to read in place of a payload that has run out, by the job's id; None = the job has ended.
    """

    def __init__(
        self,
        pool: ArqRedis,
        queue: str,
        lease: float,
        ending: Callable[[Held], Awaitable[None]],
        gone: Callable[[str], Awaitable[bytes | None]],
    ) -> None:
        self._pool = pool
        self._queue = queue
        self._lease = lease
        self._ending = ending
        self._gone = gone
        observed: Any = pool.pipeline
        self._pipelines = observed if isinstance(observed, _Pipelines) else _Pipelines(pool)
        self._pipelines.workers.append(self)
        _worker.set(self)

    def release(self) -> None:
        """Look at the pool no more."""
        self._pipelines.workers.remove(self)
        if not self._pipelines.workers:
            self._pipelines.restore()

    def mark(self, job_id: str) -> Held:
        """The mark of the job that this task runs. It counts from before the server heard of it."""
        marked = _marked.get()
        return marked.held if marked is not None and marked.job_id == job_id else self.new_mark(job_id).held

    def new_mark(self, job_id: str) -> Marked:
        return Marked(job_id, Held(in_progress_key_prefix + job_id, new_token(), now() + self._lease))

    @property
    def lease_ms(self) -> int:
        return max(int(self._lease * 1000), 1)

    async def renew(self, marks: Sequence[Held]) -> list[bool]:
        """Prolong marks, and restore those that have gone; per mark, whether it is still this worker's."""
        keys, tokens = [mark.name for mark in marks], [mark.token for mark in marks]
        replies: list[int] = await run_script(self._pool, _RENEW, keys, (self.lease_ms, *tokens))
        return [reply == 1 for reply in replies]

    async def end(self, held: Held, commands: Sequence[Sequence[Any]]) -> None:
        """Send what ends a run, if the job is still its own."""
        await self._ending(held)
        parts = [part for command in commands for part in (len(command), *command)]
        keys, id = (held.name, self._queue), held.name.removeprefix(in_progress_key_prefix)
        sent = not held.lost and held.until > now()
        if not sent or not await run_script(self._pool, _END, keys, (held.token, id, *parts)):
            logger.warning("the end of a run changes nothing, since %r ended before it", held.name)

    async def expired(self, marked: Marked, replies: list[Any]) -> list[Any]:
        """What ARQ is told of a job whose payload has run out: another payload, delivered first now."""
        payload = await self._gone(marked.job_id)
        if payload is None:
            marked.held.lose()  # so that ARQ's end of the job is not sent
            return replies
        return [payload, 1 if is_expired(payload) else replies[1], *replies[2:]]


class _Pipelines:
    """What makes a pool's pipelines, in place of its own method."""

    def __init__(self, pool: ArqRedis) -> None:
        self.workers: list[Transactions] = []
        self._pool = pool
        self._before = pool.pipeline
        pool.pipeline = self  # type: ignore[method-assign]

    def restore(self) -> None:
        self._pool.pipeline = self._before  # type: ignore[method-assign]

    def __call__(self, transaction: bool = True, shard_hint: str | None = None) -> _Pipeline:
        current = _worker.get()
        worker = current if current is not None and current in self.workers else self.workers[-1]
        return _Pipeline(worker, self._pool, transaction, shard_hint)


class _Pipeline(Pipeline):
    """A pipeline of a worker's pool. What it does not know for ARQ's it passes on as it is."""

    def __init__(
        self, worker: Transactions, pool: ArqRedis, transaction: bool, shard_hint: str | None
    ) -> None:
        super().__init__(cast(Any, pool.connection_pool), pool.response_callbacks, transaction, shard_hint)
        self._worker = worker
        self._reads: Marked | None = None
        self._ends: Held | None = None

    def psetex(self, name: Any, time_ms: Any, value: Any) -> Any:
        if isinstance(name, str) and name.startswith(in_progress_key_prefix):
            marked = self._worker.new_mark(name.removeprefix(in_progress_key_prefix))
            _marked.set(marked)
            return super().psetex(name, self._worker.lease_ms, marked.held.token)
        return super().psetex(name, time_ms, value)

    def get(self, name: Any) -> Any:
        marked = _marked.get()
        if marked is not None and not marked.read and name == job_key_prefix + marked.job_id:
            marked.read = True
            self._reads = None if self.command_stack else marked
        return super().get(name)

    def delete(self, *names: Any) -> Any:
        self._note_end(*names)
        return super().delete(*names)

    def pexpire(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        self._note_end(name)  # ARQ has the mark of a cron job last for a while
        return super().pexpire(name, *args, **kwargs)

    def _note_end(self, *names: Any) -> None:
        marked = _marked.get()
        if marked is not None and marked.held.name in names:
            self._ends = marked.held

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        if self._ends is not None:
            commands = [command[0] for command in self.command_stack]
            await cast(Any, self).reset()  # redis-py says no type
            await self._worker.end(self._ends, commands)
            return []
        replies: list[Any] = await super().execute(raise_on_error)
        if self._reads is not None and replies[0] is None:
            return await self._worker.expired(self._reads, replies)
        return replies
