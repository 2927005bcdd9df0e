"""What the library really sends, to be sent again without it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import hiredis
from redis.asyncio import Redis

from jobguard import JobGuard
from jobguard.stores import RedisStore


async def commands_of(url: str, call: Awaitable[object]) -> list[tuple[Any, ...]]:
    """The scripts that a guarded call runs, as arguments of `EVALSHA`."""
    sent: list[tuple[Any, ...]] = []
    async with Redis.from_url(url) as client:
        pool: Any = client.connection_pool

        class Recording(pool.connection_class):  # type: ignore[misc]  # which one depends on the URL
            async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
                reader = hiredis.Reader()
                for piece in [command] if isinstance(command, bytes) else command:
                    reader.feed(piece)
                while (arguments := reader.gets()) is not False:
                    if arguments[0] == b"EVALSHA":
                        sent.append(tuple(arguments))
                await super().send_packed_command(command, check_health)

        pool.connection_class = Recording
        store = RedisStore(client)
        async with JobGuard(store):
            await call
        await store.aclose()
    return sent
