"""How a command ends: its exit code, and the one line that says why."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, the same for every command."""

    OK = 0
    FAILED = 1
    """The store did not answer or refused."""
    USAGE = 2
    """The command line is wrong."""
    NOT_FOUND = 3
    """Nothing has the id, key or name that was asked for."""
    PARTIAL = 4
    """Some of what was asked for was found or done, the rest not."""
    REFUSED = 5
    """Not confirmed."""
    THRESHOLD = 6
    """More than the number given with `--fail-over`, or a guarantee that does not hold."""
    INTERRUPTED = 130
    """Ctrl-C."""


class Ended(Exception):
    """A command's end before its last line; the message goes to standard error."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code
