"""What shows that data was run: a pickle that leaves a file, and names that would be imported."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "tests.security.imported"
"""A module that nothing imports; data may name it."""


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def trap(path: Path) -> bytes:
    """A pickle that leaves a directory at `path` when it is read."""
    return pickle.dumps(Trap(path))


@contextmanager
def nothing_runs(path: Path) -> Iterator[None]:
    """A block in which no trap at `path` goes off, and nothing that data names is imported."""
    assert NAME not in sys.modules
    yield
    assert not path.exists()
    assert NAME not in sys.modules
