"""Enqueueing that does not mistake a lost connection for a job that exists.

ARQ looks whether a job with the id exists, and writes the job if nobody has meanwhile. Where the connection
is lost between the two, redis-py says that the look is no longer valid, and ARQ takes that for somebody
else's job: the caller is told that the job exists, and it may not.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from arq.connections import ArqRedis
from arq.constants import job_key_prefix, result_key_prefix
from arq.jobs import Job
from redis.exceptions import ConnectionError as Disconnected

EnqueueJob = Callable[..., Awaitable[Job | None]]


def insist(pool: ArqRedis) -> None:
    """Let a pool's `enqueue_job` return None only if a job with the id is there."""
    if getattr(pool.enqueue_job, "func", None) is not _enqueue_job:
        pool.enqueue_job = functools.partial(_enqueue_job, pool, pool.enqueue_job)  # type: ignore[method-assign]


async def _enqueue_job(
    pool: ArqRedis,
    enqueue: EnqueueJob,
    /,
    function: str,
    *args: Any,
    _job_id: str | None = None,
    _queue_name: str | None = None,
    **options: Any,
) -> Job | None:
    id = _job_id if _job_id else uuid4().hex  # to ARQ an empty id is none
    queue = pool.default_queue_name if _queue_name is None else _queue_name
    job = await enqueue(function, *args, _job_id=id, _queue_name=queue, **options)
    if job is not None:
        return job
    if await pool.exists(job_key_prefix + id, result_key_prefix + id):
        # Nobody else has an id that was made up here: the job is there, and only the reply was lost.
        return None if _job_id else Job(id, pool, queue, pool.job_deserializer)
    # Sending it again might run it twice: it may have been there, and have ended without a result to keep.
    raise Disconnected(f"the connection was lost while job {id!r} was enqueued, and it is not there")
