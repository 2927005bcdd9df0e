"""The pool to enqueue through: ARQ's own, with payloads that outlast long retries."""

from __future__ import annotations

from arq.connections import ArqRedis, RedisSettings
from arq.connections import create_pool as arq_create_pool
from arq.constants import default_queue_name
from arq.jobs import Deserializer, Serializer

PAYLOAD_LIFE_MS = 30 * 86_400_000
"""For how long after its planned start ARQ keeps a job that was enqueued without `_expires`."""


async def create_pool(
    settings: RedisSettings | None = None,
    *,
    job_serializer: Serializer | None = None,
    job_deserializer: Deserializer | None = None,
    default_queue_name: str = default_queue_name,
    expires_extra_ms: int = PAYLOAD_LIFE_MS,
) -> ArqRedis:
    """`arq.create_pool` whose jobs are kept for 30 days instead of one.

    ARQ deletes a job's payload one day after its planned start, also while the job waits for a
    retry or for a worker. A protected worker extends what it puts off; this covers the time before.

    Args:
        settings: how to connect, as for ARQ.
        job_serializer, job_deserializer: as for ARQ; give the worker the same.
        default_queue_name: as for ARQ.
        expires_extra_ms: milliseconds after a job's planned start for which its payload is kept.
            Default 30 days.
    """
    return await arq_create_pool(
        settings,
        job_serializer=job_serializer,
        job_deserializer=job_deserializer,
        default_queue_name=default_queue_name,
        expires_extra_ms=expires_extra_ms,
    )
