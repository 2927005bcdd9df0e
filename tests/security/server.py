"""A server that answers what a test says, on a socket, to whatever it is asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

HANDSHAKE = {b"CLIENT": b"+OK\r\n", b"AUTH": b"+OK\r\n", b"SELECT": b"+OK\r\n", b"PING": b"+PONG\r\n"}
MOST = 512 * 2**20
"""Bytes after which even an endless answer ends: a client that takes so many has no bound."""


class Server:
    """Answers each command with the same bytes.

    Attributes:
        reply: to every command; None = it never answers.
        handshake: what it answers to commands by which a client introduces itself.
        endless: bytes that follow the reply, again and again.
        sent: bytes in all.
        asked: names of the commands.
    """

    def __init__(
        self,
        reply: bytes | None,
        *,
        endless: bytes = b"",
        handshake: Mapping[bytes, bytes | None] | None = None,
    ) -> None:
        self.reply = reply
        self.endless = endless
        self.handshake: dict[bytes, bytes | None] = (
            {**HANDSHAKE} if handshake is None else {**HANDSHAKE, **handshake}
        )
        self.sent = 0
        self.asked: list[bytes] = []
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                name = await _command(reader)
                self.asked.append(name)
                reply = self.handshake.get(name, self.reply)
                if reply is None:
                    continue
                self.sent += len(reply)
                writer.write(reply)
                while self.endless and name not in self.handshake and self.sent < MOST:
                    writer.write(self.endless)
                    self.sent += len(self.endless)
                    await writer.drain()
        writer.close()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[str]:
        """Listen while the block lasts; the URL."""
        server = await asyncio.start_unix_server(self._serve, str(path))
        try:
            yield f"unix://{path}"
        finally:
            server.close()
            for task in self._tasks:
                if task is not None:
                    task.cancel()
            with suppress(OSError):
                os.unlink(path)


async def _command(reader: asyncio.StreamReader) -> bytes:
    """The name of the next command."""
    number = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(number):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words[0].upper()
