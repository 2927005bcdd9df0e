"""JSON forms of the single builtin values that JSON lacks, each under a tag."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

from jobguard.canonical import Unencodable, class_name

SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Text with one of these is no valid Unicode, and JSON would merge two of them into one character."""


class Scalar(NamedTuple):
    """How values of one type are written and read; `write` may raise `Unencodable`, `read` anything."""

    tag: str
    write: Callable[[Any], object]
    read: Callable[[Any], object]


def _text_to_base64(value: str) -> str:
    return b64encode(value.encode("utf-8", "surrogatepass")).decode()


def _text_from_base64(body: str) -> str:
    return b64decode(body, validate=True).decode("utf-8", "surrogatepass")


def _bytes_to_base64(value: bytes) -> str:
    return b64encode(value).decode()


def _bytes_from_base64(body: str) -> bytes:
    return b64decode(body, validate=True)


def _bytearray_from_base64(body: str) -> bytearray:
    return bytearray(_bytes_from_base64(body))


def _int_from_hex(body: str) -> int:
    return int(body, 16)


def _float_from_name(body: str) -> float:
    return {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}[body]


def _text(body: object) -> str:
    if not isinstance(body, str):
        raise TypeError(f"expected text, not {type(body).__name__}")
    return body


def _complex_from_text(body: str) -> complex:
    return complex(_text(body))


def _decimal_from_text(body: str) -> Decimal:
    return Decimal(_text(body))


def _timedelta_to_parts(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _timedelta_from_parts(body: tuple[int, int, int]) -> timedelta:
    days, seconds, microseconds = body
    return timedelta(days, seconds, microseconds)


def _path_to_text(value: Path) -> object:
    text = str(value)
    return [_text_to_base64(text)] if SURROGATE.search(text) else text


def _path_from_text(body: str | list[str]) -> Path:
    return Path(body if isinstance(body, str) else _text_from_base64(body[0]))


def _moment_to_text(value: datetime | time) -> object:
    """ISO text where that says all, else its parts: zone, a fixed offset's own name, fold."""
    parts: dict[str, object] = {}
    zone = value.tzinfo
    if type(zone) is timezone:
        name = zone.tzname(None)
        if name != timezone(zone.utcoffset(None)).tzname(None):
            parts["name"] = name
    elif zone is not None:
        parts["zone"] = _zone_key(zone)
        value = value.replace(tzinfo=None)
    if value.fold:
        parts["fold"] = 1
    return {"at": value.isoformat(), **parts} if parts else value.isoformat()


def _zone_key(zone: tzinfo) -> str:
    from zoneinfo import ZoneInfo  # late: most programs never need it

    if type(zone) is not ZoneInfo or not zone.key:
        raise Unencodable(
            f"has a time zone of type {class_name(type(zone))}; use datetime.timezone or "
            "zoneinfo.ZoneInfo(key)"
        )
    return zone.key


def _moment_from_text(kind: type[datetime] | type[time], body: str | dict[str, Any]) -> datetime | time:
    if isinstance(body, str):
        return kind.fromisoformat(body)
    value = kind.fromisoformat(body["at"])
    if "zone" in body:
        from zoneinfo import ZoneInfo  # late, as above

        value = value.replace(tzinfo=ZoneInfo(body["zone"]))
    elif "name" in body:
        offset = value.utcoffset()
        if offset is None:
            raise ValueError("a zone's name without its offset")
        value = value.replace(tzinfo=timezone(offset, body["name"]))
    return value.replace(fold=body.get("fold", 0))


SCALARS: Final[dict[type, Scalar]] = {
    str: Scalar("$str", _text_to_base64, _text_from_base64),
    int: Scalar("$int", hex, _int_from_hex),
    float: Scalar("$float", repr, _float_from_name),
    complex: Scalar("$complex", repr, _complex_from_text),
    bytes: Scalar("$bytes", _bytes_to_base64, _bytes_from_base64),
    bytearray: Scalar("$bytearray", _bytes_to_base64, _bytearray_from_base64),
    datetime: Scalar("$datetime", _moment_to_text, partial(_moment_from_text, datetime)),
    date: Scalar("$date", date.isoformat, date.fromisoformat),
    time: Scalar("$time", _moment_to_text, partial(_moment_from_text, time)),
    timedelta: Scalar("$timedelta", _timedelta_to_parts, _timedelta_from_parts),
    Decimal: Scalar("$decimal", str, _decimal_from_text),
    UUID: Scalar("$uuid", str, UUID),
    type(Path()): Scalar("$path", _path_to_text, _path_from_text),
}
