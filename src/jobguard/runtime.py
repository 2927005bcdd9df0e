"""Where jobs are guarded: the store, its namespace and the settings every delivery shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from jobguard.codec import Codec
from jobguard.events import Event, Hook, LoopBlocked, StoreFailed, emit
from jobguard.leases import Heartbeat, Held, Lag
from jobguard.scopes import Background
from jobguard.stores.base import Renewal, Store
from jobguard.stores.letters import LetterQueue

OnStoreError = Literal["raise", "run"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the engine works with. Made by `JobGuard`; `lease` in seconds."""

    store: Store
    namespace: str
    lease: float
    hooks: tuple[Hook, ...]
    codec: Codec
    on_store_error: OnStoreError
    background: Background
    heartbeat: Heartbeat
    evicting: set[LetterQueue] = field(default_factory=set[LetterQueue])
    """Queues that are about to be brought back within their bounds."""

    def emit(self, event: Event) -> None:
        emit(self.hooks, event)

    def record_key(self, digest: str) -> str:
        return f"{self.namespace}:{digest}"

    def letter_queue(self, name: str) -> LetterQueue:
        return LetterQueue(self.namespace, name)


def make_runtime(
    store: Store,
    *,
    namespace: str,
    lease: float,
    hooks: tuple[Hook, ...],
    codec: Codec,
    on_store_error: OnStoreError,
) -> Runtime:
    """Put the parts together; nothing starts until the first lease is held."""
    background = Background()

    async def renew(held: Sequence[Held]) -> Sequence[bool]:
        return await store.renew([Renewal(each.name, each.token, lease) for each in held])

    def failed(error: Exception) -> None:
        emit(hooks, StoreFailed(task="", operation="renew", error=repr(error)))

    def blocked(seconds: float) -> None:
        emit(hooks, LoopBlocked(task="", seconds=seconds, lease=lease))

    heartbeat = Heartbeat(lease, renew, failed, background, Lag(lease, blocked))
    return Runtime(store, namespace, lease, hooks, codec, on_store_error, background, heartbeat)
