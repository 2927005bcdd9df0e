"""What a record costs the server, and that it ends."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from chaos.ownership import unowned_keys
from jobguard.stores import RedisStore
from jobguard.stores.base import Claim, Settlement, State
from jobguard.stores.letters import Entry, LetterQueue, LetterState

pytestmark = pytest.mark.anyio

RECORDS = 20_000
LETTER_KEYS = 13
"""Keys of a queue with one letter, of what its writer was answered, and of the list of queues."""
RESULT = '{"id":"wamid.HBgL"}'


async def used(client: Redis) -> int:
    await client.memory_purge()
    memory: int = (await client.info("memory"))["used_memory_dataset"]
    return memory


async def succeed(store: RedisStore) -> None:
    key, owner = f"jobguard:{uuid4().hex}", f"arq:queue:{uuid4().hex}:1760000000000"
    reply = await store.claim(Claim(key, owner, "twelve.chars", 30.0, 600.0))
    await store.settle(
        Settlement(key, owner, "twelve.chars", reply.fence, State.SUCCESS, 86400.0, 600.0, body=RESULT)
    )


async def test_remembers_a_success_in_260_bytes_and_its_result(redis_store: RedisStore) -> None:
    """A remembered success costs at most 260 bytes, key and expiry included, and its result."""
    client = redis_store._client
    assert isinstance(client, Redis)
    await succeed(redis_store)
    before = await used(client)
    overhead = (await client.memory_stats())["overhead.total"]
    for _ in range(RECORDS // 500):
        await asyncio.gather(*(succeed(redis_store) for _ in range(500)))
    grown = await used(client) - before + (await client.memory_stats())["overhead.total"] - overhead
    assert grown / RECORDS <= 260 + len(RESULT)


async def test_leaves_no_key_without_an_end_or_an_owner(redis_store: RedisStore, redis_client: Redis) -> None:
    """Records of every state expire; dead letters belong to an index."""
    for state in State:
        key = f"jobguard:{state}"
        await redis_store.claim(Claim(key, "one", "t", 30.0, 0.0))
        if state is not State.PROCESSING:
            await redis_store.settle(Settlement(key, "one", "t", 1, state, 0.0, 60.0))
    entry = Entry("a", LetterState.DEAD, "send", "E", "f", "key")
    await redis_store.letters.put(LetterQueue("jobguard", "default"), entry)
    await redis_store.announce("jobguard", ["send"], 60.0)
    assert await redis_client.dbsize() == len(State) + LETTER_KEYS + 1
    assert await unowned_keys(redis_client) == []


async def test_finds_a_key_that_would_stay(redis_client: Redis) -> None:
    """The check that the tests of this folder share sees what it is there to see."""
    await redis_client.set("jobguard:stray", "x")
    assert await unowned_keys(redis_client) == [b"jobguard:stray"]
    await redis_client.delete("jobguard:stray")
