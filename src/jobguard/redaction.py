"""What people may see of a job's arguments: redacted, cut to size, and safe to print."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import takewhile
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote, quote_plus
from uuid import UUID

from jobguard.canonical import is_model

REDACTED: Final = "[redacted]"
ANY: Final = "*"
"""The step of a redacted path that leads into every part."""

_DEPTH = 32
_SHORTEST = 3  # masking shorter texts would shred what is left
_SHORTEST_LINE = 8
_MOST_TEXTS = 2_000
_MOST_PARTS = 100_000  # a list that has another one twice, and so on, has more than can be looked at
_SPEAKING = (date, datetime, time, timedelta, Decimal, UUID, PurePath)  # `str` says all there is to say
_POSITION = re.compile("0|[1-9][0-9]*")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset)
_DICT: Any = dict

_Paths = frozenset[tuple[str, ...]]


def clip(text: str, limit: int) -> str:
    """At most `limit` characters: beginning and end, and between them how many were cut."""
    if len(text) <= limit:
        return text
    room = max(limit - len(f"…[{len(text)} characters cut]…"), 0)
    tail = room // 2
    marked = f"{text[: room - tail]}…[{len(text) - room} characters cut]…{text[len(text) - tail :]}"
    return marked[: max(limit, 0)]


def printable(text: str) -> str:
    r"""Text that cannot steer a terminal or forge a line of a log.

    Control characters, line separators, bidirectional controls and lone surrogates become `\n`,
    `\r`, `\t` or `\u....`.
    """
    return _UNPRINTABLE.sub(lambda match: _SHORT.get(match[0], f"\\u{ord(match[0]):04x}"), text)


_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def preview(
    args: Sequence[object],
    kwargs: Mapping[str, object],
    parameter_names: Sequence[str],
    redact: Iterable[str],
    *,
    limit: int = 4096,
) -> str:
    """A call's arguments as JSON for people: an object from parameter name to value.

    Never fails for what the arguments are: what JSON lacks is shown as text, an unknown object by
    its type and the beginning of its `repr`.

    Args:
        args, kwargs: the call's arguments.
        parameter_names: of the positional ones, in order; a `"*name"` takes the rest.
        redact: parameter names or dotted paths (`"customer.phone"`) to show as `"[redacted]"`. A
            path reaches through lists, or names a position in one (`"cards.0.pin"`); `*` is any part
            (`"cards.*.pin"`). Where it leads into something without parts, that is redacted whole.
            Texts found there are masked in the other arguments too.
        limit: most characters of the result; what is left out is said where it is missing.
    """
    redact = tuple(redact)
    named = by_name(args, kwargs, parameter_names)
    shower = _Preview(redactor(args, kwargs, parameter_names, redact), limit)
    tree = shower.show(named, _paths(redact), 0)
    return clip(printable(json.dumps(tree, ensure_ascii=False)), limit)


def redactor(
    args: Sequence[object],
    kwargs: Mapping[str, object],
    parameter_names: Sequence[str],
    redact: Iterable[str],
) -> Callable[[str], str]:
    """A function that masks every occurrence of the redacted values in other texts.

    Looks for text and for numbers and other values as text, also as `repr`, JSON and URLs write
    them; texts shorter than three characters, booleans and None are left alone.
    """
    paths = _paths(redact)
    found: set[str] = set()
    search = _Search()
    try:
        for value in search.redacted(by_name(args, kwargs, parameter_names), paths, 0):
            for text in search.texts(value, 0):
                found.update(_spellings(text))
                if len(found) > _MOST_TEXTS:
                    raise _TooMany
    except _TooMany:  # to look for: nothing is shown
        return lambda text: REDACTED
    masked = sorted((text for text in found if len(text) >= _SHORTEST), key=len, reverse=True)

    def mask(text: str) -> str:
        for secret in masked:
            text = text.replace(secret, "\0")  # not the final words, or a later secret could hit those
        return text.replace("\0", REDACTED) if masked else text

    return mask


def names_of(args: Sequence[object], parameter_names: Sequence[str]) -> list[str]:
    """The names of positional arguments, up to those that a `"*name"` takes or that have none."""
    return [*takewhile(lambda name: not name.startswith("*"), parameter_names)][: len(args)]


def by_name(
    args: Sequence[object], kwargs: Mapping[str, object], parameter_names: Sequence[str]
) -> dict[str, object]:
    """A call's arguments by name; further positional ones as a list under that of `"*name"`, or `"*"`."""
    names = names_of(args, parameter_names)
    named: dict[str, object] = dict(zip(names, args, strict=False))
    if len(names) < len(args):
        rest = parameter_names[len(names)].lstrip("*") if len(names) < len(parameter_names) else "*"
        named[rest] = list(args[len(names) :])
    return named | dict(kwargs)


def is_position(step: str) -> bool:
    """Whether a step of a path may be a position in a list: digits, in their only spelling."""
    return _POSITION.fullmatch(step) is not None


def is_redacted(path: str, redact: Iterable[str]) -> bool:
    """Whether a path with all its positions leads to, into, or around something that is redacted."""
    left = _paths(redact)
    for step in path.split("."):
        if () in left:
            break
        left = _in_item(left, step) if is_position(step) else _below(left, step)
    return bool(left)


# --- finding what is to be redacted ----------------------------------------------------------


def _paths(redact: Iterable[str]) -> _Paths:
    return frozenset(tuple(path.split(".")) for path in redact)


def _below(paths: _Paths, name: str) -> _Paths:
    """What is left of those paths that go through `name`; `()` among it: redact all of it."""
    return frozenset(path[1:] for path in paths if path[:1] in ((name,), (ANY,))) if paths else paths


def _in_item(paths: _Paths, position: str) -> _Paths:
    """What paths say of an item of a list: they need not name its position."""
    return paths | _below(paths, position) if paths else paths


def _parts(value: object) -> dict[str, object] | None:
    """The named parts of a dict, dataclass, named tuple or pydantic model; None for all else.

    Subclasses are looked into as what they derive from: methods and attributes of their own are the user's
    code, which may fail.
    """
    kind: Any = type(value)
    known: Any = value
    if isinstance(value, dict):
        parts: Iterable[tuple[object, object]] = _DICT.items(value)
        return {key if type(key) is str else _described(key): item for key, item in parts}
    try:
        if dataclasses.is_dataclass(kind):
            names = [field.name for field in dataclasses.fields(kind)]
            return {name: getattr(value, name) for name in names if hasattr(value, name)}
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return dict(zip(kind._fields, _items(known) or (), strict=False))
        if is_model(kind):
            return vars(value) | (known.__pydantic_extra__ or {})
    except Exception:
        pass
    return None


def _items(value: object) -> list[object] | None:
    for kind in _CONTAINERS:
        if isinstance(value, kind):
            return list(kind.__iter__(value))
    return None


def _attribute(value: object, name: str) -> object:
    try:
        return getattr(value, name, None)
    except Exception:  # a property is the user's code
        return None


class _TooMany(Exception):
    """There is more to mask than can be looked for."""


class _Search:
    """Finds the texts at the ends of paths. Raises `_TooMany`."""

    def __init__(self) -> None:
        self.left = _MOST_PARTS

    def redacted(self, value: object, paths: _Paths, depth: int) -> Iterator[object]:
        """The values at the end of each path."""
        self.look()
        if () in paths:
            yield value
        elif paths and depth < _DEPTH:
            parts = _parts(value)
            items = _items(value)
            if parts is not None:
                for name, part in parts.items():
                    yield from self.redacted(part, _below(paths, name), depth + 1)
            elif items is not None:
                for position, item in enumerate(items):
                    yield from self.redacted(item, _in_item(paths, str(position)), depth + 1)
            else:
                yield value
                for path in paths:
                    yield from self.redacted(_attribute(value, path[0]), frozenset([path[1:]]), depth + 1)

    def texts(self, value: object, depth: int) -> Iterator[str]:
        """All texts in a value, and numbers and other leaves as text."""
        self.look()
        if value is None or isinstance(value, bool) or depth > _DEPTH:
            return
        if isinstance(value, str):
            yield str.__str__(value)  # a subclass may have methods of its own
            return
        parts = _parts(value)
        inside = _items(value) if parts is None else parts.values()
        if inside is not None:
            for item in inside:
                yield from self.texts(item, depth + 1)
            return
        if isinstance(value, (bytes, bytearray)):
            yield bytes(value).decode("utf-8", "replace")
            yield repr(bytes(value))[2:-1]
            return
        for write in (str, repr):
            try:
                yield str.__str__(write(value))
            except Exception:  # the user's code
                continue

    def look(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _TooMany


def _spellings(text: str) -> Iterator[str]:
    """A text as messages may hold it."""
    yield text
    yield repr(text)[1:-1]
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield quote(text, errors="replace")
    yield quote(text, safe="", errors="replace")
    yield quote_plus(text, errors="replace")
    yield from (line for line in map(str.strip, text.splitlines()) if len(line) >= _SHORTEST_LINE)


# --- showing ---------------------------------------------------------------------------------


class _Preview:
    """Turns values into what `json.dumps` takes, until about `limit` characters are spent."""

    def __init__(self, mask: Callable[[str], str], limit: int) -> None:
        self.mask = mask
        self.most = max(limit // 4, 32)
        self.left = limit

    def show(self, value: object, paths: _Paths, depth: int) -> object:
        if () in paths:
            return self.spend(REDACTED)
        parts = _parts(value)
        items = _items(value)
        if parts is not None or items is not None:
            if depth > _DEPTH:
                return self.spend(f"[{type(value).__qualname__} nested too deep]")
            self.left -= 4
        if parts is not None:
            return self.show_parts(parts, paths, depth)
        if items is not None:
            return self.show_items(items, paths, depth)
        if paths and value is not None:
            return self.spend(REDACTED)
        if value is None or type(value) is bool or (type(value) is int and abs(value) < 2**63):
            self.left -= 8
            return value
        if type(value) is float and math.isfinite(value):
            self.left -= 8
            return value
        return self.spend(self.mask(value if type(value) is str else _described(value)))

    def show_parts(self, parts: dict[str, object], paths: _Paths, depth: int) -> object:
        shown: dict[str, object] = {}
        for name, part in parts.items():
            if self.left <= 0:
                shown["…"] = f"[{len(parts) - len(shown)} more]"
                break
            shown[self.spend(self.mask(name))] = self.show(part, _below(paths, name), depth + 1)
        return shown

    def show_items(self, items: list[object], paths: _Paths, depth: int) -> object:
        shown: list[object] = []
        for position, item in enumerate(items):
            if self.left <= 0:
                shown.append(f"[{len(items) - len(shown)} more]")
                break
            shown.append(self.show(item, _in_item(paths, str(position)), depth + 1))
        return shown

    def spend(self, text: str) -> str:
        text = clip(text, min(self.most, max(self.left, 32)))
        self.left -= len(text) + 4
        return text


def _described(value: object) -> str:
    """A leaf that JSON lacks: by `str` where that says all, else by type and `repr`."""
    kind = type(value)
    try:
        if isinstance(value, _SPEAKING):
            return str.__str__(str(value))
        if isinstance(value, str):
            return str.__repr__(value)
        if isinstance(value, float):
            return float.__repr__(value)
        return f"{kind.__qualname__}: {clip(repr(value), 200)}"
    except Exception as error:  # the user's code
        return f"{kind.__qualname__}: its repr raised {type(error).__name__}"
