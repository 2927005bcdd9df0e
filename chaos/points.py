"""The round trips of a process to its server, and a fault at one of them.

Everything of a process goes through two methods of redis-py's connections: one writes commands, the other
reads one reply. One write is one round trip, however many commands it has. So a fault strikes exactly before
commands are written; after the server has executed them and before anybody hears of it; or at the moment
that the last of their replies has been read.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha1
from importlib.resources import files
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from jobguard.stores.commands import load_script

PICK_UP = "MULTI PSETEX:in-progress EXEC"
"""What ARQ sends when it takes a job; with each one, the next delivery begins."""
BESIDE = frozenset(
    ("announce", "CLIENT", "INFO INFO INFO DBSIZE", "PING", "SET", "PTTL", "ZSCAN", "look", "extend")
)
"""What goes on beside the jobs, at no certain place among the rest: counted over the whole life."""
POLLING = frozenset(("ZRANGEBYSCORE", "WATCH:in-progress", "EXISTS:in-progress", "ZSCORE", "UNWATCH"))
"""What ARQ sends to find a job."""
IDLE = POLLING | {"ZCARD", "renew", "SET:in-progress", "PSETEX"}
"""What is sent again and again while nothing happens: each time is like the first since the last delivery."""
ABORTS = "MULTI ZRANGE ZREMRANGEBYSCORE EXEC"
"""What ARQ sends with each poll where jobs can be aborted."""
KINDS = re.compile(rb"arq:(job|in-progress|retry|result):")
"""What a key of ARQ is about."""


class Moment(StrEnum):
    """When a fault strikes, seen from a round trip."""

    BEFORE = "before"
    LOST = "lost"
    AFTER = "after"


class Death(StrEnum):
    """What dies: the process, or every connection that it has."""

    PROCESS = "process"
    CONNECTION = "connection"


@dataclass(frozen=True, slots=True)
class Trip:
    """A round trip, by what it is and not by its number: timing makes some more frequent.

    Attributes:
        delivery: how many jobs the process had taken before it; 0 while it starts.
        what: the commands, or the scripts' names.
        nth: the how manieth of these in that delivery, from 1.
        by: on whose behalf: "arq" or "jobguard", or "redis" for what the client does by itself.
    """

    delivery: int
    what: str
    nth: int
    by: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.delivery}.{self.what}#{self.nth}"


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls a process, and where."""

    trip: Trip
    moment: Moment
    death: Death

    def __str__(self) -> str:
        return f"{self.trip}/{self.moment}/{self.death}"


Note = Callable[..., None]


class _Passage:
    """A round trip on its way: which, and how many of its replies are still to be read."""

    __slots__ = ("left", "trip")

    def __init__(self, trip: Trip, left: int) -> None:
        self.trip = trip
        self.left = left


class Interceptor:
    """Numbers the round trips of this process, and lets one of them meet its fault.

    Args:
        fault: None = only count.
        note: told of each trip as `trip`, of the replies that have come in as `replied` (also if nobody
            is to hear of them), and of the fault as `struck`.
    """

    def __init__(self, fault: Fault | None, note: Note) -> None:
        self._fault = fault
        self._note = note
        self._delivery = 0
        self._seen: Counter[tuple[int, str]] = Counter()
        self._passages: WeakKeyDictionary[Any, deque[_Passage]] = WeakKeyDictionary()
        self._connections: WeakSet[AbstractConnection] = WeakSet()
        self._armed = True

    def install(self) -> None:
        """Stand between redis-py and its sockets from here on."""
        redis_py: Any = AbstractConnection
        send, read, interceptor = redis_py.send_packed_command, redis_py.read_response, self

        async def send_packed_command(connection: Any, command: Any, check_health: bool = True) -> None:
            if not connection.is_connected:
                await connection.connect()
            await interceptor._write(connection, command, lambda: send(connection, command, False))

        async def read_response(connection: Any, *args: Any, **kwargs: Any) -> Any:
            return await interceptor._read(connection, lambda: read(connection, *args, **kwargs))

        redis_py.send_packed_command, redis_py.read_response = send_packed_command, read_response

    async def _write(self, connection: Any, command: Any, send: Callable[[], Any]) -> None:
        self._connections.add(connection)
        names = list(names_in(command))
        what = " ".join(names)
        delivery = 0 if what in BESIDE else self._delivery
        self._seen[delivery, what] += 1
        trip = Trip(delivery, what, self._seen[delivery, what], "" if self._fault else asked_by())
        if self._fault is None:
            self._note("trip", delivery=trip.delivery, what_trip=what, nth=trip.nth, by=trip.by)
        if what == PICK_UP:
            self._delivery += 1
        self._passages.setdefault(connection._writer, deque()).append(_Passage(trip, len(names)))
        if self._hits(trip, Moment.BEFORE):
            self._strike()
        await send()

    async def _read(self, connection: Any, read: Callable[[], Any]) -> Any:
        passages = self._passages.get(connection._writer)
        if not passages:
            return await read()
        passage = passages[0]
        if self._hits(passage.trip, Moment.LOST):
            while passage.left:
                with suppress(ResponseError):
                    await read()
                passage.left -= 1
            self._replied(passages)
            self._strike()
            return await read()  # the connection has gone, which redis-py is to find by itself
        refused: ResponseError | None = None
        reply: object = None
        try:
            reply = await read()
        except ResponseError as error:
            refused = error
        passage.left -= 1
        if not passage.left:
            self._replied(passages)
            if self._hits(passage.trip, Moment.AFTER):
                self._strike()
        if refused is not None:
            raise refused
        return reply

    def _replied(self, passages: deque[_Passage]) -> None:
        trip = passages.popleft().trip
        self._note("replied", what_trip=trip.what, delivery=trip.delivery)

    def _hits(self, trip: Trip, moment: Moment) -> bool:
        fault = self._fault
        return self._armed and fault is not None and fault.moment is moment and fault.trip == trip

    def _strike(self) -> None:
        assert self._fault is not None
        self._armed = False
        self._note("struck", fault=str(self._fault))
        if self._fault.death is Death.PROCESS:
            os.kill(os.getpid(), signal.SIGKILL)
        for connection in list(self._connections):
            writer: Any = connection._writer
            if writer is not None:
                with suppress(OSError):
                    writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def names_in(command: Any) -> Iterator[str]:
    """The names of the commands in what is written to a server; of scripts, their own."""
    data = command.encode() if isinstance(command, str) else command
    if not isinstance(data, bytes):
        data = b"".join(bytes(each) for each in data)
    at = 0
    while at < len(data):
        arguments, at = _arguments(data, at)
        name = arguments[0].decode().upper()
        if name == "EVALSHA":
            yield _SCRIPTS.get(arguments[1], name)
        elif name == "EVAL":
            yield f"{_SCRIPTS.get(sha1(arguments[1]).hexdigest().encode(), name)}(text)"
        else:
            kind = KINDS.match(arguments[1]) if len(arguments) > 1 else None
            yield f"{name}:{kind[1].decode()}" if kind else name


def _arguments(data: bytes, at: int) -> tuple[list[bytes], int]:
    end = data.index(b"\r\n", at)
    number, at = int(data[at + 1 : end]), end + 2
    arguments: list[bytes] = []
    for _ in range(number):
        end = data.index(b"\r\n", at)
        size, at = int(data[at + 1 : end]), end + 2
        arguments.append(data[at : at + size])
        at += size + 2
    return arguments, at


def _scripts() -> dict[bytes, str]:
    """Every script there is, by its hash."""
    packages = ("jobguard.stores", "jobguard.adapters.arq")
    return {load_script(name, package).sha: name for package in packages for name in _names(package)}


def _names(package: str) -> Iterable[str]:
    names = (each.name.removesuffix(".lua") for each in files(package).joinpath("lua").iterdir())
    return [name for name in names if not name.startswith("_")]


_SCRIPTS = _scripts()


def asked_by() -> str:
    """Whose code asks for what is being sent: the innermost of ARQ and jobguard that is on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in ("arq", "jobguard"):
            return package
        frame = frame.f_back  # type: ignore[assignment]
    return "redis"


def worth_a_fault(trip: Trip, *, idles: bool, last: bool) -> bool:
    """Whether a trip comes each time, and is not like another one.

    Args:
        trip: which.
        idles: the worker looks for jobs while one is running, for certain.
        last: no other delivery begins after it.
    """
    if not idles and (trip.what == "UNWATCH" or (last and trip.what in POLLING)):
        return False
    return trip.nth == 1 or not (trip.what == ABORTS or set(trip.what.split(" ")) <= IDLE | BESIDE)
