"""What a type annotation says of the classes inside a value, position by position.

A *hint* is one type that may stand at a position; several stand side by side in a union.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, NewType, Union, get_args, get_origin, get_type_hints

Hints = tuple[object, ...]


def resolve_return_annotation(fn: Callable[..., object]) -> object:
    """The return annotation of a function, or `Any` where there is none or it cannot be resolved.

    Only the return annotation is looked at, so that a parameter whose type is imported for type
    checkers only does no harm.
    """
    plain = inspect.unwrap(fn)

    def returning() -> None: ...

    try:
        returning.__annotations__ = {"return": plain.__annotations__.get("return", Any)}
        return get_type_hints(returning, globalns=plain.__globals__)["return"]
    except Exception:  # evaluating an annotation can raise anything
        return Any


def hints_of(annotation: object) -> Hints:
    """The types that an annotation allows side by side; none for `Any`."""
    origin = get_origin(annotation)
    if origin is Union or origin is types.UnionType:
        return tuple(hint for part in get_args(annotation) for hint in hints_of(part))
    if origin is Annotated:
        return hints_of(get_args(annotation)[0])
    if type(annotation).__name__ == "TypeAliasType":  # `type X = …` of Python 3.12
        return hints_of(getattr(annotation, "__value__", Any))
    if isinstance(annotation, NewType):
        return hints_of(annotation.__supertype__)
    return () if annotation is Any else (annotation,)


def item_hints(kind: type, hints: Hints, length: int) -> list[Hints]:
    """For each item of a list, tuple or set: `list[A]`, `Sequence[A]`, `tuple[A, ...]`, `tuple[A, B]`."""
    if not hints:
        return [hints] * length
    every: list[object] = []
    by_position: list[tuple[object, ...]] = []
    for hint in hints:
        origin, arguments = get_origin(hint), get_args(hint)
        if not _fits(kind, origin):
            continue
        if origin is tuple and arguments[1:] != (Ellipsis,):
            by_position.append(arguments)
        elif arguments:
            every.append(arguments[0])
    shared = tuple(hint for item in every for hint in hints_of(item))
    fitting = [arguments for arguments in by_position if len(arguments) == length]
    if not fitting:
        return [shared] * length
    return [
        shared + tuple(hint for arguments in fitting for hint in hints_of(arguments[position]))
        for position in range(length)
    ]


class EntryHints:
    """For the entries of a dict: `dict[K, V]`, `Mapping[K, V]` or a TypedDict."""

    def __init__(self, hints: Hints) -> None:
        self.keys: Hints
        self.keys, self._values, typed_dicts = _entries(hints)
        self._named = [field_hints(kind) for kind in typed_dicts]

    def value(self, key: object) -> Hints:
        """For the value under a key."""
        if not self._named or not isinstance(key, str):
            return self._values
        named = [hint for fields in self._named for hint in hints_of(fields.get(key, Any))]
        return (*self._values, *named)


@lru_cache(maxsize=256)
def _entries(hints: Hints) -> tuple[Hints, Hints, list[type]]:
    """Of the dicts that hints ask for: keys, values and the classes that name their keys."""
    pairs = [get_args(hint) for hint in hints if _is_mapping(get_origin(hint))]
    keys = tuple(hint for pair in pairs for hint in hints_of(pair[0]))
    values = tuple(hint for pair in pairs for hint in hints_of(pair[1]))
    return keys, values, [kind for kind in classes(hints) if _is_typed_dict(kind)]


def _is_typed_dict(kind: type) -> bool:
    return "__total__" in vars(kind) and issubclass(kind, dict)


def _is_mapping(origin: object) -> bool:
    return _fits(dict, origin) and isinstance(origin, type) and issubclass(origin, Mapping)


def _fits(kind: type, origin: object) -> bool:
    """Whether a builtin container is what `origin[...]` asks for; a foreign protocol is not tried."""
    if not isinstance(origin, type) or origin is kind:
        return origin is kind
    return origin.__module__ == "collections.abc" and issubclass(kind, origin)


def classes(hints: Hints) -> list[type]:
    """The classes among hints, each once; `Page[Item]` stands for `Page`."""
    found = dict.fromkeys(get_origin(hint) or hint for hint in hints)
    return [kind for kind in found if isinstance(kind, type)]


def field_hints(kind: type) -> Mapping[str, object]:
    """The annotations of a class's fields; nothing where they cannot be resolved."""
    try:
        return _resolved(kind)
    except Exception:  # evaluating an annotation can raise anything
        return {}


@lru_cache(maxsize=256)
def _resolved(kind: type) -> Mapping[str, object]:
    return get_type_hints(kind)
