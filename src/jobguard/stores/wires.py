"""A connection of redis-py's pool that all commands of an event loop share.

Commands are written as they come, whatever is still to be answered; while any is, a task reads the
replies, which come in the same order. To take a connection out of the pool for each command costs a
third of a lone round trip: the pool looks whether the server has hung up meanwhile. A connection that
breaks is an error like any other, and its commands are sent again over one that the pool has looked at.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from jobguard.stores.commands import Command, packed

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection, ConnectionPool

KEPT = 1.0
"""Seconds for which a connection is kept; then the pool gets it back, and what it does on that."""
SMALL = 10
"""In a pool of fewer connections none is kept idle: the client's other users need every one."""
ROOM = 32 * 1024
"""Bytes without an answer up to which a write never waits: asyncio's buffers take twice as many."""

Answered = Callable[[Command, object], None]
Unanswered = Callable[[Sequence[Command], Exception], None]


class _Wire:
    """A connection, and the commands that wait for their replies on it.

    Attributes:
        limited: each write and read has a time limit.
        size: bytes of the waiting commands.
        senders: writes that have begun and not ended.
        over: nothing more is to be sent on it.
        broken: nothing more is to be read from it.
        leaving: it is on its way back to the pool.
        returned: the pool has it.
    """

    __slots__ = (
        "broken", "connection", "leaving", "limited", "loop", "over", "reader", "returned", "senders", "size",
        "waiting",
    )  # fmt: skip

    def __init__(self, connection: AbstractConnection, loop: asyncio.AbstractEventLoop) -> None:
        self.connection = connection
        self.loop = loop
        self.limited = connection.socket_timeout is not None
        self.waiting: deque[Command] = deque()
        self.size = 0
        self.senders = 0
        self.over = False
        self.broken = False
        self.leaving = False
        self.returned = False
        self.reader: asyncio.Task[None] | None = None


class Wires:
    """Sends commands to one server, over a pool's connections.

    Args:
        pool: of the client.
        answered: gets each command's reply; an error that the server answers is one.
        unanswered: gets commands whose connection failed. They may have taken effect.
    """

    def __init__(self, pool: ConnectionPool, answered: Answered, unanswered: Unanswered) -> None:
        self._pool: Any = pool  # redis-py annotates replies and pools only here and there
        self._small: bool = pool.max_connections < SMALL
        named = signature(self._pool.get_connection).parameters.get("command_name")
        self._name = ("_",) if named is not None and named.default is Parameter.empty else ()  # before 5.3
        self._answered = answered
        self._unanswered = unanswered
        self._wire: _Wire | None = None
        self._returning: set[asyncio.Task[None]] = set()

    def ready(self, loop: asyncio.AbstractEventLoop, size: int) -> bool:
        """Whether commands of so many bytes can be written without waiting: nobody can be cancelled at it.

        Where writing has a time limit, redis-py leaves it to another task.
        """
        wire = self._wire
        return wire is not None and wire.loop is loop and not wire.limited and wire.size + size <= ROOM

    @property
    def quiet(self) -> bool:
        """Whether no reply is still to come."""
        return self._wire is None or not self._wire.waiting

    async def send(self, commands: Sequence[Command]) -> None:
        """Write commands. Does not wait if `ready`; if not, call it one at a time."""
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
        data = packed(commands)
        wire.waiting.extend(commands)
        wire.size += len(data)
        wire.senders += 1
        if wire.reader is None:
            self._start_reader(wire)
        connection: Any = wire.connection
        try:
            if _is_closing(connection):
                raise RedisConnectionError("the connection was closed")
            # redis-py's own sign of life would take the reply of another command.
            await connection.send_packed_command(data, check_health=False)
        except Exception as error:
            self._break(wire, error)
        except BaseException:
            self._break(wire, RedisConnectionError("a command was cut off while it was sent"))
            raise
        finally:
            wire.senders -= 1
            self._give_back_if_over(wire)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> _Wire:
        before, self._wire = self._wire, None
        if before is not None:
            await self._drop(before)
        while returning := {task for task in self._returning if task.get_loop() is loop}:
            await asyncio.wait(returning)  # a small pool may have no other
        wire = _Wire(await self._pool.get_connection(*self._name), loop)
        self._wire = wire
        if not self._small:
            loop.call_later(KEPT, self._retire, wire)
        return wire

    def _start_reader(self, wire: _Wire) -> None:
        wire.reader = wire.loop.create_task(self._read(wire))
        wire.reader.add_done_callback(lambda task: self._read_off(wire, task))

    async def _read(self, wire: _Wire) -> None:
        """Hand out replies as long as any are to come."""
        connection: Any = wire.connection
        waiting, answered = wire.waiting, self._answered
        try:
            while waiting:
                try:
                    reply = await connection.read_response(disable_decoding=True)
                except ResponseError as error:
                    reply = error
                command = waiting.popleft()
                wire.size -= command.size
                answered(command, reply)
        except Exception as error:
            # Now, and not when this task has ended: redis-py would connect again for the next write.
            self._break(wire, error)

    def _read_off(self, wire: _Wire, task: asyncio.Task[None]) -> None:
        """The reader has ended: nothing waits, the connection broke, or somebody cancelled it."""
        wire.reader = None
        if task.cancelled():
            self._break(wire, RedisConnectionError("the task that reads replies was cancelled"))
        elif wire.waiting and not wire.broken:
            self._start_reader(wire)
        elif self._small:
            self._retire(wire)
        self._give_back_if_over(wire)

    def _retire(self, wire: _Wire) -> None:
        """Send nothing more on a connection, once nobody waits on it: commands are not to overtake others."""
        if wire.waiting or wire.senders:
            wire.loop.call_later(KEPT / 10, self._retire, wire)
            return
        wire.over = True
        if self._wire is wire:
            self._wire = None
        self._give_back_if_over(wire)

    def _break(self, wire: _Wire, error: Exception) -> None:
        """Let a connection go that failed, and tell those who wait."""
        if wire.broken or wire.loop.is_closed():
            return
        wire.over = wire.broken = True
        if self._wire is wire:
            self._wire = None
        if wire.reader is not None:
            wire.reader.cancel()
        unanswered = list(wire.waiting)
        wire.waiting.clear()
        if unanswered:
            self._unanswered(unanswered, _as_outage(error))

    def _give_back_if_over(self, wire: _Wire) -> None:
        """Give a connection back when its last user has left it."""
        if wire.over and not wire.leaving and not wire.waiting and not wire.senders:
            wire.leaving = True
            task = wire.loop.create_task(self._give_back(wire))
            self._returning.add(task)
            task.add_done_callback(lambda task: self._given_back(wire, task))

    def _given_back(self, wire: _Wire, task: asyncio.Task[None]) -> None:
        self._returning.discard(task)
        if task.cancelled() and not wire.returned:  # somebody cancels every task there is
            wire.leaving = False
            self._give_back_if_over(wire)
        elif not task.cancelled():
            task.exception()  # seen: the connection is broken, and the pool knows

    async def _give_back(self, wire: _Wire) -> None:
        connection: Any = wire.connection
        # It has nothing left to read and is about to end. Whoever needs the pool's next connection, or
        # closes the store, waits from now on: it is this one.
        if wire.reader is not None:
            await asyncio.wait({wire.reader})
        try:
            if wire.broken:  # no later user may read what was meant for these
                await connection.disconnect(nowait=True)
        finally:
            wire.returned = True  # once: from here on it may be somebody else's
            await self._pool.release(connection)

    async def _drop(self, wire: _Wire) -> None:
        """Give a connection back whose event loop has ended: it has to be made anew for the next one."""
        wire.over = wire.leaving = wire.returned = True
        with suppress(Exception):  # its transport asks the event loop for this and that
            await cast(Any, wire.connection).disconnect(nowait=True)
        await self._pool.release(wire.connection)

    async def aclose(self) -> None:
        """Give back what is kept. Nobody may wait any more."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.over = True
            if wire.loop is not asyncio.get_running_loop():
                await self._drop(wire)
            self._give_back_if_over(wire)
        loop = asyncio.get_running_loop()
        while returning := {task for task in self._returning if task.get_loop() is loop}:
            await asyncio.wait(returning)


def _is_closing(connection: Any) -> bool:
    """Whether a connection has failed, of which its reader is yet to hear.

    Up to Python 3.13.5 a transport that is closing and is given lines to write (as redis-py does) watches
    its socket again, and so for ever: the next connection that gets the number of that file hangs
    (python/cpython#136234).
    """
    writer = getattr(connection, "_writer", None)
    return isinstance(writer, asyncio.StreamWriter) and writer.is_closing()


def _as_outage(error: Exception) -> Exception:
    """What a connection failed with: asyncio has errors of its own for a peer that has gone."""
    if isinstance(error, (RedisError, OSError)):
        return error
    outage = RedisConnectionError(f"the connection failed: {error!r}")
    outage.__cause__ = error
    return outage
