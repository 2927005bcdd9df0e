"""How commands travel: what one tick of the event loop issues goes as one pipeline.

A lone command goes straight. One that fails or is cancelled touches no other. Commands with the
same `order` never overtake one another: those of one tick travel together, and one that meets
others in flight waits for their end, so a resend cannot land after its successor. Every command must
be safe to send again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Protocol

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobguard.errors import StoreError, StoreUnavailable
from jobguard.stores.cluster import ClusterLines
from jobguard.stores.commands import Command, Script
from jobguard.stores.wires import Wires

Client = Redis | RedisCluster

LONGEST_PIPELINE = 50
"""Commands of one tick in one pipeline at most. What is more goes as further pipelines at once: the
server works on one while this process makes or reads another."""
HALVED = 8
"""So many commands or more, with nothing under way, go as two pipelines for the same reason."""
LONGEST_ROUND = 1000
"""Commands in one pipeline at most where a caller wants many answers in one round trip."""
RESENDS = 2
"""How often a command is sent again when its answer did not come."""
RESEND_PAUSE = 0.05
"""Seconds before the first resend; each further one waits twice as long."""

# No answer, or that of a server that cannot serve now and will again: it loads, fails over or moves
# slots. Cluster clients have classes for what others show as a word.
_OUTAGES = (
    RedisConnectionError,
    RedisTimeoutError,
    RedisClusterException,
    OSError,
    ReadOnlyError,
    ClusterDownError,
    MovedError,
    AskError,
    TryAgainError,
)
_PASSING = frozenset({"CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MOVED", "ASK"})


class _Lines(Protocol):
    """The ways to the servers."""

    async def apart(self, commands: Sequence[Command]) -> list[Sequence[Command]]: ...
    async def exchange(self, commands: Sequence[Command]) -> Sequence[object]: ...
    async def aclose(self) -> None: ...


class _Batch:
    """Commands that travel together, and those that have to wait until these have arrived."""

    __slots__ = ("commands", "following", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.commands: list[Command] = []
        self.following: list[Command] = []


class Batcher:
    """Sends commands through a client of redis-py.

    Args:
        client: of one server, of a Sentinel's master, or of a Cluster.
    """

    def __init__(self, client: Client) -> None:
        self.clustered: bool = isinstance(client, RedisCluster)
        self._lines: _Lines
        if isinstance(client, RedisCluster):
            self._lines = ClusterLines(client)
        else:
            pool: Any = client.connection_pool  # of which kind, redis-py says only here and there
            self._lines = Wires(pool)
        self._gathering: _Batch | None = None
        self._under_way: dict[bytes, _Batch] = {}
        self._journeys: set[asyncio.Task[None]] = set()
        self._travelling = 0

    def run(self, script: Script, keys: int, *arguments: bytes, order: bytes | None) -> asyncio.Future[Any]:
        """Issue a script, to be awaited for its reply as the server sent it: bytes are not decoded.

        Args:
            script: what to run.
            keys: how many of the arguments, from the first, are keys.
            arguments: keys and arguments.
            order: see above; None = whenever.
        """
        loop = asyncio.get_running_loop()
        command = Command(script, keys, arguments, order, loop.create_future())
        self._issue(command, loop)
        return command.future

    def call(self, *arguments: bytes, order: bytes | None) -> asyncio.Future[Any]:
        """Issue a plain command: its name, its key and what else it takes."""
        loop = asyncio.get_running_loop()
        command = Command(None, 0, arguments, order, loop.create_future())
        self._issue(command, loop)
        return command.future

    def run_all(
        self, script: Script, runs: Iterable[tuple[bytes, tuple[bytes, ...]]]
    ) -> list[asyncio.Future[Any]]:
        """Issue a script for many keys, each its own order, to travel as one round trip."""
        loop = asyncio.get_running_loop()
        batch = _Batch(loop)
        futures: list[asyncio.Future[Any]] = []
        for key, arguments in runs:
            command = Command(script, 1, (key, *arguments), key, loop.create_future())
            futures.append(command.future)
            if not self._stands_in_line(command, loop):
                self._under_way[key] = batch
                batch.commands.append(command)
        if batch.commands:
            self._start(self._send_off(batch, LONGEST_ROUND), loop)
        return futures

    def _issue(self, command: Command, loop: asyncio.AbstractEventLoop) -> None:
        order = command.order
        if order is not None and order in self._under_way and self._stands_in_line(command, loop):
            return
        batch = self._gathering
        if batch is None or batch.loop is not loop:
            batch = self._gathering = _Batch(loop)
            # A new task starts in the loop's next tick: by then this one has issued all it will.
            self._start(self._depart(batch), loop)
        if order is not None:
            self._under_way[order] = batch
        batch.commands.append(command)

    def _stands_in_line(self, command: Command, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether there are others of its order, with or after which the command goes now."""
        other = None if command.order is None else self._under_way.get(command.order)
        if other is None or other.loop is not loop:  # an event loop that has ended takes its own along
            return False
        (other.commands if other is self._gathering else other.following).append(command)
        return True

    def _start(self, journey: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
        task = loop.create_task(journey)
        self._journeys.add(task)
        task.add_done_callback(self._journeys.discard)

    async def _depart(self, batch: _Batch) -> None:
        self._gathering = None
        number = len(batch.commands)
        halves = number >= HALVED and not self._travelling
        await self._send_off(batch, min(LONGEST_PIPELINE, (number + 1) // 2) if halves else LONGEST_PIPELINE)

    async def _send_off(self, batch: _Batch, longest: int) -> None:
        """Send what has gathered: one journey per server and pipeline."""
        groups = await self._lines.apart(batch.commands)
        if len(groups) == 1 and len(batch.commands) <= longest:
            await self._travel(batch)
            return
        parts = [part for group in groups for part in _split(group, longest, batch.loop)]
        for part in parts:
            for command in part.commands:
                if command.order is not None:
                    self._under_way[command.order] = part
        for command in batch.following:  # they came while the servers were looked for
            self._stands_in_line(command, batch.loop)
        for part in parts[1:]:
            self._start(self._travel(part), batch.loop)
        await self._travel(parts[0])

    async def _travel(self, batch: _Batch) -> None:
        """Send commands until each has its reply, its error, or no resend left."""
        resends = 0
        commands = [command for command in batch.commands if not command.future.cancelled()]
        self._travelling += 1
        try:
            while commands:
                again: list[Command] = []
                passing = False
                for command, reply in zip(commands, await self._replies(commands), strict=True):
                    if not isinstance(reply, BaseException):
                        if not command.future.cancelled():
                            command.future.set_result(reply)
                    elif isinstance(reply, NoScriptError) and not command.by_text:
                        # The first one brings the text; those behind it find the script loaded.
                        command.by_text = all(each.script is not command.script for each in again)
                        again.append(command)
                    elif not _is_passing(reply):
                        _fail(command, _told(StoreError("the store refused an operation"), reply))
                    elif resends < RESENDS:
                        passing = True
                        again.append(command)
                    else:
                        _fail(command, _told(StoreUnavailable("the store did not answer"), reply))
                commands = again
                if passing:
                    await asyncio.sleep(RESEND_PAUSE * 2**resends)
                    resends += 1
        except BaseException:  # the loop is shutting down
            for command in (*commands, *batch.following):
                command.future.cancel()
            raise
        finally:
            self._travelling -= 1
            self._arrived(batch)

    async def _replies(self, commands: Sequence[Command]) -> Sequence[object]:
        """Replies in order; an exception stands where there is none."""
        try:
            return await self._lines.exchange(commands)
        except Exception as error:
            # Whatever it is, those who wait must hear of it.
            return [error] * len(commands)

    def _arrived(self, batch: _Batch) -> None:
        """Let those go that have waited for these."""
        for command in batch.commands:
            order = command.order
            if order is not None and self._under_way.get(order) is batch:
                del self._under_way[order]
        for command in batch.following:
            if not command.future.cancelled():
                self._issue(command, batch.loop)

    async def drain(self) -> None:
        """Wait for all that is under way."""
        while self._journeys:
            await asyncio.wait(self._journeys)
        await self._lines.aclose()


def _split(commands: Sequence[Command], longest: int, loop: asyncio.AbstractEventLoop) -> list[_Batch]:
    """Commands in batches of about that length, all of one order in the same."""
    parts = [_Batch(loop)]
    places: dict[bytes, _Batch] = {}
    for command in commands:
        part = None if command.order is None else places.get(command.order)
        if part is None:
            if len(parts[-1].commands) >= longest:
                parts.append(_Batch(loop))
            part = parts[-1]
            if command.order is not None:
                places[command.order] = part
        part.commands.append(command)
    return parts


def _fail(command: Command, error: StoreError) -> None:
    if not command.future.cancelled():
        command.future.set_exception(error)


def _is_passing(error: BaseException) -> bool:
    """Whether sending the command again can help."""
    # A refused login comes wrapped: redis-py meets it while it connects.
    if any(isinstance(each, (AuthenticationError, AuthorizationError)) for each in (error, error.__cause__)):
        return False
    if isinstance(error, _OUTAGES):
        return True
    return isinstance(error, ResponseError) and str(error).partition(" ")[0] in _PASSING


def _told(error: StoreError, cause: BaseException) -> StoreError:
    """The error with what redis-py said of it; that names hosts and commands, never credentials."""
    told = type(error)(f"{error}: {type(cause).__name__}: {cause}")
    told.__cause__ = cause
    return told
