"""Connections of redis-py's pool, each kept for a second at a time.

To take a connection out of the pool costs a third of a lone round trip: the pool looks whether the
server has hung up meanwhile. Whoever sends all the time can do without; a connection that breaks
is an error like any other, and its commands are sent again over one that the pool has looked at.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection, ConnectionPool

KEPT = 1.0
"""Seconds for which a connection is kept; then the pool gets it back, and what it does on that."""
SHARE = 10
"""One in so many of the pool's connections is kept at most: the client's other users need some too."""


class _Wire:
    """A connection that is kept: of which event loop, and whether its time is up."""

    __slots__ = ("connection", "expired", "loop", "timer")

    def __init__(self, connection: AbstractConnection, loop: asyncio.AbstractEventLoop) -> None:
        self.connection = connection
        self.loop = loop
        self.expired = False
        self.timer: asyncio.TimerHandle | None = None


class Wires:
    """Exchanges packed commands for replies, over a pool's connections."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._most = pool.max_connections // SHARE
        self._kept: set[_Wire] = set()
        self._idle: list[_Wire] = []
        self._returning: set[asyncio.Task[None]] = set()

    async def exchange(self, packed: bytes, replies: int) -> list[object]:
        """Send commands and read so many replies; an error that the server answers is one of them.

        Raises:
            RedisError, OSError: the connection failed. What was sent may have taken effect.
        """
        wire = await self._take()
        connection: Any = wire.connection  # redis-py annotates replies and pools only here and there
        found: list[object] = []
        try:
            await connection.send_packed_command(packed)
            while len(found) < replies:
                try:
                    found.append(await connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    found.append(error)
        except BaseException as error:
            # redis-py has disconnected it, so that no later command reads these replies.
            await self._give_back(wire)
            if isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)):
                # What broke this one has likely broken the idle ones too; each would cost a resend.
                await self._give_back_idle()
            raise
        if wire.expired:
            await self._give_back(wire)
        else:
            self._idle.append(wire)
        return found

    async def _take(self) -> _Wire:
        loop = asyncio.get_running_loop()
        while self._idle:
            wire = self._idle.pop()
            if wire.loop is loop:
                return wire
            await self._give_back(wire)
        pool: Any = self._pool
        wire = _Wire(await pool.get_connection(), loop)
        if len(self._kept) < self._most:
            self._kept.add(wire)
            wire.timer = loop.call_later(KEPT, self._expire, wire)
        else:
            wire.expired = True
        return wire

    def _expire(self, wire: _Wire) -> None:
        wire.expired = True
        if wire in self._idle:
            self._idle.remove(wire)
            task = wire.loop.create_task(self._give_back(wire))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)

    async def _give_back(self, wire: _Wire) -> None:
        self._kept.discard(wire)
        if wire.timer is not None:
            wire.timer.cancel()
        await self._pool.release(wire.connection)

    async def _give_back_idle(self) -> None:
        while self._idle:
            await self._give_back(self._idle.pop())

    async def aclose(self) -> None:
        """Give back what is kept and idle."""
        await self._give_back_idle()
        if self._returning:
            await asyncio.wait(self._returning)
