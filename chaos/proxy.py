"""A TCP proxy between one worker and the server, which can be told to misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import StrEnum
from random import Random

Address = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""


class NetFault(StrEnum):
    """What can befall a connection."""

    LATENCY = "latency"
    """Bytes come late, in both directions, for a while."""
    CUT = "cut"
    """The connection is reset."""
    HALF_OPEN = "half-open"
    """Nothing passes any more, and nobody is told; some time later the connection is reset."""
    REPLY_LOSS = "reply lost"
    """The server gets one more request and answers it; the connection is reset in place of the answer."""


class Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.delay = 0.0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.lose_reply = False
        self.lost_reply = asyncio.Event()
        self.last_spoke = 0.0

    def reset(self) -> None:
        """Close both ends at once, without a farewell."""
        for writer in self.writers:
            writer.transport.abort()
        self.flowing.set()


class Proxy:
    """Listens on a port of the loopback interface for one worker.

    Args:
        where: says where the server is, whenever somebody connects.
    """

    def __init__(self, where: Callable[[], Address]) -> None:
        self._where = where
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._listener is not None
        number: int = self._listener.sockets[0].getsockname()[1]
        return number

    async def open(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for link in [*self._links]:
            link.reset()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def inflict(self, kind: NetFault, random: Random, longest: float) -> bool:
        """Let something happen to one of the connections; False = there is none, or nothing was said on it.

        Returns when it is over.

        Args:
            kind: what.
            random: decides the connection and how long.
            longest: seconds that a connection hangs at most.
        """
        links = sorted(self._links, key=lambda link: link.last_spoke)
        if not links:
            return False
        # The last to have spoken is the one that is in use: a fault on an idle one would say little, and a
        # reply cannot be lost there at all.
        in_use = random.random() < 0.7 or kind is NetFault.REPLY_LOSS
        link = links[-1] if in_use else random.choice(links)
        if kind is NetFault.CUT:
            link.reset()
        elif kind is NetFault.LATENCY:
            link.delay = random.uniform(0.02, 0.3)
            await asyncio.sleep(random.uniform(0.2, 1.0))
            link.delay = 0.0
        elif kind is NetFault.HALF_OPEN:
            link.flowing.clear()
            await asyncio.sleep(random.uniform(0.1, longest))
            link.reset()
        else:
            link.lose_reply = True
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await link.lost_reply.wait()
            link.lose_reply = False
            return link.lost_reply.is_set()
        return True

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        where = self._where()
        try:
            connecting: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
                asyncio.open_unix_connection(where)
                if isinstance(where, str)
                else asyncio.open_connection(*where)
            )
            server, to_server = await connecting
        except OSError:
            to_client.transport.abort()
            return
        link = Link(to_client, to_server)
        self._links.add(link)
        assert self._listener is not None
        if not self._listener.is_serving():
            link.reset()  # the proxy was closed meanwhile, and waits for the end of this
        try:
            ways = [
                asyncio.ensure_future(self._ask(link, client, to_server)),
                asyncio.ensure_future(self._answer(link, server, to_client)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            link.reset()
            self._links.discard(link)

    async def _ask(self, link: Link, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await client.read(65536):
                link.last_spoke = asyncio.get_running_loop().time()
                await self._hold_up(link)
                server.write(data)
                await server.drain()

    async def _answer(self, link: Link, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await server.read(65536):
                await self._hold_up(link)
                if link.lose_reply:
                    link.lost_reply.set()
                    return
                client.write(data)
                await client.drain()

    async def _hold_up(self, link: Link) -> None:
        await link.flowing.wait()
        if link.delay > 0:
            await asyncio.sleep(link.delay)
