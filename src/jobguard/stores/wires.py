"""A connection of redis-py's pool that all commands of an event loop share.

Commands are written as they come, whatever is still to be answered; answers come in the same order.
To take a connection out of the pool for each costs a third of a lone round trip: the pool looks
whether the server has hung up meanwhile. A connection that breaks is an error like any other, and
its commands are sent again over one that the pool has looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from jobguard.stores.commands import Command, packed

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection, ConnectionPool

KEPT = 1.0
"""Seconds for which a connection is kept; then the pool gets it back, and what it does on that."""
SMALL = 10
"""In a pool of fewer connections none is kept: the client's other users need every one."""


class _Wire:
    """A connection, and who uses it.

    Attributes:
        users: exchanges that have begun and not ended.
        over: no further exchange begins on it.
        broken: what was sent and not answered never will be.
    """

    __slots__ = ("broken", "connection", "loop", "over", "reading", "users", "writing")

    def __init__(self, connection: AbstractConnection, loop: asyncio.AbstractEventLoop) -> None:
        self.connection = connection
        self.loop = loop
        self.writing = asyncio.Lock()  # both serve first come, first served
        self.reading = asyncio.Lock()
        self.users = 0
        self.over = False
        self.broken = False


class Wires:
    """Exchanges commands for replies with one server, over a pool's connections."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[_Wire] | None = None
        self._returning: set[asyncio.Task[None]] = set()

    async def apart(self, commands: Sequence[Command]) -> list[Sequence[Command]]:
        """Commands by server: there is one."""
        return [commands]

    async def exchange(self, commands: Sequence[Command]) -> list[object]:
        """Send commands and read their replies; an error that the server answers is one of them.

        Raises:
            RedisError, OSError: the connection failed. What was sent may have taken effect.
        """
        wire = await self._take()
        connection: Any = wire.connection  # redis-py annotates replies and pools only here and there
        found: list[object] = []
        try:
            async with wire.writing:
                _check(wire)
                # Only where nothing else is awaited may redis-py ask the server for a sign of life.
                await connection.send_packed_command(packed(commands), check_health=wire.users == 1)
            async with wire.reading:
                _check(wire)
                while len(found) < len(commands):
                    try:
                        found.append(await connection.read_response(disable_decoding=True))
                    except ResponseError as error:
                        found.append(error)
        except BaseException:
            # redis-py has disconnected it, so that no later command reads these replies; it would
            # connect it again for the next one, and those in between would take that one's reply.
            wire.broken = True
            self._retire(wire)
            raise
        finally:
            wire.users -= 1
            if wire.over and not wire.users:
                await self._pool.release(wire.connection)
        return found

    async def _take(self) -> _Wire:
        loop = asyncio.get_running_loop()
        wire = self._wire
        if wire is None or wire.loop is not loop:
            if self._opening is None or self._opening.get_loop() is not loop:
                self._opening = loop.create_task(self._open(loop))
                self._opening.add_done_callback(self._opened)
            wire = await asyncio.shield(self._opening)
        wire.users += 1
        return wire

    async def _open(self, loop: asyncio.AbstractEventLoop) -> _Wire:
        pool: Any = self._pool
        wire = _Wire(await pool.get_connection(), loop)
        if pool.max_connections < SMALL:
            wire.over = True  # for those who wait for it now
            return wire
        before, self._wire = self._wire, wire
        loop.call_later(KEPT, self._retire, wire)
        if before is not None:  # of an event loop that has ended
            await self._pool.release(before.connection)
        return wire

    def _opened(self, opening: asyncio.Task[_Wire]) -> None:
        if self._opening is opening:
            self._opening = None
        if not opening.cancelled():
            opening.exception()  # those who waited have it

    def _retire(self, wire: _Wire) -> None:
        """Let no exchange begin on a connection any more; the last one that has gives it back."""
        if self._wire is wire:
            self._wire = None
        if wire.over:
            return
        wire.over = True
        if not wire.users:
            task = wire.loop.create_task(self._give_back(wire))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)

    async def _give_back(self, wire: _Wire) -> None:
        await self._pool.release(wire.connection)

    async def aclose(self) -> None:
        """Give back what is kept."""
        if self._wire is not None:
            self._retire(self._wire)
        if self._returning:
            await asyncio.wait(self._returning)


def _check(wire: _Wire) -> None:
    if wire.broken:
        raise RedisConnectionError("the connection broke before the command was answered")
