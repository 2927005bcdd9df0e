"""ARQ counts the deliveries of a job as they begin; what was no delivery in the end is taken out again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arq.constants import retry_key_prefix

from jobguard.adapters.arq.scripts import load, run_script

if TYPE_CHECKING:
    from arq.connections import ArqRedis

_UNCOUNT = load("uncount")


async def uncount(pool: ArqRedis, queue: str, job_id: str, score: int | None = None) -> None:
    """Take one delivery of a job out of ARQ's count.

    Args:
        pool: the worker's connection.
        queue: the job's.
        job_id: its id.
        score: where in the queue it was picked up; nothing is done if it stands elsewhere now, since others
            have delivered it meanwhile. None = it cannot have been.

    Raises what redis-py does.
    """
    arguments = (job_id, "" if score is None else score)
    await run_script(pool, _UNCOUNT, (retry_key_prefix + job_id, queue), arguments)
