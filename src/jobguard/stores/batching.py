"""How commands travel: what one tick of the event loop issues goes as one pipeline.

A lone command goes straight. One that fails or is cancelled touches no other. Commands take effect
in the order in which they were issued, as all use one connection to their server; one that has to
be sent again goes ahead of whatever was not sent yet. Every command must be safe to send again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from math import inf
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
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobguard.errors import StoreError, StoreUnavailable
from jobguard.stores.cluster import ClusterLines
from jobguard.stores.commands import Command, Script
from jobguard.stores.replies import without
from jobguard.stores.wires import Wires

Client = Redis | RedisCluster

CROWD = 8
"""So many commands or more that were answered together are sent in halves when they come back: the
server works on the first while this process makes the second."""
OVERHEAD = 200
"""Bytes of a command besides its arguments, roughly."""
RESENDS = 2
"""How often a command is sent again when its answer did not come."""
RESEND_PAUSE = 0.05
"""Seconds before the first resend; the next one waits twice as long."""

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
    """The way to the servers."""

    def ready(self, loop: asyncio.AbstractEventLoop, size: int) -> bool: ...
    @property
    def quiet(self) -> bool: ...
    async def send(self, commands: Sequence[Command]) -> None: ...
    async def aclose(self) -> None: ...


class Batcher:
    """Sends commands through a client of redis-py.

    Args:
        client: of one server, of a Sentinel's master, or of a Cluster.
    """

    def __init__(self, client: Client) -> None:
        self.clustered: bool = isinstance(client, RedisCluster)
        self._secrets: frozenset[str] = secrets_of(client)
        self._lines: _Lines
        if isinstance(client, RedisCluster):
            self._lines = ClusterLines(client, self._answer, self._unanswered)
        else:
            pool: Any = client.connection_pool  # of which kind, redis-py says only here and there
            self._lines = Wires(pool, self._answer, self._unanswered)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begin_on(None)

    def _begin_on(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Start anew: what was under way on another event loop ended with it."""
        self._loop = loop
        self._again: list[Command] = []
        self._fresh: list[Command] = []
        self._size = 0
        self._unfinished = 0
        self._finished: asyncio.Event | None = None
        self._departure: asyncio.Task[None] | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._answers = 0
        self._enough: float = 1

    async def run(self, script: Script | None, keys: int, *arguments: bytes) -> Any:
        """Send a command: its reply as the server sent it, bytes not decoded.

        Args:
            script: what to run; None = a plain command.
            keys: how many of the arguments, from the first, are keys of the script.
            arguments: keys and arguments of the script; a plain command's name, key and arguments.

        Raises:
            StoreUnavailable: no answer; the command may or may not have taken effect.
            StoreError: the server answered with an error.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin_on(loop)
        command = Command(script, keys, arguments, loop.create_future())
        fresh = self._fresh
        if not fresh:
            self._enough = self._expected()
        fresh.append(command)
        self._unfinished += 1
        self._size += _size(arguments)
        if (
            len(fresh) >= self._enough
            and not self._again
            and self._free()
            and self._lines.ready(loop, self._size)
        ):
            self._fresh, self._size = [], 0
            try:
                await self._lines.send(fresh)
            except BaseException:
                command.future.cancel()  # it is sent again, and nobody will ask what came of it
                raise
        elif len(fresh) == 1:
            loop.call_soon(self._depart)
        return await command.future

    async def run_all(self, runs: Iterable[tuple[Script | None, int, tuple[bytes, ...]]]) -> list[Any]:
        """The replies of several commands, in one round trip; each is what `run` takes.

        Raises:
            StoreError: as `run`, for any of them, once all have an answer.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin_on(loop)
        commands = [
            Command(script, keys, arguments, loop.create_future()) for script, keys, arguments in runs
        ]
        self._fresh += commands
        self._unfinished += len(commands)
        self._size += sum(_size(command.arguments) for command in commands)
        loop.call_soon(self._depart)
        replies = await asyncio.gather(*(command.future for command in commands), return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    def _expected(self) -> float:
        """How many commands need not wait for the end of a tick that the first of them begins.

        As many as were answered together: that many callers come back. If nobody else waits, half
        of a crowd is enough. What nobody's answer has caused goes straight if it is alone.
        """
        answers, self._answers = self._answers, 0
        quiet = self._lines.quiet
        if not answers:
            return 1 if quiet else inf
        return (answers + 1) // 2 if quiet and answers >= CROWD else answers

    def _free(self) -> bool:
        return self._departure is None and self._pause is None

    def _depart(self) -> None:
        """Send what has gathered: this tick has issued all it will."""
        if (self._fresh or self._again) and self._free() and self._loop is not None:
            self._departure = self._loop.create_task(self._send_off())
            self._departure.add_done_callback(self._departed)

    async def _send_off(self) -> None:
        while (self._fresh or self._again) and self._pause is None:
            commands, self._again = self._again, []
            fresh, self._fresh, self._size = self._fresh, [], 0
            for command in fresh:
                if command.future.cancelled():
                    self._count_off()
                else:
                    commands.append(command)
            if commands:
                await self._lines.send(commands)

    def _departed(self, departure: asyncio.Task[None]) -> None:
        """Go on after a departure, also one that somebody has cancelled, maybe before it began."""
        if self._departure is departure:
            self._departure = None
            self._depart()
        if not departure.cancelled():
            departure.exception()  # there is none: senders hand every error to those who wait

    def _answer(self, command: Command, reply: object) -> None:
        """Hand a reply to the one who waits, or send the command again."""
        future = command.future
        if not isinstance(reply, Exception):
            if not future.done():
                future.set_result(reply)
            self._count_off()
        elif isinstance(reply, NoScriptError) and not command.by_text:
            # The first one brings the text; those behind it find the script loaded.
            command.by_text = all(other.script is not command.script for other in self._again)
            self._again.append(command)
            self._depart()
        elif is_passing(reply):
            self._unanswered((command,), reply)
        else:
            self._fail(command, self._told(StoreError("the store refused an operation"), reply))
        if not self._answers and self._loop is not None:
            # Those who are answered go on in the next tick; in the one after that this is of no meaning.
            self._loop.call_soon(self._loop.call_soon, self._forget_answers)
        self._answers += 1

    def _forget_answers(self) -> None:
        self._answers = 0

    def _unanswered(self, commands: Sequence[Command], error: Exception) -> None:
        """Send commands again after a pause, those that may be."""
        passing = is_passing(error)
        longest = 0
        for command in commands:
            if not passing:
                self._fail(command, self._told(StoreError("the store refused an operation"), error))
            elif command.resends == RESENDS:
                self._fail(command, self._told(StoreUnavailable("the store did not answer"), error))
            else:
                command.resends += 1
                longest = max(longest, command.resends)
                self._again.append(command)
        if longest and self._pause is None and self._loop is not None:
            self._pause = self._loop.call_later(RESEND_PAUSE * 2 ** (longest - 1), self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._depart()

    def _told(self, error: StoreError, cause: BaseException) -> StoreError:
        """The error with what redis-py, or the server, said of it; a server may repeat a password."""
        said = str(cause)
        shown = without(said, self._secrets)
        told = type(error)(f"{error}: {type(cause).__name__}: {shown}")
        repeats = any(secret in said for secret in self._secrets)
        told.__cause__ = RedisError(shown) if repeats else cause
        return told

    def _fail(self, command: Command, error: StoreError) -> None:
        if not command.future.done():
            command.future.set_exception(error)
        self._count_off()

    def _count_off(self) -> None:
        self._unfinished -= 1
        if not self._unfinished and self._finished is not None:
            finished, self._finished = self._finished, None
            finished.set()

    async def drain(self) -> None:
        """Wait for all that is under way, and give connections back."""
        while self._unfinished and asyncio.get_running_loop() is self._loop:
            if self._finished is None:
                self._finished = asyncio.Event()
            await self._finished.wait()
        await self._lines.aclose()


def _size(arguments: Iterable[bytes]) -> int:
    """About how many bytes a command of these takes on its way."""
    return sum(map(len, arguments)) + OVERHEAD


def is_passing(error: BaseException) -> bool:
    """Whether sending the command again can help."""
    # A refused login comes wrapped: redis-py meets it while it connects.
    if any(isinstance(each, (AuthenticationError, AuthorizationError)) for each in (error, error.__cause__)):
        return False
    if isinstance(error, _OUTAGES):
        return True
    return isinstance(error, ResponseError) and str(error).partition(" ")[0] in _PASSING


def secrets_of(client: Client) -> frozenset[str]:
    """What no error may show."""
    holder: Any = client if isinstance(client, RedisCluster) else client.connection_pool
    settings = holder.connection_kwargs
    given = [settings.get(name) for name in ("password", "ssl_password")]
    return frozenset(each for each in given if isinstance(each, str) and each)
