"""`current_job()`: what a body can know of its own job."""

from __future__ import annotations

import asyncio
import time

import anyio
import anyio.lowlevel
import pytest

from jobguard import (
    Job,
    Snooze,
    constant,
    current_job,
    dead_letter,
    deduplicated,
    fallback,
    retrying,
    time_limit,
)
from jobguard.errors import JobGuardError, NoCurrentJob
from jobguard.events import Succeeded
from tests.engine.harness import Events

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]


async def test_a_first_run_s_job(events: Events) -> None:
    """Every field, with a claim."""
    jobs: list[Job] = []

    @deduplicated
    @retrying(attempts=3)
    async def task(x: int) -> None:
        jobs.append(current_job())

    await task(1)
    (job,) = jobs
    assert job.task == task.__jobguard__.name  # type: ignore[attr-defined]
    assert f"{job.queue}:{job.id}:0" == events.only(Succeeded).job
    assert (job.attempt, job.failures, job.interruptions, job.crashes) == (1, 0, 0, 0)
    assert job.remaining == 2
    assert job.last_error is None
    assert job.key == events.only(Succeeded).key
    assert job.fence is not None
    assert job.fence > 0


async def test_a_later_run_s_job() -> None:
    """What went before is told: failures, snoozes as attempts, and the last error."""
    jobs: list[Job] = []
    errors = [ValueError("first"), Snooze(after=0), KeyError("third")]
    before = time.time()

    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> None:
        jobs.append(current_job())
        if errors:
            raise errors.pop(0)

    await task(1)
    assert [(job.attempt, job.failures, job.remaining) for job in jobs] == [
        (1, 0, 2),
        (2, 1, 1),
        (3, 1, 1),
        (4, 2, 0),
    ]
    last = jobs[-1].last_error
    assert last is not None
    assert (last.attempt, last.type, last.message) == (3, "KeyError", "'third'")
    assert before - 1 <= last.at <= time.time() + 1


async def test_without_a_limit_there_is_no_number_of_runs_left() -> None:
    """`remaining` is None."""

    @retrying(attempts=None)
    async def task(x: int) -> int | None:
        return current_job().remaining

    assert await task(1) is None


@pytest.mark.parametrize("decorator", [retrying(), dead_letter(), fallback(0), time_limit(60)], ids=repr)
async def test_any_decorator_makes_a_job(decorator: object) -> None:
    """Without a claim there is neither key nor fence."""

    @decorator  # type: ignore[operator]
    async def task(x: int) -> Job:
        return current_job()

    job: Job = await task(1)
    assert (job.key, job.fence, job.queue) == (None, None, "local")
    assert job.id
    assert len(job.idempotency_key) == 32


async def test_each_call_has_an_id_of_its_own() -> None:
    """A job is one requested run."""

    @retrying
    async def task(x: int) -> str:
        return current_job().id

    assert await task(1) != await task(1)


@pytest.mark.parametrize("with_key", [True, False])
async def test_the_idempotency_key_is_stable_over_attempts(with_key: bool) -> None:
    """To hand to an API that takes one."""
    seen: list[str] = []

    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> None:
        seen.append(current_job().idempotency_key)
        if len(seen) < 3:
            raise ValueError("again")

    await (deduplicated(task) if with_key else task)(1)
    assert len(seen) == 3
    assert len(set(seen)) == 1


async def test_the_idempotency_key_of_other_work_is_another() -> None:
    """By key where there is one, else by job."""

    @deduplicated
    async def keyed(x: int) -> str:
        return current_job().idempotency_key

    @retrying
    async def plain(x: int) -> str:
        return current_job().idempotency_key

    assert len({await keyed(1), await keyed(2), await plain(1), await plain(1)}) == 4


async def test_the_fence_rises_with_each_attempt() -> None:
    """Each attempt is a claim of its own."""
    fences: list[int] = []

    @deduplicated
    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> None:
        fences.append(current_job().fence or 0)
        if len(fences) < 3:
            raise ValueError("again")

    await task(1)
    assert fences == sorted(set(fences))


async def test_child_tasks_see_the_job() -> None:
    """Task groups and what the body calls."""
    seen: list[str] = []

    async def child() -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(current_job().id)

    @deduplicated
    async def task(x: int) -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            group.start_soon(child)
        return current_job().id

    id = await task(1)
    assert seen == [id, id]


@pytest.mark.parametrize("where", ["memory-asyncio"], indirect=True)
async def test_asyncio_tasks_started_by_the_body_see_the_job() -> None:
    """`asyncio.create_task`, also after the body has ended."""

    async def child() -> str:
        await asyncio.sleep(0.01)
        return current_job().id

    children: list[asyncio.Task[str]] = []

    @retrying
    async def task(x: int) -> str:
        children.append(asyncio.create_task(child()))
        return current_job().id

    assert await task(1) == await children[0]


async def test_outside_of_a_job_there_is_none() -> None:
    """The error says what to do, and is a LookupError as for any context variable."""
    with pytest.raises(NoCurrentJob, match="decorated"):
        current_job()
    assert issubclass(NoCurrentJob, LookupError)
    assert issubclass(NoCurrentJob, JobGuardError)


async def test_after_a_job_there_is_none() -> None:
    """However it ended."""

    @retrying(attempts=1)
    async def failing(x: int) -> None:
        raise ValueError("no")

    @deduplicated
    async def succeeding(x: int) -> None: ...

    with pytest.raises(ValueError, match="no"):
        await failing(1)
    await succeeding(1)
    with pytest.raises(NoCurrentJob):
        current_job()


async def test_two_jobs_at_once_do_not_mix() -> None:
    """Each task has its own."""
    seen: dict[int, set[str]] = {1: set(), 2: set()}

    @retrying
    async def task(x: int) -> None:
        for _ in range(5):
            seen[x].add(current_job().id)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(task, 1)
        group.start_soon(task, 2)
    assert len(seen[1]) == len(seen[2]) == 1
    assert seen[1] != seen[2]


async def test_a_job_does_not_show_its_idempotency_key() -> None:
    """It is a secret of a kind: whoever has it can replay a payment."""

    @retrying
    async def task(x: int) -> Job:
        return current_job()

    job = await task(1)
    assert job.idempotency_key not in repr(job)
