"""Whether a payload is one that can be begun: what ARQ stumbles over ends jobs, even workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from arq.utils import args_to_string

LATEST = 2**47
"""Unix milliseconds after which nothing is enqueued (the year 6429); ARQ makes a date of them."""
MOST_TRIES = 2**30
"""More than anybody means by `_job_try`, and far from where ARQ would end a job as tried too often."""

VERSION = 1
"""Of the payloads that jobguard itself writes: in Python, and in `_stand_in.lua`."""


class UnknownVersion(ValueError):
    """Another release of jobguard has written a payload, in a form that this one might misread."""


def check_version(version: object) -> None:
    """Raise `UnknownVersion` if it is not ours."""
    if version != VERSION:
        raise UnknownVersion(f"it is of version {version!r}")


def check_job(job: Mapping[str, Any]) -> None:
    """Raise if a job is not one: ARQ reads its parts before it calls the function, outside of any protection.

    Raises:
        ValueError: a part is not what ARQ takes it for. Or whatever the `repr` of an argument raises, which
            ARQ asks for to write a line of its log.
    """
    args: Any = job["a"]
    kwargs: Any = job["k"]
    if not isinstance(job["f"], str):
        raise ValueError("f is no text")
    if not issubclass(type(args), (list, tuple)):
        raise ValueError("a is no sequence")
    if not issubclass(type(kwargs), dict) or not all(
        type(key) is str for key in cast("dict[Any, Any]", kwargs)
    ):
        raise ValueError("k is no object with names")
    _check_number("t", job["t"] or 0, MOST_TRIES)
    _check_number("et", job["et"], LATEST)
    args_to_string(cast("tuple[Any, ...]", args), cast("dict[str, Any]", kwargs))


def _check_number(part: str, value: object, limit: int) -> None:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{part} is no number from 0 to {limit}")
