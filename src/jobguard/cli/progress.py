"""How far a command has come: a bar for whoever waits at a terminal, and a line where it is cut off."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from jobguard.cli.exits import Ended
from jobguard.cli.screen import Screen

QUICK = 0.3
"""Seconds after which a bar appears; what is done sooner needs none."""


class Progress:
    """Told how many letters have been dealt with. Used in a `with` block.

    Args:
        screen: where it is shown.
        doing: what is being done, in a word or two.
        total: how many there are; None = nobody knows.
        so_far: from a number, what to say of it when the work is cut off; None = nothing.

    Attributes:
        done: how many have been dealt with.
    """

    def __init__(
        self,
        screen: Screen,
        doing: str,
        total: int | None = None,
        so_far: Callable[[int], str] | None = None,
    ) -> None:
        self.done: int = 0
        self._screen = screen
        self._doing = doing
        self._total = total
        self._so_far = so_far
        self._stack = ExitStack()
        self._show: Callable[[int], None] | None = None
        self._since = 0.0

    def __enter__(self) -> Self:
        self._since = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        if error is not None and not isinstance(error, Ended) and self._so_far is not None:
            # One batch may have been on its way.
            self._screen.complain(f"so far: {self._so_far(self.done)}, maybe some more")

    def __call__(self, number: int) -> None:
        self.done = number
        if self._show is None and time.monotonic() - self._since > QUICK:
            self._show = self._stack.enter_context(self._screen.bar(self._doing, self._total))
        if self._show is not None:
            self._show(number)
