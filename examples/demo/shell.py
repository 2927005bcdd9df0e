"""Commands as an operator types them: they are run for real, and shown with what they print."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping
from itertools import count

from examples.demo.keeper import Keeper
from examples.demo.screen import Screen

LOOK_PAUSE = 0.02


class Shell:
    """Runs `jobguard` commands, one after the other.

    Args:
        keeper: runs them, so that none outlives the demo.
        screen: where they are shown.
        environment: of theirs, beside that of this process.

    Attributes:
        complaints: a sentence for each command that did not end well.
    """

    def __init__(self, keeper: Keeper, screen: Screen, environment: Mapping[str, str]) -> None:
        self._keeper = keeper
        self._screen = screen
        self._environment = {**os.environ, **environment}
        self._numbers = count(1)
        self.complaints: list[str] = []

    def remark(self, text: str) -> None:
        """Show a comment between commands."""
        self._screen.remark(text)

    async def jobguard(self, *arguments: str) -> None:
        """Run one command to its end."""
        line = shlex.join(["jobguard", *arguments])
        name = f"command-{next(self._numbers)}"
        self._screen.command(line)
        self._keeper.start(name, [sys.executable, "-m", "jobguard", *arguments], self._environment)
        while True:
            code = self._keeper.exit_code(name)
            if code is not None:
                break
            await asyncio.sleep(LOOK_PAUSE)
        self._screen.output(self._keeper.log_of(name))
        if code != 0:
            self.complaints.append(f"{line}: ended with exit code {code}")
