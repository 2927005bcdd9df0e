"""`JobGuard`: which store guards jobs, and which one is meant where nobody says."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from jobguard.codec import Codec, check_codec
from jobguard.errors import InvalidType
from jobguard.events import DefaultStoreUsed, Hook
from jobguard.policies import check_namespace, choice, lease_of, plain
from jobguard.runtime import OnStoreError, Runtime, make_runtime
from jobguard.stores.base import Store, check_store
from jobguard.stores.memory import MemoryStore

if TYPE_CHECKING:
    from jobguard.dlq import DeadLetterQueue

__all__ = ["JobGuard", "active", "check_codec", "check_hooks", "check_store", "delivering"]


LEAST_LEASE = 0.05
"""Seconds; an event loop with something to do is late by a third of that."""


class JobGuard:
    """Where jobs are guarded.

    `async with guard:` makes it the default of the whole process until the block ends; tasks that
    were started elsewhere see it too, and the innermost block wins. A queue's adapter uses its own
    for what it delivers. Without any, a store in this process's memory serves, with a warning.

    Args:
        store: what keeps claims, outcomes and dead letters.
        namespace: what every key in the store starts with, so that applications can share a server.
        lease: seconds or timedelta for which a claim holds without renewal; a crashed job can be
            run again after that long. Default 30; at least 0.05.
        hooks: called with every event, beside the log lines to the logger `jobguard`.
        codec: how results and payloads are written; register your own types on it.
        on_store_error: `"raise"` (default) keeps a job from running while the store is out of reach,
            `"run"` runs it unguarded and says so in an event.

    Raises:
        ConfigurationError: a setting is wrong; the message names it.
    """

    def __init__(
        self,
        store: Store,
        *,
        namespace: str = "jobguard",
        lease: float | timedelta = 30.0,
        hooks: Iterable[Hook] = (),
        codec: Codec | None = None,
        on_store_error: OnStoreError = "raise",
    ) -> None:
        choice("on_store_error", on_store_error, ("raise", "run"))
        self.runtime: Runtime = make_runtime(
            check_store(store),
            namespace=check_namespace(namespace),
            lease=lease_of(lease, least=LEAST_LEASE),
            hooks=check_hooks(hooks),
            codec=Codec() if codec is None else check_codec(codec),
            on_store_error=on_store_error,
        )

    @property
    def store(self) -> Store:
        """What keeps claims, outcomes and dead letters."""
        return self.runtime.store

    def dead_letters(self, name: str = "default") -> DeadLetterQueue:
        """A dead letter queue of this guard; works outside `async with` too."""
        from jobguard.dlq import DeadLetterQueue  # workers hardly ever need it

        runtime = self.runtime
        return DeadLetterQueue(runtime.store, name, namespace=runtime.namespace, codec=runtime.codec)

    async def __aenter__(self) -> Self:
        _defaults.append(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _defaults.reverse()
        _defaults.remove(self)  # the innermost entry of this guard, wherever others were left meanwhile
        _defaults.reverse()
        self.runtime.heartbeat.rest()
        await self.runtime.background.aclose()

    def __repr__(self) -> str:
        return f"JobGuard({self.runtime.store!r}, namespace={self.runtime.namespace!r})"


def check_hooks(hooks: object) -> tuple[Hook, ...]:
    """Hooks that can be called: a wrong one would only show in the log, event after event."""
    if callable(hooks) or not isinstance(hooks, Iterable):
        raise InvalidType(f"hooks must be a tuple of hooks, not {hooks!r}; write hooks=(...,)")
    given = tuple(cast("Iterable[object]", hooks))
    for hook in given:
        if not callable(hook):
            raise InvalidType(f"hooks must take an event each, not be {hook!r}; give functions")
        plain("hooks", hook)
    return cast("tuple[Hook, ...]", given)


_defaults: list[JobGuard] = []
_fallback: list[JobGuard] = []
delivering: ContextVar[JobGuard | None] = ContextVar("jobguard_guard", default=None)
"""Set by an adapter around the call of a task: the guard of whatever runs inside."""


def active() -> JobGuard:
    """The guard that is meant here: the delivery's, else the innermost `async with`, else memory."""
    guard = delivering.get()
    if guard is not None:
        return guard
    if _defaults:
        return _defaults[-1]
    if not _fallback:
        _fallback.append(JobGuard(MemoryStore()))
        _fallback[0].runtime.emit(DefaultStoreUsed(task=""))
    return _fallback[0]
