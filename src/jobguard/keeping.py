"""Keeping a new dead letter: what is told of it, and what makes room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from jobguard import events
from jobguard.adapters.base import Replay
from jobguard.errors import StoreError
from jobguard.letters import entry_of
from jobguard.policies import DeadLettering
from jobguard.replays import keep_again
from jobguard.runtime import Runtime
from jobguard.scopes import on_asyncio
from jobguard.stores.base import Store
from jobguard.stores.letters import DeadLetter, Kept, LetterQueue, LetterState

if TYPE_CHECKING:
    from jobguard.dlq import DeadLetterQueue

EVICTION_PAUSE = 1.0
"""Seconds that a full queue may stay over its bounds: evictions of many letters are done as one."""


async def put(
    store: Store, queue: LetterQueue, letter: DeadLetter, policy: DeadLettering, replay: Replay | None
) -> Kept | None:
    """Keep a letter, unless it is kept already; of a replay's job, the one that it ran again.

    None: that one does not wait for this replay.

    Raises:
        StoreError: it could not be written.
    """
    if replay is None:
        return await store.letters.put(queue, entry_of(letter), alert_over=policy.alert_over)
    return await keep_again(store, replay.queue, replay, letter, alert_over=policy.alert_over)


async def keep(
    runtime: Runtime,
    queue: LetterQueue,
    letter: DeadLetter,
    policy: DeadLettering,
    replay: Replay | None = None,
) -> None:
    """`put` a letter, and see to what follows. Raises as that does."""
    kept = await put(runtime.store, queue, letter, policy, replay)
    if kept is not None:
        await tell_and_trim(runtime, queue, letter, policy, kept)


async def tell_and_trim(
    runtime: Runtime, queue: LetterQueue, letter: DeadLetter, policy: DeadLettering, kept: Kept
) -> None:
    """Tell of what a letter says about its queue; if it is new, see to it that the queue keeps its bounds."""
    _tell(runtime, queue, letter, kept)
    if not kept.new:
        return
    if (policy.retention is None and policy.max_entries is None) or queue in runtime.evicting:
        return
    if not on_asyncio():  # in-process, on trio: nothing goes on beside the job there
        await _evict(runtime, queue, policy)
        return

    async def later() -> None:
        try:
            await anyio.sleep(EVICTION_PAUSE)
        finally:
            runtime.evicting.discard(queue)  # a letter that comes from here on asks for another round
        await _evict(runtime, queue, policy)

    runtime.evicting.add(queue)
    runtime.background.owe(later)


def _tell(runtime: Runtime, queue: LetterQueue, letter: DeadLetter, kept: Kept) -> None:
    """Say that a queue has a new kind of letter, or many."""
    if kept.new and kept.first_of_kind:
        runtime.emit(
            events.NewFingerprint(
                task=letter.task,
                key=letter.key,
                queue=queue.name,
                fingerprint=letter.fingerprint,
                id=letter.id,
                error=f"{letter.error_type}: {letter.error_message}",
            )
        )
    if kept.grew:
        runtime.emit(events.QueueGrew(task=letter.task, key=letter.key, queue=queue.name, dead=kept.dead))


async def _evict(runtime: Runtime, queue: LetterQueue, policy: DeadLettering) -> None:
    """Remove what is too old or too much. What could not be handed to `on_evict` stays."""
    from jobguard.dlq import DeadLetterQueue  # most queues have no bounds

    letters = DeadLetterQueue(runtime.store, queue.name, namespace=queue.namespace)
    try:
        number = await _bring_down(letters, policy)
    except StoreError as error:
        runtime.emit(events.StoreFailed(task="", operation="evict", error=repr(error)))
    except Exception as error:  # `on_evict` is the user's code
        runtime.emit(events.EvictionFailed(task="", queue=queue.name, error=repr(error)))
    else:
        if number:
            runtime.emit(events.Evicted(task="", queue=queue.name, number=number))


async def _bring_down(letters: DeadLetterQueue, policy: DeadLettering) -> int:
    """Remove the oldest: resolved ones first, then dead ones.

    Those whose jobs are on their way stay, and take nobody's room: it is not for them that others must go.
    """
    from jobguard.filters import Filter

    removed = 0
    resolved, dead = LetterState.RESOLVED, LetterState.DEAD
    for state, other in ((resolved, dead), (dead, resolved)):
        if policy.retention is not None:
            removed += await letters.prune(older_than=policy.retention, state=state, on_evict=policy.on_evict)
        if policy.max_entries is not None:
            room = max(policy.max_entries - await letters.count(Filter(state=other)), 0)
            removed += await letters.prune(keep=room, state=state, on_evict=policy.on_evict)
    return removed
