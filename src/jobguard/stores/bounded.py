"""A parser of replies that gives up on a server which sends more than any reply has.

redis-py's parsers take whatever comes until a reply is complete. So whoever poses as a server could fill
a process's memory, for as long as the time limit of a reply lets it, from the handshake on.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError

LARGEST_REPLY = 512 * 2**20
"""Bytes that may come before a reply is complete: as many as Redis allows for one value."""


def bounded(parser: Any) -> Any:
    """A class of parsers of redis-py that counts what it takes in."""

    class Bounded(parser):  # type: ignore[misc]  # any of them
        _taken = 0

        def on_connect(self, connection: Any) -> None:
            parser.on_connect(self, connection)
            # Only the way by which asyncio hands bytes to a reader knows how many there are.
            reader: asyncio.StreamReader = connection._reader

            def feed_data(data: bytes) -> None:
                self._taken += len(data)
                # Where redis-py has changed its mind about the parser, nobody tells of complete replies.
                if self._taken <= LARGEST_REPLY or connection._parser is not self:
                    asyncio.StreamReader.feed_data(reader, data)
                elif reader.exception() is None:
                    reader.set_exception(RedisConnectionError(f"a reply of more than {LARGEST_REPLY} bytes"))

            self._taken = 0
            vars(reader)["feed_data"] = feed_data

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            self._taken = 0
            return parser.read_response(self, *args, **kwargs)

    return Bounded


BoundedParser: Any = bounded(DefaultParser)  # that of hiredis where it is installed
