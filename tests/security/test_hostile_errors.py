"""Exceptions whose texts, classes and attributes are meant to break whoever writes them down."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobguard import JobGuard, dead_letter, fallback, retrying
from jobguard.letters import MESSAGE_LIMIT, NAME_LIMIT, TRACEBACK_LIMIT, from_text, to_text
from jobguard.stores import MemoryStore
from jobguard.testing import no_wait

pytestmark = pytest.mark.anyio

ODD = "\x00\x1b]0;title\x07\u202e\ud800[red]\n\r\u2028"


class Sly(str):
    """A text whose methods fail."""

    __slots__ = ()

    def replace(self, *_: Any, **__: Any) -> str:
        raise RuntimeError("replace")

    def __len__(self) -> int:
        raise RuntimeError("len")


class Raising(Exception):
    def __str__(self) -> str:
        raise RuntimeError("str")

    def __repr__(self) -> str:
        raise RuntimeError("repr")


class Recursive(Exception):
    def __str__(self) -> str:
        return str(self)

    __repr__ = __str__


class NoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]

    __repr__ = __str__


class Subclassed(Exception):
    def __str__(self) -> str:
        return Sly("sly")

    __repr__ = __str__


class Noted(Exception):
    """Its notes cannot be read."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise RuntimeError("notes")


def nameless() -> Exception:
    kind: Any = type("Nameless", (Exception,), {"__module__": Raising()})
    return kind("x")  # type: ignore[no-any-return]


def endless_name() -> Exception:
    kind: Any = type("N" * 100_000, (Exception,), {"__module__": "m" * 100_000})
    return kind("x")  # type: ignore[no-any-return]


def odd_name() -> Exception:
    kind: Any = type("Odd", (Exception,), {"__module__": ODD})
    return kind(ODD)  # type: ignore[no-any-return]


def long_chain() -> Exception:
    error = ValueError("0")
    for number in range(3_000):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    return error


def ring() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def deep_group() -> Exception:
    error: Exception = ValueError("core")
    for _ in range(300):
        error = ExceptionGroup("group", [error, ValueError("beside")])
    return error


def odd_notes() -> Exception:
    error = ValueError("x")
    error.__notes__ = [5, Raising(), ODD]  # type: ignore[list-item]
    return error


ERRORS: dict[str, Callable[[], Exception]] = {
    "str raises": Raising,
    "str calls itself": Recursive,
    "str is no text": NoText,
    "str is a subclass": Subclassed,
    "notes raise": Noted,
    "module is no text": nameless,
    "names without end": endless_name,
    "odd names": odd_name,
    "odd characters": lambda: ValueError(ODD),
    "a message of 10 MB": lambda: ValueError("m" * 10_000_000),
    "a long chain": long_chain,
    "a ring": ring,
    "a deep group": deep_group,
    "odd notes": odd_notes,
    "a syntax error of odd parts": lambda: SyntaxError("x", ("file", 1, 5, 12345)),  # type: ignore[arg-type]
    "an attribute error about what cannot be shown": lambda: AttributeError("x", name="y", obj=Raising()),
    "arguments that raise": lambda: KeyError(Raising()),
    "unicode error": lambda: UnicodeDecodeError("utf-8", b"\xff" * 100_000, 0, 1, ODD),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
async def test_whatever_an_error_is_its_job_leaves_a_letter(error: Callable[[], Exception]) -> None:
    """The letter is kept, bounded, and comes back from JSON; retries before it know the error too."""
    guard = JobGuard(MemoryStore())
    raised = error()

    @fallback("answered")
    @retrying(attempts=2, backoff=0)
    @dead_letter
    async def task(number: int) -> str:
        raise raised

    with no_wait():
        async with guard:
            assert await task(1) == "answered"
    [letter] = (await guard.dead_letters().list()).entries
    assert len(letter.attempts) == 2
    assert len(letter.error_message) <= MESSAGE_LIMIT
    assert len(letter.traceback) <= TRACEBACK_LIMIT
    assert len(letter.error_type) <= NAME_LIMIT
    assert len(letter.causes) <= 20
    assert from_text(to_text(letter)) == letter


@given(st.text(st.characters()))
async def test_any_text_of_an_error_is_kept(text: str) -> None:
    """Whatever characters it has."""
    guard = JobGuard(MemoryStore())

    @fallback(None)
    @dead_letter
    async def task() -> None:
        raise ValueError(text)

    async with guard:
        await task()
    [letter] = (await guard.dead_letters().list()).entries
    assert letter.error_message == text
    assert json.loads(to_text(letter))["error_message"] == text
