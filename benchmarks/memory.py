"""What a million remembered successes take of a server's memory.

Some are made by calls of a guarded function; the rest by the commands that such a call sends, with
another key each. The library must be able to answer from any of them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from benchmarks.recording import commands_of
from benchmarks.report import Bound, Line
from jobguard import JobGuard, deduplicated
from jobguard.stores import RedisStore
from jobguard.stores.base import State
from jobguard.testing import EmbeddedValkey

ENTRIES = 1_000_000
CALLED = 1_000
"""Entries that calls make."""
BATCH = 500
MOST_BYTES = 260


@deduplicated(key="{message_id}")
async def send(to: str, content: str, message_id: str) -> dict[str, object]:
    return {"id": message_id, "sent": True}


def calling(message_id: str) -> Any:
    return send("+491234567", "hello", message_id)


async def memory() -> list[Line]:
    """Bytes an entry, without its result."""
    connect: Any = Redis.from_url
    with EmbeddedValkey() as server:
        url = server.url
        async with connect(url) as client:
            return [await _fill(url, client)]


async def _fill(url: str, client: Redis) -> Line:
    claim, settle = await commands_of(url, calling(secrets.token_hex(8)))
    before = await _used(client)
    store = RedisStore(client)
    async with JobGuard(store):
        for _ in range(CALLED // 100):
            await asyncio.gather(*(calling(secrets.token_hex(8)) for _ in range(100)))
    await _repeat(client, claim, settle, ENTRIES - CALLED)
    after = await _used(client)
    sizes = [await _result_size(client, store) for _ in range(200)]
    await store.aclose()
    entries = await client.dbsize()
    bytes_each = (after - before) / (entries - 1) - sum(sizes) / len(sizes)
    mebibytes = (after - before) / 2**20
    return Line(f"{entries:,} entries", f"{mebibytes:,.0f} MiB", bytes_each, "B each", Bound(MOST_BYTES))


async def _repeat(client: Redis, claim: Sequence[Any], settle: Sequence[Any], times: int) -> None:
    """Run a call's two commands for so many other keys, packed once for all of them."""
    connection: Any = await client.connection_pool.get_connection()
    try:
        packed = b"".join(connection.pack_commands([("EVALSHA", *claim[1:]), ("EVALSHA", *settle[1:])]))
        digest = claim[3].removeprefix(b"jobguard:")
        for _ in range(times // BATCH):
            keys = [secrets.token_hex(16).encode() for _ in range(BATCH)]
            await connection.send_packed_command(b"".join(packed.replace(digest, key) for key in keys))
            for _ in range(2 * BATCH):
                await connection.read_response()
    finally:
        await client.connection_pool.release(connection)


async def _used(client: Redis) -> int:
    found: int = (await client.info("memory"))["used_memory"]
    return found


async def _result_size(client: Redis, store: RedisStore) -> int:
    """The result's share of some entry, which the library must be able to read."""
    key = (await client.randomkey()).decode()
    record = await store.look_up(key)
    if record is None or record.state is not State.SUCCESS or record.body is None:
        raise RuntimeError(f"{key!r} should hold a success with its result, not {record!r}")
    return len(record.body.encode())
