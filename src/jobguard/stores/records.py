"""Records as `lua/_record.lua` writes them, and the parts of them that calls send."""

from __future__ import annotations

from binascii import b2a_base64
from functools import lru_cache
from math import ceil
from os import urandom
from typing import NamedTuple

from jobguard.stores.base import ClaimReply, State, Verdict

_STATES = {ord(state.value): state for state in State}
_TAIL = ord("+")


class Packed(NamedTuple):
    """A record taken apart. `until` is in milliseconds on the server's clock, `fence` as in a claim."""

    state: State
    owner: str
    fingerprint: str
    tail: str | None
    fence: int
    until: int
    crashes: int
    age: int

    @property
    def history(self) -> str:
        """The text that the last settlement of an open record left."""
        return "" if self.state.ended or self.tail is None else self.tail

    @property
    def body(self) -> str | None:
        """What an ended record keeps: a result, a dead letter's text."""
        return self.tail if self.state.ended else None

    def elapsed(self, now: int) -> float:
        """Seconds since the first claim, at a server time in milliseconds."""
        return max(now - self.fence // 1000 + self.age, 0) / 1000


def unpack(record: bytes) -> Packed:
    head, _, texts = record.partition(b"\n")
    mark, until, _, crashes, fence, age, *sizes = head.split(b" ")
    owner, fingerprint, tail = _texts(texts, *map(int, sizes))
    return Packed(
        _STATES[mark[0]],
        owner,
        fingerprint,
        tail if mark[1] == _TAIL else None,
        int(fence),
        int(until),
        int(crashes),
        int(age),
    )


def success_reply(record: bytes) -> ClaimReply:
    """The answer that a claim gets from a success, of which it needs less: most duplicates get it."""
    head, _, texts = record.partition(b"\n")
    mark, _, _, _, fence, _, *sizes = head.split(b" ")
    owner, fingerprint, tail = _texts(texts, *map(int, sizes))
    body = tail if mark[1] == _TAIL else None
    return ClaimReply(Verdict.SUCCEEDED, State.SUCCESS, owner, int(fence), 0.0, 0, 0.0, "", fingerprint, body)


def _texts(packed: bytes, owner: int, token: int, fingerprint: int) -> tuple[str, str, str]:
    """Owner, fingerprint and tail. Lengths are in bytes, which only ASCII has as many of as characters."""
    print_at = owner + token
    tail_at = print_at + fingerprint
    if packed.isascii():
        texts = packed.decode()
        return texts[:owner], texts[print_at:tail_at], texts[tail_at:]
    return text(packed[:owner]), text(packed[print_at:tail_at]), text(packed[tail_at:])


def identity(owner: str, token: str, fingerprint: str) -> bytes:
    """Who claims or settles, as a record holds it."""
    texts = f"{owner}{token}{fingerprint}"
    if texts.isascii():
        return f"{len(owner)} {len(token)} {len(fingerprint)}\n{texts}".encode()
    a, b, c = raw(owner), raw(token), raw(fingerprint)
    return b"%d %d %d\n%b%b%b" % (len(a), len(b), len(c), a, b, c)


def raw(text: str) -> bytes:
    # Texts come from jobs: a lone surrogate must not stop one from being recorded.
    return text.encode("utf-8", "surrogatepass")


def text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # nothing of ours: it is to be shown all the same
        return raw.decode("utf-8", "replace")


def call_token() -> bytes:
    """A random id of one call, by which it is known when it is sent again."""
    return b2a_base64(urandom(9), newline=False)


@lru_cache(maxsize=256)
def milliseconds(seconds: float) -> bytes:
    """A duration as scripts take it."""
    return b"%d" % ceil(seconds * 1000)


@lru_cache(maxsize=256)
def lifetime(seconds: float) -> bytes:
    """A time to live: what Redis calls at once is none."""
    return b"%d" % max(ceil(seconds * 1000), 1)
