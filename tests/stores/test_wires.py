"""Which connections a store keeps, and for how long."""

from __future__ import annotations

import asyncio
import gc
from random import Random
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis

from jobguard.errors import StoreUnavailable
from jobguard.stores import RedisStore, batching, wires
from jobguard.stores.base import Claim, Settlement, State, Verdict
from tests.stores.conftest import Wire

pytestmark = pytest.mark.anyio


def claim(number: int) -> Claim:
    return Claim(f"k{number}", "one", "t", 60.0, 60.0)


def in_use(pool: ConnectionPool) -> int:
    return len(pool._in_use_connections)


async def given_back(pool: ConnectionPool) -> None:
    """Return once no connection is in use."""
    for _ in range(1000):
        if in_use(pool) == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{in_use(pool)} connections were not given back")


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
    await given_back(redis_client.connection_pool)
    await redis_client.client_pause(50)
    await store.claim(claim(2))
    await given_back(redis_client.connection_pool)


async def test_keeps_nothing_of_a_small_pool(redis_url: str) -> None:
    """Where connections are few, the rest of the application needs every one of them."""
    pool = BlockingConnectionPool.from_url(redis_url, max_connections=1, timeout=1)
    async with Redis.from_pool(pool) as client:
        store = RedisStore(client)
        replies = await asyncio.gather(*(store.claim(claim(number)) for number in range(200)))
        assert {reply.verdict for reply in replies} == {Verdict.GRANTED}
        assert await client.ping()
        await given_back(pool)


async def test_survives_a_kept_connection_that_breaks(wired_client: Redis, wire: Wire) -> None:
    """A connection that the server has closed meanwhile costs a resend, not an answer."""
    store = RedisStore(wired_client)
    await store.claim(claim(1))
    wire.lose_replies(1)
    assert (await store.claim(claim(2))).verdict is Verdict.GRANTED


async def test_sends_without_waiting_for_earlier_replies(
    wired_client: Redis, wire: Wire, redis_client: Redis
) -> None:
    """What a later tick issues is on its way while earlier replies are still to come, on one connection."""
    store = RedisStore(wired_client)
    await store.claim(claim(0))
    connections = wire.connections
    await redis_client.client_pause(60_000, all=False)
    tasks = [asyncio.ensure_future(store.claim(claim(1)))]
    await wire.heard()
    tasks.append(asyncio.ensure_future(store.claim(claim(2))))
    await wire.heard()
    assert not any(task.done() for task in tasks)
    await redis_client.client_unpause()
    assert [reply.verdict for reply in await asyncio.gather(*tasks)] == [Verdict.GRANTED] * 2
    assert wire.connections == connections


@pytest.mark.parametrize("lost", [1, 2])
async def test_answers_all_that_was_under_way_when_a_connection_broke(
    wired_client: Redis, wire: Wire, lost: int
) -> None:
    """Pipelines whose replies were lost together are sent again, and each command gets its own answer."""
    store = RedisStore(wired_client)
    await store.claim(claim(0))
    wire.lose_replies(lost)
    many = 250
    owners = [f"owner {number}" for number in range(many)]
    claims = [claim(number)._replace(key=f"m{number}", owner=owner) for number, owner in enumerate(owners)]
    replies = await asyncio.gather(*map(store.claim, claims))
    assert {reply.verdict for reply in replies} == {Verdict.GRANTED}
    records = await asyncio.gather(*(store.look_up(f"m{number}") for number in range(many)))
    assert [record.owner for record in records if record] == owners
    assert in_use(wired_client.connection_pool) == 1


async def test_asks_for_a_sign_of_life_only_between_replies(redis_url: str) -> None:
    """redis-py's own health checks do not come between commands and their replies."""
    async with Redis.from_url(redis_url, health_check_interval=0.001) as client:
        store = RedisStore(client)
        for _ in range(20):
            replies = await asyncio.gather(*(store.claim(claim(number)) for number in range(120)))
            assert [reply.owner or "one" for reply in replies] == ["one"] * 120
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("limit", [None, 30.0])
async def test_a_cancelled_caller_breaks_no_connection(
    wire: Wire, redis_client: Redis, limit: float | None
) -> None:
    """Whoever is cancelled, at whatever moment, ends so, and the others go on over the same connection."""
    async with Redis.from_url(wire.url, socket_timeout=limit) as client:
        store = RedisStore(client)
        await store.claim(claim(0))
        connections = wire.connections
        for ticks in range(8):
            cancelled = asyncio.ensure_future(store.claim(claim(1)))
            other = asyncio.ensure_future(store.claim(claim(2)))
            for _ in range(ticks):
                await asyncio.sleep(0)
            if cancelled.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
            assert (await other).verdict is Verdict.GRANTED
        assert wire.connections == connections
        await store.aclose()


async def test_nobody_hears_of_a_failure_whose_caller_was_cancelled(
    wired_client: Redis, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who was cancelled while the write failed is answered no more: asyncio logs no lost error."""
    monkeypatch.setattr(batching, "RESEND_PAUSE", 0.0)
    store = RedisStore(wired_client)
    await store.claim(claim(0))
    await wire.close()
    cancelled = asyncio.ensure_future(store.claim(claim(1)))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await store.aclose()
    gc.collect()  # an error that nobody has seen is told of here, and fails this test


@pytest.mark.parametrize("options", [{}, {"max_connections": 1}, {"socket_timeout": 30}], ids=str)
@pytest.mark.parametrize("known", [True, False])
def test_goes_on_after_every_task_was_cancelled(redis_url: str, options: dict[str, Any], known: bool) -> None:
    """Somebody cancels all tasks of the event loop, at any tick: the store answers again, and lets go."""

    async def cancelled_after(ticks: int) -> None:
        async with Redis.from_url(redis_url, **options) as client:
            store = RedisStore(client)
            if known:
                await store.claim(claim(0))
            tasks = [asyncio.ensure_future(store.look_up(f"k{number}")) for number in range(3)]
            for _ in range(ticks):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.wait(tasks)
            async with asyncio.timeout(20):
                assert await store.look_up("again") is None
                await store.aclose()
            await given_back(client.connection_pool)

    for ticks in range(14):
        asyncio.run(cancelled_after(ticks))


async def test_a_retired_connection_is_not_overtaken(
    wired_client: Redis, wire: Wire, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose time is up stays in use while replies are to come, so that order holds."""
    monkeypatch.setattr(wires, "KEPT", 0.02)
    store = RedisStore(wired_client)
    await store.claim(claim(0))
    connections = wire.connections
    await redis_client.client_pause(60_000, all=False)
    claimed = asyncio.ensure_future(store.claim(claim(1)))
    await wire.heard()
    await asyncio.sleep(0.1)
    forgotten = asyncio.ensure_future(store.forget("k1"))
    await wire.heard()
    await redis_client.client_unpause()
    assert ((await claimed).verdict, await forgotten) == (Verdict.GRANTED, True)
    assert wire.connections == connections


async def test_a_connection_whose_time_is_up_is_used_again(
    wired_client: Redis, wire: Wire, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes in the very tick in which it is given back waits for it, and makes no second one."""
    monkeypatch.setattr(wires, "KEPT", 0.0)  # each reply comes in such a tick
    store = RedisStore(wired_client)
    for number in range(20):
        await redis_client.script_flush()  # the command is sent again at once
        assert (await store.claim(claim(number))).verdict is Verdict.GRANTED
    assert wire.connections == 1


async def test_a_store_closes_after_a_connection_whose_time_is_up(
    redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way back to the pool has arrived there when the store is closed."""
    monkeypatch.setattr(wires, "KEPT", 0.0)
    for number in range(20):
        store = RedisStore(redis_client)
        await store.claim(claim(number))
        await store.aclose()
        assert in_use(redis_client.connection_pool) == 0


async def test_a_small_pool_costs_no_resends(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only connection of a pool is back before it is asked for again."""
    monkeypatch.setattr(batching, "RESEND_PAUSE", 3600.0)
    async with Redis.from_url(redis_url, max_connections=1) as client:
        store = RedisStore(client)
        async with asyncio.timeout(20):
            for number in range(50):
                assert (await store.claim(claim(number))).verdict is Verdict.GRANTED
        await store.aclose()


async def test_takes_a_connection_as_early_releases_of_redis_py_give_it(redis_url: str) -> None:
    """Before release 5.3 a pool wants to know for which command."""

    class EarlyPool(ConnectionPool):
        async def get_connection(self, command_name: str, *keys: Any, **options: Any) -> Any:
            return await super().get_connection()

    async with Redis.from_pool(EarlyPool.from_url(redis_url)) as client:
        store = RedisStore(client)
        assert (await store.claim(claim(1))).verdict is Verdict.GRANTED
        await store.aclose()


async def test_may_be_closed_twice_at_once(redis_client: Redis) -> None:
    """Whoever closes a store waits for what is under way, and none of them for ever."""
    store = RedisStore(redis_client)
    await store.claim(claim(0))
    under_way = asyncio.ensure_future(store.claim(claim(1)))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await asyncio.gather(store.aclose(), store.aclose())
    assert under_way.done()


@pytest.mark.parametrize("seed", range(3))
async def test_every_answer_belongs_to_its_question(
    wired_client: Redis, wire: Wire, redis_client: Redis, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Replies are lost, connections killed, scripts forgotten, callers cancelled: no answer goes astray."""
    monkeypatch.setattr(batching, "RESEND_PAUSE", 0.01)
    random = Random(seed)
    store = RedisStore(wired_client)
    wrong: list[object] = []
    answered = unavailable = 0
    due = asyncio.Semaphore(0)

    async def work(name: str) -> None:
        nonlocal answered, unavailable
        for number in range(40):
            key = f"{name}-{number}"
            mine = claim(number)._replace(key=key, owner=key)
            task = asyncio.ensure_future(store.claim(mine))
            if random.random() < 0.3:
                due.release()  # not by the clock: a slow machine would get nothing done
            if random.random() < 0.2:
                await asyncio.sleep(random.choice([0, 0.001]))
                task.cancel()
            try:
                fence = (await task).fence
                settled = Settlement(key, key, "t", fence, State.SUCCESS, 60.0, 60.0, body=f"of {key}")
                await store.settle(settled)
                reply = await store.claim(mine._replace(owner="other", token="u"))
            except asyncio.CancelledError:
                continue
            except StoreUnavailable:
                unavailable += 1
                continue
            answered += 1
            if (reply.verdict, reply.owner, reply.body) != (Verdict.SUCCEEDED, key, f"of {key}"):
                wrong.append(reply)

    async def sabotage() -> None:
        while True:
            await due.acquire()
            match random.randrange(3):
                case 0:
                    wire.lose_replies(1)
                case 1:
                    await redis_client.client_kill_filter(_type="normal", skipme=True)
                case _:
                    await redis_client.script_flush()

    saboteur = asyncio.ensure_future(sabotage())
    try:
        await asyncio.gather(*(work(f"worker{number}") for number in range(12)))
    finally:
        saboteur.cancel()
        await asyncio.wait({saboteur})
    wire.lose_replies(0)
    assert saboteur.cancelled(), saboteur.exception()
    assert not wrong
    assert answered > 100, f"{unavailable} others were unavailable"
    assert (await store.claim(claim(0))).verdict is Verdict.GRANTED
    await store.aclose()
    assert in_use(wired_client.connection_pool) == 0


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


@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")  # what nobody closed is the point here
def test_serves_an_event_loop_after_one_that_was_closed_on_it(redis_url: str) -> None:
    """Also where nobody tidied up, the next event loop gets a connection of its own."""
    client = Redis.from_url(redis_url)
    store = RedisStore(client)

    async def use(number: int) -> Verdict:
        return (await store.claim(claim(number))).verdict

    first = asyncio.new_event_loop()
    found = [first.run_until_complete(use(1))]
    first.close()
    found.append(asyncio.run(use(2)))
    with asyncio.Runner() as runner:
        found.append(runner.run(use(3)))
        runner.run(store.aclose())
        runner.run(client.aclose())
    assert found == [Verdict.GRANTED] * 3
    gc.collect()  # what is left behind warns here
