"""The store contract, on every store and server there is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import fakeredis
import pytest
from redis.asyncio import Redis

from jobguard.stores import MemoryStore, RedisStore
from jobguard.testing import EmbeddedValkey, StoreContract

SERVER = os.environ.get("JOBGUARD_TEST_REDIS_URL")


class TestMemoryStore(StoreContract):
    """In memory, on both event loops."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestFakeRedis(StoreContract):
    """On fakeredis, with its own reading of Lua."""

    @pytest.fixture
    async def store(self) -> AsyncIterator[RedisStore]:
        async with fakeredis.FakeAsyncRedis() as client:
            yield RedisStore(client)


class TestValkey(StoreContract):
    """On a real server."""

    @pytest.fixture
    def store(self, redis_store: RedisStore) -> RedisStore:
        return redis_store


class TestDecodingClient(StoreContract):
    """Through a client that decodes responses."""

    @pytest.fixture
    async def store(self, valkey: EmbeddedValkey) -> AsyncIterator[RedisStore]:
        async with Redis.from_url(valkey.url, decode_responses=True) as client:
            yield RedisStore(client)


if SERVER is not None:

    class TestServer(StoreContract):
        """On the server named in JOBGUARD_TEST_REDIS_URL."""

        @pytest.fixture
        async def store(self) -> AsyncIterator[RedisStore]:
            store = RedisStore.from_url(str(SERVER))
            yield store
            await store.aclose()
