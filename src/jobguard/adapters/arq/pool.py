"""The pool to enqueue through: ARQ's own, with payloads that outlast long retries."""

from __future__ import annotations

import pickle

from arq.connections import ArqRedis, RedisSettings
from arq.connections import create_pool as arq_create_pool
from arq.constants import default_queue_name
from arq.jobs import Deserializer, Serializer

from jobguard.adapters.arq.enqueueing import insist
from jobguard.adapters.arq.replay import PAYLOAD_LIFE_MS, reading_replays


async def create_pool(
    settings: RedisSettings | None = None,
    *,
    job_serializer: Serializer | None = None,
    job_deserializer: Deserializer | None = None,
    default_queue_name: str = default_queue_name,
    expires_extra_ms: int = PAYLOAD_LIFE_MS,
) -> ArqRedis:
    """`arq.create_pool` whose jobs are kept until they have ended, and which knows replays.

    ARQ deletes a job's payload one day after its planned start, also while the job waits for a
    retry or for a worker. A protected worker extends every payload of its queue before it runs out. So
    `expires_extra_ms` bounds for how long a queue may be without any such worker.

    Its `enqueue_job` returns None only if a job with the id is there. ARQ's does so too where it lost its
    connection, and the job may then be nowhere; here that is redis-py's `ConnectionError`.

    Dead letters' jobs that run again have payloads of jobguard's own form, which `queued_jobs()` of
    another pool cannot read.

    Args:
        settings: how to connect, as for ARQ.
        job_serializer, job_deserializer: as for ARQ; give the worker the same.
        default_queue_name: as for ARQ.
        expires_extra_ms: milliseconds after a job's planned start for which its payload is kept, if no
            worker extends that. Default 30 days. Less than 23 hours is taken for an `_expires`, and kept.
    """
    pool = await arq_create_pool(
        settings,
        job_serializer=job_serializer,
        job_deserializer=reading_replays(pickle.loads if job_deserializer is None else job_deserializer),
        default_queue_name=default_queue_name,
        expires_extra_ms=expires_extra_ms,
    )
    insist(pool)
    return pool
