"""What a job costs at a real server: counted there, and by pipelines on the wire."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import UnixDomainSocketConnection

from jobguard import Duplicate, JobGuard, constant, dead_letter, deduplicated, retrying
from jobguard.stores import RedisStore
from jobguard.stores.base import Renewal
from jobguard.testing import EmbeddedValkey
from tests.engine.harness import Bench, Forward, Gate, started, until

pytestmark = pytest.mark.anyio


class CountingConnection(UnixDomainSocketConnection):
    """Counts what is sent: a lone command or a pipeline is one."""

    sent = 0

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        CountingConnection.sent += 1
        await super().send_packed_command(*args, **kwargs)


@pytest.fixture
def where() -> str:
    return "valkey-asyncio"


@pytest.fixture
async def client(valkey: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A client whose one connection is open already, and counts."""
    pool = BlockingConnectionPool(
        connection_class=CountingConnection, path=str(valkey.socket_path), max_connections=1, timeout=60
    )
    async with Redis(connection_pool=pool) as client:
        await client.ping()
        yield client
    await pool.aclose()


@pytest.fixture
async def bench(client: Redis) -> AsyncIterator[Bench]:
    store = RedisStore(client)
    yield Bench(store, f"test-{uuid.uuid4().hex[:12]}", lambda: store)
    await store.aclose()


@pytest.fixture
async def guard(bench: Bench) -> AsyncIterator[JobGuard]:
    """A guard whose scripts the server has already."""

    @deduplicated(scope="warm-up")
    async def warm_up(x: int) -> None: ...

    async with bench.guard(lease=600) as guard:
        await warm_up(1)
        yield guard


async def trips(client: Redis, call: Callable[[], Awaitable[object]]) -> tuple[int, int]:
    """Commands that the server ran for a call, and round trips that they took."""
    await client.config_resetstat()
    before = CountingConnection.sent
    await call()
    sent = CountingConnection.sent - before
    stats: dict[str, dict[str, int]] = await client.info("commandstats")
    ran = sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))
    return ran, sent


async def test_a_first_success_takes_two_round_trips(guard: JobGuard, client: Redis) -> None:
    """Claim and settle."""

    @deduplicated
    async def task(x: int) -> int:
        return x

    assert await trips(client, lambda: task(1)) == (2, 2)


async def test_a_first_success_with_all_decorators_takes_two_round_trips(
    guard: JobGuard, client: Redis
) -> None:
    """What does not happen costs nothing."""

    @deduplicated
    @retrying(attempts=3)
    @dead_letter
    async def task(x: int) -> int:
        return x

    assert await trips(client, lambda: task(1)) == (2, 2)


async def test_a_duplicate_of_a_success_takes_one_round_trip(guard: JobGuard, client: Redis) -> None:
    """Verdict and stored result in one reply."""

    @deduplicated
    async def task(x: int) -> list[str]:
        return ["result"] * 100

    await task(1)
    assert await trips(client, lambda: task(1)) == (1, 1)


async def test_a_duplicate_of_a_running_job_takes_one_round_trip(guard: JobGuard, client: Redis) -> None:
    """The claim that was refused."""
    gate = Gate()

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    async def duplicate() -> None:
        assert isinstance(await task(1), Duplicate)

    async with started(lambda: task(1)):
        await gate.reached()
        assert await trips(client, duplicate) == (1, 1)
        gate.open()


async def test_a_success_without_a_claim_takes_no_round_trip(guard: JobGuard, client: Redis) -> None:
    """`@retrying` and `@dead_letter` alone touch no store until something fails."""

    @retrying(attempts=3)
    @dead_letter
    async def task(x: int) -> int:
        return x

    assert await trips(client, lambda: task(1)) == (0, 0)


async def test_a_retry_without_a_claim_takes_no_round_trip(guard: JobGuard, client: Redis) -> None:
    """In-process the call itself remembers."""
    errors = [ValueError("once"), ValueError("twice")]

    @retrying(attempts=3, backoff=constant(0))
    @dead_letter
    async def task(x: int) -> int:
        if errors:
            raise errors.pop()
        return x

    assert await trips(client, lambda: task(1)) == (0, 0)


async def test_each_attempt_of_a_claimed_job_takes_two_round_trips(guard: JobGuard, client: Redis) -> None:
    """Claim and settle, as often as it runs."""
    errors = [ValueError("once"), ValueError("twice")]

    @deduplicated
    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> int:
        if errors:
            raise errors.pop()
        return x

    assert await trips(client, lambda: task(1)) == (6, 6)


async def test_calls_at_the_same_time_share_their_round_trips(guard: JobGuard, client: Redis) -> None:
    """Operations issued in one tick of the event loop travel as one pipeline."""

    @deduplicated
    async def task(x: int) -> int:
        return x

    async def many() -> None:
        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(task, n)

    ran, sent = await trips(client, many)
    assert ran == 40
    assert sent <= 4


async def test_a_thousand_live_claims_renew_in_one_round_trip(bench: Bench) -> None:
    """One pipeline an interval, whatever their number."""
    gate = Gate()
    rounds: list[int] = []
    sizes: list[int] = []

    @deduplicated
    async def task(x: int) -> None:
        await gate()

    async def counted(forward: Forward) -> object:
        before = CountingConnection.sent
        reply = await forward()
        rounds.append(CountingConnection.sent - before)
        sizes.append(len(reply))  # type: ignore[arg-type]
        return reply

    await bench.backing.renew([Renewal("nobody's", "token", 1)])  # the server has the script from now on
    bench.store.always("renew", counted)
    async with bench.guard(lease=6):
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                for n in range(1000):
                    group.start_soon(task, n)
                await gate.reached(1000)
                await until(lambda: 1000 in sizes)
                gate.open()
    assert rounds[sizes.index(1000)] == 1
