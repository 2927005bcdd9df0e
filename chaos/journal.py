"""Logs outside of the server: files that bodies, the enqueuer and whoever throws faults only ever append to.

Times are those of `time.monotonic()`, which on Linux is one clock for all processes, and which no
skewed or stepping wall clock touches.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """A file. Each entry is one write, so that processes can share a file and no SIGKILL cuts one in two."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, what: str, **values: object) -> None:
        line = json.dumps({"at": time.monotonic(), "what": what, **values}, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")


def read(directory: Path) -> list[Entry]:
    """The entries of all journals of a directory, in order of time."""
    entries: list[Entry] = []
    for path in sorted(directory.glob("*.journal")):
        entries += [json.loads(line) for line in path.read_bytes().splitlines()]
    entries.sort(key=lambda entry: entry["at"])
    return entries
