"""Failover: three servers, three Sentinels, and a primary that is killed again and again under load.

Replication is asynchronous, so the last writes of a killed primary may be gone. What follows from that, and
nothing else, is admitted; the report says how much of it there was.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chaos.arena import DURABLE
from chaos.journal import Journal
from chaos.proxy import NetFault
from chaos.report import Report, Scale
from chaos.soak import Plan, soak
from jobguard.adapters.arq import create_pool
from jobguard.testing import EmbeddedValkey

PASSWORD = "primary"
MASTER = "prime"
REPLICATED = {
    "primaryauth": PASSWORD,
    "repl-diskless-sync-delay": "0",
    # A primary that comes back too soon, and has not yet been told that it is none any more, must not be
    # written to: as the deployment guide says.
    "min-replicas-to-write": "1",
    "min-replicas-max-lag": "2",
}
PLAN = Plan(
    "failover",
    0,
    jobs=2_000,
    seconds=60,
    kills=20,
    terms=4,
    outages=5,
    stock=3,
    supervised=3,
    admits_loss=True,
)
PLANS = {
    Scale.BRIEF: replace(PLAN, jobs=500, seconds=20, kills=6, terms=1, outages=2),
    Scale.FULL: PLAN,
    Scale.LONG: replace(PLAN, jobs=20_000, seconds=600, kills=200, terms=40, outages=50),
}
AT_ONCE = 0.5
"""Share of the killed primaries that come back at once."""
DEMOTION = 25.0
"""Seconds in which Sentinels tell a primary that came back that it is none any more."""
PATIENCE = 60.0
"""Seconds in which a failover has to be over."""


def run(seed: int, scale: Scale) -> Report:
    return asyncio.run(_run(replace(PLANS[scale], seed=seed)))


async def _run(plan: Plan) -> Report:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        arena = stack.enter_context(Sentinels(Journal(directory / "servers.journal")))
        await arena.watched()
        stack.push_async_callback(arena.aclose)
        return await soak(plan, arena, directory)


class Sentinels:
    """A primary, two replicas, and three Sentinels which see to it that there always is a primary.

    Args:
        journal: where failovers are written down.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._stack = ExitStack()
        self._servers: dict[int, EmbeddedValkey] = {}
        self._sentinels: list[tuple[str, int]] = []
        self._pool: ArqRedis | None = None
        self._retired: list[ArqRedis] = []

    def __enter__(self) -> Sentinels:
        for _ in range(3):
            config = {**DURABLE, **REPLICATED}
            if self._servers:
                config["replicaof"] = f"127.0.0.1 {next(iter(self._servers))}"
            server = EmbeddedValkey(tcp=True, password=PASSWORD, config=config)
            self._stack.enter_context(server)
            assert server.port is not None
            self._servers[server.port] = server
        watch = {
            # ARQ has no way to give Sentinels a password of their own.
            "requirepass": '""',
            "sentinel monitor": f"{MASTER} 127.0.0.1 {next(iter(self._servers))} 2",
            "sentinel auth-pass": f"{MASTER} {PASSWORD}",
            "sentinel down-after-milliseconds": f"{MASTER} 500",
            "sentinel failover-timeout": f"{MASTER} 4000",
        }
        for _ in range(3):
            sentinel = self._stack.enter_context(EmbeddedValkey(tcp=True, sentinel=True, config=watch))
            assert sentinel.port is not None
            self._sentinels.append(("127.0.0.1", sentinel.port))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def aclose(self) -> None:
        for pool in (*self._retired, self._pool):
            if pool is not None:
                await pool.aclose()

    @property
    def url(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self._sentinels)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{MASTER}/0"

    async def redis_settings(self, slot: str) -> dict[str, Any]:
        return {
            "host": self._sentinels,
            "sentinel": True,
            "sentinel_master": MASTER,
            "password": PASSWORD,
        }

    async def connect(self) -> ArqRedis:
        if self._pool is None:
            settings = RedisSettings(**await self.redis_settings(""), conn_retries=0)
            self._pool = await create_pool(settings)
        return self._pool

    async def network(self, kind: NetFault, slot: str, random: Random) -> bool:
        return False

    async def watched(self) -> None:
        """Wait until the Sentinels know each other and all servers."""
        await self._until(self._all_is_well)

    async def outage(self, random: Random) -> None:
        """Kill the primary, and bring it back: at once, or when all is well without it.

        One that comes back at once takes itself for the primary. A replica that has not been told either may
        join it, and then it takes writes, which are lost when it is told.

        Over it is when the primary has a replica that keeps up, without which it takes no writes.
        """
        await self._until(self._all_is_well)
        before = await self._primary()
        began = time.monotonic()
        await asyncio.to_thread(self._servers[before].kill)

        async def promoted() -> bool:
            port = await self._primary()
            return port != before and await self._info(port, "role") == "master"

        async def demoted() -> bool:
            return await self._info(before, "role") == "slave"

        await self._until(promoted)
        if random.random() < AT_ONCE:
            await asyncio.sleep(random.uniform(0.0, 1.0))
        else:
            await self._until(self._all_is_well)
        await asyncio.to_thread(self._servers[before].start)
        try:
            await self._until(demoted, DEMOTION)
        except TimeoutError:  # somebody has to look after it
            async with Redis(host="127.0.0.1", port=before, password=PASSWORD) as client:
                await cast(Any, client).replicaof("127.0.0.1", await self._primary())
        self._journal.write("outage", began=began)
        await self._until(self._all_is_well)
        if self._pool is not None:  # it may have connections to who is no primary any more, and reads there
            self._retired.append(self._pool)
            self._pool = None

    async def _all_is_well(self) -> bool:
        named = set[int]()
        for host, port in self._sentinels:
            async with Redis(host=host, port=port) as client:
                sentinel: Any = client  # redis-py says no types for what Sentinels are asked
                known = await sentinel.sentinel_master(MASTER)
                if not known["is_master"] or known["is_sdown"] or known["num-other-sentinels"] < 2:
                    return False
                named.add(int(known["port"]))
        # The one that was killed last may take a while to be told that it is a replica now.
        return len(named) == 1 and int(await self._info(named.pop(), "min_slaves_good_slaves")) >= 1

    async def _primary(self) -> int:
        host, port = self._sentinels[0]
        async with Redis(host=host, port=port) as client:
            sentinel: Any = client
            return int((await sentinel.sentinel_get_master_addr_by_name(MASTER))[1])

    async def _info(self, port: int, name: str) -> str:
        async with Redis(host="127.0.0.1", port=port, password=PASSWORD) as client:
            return str((await client.info("replication"))[name])

    async def _until(self, happened: Callable[[], Awaitable[bool]], patience: float = PATIENCE) -> None:
        async with asyncio.timeout(patience):
            while True:
                try:
                    if await happened():
                        return
                except (RedisError, OSError):
                    pass  # a server that is not there yet
                await asyncio.sleep(0.05)
