"""Commands to a Redis Cluster, through redis-py's own client: it knows which node serves a slot."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, cast

from redis.asyncio import RedisCluster
from redis.client import NEVER_DECODE
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError

from jobguard.stores.commands import Command

_OPTIONS: dict[str, Any] = {NEVER_DECODE: True}


class ClusterLines:
    """Sends commands to the nodes of a Cluster, one pipeline after the other to each.

    Args:
        client: of the Cluster.
        answered: gets each command's reply; an error stands in place of one that did not come.
        unanswered: gets commands that got none at all. They may have taken effect.
    """

    def __init__(
        self,
        client: RedisCluster,
        answered: Callable[[Command, object], None],
        unanswered: Callable[[Sequence[Command], Exception], None],
    ) -> None:
        self._client = client
        self._answered = answered
        self._unanswered = unanswered
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: defaultdict[str, list[Command]] = defaultdict(list)
        self._travelling: dict[str, asyncio.Task[None]] = {}

    def ready(self, loop: asyncio.AbstractEventLoop, size: int) -> bool:
        """Commands always gather for a tick: where they go has to be looked up."""
        return False

    @property
    def quiet(self) -> bool:
        return not self._travelling

    async def send(self, commands: Sequence[Command]) -> None:
        """Hand commands to the nodes that serve their keys, so that one node down stops no other."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what was under way on another event loop ended with it
            self._loop = loop
            self._queues.clear()
            self._travelling.clear()
        try:
            await self._client.initialize()
        except Exception as error:  # whatever it is, those who wait must hear of it
            self._unanswered(commands, error)
            return
        except BaseException:
            self._unanswered(commands, RedisConnectionError("looking for the servers was cut off"))
            raise
        for command in commands:
            name = self._node_of(command)
            self._queues[name].append(command)
            self._start(name, loop)

    def _start(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        if name in self._queues and name not in self._travelling and loop is self._loop:
            task = self._travelling[name] = loop.create_task(self._travel(name))
            task.add_done_callback(lambda task: self._arrived(name, task))

    def _arrived(self, name: str, task: asyncio.Task[None]) -> None:
        """Go on for a node, also after a task that somebody has cancelled, maybe before it began."""
        if self._travelling.get(name) is task:
            del self._travelling[name]
            self._start(name, task.get_loop())

    def _node_of(self, command: Command) -> str:
        try:
            # Keys are bytes, which redis-py's signature leaves out.
            node = self._client.get_node_from_key(cast(str, command.key))
        except (RedisError, RedisClusterException):
            node = None
        return "" if node is None else node.name

    async def _travel(self, name: str) -> None:
        """Send what has gathered for a node, until nothing has. Each waits for the last: order holds."""
        while commands := self._queues.pop(name, None):
            try:
                replies = await self._exchange(commands)
            except Exception as error:  # whatever it is, those who wait must hear of it
                self._unanswered(commands, error)
            except BaseException:
                self._unanswered(commands, RedisConnectionError("a pipeline was cut off"))
                raise
            else:
                for command, reply in zip(commands, replies, strict=True):
                    self._answered(command, reply)

    async def _exchange(self, commands: Sequence[Command]) -> Sequence[object]:
        client: Any = self._client  # redis-py annotates commands and pipelines only here and there
        if len(commands) == 1:
            try:
                return (await client.execute_command(*_for_client(commands[0]), **_OPTIONS),)
            except RedisError as error:
                return (error,)
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*_for_client(command), **_OPTIONS)
        return cast(Sequence[object], await pipeline.execute(raise_on_error=False))

    async def aclose(self) -> None:
        """Nothing is kept."""


def _for_client(command: Command) -> tuple[str | bytes, ...]:
    """A command for a Cluster's client, which looks its name up as text."""
    name, *rest = command.spelled_out()
    return (name.decode(), *rest)
