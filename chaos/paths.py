"""The ways that a job goes, from its enqueueing to its end, each with what has to have come of it.

A path is played by two sides. One lives: it sets the scene, repeats what was cut off, as whoever asked for it
would, and finishes what is left, with a worker of its own. The other is the process that a fault befalls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path as Directory
from typing import Any

from arq.connections import ArqRedis, RedisSettings
from arq.constants import abort_jobs_ss
from arq.jobs import Job as ArqJob
from arq.utils import timestamp_ms
from arq.worker import create_worker

from chaos.bodies import ATTEMPTS, FUNCTIONS, LEASE, PATIENCE
from chaos.journal import Journal
from jobguard import DeadLetter, Filter, JobGuard
from jobguard.adapters.arq import ArqQueue, create_pool, protect
from jobguard.exchange import export, import_
from jobguard.stores import RedisStore

POLL, PATIENT_POLL = 0.1, 0.25
"""Seconds between polls of the worker that a fault befalls, and of the one that finishes its work."""


class End(StrEnum):
    """What a job has to come to, whatever befalls its worker."""

    DONE = "done"
    """Its body's result is the job's."""
    DEAD = "dead"
    """The queue says that it failed, and there is one dead letter."""
    FAILED = "failed"
    """The queue says that it failed, and there is no dead letter."""
    ABORTED = "aborted"
    """The queue says that it failed, and there is no dead letter; or its worker was struck, which so did not
    hear that nobody wants the job or could not pass it on, and the job is done."""
    SKIPPED = "skipped"
    """Another job does the work; the queue says that it succeeded, with something falsy."""
    REVIVED = "revived"
    """It was a dead letter, and its replay has resolved it."""
    DEAD_AGAIN = "dead again"
    """It was a dead letter, and is one again since its replay has failed."""


@dataclass
class Stage:
    """Where a case takes place: a queue and a namespace of its own.

    Attributes:
        case: unique; part of all names.
        directory: of its own, for what bodies leave there.
        socket: of the server.
        journal: everybody's.
    """

    case: str
    directory: Directory
    socket: str
    journal: Journal
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return f"sweep-{self.case}"

    @property
    def queue(self) -> str:
        return f"arq:sweep-{self.case}"

    @property
    def redis_settings(self) -> RedisSettings:
        return RedisSettings(unix_socket_path=self.socket)

    def job_id(self, label: str) -> str:
        return f"{self.case}-{label}"

    def note(self, what: str, **values: object) -> None:
        self.journal.write(what, case=self.case, **values)

    def guard(self, pool: ArqRedis) -> JobGuard:
        return JobGuard(RedisStore(pool), namespace=self.namespace, lease=LEASE)

    def settings(self, queue: str | None = None, *, mortal: bool = False, **more: Any) -> dict[str, Any]:
        return protect(
            {
                "functions": FUNCTIONS,
                "queue_name": queue or self.queue,
                "redis_settings": self.redis_settings,
                "ctx": {"note": self.note, "directory": self.directory, "mortal": mortal},
                "burst": True,
                **more,
            },
            namespace=self.namespace,
            lease=LEASE,
        )

    def victim(self, **more: Any) -> None:
        """Be the worker that a fault befalls, until the queue is empty."""
        create_worker(self.settings(poll_delay=POLL, mortal=True, **more)).run()

    async def work(self, queue: str | None = None, **more: Any) -> None:
        """Be another worker, until the queue is empty."""
        settings = self.settings(queue, poll_delay=PATIENT_POLL, handle_signals=False, **more)
        worker = create_worker(settings)
        try:
            async with asyncio.timeout(PATIENCE):
                await worker.async_run()
        finally:
            await worker.close()

    async def enqueue(self, pool: ArqRedis, job: Job, queue: str | None = None) -> None:
        await pool.enqueue_job(
            job.function, job.label, job.does, _job_id=self.job_id(job.label), _queue_name=queue or self.queue
        )
        self.note("accepted", label=job.label)


@dataclass(frozen=True)
class Job:
    """A job of a path: its function, what its body does, and what it has to come to."""

    function: str
    does: str
    end: End = End.DONE
    label: str = "job"
    reason: str = ""


Scene = Callable[[Stage, ArqRedis], Awaitable[None]]


@dataclass(frozen=True)
class Path:
    """A way that a job goes.

    Attributes:
        name: in a word.
        jobs: those of it.
        recorded: the round trip which, once executed, keeps a body that has succeeded from running again.
        prepare: sets the scene; else the jobs are enqueued.
        victim: what the process does that a fault befalls; else it works until the queue is empty.
        repeat: what whoever asked does again after a fault.
        finish: what is left to do; else another worker works until the queue is empty.
        idles: its job takes so long that the worker looks for others meanwhile.
        whole: faults befall it from its first round trip on, and not from the first job on: what workers do
            before is always the same.
    """

    name: str
    jobs: tuple[Job, ...]
    recorded: str = "settle"
    prepare: Scene | None = None
    victim: Callable[[Stage], None] | None = None
    repeat: Scene | None = None
    finish: Scene | None = None
    idles: bool = False
    whole: bool = False


FIRST = Job("claimed", "ok", label="same")
"""A job that has done the work before, or does it at the time."""


# Scenes that are set, repeated and finished in other ways than most


async def _after_another(stage: Stage, pool: ArqRedis) -> None:
    await stage.enqueue(pool, FIRST)
    await stage.work()
    await _the_same_again(stage, pool)


async def _the_same_again(stage: Stage, pool: ArqRedis) -> None:
    """Another job with the key of the first."""
    await pool.enqueue_job("claimed", "same", "ok", _job_id=stage.job_id("again"), _queue_name=stage.queue)
    stage.note("accepted", label="again")


async def _beside_another(stage: Stage, pool: ArqRedis) -> None:
    beside = f"{stage.queue}-beside"
    await stage.enqueue(pool, Job("claimed", "hold", label="same"), beside)
    stage.tasks.append(asyncio.create_task(stage.work(beside)))
    async with asyncio.timeout(PATIENCE):
        while not (stage.directory / "holding").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await _the_same_again(stage, pool)


async def _let_the_other_end(stage: Stage, pool: ArqRedis) -> None:
    try:
        await stage.work()
    finally:
        (stage.directory / "over").touch()
    await asyncio.gather(*stage.tasks)


async def _without_payload(stage: Stage, pool: ArqRedis) -> None:
    await stage.enqueue(pool, Job("claimed", "ok"))
    await pool.delete(f"arq:job:{stage.job_id('job')}")


def _a_dead_letter(function: str, *, mended: bool) -> Scene:
    """The job has become one, and what made it fail is mended or not."""

    async def prepare(stage: Stage, pool: ArqRedis) -> None:
        await stage.enqueue(pool, Job(function, "broken"))
        await stage.work()
        if mended:
            (stage.directory / "mended").touch()

    return prepare


async def requeue(stage: Stage, pool: ArqRedis) -> None:
    """What an operator does who wants a dead letter's job to run again."""
    letters = stage.guard(pool).dead_letters()
    await letters.requeue(Filter(state="all"), via=ArqQueue(pool), unserved=True)


async def _requeue_changed(stage: Stage, pool: ArqRedis) -> None:
    """And who has mended its arguments."""
    letters = stage.guard(pool).dead_letters()
    await letters.requeue(Filter(state="all"), via=ArqQueue(pool), unserved=True, edit={"does": "ok"})


async def _export(stage: Stage, pool: ArqRedis) -> None:
    await _a_dead_letter("claimed", mended=False)(stage, pool)
    letters = stage.guard(pool).dead_letters()
    lines = [line async for line in export(letters)]
    (stage.directory / "exported").write_text("\n".join(lines))
    await letters.clear()


async def _import(stage: Stage, pool: ArqRedis) -> None:
    await import_(stage.guard(pool).dead_letters(), (stage.directory / "exported").read_text().splitlines())


async def _abort(stage: Stage, pool: ArqRedis) -> None:
    """Somebody does not want a job any more that no worker has seen yet."""
    await stage.enqueue(pool, Job("claimed", "ok"))
    await pool.zadd(abort_jobs_ss, {stage.job_id("job"): timestamp_ms()})


def _obeying(stage: Stage) -> None:
    stage.victim(allow_abort_jobs=True)


async def _obey(stage: Stage, pool: ArqRedis) -> None:
    await stage.work(allow_abort_jobs=True)


def _asking(ask: Scene, *, then_working: bool = False) -> Callable[[Stage], None]:
    """A process that asks for something, and maybe is a worker after that."""

    async def alone(stage: Stage) -> None:
        pool = await create_pool(stage.redis_settings)
        try:
            await ask(stage, pool)
        finally:
            await pool.aclose()

    def act(stage: Stage) -> None:
        asyncio.get_event_loop().run_until_complete(alone(stage))
        if then_working:
            stage.victim()

    return act


async def _nothing(stage: Stage, pool: ArqRedis) -> None:
    pass


async def _enqueue_the_job(stage: Stage, pool: ArqRedis) -> None:
    await stage.enqueue(pool, Job("claimed", "ok"))


FINISHED = "MULTI SET:result ZREM ZREM DEL:in-progress EXEC"
"""What ARQ sends when a job has ended with a result."""

PATHS = (
    Path("success", (Job("claimed", "ok"),), whole=True),
    Path("success without claim", (Job("retried", "ok"),), FINISHED),
    Path("long success", (Job("claimed", "last"),), idles=True),
    Path("long success without claim", (Job("retried", "last"),), FINISHED, idles=True),
    Path("second attempt", (Job("claimed", "fail 1"),)),
    Path("last attempt", (Job("claimed", f"fail {ATTEMPTS - 1}"),)),
    Path("last attempt without claim", (Job("retried", f"fail {ATTEMPTS - 1}"),), FINISHED),
    Path("exhausted", (Job("claimed", f"fail {ATTEMPTS}", End.DEAD, reason="exhausted"),)),
    Path("exhausted without claim", (Job("kept", f"fail {ATTEMPTS}", End.DEAD, reason="exhausted"),)),
    Path("exhausted without letter", (Job("retried", f"fail {ATTEMPTS}", End.FAILED),)),
    Path("snooze", (Job("claimed", "snooze"),)),
    Path("snooze without claim", (Job("retried", "snooze"),), FINISHED),
    Path("discard", (Job("claimed", "discard", End.FAILED),)),
    Path("give up", (Job("claimed", "give_up", End.DEAD, reason="gave_up"),)),
    Path(
        "duplicate of a success",
        (FIRST, Job("claimed", "ok", label="again")),
        prepare=_after_another,
    ),
    Path(
        "duplicate while running",
        (FIRST, Job("claimed", "ok", End.SKIPPED, label="again")),
        prepare=_beside_another,
        finish=_let_the_other_end,
    ),
    Path("unknown function", (Job("nobody", "ok", End.DEAD, reason="unknown_task"),)),
    Path(
        "expired", (Job("claimed", "ok", End.DEAD, reason="expired"),), prepare=_without_payload, whole=True
    ),
    Path("interrupted", (Job("claimed", "stop"),)),
    Path("interrupted without claim", (Job("retried", "stop"),), FINISHED),
    Path(
        "requeued",
        (Job("claimed", "broken", End.REVIVED, reason="exhausted"),),
        prepare=_a_dead_letter("claimed", mended=True),
        victim=_asking(requeue, then_working=True),
        repeat=requeue,
        whole=True,
    ),
    Path(
        "requeued without claim",
        (Job("kept", "broken", End.REVIVED, reason="exhausted"),),
        prepare=_a_dead_letter("kept", mended=True),
        victim=_asking(requeue, then_working=True),
        repeat=requeue,
    ),
    Path(
        "requeued in vain",
        (Job("claimed", "broken", End.DEAD_AGAIN, reason="exhausted"),),
        prepare=_a_dead_letter("claimed", mended=False),
        victim=_asking(requeue, then_working=True),
        repeat=requeue,
    ),
    Path(
        "enqueue",
        (Job("claimed", "ok"),),
        prepare=_nothing,
        victim=_asking(_enqueue_the_job),
        repeat=_enqueue_the_job,
        whole=True,
    ),
    Path(
        "requeued with other arguments",
        (Job("claimed", "broken", End.REVIVED, reason="exhausted"),),
        prepare=_a_dead_letter("claimed", mended=False),
        victim=_asking(_requeue_changed, then_working=True),
        repeat=_requeue_changed,
        whole=True,
    ),
    Path(
        "imported",
        (Job("claimed", "broken", End.DEAD, reason="exhausted"),),
        prepare=_export,
        victim=_asking(_import),
        repeat=_import,
        whole=True,
    ),
    Path(
        "aborted while it waits",
        (Job("claimed", "ok", End.ABORTED),),
        prepare=_abort,
        victim=_obeying,
        finish=_obey,
    ),
    Path("aborted while it runs", (Job("claimed", "abort", End.ABORTED),), victim=_obeying, finish=_obey),
)


@dataclass
class Facts:
    """What is left of a case, as the queue and the dead letters say.

    Attributes:
        results: of each job whether the queue says that it succeeded, and its result's truth and text.
        letters: of each its job, state, reason and how often it was requeued.
        left: keys that ARQ still has of it, and members of its queues.
        trouble: why nobody could finish it, if so.
    """

    results: dict[str, tuple[bool, bool, str]] = field(default_factory=dict)
    letters: list[tuple[str, str, str, int]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    trouble: str = ""


async def look(stage: Stage, path: Path, pool: ArqRedis) -> Facts:
    """Ask the queue and the dead letters what has come of a case."""
    facts = Facts()
    guard = stage.guard(pool)
    letters: list[DeadLetter] = []
    for name in await guard.store.letters.queues(stage.namespace):
        letters += (await guard.dead_letters(name).list(filter=Filter(state="all"))).entries
    facts.letters = [(each.job_id, str(each.state), each.reason, each.requeues) for each in letters]
    ids = [stage.job_id(job.label) for job in path.jobs]
    ids += [replay.job_id for letter in letters for replay in letter.replays]
    for id in ids:
        info = await ArqJob(id, pool).result_info()
        if info is not None:
            facts.results[id] = (info.success, bool(info.result), repr(info.result))
        for kind in ("job", "in-progress", "retry"):
            if await pool.exists(f"arq:{kind}:{id}"):
                facts.left.append(f"arq:{kind}:{id}")
    for queue in (stage.queue, f"{stage.queue}-beside"):
        facts.left += [f"{queue} {member.decode()}" for member in await pool.zrange(queue, 0, -1)]
    return facts
