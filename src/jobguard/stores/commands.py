"""Commands for a server: scripts, where each command's reply goes, and how it looks on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple

INCLUDE = "-- include: "
"""Starts a line of a script in whose place another file is read."""


class Script(NamedTuple):
    """A Lua script, and the hash by which a server that has it knows it."""

    text: bytes
    sha: bytes


def load_script(name: str, package: str = "jobguard.stores") -> Script:
    """A script out of its file below a package's folder `lua`, with what it includes."""
    text = _read(name, package).encode()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


def _read(name: str, package: str) -> str:
    text = files(package).joinpath("lua", f"{name}.lua").read_text("utf-8")
    lines = text.splitlines(keepends=True)
    return "".join(
        _read(line.removeprefix(INCLUDE).strip(), package) if line.startswith(INCLUDE) else line
        for line in lines
    )


class Command:
    """One command on its way.

    Attributes:
        script: what to run; None = a plain command.
        keys: how many of the arguments are keys.
        arguments: keys and arguments of the script; a plain command's name, key and arguments.
        future: gets the reply.
        by_text: the server does not know the script, so it is sent in full.
        resends: how often it was sent again for want of a reply.
        size: bytes that it took when it was packed.
    """

    __slots__ = ("arguments", "by_text", "future", "keys", "resends", "script", "size")

    def __init__(
        self, script: Script | None, keys: int, arguments: tuple[bytes, ...], future: asyncio.Future[Any]
    ) -> None:
        self.script: Script | None = script
        self.keys: int = keys
        self.arguments: tuple[bytes, ...] = arguments
        self.future: asyncio.Future[Any] = future
        self.by_text: bool = False
        self.resends: int = 0
        self.size: int = 0

    @property
    def key(self) -> bytes:
        """The key that says which server of a Cluster is asked."""
        return self.arguments[0 if self.script is not None else 1]

    def spelled_out(self) -> tuple[bytes, ...]:
        """The command as a client sends it."""
        if self.script is None:
            return self.arguments
        return (*_opening(self.script, self.keys, self.by_text), *self.arguments)


def packed(commands: Sequence[Command]) -> bytes:
    """Commands in the bytes of the protocol. redis-py packs in Python too, for more types, at three
    times the cost."""
    parts: list[bytes] = []
    for command in commands:
        sized: list[int | bytes] = []
        for argument in command.arguments:
            sized += (len(argument), argument)
        form = _form(command.script, command.keys, command.by_text, len(command.arguments))
        part = form % tuple(sized)
        command.size = len(part)
        parts.append(part)
    return b"".join(parts)


def _opening(script: Script, keys: int, by_text: bool) -> tuple[bytes, bytes, bytes]:
    return (b"EVAL", script.text, b"%d" % keys) if by_text else (b"EVALSHA", script.sha, b"%d" % keys)


@cache
def _form(script: Script | None, keys: int, by_text: bool, arguments: int) -> bytes:
    """What is the same in all commands of a kind, with gaps for the arguments and their lengths."""
    opening = () if script is None else _opening(script, keys, by_text)
    told = b"".join(b"$%d\r\n%b\r\n" % (len(each), each.replace(b"%", b"%%")) for each in opening)
    return b"*%d\r\n%b" % (len(opening) + arguments, told) + b"$%d\r\n%b\r\n" * arguments
