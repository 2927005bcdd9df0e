"""From a URL to a client of redis-py; a URL that cannot work is refused with its password masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from jobguard.errors import InvalidType, InvalidValue
from jobguard.stores.bounded import BoundedParser

CONNECT_TIMEOUT = 5.0
"""Seconds for a connection to open, unless the URL or the options say otherwise."""
REPLY_TIMEOUT = 10.0
"""Seconds for a reply; without a limit, a server that vanished would hold a job for ever."""

_FORMS = (
    "redis://host:6379/0, rediss://host:6379/0, unix:///path/to/socket, "
    "redis+sentinel://host:26379,host:26379/master/0 or redis+cluster://host:6379,host:6379"
)
_PLAIN = re.compile(
    r"(?:(?P<userinfo>.*)@)?(?P<host>\[[^\]]+\]|[^:/?@]+)?(?::(?P<port>\d{1,9}))?(?:/(?P<db>\d{0,9}))?(?:\?.*)?",
    re.ASCII,
)
_HOST = re.compile(r"(?P<host>\[[^\]]+\]|[^:/?@\[\]]+)(?::(?P<port>\d{1,9}))?", re.ASCII)


def connect(url: str, options: Mapping[str, Any]) -> list[Redis | RedisCluster]:
    """The client that a URL asks for, and behind it others that it uses and that want closing too.

    Raises:
        InvalidType: the URL is not text.
        InvalidValue: the URL cannot be used.
    """
    if not isinstance(url, str):
        raise InvalidType(f"url must be text such as {_FORMS}, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    settings = {"socket_connect_timeout": CONNECT_TIMEOUT, "socket_timeout": REPLY_TIMEOUT, **options}
    if separator and scheme in ("redis", "rediss", "unix"):
        return [_plain(url, scheme, rest, settings)]
    if separator and scheme in ("redis+sentinel", "rediss+sentinel"):
        return _sentinel(url, rest, _with_tls(scheme, settings))
    if separator and scheme in ("redis+cluster", "rediss+cluster"):
        return [_cluster(url, rest, _with_tls(scheme, settings))]
    raise _refusal(url, f"its scheme {scheme!r} is not known" if separator else "it has no scheme")


def masked(url: str) -> str:
    """The URL as it may be shown: user names stay, passwords go."""

    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    userinfo, at, location = rest.rpartition("@")
    user = userinfo.partition(":")[0]
    shown = f"{scheme}{separator}{user}:***@{location}" if at else url
    return re.sub(r"(password=)[^&]*", r"\1***", shown)


def _refusal(url: str, reason: str) -> InvalidValue:
    return InvalidValue(f"url {masked(url)!r} cannot be used: {reason}; write {_FORMS}")


def _with_tls(scheme: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "ssl": True, **_checking(settings, "")} if scheme.startswith("rediss") else settings


def _checking(settings: Mapping[str, Any], url: str) -> dict[str, Any]:
    """The server's name is looked at, as redis-py does from 6 on, unless its certificate is not."""
    told = "ssl_cert_reqs" in settings or "ssl_check_hostname" in settings or "ssl_cert_reqs=" in url
    return {} if told else {"ssl_check_hostname": True}


def _defaults() -> dict[str, Any]:
    # The store sends again by itself, with bounds of its own.
    return {"retry": Retry(NoBackoff(), 0), "parser_class": BoundedParser}


def _plain(url: str, scheme: str, rest: str, settings: dict[str, Any]) -> Redis:
    if scheme == "unix":
        if "/" not in rest:
            raise _refusal(url, "it names no socket")
    else:
        parts = _PLAIN.fullmatch(rest)
        if parts is None or parts["host"] is None:
            raise _refusal(url, "it needs a host, a port that is a number, and a database that is a number")
        _port(url, parts["port"], 6379)
    try:
        tls = _checking(settings, url) if scheme == "rediss" else {}
        options: dict[str, Any] = {**_defaults(), **tls, **settings}
        client: Redis = Redis.from_url(url, **options)  # pyright: ignore[reportUnknownMemberType]  **kwargs
    except ValueError as error:
        reason = str(error)
        if "@" in rest and not reason.startswith("Invalid value for"):  # it may show parts of the password
            reason = "what stands before the '@' wants escaping, as %2F for a slash"
        raise _refusal(url, reason) from None
    return client


def _sentinel(url: str, rest: str, settings: dict[str, Any]) -> list[Redis | RedisCluster]:
    credentials, hosts, path = _parts(url, rest)
    master, _, db = path.partition("/")
    if not master:
        raise _refusal(url, "it names no master")
    if db and not re.fullmatch("[0-9]{1,9}", db):
        raise _refusal(url, f"the database {db!r} is not a number")
    sentinel_settings = {
        "socket_connect_timeout": settings["socket_connect_timeout"],
        "socket_timeout": settings["socket_timeout"],
        **cast("dict[str, Any]", settings.pop("sentinel_kwargs", {})),
    }
    make: Any = Sentinel  # its constructor has no annotations
    sentinel = make(
        _addresses(url, hosts, 26379),
        sentinel_kwargs=sentinel_settings,
        **{**_defaults(), "db": int(db or 0), **credentials, **settings},
    )
    return [sentinel.master_for(unquote(master)), *sentinel.sentinels]


def _cluster(url: str, rest: str, settings: dict[str, Any]) -> RedisCluster:
    credentials, hosts, path = _parts(url, rest)
    if path not in ("", "0"):
        raise _refusal(url, "a Cluster has no database but 0")
    nodes = [ClusterNode(host, port) for host, port in _addresses(url, hosts, 6379)]
    options: dict[str, Any] = {**credentials, **settings}
    # redis-py declares a property for its mixins that the cluster client sets as an attribute.
    client: RedisCluster = RedisCluster(startup_nodes=nodes, **options)  # pyright: ignore[reportAbstractUsage]
    return client


def _parts(url: str, rest: str) -> tuple[dict[str, str], str, str]:
    """Credentials, hosts and path of a URL with several hosts."""
    if "?" in rest:
        raise _refusal(url, "settings go into options of from_url, not behind a '?'")
    userinfo, _, location = rest.rpartition("@")
    hosts, _, path = location.partition("/")
    user, colon, password = userinfo.partition(":")
    credentials: dict[str, str] = {}
    if user:
        credentials["username"] = unquote(user)
    if colon:
        credentials["password"] = unquote(password)
    return credentials, hosts, path


def _addresses(url: str, hosts: str, default: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for each in hosts.split(","):
        address = _HOST.fullmatch(each)
        if address is None:
            raise _refusal(url, f"{each!r} is not host:port")
        found.append((address["host"].strip("[]"), _port(url, address["port"], default)))
    return found


def _port(url: str, text: str | None, default: int) -> int:
    port = default if text is None else int(text)
    if not 0 < port < 65536:
        raise _refusal(url, f"{port} is not a port")
    return port
