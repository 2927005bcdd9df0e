"""How commands travel to the server."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from jobguard.errors import StoreError, StoreUnavailable
from jobguard.stores import RedisStore
from jobguard.stores.base import Claim, Renewal, Settlement, State, Verdict
from jobguard.stores.letters import LetterQuery, LetterQueue
from tests.stores.conftest import Wire

pytestmark = pytest.mark.anyio


def claim(key: str, owner: str = "one", token: str = "t") -> Claim:
    return Claim(key, owner, token, 60.0, 60.0)


def success(key: str, token: str = "t") -> Settlement:
    return Settlement(key, "one", token, 1, State.SUCCESS, 60.0, 60.0, body="done")


async def warm(client: Redis) -> RedisStore:
    """A store whose scripts the server knows."""
    store = RedisStore(client)
    await store.claim(claim("warm"))
    await store.renew([Renewal("warm", "t", 60.0)])
    await store.settle(success("warm"))
    await store.forget("cold")
    return store


async def test_sends_one_tick_as_one_pipeline(wired_client: Redis, wire: Wire) -> None:
    """Operations issued at once share one round trip, on one connection."""
    store = await warm(wired_client)
    connections = wire.connections
    wire.reset()
    replies = await asyncio.gather(*(store.claim(claim(f"k{number}")) for number in range(40)))
    assert all(reply.verdict is Verdict.GRANTED for reply in replies)
    assert (wire.round_trips, wire.connections) == (1, connections)


async def test_sends_a_job_in_two_round_trips(wired_client: Redis, wire: Wire) -> None:
    """A claim and its settlement are one round trip each, and a duplicate is one in all."""
    store = await warm(wired_client)
    wire.reset()
    await store.claim(claim("k"))
    await store.settle(success("k"))
    assert wire.round_trips == 2
    reply = await store.claim(claim("k", "two", "u"))
    assert (reply.body, wire.round_trips) == ("done", 3)


async def test_uses_several_connections_for_a_crowd(wired_client: Redis) -> None:
    """More than a pipeline's worth of operations all get their own answer."""
    store = await warm(wired_client)
    replies = await asyncio.gather(*(store.claim(claim(f"k{n}", f"owner {n}")) for n in range(500)))
    assert {reply.verdict for reply in replies} == {Verdict.GRANTED}
    records = await asyncio.gather(*(store.look_up(f"k{n}") for n in range(500)))
    assert [record.owner for record in records if record] == [f"owner {n}" for n in range(500)]


async def test_leaves_most_of_the_pool_to_others(wired_client: Redis, wire: Wire) -> None:
    """However much is issued at once, the store takes a bounded number of connections."""
    store = await warm(wired_client)
    await asyncio.gather(*(store.look_up(f"k{number}") for number in range(2000)))
    assert wire.connections <= 20


async def test_who_gives_up_behind_a_large_batch_breaks_no_connection(
    wired_client: Redis, wire: Wire
) -> None:
    """A cancelled operation was not to write what others had issued in its tick, and that takes long."""
    store = await warm(wired_client)
    connections = wire.connections
    large = [(None, 0, (b"SET", b"jobguard-large-%d" % number, b"x" * 1_000_000)) for number in range(30)]
    writing = asyncio.ensure_future(store._batcher.run_all(large))
    asking = asyncio.ensure_future(store.look_up("warm"))
    for _ in range(5):
        await asyncio.sleep(0)
    asking.cancel()
    assert await writing == [b"OK"] * 30
    assert (await asyncio.gather(asking, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    assert wire.connections == connections
    await asyncio.gather(*(wired_client.delete(f"jobguard-large-{number}") for number in range(30)))


async def test_tells_of_an_error_that_nobody_foresaw(
    redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in the client reaches each one who waits, as an error of the store."""

    async def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    store = RedisStore(redis_client)
    with monkeypatch.context() as patch:
        patch.setattr(redis_client.connection_pool, "get_connection", broken)
        replies = await asyncio.gather(
            store.claim(claim("a")), store.claim(claim("b")), return_exceptions=True
        )
    assert [type(reply) for reply in replies] == [StoreError] * 2
    assert [type(getattr(reply, "__cause__", None)) for reply in replies] == [ZeroDivisionError] * 2


async def test_renews_a_thousand_claims_in_one_round_trip(wired_client: Redis, wire: Wire) -> None:
    """A process's heartbeat costs one round trip, whatever it holds."""
    store = await warm(wired_client)
    await asyncio.gather(*(store.claim(claim(f"k{number}")) for number in range(1000)))
    wire.reset()
    renewed = await store.renew([Renewal(f"k{number}", "t", 120.0) for number in range(1000)])
    assert renewed == [True] * 1000
    assert wire.round_trips == 1


async def test_an_operation_that_fails_touches_no_other(redis_client: Redis) -> None:
    """A key that holds something else is the error of the operation that used it alone."""
    store = RedisStore(redis_client)
    await redis_client.rpush("jobguard-wrong", "a")  # type: ignore[misc]
    replies = await asyncio.gather(
        store.claim(claim("a")),
        store.claim(claim("jobguard-wrong")),
        store.claim(claim("b")),
        return_exceptions=True,
    )
    await redis_client.delete("jobguard-wrong")
    assert isinstance(replies[1], StoreError)
    assert not isinstance(replies[1], StoreUnavailable)
    assert [getattr(reply, "verdict", None) for reply in replies[::2]] == [Verdict.GRANTED] * 2


async def test_a_cancelled_operation_touches_no_other(redis_client: Redis) -> None:
    """Of operations under way together, one may be cancelled and the rest arrive."""
    store = await warm(redis_client)
    tasks = [asyncio.ensure_future(store.claim(claim(f"k{number}"))) for number in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(replies[1], asyncio.CancelledError)
    assert [getattr(reply, "verdict", None) for reply in replies[::2]] == [Verdict.GRANTED] * 2


async def test_an_operation_cancelled_at_once_is_not_sent(redis_client: Redis) -> None:
    """What was cancelled in the tick in which it gathered with others never leaves this process."""
    store = await warm(redis_client)
    first = asyncio.ensure_future(store.claim(claim("first")))
    task = asyncio.ensure_future(store.claim(claim("k")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await first).verdict is Verdict.GRANTED
    await store.claim(claim("other"))
    assert await store.look_up("k") is None


async def test_a_settlement_follows_a_claim_that_was_cancelled(redis_client: Redis) -> None:
    """What was sent is not overtaken: the next operation on its key waits for its end."""
    store = await warm(redis_client)
    await redis_client.client_pause(100, all=False)
    task = asyncio.ensure_future(store.claim(claim("k")))
    for _ in range(5):
        await asyncio.sleep(0.001)
    task.cancel()
    reply = await store.settle(success("k"))
    assert reply.accepted
    record = await store.look_up("k")
    assert record is not None
    assert record.state is State.SUCCESS
    assert record.fence > 1


async def test_keeps_the_order_of_one_key(redis_client: Redis) -> None:
    """Operations on one key take effect in the order in which they were issued."""
    store = await warm(redis_client)
    first, settled, second, forgotten, third = await asyncio.gather(
        store.claim(claim("k")),
        store.settle(success("k")),
        store.claim(claim("k", "two", "u")),
        store.forget("k"),
        store.claim(claim("k", "three", "v")),
    )
    assert (first.verdict, settled.accepted) == (Verdict.GRANTED, True)
    assert (second.verdict, forgotten, third.verdict) == (Verdict.SUCCEEDED, True, Verdict.GRANTED)


async def test_sends_a_crowd_at_one_key_as_one_pipeline(wired_client: Redis, wire: Wire) -> None:
    """Operations of one tick on one key travel together, in order, however many they are."""
    store = await warm(wired_client)
    connections = wire.connections
    wire.reset()
    replies = await asyncio.gather(*(store.claim(claim("k", f"owner {n}", f"{n}")) for n in range(200)))
    assert [reply.verdict for reply in replies] == [Verdict.GRANTED, *[Verdict.RUNNING] * 199]
    assert (wire.round_trips, wire.connections) == (1, connections)


async def test_does_not_send_what_was_cancelled_in_line(redis_client: Redis) -> None:
    """An operation cancelled while it waits for its turn is passed over, and the next one goes."""
    store = await warm(redis_client)
    first = asyncio.ensure_future(store.claim(claim("k")))
    second = asyncio.ensure_future(store.forget("k"))
    third = asyncio.ensure_future(store.look_up("k"))
    await asyncio.sleep(0)
    second.cancel()
    assert (await first).verdict is Verdict.GRANTED
    assert await third is not None


async def test_survives_forgotten_scripts(redis_client: Redis) -> None:
    """A server that has lost its scripts learns each again, and no answer is lost."""
    store = await warm(redis_client)
    await redis_client.script_flush()
    assert (await store.claim(claim("k"))).verdict is Verdict.GRANTED
    await redis_client.script_flush()
    replies = await asyncio.gather(
        store.claim(claim("a")),
        store.settle(success("k")),
        store.renew([Renewal("b", "t", 1.0)]),
        store.letters.page(LetterQueue("jobguard", "x"), LetterQuery(), 5),
    )
    assert (replies[0].verdict, replies[1].accepted, replies[2]) == (Verdict.GRANTED, True, [False])


async def test_leaves_a_client_that_was_handed_in_open(redis_client: Redis) -> None:
    """Closing the store closes nothing that is not its own."""
    store = RedisStore(redis_client)
    await store.aclose()
    assert (await store.claim(claim("k"))).verdict is Verdict.GRANTED
    assert await redis_client.ping()


async def test_waits_for_what_is_under_way_when_closed(redis_client: Redis) -> None:
    """An operation whose waiter is gone still arrives before the store is closed."""
    store = await warm(redis_client)
    task = asyncio.ensure_future(store.claim(claim("k")))
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    await store.aclose()
    assert await redis_client.exists("k") == 1
