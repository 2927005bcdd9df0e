"""Run as a script: keeps processes and a directory, and leaves nothing of them behind.

Whoever starts it holds the other end of its standard input. When that end closes, by whatever death,
or the starter is gone, the processes are killed, the directory is removed and a last command is run.
It lives in a session of its own and ignores the signals that a terminal sends.

Lines of JSON come in, and each is answered by one: `["start", name, command, environment, directory]`
with the process id, `["kill", name]` and `["end", name]` with the exit code, `["poll", name]` with that or
null, `["finally", command, environment, directory]` with null. The first line out is the directory's path.
Imports only the standard library.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress

WATCH_PAUSE = 0.5
"""Seconds between looks at whether the starter still lives: a child of its own may hold the pipe open."""
GRACE = 10.0
"""Seconds for a process to end by itself once it was asked to, and for the last command."""


class Keeper:
    """The processes by name, and their directory."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="jobguard-demo-")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._last: tuple[list[str], dict[str, str], str] | None = None

    def start(self, name: str, command: list[str], environment: dict[str, str], directory: str) -> int:
        """Start a process; its output goes to a log in the directory."""
        with open(os.path.join(self.directory, f"{name}.log"), "ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self._processes[name].pid

    def poll(self, name: str) -> int | None:
        return self._processes[name].poll()

    def kill(self, name: str) -> int:
        self._processes[name].kill()
        return self._processes[name].wait()

    def end(self, name: str) -> int:
        process = self._processes[name]
        process.terminate()
        try:
            return process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return self.kill(name)

    def last(self, command: list[str], environment: dict[str, str], directory: str) -> None:
        self._last = command, environment, directory

    def clean_up(self) -> None:
        for name in self._processes:
            self.kill(name)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._last is not None:
            command, environment, directory = self._last
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    command,
                    env=environment,
                    cwd=directory,
                    timeout=GRACE,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )


def serve(starter: int) -> None:
    """Obey until the starter is gone, then clean up."""
    keeper = Keeper()
    obey: dict[str, Callable[..., object]] = {
        "start": keeper.start,
        "poll": keeper.poll,
        "kill": keeper.kill,
        "end": keeper.end,
        "finally": keeper.last,
    }
    try:
        answer(keeper.directory)
        pending = b""
        while True:
            readable, _, _ = select.select([0], [], [], WATCH_PAUSE)
            if not readable:
                if os.getppid() != starter:
                    return
                continue
            received = os.read(0, 65536)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                word, *values = json.loads(line)
                answer(obey[word](*values))
    except BrokenPipeError:
        return
    finally:
        keeper.clean_up()


def answer(value: object) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        # A handler that does nothing: unlike SIG_IGN, it is not handed down to what is started here.
        signal.signal(each, lambda number, frame: None)
    serve(int(sys.argv[1]))
