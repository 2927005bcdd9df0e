"""A clock moved by hand."""

from __future__ import annotations

from datetime import timedelta

from jobguard.errors import InvalidValue


class ManualClock:
    """Stands still until told. Hand it to a store: `MemoryStore(clock=ManualClock())`.

    Args:
        start: seconds that it shows at first.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start

    def __call__(self) -> float:
        return self._now

    def __repr__(self) -> str:
        return f"ManualClock({self._now!r})"

    def advance(self, by: float | timedelta) -> None:
        """Move on by seconds or a timedelta.

        Raises:
            InvalidValue: `by` is negative; time does not run back.
        """
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        if not seconds >= 0:
            raise InvalidValue(f"by must be 0 or more seconds, not {by!r}")
        self._now += seconds
