"""From a call to its key: what makes two jobs the same work.

Two calls have one key if what the key covers is equal in the sense of `jobguard.canonical`: of the
same type and `==`. Positional, keyword and default spellings of one call are one call.
"""

from __future__ import annotations

import inspect
import re
from binascii import b2a_base64
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from string import Formatter
from typing import Any, NamedTuple

from jobguard.canonical import Unencodable, class_name, encode, encode_class, encode_text, module_name
from jobguard.errors import InvalidType, InvalidValue, KeyNotEncodable

_CONTEXT = ("ctx", "self", "cls")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PERSON = b"jobguard-key"
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Key(NamedTuple):
    """What a call comes down to.

    Attributes:
        digest: 32 hex characters over the scope and what the key covers.
        fingerprint: 22 characters over the arguments that the key leaves out; `""` if there are none.
    """

    digest: str
    fingerprint: str


def takes_context(signature: inspect.Signature, filled: bool | None = None) -> bool:
    """Whether the first parameter is one that a queue or an object fills, and no argument of the job.

    Args:
        signature: of the function.
        filled: what is known of that, whatever the parameter's name; None = its name tells.
    """
    first = next(iter(signature.parameters.values()), None)
    if first is None or first.kind in _VARIADIC:
        return False
    return first.name in _CONTEXT if filled is None else filled


def compile_key(
    fn: Callable[..., object],
    *,
    key: str | tuple[str, ...] | Callable[..., object] | None,
    scope: str | None,
    context: bool | None = None,
) -> Callable[[tuple[object, ...], Mapping[str, object]], Key]:
    """Check a key's definition against `fn` and return the function from arguments to key.

    Args:
        fn: the function whose calls get keys. A first parameter named ctx, self or cls is no part
            of a key, but a template may name something in it (`"{ctx[tenant]}"`, `"{self.account}"`).
        key: a template over parameters (`"{message_id}"`, `"{event.id}"`, `"{event[id]}"`), a
            tuple of parameter names, None for all arguments, or a callable. A callable gets the
            arguments without ctx, self or cls, defaults filled in, positional where they can be.
        scope: keys are shared by all functions of one scope; None = `module.qualname` of `fn`.
        context: whether a queue fills the first parameter, which then is as if it were named ctx; None = if
            it is.

    The returned function raises `KeyNotEncodable` if what the key covers has no stable encoding,
    and `TypeError` if the arguments do not fit `fn`. An argument outside the key never fails the
    call: where it cannot be encoded, the fingerprint knows its type only.

    Raises:
        InvalidType: `key` or `scope` has the wrong type.
        InvalidValue: `key` is malformed, names no parameter of `fn` or covers nothing.
    """
    binder = _Binder(fn, context)
    seed = encode_text(_scope(fn, scope))
    covered = blake2b(seed, digest_size=16, person=_PERSON)
    left_out = blake2b(digest_size=16, person=_PERSON)
    bind = binder.bind

    if callable(key):
        function, spread = _callable_key(key, binder), binder.spread
        rest = binder.all_arguments()

        def key_by_callable(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Key:
            values = bind(args, kwargs)
            positional, keyword = spread(values)
            digest = covered.copy()
            digest.update(_encode_result(function(*positional, **keyword), binder.name))
            return Key(digest.hexdigest(), _fingerprint(left_out, rest, values) if rest else "")

        return key_by_callable

    fields, tail = _fields(key, binder)
    whole = {field.at for field in fields if not field.steps}
    outside = tuple(field for field in binder.all_arguments() if field.at not in whole)

    name = binder.name

    def key_by_fields(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Key:
        values = bind(args, kwargs)
        digest = covered.copy()
        digest.update(_encode_fields(fields, tail, values, name))
        return Key(digest.hexdigest(), _fingerprint(left_out, outside, values) if outside else "")

    return key_by_fields


def _scope(fn: Callable[..., object], scope: object) -> str:
    if scope is None:
        return f"{module_name(fn.__module__)}.{fn.__qualname__}"
    if not isinstance(scope, str):
        raise InvalidType(f"scope must be text or None, not {scope!r}")
    if not scope:
        raise InvalidValue("scope must not be '': name the work, or leave it out for module.qualname")
    return scope


# --- which arguments -------------------------------------------------------------------------


class _Field(NamedTuple):
    """One value of a key: literal bytes before it, the parameter it comes from, the way into it."""

    before: bytes
    at: int
    steps: tuple[tuple[str, str | int], ...]
    label: str


class _Binder:
    """From positional and keyword arguments to one value per parameter, in their order."""

    def __init__(self, fn: Callable[..., object], context: bool | None) -> None:
        self.name: str = fn.__qualname__
        self.signature = inspect.signature(fn)
        parameters = tuple(self.signature.parameters.values())
        self.parameters = parameters
        self.names = tuple(parameter.name for parameter in parameters)
        self.start = 1 if takes_context(self.signature, context) else 0
        # What a callable key gets is what it was written for, before anybody knew of a queue.
        self.handed_on = 1 if takes_context(self.signature) else 0
        self._layout = tuple((parameter.name, parameter.default) for parameter in parameters)
        plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        self._plain = all(parameter.kind in plain for parameter in parameters)
        self._positional = sum(parameter.kind is plain[0] for parameter in parameters)

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Sequence[object]:
        """Ordinary calls are laid out here; unusual and wrong ones are left to `inspect`."""
        given = len(args)
        if self._plain and given <= self._positional:
            expected = len(self._layout) - given
            if not expected and not kwargs:
                return args
            values = list(args)
            found = 0
            for name, default in self._layout[given:]:
                if name in kwargs:
                    values.append(kwargs[name])
                    found += 1
                elif default is not inspect.Parameter.empty:
                    values.append(default)
            if found == len(kwargs) and len(values) == len(self._layout):
                return values
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}(): {error}") from None
        bound.apply_defaults()
        return tuple(bound.arguments.values())

    def spread(self, values: Sequence[object]) -> tuple[list[object], dict[str, object]]:
        """The arguments without ctx, self or cls, as one would pass them on."""
        positional: list[Any] = []
        keyword: dict[str, Any] = {}
        for parameter, value in list(zip(self.parameters, values, strict=True))[self.handed_on :]:
            variadic: Any = value
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                positional.extend(variadic)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                keyword.update(variadic)
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                keyword[parameter.name] = value
            else:
                positional.append(value)
        return positional, keyword

    def all_arguments(self) -> tuple[_Field, ...]:
        """Every parameter but a first ctx, self or cls, each with its name before it."""
        return tuple(
            _Field(_literal(name), index, (), name)
            for index, name in enumerate(self.names)
            if index >= self.start
        )

    def index(self, name: str, key: object) -> int:
        if name not in self.names:
            known = ", ".join(self.names) or "none"
            raise InvalidValue(
                f"key {key!r} names {name!r}, which is not a parameter of {self.name}; it has: {known}"
            )
        return self.names.index(name)

    def argument(self, name: str, key: object) -> int:
        """Where a parameter is whose whole value is to be in a key: one that is the job's own."""
        at = self.index(name, key)
        if at < self.start:
            others = ", ".join(self.names[self.start :])
            part = f"{{{name}[tenant]}}" if name == "ctx" else f"{{{name}.id}}"
            raise InvalidValue(
                f"key {key!r} names {name!r}, which is no argument of the job, and another one in each call; "
                f"name what identifies the work ({self.name} has: {others or 'nothing else'}), or a part of "
                f"{name}, like '{part}'"
            )
        return at


def _fields(key: str | tuple[object, ...] | None, binder: _Binder) -> tuple[tuple[_Field, ...], bytes]:
    """What a key covers, and the literal bytes after the last of it."""
    if key is None:
        everything = binder.all_arguments()
        if not everything:
            raise InvalidValue(
                f"key=None means all arguments, but {binder.name} has none, so that all its calls would be "
                "one; give it a parameter, or key= a callable"
            )
        return everything, b""
    if isinstance(key, str):
        return _template(key, binder)
    if not isinstance(key, tuple):
        raise InvalidType(
            "key must be a template like '{message_id}', a tuple of parameter names, a callable or None, "
            f"not {key!r}"
        )
    if not key:
        raise InvalidValue("key must not be (): name at least one parameter, or leave it out for all of them")
    fields: list[_Field] = []
    for name in key:
        if not isinstance(name, str):
            raise InvalidType(f"key must be a tuple of parameter names, not {key!r}: {name!r} is not text")
        fields.append(_Field(b"", binder.argument(name, key), (), name))
    return tuple(fields), b""


_NAME = re.compile(r"([^\W\d]\w*)((?:\.[^\W\d]\w*|\[[^\[\]]+\])*)")
_STEP = re.compile(r"\.(\w+)|\[([^\[\]]+)\]")


def _template(template: str, binder: _Binder) -> tuple[tuple[_Field, ...], bytes]:
    """Parse `"text {parameter} {parameter.attribute} {parameter[item]}"`."""
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise InvalidValue(
            f"key {template!r} is not a template: {error}; write it like '{{message_id}}'"
        ) from None
    fields: list[_Field] = []
    before = ""
    for text, path, spec, conversion in pieces:
        before += text
        if path is None:
            continue
        if spec or conversion is not None:
            raise InvalidValue(
                f"key {template!r} formats {path!r}; values enter the key as they are, so write "
                f"{{{path}}} alone"
            )
        match = _NAME.fullmatch(path)
        if match is None:
            raise InvalidValue(
                f"key {template!r} has the field {{{path}}}; name a parameter, like {{message_id}}, "
                "{event.id} or {event[id]}"
            )
        steps = tuple(
            (".", attribute) if attribute else ("[", int(item) if item.isdecimal() else item)
            for attribute, item in _STEP.findall(match[2])
        )
        find = binder.index if steps else binder.argument
        fields.append(_Field(_literal(before), find(match[1], template), steps, path))
        before = ""
    if not fields:
        hint = f"; for the parameter write '{{{template}}}'" if template in binder.names else ""
        raise InvalidValue(f"key {template!r} has no field, so that all calls would share it{hint}")
    return tuple(fields), _literal(before)


def _callable_key(key: Callable[..., object], binder: _Binder) -> Callable[..., object]:
    """Check that a callable can answer at once and takes the arguments."""
    if inspect.iscoroutinefunction(key) or inspect.iscoroutinefunction(type(key).__call__):
        raise InvalidType(f"key must be a plain callable, not the coroutine function {key!r}")
    if any(parameter.kind in _VARIADIC for parameter in binder.parameters):
        return key
    positional, keyword = binder.spread(binder.parameters)
    try:
        inspect.signature(key).bind(*positional, **keyword)
    except TypeError as error:
        names = ", ".join(binder.names[binder.handed_on :]) or "none"
        raise InvalidValue(
            f"key {key!r} cannot be called with the arguments of {binder.name} ({names}): {error}"
        ) from None
    except ValueError:
        pass  # a builtin that does not tell its parameters
    return key


# --- what goes into the digest ---------------------------------------------------------------


def _encode_fields(fields: tuple[_Field, ...], tail: bytes, values: Sequence[object], task: str) -> bytes:
    encoded = b""
    field = fields[0]
    try:
        for field in fields:
            before, at, steps, _ = field
            value = values[at]
            encoded += before + encode(_follow(value, steps) if steps else value)
    except Exception as error:
        refusal = _refusal(error)
        name, _, _ = field.label.partition(".")
        name, _, _ = name.partition("[")
        raise KeyNotEncodable(
            f"argument {name!r} of {task} cannot be part of a key: {field.label}{refusal.way} "
            f"{refusal.reason}; name other parameters in key=, or give a callable that returns "
            "what identifies it"
        ) from refusal.__cause__
    return encoded + tail


def _encode_result(value: object, task: str) -> bytes:
    try:
        return encode(value)
    except Exception as error:
        refusal = _refusal(error)
        raise KeyNotEncodable(
            f"the result of the callable key of {task} cannot be a key: result{refusal.way} "
            f"{refusal.reason}; return text, numbers or a tuple of them"
        ) from refusal.__cause__


def _refusal(error: Exception) -> Unencodable:
    """Why a value is no part of a key; to read one may run the user's code, which may raise anything."""
    if isinstance(error, Unencodable):
        return error
    refusal = Unencodable(f"raised {type(error).__name__} while it was read")
    refusal.__cause__ = error
    return refusal


def _fingerprint(seeded: blake2b, fields: tuple[_Field, ...], values: Sequence[object]) -> str:
    encoded = b""
    for before, at, _, _ in fields:
        value = values[at]
        try:
            encoded += before + encode(value)
        except Exception:  # as in `_refusal`
            encoded += before + b"?" + encode_class(type(value))
    digest = seeded.copy()
    digest.update(encoded)
    return b2a_base64(digest.digest()).translate(_URL_SAFE)[:22].decode()


def _follow(value: object, steps: tuple[tuple[str, str | int], ...]) -> object:
    """Walk a template's attributes and items; whatever they raise is this call's error."""
    for kind, step in steps:
        holder: Any = value
        owner = type(value)
        try:
            value = getattr(holder, str(step)) if kind == "." else holder[step]
        except Exception as error:
            what = f"attribute {step!r}" if kind == "." else f"item {step!r}"
            cure = f" (an item is written [{step}])" if kind == "." and hasattr(owner, "keys") else ""
            raise Unencodable(f"has no {what} in a value of type {class_name(owner)}{cure}") from error
    return value


def _literal(text: str) -> bytes:
    """Text of a template: told from values by its tag, absent where it is empty."""
    raw = text.encode("utf-8", "surrogatepass")
    return b"k%d:%b" % (len(raw), raw) if raw else b""
