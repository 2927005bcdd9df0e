"""Every key on a server has an end, or belongs to something that is listed."""

from __future__ import annotations

import re
from typing import Any

from redis.asyncio import Redis


async def unowned_keys(client: Redis, *owned: bytes) -> list[bytes]:
    """Keys that would stay for ever and are no part of a dead letter queue that is listed.

    Args:
        client: of the server.
        owned: keys of others, which may stay.
    """
    unowned: list[bytes] = []
    send: Any = client.execute_command  # redis-py has types for it in some releases only
    async for key in client.scan_iter(count=500):
        queue = re.match(rb"\{(.+):dlq:(.+?)\}:", key)
        listed = queue is not None and await send("SISMEMBER", queue[1] + b":dlq", queue[2])
        stays = not listed and not key.endswith(b":dlq") and key not in owned
        if stays and await client.pttl(key) == NO_END:
            unowned.append(key)
    return unowned


NO_END = -1
"""What Redis says in place of milliseconds left."""
