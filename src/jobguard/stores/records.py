"""Records as `lua/_record.lua` writes them, and the parts of them that calls send."""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import NamedTuple

from jobguard.stores.base import State

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
    head, sizes, rest = record.split(b"\n", 2)
    mark, until, _, crashes, fence, age = head.split(b" ")
    owner, token, fingerprint = sizes.split(b" ")
    token_at = int(owner)
    print_at = token_at + int(token)
    tail_at = print_at + int(fingerprint)
    texts = rest.decode() if rest.isascii() else None  # else lengths in bytes are not those of the text
    return Packed(
        _STATES[mark[0]],
        text(rest[:token_at]) if texts is None else texts[:token_at],
        text(rest[print_at:tail_at]) if texts is None else texts[print_at:tail_at],
        None if mark[1] != _TAIL else text(rest[tail_at:]) if texts is None else texts[tail_at:],
        int(fence),
        int(until),
        int(crashes),
        int(age),
    )


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
    return raw.decode("utf-8", "surrogatepass")


@lru_cache(maxsize=256)
def milliseconds(seconds: float) -> bytes:
    """A duration as scripts take it."""
    return b"%d" % ceil(seconds * 1000)


@lru_cache(maxsize=256)
def lifetime(seconds: float) -> bytes:
    """A time to live: what Redis calls at once is none."""
    return b"%d" % max(ceil(seconds * 1000), 1)
