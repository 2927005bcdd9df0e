"""Where the tests of dead letters run: as the engine's, in memory on both event loops, and on a server."""

from __future__ import annotations

import pytest

from jobguard import DeadLetterQueue, JobGuard
from tests.engine.conftest import anyio_backend, bench, events, guard, store, where

__all__ = ["anyio_backend", "bench", "events", "guard", "letters", "store", "where"]


@pytest.fixture
def letters(guard: JobGuard) -> DeadLetterQueue:
    """An empty queue."""
    return guard.dead_letters()
