"""A wire between store and server that counts, and that can be cut."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from chaos.ownership import unowned_keys
from jobguard.testing import EmbeddedValkey


class Wire:
    """Passes bytes between clients and a server.

    Attributes:
        url: where clients connect.
        round_trips: times that a client spoke after it had heard all it asked for.
        connections: how many were made.
    """

    def __init__(self, server: str, path: Path) -> None:
        self.url = f"unix://{path}"
        self.round_trips = 0
        self.connections = 0
        self._server_path = server
        self._path = path
        self._replies_to_lose = 0
        self._heard = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    def lose_replies(self, number: int) -> None:
        """Let the server execute what comes next, but close the connection in place of its answer."""
        self._replies_to_lose = number

    async def heard(self) -> None:
        """Return when a client speaks next."""
        self._heard.clear()
        await self._heard.wait()

    def reset(self) -> None:
        self.round_trips = 0

    async def open(self) -> None:
        self._listener = await asyncio.start_unix_server(self._accept, str(self._path))

    async def open_tls(self, context: ssl.SSLContext) -> int:
        """Listen on a loopback port in place of a socket, and speak TLS there; its number."""
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context)
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Cut every connection and accept no more."""
        assert self._listener is not None
        self._listener.close()
        for writer in self._open:
            writer.close()
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=20)
            assert not stuck, f"these connections do not end: {stuck}"
        if self._path.is_socket():
            self._path.unlink()

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(to_client)  # at once: whoever closes the wire now cuts this one too
        server, to_server = await asyncio.open_unix_connection(self._server_path)
        self._open.add(to_server)
        self.connections += 1
        asked = False

        async def ask() -> None:
            nonlocal asked
            while data := await client.read(65536):
                self._heard.set()
                if not asked:
                    self.round_trips += 1
                asked = True
                to_server.write(data)
                await to_server.drain()
            to_server.close()

        async def answer() -> None:
            nonlocal asked
            while data := await server.read(65536):
                asked = False
                if self._replies_to_lose > 0:
                    self._replies_to_lose -= 1
                    break
                to_client.write(data)
                await to_client.drain()
            to_client.close()
            to_server.close()

        with suppress(OSError):
            await asyncio.gather(ask(), answer())
        for writer in (to_client, to_server):
            self._open.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        self._tasks.discard(task)


@pytest.fixture
async def wire(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wire]:
    """A wire to the server of the test run."""
    wire = Wire(valkey.socket_path, valkey.directory / "wire")
    await wire.open()
    yield wire
    await wire.close()


@pytest.fixture
async def wired_client(wire: Wire, redis_client: Redis) -> AsyncIterator[Redis]:
    """A client whose bytes go over the wire, to an empty server; connected and counted from here."""
    async with Redis.from_url(wire.url) as client:
        await client.ping()
        wire.reset()
        yield client


@pytest.fixture
async def redis_client(redis_client: Redis) -> AsyncIterator[Redis]:
    """The client on an empty server; fails a test that leaves a key without an end or an owner."""
    yield redis_client
    assert await unowned_keys(redis_client) == []
