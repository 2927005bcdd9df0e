"""What the doors share with other tests: a queue and its workers, an operator's desk."""

from __future__ import annotations

from tests.arq.conftest import bench
from tests.cli.conftest import desk

__all__ = ["bench", "desk"]
