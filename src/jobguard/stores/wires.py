"""A connection of redis-py's pool that all commands of an event loop share.

Commands are written as they come, whatever is still to be answered; a task reads the replies, which
come in the same order. To take a connection out of the pool for each command costs a third of a
lone round trip: the pool looks whether the server has hung up meanwhile. A connection that breaks
is an error like any other, and its commands are sent again over one that the pool has looked at.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobguard.stores.commands import Command, packed

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection, ConnectionPool

KEPT = 1.0
"""Seconds for which a connection is kept; then the pool gets it back, and what it does on that."""
SMALL = 10
"""In a pool of fewer connections none is kept idle: the client's other users need every one."""

Answered = Callable[[Command, object], None]
Unanswered = Callable[[Sequence[Command], Exception], None]


class _Wire:
    """A connection, and the commands that wait for their replies on it.

    Attributes:
        limited: each write and read has a time limit.
        asked: when the first of the waiting commands was sent, on the event loop's clock.
        over: nothing more is sent on it.
        broken: nothing more is read from it.
    """

    __slots__ = ("asked", "broken", "connection", "limited", "loop", "over", "reader", "waiting")

    def __init__(self, connection: AbstractConnection, loop: asyncio.AbstractEventLoop) -> None:
        self.connection = connection
        self.limited = connection.socket_timeout is not None
        self.loop = loop
        self.waiting: deque[Command] = deque()
        self.asked = 0.0
        self.over = False
        self.broken = False
        self.reader: asyncio.Task[None] | None = None


class Wires:
    """Sends commands to one server, over a pool's connections.

    Args:
        pool: of the client.
        answered: gets each command's reply; an error that the server answers is one.
        unanswered: gets commands whose connection failed. They may have taken effect.
    """

    def __init__(self, pool: ConnectionPool, answered: Answered, unanswered: Unanswered) -> None:
        self._pool = pool
        self._small: bool = pool.max_connections < SMALL
        self._answered = answered
        self._unanswered = unanswered
        self._wire: _Wire | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def ready(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether commands can be written at once, without a place where the writer may be cancelled.

        Where writing has a time limit, redis-py leaves it to another task.
        """
        wire = self._wire
        return wire is not None and wire.loop is loop and not wire.limited

    @property
    def quiet(self) -> bool:
        """Whether no reply is still to come."""
        return self._wire is None or not self._wire.waiting

    async def send(self, commands: Sequence[Command]) -> None:
        """Write commands. Waits only where buffers are full if `ready`; if not, call it one at a time."""
        loop = asyncio.get_running_loop()
        wire = self._wire
        if wire is None or wire.loop is not loop:
            try:
                wire = await self._open(loop)
            except Exception as error:  # whatever it is, those who wait must hear of it
                self._unanswered(commands, error)
                return
            except BaseException:
                self._unanswered(commands, RedisConnectionError("connecting was cut off"))
                raise
        if not wire.waiting:
            wire.asked = loop.time()
        wire.waiting.extend(commands)
        connection: Any = wire.connection  # redis-py annotates replies and pools only here and there
        try:
            # redis-py's own sign of life would take the reply of another command.
            await connection.send_packed_command(packed(commands), check_health=False)
        except Exception as error:
            self._break(wire, error)
        except BaseException:  # the sender was cancelled half-way
            self._break(wire, RedisConnectionError("a command was cut off while it was sent"))
            raise

    async def _open(self, loop: asyncio.AbstractEventLoop) -> _Wire:
        before, self._wire = self._wire, None
        if before is not None:  # of an event loop that has ended
            await self._pool.release(before.connection)
        pool: Any = self._pool
        wire = _Wire(await pool.get_connection(), loop)
        wire.reader = loop.create_task(self._read(wire))
        self._wire = wire
        if not self._small:
            loop.call_later(KEPT, self._retire, wire)
        return wire

    async def _read(self, wire: _Wire) -> None:
        """Hand out replies until the connection breaks or is given back."""
        connection: Any = wire.connection
        waiting, answered = wire.waiting, self._answered
        try:
            while True:
                try:
                    reply = await connection.read_response(disable_decoding=True, disconnect_on_error=False)
                except ResponseError as error:
                    reply = error
                except RedisTimeoutError:
                    # redis-py counts from when we began to read, which may be long before we asked.
                    if waiting and wire.loop.time() >= wire.asked + connection.socket_timeout:
                        raise
                    continue
                if not waiting:
                    raise RedisConnectionError("the server sent a reply that nobody had asked for")
                answered(waiting.popleft(), reply)
                if (wire.over or self._small) and not waiting:
                    self._retire(wire)
        except Exception as error:
            self._break(wire, error)
        except BaseException:
            if not wire.over:  # somebody cancels every task there is
                self._break(wire, RedisConnectionError("the task that reads replies was cancelled"))
            raise

    def _retire(self, wire: _Wire) -> None:
        """Send nothing more on a connection; it is given back when nobody waits any more."""
        if self._wire is wire:
            self._wire = None
        wire.over = True
        if not wire.waiting and not wire.broken:
            self._end(wire)

    def _break(self, wire: _Wire, error: Exception) -> None:
        """Let a connection go that failed, and tell those who wait."""
        if wire.broken:
            return
        if self._wire is wire:
            self._wire = None
        wire.over = True
        self._end(wire)
        unanswered = list(wire.waiting)
        wire.waiting.clear()
        if unanswered:
            self._unanswered(unanswered, error)

    def _end(self, wire: _Wire) -> None:
        idle = not wire.waiting
        wire.broken = True
        task = wire.loop.create_task(self._give_back(wire, idle))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _give_back(self, wire: _Wire, idle: bool) -> None:
        connection: Any = wire.connection
        if wire.reader is not None:
            wire.reader.cancel()
            await asyncio.wait({wire.reader})
        if not idle:  # no later user may read these replies
            await connection.disconnect(nowait=True)
        await self._pool.release(connection)

    async def aclose(self) -> None:
        """Give back what is kept. Nobody may wait any more."""
        if self._wire is not None:
            self._retire(self._wire)
        if self._ending:
            await asyncio.wait(self._ending)
