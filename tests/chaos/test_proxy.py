"""The proxy does to a connection what it is told to, and only to that one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Lost

from chaos.proxy import NetFault, Proxy
from jobguard.testing import EmbeddedValkey

pytestmark = pytest.mark.anyio


@pytest.fixture
async def proxy(valkey: EmbeddedValkey) -> AsyncIterator[Proxy]:
    proxy = Proxy(lambda: valkey.socket_path)
    await proxy.open()
    yield proxy
    await proxy.close()


@pytest.fixture
async def client(proxy: Proxy, redis_client: Redis) -> AsyncIterator[Redis]:
    """A client behind the proxy, which has one connection and never repeats anything by itself."""
    client = Redis(port=proxy.port, single_connection_client=True, retry=None)
    await client.ping()
    yield client
    with suppress(Lost):
        await client.aclose()
    await redis_client.flushall()  # others look at the same server


async def test_passes_on_what_is_said(client: Redis) -> None:
    """Large values too."""
    await client.set("k", b"x" * 1_000_000)
    assert await client.get("k") == b"x" * 1_000_000


async def test_a_cut_is_noticed(proxy: Proxy, client: Redis) -> None:
    """The next command fails."""
    assert await proxy.inflict(NetFault.CUT, Random(1), 1.0)
    with pytest.raises(Lost):
        await client.ping()


async def test_a_half_open_connection_says_nothing(proxy: Proxy, client: Redis) -> None:
    """Nobody is told that nothing passes any more."""
    fault = asyncio.ensure_future(proxy.inflict(NetFault.HALF_OPEN, Random(1), 30.0))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await client.ping()
    assert not fault.done()
    fault.cancel()


async def test_a_lost_reply_is_one_to_a_command_that_was_carried_out(
    proxy: Proxy, client: Redis, redis_client: Redis
) -> None:
    """The server has done it, and the client cannot know."""
    fault = asyncio.ensure_future(proxy.inflict(NetFault.REPLY_LOSS, Random(1), 1.0))
    await asyncio.sleep(0)
    with pytest.raises(Lost):
        await client.set("k", "v")
    assert await fault is True
    assert await redis_client.get("k") == b"v"


async def test_a_reply_that_nobody_asked_for_cannot_be_lost(proxy: Proxy, client: Redis) -> None:
    """On a silent connection nothing happens, and that is said."""
    assert await proxy.inflict(NetFault.REPLY_LOSS, Random(1), 1.0) is False
    assert await client.ping()


@pytest.mark.parametrize("seed", range(8))
async def test_a_lost_reply_is_one_on_the_connection_in_use(proxy: Proxy, client: Redis, seed: int) -> None:
    """Whatever is drawn: on one that rests no reply can be lost, however often that is tried."""
    resting = Redis(port=proxy.port, single_connection_client=True)
    await resting.ping()
    await client.ping()
    fault = asyncio.ensure_future(proxy.inflict(NetFault.REPLY_LOSS, Random(seed), 1.0))
    await asyncio.sleep(0)
    with pytest.raises(Lost):
        await client.ping()
    assert await fault is True
    assert await resting.ping()
    await resting.aclose()


async def test_latency_holds_up_and_loses_nothing(proxy: Proxy, client: Redis) -> None:
    """After it all is as before."""
    fault = asyncio.ensure_future(proxy.inflict(NetFault.LATENCY, Random(5), 1.0))
    await asyncio.sleep(0)
    await client.set("k", "v")
    assert await fault is True
    assert await client.get("k") == b"v"


async def test_without_a_connection_nothing_happens(proxy: Proxy) -> None:
    """And that is said."""
    assert await proxy.inflict(NetFault.CUT, Random(1), 1.0) is False


async def test_closes_while_somebody_connects(valkey: EmbeddedValkey) -> None:
    """A connection that has not yet reached the server is cut too, although its client stays."""
    asked = asyncio.Event()

    def where() -> str:
        asked.set()
        return valkey.socket_path

    proxy = Proxy(where)
    await proxy.open()
    heard, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    await asked.wait()
    async with asyncio.timeout(20):
        await proxy.close()
        with suppress(ConnectionError):
            assert await heard.read() == b""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
