"""The stores that state machines run on, each with a clock that the model can read."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from math import ceil, floor
from typing import Any

import fakeredis
from redis.asyncio import Redis

from chaos.models import Span
from chaos.redis7 import find_redis7
from jobguard.stores import MemoryStore, RedisStore, Store
from jobguard.stores.commands import Script
from jobguard.testing import EmbeddedValkey, ManualClock

TICK = 0.000037
"""Seconds by which a clock moved by hand goes on with each look."""
NOISE = 1e-6
"""Milliseconds: what is lost where seconds become milliseconds."""


class Stage(ABC):
    """Makes stores of one kind, whose time it tells."""

    @abstractmethod
    def open(self) -> tuple[Store, Redis | None]:
        """A store that maybe has what the last one had, and its client if it has one."""

    async def open_empty(self) -> tuple[Store, Redis | None]:
        store, client = self.open()
        if client is not None:
            await client.flushdb()
        return store, client

    async def close(self, store: Store, client: Redis | None) -> None:
        await store.aclose()
        if client is not None:
            await client.aclose()

    @abstractmethod
    def now(self) -> Span:
        """Milliseconds on the store's clock."""

    @abstractmethod
    def milliseconds(self, seconds: float) -> float:
        """What the store makes of a duration."""

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """Let time go on."""

    @abstractmethod
    def lose_reply(self) -> bool:
        """Lose that of the next operation once it has been executed, so that the store sends it again.

        False = no reply is ever lost here.
        """


class Ticking(ManualClock):
    """Goes on a little with each look, so that no two operations are at one time."""

    def __call__(self) -> float:
        self.advance(TICK)
        return super().__call__()


class InMemory(Stage):
    """A `MemoryStore`: nothing comes between it and its callers, so that no reply is ever lost."""

    def __init__(self) -> None:
        self._clock = Ticking()

    def open(self) -> tuple[Store, Redis | None]:
        self._clock = Ticking()
        return MemoryStore(clock=self._clock), None

    def now(self) -> Span:
        now = self._clock() * 1000
        return Span(now - NOISE, now + NOISE)

    def milliseconds(self, seconds: float) -> float:
        return seconds * 1000

    def pause(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def lose_reply(self) -> bool:
        return False


class OnServer(Stage):
    """A `RedisStore` on a server that has this machine's clock.

    Args:
        connect: makes a client.
    """

    def __init__(self, connect: Callable[[], Redis]) -> None:
        self._connect = connect
        self._losing = False

    def open(self) -> tuple[Store, Redis | None]:
        client, self._losing = self._connect(), False
        store = RedisStore(client)
        # Where it would send commands again itself, but without its pause and a new connection.
        lossy: Any = Lossy(store._batcher, self._loses)
        store._batcher = store._letters._batcher = lossy
        return store, client

    def now(self) -> Span:
        # Servers count whole milliseconds; fakeredis rounds microseconds.
        now = time.time() * 1000
        return Span(floor(now), floor(now + 0.001))

    def milliseconds(self, seconds: float) -> float:
        return ceil(seconds * 1000)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def lose_reply(self) -> bool:
        self._losing = True
        return True

    def _loses(self) -> bool:
        losing, self._losing = self._losing, False
        return losing


class Lossy:
    """A batcher that can lose the first reply to commands, and so sends the very same again."""

    def __init__(self, batcher: Any, loses: Callable[[], bool]) -> None:
        self._batcher = batcher
        self._loses = loses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batcher, name)

    async def run(self, script: Script | None, keys: int, *arguments: bytes) -> Any:
        if not self._loses():
            return await self._batcher.run(script, keys, *arguments)
        return (await self._batcher.run_all([(script, keys, arguments)] * 2))[1]

    async def run_all(self, runs: Iterable[tuple[Script | None, int, tuple[bytes, ...]]]) -> list[Any]:
        commands = list(runs)
        if not self._loses():
            return list(await self._batcher.run_all(commands))
        return list((await self._batcher.run_all(commands * 2))[len(commands) :])


@contextmanager
def in_memory() -> Iterator[Stage]:
    yield InMemory()


@contextmanager
def on_fakeredis() -> Iterator[Stage]:
    server = fakeredis.FakeServer()
    yield OnServer(lambda: fakeredis.FakeAsyncRedis(server=server))


@contextmanager
def on_valkey() -> Iterator[Stage]:
    with EmbeddedValkey() as server:
        yield OnServer(lambda: Redis.from_url(server.url))


@contextmanager
def on_redis_7() -> Iterator[Stage]:
    with EmbeddedValkey(binary=find_redis7()) as server:
        yield OnServer(lambda: Redis.from_url(server.url))


STAGES: Mapping[str, Callable[[], AbstractContextManager[Stage]]] = {
    "memory": in_memory,
    "fakeredis": on_fakeredis,
    "valkey": on_valkey,
    "redis 7": on_redis_7,
}
"""By name."""
