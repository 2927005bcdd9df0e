"""Values as tagged JSON, and back with their exact types.

Builtin value types always travel: None, bool, int, float, complex, str, bytes, bytearray, list, tuple,
dict, set, frozenset, datetime, date, time, timedelta, Decimal, UUID, Path. What JSON knows is written
plainly; the rest is an object with one key, its tag: `{"$tuple":[1,2]}`.

Dataclasses, named tuples, pydantic models and enums travel where an annotation names their class, or
a codec was registered for it. The text holds a class's name only to check it against the annotation:
no class is ever looked up by what a text says. A dataclass is restored field by field, as copying
does, without running its `__init__`; a pydantic model is validated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from json import JSONDecoder, JSONEncoder
from typing import Any, Final, NamedTuple, TypeVar

from jobguard.canonical import MAX_DEPTH, TooLarge, Unencodable, class_name
from jobguard.errors import EncodingTooLarge, InvalidType, InvalidValue, NotEncodable
from jobguard.hints import EntryHints, Hints, classes, hints_of, item_hints, resolve_return_annotation
from jobguard.objects import Tree, read_object, write_object
from jobguard.redaction import clip, preview, printable, redactor
from jobguard.scalars import SCALARS, SURROGATE

__all__ = ["Codec", "clip", "preview", "printable", "redactor", "resolve_return_annotation"]

LARGEST: Final = 256 * 1024
"""Characters that values are written up to; nobody keeps a text that is larger."""

_ENTRY: Final = 4
_TAG: Final = 6
"""Characters that an entry of an object has beside what it holds, and a tag, at the least."""

_T = TypeVar("_T")


class _Room:
    """How much may still be written; what is taken for a value is never more than it will have.

    Counted on the way, since a list that has another one twice, which has a third one twice, and so on, has
    no end in sight.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = LARGEST

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooLarge(f"is too large: with it, more than {LARGEST} characters would be written")


class _Registration(NamedTuple):
    kind: type
    name: str
    write: Callable[[Any], object]
    read: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Codec:
    """Writes values as tagged JSON and reads them back. Immutable: `register` returns a new one."""

    registered: tuple[_Registration, ...] = ()

    def register(
        self, kind: type[_T], name: str, encode: Callable[[_T], object], decode: Callable[[Any], _T]
    ) -> Codec:
        """A codec that also knows `kind`, wherever it appears, annotated or not.

        Args:
            kind: the class; its subclasses are not meant.
            name: what stands for it in the text; keep it, and stored values survive renames.
            encode: from an instance to builtin value types.
            decode: back again. Treat its argument as input from outside.

        Raises:
            InvalidType: `kind` is no class, `name` no text, or a function is not callable.
            InvalidValue: `kind` is a builtin value type, or `kind` or `name` is taken.
        """
        _check_types(kind, name, encode, decode)
        if not name:
            raise InvalidValue("name must not be '': it stands for the class in the stored text")
        if kind in _BUILTIN:
            raise InvalidValue(f"kind {kind!r} is a builtin value type, which needs no codec; leave it out")
        for other in self.registered:
            if other.kind is kind or other.name == name:
                raise InvalidValue(
                    f"kind {kind!r} as {name!r} is taken: {other.kind!r} is registered as {other.name!r}; "
                    "register each class once, under a name of its own"
                )
        return Codec((*self.registered, _Registration(kind, name, encode, decode)))

    def encode(self, value: object, annotation: object = Any) -> str:
        """Tagged JSON of a value.

        Args:
            value: what to write.
            annotation: a type, as in a signature, that says which classes may occur and where.

        Raises:
            EncodingTooLarge: the text would be larger than any that is kept, by far.
            NotEncodable: something in the value has no form; the message says where.
        """
        try:
            plain = _is_plain(value, _Room())
            text = _to_json(value if plain else self._write(value, hints_of(annotation), 0, _Room()))
            if not text.isascii() and SURROGATE.search(text):
                raise Unencodable("has a name in it that is no valid Unicode")
            return text
        except Unencodable as error:
            kind = EncodingTooLarge if isinstance(error, TooLarge) else NotEncodable
            raise kind(f"value{error.way} {error.reason}") from error.__cause__
        except Exception as error:  # reading an object's fields may run the user's code
            reason = f"{type(error).__name__} while it was read"
            raise NotEncodable(
                f"value of type {class_name(type(value))} cannot be written: {reason}"
            ) from error

    def decode(self, text: str, annotation: object = Any) -> object:
        """The value that `encode` wrote, given the same annotation.

        Safe on any text: it builds builtin values and instances of classes that the annotation or a
        registration names, and nothing else.

        Raises:
            NotEncodable: the text is not from `encode`, or names a class that the annotation does not.
        """
        try:
            tree, end = _scan(text)
            if end != len(text):
                raise ValueError(f"{len(text) - end} characters too many")
            return tree if _tells_all(text) else self._read(tree, hints_of(annotation), 0)
        except Exception as error:  # whatever foreign text breaks, it is one error to the caller
            reason = clip(printable(f"{type(error).__name__}: {error}"), 300)
            raise NotEncodable(f"text cannot be read back as a value: {reason}") from error

    def _write(self, value: object, hints: Hints, depth: int, room: _Room) -> Tree:
        kind = type(value)
        known: Any = value
        room.take(len(known) if kind is str else 1)
        if _is_json(kind, value):
            return value
        if depth >= MAX_DEPTH:
            raise Unencodable(f"is nested more than {MAX_DEPTH} deep, or contains itself")
        if kind in _SEQUENCES:
            room.take(len(known) if kind is list else len(known) + _TAG)
            items = self._write_items(known, item_hints(kind, hints, len(known)), depth, room)
            return items if kind is list else {_SEQUENCES[kind]: items}
        if kind is dict:
            room.take(_ENTRY * len(known))
            return self._write_dict(known, EntryHints(hints), depth, room)
        room.take(_TAG)
        scalar = SCALARS.get(kind)
        if scalar is not None:
            body = scalar.write(value)
            room.take(len(body) if isinstance(body, str) else 1)
            return {scalar.tag: body}
        for registration in self.registered:
            if registration.kind is kind:
                inner = _apply(registration, value)
                return {"$as": [registration.name, self._write(inner, (), depth + 1, room)]}
        _check_annotated(kind, hints)
        tree = write_object(
            kind, value, lambda inner, inner_hints: self._write(inner, inner_hints, depth + 1, room)
        )
        return {"$of": [kind.__qualname__, tree]}

    def _write_items(
        self, values: Iterable[object], hints: list[Hints], depth: int, room: _Room
    ) -> list[Tree]:
        items: list[Tree] = []
        try:
            for value in values:
                items.append(self._write(value, hints[len(items)], depth + 1, room))
        except Unencodable as error:
            error.inside(f"[{len(items)}]")
            raise
        return items

    def _write_dict(self, value: dict[object, object], hints: EntryHints, depth: int, room: _Room) -> Tree:
        """An object where all keys are ordinary text; else a list of pairs."""
        plain = all(type(key) is str and key[:1] != "$" and not SURROGATE.search(key) for key in value)
        pairs: list[tuple[Tree, Tree]] = []
        step = ""
        try:
            for key, item in value.items():
                step = "[…] (a key)"
                written = key if plain else self._write(key, hints.keys, depth + 1, room)
                step = f"[{clip(repr(key), 60)}]" if type(key) is str else "[…]"
                pairs.append((written, self._write(item, hints.value(key), depth + 1, room)))
        except Unencodable as error:
            error.inside(step)
            raise
        return dict(pairs) if plain else {"$dict": pairs}

    def _read(self, tree: object, hints: Hints, depth: int) -> object:
        kind = type(tree)
        if kind is not list and kind is not dict:
            return tree
        known: Any = tree
        if depth >= MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        if kind is list:
            return self._read_items(list, known, hints, depth)
        if not any(key[:1] == "$" for key in known):
            entries = EntryHints(hints)
            return {key: self._read(item, entries.value(key), depth + 1) for key, item in known.items()}
        [(tag, body)] = known.items()
        if tag in _BY_TAG:
            return _BY_TAG[tag].read(body)
        if tag in _SEQUENCES_BY_TAG:
            container = _SEQUENCES_BY_TAG[tag]
            return container(self._read_items(container, body, hints, depth))
        if tag == "$dict":
            return self._read_pairs(body, EntryHints(hints), depth)
        name, inner = body
        if tag == "$as":
            [registration] = [each for each in self.registered if each.name == name]
            return registration.read(self._read(inner, (), depth + 1))
        if tag == "$of":
            [annotated] = [each for each in classes(hints) if each.__qualname__ == name]
            return read_object(
                annotated, inner, lambda item, item_hints: self._read(item, item_hints, depth + 1)
            )
        raise ValueError(f"unknown tag {tag!r}")

    def _read_items(self, kind: type, trees: list[Tree], hints: Hints, depth: int) -> list[object]:
        inner = item_hints(kind, hints, len(trees))
        return [self._read(tree, inner[index], depth + 1) for index, tree in enumerate(trees)]

    def _read_pairs(
        self, pairs: list[tuple[Tree, Tree]], hints: EntryHints, depth: int
    ) -> dict[object, object]:
        found: dict[object, object] = {}
        for written, item in pairs:
            key = self._read(written, hints.keys, depth + 1)
            found[key] = self._read(item, hints.value(key), depth + 1)
        return found


def check_codec(codec: object) -> Codec:
    """A codec: a wrong one would only show when the first result is to be stored."""
    if not isinstance(codec, Codec):
        raise InvalidType(f"codec must be a jobguard.codec.Codec, not {codec!r}; write codec=Codec()")
    return codec


_SEQUENCES: Final[dict[type, str]] = {list: "", tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_SEQUENCES_BY_TAG: Final[dict[str, Any]] = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}
_BY_TAG: Final = {scalar.tag: scalar for scalar in SCALARS.values()}
_BUILTIN: Final = frozenset({bool, type(None), dict, *_SEQUENCES, *SCALARS})


def _is_json(kind: type, value: object) -> bool:
    """Whether JSON has the very value: valid Unicode, whole numbers of 64 bits, finite floats."""
    if isinstance(value, str):
        return kind is str and (value.isascii() or not SURROGATE.search(value))
    if isinstance(value, int):
        return kind is bool or (kind is int and -(2**63) <= value < 2**64)
    return value is None or (isinstance(value, float) and kind is float and math.isfinite(value))


def _is_plain(value: object, room: _Room, depth: int = 0) -> bool:
    """Whether JSON has the very value with all that is in it, so that it needs no tags: most results."""
    kind = type(value)
    known: Any = value
    if kind is dict:
        room.take(_ENTRY * len(known) + 1)
        for key, item in known.items():
            plain = type(key) is str and key[:1] != "$" and key.isascii()
            if not plain or not _is_plain(item, room, depth + 1):
                return False
        return depth < MAX_DEPTH
    if kind is list:
        room.take(len(known) + 1)
        return depth < MAX_DEPTH and all(_is_plain(item, room, depth + 1) for item in known)
    if kind is str:
        room.take(len(known))
    return _is_json(kind, value)


def _tells_all(text: str) -> bool:
    """Whether a JSON text has no tags, so that it is the value, and cannot be nested too deep."""
    return '"$' not in text and "\\u" not in text and text.count("[") + text.count("{") <= MAX_DEPTH


def _check_annotated(kind: type, hints: Hints) -> None:
    """The text will hold a class's name only, so the annotation must name one class of that name."""
    known = classes(hints)
    if kind not in known:
        raise Unencodable(
            f"is of type {class_name(kind)}; name that class in the annotation, or register a codec for it"
        )
    if sum(other.__qualname__ == kind.__qualname__ for other in known) > 1:
        raise Unencodable(f"is of one of several annotated classes called {kind.__qualname__}; rename one")


def _check_types(kind: object, name: object, encode: object, decode: object) -> None:
    if not isinstance(kind, type):
        raise InvalidType(f"kind must be a class, not {kind!r}")
    if not isinstance(name, str):
        raise InvalidType(f"name must be text, not {name!r}")
    for argument, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            raise InvalidType(f"{argument} must be a function of one value, not {function!r}")


def _apply(registration: _Registration, value: object) -> object:
    try:
        return registration.write(value)
    except Exception as error:  # the user's code
        raise Unencodable(f"was refused by the codec registered as {registration.name!r}") from error


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


_to_json = JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode
# `decode` spends two thirds of its time on white space, which we do not write.
_scan = JSONDecoder(parse_constant=_refuse_constant).raw_decode
