"""Where a soak takes place: servers, the way that workers reach them, and what is left there in the end."""

from __future__ import annotations

import asyncio
import pickle
import re
import time
from random import Random
from typing import Any, NamedTuple, Protocol

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import Redis

from chaos.journal import Journal
from chaos.judge import Rest
from chaos.ownership import unowned_keys
from chaos.proxy import NetFault, Proxy
from jobguard import JobGuard
from jobguard.adapters.arq import create_pool
from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey

QUEUE = "arq:queue"
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
"""Whatever was acknowledged outlives a `kill -9`."""


class Arena(Protocol):
    """Servers that can fail."""

    @property
    def url(self) -> str:
        """Where `jobguard` reaches them."""
        ...

    async def redis_settings(self, slot: str) -> dict[str, Any]:
        """How the worker in a slot connects: arguments of ARQ's `RedisSettings`."""
        ...

    async def connect(self) -> ArqRedis:
        """A pool of one's own, which no fault of the network befalls."""
        ...

    async def outage(self, random: Random) -> None:
        """Let the servers fail once; return when they are back."""
        ...

    async def network(self, kind: NetFault, slot: str, random: Random) -> bool:
        """Let the network of a slot fail; False = nothing could."""
        ...


class OneServer:
    """One server that keeps what it acknowledged, behind a proxy for each worker.

    Args:
        server: the server.
        journal: where faults are written down.
        longest: seconds that a connection hangs at most.
    """

    def __init__(self, server: EmbeddedValkey, journal: Journal, longest: float) -> None:
        self._server = server
        self._journal = journal
        self._longest = longest
        self._proxies: dict[str, Proxy] = {}
        self._pool: ArqRedis | None = None

    @property
    def url(self) -> str:
        return self._server.url

    async def redis_settings(self, slot: str) -> dict[str, Any]:
        proxy = self._proxies.get(slot)
        if proxy is None:
            proxy = self._proxies[slot] = Proxy(lambda: self._server.socket_path)
            await proxy.open()
        return {"host": "127.0.0.1", "port": proxy.port}

    async def connect(self) -> ArqRedis:
        if self._pool is None:
            settings = RedisSettings(unix_socket_path=self._server.socket_path, conn_retries=0)
            self._pool = await create_pool(settings)
        return self._pool

    async def outage(self, random: Random) -> None:
        began = time.monotonic()
        await asyncio.to_thread(self._server.kill)
        await asyncio.sleep(random.uniform(0.1, 1.0))
        await asyncio.to_thread(self._server.start)
        self._journal.write("outage", began=began)

    async def network(self, kind: NetFault, slot: str, random: Random) -> bool:
        began = time.monotonic()
        happened = await self._proxies[slot].inflict(kind, random, self._longest)
        if happened:
            self._journal.write("net", slot=slot, kind=kind, began=began)
        return happened

    async def close(self) -> None:
        for proxy in self._proxies.values():
            await proxy.close()
        if self._pool is not None:
            await self._pool.aclose()


async def at_rest(pool: ArqRedis, patience: float) -> bool:
    """Wait until no job waits or runs; False = some still do when patience ends."""
    deadline = time.monotonic() + patience
    while await pool.zcard(QUEUE) > 0:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True


async def what_is_left(pool: ArqRedis) -> Rest:
    """Read the ends of all jobs from their queue and the dead letters."""
    results: dict[str, bool] = {}
    async for key in pool.scan_iter("arq:result:*", count=1000):
        id = key.decode().removeprefix("arq:result:")
        raw = await pool.get(key)
        if raw is not None and not id.startswith("replay:"):
            results[id] = _succeeded(raw)
    letters = JobGuard(RedisStore(pool)).dead_letters()
    dead = [(each.job_id, each.reason) async for each in letters.each("state=all")]
    queued = [id.decode() for id in await pool.zrange(QUEUE, 0, -1)]
    unowned = [key.decode(errors="replace") for key in await unowned_keys(pool, QUEUE.encode())]
    return Rest(results, dead, queued, unowned)


def _succeeded(raw: bytes) -> bool:
    return bool(pickle.loads(raw)["s"])  # ARQ pickles results, and these are our own workers'


async def used_memory(client: Redis) -> int:
    """Bytes that the server's data take."""
    info: dict[str, Any] = await client.info("memory")
    return int(info["used_memory"])


class Left(NamedTuple):
    """What is left on a server when all that has an end or an owner is gone.

    Attributes:
        memory: bytes that are taken.
        keys: that nobody accounts for.
    """

    memory: int
    keys: list[str]


async def what_stays(client: ArqRedis) -> Left:
    """Clear the dead letters, and let all else run out."""
    await JobGuard(RedisStore(client)).dead_letters().clear()
    async for key in client.scan_iter(count=1000):
        if await client.pttl(key) >= 0:
            await client.pexpire(key, 1)
    await asyncio.sleep(0.1)
    # A queue that is empty is still listed, with its totals.
    keys = [key.decode(errors="replace") async for key in client.scan_iter(count=1000)]
    listed = re.compile(r"jobguard:dlq|\{jobguard:dlq:default\}:info")
    return Left(await used_memory(client), [key for key in keys if not listed.fullmatch(key)])
