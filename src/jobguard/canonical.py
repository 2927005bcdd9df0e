"""From a value to bytes that equal values share and no others: the canonical form behind keys.

Equal means of the same type and `==`. So `1`, `"1"`, `True` and `1.0` differ, NaN equals NaN, aware
datetimes compare by instant and never equal naive ones, sets and dicts have no order. Dataclasses
compare by class and the fields that take part in their `==`, pydantic models by class and fields,
enum members by class and name. A subclass of a builtin type is a type of its own. A class is known
by its module and qualified name, the same in every process.

Each part has its type and length in front; neither `hash()` nor `repr()` is ever asked.
"""

from __future__ import annotations

import dataclasses
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final
from uuid import UUID

MAX_DEPTH: Final = 64
"""Containers within containers; more is taken for a value that contains itself."""

LARGEST: Final = 16 * 1024 * 1024
"""Bytes of a container's canonical form."""
REMEMBERED: Final = 4096
"""Bytes of a form that is not made again. What doubles from there on is soon the largest there may be."""


class Unencodable(Exception):
    """A value without a canonical form.

    Attributes:
        reason: what is wrong, to follow the value's name in a sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self._way: list[str] = []

    @property
    def way(self) -> str:
        """From the value that was to be encoded to the one that could not be, like `.items[2]`."""
        return "".join(reversed(self._way))

    def inside(self, step: str) -> None:
        """Note the step by which an outer value holds the one that failed."""
        self._way.append(step)


def module_name(name: str) -> str:
    """A module's name as others import it: a worker's `__main__` is somebody else's module."""
    if name not in ("__main__", "__mp_main__"):
        return name
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return name if file is None else PurePath(file).stem


class TooLarge(Unencodable):
    """A value whose form would be larger than is bearable."""


def encode(value: object) -> bytes:
    """The canonical form of a value. Raises `Unencodable`."""
    return _encode(value, 0, {})


_Seen = dict[int, tuple[object, bytes]]
"""What has more than one part, by its id, and its form."""


def _encode(value: object, depth: int, seen: _Seen) -> bytes:
    """The form of a value at some depth.

    What is met again is not written again: a list that has another one twice, which has a third one twice,
    and so on, would take twice as long for each.
    """
    scalar = _SCALARS.get(type(value))
    if scalar is not None:
        return scalar(value)
    known = seen.get(id(value))
    if known is not None:
        return known[1]
    form = _CONTAINERS.get(type(value), _other)(value, depth, seen)
    if len(form) <= REMEMBERED:
        seen[id(value)] = value, form  # the value too: the id of one that has gone may be another's
    return form


def encode_text(value: str) -> bytes:
    """The canonical form of text."""
    raw = str.encode(value, "utf-8", "surrogatepass")
    return b"s%d:%b" % (len(raw), raw)


def _bytes(value: bytes) -> bytes:
    return b"b%d:%b" % (len(value), value)


def _bytearray(value: bytearray) -> bytes:
    return b"B%d:%b" % (len(value), bytes(value))


def _none(_: None) -> bytes:
    return b"N"


def _bool(value: bool) -> bytes:
    return b"T" if value else b"F"


def _int(value: int) -> bytes:
    return b"i%x;" % value


_NAN = b"f" + struct.pack(">d", float("nan"))


def _float(value: float) -> bytes:
    return b"f" + struct.pack(">d", value + 0.0) if value == value else _NAN  # + 0.0 unites the zeros


def _complex(value: complex) -> bytes:
    return b"c" + _float(value.real) + _float(value.imag)


def _decimal(value: Decimal) -> bytes:
    """By value: trailing zeros and the sign of zero do not count."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        text = "nan" if value.is_nan() else "-inf" if sign else "inf"
    elif not value:
        text = "0"
    else:
        every = "".join(map(str, digits)).lstrip("0")
        significant = every.rstrip("0")
        text = f"{'-' if sign else ''}{significant}e{exponent + len(every) - len(significant)}"
    return b"d%d:%b" % (len(text), text.encode())


def _uuid(value: UUID) -> bytes:
    return b"u" + value.bytes


_YEAR_ONE = datetime.combine(date.min, time.min)
_MICROSECOND = timedelta(microseconds=1)


def _datetime(value: datetime) -> bytes:
    """Microseconds since year 1; of the instant for aware ones, whatever the date's range."""
    since = value.replace(tzinfo=None) - _YEAR_ONE
    offset = value.utcoffset()
    return (
        b"l%x;" % (since // _MICROSECOND) if offset is None else b"z%x;" % ((since - offset) // _MICROSECOND)
    )


def _date(value: date) -> bytes:
    return b"y%x;" % value.toordinal()


def _time(value: time) -> bytes:
    since = datetime.combine(_YEAR_ONE, value.replace(tzinfo=None)) - _YEAR_ONE
    offset = value.utcoffset()
    return (
        b"t%x;" % (since // _MICROSECOND) if offset is None else b"g%x;" % ((since - offset) // _MICROSECOND)
    )


def _timedelta(value: timedelta) -> bytes:
    return b"e%x;" % (value // _MICROSECOND)


def _path(value: PurePath) -> bytes:
    """By flavour and text; the flavours' module is another one from Python 3.13 on."""
    text = str(value).lower() if isinstance(value, PureWindowsPath) else str(value)
    return b"p" + encode_text(type(value).__name__) + encode_text(text)


def _list(value: list[object], depth: int, seen: _Seen) -> bytes:
    return b"[" + _items(value, depth, seen)


def _tuple(value: tuple[object, ...], depth: int, seen: _Seen) -> bytes:
    return b"(" + _items(value, depth, seen)


def _set(value: set[object], depth: int, seen: _Seen) -> bytes:
    return b"{" + _members(value, depth, seen)


def _frozenset(value: frozenset[object], depth: int, seen: _Seen) -> bytes:
    return b"<" + _members(value, depth, seen)


def _dict(value: dict[object, object], depth: int, seen: _Seen) -> bytes:
    parts: list[bytes] = []
    _check_depth(depth)
    size, step = 0, ""
    try:
        for name, item in value.items():
            step = "[…] (a key)"
            encoded = _encode(name, depth + 1, seen)
            step = f"[{name!r}]" if type(name) is str else "[…]"
            parts.append(encoded + _encode(item, depth + 1, seen))
            size = _grown(size, parts[-1])
    except Unencodable as error:
        error.inside(step)
        raise
    return b"m%d:%b" % (len(parts), b"".join(sorted(parts)))


def _items(values: Iterable[object], depth: int, seen: _Seen) -> bytes:
    parts: list[bytes] = []
    _check_depth(depth)
    size = 0
    try:
        for value in values:
            parts.append(_encode(value, depth + 1, seen))
            size = _grown(size, parts[-1])
    except Unencodable as error:
        error.inside(f"[{len(parts)}]")
        raise
    return b"%d:%b" % (len(parts), b"".join(parts))


def _members(values: Iterable[object], depth: int, seen: _Seen) -> bytes:
    parts: list[bytes] = []
    _check_depth(depth)
    size = 0
    try:
        for value in values:
            parts.append(_encode(value, depth + 1, seen))
            size = _grown(size, parts[-1])
    except Unencodable as error:
        error.inside(" (a member)")
        raise
    return b"%d:%b" % (len(parts), b"".join(sorted(parts)))


def _other(value: object, depth: int, seen: _Seen) -> bytes:
    """Values known by what their class is made of, and subclasses of builtin types."""
    kind = type(value)
    if isinstance(value, Flag):
        return b"E" + encode_class(kind) + _encode(value._value_, depth + 1, seen)
    if isinstance(value, Enum):
        return b"E" + encode_class(kind) + encode_text(value._name_)
    if hasattr(kind, "__dataclass_fields__"):
        return b"D" + encode_class(kind) + _members_by_name(_dataclass_members(value), depth, seen)
    if is_model(kind):
        return b"M" + encode_class(kind) + _members_by_name(_model_members(value), depth, seen)
    for base in kind.__mro__:
        if base not in _SCALARS and base not in _CONTAINERS:
            continue
        equality: object = kind.__eq__
        if equality is not base.__eq__:
            raise Unencodable(f"is of type {class_name(kind)}, which has an == of its own")
        container = _CONTAINERS.get(base)
        form = _SCALARS[base](value) if container is None else container(value, depth, seen)
        return b"S" + encode_class(kind) + form
    raise Unencodable(f"is of type {class_name(kind)}, which has no stable encoding")


def _dataclass_members(value: Any) -> dict[str, object]:
    """The fields that `==` compares, of those that were ever set."""
    names = [field.name for field in dataclasses.fields(value) if field.compare]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _model_members(value: Any) -> dict[str, object]:
    """What `==` of a pydantic model compares; cached properties are no part of it."""
    values: dict[str, object] = value.__dict__
    members: dict[str, object] = {
        name: values[name] for name in value.__class__.model_fields if name in values
    }
    return members | {"extra": value.__pydantic_extra__, "private": value.__pydantic_private__}


def _members_by_name(members: Mapping[str, object], depth: int, seen: _Seen) -> bytes:
    _check_depth(depth)
    parts = [b"%d:" % len(members)]
    size, name = 0, ""
    try:
        for name, member in members.items():
            parts += encode_text(name), _encode(member, depth + 1, seen)
            size = _grown(size, parts[-1])
    except Unencodable as error:
        error.inside(f".{name}")
        raise
    return b"".join(parts)


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise Unencodable(f"is nested more than {MAX_DEPTH} deep, or contains itself")


def _grown(size: int, part: bytes) -> int:
    """The bytes of a container's parts with one more."""
    size += len(part)
    if size > LARGEST:
        raise TooLarge(f"is too large: with it, more than {LARGEST} bytes would be written")
    return size


def encode_class(kind: type) -> bytes:
    """A class by its name; told from text by where it stands."""
    return encode_text(module_name(kind.__module__)) + encode_text(kind.__qualname__)


def is_model(kind: type) -> bool:
    """Whether a class is a pydantic model, told without importing pydantic."""
    return hasattr(kind, "model_fields") and hasattr(kind, "__pydantic_validator__")


def class_name(kind: type) -> str:
    """A class as messages write it."""
    return f"{kind.__module__}.{kind.__qualname__}"


_SCALARS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    str: encode_text,
    int: _int,
    bool: _bool,
    type(None): _none,
    float: _float,
    complex: _complex,
    bytes: _bytes,
    bytearray: _bytearray,
    datetime: _datetime,
    date: _date,
    time: _time,
    timedelta: _timedelta,
    Decimal: _decimal,
    UUID: _uuid,
    PurePosixPath: _path,
    PureWindowsPath: _path,
    PosixPath: _path,
    WindowsPath: _path,
}
_CONTAINERS: Final[Mapping[type, Callable[[Any, int, _Seen], bytes]]] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
}
