"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal as soon as its parent is gone. Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
