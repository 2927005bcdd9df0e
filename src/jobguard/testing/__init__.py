"""For tests: events kept, delays left out, an embedded server, a manual clock, a contract for stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobguard.testing.clock import ManualClock
from jobguard.testing.events import EventLog
from jobguard.testing.valkey import EmbeddedValkey
from jobguard.testing.waiting import no_wait

if TYPE_CHECKING:
    from jobguard.testing.contract import StoreContract

__all__ = ["EmbeddedValkey", "EventLog", "ManualClock", "StoreContract", "no_wait"]

if not TYPE_CHECKING:  # type checkers are to find slips of the pen

    def __getattr__(name: str) -> object:
        """The contract needs pytest; nothing else here does."""
        if name == "StoreContract":
            import pytest

            # So that a broken rule shows the values that broke it.
            pytest.register_assert_rewrite("jobguard.testing.contract")
            from jobguard.testing.contract import StoreContract

            return StoreContract
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
