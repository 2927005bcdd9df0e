"""The arguments that a dead letter keeps, by name: looked at, compared and changed along paths.

A path is a parameter's name and what leads on from there: `to`, `customer.phone`, `items.0.price`. A position
in a list has one spelling, in digits: under another one, what is redacted would not be known again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

from jobguard.codec import Codec, clip, preview, printable
from jobguard.errors import InvalidValue, NotEncodable
from jobguard.letters import PAYLOAD_LIMIT, pack_arguments, unpack_arguments
from jobguard.redaction import REDACTED, by_name, is_position, is_redacted, names_of, redactor
from jobguard.stores.letters import DeadLetter, Edit

KEPT_EDITS = 20
"""Edits that a letter tells of; older ones are dropped, the original payload never is."""
SHOWN = 500
"""Characters of a value before and after an edit."""


_LEFT_OUT = object()
"""Stands for an argument that the call left to its default."""


class Typed(str):
    """A value as somebody typed it: JSON if it is any, but text where a number or a word replaces text."""

    __slots__ = ()

    def in_place_of(self, before: object) -> object:
        try:
            value = json.loads(self)
        except (ValueError, RecursionError):
            return str(self)
        if isinstance(before, str) and not isinstance(value, (str, dict, list)):
            return str(self)  # digits are no number in place of a text: a telephone's, an account's
        return cast(object, value)


class NotEditable(Exception):
    """A letter's arguments cannot be changed so; the message says why. Never leaves this package."""


def arguments_of(letter: DeadLetter, codec: Codec) -> Mapping[str, object]:
    """A letter's arguments by name: the kept ones where they can be read, else those shown to people.

    Never raises: what cannot be read has no arguments.
    """
    try:
        args, kwargs = _decoded(letter, codec)
        return by_name(args, kwargs, letter.parameters)
    except (NotEditable, NotEncodable):
        pass
    try:
        shown = json.loads(letter.preview)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", shown) if isinstance(shown, dict) else {}


def value_at(arguments: Mapping[str, object], path: str) -> object:
    """What a path leads to.

    Raises:
        LookupError: it leads nowhere.
    """
    value: Any = arguments
    for step in path.split("."):
        try:
            value = value[_index(value, step)]
        except (LookupError, TypeError, ValueError):
            raise LookupError(path) from None
    return value


def alike(found: object, wanted: object) -> bool:
    """Whether a value is the one that somebody wrote: the same, or the same as text.

    A command line has no types: `5` means the number and the text.
    """
    if type(found) is type(wanted):
        return found == wanted
    if isinstance(found, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return list(cast("list[object]", found)) == list(cast("list[object]", wanted))
    if isinstance(found, bool) or isinstance(wanted, bool) or found is None or wanted is None:
        return False
    if isinstance(found, (dict, list, tuple, set, frozenset)):
        return False
    try:
        if found == wanted or str(found) == str(wanted):
            return True
        if not isinstance(found, (int, float, Decimal)) or not isinstance(wanted, str):
            return False
        return found == Decimal(wanted) or found == float(wanted)  # "1.50", "1e5"
    except (ArithmeticError, ValueError):  # no number, or one that cannot be compared
        return False


def edited(letter: DeadLetter, changes: Mapping[str, object], codec: Codec, by: str) -> DeadLetter:
    """A letter with other arguments; what they were stays in it.

    Args:
        letter: of which.
        changes: from paths to values. A path must lead to something that is there, or name a parameter
            that the call left out, as far as the letter knows the task's.
        codec: writes the arguments.
        by: who asked for it.

    Raises:
        NotEditable: the letter does not keep its arguments as JSON, a path leads nowhere, or a value has
            no form in the store.
        InvalidValue: a path is malformed.
    """
    for path in changes:
        checked_path(path)
    args, kwargs = _decoded(letter, codec)
    if not changes:
        return letter
    first = letter if letter.original is None else replace(letter, payload=letter.original)
    masks = [
        redactor(*each, letter.parameters, letter.redact) for each in (_decoded(first, codec), (args, kwargs))
    ]
    made: list[tuple[str, object, object]] = []
    at = time.time()
    for path, value in changes.items():
        head, *rest = path.split(".")
        before = _before(by_name(args, kwargs, letter.parameters), path, letter.parameters)
        if isinstance(value, Typed):
            value = value.in_place_of(before)
        place = path if before is _LEFT_OUT else _place(letter, args, kwargs, head)
        if isinstance(place, int):
            args[place] = _changed(args[place], rest, value, path)
        else:
            kwargs[place] = _changed(kwargs.get(place), rest, value, path)
        made.append((path, before, value))
    try:
        payload = pack_arguments(args, kwargs, codec)
    except NotEncodable as error:
        raise NotEditable(str(error)) from error
    size = len(payload.encode("utf-8", "surrogatepass"))
    if size > PAYLOAD_LIMIT:
        raise NotEditable(f"its arguments would come to {size} bytes; {PAYLOAD_LIMIT} can be kept")
    masks.append(redactor(args, kwargs, letter.parameters, letter.redact))

    def mask(text: str) -> str:  # also where another argument holds what is redacted, or was at first
        for each in masks:
            text = each(text)
        return text

    edits: list[Edit] = []
    for path, before, value in made:
        hidden = is_redacted(path, letter.redact)
        old, new = [
            "" if each is _LEFT_OUT else mask(_shown(each, hidden, codec)) for each in (before, value)
        ]
        edits.append(Edit(path, old, new, at, by))
    return replace(
        letter,
        payload=payload,
        original=letter.payload if letter.original is None else letter.original,
        preview=mask(preview(args, kwargs, letter.parameters, letter.redact)),
        edits=(*letter.edits, *edits)[-KEPT_EDITS:],
    )


def _before(arguments: Mapping[str, object], path: str, parameters: Sequence[str]) -> object:
    """What a path leads to, or `_LEFT_OUT` if it is a name that the call may have beside those it has."""
    try:
        return value_at(arguments, path)
    except LookupError:
        pass
    addable = [name for name in parameters if not name.startswith("*") and name not in arguments]
    any_name = any(name.startswith("**") for name in parameters)
    if path in addable or (any_name and path.isidentifier() and path not in arguments):
        return _LEFT_OUT
    names = ", ".join(map(repr, arguments)) or "none"
    if addable:
        names += f"; left out, and may be added: {', '.join(map(repr, addable))}"
    raise NotEditable(
        f"there is no argument {path!r}; the arguments are: {names}; positions in lists are 0, 1, 2 …"
    )


def checked_path(path: object) -> str:
    """A path that may lead somewhere.

    Raises:
        InvalidValue: it cannot.
    """
    if not isinstance(path, str) or not path or any(step == "" for step in path.split(".")):
        raise InvalidValue(
            f"an argument's path must be a name, or names and positions with dots between, not {path!r}"
        )
    return path


def _decoded(letter: DeadLetter, codec: Codec) -> tuple[list[Any], dict[str, Any]]:
    if letter.payload_format != "json" or letter.payload is None:
        kept = {"opaque": "as its queue wrote them, which only its worker can read"}
        how = kept.get(letter.payload_format, "not at all")
        raise NotEditable(f"its arguments are kept {how} (payload_format {letter.payload_format!r})")
    try:
        return unpack_arguments(letter.payload, codec)
    except NotEncodable as error:
        raise NotEditable(f"its arguments are of types that are not known here: {error}") from error
    except ValueError as error:
        raise NotEditable(str(error)) from error


def _place(letter: DeadLetter, args: list[Any], kwargs: Mapping[str, Any], name: str) -> int | str:
    """Where an argument is: its position, or its name."""
    if name in kwargs:
        return name
    names = names_of(args, letter.parameters)
    if name in names:
        return names.index(name)
    raise NotEditable(f"argument {name!r} takes any number of values, of which none can be changed")


def _changed(value: Any, rest: list[str], new: object, path: str) -> object:
    """A value with another one in it; containers on the way are copied."""
    if not rest:
        return new
    step = _index(value, rest[0])
    known: Any = value
    if isinstance(value, tuple):
        items: list[Any] = list(known)
        items[int(step)] = _changed(items[int(step)], rest[1:], new, path)
        return tuple(items)
    if not isinstance(value, (dict, list)):
        raise NotEditable(f"{path!r} leads into a {type(value).__name__}, which is changed as a whole")
    copied: Any = known.copy()
    copied[step] = _changed(copied[step], rest[1:], new, path)
    return copied


def _index(value: object, step: str) -> Any:
    """What a step is to a container. Raises `LookupError` for what is no position in a list."""
    if not isinstance(value, (list, tuple)):
        return step
    if not is_position(step):
        raise LookupError(step)
    return int(step)


def _shown(value: object, hidden: bool, codec: Codec) -> str:
    if hidden:
        return json.dumps(REDACTED)
    try:
        text = codec.encode(value)
    except NotEncodable:
        text = repr(value)
    return clip(printable(text), SHOWN)
