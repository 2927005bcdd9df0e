"""How commands travel: what one tick of the event loop issues goes as one pipeline.

A lone command goes straight. One that fails or is cancelled touches no other. Commands with the
same `order` never overtake one another: those of one tick travel together, and one that meets
others in flight waits for their end, so a resend cannot land after its successor. Every command must
be safe to send again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, cast

from redis.asyncio import Redis, RedisCluster
from redis.client import NEVER_DECODE
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobguard.errors import StoreError, StoreUnavailable
from jobguard.stores.wires import Wires

Client = Redis | RedisCluster
Argument = bytes | str | int

LONGEST_PIPELINE = 50
"""Commands of one tick in one pipeline at most. What is more goes as further pipelines at once, on
connections of their own: the server works on one while this process makes or reads another."""
LONGEST_ROUND = 1000
"""Commands in one pipeline at most where a caller wants many answers in one round trip."""
MOST_CONNECTIONS = 16
"""Connections of the client's pool in use at once; further commands wait for one of them."""
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


class Script(NamedTuple):
    """A Lua script, and the hash by which a server that has it knows it."""

    text: bytes
    sha: str


class _Line:
    """Commands of one order: how many are on their way, and which wait until these have arrived."""

    __slots__ = ("departed", "under_way", "waiting")

    def __init__(self) -> None:
        self.departed = False
        self.under_way = 0
        self.waiting: list[_Command] = []


class _Command:
    """One command on its way: its arguments, its place in line, and the future of its reply."""

    __slots__ = ("arguments", "future", "key", "order", "script")

    def __init__(
        self,
        script: Script | None,
        key: bytes,
        order: bytes | None,
        arguments: tuple[Argument, ...],
        future: asyncio.Future[Any],
    ) -> None:
        self.script = script
        self.key = key
        self.order = order
        self.arguments = arguments
        self.future = future


def _command(
    script: Script | None, key: bytes, order: bytes | None, arguments: tuple[Argument, ...]
) -> _Command:
    return _Command(script, key, order, arguments, asyncio.get_running_loop().create_future())


def _packed(arguments: tuple[Argument, ...]) -> bytes:
    """A command as it is sent. redis-py does this in Python too, for more types, at three times the cost."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        if isinstance(argument, bytes):
            raw = argument
        elif isinstance(argument, int):
            raw = b"%d" % argument
        else:
            raw = argument.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


class Batcher:
    """Sends commands through a client of redis-py.

    Args:
        client: of one server, of a Sentinel's master, or of a Cluster.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.clustered: bool = isinstance(client, RedisCluster)
        pool: Any = None if self.clustered else client.connection_pool
        self._wires = None if self.clustered else Wires(pool)
        self._pending: list[_Command] = []
        self._lines: dict[bytes, _Line] = {}
        self._journeys: set[asyncio.Task[None]] = set()
        self._connections = asyncio.Semaphore(MOST_CONNECTIONS)

    def run(
        self, script: Script, keys: tuple[bytes, ...], arguments: tuple[Argument, ...], *, order: bytes | None
    ) -> asyncio.Future[Any]:
        """Issue a script, to be awaited for its reply as the server sent it: bytes are not decoded."""
        command = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        return self._issue(script, keys[0], order, command)

    def call(self, name: str, key: bytes, *arguments: Argument, order: bytes | None) -> asyncio.Future[Any]:
        """Issue a plain command on one key."""
        return self._issue(None, key, order, (name, key, *arguments))

    def run_all(
        self, script: Script, runs: Iterable[tuple[bytes, tuple[Argument, ...]]]
    ) -> list[asyncio.Future[Any]]:
        """Issue a script for many keys, each its own order, to travel as one round trip."""
        free: list[_Command] = []
        futures: list[asyncio.Future[Any]] = []
        for key, arguments in runs:
            command = _command(script, key, key, ("EVALSHA", script.sha, 1, key, *arguments))
            futures.append(command.future)
            if key in self._lines:
                self._stand_in_line(command, key)
            else:
                line = self._lines[key] = _Line()
                line.under_way = 1
                free.append(command)
        if free:
            self._start(self._depart(free, LONGEST_ROUND))
        return futures

    def _issue(
        self, script: Script | None, key: bytes, order: bytes | None, arguments: tuple[Argument, ...]
    ) -> asyncio.Future[Any]:
        command = _command(script, key, order, arguments)
        if order is None:
            self._enqueue(command)
        else:
            self._stand_in_line(command, order)
        return command.future

    def _stand_in_line(self, command: _Command, order: bytes) -> None:
        """Let a command go with those of its order that have not left yet, or after those that have."""
        line = self._lines.get(order)
        if line is None:
            line = self._lines[order] = _Line()
        elif line.departed:
            line.waiting.append(command)
            return
        line.under_way += 1
        self._enqueue(command)

    def _enqueue(self, command: _Command) -> None:
        if not self._pending:
            # A new task starts in the loop's next tick: by then this one has issued all it will.
            self._start(self._depart_pending())
        self._pending.append(command)

    async def _depart_pending(self) -> None:
        commands, self._pending = self._pending, []
        await self._depart(commands, LONGEST_PIPELINE)

    def _start(self, journey: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(journey)
        self._journeys.add(task)
        task.add_done_callback(self._journeys.discard)

    def _leave_line(self, command: _Command) -> None:
        """Let those that wait for the last command of their order go."""
        if command.order is None:
            return
        line = self._lines[command.order]
        line.under_way -= 1
        if line.under_way:
            return
        waiting = [following for following in line.waiting if not following.future.cancelled()]
        if not waiting:
            del self._lines[command.order]
            return
        line.departed = False
        line.under_way = len(waiting)
        line.waiting = []
        for following in waiting:
            self._enqueue(following)

    async def _depart(self, commands: list[_Command], longest: int) -> None:
        """Send what has gathered: one journey per server and pipeline."""
        waited_for: list[_Command] = []
        for command in commands:
            if command.order is not None:
                self._lines[command.order].departed = True
            if not command.future.cancelled():
                waited_for.append(command)
        for command in commands:
            if command.future.cancelled():
                self._leave_line(command)
        spread = self.clustered and len(waited_for) > 1
        groups = await self._by_server(waited_for) if spread else [waited_for]
        journeys = [journey for group in groups for journey in _split(group, longest)]
        for journey in journeys[1:]:
            self._start(self._travel(journey))
        if journeys:
            await self._travel(journeys[0])

    async def _by_server(self, commands: list[_Command]) -> list[list[_Command]]:
        """Commands apart by the node that serves their key, so that one node down stops no other."""
        client = cast(RedisCluster, self._client)
        groups: dict[str, list[_Command]] = {}
        try:
            await client.initialize()
            for command in commands:
                # Keys are bytes, which redis-py's signature leaves out.
                node = client.get_node_from_key(cast(str, command.key))
                groups.setdefault("" if node is None else node.name, []).append(command)
        except (RedisError, RedisClusterException, OSError):
            return [commands]
        return list(groups.values())

    async def _travel(self, commands: list[_Command]) -> None:
        """Send commands until each has its reply, its error, or no resend left."""
        resends = 0
        try:
            while True:
                replies = await self._send(commands)
                again: list[_Command] = []
                loading: set[str] = set()
                passing = False
                for command, reply in zip(commands, replies, strict=True):
                    if not isinstance(reply, BaseException):
                        self._arrive(command, reply)
                    elif isinstance(reply, NoScriptError) and command.arguments[0] == "EVALSHA":
                        script = cast(Script, command.script)
                        if script.sha not in loading:
                            # The first one brings the text; those behind it find the script loaded.
                            loading.add(script.sha)
                            command.arguments = ("EVAL", script.text, *command.arguments[2:])
                        again.append(command)
                    elif not _is_passing(reply):
                        self._fail(command, _told(StoreError("the store refused an operation"), reply))
                    elif resends < RESENDS:
                        passing = True
                        again.append(command)
                    else:
                        self._fail(command, _told(StoreUnavailable("the store did not answer"), reply))
                if not again:
                    return
                commands = again
                if passing:
                    await asyncio.sleep(RESEND_PAUSE * 2**resends)
                    resends += 1
        finally:
            # Only a journey that was itself cancelled leaves any: the loop is shutting down.
            for command in commands:
                if not command.future.done():
                    command.future.cancel()

    async def _send(self, commands: list[_Command]) -> Sequence[object]:
        """Replies in order; an exception stands where there is none."""
        client: Any = self._client  # redis-py annotates commands and pipelines only here and there
        async with self._connections:
            try:
                if self._wires is not None:
                    packed = [_packed(command.arguments) for command in commands]
                    return await self._wires.exchange(b"".join(packed), len(packed))
                if len(commands) == 1:
                    return (await client.execute_command(*commands[0].arguments, **_OPTIONS),)
                pipeline = client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command.arguments, **_OPTIONS)
                return cast(Sequence[object], await pipeline.execute(raise_on_error=False))
            except Exception as error:
                # Whatever it is, those who wait must hear of it.
                return [error] * len(commands)

    def _arrive(self, command: _Command, reply: object) -> None:
        if not command.future.cancelled():
            command.future.set_result(reply)
        self._leave_line(command)

    def _fail(self, command: _Command, error: StoreError) -> None:
        if not command.future.cancelled():
            command.future.set_exception(error)
        self._leave_line(command)

    async def drain(self) -> None:
        """Wait for all that is under way."""
        while self._journeys:
            await asyncio.wait(self._journeys)
        if self._wires is not None:
            await self._wires.aclose()


def _split(commands: list[_Command], longest: int) -> list[list[_Command]]:
    """Commands in journeys of about that length, all of one order in the same."""
    if len(commands) <= longest:
        return [commands] if commands else []
    journeys: list[list[_Command]] = [[]]
    places: dict[bytes, list[_Command]] = {}
    for command in commands:
        journey = None if command.order is None else places.get(command.order)
        if journey is None:
            if len(journeys[-1]) >= longest:
                journeys.append([])
            journey = journeys[-1]
            if command.order is not None:
                places[command.order] = journey
        journey.append(command)
    return journeys


_OPTIONS: dict[str, Any] = {NEVER_DECODE: True}


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
