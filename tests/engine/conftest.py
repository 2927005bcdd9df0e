"""Where the engine's tests run: in memory on both event loops, and on a real server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from jobguard import JobGuard
from jobguard.stores import MemoryStore, RedisStore
from tests.engine.harness import Bench, Events, StoreProxy


@pytest.fixture(params=["memory-asyncio", "memory-trio", "valkey-asyncio"])
def where(request: pytest.FixtureRequest) -> str:
    """A store and an event loop; a test that needs a certain one asks for it by `indirect`."""
    name: str = request.param
    return name


@pytest.fixture
def anyio_backend(where: str) -> str:
    return where.partition("-")[2]


@pytest.fixture
async def bench(where: str, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A store behind a proxy, in a name space of its own."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    if where.startswith("memory"):
        memory = MemoryStore()
        yield Bench(memory, namespace, lambda: memory)
        return
    url: str = request.getfixturevalue("redis_url")
    async with Redis.from_url(url) as client:
        store = RedisStore(client)
        yield Bench(store, namespace, lambda: RedisStore.from_url(url))
        await store.aclose()


@pytest.fixture
async def guard(bench: Bench) -> AsyncIterator[JobGuard]:
    """The guard that is in force during a test, with a lease of 30 seconds."""
    async with bench.guard() as guard:
        yield guard


@pytest.fixture
def store(bench: Bench) -> StoreProxy:
    return bench.store


@pytest.fixture
def events(bench: Bench) -> Events:
    return bench.events
