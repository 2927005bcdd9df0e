"""What state machines have asked of a store, and what came of it."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from hypothesis.errors import Flaky


class Progress:
    """What all machines of a run have done so far.

    Attributes:
        steps: rules applied.
        operations: asked of the store, by name.
        seen: what came of them.
        failed: what was asked of the store in the last sequence that failed.
        error: with which that did.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.operations: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.failed: list[str] = []
        self.error: Exception | None = None
        self._calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def begin(self) -> None:
        """A sequence begins."""
        self._calls = []

    def ask(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.operations[name] += 1
        self._calls.append((name, args, kwargs))

    def ends_well(self) -> bool:
        """Whether the sequence that ends now has met no error; asked while that is on its way."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, Flaky):
            self.error = error
            self.failed = [f"{name}{args} {kwargs or ''}".rstrip() for name, args, kwargs in self._calls]
        return error is None


class Watched:
    """A store, or its letters: each operation is counted and noted."""

    def __init__(self, seam: object, progress: Progress) -> None:
        self._seam = seam
        self._progress = progress

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._seam, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            self._progress.ask(name, args, kwargs)
            return method(*args, **kwargs)

        return operation
