"""Putting many dead letters' jobs into their queues again: at a rate, with canaries, while it goes well."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

import anyio

from jobguard.adapters.base import Requeuer
from jobguard.codec import Codec
from jobguard.letters import letter_in
from jobguard.returning import Meant, OnDuplicate, Orders, Requeued, Returning, Status
from jobguard.stores.base import Store
from jobguard.stores.letters import LetterQueue, LetterState

__all__ = ["OnDuplicate", "Orders", "RequeueReport", "Requeued", "Requeueing", "Status", "Stopped"]

AT_ONCE = 50
"""Letters that are under way together where no rate is asked for."""
LOOK_PAUSE, LONGEST_LOOK_PAUSE = 0.05, 1.0
"""Seconds between looks at what became of replays."""
LOOKED_AT = 100
"""Replays that are looked at in one go."""
JUDGED = 10
"""Replays that must have ended before their failure rate stops the rest."""


@dataclass(frozen=True, slots=True)
class RequeueReport:
    """What a requeue came to.

    Attributes:
        outcomes: one for each letter that was looked at, oldest letter first.
        stopped: why it was stopped before the last letter; "" = it was not.
    """

    outcomes: tuple[Requeued, ...]
    stopped: str = ""

    @property
    def counts(self) -> dict[Status, int]:
        """How many letters came to what."""
        return dict(Counter(outcome.status for outcome in self.outcomes))


class Stopped(Exception):
    """The requeue was stopped before the last letter; the message says why."""


class Requeueing:
    """One requeue of many letters.

    Args:
        store, queue: where the letters are.
        codec: reads and writes arguments.
        via: ways into the queues.
        orders: how.
    """

    def __init__(
        self, store: Store, queue: LetterQueue, codec: Codec, via: Sequence[Requeuer], orders: Orders
    ) -> None:
        self._store = store
        self._queue = queue
        self._orders = orders
        self._returning = Returning(store, queue, codec, via, orders)
        self._under_way: dict[str, None] = {}
        self._ended = self._failed = 0

    async def run(self, letters: AsyncIterator[Meant]) -> AsyncGenerator[Requeued]:
        """Requeue them, in this order.

        Raises:
            Stopped: too much of what was requeued has failed again, or canaries have not ended in time.
        """
        orders = self._orders
        sent, started = 0, time.monotonic()
        canaries = 0 if orders.dry_run else orders.canary
        watches = orders.bearable is not None and not orders.dry_run
        batch: list[Meant] = []
        more = True
        while more:
            size = self._batch_size(canaries - sent if sent < canaries else None)
            if orders.limit is not None:
                size = min(size, orders.limit - sent)
            more = size > 0
            while more and len(batch) < size:
                meant = await anext(letters, None)
                if meant is None:
                    more = False
                else:
                    batch.append(meant)
            if batch and orders.rate is not None and not orders.dry_run:
                await anyio.sleep(max(started + sent / orders.rate - time.monotonic(), 0))
            for outcome in await self._all(batch):
                sent += outcome.status in (Status.REQUEUED, Status.WAITING, Status.WOULD)
                if watches and outcome.status in (Status.REQUEUED, Status.WAITING):
                    self._under_way[outcome.id] = None
                yield outcome
            batch.clear()
            if orders.dry_run:
                continue
            if canaries and (sent >= canaries or not more):
                await self._await_canaries()
                canaries, started = 0, time.monotonic() - (sent / orders.rate if orders.rate else 0.0)
            elif more and watches:
                await self._look(LOOKED_AT)

    def _batch_size(self, canaries_left: int | None) -> int:
        most = AT_ONCE if canaries_left is None else min(AT_ONCE, canaries_left)
        if self._orders.rate is None:
            return most
        return max(min(most, int(self._orders.rate / 10)), 1)

    async def _all(self, letters: Sequence[Meant]) -> list[Requeued]:
        outcomes: dict[int, Requeued] = {}

        async def one(place: int, meant: Meant) -> None:
            outcome = await self._returning.put_back(meant)
            if outcome is not None:
                outcomes[place] = outcome

        try:
            async with anyio.create_task_group() as group:
                for place, meant in enumerate(letters):
                    group.start_soon(one, place, meant)
        except* Exception as errors:  # the first of them says enough
            raise _first(errors) from None
        return [outcomes[place] for place in sorted(outcomes)]

    async def _await_canaries(self) -> None:
        """Wait until all that was requeued so far has ended."""
        pause = LOOK_PAUSE
        until = anyio.current_time() + self._orders.patience
        while True:
            await self._look(None, least=0)
            if not self._under_way:
                return
            if anyio.current_time() > until:
                raise Stopped(
                    f"{len(self._under_way)} of {self._orders.canary} canaries have not ended within "
                    f"{self._orders.patience:g} s"
                )
            await anyio.sleep(pause)
            pause = min(pause * 2, LONGEST_LOOK_PAUSE)

    async def _look(self, most: int | None, least: int = JUDGED) -> None:
        """See how what was requeued has ended, and stop if too much of it has failed again."""
        for id in list(self._under_way)[:most]:
            entry = await self._store.letters.get(self._queue, id)
            letter = None if entry is None else letter_in(entry)
            if letter is not None and letter.state is LetterState.REQUEUED:
                # The oldest are looked at first; what still runs goes to the end.
                self._under_way[id] = self._under_way.pop(id)
                continue
            del self._under_way[id]
            self._ended += 1
            self._failed += letter is not None and letter.state is LetterState.DEAD
        bearable = self._orders.bearable
        if least == 0 and self._under_way:
            return
        if bearable is not None and self._ended >= max(least, 1) and self._failed > bearable * self._ended:
            raise Stopped(
                f"{self._failed} of {self._ended} replays have failed again, more than {bearable:.0%}"
            )


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
