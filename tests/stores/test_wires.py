"""Which connections a store keeps, and for how long."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis

from jobguard.stores import RedisStore, batching, wires
from jobguard.stores.base import Claim, Verdict
from tests.stores.conftest import Wire

pytestmark = pytest.mark.anyio


def claim(number: int) -> Claim:
    return Claim(f"k{number}", "one", "t", 60.0, 60.0)


def in_use(pool: ConnectionPool) -> int:
    return len(pool._in_use_connections)


async def test_keeps_a_connection_between_operations(redis_client: Redis) -> None:
    """What follows at once goes over the same connection, which the pool does not look at again."""
    store = RedisStore(redis_client)
    await store.claim(claim(1))
    assert in_use(redis_client.connection_pool) == 1
    await store.claim(claim(2))
    assert in_use(redis_client.connection_pool) == 1


async def test_gives_a_connection_back_in_time(redis_client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is kept for longer than a moment, whether it idles or works."""
    monkeypatch.setattr(wires, "KEPT", 0.02)
    store = RedisStore(redis_client)
    await store.claim(claim(1))
    for _ in range(1000):
        if in_use(redis_client.connection_pool) == 0:
            break
        await asyncio.sleep(0.01)
    assert in_use(redis_client.connection_pool) == 0
    await redis_client.client_pause(50)
    await store.claim(claim(2))
    assert in_use(redis_client.connection_pool) == 0


async def test_keeps_nothing_of_a_small_pool(redis_url: str) -> None:
    """Where connections are few, the rest of the application needs every one of them."""
    pool = BlockingConnectionPool.from_url(redis_url, max_connections=1, timeout=1)
    async with Redis.from_pool(pool) as client:
        store = RedisStore(client)
        replies = await asyncio.gather(*(store.claim(claim(number)) for number in range(200)))
        assert {reply.verdict for reply in replies} == {Verdict.GRANTED}
        assert in_use(pool) == 0
        assert await client.ping()


async def test_survives_a_kept_connection_that_breaks(wired_client: Redis, wire: Wire) -> None:
    """A connection that the server has closed meanwhile costs a resend, not an answer."""
    store = RedisStore(wired_client)
    await store.claim(claim(1))
    wire.lose_replies(1)
    assert (await store.claim(claim(2))).verdict is Verdict.GRANTED


async def test_survives_that_all_kept_connections_break_at_once(redis_url: str, redis_client: Redis) -> None:
    """A server that hangs up on everybody costs one resend, however many connections idle here."""
    async with Redis.from_url(redis_url) as client:
        store = RedisStore(client)
        many = 16 * batching.LONGEST_PIPELINE
        await asyncio.gather(*(store.claim(claim(number)) for number in range(many)))
        assert in_use(client.connection_pool) > batching.RESENDS + 1
        await redis_client.client_kill_filter(_type="normal", skipme=True)
        assert (await store.claim(claim(many))).verdict is Verdict.GRANTED
        assert in_use(client.connection_pool) == 1


async def test_lets_go_of_its_connections_when_closed(redis_client: Redis) -> None:
    """A store that is closed holds nothing of a client that is not its own."""
    store = RedisStore(redis_client)
    await store.claim(claim(1))
    await store.aclose()
    assert in_use(redis_client.connection_pool) == 0


def test_serves_one_event_loop_after_another(redis_url: str) -> None:
    """A store may be used under several `asyncio.run`, as its client may if it is closed in between."""
    client = Redis.from_url(redis_url)
    store = RedisStore(client)

    async def use() -> Verdict:
        reply = await store.claim(claim(1))
        await client.aclose()
        return reply.verdict

    assert [asyncio.run(use()), asyncio.run(use())] == [Verdict.GRANTED] * 2
