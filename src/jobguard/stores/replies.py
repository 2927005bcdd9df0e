"""Replies that are none: of a wrong server, or of a key that somebody else has written to."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from jobguard.errors import JobGuardError, StoreError
from jobguard.redaction import REDACTED, clip, printable

SHOWN = 200
"""Characters of a reply that an error shows."""
SAID = 1_000
"""Characters of an error of the server's that are shown."""


class _Reading:
    """A block that takes a reply apart: what cannot be taken apart is an error of the store.

    A class, as `contextlib.contextmanager` costs more than what most of these blocks do.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, (TypeError, ValueError, LookupError, AttributeError, OverflowError)):
            if isinstance(error, JobGuardError):
                return
            raise StoreError(f"the store's reply cannot be read: {clip(repr(error), SHOWN)}") from error


reading: _Reading = _Reading()


def flag(reply: object) -> bool:
    """Whether a reply says yes.

    Raises:
        StoreError: it says neither yes nor no.
    """
    if reply == 1:
        return True
    if reply == 0:
        return False
    raise StoreError(f"the store's reply cannot be read: it is no 0 and no 1, but {clip(repr(reply), SHOWN)}")


def whole(reply: object) -> int:
    """A reply that is a number. Raises `TypeError`, as it belongs into a block of `reading`."""
    if type(reply) is not int:
        raise TypeError(f"no number, but {type(reply).__name__}")
    return reply


def without(said: str, secrets: Iterable[str]) -> str:
    """What a server has said, on one line, cut to size, without what it may repeat of a client's login."""
    for secret in secrets:
        said = said.replace(secret, REDACTED)
    return clip(printable(said), SAID)
