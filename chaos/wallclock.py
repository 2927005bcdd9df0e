"""Wall clocks that are wrong, and that jump."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any


def skew(ahead: float, step: float = 0.0, every: float = 0.0) -> None:
    """Let this process's wall clock be wrong from now on, for everybody who has imported it.

    Monotonic clocks stay as they are: no operating system lets those jump.

    Args:
        ahead: seconds by which it is ahead of the true one; negative: behind.
        step: seconds by which it jumps forth, and back again the next time.
        every: seconds between two jumps; 0 = it never jumps.
    """
    true, true_ns, began = time.time, time.time_ns, time.monotonic()

    def wrong() -> float:
        jumped = every > 0 and int((time.monotonic() - began) / every) % 2 == 1
        return ahead + (step if jumped else 0.0)

    def skewed() -> float:
        return true() + wrong()

    def skewed_ns() -> int:
        return true_ns() + int(wrong() * 1e9)

    _replace({true: skewed, true_ns: skewed_ns})


def _replace(functions: dict[Callable[[], Any], Callable[[], Any]]) -> None:
    """In `time` itself, and wherever somebody wrote `from time import time`."""
    for module in [*sys.modules.values()]:
        for name, value in [*getattr(module, "__dict__", {}).items()]:
            if isinstance(value, BuiltinFunctionType) and value in functions:
                setattr(module, name, functions[value])
