"""Outages, restarts and servers that are gone; `test_lost_replies` has the replies that do not arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from jobguard.errors import StoreError, StoreUnavailable
from jobguard.stores import RedisStore
from jobguard.stores.base import Claim, Renewal, Settlement, SettleReply, State, Verdict
from jobguard.stores.letters import Entry, LetterQueue, LetterState
from jobguard.testing import EmbeddedValkey
from tests.stores.conftest import Wire

pytestmark = pytest.mark.anyio

CLAIM = Claim("k", "one", "t", 60.0, 60.0)
SUCCESS = Settlement("k", "one", "t", 1, State.SUCCESS, 60.0, 60.0, body="done")


@pytest.fixture
def durable() -> Iterator[EmbeddedValkey]:
    """A server that writes each change to disk before it answers."""
    with EmbeddedValkey(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


async def test_a_batch_whose_replies_were_lost_is_sent_again(wired_client: Redis, wire: Wire) -> None:
    """Every operation of a pipeline gets its answer, though the first ones were lost."""
    store = RedisStore(wired_client)
    await store.claim(CLAIM._replace(key="warm"))
    wire.lose_replies(1)
    replies = await asyncio.gather(*(store.claim(CLAIM._replace(key=f"k{n}")) for n in range(30)))
    assert {reply.verdict for reply in replies} == {Verdict.GRANTED}


async def test_gives_up_after_a_bounded_number_of_resends(wired_client: Redis, wire: Wire) -> None:
    """A server that never answers is an error that keeps what redis-py said."""
    store = RedisStore(wired_client)
    await store.claim(CLAIM._replace(key="warm"))
    wire.reset()
    wire.lose_replies(1000)
    with pytest.raises(StoreUnavailable) as caught:
        await store.claim(CLAIM)
    assert caught.value.__cause__ is not None
    assert wire.round_trips == 3


async def test_every_waiter_learns_of_an_outage(wired_client: Redis, wire: Wire) -> None:
    """Operations that travelled together each raise their own error."""
    store = RedisStore(wired_client)
    wire.lose_replies(1000)
    replies = await asyncio.gather(
        store.claim(CLAIM),
        store.renew([Renewal("a", "t", 1.0), Renewal("b", "t", 1.0)]),
        store.letters.put(LetterQueue("jobguard", "q"), Entry("a", LetterState.DEAD, "send", "E", "f")),
        return_exceptions=True,
    )
    assert [type(reply) for reply in replies] == [StoreUnavailable] * 3


async def test_serves_again_after_an_outage(wired_client: Redis, wire: Wire) -> None:
    """Nothing of an outage stays behind: the same key can be claimed after it."""
    store = RedisStore(wired_client)
    wire.lose_replies(1000)
    with pytest.raises(StoreUnavailable):
        await store.claim(CLAIM)
    wire.lose_replies(0)
    assert (await store.claim(CLAIM)).verdict is Verdict.GRANTED


@pytest.mark.parametrize("end", ["restart", "kill"])
async def test_goes_on_after_a_restart_between_steps(durable: EmbeddedValkey, end: str) -> None:
    """A server that comes back with its data goes on where it was, scripts relearnt."""
    async with Redis.from_url(durable.url) as client:
        store = RedisStore(client)
        granted = await store.claim(CLAIM)
        restart(durable, end)
        assert await store.renew([Renewal("k", "t", 90.0)]) == [True]
        restart(durable, end)
        assert await store.settle(SUCCESS._replace(fence=granted.fence)) == SettleReply(True)
        restart(durable, end)
        reply = await store.claim(CLAIM._replace(owner="two", token="u"))
        assert (reply.verdict, reply.body) == (Verdict.SUCCEEDED, "done")


def restart(server: EmbeddedValkey, end: str) -> None:
    if end == "kill":
        server.kill()
        server.start()
    else:
        server.restart()


async def test_says_that_a_server_is_gone() -> None:
    """A socket where nobody listens is an outage, not a crash."""
    store = RedisStore.from_url("unix:///nonexistent/jobguard.sock")
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await store.look_up("k")
    await store.aclose()


async def test_takes_a_replica_that_refuses_writes_for_an_outage(redis_client: Redis) -> None:
    """During a failover the old primary refuses writes: that passes."""
    with EmbeddedValkey() as server:
        async with Redis.from_url(server.url) as client:
            await client.execute_command("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(StoreUnavailable, match="ReadOnlyError"):
                await RedisStore(client).claim(CLAIM)


async def test_takes_a_full_server_for_an_error() -> None:
    """A server out of memory answers; sending again would not help."""
    with EmbeddedValkey(config={"maxmemory": "1", "maxmemory-policy": "noeviction"}) as server:
        async with Redis.from_url(server.url) as client:
            with pytest.raises(StoreError, match="OutOfMemory") as caught:
                await RedisStore(client).claim(CLAIM)
            assert not isinstance(caught.value, StoreUnavailable)


async def test_takes_a_refused_login_for_an_error_and_hides_it() -> None:
    """A wrong password is not an outage, and is not shown."""
    with EmbeddedValkey(password="right") as server:
        store = RedisStore.from_url(server.url.replace("right", "s3cr3t"))
        with pytest.raises(StoreError) as caught:
            await store.claim(CLAIM)
        assert not isinstance(caught.value, StoreUnavailable)
        assert "s3cr3t" not in f"{caught.value!r} {caught.value.__cause__!r}"
        await store.aclose()
