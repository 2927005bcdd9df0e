"""An HTTP server of one page, that can also do what a good one never does: hang up in the middle, or hang."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class Request:
    """A request; header names in small letters."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A response.

    Attributes:
        cut: bytes of the body after which the connection is reset; None = it is sent whole.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    cut: int | None = None


class Reset(Exception):
    """Raised by a handler: reset the connection in place of an answer."""


Handler = Callable[[Request], Awaitable[Response]]


async def serve(handler: Handler) -> tuple[asyncio.Server, str]:
    """A server on a free port of the loopback interface, and its URL."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that is killed in the middle is what this server is for.
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                while (request := await _read(reader)) is not None:
                    response = await handler(request)
                    _write(writer, response)
                    await writer.drain()
                    if response.cut is not None:
                        raise Reset
            except Reset:
                _reset(writer)
            finally:
                writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    return server, f"http://{host}:{port}"


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None = the client has closed it."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


def _write(writer: asyncio.StreamWriter, response: Response) -> None:
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines += [f"Content-Length: {len(response.body)}", "", ""]
    writer.write("\r\n".join(lines).encode("latin-1") + response.body[: response.cut])


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset: what is lost on the way is the client's to find out."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
