"""With JSON serialisers for ARQ, no process reads a pickle: for jobs, results, letters, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.arq.harness import ROOT, Bench

pytestmark = pytest.mark.anyio

GUARD = """
import pickle, _pickle, traceback

def refuse(*_, **__):
    with open({path!r}, "a") as file:
        file.write("".join(traceback.format_stack()) + "\\n")
    raise AssertionError("a pickle was read")

class Refused(_pickle.Unpickler):
    def __init__(self, *_, **__):
        refuse()

for module in (pickle, _pickle):
    module.load = module.loads = refuse
    module.Unpickler = Refused
pickle._load = pickle._loads = refuse
"""
"""Read by each process as it starts."""

ENQUEUE = """
import asyncio, json, sys
from arq.connections import RedisSettings
from jobguard.adapters.arq import create_pool

async def main():
    dump = lambda value: json.dumps(value, default=repr).encode()
    settings = RedisSettings(unix_socket_path=sys.argv[1])
    pool = await create_pool(settings, job_serializer=dump, job_deserializer=json.loads)
    job = await pool.enqueue_job("keyed", sys.argv[2], json.loads(sys.argv[3]))
    assert [each.function for each in await pool.queued_jobs()] == ["keyed"]
    assert (await job.info()).function == "keyed"
    if sys.argv[4:]:
        print(json.dumps(await job.result(timeout=20)))
    await pool.aclose()

asyncio.run(main())
"""


class Watched:
    """Processes in which the reading of a pickle is written down."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self._log = directory / "pickles"
        guard = directory / "guard"
        guard.mkdir()
        (guard / "sitecustomize.py").write_text(GUARD.format(path=str(self._log)))
        bench.environ["PYTHONPATH"] = os.pathsep.join([str(guard), bench.environ["PYTHONPATH"]])
        self._bench = bench

    @property
    def read(self) -> str:
        """Where pickles were read."""
        return self._log.read_text() if self._log.exists() else ""

    def run(self, *arguments: str) -> str:
        """Run Python with these arguments; what it wrote. It must end well."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **self._bench.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def enqueue(self, label: str, *script: str, wait: bool = False) -> object:
        """Enqueue a job, and maybe wait for its result."""
        more = ("wait",) if wait else ()
        socket = self._bench.environ["TEST_SOCKET"]
        written = self.run("-c", ENQUEUE, socket, label, json.dumps(script), *more)
        return json.loads(written) if wait else None

    def command(self, *words: str) -> str:
        url = f"unix://{self._bench.environ['TEST_SOCKET']}"
        return self.run("-m", "jobguard", *words, "--url", url)


@pytest.fixture
def watched(bench: Bench, tmp_path: Path) -> Watched:
    return Watched(bench, tmp_path)


async def test_no_process_reads_a_pickle(bench: Bench, watched: Watched, tmp_path: Path) -> None:
    """A job and its duplicate, one that fails and leaves a letter, its edit, requeue, export and import."""
    worker = bench.start("as_json.WorkerSettings")
    assert [watched.enqueue("good", "ok", wait=True) for _ in range(2)] == ["good by run 1"] * 2
    await worker.stop()
    watched.enqueue("bad", "fail", "fail", "ok")
    await bench.drain("as_json.WorkerSettings")
    letter = await bench.letter()
    for words in (
        ("count",),
        ("list",),
        ("get", letter.id),
        ("groups",),
        ("stats",),
        ("count", "arg.label=bad"),
    ):
        watched.command("dlq", *words)
    watched.command("dlq", "requeue", letter.id, "--edit", "label=better", "--yes")
    await bench.drain("as_json.WorkerSettings")
    assert len(bench.journal.runs("better")) == 2
    watched.command("dlq", "export", "-o", str(tmp_path / "letters"))
    watched.command("dlq", "clear", "--yes")
    watched.command("dlq", "import", str(tmp_path / "letters"))
    assert watched.read == ""


async def test_arq_s_own_serialisers_are_pickle(bench: Bench, watched: Watched) -> None:
    """So the test above would see it."""
    await bench.enqueue("keyed", "a", ["ok"])
    bench.start("scripted.WorkerSettings", "--burst")
    await bench.workers[-1].ended()
    assert "incoming.py" in watched.read
