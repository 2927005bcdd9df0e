"""A deduplicated call on Redis beside its bare commands, and beside other libraries on the same keys.

A new call is two commands, a duplicate one. The bare commands are the very ones that the library
sends, with the same arguments and the same work for the server, sent one by one through the same
kind of client: each takes a connection out of its pool.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import redis
from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
from aws_lambda_powertools.utilities.idempotency.persistence.cache import CachePersistenceLayer
from cashews import Cache
from redis.asyncio import Redis

from benchmarks.harness import Work, in_turns
from benchmarks.recording import commands_of
from benchmarks.report import Bound, Line, microseconds
from jobguard import JobGuard, deduplicated
from jobguard.stores import RedisStore
from jobguard.stores.base import Claim
from jobguard.testing import EmbeddedValkey

MOST = 100
"""Callers at once, at most."""
RATES = {10: Bound(2.5, most=False), 100: Bound(4.0, most=False)}
"""How many times the calls a second of bare commands are wanted, by callers at once."""
ALONE = Bound(1.3)
"""How many times the time of its bare commands a lone call may take."""

Call = Callable[[str], Awaitable[object]]


def answer(message_id: str) -> dict[str, object]:
    return {"id": message_id, "sent": True}


@deduplicated(key="{message_id}")
async def with_jobguard(message_id: str, content: str) -> dict[str, object]:
    return answer(message_id)


class Caller:
    """Whoever calls: so many at once, with a message id for every call."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self._threads = ThreadPoolExecutor(concurrency)

    def fresh(self) -> list[Iterator[str]]:
        """A new message for each call."""
        return [(secrets.token_hex(8) for _ in itertools.count()) for _ in range(self.concurrency)]

    def done(self) -> list[Iterator[str]]:
        """Each caller's one message, which has been handled."""
        return [itertools.repeat(f"done-{number}") for number in range(self.concurrency)]

    def calling(self, call: Call, messages: Sequence[Iterator[str]]) -> Work:
        async def loop(mine: Iterator[str], times: int) -> None:
            for message in itertools.islice(mine, times):
                await call(message)

        async def work(times: int) -> None:
            each = times // self.concurrency
            if self.concurrency == 1:
                await loop(messages[0], each)
            else:
                await asyncio.gather(*(loop(mine, each) for mine in messages))

        return work

    def calling_in_threads(self, call: Callable[[str], object], messages: Sequence[Iterator[str]]) -> Work:
        def loop(mine: Iterator[str], times: int) -> None:
            for message in itertools.islice(mine, times):
                call(message)

        async def work(times: int) -> None:
            each = times // self.concurrency
            if self.concurrency == 1:
                loop(messages[0], each)  # as its users run it: alone, in the thread that has the event
            else:
                running = asyncio.get_running_loop()
                await asyncio.gather(
                    *(running.run_in_executor(self._threads, loop, mine, each) for mine in messages)
                )

        return work

    def close(self) -> None:
        self._threads.shutdown()


class LambdaContext:
    """What the idempotency of aws-lambda-powertools asks of its surroundings."""

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


def powertools_call(client: redis.Redis) -> Callable[[str], object]:
    config = IdempotencyConfig(expires_after_seconds=86_400)
    config.register_lambda_context(LambdaContext())  # type: ignore[arg-type]

    @idempotent_function(  # type: ignore[untyped-decorator]  # theirs
        data_keyword_argument="message_id",
        persistence_store=CachePersistenceLayer(client=client),  # type: ignore[arg-type]
        config=config,
    )
    def send(message_id: str, content: str) -> dict[str, object]:
        return answer(message_id)

    return lambda message: send(message_id=message, content="hello")


def cashews_call(cache: Cache) -> Call:
    @cache(ttl="1d", key="send:{message_id}")
    async def send(message_id: str, content: str) -> dict[str, object]:
        return answer(message_id)

    return lambda message: send(message, "hello")


async def redis_calls(concurrency: int) -> list[Line]:
    """New calls and duplicates by so many callers at once."""
    with EmbeddedValkey(tcp=True) as server:
        return await _compare(server.tcp_url, concurrency)


async def _compare(url: str, concurrency: int) -> list[Line]:
    async with AsyncExitStack() as stack:
        connect: Any = Redis.from_url  # redis-py leaves its options without types
        ours, bare = [await stack.enter_async_context(connect(url)) for _ in range(2)]
        blocking = stack.enter_context(redis.Redis.from_url(url, decode_responses=True))
        cache = Cache()
        cache.setup(url)
        stack.push_async_callback(cache.close)
        caller = Caller(concurrency)
        stack.callback(caller.close)
        store = RedisStore(ours)
        stack.push_async_callback(store.aclose)
        await stack.enter_async_context(JobGuard(store))

        for number in range(MOST):
            await with_jobguard(f"done-{number}", "hello")
        claim, settle = await commands_of(url, with_jobguard(secrets.token_hex(8), "hello"))
        (again,) = await commands_of(url, with_jobguard("done-0", "hello"))
        powertools, cached = powertools_call(blocking), cashews_call(cache)

        async def bare_new(message: str) -> None:
            key = b"bare:%032d" % next(numbers)
            await bare.evalsha(claim[1], 1, key, *claim[4:])
            await bare.evalsha(settle[1], 1, key, *settle[4:])

        async def bare_done(message: str) -> None:
            await bare.evalsha(*again[1:])

        async def store_done(message: str) -> None:
            await store.claim(Claim(again[3].decode(), "local:other:0", message, 30.0, 30.0))

        def jobguard(message: str) -> Awaitable[object]:
            return with_jobguard(message, "hello")

        numbers = itertools.count()
        lines: list[Line] = []
        for kind, messages, reference in (
            ("new", caller.fresh, bare_new),
            ("duplicate", caller.done, bare_done),
        ):
            subjects = {
                "bare EVALSHAs": caller.calling(reference, messages()),
                "jobguard @deduplicated": caller.calling(jobguard, messages()),
                "cashews": caller.calling(cached, messages()),
                "aws-lambda-powertools": caller.calling_in_threads(powertools, messages()),
            }
            if kind == "duplicate":
                subjects["jobguard store alone"] = caller.calling(store_done, messages())
            timings = await in_turns(subjects, rounds=30, slice_seconds=0.03, step=concurrency)
            base = timings["bare EVALSHAs"]
            for name, timing in timings.items():
                bounded = name == "jobguard @deduplicated"
                if concurrency == 1:
                    value, unit, bound = timing.over(base), "x time", ALONE
                else:
                    value, unit, bound = base.over(timing), "x rate", RATES[concurrency]
                lines.append(
                    Line(
                        f"{kind}: {name}",
                        microseconds(timing.seconds),
                        value,
                        unit,
                        bound if bounded else None,
                    )
                )
        return lines
