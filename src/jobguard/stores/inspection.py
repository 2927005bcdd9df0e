"""What a Redis or Valkey server says about itself and the keys of a namespace. It only reads.

Every fact may be missing, since servers refuse commands (ACL users, managed services) and leave out
what they do not know: None = not known. Texts of the server are cut, and cannot steer a terminal.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol, cast

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    RedisClusterException,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobguard.errors import StoreError, StoreUnavailable
from jobguard.redaction import clip, printable
from jobguard.stores.records import raw

Client = Redis | RedisCluster

KEY_LIMIT = 10_000
"""Keys of a namespace that are looked at, at most."""
STRIDE = 1000
"""Keys of any name that one SCAN walks over, roughly."""
STRIDES = 1000
"""Scans at most: a server shared with many others is not walked through to its end."""
BATCH = 500
"""Keys that are asked after in one round trip."""
NAMES_SHOWN = 10
"""Keys that are named, of those that nobody owns."""
INDEX_LIMIT = 100
"""Indexes of dead letter queues that are read: the namespace's own, and those of namespaces below it."""
TEXT_LIMIT = 200
"""Characters of a text of the server."""

_SETTINGS = (
    "appendfsync",
    "no-appendfsync-on-rewrite",
    "save",
    "min-replicas-to-write",
    "min-replicas-max-lag",
)
NO_DATABASE = "DB index is out of range"
"""What a server says that does not have the database of the URL."""
_SECTIONS = ("server", "persistence", "memory", "replication", "stats")
_GLOB = re.compile(r"[][*?\\^]")
_LATEST = 1e12


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server, by its own account.

    Attributes:
        address: host and port of a Cluster's node; empty where there is one server only.
        failure: why nothing is known of this node of a Cluster; None = it answered.
        kind: `Redis` or `Valkey`.
        version: of the server.
        mode: `standalone`, `cluster` or `sentinel`.
        role: `master` or `slave`, as servers say it.
        replicas: that are connected.
        replicas_needed: `min-replicas-to-write`; 0 = writes wait for none. Where only INFO answered, 1 stands
            for any number.
        replica_lag: `min-replicas-max-lag`, seconds.
        appends: `appendonly`.
        fsync: `appendfsync`.
        fsync_pauses: `no-appendfsync-on-rewrite`.
        save: save points, as configured; empty = no snapshots.
        snapshot_status, rewrite_status, append_status: `ok`, or what went wrong the last time.
        snapshot_time: when the last snapshot was taken or the server started, Unix seconds.
        policy: `maxmemory-policy`.
        memory_limit: `maxmemory` in bytes; 0 = none.
        memory_used: bytes.
        evicted: keys thrown away since the server started.
        time: of the server, Unix seconds.
        offset: seconds by which the server's clock is ahead of this machine's.
        offset_error: seconds by which that may be wrong.
        step: seconds by which the server's clock moved more than this machine's between two reads.
        went_back: whether the second read gave an earlier time than the first.
    """

    address: str = ""
    failure: str | None = None
    kind: str | None = None
    version: str | None = None
    mode: str | None = None
    role: str | None = None
    replicas: int | None = None
    replicas_needed: int | None = None
    replica_lag: int | None = None
    appends: bool | None = None
    fsync: str | None = None
    fsync_pauses: bool | None = None
    save: str | None = None
    snapshot_status: str | None = None
    rewrite_status: str | None = None
    append_status: str | None = None
    snapshot_time: int | None = None
    policy: str | None = None
    memory_limit: int | None = None
    memory_used: int | None = None
    evicted: int | None = None
    time: float | None = None
    offset: float | None = None
    offset_error: float = 0.0
    step: float | None = None
    went_back: bool = False


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """The keys of a namespace.

    Attributes:
        looked_at: how many there are, or were looked at.
        complete: whether those are all.
        unowned: how many have neither a time to live nor an index that owns them.
        names: of some of these.
        unread: how many could not be asked after.
    """

    looked_at: int
    complete: bool
    unowned: int
    names: tuple[str, ...]
    unread: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was found: one server, or every primary of a Cluster; keys = None: they cannot be listed."""

    servers: tuple[ServerFacts, ...]
    keys: KeyFacts | None


class _Server(Protocol):
    """One server: a client of redis-py, or a node of its Cluster client."""

    async def execute_command(self, *args: Any, **options: Any) -> Any: ...


class _Reading(NamedTuple):
    """A server's clock, and this machine's two when it was read: Unix, monotonic; and the round trip."""

    server: float
    wall: float
    monotonic: float
    trip: float


async def inspect(client: Client, namespace: str) -> Facts:
    """Ask a server, or every primary of a Cluster.

    Args:
        client: of redis-py; of a Sentinel's master too.
        namespace: whose keys to look at.

    Raises:
        StoreUnavailable: no server answers.
        StoreError: what answers is no Redis or Valkey, or refuses the login.
    """
    try:
        servers = await _servers(client)
    except Exception as error:  # redis-py has errors of many families, and so has asyncio
        raise _told(error) from error
    facts: list[ServerFacts] = []
    failures: list[StoreError] = []
    for address, server in servers:
        try:
            facts.append(await _ask_about(server, address))
        except Exception as error:  # as above
            failures.append(_told(error))
            facts.append(ServerFacts(_clean(address), failure=_clean(failures[-1])))
    if len(failures) == len(servers):
        raise failures[0] if failures else StoreUnavailable("the store did not answer: it has no primary")
    if failures:  # keys are on a node that is away, or their owners
        return Facts(tuple(facts), None)
    try:
        keys = await _look_at_keys(client, [server for _, server in servers], namespace)
    except Exception as error:  # as above
        raise _told(error) from error
    return Facts(tuple(facts), keys)


async def _servers(client: Client) -> list[tuple[str, _Server]]:
    if not isinstance(client, RedisCluster):
        return [("", cast(_Server, client))]
    await client.initialize()
    return [(node.name, cast(_Server, node)) for node in client.get_primaries()]


async def _ask_about(server: _Server, address: str) -> ServerFacts:
    first = await _read_clock(server)
    info: dict[str, str] = {}
    for section in _SECTIONS:
        info |= _fields(await _ask(server, "INFO", section))
    settings: dict[str, str] = {}
    for name in _SETTINGS:  # together only since Redis 7
        reply = await _ask(server, "CONFIG GET", name)
        if reply is None:
            break
        settings |= _fields(reply)
    last = await _read_clock(server)
    valkey = info.get("valkey_version")
    appends, pauses = info.get("aof_enabled"), settings.get("no-appendfsync-on-rewrite")
    return ServerFacts(
        _clean(address),
        kind="Valkey" if valkey else "Redis" if "redis_version" in info else None,
        version=valkey or info.get("redis_version"),
        mode=info.get("server_mode", info.get("redis_mode")),
        role=info.get("role"),
        replicas=_whole(info.get("connected_slaves")),
        replicas_needed=_replicas_needed(info, settings),
        replica_lag=_whole(settings.get("min-replicas-max-lag")),
        appends=None if appends is None else appends == "1",
        fsync=settings.get("appendfsync"),
        fsync_pauses=None if pauses is None else pauses == "yes",
        save=settings.get("save"),
        snapshot_status=info.get("rdb_last_bgsave_status"),
        rewrite_status=info.get("aof_last_bgrewrite_status"),
        append_status=info.get("aof_last_write_status"),
        snapshot_time=_whole(info.get("rdb_last_save_time")),
        policy=info.get("maxmemory_policy"),
        memory_limit=_whole(info.get("maxmemory")),
        memory_used=_whole(info.get("used_memory")),
        evicted=_whole(info.get("evicted_keys")),
        time=None if last is None else last.server,
        offset=None if last is None else last.server - last.wall,
        offset_error=0.0 if last is None else last.trip / 2,
        step=None if first is None or last is None else _step(first, last),
        went_back=first is not None and last is not None and last.server < first.server,
    )


async def _ask(server: _Server, *command: str | int | bytes) -> Any:
    """A reply; None = the server refused, or said what redis-py cannot read."""
    try:
        return await server.execute_command(*command)
    except ResponseError as error:
        if NO_DATABASE in str(error):  # which is found out at the first command, whichever that is
            raise
        return None
    except (ValueError, TypeError, LookupError, AttributeError):
        return None


async def _read_clock(server: _Server) -> _Reading | None:
    wall, before = time.time(), time.monotonic()
    reply = await _ask(server, "TIME")
    trip = time.monotonic() - before
    match reply:
        case (int(seconds), int(micros)) if 0 <= seconds < _LATEST and 0 <= micros < _LATEST:
            return _Reading(seconds + micros / 1e6, wall + trip / 2, before + trip / 2, trip)
        case _:
            return None


def _step(first: _Reading, last: _Reading) -> float:
    """How much more the server's clock moved than ours, less what the round trips may have hidden."""
    moved = (last.server - first.server) - (last.monotonic - first.monotonic)
    doubt = (first.trip + last.trip) / 2
    return max(moved - doubt, 0.0) if moved > 0 else min(moved + doubt, 0.0)


def _replicas_needed(info: Mapping[str, str], settings: Mapping[str, str]) -> int | None:
    """INFO has the number of good replicas where, and only where, some are needed."""
    exact = _whole(settings.get("min-replicas-to-write"))
    if _whole(settings.get("min-replicas-max-lag")) == 0:
        return 0  # that switches the other one off
    if exact is not None or "role" not in info:
        return exact
    return 1 if "min_slaves_good_slaves" in info else 0


async def _look_at_keys(client: Client, servers: Sequence[_Server], namespace: str) -> KeyFacts | None:
    found, complete = await _scan(servers, namespace)
    if found is None:
        return None
    own = raw(f"{namespace}:dlq")
    below = sorted(key for key in found if key.endswith(b":dlq") and key != own and not key.startswith(b"{"))
    owners = {index: await _members(client, index) for index in (own, *below[: INDEX_LIMIT - 1])}
    doubtful = [key for key in found if not _owned(key, owners)]
    unowned: list[bytes] = []
    unread = 0
    for start in range(0, len(doubtful), BATCH):
        batch = doubtful[start : start + BATCH]
        for key, lives in zip(batch, await _lifetimes(client, batch), strict=True):
            if not isinstance(lives, int) or (lives == -1 and _might_be_owned(key, owners)):
                unread += 1
            elif lives == -1:
                unowned.append(key)
    names = tuple(_clean(key) for key in sorted(unowned)[:NAMES_SHOWN])
    return KeyFacts(len(found), complete, len(unowned), names, unread)


async def _scan(servers: Iterable[_Server], namespace: str) -> tuple[set[bytes] | None, bool]:
    """Keys of the namespace, and whether those are all; None = SCAN was refused."""
    pattern = f"*{_GLOB.sub(lambda match: chr(92) + match[0], namespace)}:*"
    starts = (raw(f"{namespace}:"), raw(f"{{{namespace}:"))
    found: set[bytes] = set()
    strides = 0
    for server in servers:
        cursor = 0
        while True:
            if len(found) > KEY_LIMIT:
                return set(islice(found, KEY_LIMIT)), False
            if strides >= STRIDES:
                return found, False
            strides += 1
            reply: Any = await _ask(server, "SCAN", cursor, "MATCH", pattern, "COUNT", STRIDE)
            match reply:
                case (int(following), [*keys]):
                    found.update(key for key in map(_raw, keys) if key.startswith(starts))
                case _:
                    return None, False
            if following == 0:
                break
            cursor = following
    return set(islice(found, KEY_LIMIT)), len(found) <= KEY_LIMIT


async def _members(client: Client, index: bytes) -> frozenset[bytes] | None:
    """Names that an index holds; None = it could not be read, or is none."""
    reply: Any = await _ask(cast(_Server, client), "SMEMBERS", index)
    if not isinstance(reply, (set, list)):
        return None
    return frozenset(map(_raw, cast(Iterable[object], reply)))


def _owned(key: bytes, owners: Mapping[bytes, frozenset[bytes] | None]) -> bool:
    """Whether a key is an index, or belongs to a queue that one has."""
    if owners.get(key) is not None:
        return True
    return any(names is not None and _queue(key, index) in names for index, names in owners.items())


def _might_be_owned(key: bytes, owners: Mapping[bytes, frozenset[bytes] | None]) -> bool:
    """Whether an index that could not be read would have told."""
    return any(
        names is None and (key == index or _queue(key, index) is not None) for index, names in owners.items()
    )


def _queue(key: bytes, index: bytes) -> bytes | None:
    """The queue of an index that a key would belong to, by its name."""
    tag = b"{" + index + b":"
    queue, brace, _ = key.removeprefix(tag).partition(b"}:")
    return queue if key.startswith(tag) and brace else None


async def _lifetimes(client: Client, keys: Sequence[bytes]) -> list[object]:
    """Milliseconds to live of each key; -1 = for ever, -2 = it has gone, an error = not known."""
    any_client: Any = client  # redis-py annotates pipelines only here and there
    pipeline = any_client.pipeline(transaction=False)
    for key in keys:
        pipeline.execute_command("PTTL", key)
    return list(await pipeline.execute(raise_on_error=False))


def _fields(reply: object) -> dict[str, str]:
    """Names and texts of a reply that redis-py has made a mapping of; anything else is left out."""
    if not isinstance(reply, Mapping):
        return {}
    pairs = cast(Mapping[object, object], reply).items()
    return {
        _clean(name): _clean(value) for name, value in pairs if isinstance(value, (str, bytes, int, float))
    }


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text) else None


def _raw(name: object) -> bytes:
    return name if isinstance(name, bytes) else raw(str(name))


def _clean(text: object) -> str:
    """Foreign text as it may be shown."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return printable(clip(words, TEXT_LIMIT))


def _told(error: Exception) -> StoreError:
    """The error that callers know, with what redis-py said; that names hosts and commands, no credentials."""
    login = any(
        isinstance(each, (AuthenticationError, AuthorizationError)) for each in (error, error.__cause__)
    )
    away = isinstance(error, (RedisConnectionError, RedisTimeoutError, RedisClusterException, OSError))
    told = f"{type(error).__name__}: {error}"
    if away and not login:
        return StoreUnavailable(f"the store did not answer: {told}")
    return StoreError(f"the store refused an operation: {told}")
