"""Run as a script: keeps one Valkey server, and leaves nothing of it behind.

Whoever starts it holds the other end of its standard input. When that end closes, by whatever death,
or the starter is gone, the server is ended and its directory removed. It runs in a session of its own
and ignores the signals that a terminal sends, so that it outlives its starter by that much.

The first line in is a JSON object: `binary`, `arguments`, `config` (text). Then one word a line:
`start`, `terminate`, `kill` or `poll`. Each gets one line of JSON in answer. Only the standard library
is imported.
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

LONGEST_DIRECTORY = 80
"""Characters; a socket's whole path must stay below 104 on some systems."""
WATCH_PAUSE = 0.5
"""Seconds between looks at whether the starter still lives: a child of its own may hold the pipe open."""
GRACE = 10.0
"""Seconds for a server to end by itself once it was asked to."""


def make_directory() -> str:
    """A new directory that only this user can enter, with a path short enough for a socket."""
    directory = tempfile.mkdtemp(prefix="jobguard-")
    if len(directory) > LONGEST_DIRECTORY:
        os.rmdir(directory)
        directory = tempfile.mkdtemp(prefix="jobguard-", dir="/tmp")
    return directory


class Keeper:
    """One server process and its directory."""

    def __init__(self, directory: str, binary: str, arguments: list[str], config: str) -> None:
        self.directory = directory
        path = os.path.join(directory, "valkey.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"dir {directory}\nunixsocket {directory}/socket\nunixsocketperm 700\n{config}")
        self.command = [binary, path, *arguments]
        self.server: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Start the server, once it has ended; its process id."""
        if self.server is None or self.server.poll() is not None:
            with open(os.path.join(self.directory, "server.log"), "ab") as log:
                self.server = subprocess.Popen(
                    self.command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
        return self.server.pid

    def poll(self) -> int | None:
        """The exit code of a server that has ended."""
        return None if self.server is None else self.server.poll()

    def terminate(self) -> int | None:
        """Ask the server to end, and make it end."""
        if self.server is not None and self.server.poll() is None:
            self.server.terminate()
            try:
                self.server.wait(GRACE)
            except subprocess.TimeoutExpired:
                self.server.kill()
        return None if self.server is None else self.server.wait()

    def kill(self) -> int | None:
        """End the server at once."""
        if self.server is not None:
            self.server.kill()
            return self.server.wait()
        return None


def serve(starter: int) -> None:
    """Obey until the starter is gone, then clean up."""
    directory = make_directory()
    keeper: Keeper | None = None
    try:
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
                if keeper is None:
                    order = json.loads(line)
                    keeper = Keeper(directory, order["binary"], order["arguments"], order["config"])
                    answer: object = directory
                else:
                    obey = {
                        b"start": keeper.start,
                        b"poll": keeper.poll,
                        b"terminate": keeper.terminate,
                        b"kill": keeper.kill,
                    }[line]
                    answer = obey()
                os.write(1, json.dumps(answer).encode() + b"\n")
    except BrokenPipeError:
        return
    finally:
        if keeper is not None:
            keeper.kill()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(each, signal.SIG_IGN)
    serve(int(sys.argv[1]))
