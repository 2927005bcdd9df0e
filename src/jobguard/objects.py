"""JSON forms of instances of a known class: enum members, named tuples, dataclasses, pydantic models.

The caller has made sure of the class. `write` and `read` are its own, for the values inside.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from enum import Enum, Flag
from functools import cached_property
from typing import Any

from jobguard.canonical import Unencodable, class_name, is_model
from jobguard.hints import Hints, field_hints, hints_of

Tree = Any  # what the json module writes and reads
Nested = Callable[[Any, Hints], Any]


def write_object(kind: Any, value: Any, write: Nested) -> Tree:
    """The JSON form of an instance of exactly `kind`. Raises `Unencodable`."""
    if issubclass(kind, Flag):
        return write(value._value_, ())
    if issubclass(kind, Enum):
        return value._name_
    if _is_named_tuple(kind):
        return [*_write_fields(kind, dict(zip(kind._fields, value, strict=True)), write).values()]
    if hasattr(kind, "__dataclass_fields__"):
        return _write_fields(kind, _dataclass_fields(kind, value), write)
    if is_model(kind):
        return _write_model(kind, value)
    raise Unencodable(f"is of type {class_name(kind)}, which needs a registered codec")


def read_object(kind: Any, tree: Tree, read: Nested) -> object:
    """The instance that `write_object` wrote. Raises whatever a wrong tree leads to."""
    if issubclass(kind, Flag):
        return kind(read(tree, ()))
    if issubclass(kind, Enum):
        return kind[tree]
    if _is_named_tuple(kind):
        named = dict(zip(kind._fields, tree, strict=True))
        return kind._make(_read_fields(kind, named, read).values())
    if hasattr(kind, "__dataclass_fields__"):
        return _read_dataclass(kind, tree, read)
    if is_model(kind):
        return kind.model_validate_json(json.dumps(tree))
    raise TypeError(f"{class_name(kind)} needs a registered codec")


def _is_named_tuple(kind: Any) -> bool:
    return hasattr(kind, "_fields") and issubclass(kind, tuple)


def _write_fields(kind: type, fields: Mapping[str, object], write: Nested) -> dict[str, Tree]:
    hints = field_hints(kind)
    tree: dict[str, Tree] = {}
    for name, value in fields.items():
        try:
            tree[name] = write(value, hints_of(hints.get(name, Any)))
        except Unencodable as error:
            error.inside(f".{name}")
            raise
    return tree


def _read_fields(kind: type, tree: Mapping[str, Tree], read: Nested) -> dict[str, object]:
    hints = field_hints(kind)
    return {name: read(item, hints_of(hints.get(name, Any))) for name, item in tree.items()}


def _dataclass_fields(kind: Any, value: object) -> dict[str, object]:
    """An instance's fields, if they are all there is to it."""
    names = [field.name for field in dataclasses.fields(kind)]
    unset = [name for name in names if not hasattr(value, name)]
    if unset:
        raise Unencodable(f"has no value for its field {unset[0]!r}")
    for name in vars(value) if hasattr(value, "__dict__") else ():
        derived = name == "__orig_class__" or isinstance(getattr(kind, name, None), cached_property)
        if name not in names and not derived:
            raise Unencodable(
                f"has the attribute {name!r}, which is none of its fields; register a codec for it"
            )
    try:
        object.__new__(kind)
    except TypeError as error:
        raise Unencodable(
            f"is of type {class_name(kind)}, which needs a registered codec: {error}"
        ) from error
    return {name: getattr(value, name) for name in names}


def _read_dataclass(kind: Any, tree: Mapping[str, Tree], read: Nested) -> object:
    """Set every field without running `__init__`; one added since the write gets its default."""
    given = _read_fields(kind, tree, read)
    instance = object.__new__(kind)
    for field in dataclasses.fields(kind):
        if field.name in given:
            value = given.pop(field.name)
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise ValueError(f"no value for field {field.name!r} of {class_name(kind)}")
        object.__setattr__(instance, field.name, value)
    if given:
        raise ValueError(f"{class_name(kind)} has no field {next(iter(given))!r}")
    return instance


def _write_model(kind: Any, value: Any) -> Tree:
    """Pydantic's own JSON form, if it leads back to an equal model; not all fields do."""
    try:
        text = value.model_dump_json(round_trip=True, by_alias=True, warnings=False)
        same = kind.model_validate_json(text) == value
    except Exception as error:  # serialisers and validators are the user's code
        raise Unencodable(f"has no JSON form that leads back to it: {type(error).__name__}") from error
    if not same:
        raise Unencodable("would come back from its JSON form changed; register a codec for it")
    return json.loads(text)
