"""Fixtures of general use: an event loop, a server, clients and a store on it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """A shell that starts a run in the background has SIGINT ignored, by all its children too."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def anyio_backend() -> str:
    """asyncio, unless a test asks for more."""
    return "asyncio"


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    """One server for the whole run; a machine that cannot start it fails."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """Where the server listens."""
    return valkey.url


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[Redis]:
    """A client on an empty server."""
    client = Redis.from_url(redis_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def redis_store(redis_client: Redis) -> AsyncIterator[RedisStore]:
    """A store on an empty server."""
    store = RedisStore(redis_client)
    yield store
    await store.aclose()
