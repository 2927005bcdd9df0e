"""Where records and dead letters are kept. `MemoryStore` for one process, `RedisStore` for many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobguard.stores.base import Store
from jobguard.stores.memory import MemoryStore

if TYPE_CHECKING:
    from jobguard.stores.redis import RedisStore

__all__ = ["MemoryStore", "RedisStore", "Store"]

if not TYPE_CHECKING:  # type checkers are to find slips of the pen

    def __getattr__(name: str) -> object:
        """Import redis-py only for those who use it."""
        if name == "RedisStore":
            from jobguard.stores.redis import RedisStore

            return RedisStore
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
