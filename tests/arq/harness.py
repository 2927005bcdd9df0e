"""Stock ARQ workers as processes, and what their jobs did.

Jobs write a journal (a file that is only ever appended to), so tests judge by what happened, not by
what any queue or library says. Bodies wait at gates, which are files, so tests need no sleeps.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from arq.connections import ArqRedis
from arq.jobs import Job as QueuedJob

import jobguard
from jobguard import DeadLetter, JobGuard

ROOT = Path(__file__).parents[2]
LEASE = 1.5
"""Seconds; short, with room for a busy machine."""
PATIENCE = 30.0
"""Seconds after which what should have happened long ago is taken not to happen."""

MAY_MISS_A_SIGNAL = sys.version_info < (3, 12) and int(redis.__version__.partition(".")[0]) >= 8
"""`asyncio.wait_for` of Python 3.11 returns a result that comes at the same moment as a cancellation, and
drops that. redis-py 8 waits so for each write, ARQ's main loop included, which then does not hear of the
first SIGTERM; whoever supervises it sends another."""

Entry = dict[str, Any]


async def wait_until(happened: Callable[[], Any], what: str = "", within: float = PATIENCE) -> Any:
    """Poll until `happened()` (or what it awaits) is true, and return that."""
    deadline = time.monotonic() + within
    while True:
        answer = happened()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen in {within:g} s: {what or inspect.getsource(happened)}")
        await asyncio.sleep(0.03)


class Journal:
    """What the workers' jobs, hooks and events wrote down, in order."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self, event: str, label: str | None = None) -> list[Entry]:
        """Entries of one kind; with `label`, those of one job."""
        if not self._path.exists():
            return []
        entries = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [
            entry
            for entry in entries
            if entry["event"] == event and (label is None or entry.get("label") == label)
        ]

    def runs(self, label: str) -> list[Entry]:
        """The runs of the bodies of the job with this label."""
        return self.entries("run", label)

    async def run(self, label: str, number: int) -> Entry:
        """The `number`th run of a body, 1-based, once it has begun."""
        runs: list[Entry] = await wait_until(
            lambda: (found := self.runs(label)) and len(found) >= number and found,
            f"run {number} of {label!r}",
        )
        return runs[number - 1]


class WorkerProcess:
    """`arq module.WorkerSettings` in a process of its own, or another `program` that takes the same."""

    def __init__(
        self, module: str, options: tuple[str, ...], environ: dict[str, str], log: Path, program: str
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", program, f"tests.arq.workers.{module}", *options],
                cwd=ROOT,
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """The exit code, once the process has ended."""
        await wait_until(lambda: not self.running, f"end of worker {self.pid}")
        return self._process.wait()

    async def thaw_and_stop(self) -> int:
        """Let a stopped process go on with a SIGTERM waiting for it, and end."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)
        if MAY_MISS_A_SIGNAL:
            with suppress(AssertionError):
                await wait_until(lambda: not self.running, within=5.0)
            if self.running:
                self.send(signal.SIGTERM)
        return await self.ended()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send(number)
        return await self.ended()

    def kill(self) -> None:
        if self.running:
            self._process.kill()
        self._process.wait()


class Bench:
    """A queue, its workers, and the journal of what they do.

    Attributes:
        program: the module that workers are started with.
    """

    program: str = "arq"

    def __init__(self, pool: ArqRedis, guard: JobGuard, socket: str, directory: Path) -> None:
        self.pool = pool
        self.guard = guard
        self.journal = Journal(directory / "journal")
        self.workers: list[WorkerProcess] = []
        self._directory = directory
        self.environ = {
            "TEST_SOCKET": socket,
            "TEST_DIRECTORY": str(directory),
            "PYTHONPATH": os.pathsep.join([str(Path(jobguard.__file__).parents[1]), str(ROOT)]),
        }

    def start(
        self, module: str = "scripted.WorkerSettings", *options: str, **settings: object
    ) -> WorkerProcess:
        """A worker process. `settings` are set on its `WorkerSettings`, `lease` too."""
        environ = {**self.environ, "TEST_SETTINGS": json.dumps({"lease": LEASE, **settings})}
        log = self._directory / f"worker-{len(self.workers)}"
        worker = WorkerProcess(module, options, environ, log, self.program)
        self.workers.append(worker)
        return worker

    async def ready(self, worker: WorkerProcess) -> None:
        """Wait until a worker takes jobs."""
        await wait_until(
            lambda: any(entry["pid"] == worker.pid for entry in self.journal.entries("startup")),
            f"start-up of worker {worker.pid}:\n{worker.output()}",
        )

    async def drain(self, module: str = "scripted.WorkerSettings", **settings: object) -> WorkerProcess:
        """Run a worker until its queue is empty."""
        worker = self.start(module, "--burst", **settings)
        assert await worker.ended() == 0, worker.output()
        return worker

    async def enqueue(self, function: str, *args: object, **options: Any) -> QueuedJob:
        job = await self.pool.enqueue_job(function, *args, **options)
        assert job is not None, "a job with this id exists already"
        return job

    def open(self, gate: str) -> None:
        """Let the bodies that wait at this gate go on."""
        (self._directory / f"gate-{gate}").touch()

    async def result(self, job: QueuedJob) -> Any:
        try:
            return await job.result(timeout=PATIENCE, poll_delay=0.03)
        except asyncio.CancelledError as error:
            # A cancellation that ARQ stored as the job's end would end pytest's own task.
            raise AssertionError(f"{job} was given up as cancelled") from error

    async def error(self, job: QueuedJob) -> Exception:
        """How a job ended; it must have failed."""
        try:
            result = await self.result(job)
        except Exception as error:
            return error
        raise AssertionError(f"{job} did not fail but returned {result!r}")

    async def letters(self, queue: str = "default") -> list[DeadLetter]:
        return list((await self.guard.dead_letters(queue).list()).entries)

    async def letter(self, queue: str = "default") -> DeadLetter:
        """The only dead letter, once it is there."""
        letters = await wait_until(lambda: self.letters(queue), "a dead letter")
        assert len(letters) == 1
        letter: DeadLetter = letters[0]
        return letter

    async def leftovers(self) -> list[str]:
        """What ARQ still keeps of jobs that have ended, their results apart."""
        keys = sorted(key.decode() for key in await self.pool.keys("arq:*"))
        return [
            key for key in keys if not key.startswith("arq:result:") and not key.endswith(":health-check")
        ]

    async def at_rest(self) -> None:
        """Wait until ARQ keeps nothing but results."""

        async def empty() -> bool:
            return not await self.leftovers()

        await wait_until(empty, "an empty queue")


def running_in(pool: ArqRedis, job: QueuedJob) -> Awaitable[Any]:
    """Whether a worker has marked the job as running."""
    return pool.exists(f"arq:in-progress:{job.job_id}")
