"""A store on Redis or Valkey: one Lua script per operation, one packed string per record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster

from jobguard.errors import InvalidType
from jobguard.stores.base import (
    Claim,
    ClaimReply,
    Record,
    Renewal,
    Settlement,
    SettleReply,
    Verdict,
)
from jobguard.stores.batching import Batcher, Client
from jobguard.stores.commands import load_script
from jobguard.stores.connecting import connect
from jobguard.stores.records import (
    call_token,
    identity,
    lifetime,
    milliseconds,
    raw,
    success_reply,
    text,
    unpack,
)
from jobguard.stores.redis_letters import RedisLetters
from jobguard.stores.replies import flag, reading, whole

_CLAIM = load_script("claim")
_RENEW = load_script("renew")
_SETTLE = load_script("settle")
_LOOK_UP = load_script("look_up")
_ANNOUNCE = load_script("announce")
_SERVED = load_script("served")
_FORGET = load_script("forget")

NAMES = 500
"""Names announced at once: no operation of a store is unbounded."""

_VERDICTS = {verdict.value.encode(): verdict for verdict in Verdict}
_RERUN = (b"1",)
_ACCEPTED = SettleReply(True)


class RedisStore:
    """Keeps records and dead letters on a Redis or Valkey server.

    Args:
        client: an asyncio client of redis-py: `Redis` (one of a Sentinel's master too), or
            `RedisCluster`. It stays the caller's to close. Responses decoded or not makes no difference.
    """

    def __init__(self, client: Client) -> None:
        if not isinstance(client, (Redis, RedisCluster)):
            raise InvalidType(
                f"client must be an asyncio client of redis-py (redis.asyncio), not {type(client)!r}; "
                "for a URL use RedisStore.from_url(url)"
            )
        self._client = client
        self._owned: list[Client] = []
        self._batcher = Batcher(client)
        self._letters = RedisLetters(self._batcher)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> RedisStore:
        """A store with a client of its own, closed by `aclose()`.

        Args:
            url: `redis://`, `rediss://` (TLS) or `unix://`, with `user:password@` where needed;
                `redis+sentinel://host:port,host:port/master/0`; `redis+cluster://host:port,host:port`.
                `rediss+sentinel://` and `rediss+cluster://` use TLS.
            options: further settings of the redis-py client, such as `ssl_ca_certs`.

        Raises:
            InvalidValue: the URL cannot be used; the message shows it without its password.
        """
        clients = connect(url, options)
        store = cls(clients[0])
        store._owned = clients
        return store

    @property
    def client(self) -> Client:
        """The client of redis-py that leads to the server."""
        return self._client

    def __repr__(self) -> str:
        return f"RedisStore({type(self._client).__name__})"

    @property
    def letters(self) -> RedisLetters:
        """The store's dead letters."""
        return self._letters

    async def claim(self, claim: Claim) -> ClaimReply:
        key = raw(claim.key)
        reply = await self._batcher.run(
            _CLAIM,
            1,
            key,
            milliseconds(claim.lease),
            lifetime(claim.lease + claim.keep),
            identity(claim.owner, claim.token, claim.fingerprint),
            *(_RERUN if claim.rerun else ()),
        )
        if isinstance(reply, int):
            return ClaimReply(Verdict.GRANTED, None, "", reply, 0.0, 0, 0.0, "", "", None)
        with reading:
            if isinstance(reply, bytes):
                return success_reply(reply)
            told, wait, elapsed, record, fence, crashes = reply
            verdict, before = _VERDICTS[told], unpack(record)
            granted, own = verdict is Verdict.GRANTED, before.owner == claim.owner
            return ClaimReply(
                verdict,
                before.state,
                before.owner,
                whole(fence),
                wait / 1000,
                whole(crashes),
                elapsed / 1000,
                before.history if own or not granted else "",
                before.fingerprint if own or not granted else "",
                None if granted else before.body,
            )

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        replies = await self._batcher.run_all(
            (_RENEW, 1, (raw(renewal.key), raw(renewal.token), milliseconds(renewal.lease)))
            for renewal in renewals
        )
        return [flag(reply) for reply in replies]

    async def settle(self, settlement: Settlement) -> SettleReply:
        key, state = raw(settlement.key), settlement.state
        tail = settlement.body if state.ended else settlement.history
        reply = await self._batcher.run(
            _SETTLE,
            1,
            key,
            identity(settlement.owner, settlement.token, settlement.fingerprint),
            b"%c%c" % (ord(state.value), b"-"[0] if tail is None else b"+"[0]),
            milliseconds(settlement.lasts),
            lifetime(settlement.lives),
            milliseconds(settlement.overdue),
            b"" if settlement.fence is None else b"%d" % settlement.fence,
            b"" if tail is None else raw(tail),
        )
        if reply == 1:
            return _ACCEPTED
        with reading:
            return SettleReply(False, text(reply[0]), whole(reply[1]))

    async def look_up(self, key: str) -> Record | None:
        reply = await self._batcher.run(_LOOK_UP, 1, raw(key))
        if reply is None:
            return None
        with reading:
            record, now = unpack(reply[0]), int(reply[1])
            return Record(
                key,
                record.state,
                record.owner,
                record.fence,
                max(record.until - now, 0) / 1000,
                record.crashes,
                record.elapsed(now),
                record.history,
                record.fingerprint,
                record.body,
            )

    async def forget(self, key: str) -> bool:
        return flag(await self._batcher.run(_FORGET, 1, raw(key), call_token()))

    async def announce(self, namespace: str, names: Sequence[str], lasts: float) -> None:
        for at in range(0, len(names), NAMES):
            told = map(raw, names[at : at + NAMES])
            await self._batcher.run(_ANNOUNCE, 1, _served_key(namespace), lifetime(lasts), *told)

    async def served(self, namespace: str, name: str) -> bool:
        return flag(await self._batcher.run(_SERVED, 1, _served_key(namespace), raw(name)))

    async def aclose(self) -> None:
        """Wait for what is under way, then close the client if `from_url` made it."""
        await self._batcher.drain()
        for client in self._owned:
            await client.aclose()


def _served_key(namespace: str) -> bytes:
    return raw(f"{namespace}:served")
