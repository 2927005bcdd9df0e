"""What the engine's tests share: a store that fails on request, a list of events, and waiting for things."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import anyio

from jobguard import JobGuard
from jobguard.errors import StoreUnavailable
from jobguard.events import Event, Hook
from jobguard.runtime import OnStoreError
from jobguard.stores.base import Claim, ClaimReply, Record, Renewal, Settlement, SettleReply, State, Store
from jobguard.stores.letters import (
    Dimension,
    Entry,
    Kept,
    LetterPage,
    LetterQuery,
    LetterQueue,
    LetterState,
    Tally,
    Totals,
)

T = TypeVar("T")
E = TypeVar("E", bound=Event)

PATIENCE = 60.0
"""Seconds until something that should have happened counts as never happening."""

Forward = Callable[[], Awaitable[object]]
Fault = Callable[[Forward], Awaitable[object]]
"""What happens to one operation in place of simply being carried out."""


async def down(forward: Forward) -> object:
    """The operation does not reach the store."""
    raise StoreUnavailable("no answer")


async def reply_lost(forward: Forward) -> object:
    """The operation takes effect, and nobody hears of it."""
    await forward()
    raise StoreUnavailable("no answer")


async def sent_twice(forward: Forward) -> object:
    """The reply to the first sending is lost, and the client sends the operation again."""
    await forward()
    return await forward()


async def works(forward: Forward) -> object:
    """Nothing goes wrong."""
    return await forward()


class StoreProxy:
    """A store in front of the real one: counts what passes, and fails as a test tells it to.

    Attributes:
        calls: the name of each operation that the engine asked for.
        settlements: what was to be recorded.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[str] = []
        self.settlements: list[Settlement] = []
        self._next: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self.checkpoint: Callable[[], Awaitable[None]] | None = None

    def then(self, operation: str, *faults: Fault) -> None:
        """Let the next calls of an operation meet these, one each."""
        self._next.setdefault(operation, []).extend(faults)

    def always(self, operation: str, fault: Fault) -> None:
        """Let every further call of an operation meet this."""
        self._always[operation] = fault

    def count(self, operation: str) -> int:
        return self.calls.count(operation)

    def recorded(self, state: State) -> list[Settlement]:
        """The settlements as this state that the engine asked for."""
        return [each for each in self.settlements if each.state is state]

    async def pass_on(self, operation: str, forward: Callable[[], Awaitable[T]]) -> T:
        self.calls.append(operation)
        if self.checkpoint is not None:
            await self.checkpoint()
        waiting = self._next.get(operation)
        fault = waiting.pop(0) if waiting else self._always.get(operation, works)
        reply = await fault(forward)
        if self.checkpoint is not None:
            await self.checkpoint()
        return cast(T, reply)

    async def claim(self, claim: Claim) -> ClaimReply:
        return await self.pass_on("claim", lambda: self.store.claim(claim))

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        return await self.pass_on("renew", lambda: self.store.renew(renewals))

    async def settle(self, settlement: Settlement) -> SettleReply:
        self.settlements.append(settlement)
        return await self.pass_on("settle", lambda: self.store.settle(settlement))

    async def look_up(self, key: str) -> Record | None:
        return await self.pass_on("look_up", lambda: self.store.look_up(key))

    async def forget(self, key: str) -> bool:
        return await self.pass_on("forget", lambda: self.store.forget(key))

    @property
    def letters(self) -> LetterProxy:
        return LetterProxy(self)

    async def announce(self, namespace: str, names: Sequence[str], lasts: float) -> None:
        await self.pass_on("announce", lambda: self.store.announce(namespace, names, lasts))

    async def served(self, namespace: str, name: str) -> bool:
        return await self.pass_on("served", lambda: self.store.served(namespace, name))

    async def aclose(self) -> None:
        await self.store.aclose()


class LetterProxy:
    """The dead letters of a `StoreProxy`; their operations are called `put_letter`, `get_letter` …"""

    def __init__(self, proxy: StoreProxy) -> None:
        self._proxy = proxy
        self._letters = proxy.store.letters

    async def put(
        self,
        queue: LetterQueue,
        entry: Entry,
        arrival: int | None = None,
        *,
        alert_over: int | None = None,
    ) -> Kept:
        return await self._proxy.pass_on(
            "put_letter", lambda: self._letters.put(queue, entry, arrival, alert_over=alert_over)
        )

    async def replace(
        self, queue: LetterQueue, entry: Entry, *, arrive: bool = False, alert_over: int | None = None
    ) -> Kept | None:
        return await self._proxy.pass_on(
            "replace_letter",
            lambda: self._letters.replace(queue, entry, arrive=arrive, alert_over=alert_over),
        )

    async def get(self, queue: LetterQueue, id: str) -> Entry | None:
        return await self._proxy.pass_on("get_letter", lambda: self._letters.get(queue, id))

    async def find(self, queue: LetterQueue, key: str) -> Entry | None:
        return await self._proxy.pass_on("find_letter", lambda: self._letters.find(queue, key))

    async def page(
        self,
        queue: LetterQueue,
        query: LetterQuery,
        limit: int,
        cursor: str | None = None,
        *,
        oldest_first: bool = False,
        texts: bool = True,
    ) -> LetterPage:
        return await self._proxy.pass_on(
            "page_letters",
            lambda: self._letters.page(queue, query, limit, cursor, oldest_first=oldest_first, texts=texts),
        )

    async def count(self, queue: LetterQueue, query: LetterQuery) -> int:
        return await self._proxy.pass_on("count_letters", lambda: self._letters.count(queue, query))

    async def tally(
        self,
        queue: LetterQueue,
        dimension: Dimension,
        *,
        state: LetterState = LetterState.DEAD,
        since: int | None = None,
        limit: int = 100,
    ) -> list[Tally] | None:
        return await self._proxy.pass_on(
            "tally_letters",
            lambda: self._letters.tally(queue, dimension, state=state, since=since, limit=limit),
        )

    async def remove(
        self, queue: LetterQueue, entries: Sequence[tuple[str, int | None]], *, evicted: bool = False
    ) -> list[bool]:
        return await self._proxy.pass_on(
            "remove_letters", lambda: self._letters.remove(queue, entries, evicted=evicted)
        )

    async def totals(self, queue: LetterQueue) -> Totals:
        return await self._proxy.pass_on("total_letters", lambda: self._letters.totals(queue))

    async def queues(self, namespace: str) -> list[str]:
        return await self._proxy.pass_on("letter_queues", lambda: self._letters.queues(namespace))


class Events(list[Event]):
    """The events of a test, in order; a hook."""

    def __call__(self, event: Event, /) -> None:
        self.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self if isinstance(event, kind)]

    def only(self, kind: type[E]) -> E:
        """The one event of a kind."""
        found = self.of(kind)
        assert len(found) == 1, f"{len(found)} events of {kind.__name__} in {list(self)!r}"
        return found[0]


@dataclass
class Bench:
    """A store of a test's own, with everything in between that the test wants to see.

    Attributes:
        backing: the store itself.
        store: the same behind a proxy; what guards use.
        namespace: used by no other test.
        elsewhere: the same store as another process has it, on an event loop of its own.
    """

    backing: Store
    namespace: str
    elsewhere: Callable[[], Store]
    events: Events = field(default_factory=Events)

    def __post_init__(self) -> None:
        self.store = StoreProxy(self.backing)

    def guard(
        self,
        *,
        lease: float = 30.0,
        on_store_error: OnStoreError = "raise",
        hooks: tuple[Hook, ...] = (),
        store: Store | None = None,
    ) -> JobGuard:
        """A guard on the bench's store and name space."""
        return JobGuard(
            self.store if store is None else store,
            namespace=self.namespace,
            lease=lease,
            hooks=(self.events, *hooks),
            on_store_error=on_store_error,
        )

    async def record(self, key: str | None) -> Record | None:
        """What the store knows of a key of this name space."""
        return await self.backing.look_up(f"{self.namespace}:{key}")


async def until(true: Callable[[], object]) -> None:
    """Wait for something to come true."""
    with anyio.fail_after(PATIENCE):
        while not true():  # noqa: ASYNC110  whatever it waits for, it has no event
            await anyio.sleep(0.005)


class Gate:
    """A body that stops here until told, and says when it has come."""

    def __init__(self) -> None:
        self.entered = 0
        self._open = anyio.Event()

    async def __call__(self) -> None:
        self.entered += 1
        await self._open.wait()

    def open(self) -> None:
        self._open.set()

    async def reached(self, times: int = 1) -> None:
        await until(lambda: self.entered >= times)


class Outcome:
    """What a call that was started beside the test came to."""

    def __init__(self) -> None:
        self.value: object = None
        self.error: BaseException | None = None
        self.ended = False


@asynccontextmanager
async def started(call: Callable[[], Awaitable[object]]) -> AsyncIterator[Outcome]:
    """Run a call beside the block, and wait for its end when the block is left."""
    outcome = Outcome()

    async def run() -> None:
        try:
            outcome.value = await call()
        except Exception as error:
            outcome.error = error
        finally:
            outcome.ended = True

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            yield outcome
