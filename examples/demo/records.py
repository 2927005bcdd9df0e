"""What the demo's accounts are drawn from: the queue, jobguard's records and letters, the services' logs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from arq.connections import ArqRedis
from arq.constants import job_key_prefix, result_key_prefix
from arq.jobs import Job, JobResult

from examples import arq_worker
from examples.demo.accounts import JobRecord, Replayed, Seen
from examples.demo.orders import INCOMING, SEND, Order
from examples.demo.stand_ins import API_LOG, FILES_LOG, REPLIES_LOG
from jobguard import DeadLetter, Duplicate, JobGuard
from jobguard.dlq import DeadLetterQueue
from jobguard.filters import Filter
from jobguard.stores.base import State
from jobguard.stores.letters import LetterState
from jobguard.task import guard_of


class Records:
    """Jobs as ARQ's results, jobguard's records and the dead letters show them.

    Args:
        pool: a connection to ARQ's server.
        guard: where jobguard's records are.
        queue: ARQ's queue.
    """

    def __init__(self, pool: ArqRedis, guard: JobGuard, queue: str) -> None:
        self._pool = pool
        self._guard = guard
        self._queue = queue
        self._first_jobs: dict[str, str] = {}

    async def remember_letters(self) -> None:
        """Note whose letters there are: a letter of a job that was run again names the job that ran last."""
        for name in await self._queue_names():
            async for letter in self._letters(name).each(Filter(state="all")):
                self._first_jobs[letter.id] = letter.job_id

    async def of(self, orders: Sequence[Order], job_ids: Sequence[str]) -> list[JobRecord]:
        """Every job that was enqueued, by the demo or by a task; of `job_ids`, those that exist."""
        letters = await self._by_job()
        known = {order.job_id: order for order in orders}
        ended = await existing(self._pool, result_key_prefix, job_ids)
        waiting = await existing(self._pool, job_key_prefix, job_ids)
        records: list[JobRecord] = []
        answered: set[str] = set()
        for job_id in job_ids:
            order = known.get(job_id)
            if order is None and job_id not in ended | waiting | answered:
                continue  # a message that was not answered has no reply to send
            task, subject = (SEND, job_id) if order is None else (order.task, order.subject)
            result = await self._result(job_id)
            success = result is not None and result.success
            value = result.result if result is not None and success else None
            if task == INCOMING and isinstance(value, str):
                answered.add(value)
            cause, replay = await self._what_letter_says(letters.get(job_id))
            # Whose success it should be: that of the job that ran last.
            last = result if replay is None else await self._result(replay.job_id)
            records.append(
                JobRecord(
                    job_id=job_id,
                    task=task,
                    subject=subject,
                    ended=result is not None,
                    success=success,
                    duplicate=isinstance(value, Duplicate),
                    result=value,
                    owns_success=last is not None and await self._owns_success(task, last),
                    letter=cause,
                    replay=replay,
                )
            )
        return records

    async def _result(self, job_id: str) -> JobResult | None:
        return await Job(job_id, self._pool, _queue_name=self._queue).result_info()

    async def _by_job(self) -> dict[str, tuple[str, DeadLetter]]:
        """Each letter and its queue, by the job that it was first written for."""
        found: dict[str, tuple[str, DeadLetter]] = {}
        for name in await self._queue_names():
            async for letter in self._letters(name).each(Filter(state="all")):
                found[self._first_jobs.get(letter.id, letter.job_id)] = name, letter
        return found

    async def _what_letter_says(
        self, found: tuple[str, DeadLetter] | None
    ) -> tuple[str | None, Replayed | None]:
        """Why the job is dead, if it is, and how its last replay went, if there was one."""
        if found is None:
            return None, None
        name, letter = found
        dead = letter.state is LetterState.DEAD
        cause = f"{name}: {letter.error_message}" if dead else None
        if not letter.replays:
            return cause, None
        job_id = letter.replays[-1].job_id
        result = await self._result(job_id)
        success = result is not None and result.success and not isinstance(result.result, Duplicate)
        return cause, Replayed(job_id, result is not None, success, letter.resolution)

    async def _owns_success(self, task: str, result: JobResult) -> bool:
        """Whether jobguard's record of the work is a success of this very job."""
        task_guard = guard_of(getattr(arq_worker, task))
        if task_guard is None or task_guard.make_key is None:
            return False
        key = task_guard.make_key(({}, *result.args), result.kwargs)
        record = await self._guard.store.look_up(self._guard.runtime.record_key(key.digest))
        if record is None or record.state is not State.SUCCESS:
            return False
        return record.owner.startswith(f"{self._queue}:{result.job_id}:")

    async def _queue_names(self) -> list[str]:
        return await self._guard.dead_letters().queues()

    def _letters(self, name: str) -> DeadLetterQueue:
        return self._guard.dead_letters(name)


async def existing(pool: ArqRedis, prefix: str, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs that have such a key."""
    async with pool.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.exists(prefix + job_id)
        found: list[int] = await pipe.execute()
    return {job_id for job_id, exists in zip(job_ids, found, strict=True) if exists}


def seen(directory: Path) -> Seen:
    """What the stand-ins wrote down."""
    return Seen(*(list(lines(directory / name)) for name in (API_LOG, FILES_LOG, REPLIES_LOG)))


def lines(path: Path) -> Iterable[dict[str, Any]]:
    """The lines of JSON in a file, if it is there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def files(directory: Path) -> dict[str, str]:
    """The sha256 of each file that has its final name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.glob("[!.]*")}
