"""Arguments of a dead letter by name: the names are those of the function's parameters, whatever the call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from inspect import Parameter, Signature
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobguard import DeadLetter, Filter
from jobguard.arguments import NotEditable, arguments_of, edited
from jobguard.codec import Codec
from jobguard.letters import unpack_arguments
from jobguard.task import Task
from tests.letters.making import letter

CODEC = Codec()
NEW = "new"

Call = tuple[Signature, tuple[object, ...], dict[str, object]]


def _signature(*, before: int, positional: int, rest: bool, keyword: int, more: bool, ctx: bool) -> Signature:
    """A function's parameters of each kind, so many; all have defaults."""
    names = ["ctx"] * ctx + [f"p{number}" for number in range(positional)]
    kinds = [Parameter.POSITIONAL_ONLY] * before + [Parameter.POSITIONAL_OR_KEYWORD] * len(names)
    parameters = [
        Parameter(name, kind, default=None) for name, kind in zip(names, kinds[: len(names)], strict=True)
    ]
    parameters += [Parameter("rest", Parameter.VAR_POSITIONAL)] * rest
    parameters += [Parameter(f"k{number}", Parameter.KEYWORD_ONLY, default=None) for number in range(keyword)]
    parameters += [Parameter("more", Parameter.VAR_KEYWORD)] * more
    return Signature(parameters)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A signature, and a call that fits it; no two values are alike."""
    signature = _signature(
        before=draw(st.integers(0, 2)),
        positional=draw(st.integers(0, 3)),
        rest=draw(st.booleans()),
        keyword=draw(st.integers(0, 2)),
        more=draw(st.booleans()),
        ctx=draw(st.booleans()),
    )
    parameters = list(signature.parameters.values())
    ordered = [each for each in parameters if each.kind <= Parameter.POSITIONAL_OR_KEYWORD]
    given = draw(st.integers(0, len(ordered)))
    further = draw(st.integers(0, 3)) if given == len(ordered) and "rest" in signature.parameters else 0
    named = [each.name for each in ordered[given:] if each.kind is Parameter.POSITIONAL_OR_KEYWORD]
    named += [each.name for each in parameters if each.kind is Parameter.KEYWORD_ONLY]
    named += ["more0", "more1"] if "more" in signature.parameters else []
    chosen = draw(st.lists(st.sampled_from(named), unique=True)) if named else []
    args = tuple(range(given + further))
    return signature, args, {name: f"value of {name}" for name in chosen}


def letter_of(signature: Signature, args: tuple[object, ...], kwargs: Mapping[str, object]) -> DeadLetter:
    """The letter that a call of a function with this signature leaves."""

    async def fn(*args: object, **kwargs: object) -> None: ...

    cast(Any, fn).__signature__ = signature
    own, named, parameters = Task(fn, ()).own_arguments(args, kwargs)
    return letter(args=own, kwargs=named, parameters=parameters)


def bound(signature: Signature, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """What Python itself makes of a call, without its context."""
    arguments: dict[str, Any] = signature.bind(*args, **kwargs).arguments
    more: dict[str, Any] = arguments.pop("more", {})
    if "rest" in arguments:
        arguments["rest"] = list(arguments["rest"])
    if next(iter(signature.parameters), "") == "ctx":
        arguments.pop("ctx", None)
    return arguments | more


AFTER_REST: Call = (
    _signature(before=0, positional=1, rest=True, keyword=1, more=False, ctx=True),
    ("ctx", 1, 2, 3),
    {},
)
"""A call of `f(ctx, p0, *rest, k0)`."""


@given(calls())
@example(AFTER_REST)
def test_arguments_have_the_names_that_the_call_binds_them_to(call: Call) -> None:
    """For every signature and every call that fits it; further positional ones are a list."""
    assert arguments_of(letter_of(*call), CODEC) == bound(*call)


@given(calls())
@example(AFTER_REST)
def test_an_edit_changes_the_argument_that_it_names_and_no_other(call: Call) -> None:
    """The function is called with that one changed, and all else as it was; `*rest` is refused by name."""
    signature, given_args, _ = call
    kept = letter_of(*call)
    before = bound(*call)
    ctx = ("ctx",) if "ctx" in signature.parameters and given_args else ()
    for name in before:
        if name == "rest":
            with pytest.raises(NotEditable, match="'rest'"):
                edited(kept, {name: NEW}, CODEC, "me")
            continue
        payload = edited(kept, {name: NEW}, CODEC, "me").payload
        assert payload is not None
        args, kwargs = unpack_arguments(payload, CODEC)
        assert bound(signature, (*ctx, *args), kwargs) == before | {name: NEW}


@given(calls())
@example(AFTER_REST)
def test_an_argument_that_was_left_out_is_added_by_its_name(call: Call) -> None:
    """Also one behind those of any number; the function is called with it, and all else as it was."""
    signature, given_args, _ = call
    kept = letter_of(*call)
    before = bound(*call)
    ctx = ("ctx",) if "ctx" in signature.parameters and given_args else ()
    for name, parameter in signature.parameters.items():
        named = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        if named and name != "ctx" and name not in before:
            payload = edited(kept, {name: NEW}, CODEC, "me").payload
            assert payload is not None
            args, kwargs = unpack_arguments(payload, CODEC)
            assert bound(signature, (*ctx, *args), kwargs) == before | {name: NEW}


def test_a_filter_finds_arguments_of_any_number_before_named_ones() -> None:
    """Under their own name, and not under that of the last parameter."""
    kept = letter_of(*AFTER_REST)
    assert Filter.parse("arg.rest=[2,3] arg.rest.0=2").meets(kept, CODEC)
    assert not Filter(arguments={"k0.0": 2}).meets(kept, CODEC)


def test_a_context_by_position_leaves_an_argument_of_its_name() -> None:
    """In `f(ctx, /, **more)` that is an argument like any."""
    signature = inspect.signature(lambda ctx, /, **more: None)
    assert arguments_of(letter_of(signature, ("ctx",), {"ctx": 1}), CODEC) == {"ctx": 1}
