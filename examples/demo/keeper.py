"""Processes and a directory that end with the demo, however the demo ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
"""The repository: what `examples` is imported from."""


class Broken(Exception):
    """A process of the demo did not do its part; the message is what it printed."""


class Keeper:
    """The demo's end of `_keeper.py`. Use it in a `with` block.

    Attributes:
        directory: a new directory, removed at the end; logs of processes are in it.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("_keeper.py")), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.directory = Path(str(self._answer()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Closes its standard input, on which it cleans up, and waits for its end.
        self._process.communicate()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process in the repository's root; its output goes to `{name}.log`."""
        self._tell("start", name, list(command), dict(environment), str(ROOT))

    def running(self, name: str) -> bool:
        return self.exit_code(name) is None

    def exit_code(self, name: str) -> int | None:
        """What a process ended with; None = it runs."""
        code = self._tell("poll", name)
        assert code is None or isinstance(code, int)
        return code

    def kill(self, name: str) -> None:
        """SIGKILL a process; it is gone on return."""
        self._tell("kill", name)

    def end(self, name: str) -> None:
        """Ask a process to end, and wait for that."""
        self._tell("end", name)

    def at_the_end(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """A command to run after all processes have ended."""
        self._tell("finally", list(command), dict(environment), str(ROOT))

    def log_of(self, name: str) -> str:
        """What a process has printed."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def _tell(self, *order: object) -> object:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> object:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Broken("the process that keeps the demo's processes has ended")
        return json.loads(line)
