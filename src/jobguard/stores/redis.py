"""A store on Redis or Valkey: one Lua script per operation, one packed string per record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from math import ceil
from typing import Any

from redis.asyncio import Redis, RedisCluster

from jobguard.errors import InvalidType
from jobguard.stores.base import (
    Claim,
    ClaimReply,
    LetterPage,
    LetterQueue,
    Record,
    Renewal,
    Settlement,
    SettleReply,
    State,
    Verdict,
)
from jobguard.stores.batching import Batcher, Client, Script
from jobguard.stores.connecting import connect
from jobguard.stores.paging import page_size, page_start


def _load(*names: str) -> Script:
    """A script out of its files; the first may be a prelude."""
    folder = files("jobguard.stores").joinpath("lua")
    text = b"".join(folder.joinpath(f"{name}.lua").read_bytes() for name in names)
    return Script(text, sha1(text, usedforsecurity=False).hexdigest())


_CLAIM = _load("_record", "claim")
_RENEW = _load("_record", "renew")
_SETTLE = _load("_record", "settle")
_LOOK_UP = _load("_record", "look_up")
_PUT_LETTER = _load("put_letter")
_PAGE_LETTERS = _load("page_letters")
_REMOVE_LETTER = _load("remove_letter")

_VERDICTS = {verdict.value.encode(): verdict for verdict in Verdict}
_STATES = {state.value.encode(): state for state in State}


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

    def __repr__(self) -> str:
        return f"RedisStore({type(self._client).__name__})"

    async def claim(self, claim: Claim) -> ClaimReply:
        key = _raw(claim.key)
        reply = await self._batcher.run(
            _CLAIM,
            (key,),
            (_ms(claim.lease), _ms(claim.keep), _identity(claim), 1 if claim.rerun else 0),
            order=key,
        )
        if isinstance(reply, int):
            return ClaimReply(Verdict.GRANTED, None, "", reply, 0.0, 0, 0.0, "", "", None)
        verdict, state, owner, fence, wait, crashes, elapsed, history, fingerprint, body = reply
        return ClaimReply(
            _VERDICTS[verdict],
            _STATES[state],
            _text(owner),
            fence,
            wait / 1000,
            crashes,
            elapsed / 1000,
            _text(history),
            _text(fingerprint),
            None if body is None else _text(body),
        )

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        replies = self._batcher.run_all(
            _RENEW,
            [(_raw(renewal.key), (_raw(renewal.token), _ms(renewal.lease))) for renewal in renewals],
        )
        renewed = await asyncio.gather(*replies, return_exceptions=True)
        for each in renewed:
            if isinstance(each, BaseException):
                raise each
        return [each == 1 for each in renewed]

    async def settle(self, settlement: Settlement) -> SettleReply:
        key = _raw(settlement.key)
        state = settlement.state
        tail = settlement.body if state.ended else settlement.history
        reply = await self._batcher.run(
            _SETTLE,
            (key,),
            (
                _raw(settlement.owner),
                _raw(settlement.token),
                "" if settlement.fence is None else settlement.fence,
                state.value,
                _ms(settlement.lasts),
                _ms(settlement.keep),
                _ms(settlement.overdue),
                _raw(settlement.fingerprint),
                "" if tail is None else _raw(tail),
                0 if tail is None else 1,
            ),
            order=key,
        )
        return SettleReply(True) if reply == 1 else SettleReply(False, _text(reply[0]), reply[1])

    async def look_up(self, key: str) -> Record | None:
        raw = _raw(key)
        reply = await self._batcher.run(_LOOK_UP, (raw,), (), order=raw)
        if reply is None:
            return None
        _, state, owner, fence, wait, crashes, elapsed, history, fingerprint, body = reply
        return Record(
            key,
            _STATES[state],
            _text(owner),
            fence,
            wait / 1000,
            crashes,
            elapsed / 1000,
            _text(history),
            _text(fingerprint),
            None if body is None else _text(body),
        )

    async def forget(self, key: str) -> bool:
        raw = _raw(key)
        return bool(await self._batcher.call("DEL", raw, order=raw))

    async def put_letter(self, queue: LetterQueue, id: str, text: str) -> bool:
        # The index first: a queue that nobody can find would hide its letters.
        indexed = self._batcher.call("SADD", _index(queue.namespace), _raw(queue.name), order=None)
        if self._batcher.clustered:
            await indexed
        keys = _letter_keys(queue)
        raw = _raw(id)
        put = self._batcher.run(_PUT_LETTER, keys, (raw, _raw(text)), order=keys[0] + raw)
        return int(await _both(indexed, put)) == 1

    async def get_letter(self, queue: LetterQueue, id: str) -> str | None:
        entries, _ = _letter_keys(queue)
        raw = _raw(id)
        text = await self._batcher.call("HGET", entries, raw, order=entries + raw)
        return None if text is None else _text(text)

    async def page_letters(self, queue: LetterQueue, limit: int, cursor: str | None) -> LetterPage:
        size, start = page_size(limit), page_start(cursor)
        last, *texts = await self._batcher.run(
            _PAGE_LETTERS, _letter_keys(queue), (size, "" if start is None else start), order=None
        )
        return LetterPage(tuple(map(_text, texts)), _text(last) or None)

    async def count_letters(self, queue: LetterQueue) -> int:
        return int(await self._batcher.call("HLEN", _letter_keys(queue)[0], order=None))

    async def remove_letter(self, queue: LetterQueue, id: str) -> bool:
        keys = _letter_keys(queue)
        raw = _raw(id)
        return bool(await self._batcher.run(_REMOVE_LETTER, keys, (raw,), order=keys[0] + raw))

    async def letter_queues(self, namespace: str) -> list[str]:
        return sorted(map(_text, await self._batcher.call("SMEMBERS", _index(namespace), order=None)))

    async def aclose(self) -> None:
        """Wait for what is under way, then close the client if `from_url` made it."""
        await self._batcher.drain()
        for client in self._owned:
            await client.aclose()


def _raw(text: str) -> bytes:
    # Texts come from jobs: a lone surrogate must not stop one from being recorded.
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _ms(seconds: float) -> int:
    return ceil(seconds * 1000)


def _identity(claim: Claim) -> bytes:
    """Owner, token and fingerprint, as a record holds them."""
    owner, token, fingerprint = _raw(claim.owner), _raw(claim.token), _raw(claim.fingerprint)
    return b"%d %d %d\n%b%b%b" % (len(owner), len(token), len(fingerprint), owner, token, fingerprint)


def _index(namespace: str) -> bytes:
    return _raw(f"{namespace}:dlq")


def _letter_keys(queue: LetterQueue) -> tuple[bytes, bytes]:
    """Entries and order of a queue; the braces keep both in one slot of a Cluster."""
    tag = f"{{{queue.namespace}:dlq:{queue.name}}}"
    return _raw(f"{tag}:entries"), _raw(f"{tag}:by_time")


async def _both(first: asyncio.Future[Any], second: asyncio.Future[Any]) -> Any:
    """The second one's reply, once both have one; no error of either goes unseen."""
    replies = await asyncio.gather(first, second, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies[1]
