"""Retries without their delays."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from jobguard.adapters.inprocess import hurried


@contextmanager
def no_wait() -> Generator[None]:
    """Let in-process retries and snoozes inside the block come at once.

    Attempts, limits and events stay as they are; only the sleep between runs is left out. For this
    task and those it starts; under a queue the queue keeps its time. As stamina's test mode does.
    """
    before = hurried.set(True)
    try:
        yield
    finally:
        hurried.reset(before)
