"""ARQ's transactions on a job, looked at on their way: where it marks the job, reads it, and ends its run.

ARQ tells nobody when it marks a job, so as to keep other workers off it. Of a job whose payload has run out
it says that it expired, and forgets it. And it deletes a job's mark, payload and queue entry at the end of
every run, also of one whose mark has run out, so that the job may be another worker's by now. It has no hook
for any of these, but makes all of them in pipelines of the worker's pool.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from arq.constants import in_progress_key_prefix, job_key_prefix

from jobguard.leases import Held, new_token, now

if TYPE_CHECKING:
    from arq.connections import ArqRedis

logger: logging.Logger = logging.getLogger("jobguard.arq")

_mark: ContextVar[Held | None] = ContextVar("jobguard_arq_mark", default=None)
"""The mark that was set last. ARQ starts a job's own task right after that, which so inherits it."""


class Transactions:
    """The transactions of one worker.

    One that ends a run is not sent once the run's mark is over: whatever it says of the job is not this run's
    to say any more.

    Args:
        pool: the worker's. Its pipelines are looked at from now on, until `release`.
        lease: seconds for which a mark holds.
        gone: what to read in place of a payload that has run out, by the job's id; None = the job has ended.
    """

    def __init__(self, pool: ArqRedis, lease: float, gone: Callable[[str], Awaitable[bytes | None]]) -> None:
        self._pool = pool
        self._lease = lease
        self._gone = gone
        self._pipeline: Callable[..., Any] = pool.pipeline
        pool.pipeline = self._observed  # type: ignore[method-assign]

    def release(self) -> None:
        """Look at the pool no more."""
        self._pool.pipeline = self._pipeline  # type: ignore[method-assign]

    def mark(self, job_id: str) -> Held:
        """The mark of the job that this task runs. It counts from before the server heard of it."""
        name = in_progress_key_prefix + job_id
        return self._own(name) or self._new(name)

    def _new(self, name: str) -> Held:
        return Held(name, new_token(), now() + self._lease)

    def _own(self, *names: Any) -> Held | None:
        held = _mark.get()
        return held if held is not None and held.name in names else None

    def _observed(self, *args: Any, **kwargs: Any) -> Any:
        """A pipeline of the pool."""
        pipe = self._pipeline(*args, **kwargs)
        psetex, get, delete, pexpire, execute = (
            pipe.psetex,
            pipe.get,
            pipe.delete,
            pipe.pexpire,
            pipe.execute,
        )
        ending: list[Held] = []
        read: list[str] = []

        def mark(name: Any, *rest: Any) -> Any:
            if str(name).startswith(in_progress_key_prefix):
                _mark.set(self._new(name))
            return psetex(name, *rest)

        def read_payload(name: Any) -> Any:
            job_id = str(name).removeprefix(job_key_prefix)
            if self._own(in_progress_key_prefix + job_id) is not None:
                read.append(job_id)
            return get(name)

        def end(*names: Any) -> Any:
            if (held := self._own(*names)) is not None:
                ending.append(held)
            return delete(*names)

        def end_of_cron_job(name: Any, *rest: Any) -> Any:  # whose mark is to last for a while
            if (held := self._own(name)) is not None:
                ending.append(held)
            return pexpire(name, *rest)

        async def run(*args: Any, **kwargs: Any) -> Any:
            if any(held.lost or held.until <= now() for held in ending):
                logger.warning("the end of a run is not sent, since %r ended before it", ending[0].name)
                await pipe.reset()
                return []
            replies = await execute(*args, **kwargs)
            if len(read) == 1 and replies[0] is None:
                return await self._expired(read[0], replies)
            return replies

        pipe.psetex, pipe.get, pipe.delete, pipe.pexpire, pipe.execute = (
            mark,
            read_payload,
            end,
            end_of_cron_job,
            run,
        )
        return pipe

    async def _expired(self, job_id: str, replies: list[Any]) -> list[Any]:
        """What ARQ is told of a job whose payload has run out: another payload, delivered first now."""
        payload = await self._gone(job_id)
        if payload is not None:
            return [payload, 1, *replies[2:]]
        held = _mark.get()
        if held is not None:
            held.lose()  # so that ARQ's end of the job is not sent
        return replies
