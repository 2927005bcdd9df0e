"""A process that has imported everything and forks workers, which so start in milliseconds.

What a worker runs is the stock `arq` command, or another command, in a process of its own. Orders come
as lines of JSON on standard input; the end of that ends all workers. Each end of one is written to a
journal and told on standard output.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import arq.cli
import arq.worker
from arq.constants import in_progress_key_prefix
from redis.asyncio.client import Pipeline

import jobguard.adapters.arq.__main__
import jobguard.cli
import jobguard.primitives
from chaos import mutants, wallclock
from chaos.journal import Journal
from chaos.processes import end_with_parent


def arq_command(arguments: list[str]) -> None:
    """The stock command."""
    arq.cli.cli(args=arguments, prog_name="arq")


def supervised(arguments: list[str]) -> None:
    """jobguard's own."""
    jobguard.adapters.arq.__main__.cli(args=arguments, prog_name="jobguard.adapters.arq")


def operator(arguments: list[str]) -> None:
    """The `jobguard` command."""
    sys.argv = ["jobguard", *arguments]
    jobguard.cli.main()


def write_down_deliveries() -> None:
    """Have ARQ say when it asks for a job, and when it takes it up: both before a task hears of the job."""
    journal = Journal(Path(json.loads(os.environ["CHAOS_CONFIG"])["directory"]) / "deliveries.journal")
    take_up, set_key = arq.worker.Worker.run_job, Pipeline.psetex

    async def run_job(self: arq.worker.Worker, job_id: str, score: int) -> None:
        journal.write("picked", label=job_id, pid=int(os.environ["CHAOS_BIRTH"]))
        await take_up(self, job_id, score)

    def psetex(self: Pipeline, name: Any, time_ms: Any, value: Any) -> Any:
        if str(name).startswith(in_progress_key_prefix):
            label = str(name).removeprefix(in_progress_key_prefix)
            journal.write("taken", label=label, pid=int(os.environ["CHAOS_BIRTH"]))
        return set_key(self, name, time_ms, value)

    setattr(arq.worker.Worker, "run_job", run_job)  # noqa: B010
    setattr(Pipeline, "psetex", psetex)  # noqa: B010


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "arq": arq_command,
    "supervised": supervised,
    "jobguard": operator,
}


def become(order: dict[str, Any]) -> NoReturn:
    """Be another process from here on."""
    code = 1
    try:
        end_with_parent(signal.SIGKILL)
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order["environ"])
        random.seed()
        if order.get("clock"):
            wallclock.skew(**order["clock"])
        if order.get("mutant"):
            mutants.apply(order["mutant"])
        if order["command"] != "jobguard":
            write_down_deliveries()
        COMMANDS[order["command"]](order["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(directory: str) -> None:
    journal, children = Journal(Path(directory) / "processes.journal"), dict[int, int]()
    births = itertools.count(1)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    pending = b""

    def tell(**values: object) -> None:
        os.write(1, json.dumps(values).encode() + b"\n")

    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for pid in [*children]:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    code, birth = os.waitstatus_to_exitcode(status), children.pop(pid)
                    journal.write("died", pid=birth, code=code)
                    tell(died=birth, code=code)
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                order, birth = json.loads(line), next(births)
                journal.write("born", pid=birth, name=order["name"], command=order["command"])
                pid = os.fork()
                if pid == 0:
                    os.environ["CHAOS_BIRTH"] = str(birth)
                    become(order)
                children[pid] = birth
                tell(born=birth, pid=pid, name=order["name"])
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
