"""Commands to a Redis Cluster, through redis-py's own client: it knows which node serves a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import RedisCluster
from redis.client import NEVER_DECODE
from redis.exceptions import RedisClusterException, RedisError

from jobguard.stores.commands import Command

MOST_CONNECTIONS = 16
"""Pipelines under way at once, each on a connection of its own; further ones wait."""

_OPTIONS: dict[str, Any] = {NEVER_DECODE: True}


class ClusterLines:
    """Exchanges commands for replies with the nodes of a Cluster."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._connections = asyncio.Semaphore(MOST_CONNECTIONS)

    async def apart(self, commands: Sequence[Command]) -> list[Sequence[Command]]:
        """Commands by the node that serves their key, so that one node down stops no other."""
        if len(commands) < 2:
            return [commands]
        groups: dict[str, list[Command]] = {}
        try:
            await self._client.initialize()
            for command in commands:
                # Keys are bytes, which redis-py's signature leaves out.
                node = self._client.get_node_from_key(cast(str, command.key))
                groups.setdefault("" if node is None else node.name, []).append(command)
        except (RedisError, RedisClusterException, OSError):
            return [commands]
        return list(groups.values())

    async def exchange(self, commands: Sequence[Command]) -> Sequence[object]:
        """Send commands to one node and read their replies; an error stands in place of its reply.

        Raises:
            RedisError, RedisClusterException, OSError: there was no reply at all.
        """
        client: Any = self._client  # redis-py annotates commands and pipelines only here and there
        async with self._connections:
            if len(commands) == 1:
                return (await client.execute_command(*_spelled_out(commands[0]), **_OPTIONS),)
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*_spelled_out(command), **_OPTIONS)
            return cast(Sequence[object], await pipeline.execute(raise_on_error=False))

    async def aclose(self) -> None:
        """Nothing is kept."""


def _spelled_out(command: Command) -> tuple[str | bytes, ...]:
    """A command for a Cluster's client, which looks its name up as text."""
    name, *rest = command.spelled_out()
    return (name.decode(), *rest)
