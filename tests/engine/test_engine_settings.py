"""Settings are checked at decoration: the error names the argument, its value and the cure."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobguard import (
    JobGuard,
    constant,
    dead_letter,
    deduplicated,
    exponential,
    fallback,
    fibonacci,
    linear,
    retrying,
    time_limit,
)
from jobguard.errors import ConfigurationError, JobGuardError
from jobguard.stores.memory import MemoryStore


async def task(ctx: object, message_id: str, text: str = "") -> str:
    return text


async def no_parameters() -> None: ...


def sync(message_id: str) -> None: ...


def generator(message_id: str) -> Iterator[int]:
    yield 1


async def async_generator(message_id: str) -> AsyncIterator[int]:
    yield 1


class Callable_:
    async def __call__(self, message_id: str) -> None: ...


deduplicate: Any = deduplicated
retry: Any = retrying
letter: Any = dead_letter
fall_back: Any = fallback
limit: Any = time_limit


def refused(decorate: Callable[[], object]) -> str:
    """The message of the error that decoration raises."""
    with pytest.raises(ConfigurationError) as caught:
        decorate()
    assert isinstance(caught.value, TypeError | ValueError)
    assert isinstance(caught.value, JobGuardError)
    return str(caught.value)


# --- what is decorated ---------------------------------------------------------------------------

DECORATORS = [
    pytest.param(deduplicated, id="@deduplicated"),
    pytest.param(deduplicated(key="{message_id}"), id="@deduplicated(...)"),
    pytest.param(retrying, id="@retrying"),
    pytest.param(retrying(attempts=2), id="@retrying(...)"),
    pytest.param(dead_letter, id="@dead_letter"),
    pytest.param(dead_letter(queue="q"), id="@dead_letter(...)"),
    pytest.param(fallback(None), id="@fallback"),
    pytest.param(time_limit(1), id="@time_limit"),
]


@pytest.mark.parametrize("decorator", DECORATORS)
@pytest.mark.parametrize(
    ("fn", "cure"),
    [
        (sync, "async def"),
        (generator, "generator"),
        (async_generator, "generator"),
        (staticmethod(task), "staticmethod"),
        (classmethod(task), "classmethod"),
    ],
    ids=["sync", "generator", "async-generator", "staticmethod", "classmethod"],
)
def test_only_coroutine_functions_are_decorated(
    decorator: Any, fn: Any, cure: str, request: pytest.FixtureRequest
) -> None:
    """Sync functions, generators and descriptors are refused; the message names decorator, thing and cure."""
    message = refused(lambda: decorator(fn))
    name = request.node.callspec.id.split("@")[1].partition("(")[0]
    assert f"@{name}" in message
    assert cure in message
    assert getattr(fn, "__name__", "") in message


@pytest.mark.parametrize("value", [functools.partial(task, None), Callable_()], ids=["partial", "object"])
@pytest.mark.parametrize("decorator", [deduplicate, retry, retry(attempts=2)], ids=["key", "bare", "called"])
def test_what_is_called_like_a_coroutine_function_and_is_none_is_refused(
    decorator: Any, value: object
) -> None:
    """A partial or an object has no name of its own; `@deduplicated` does not take it for a key either."""
    message = refused(lambda: decorator(value))
    assert repr(value) in message
    assert "async def" in message


@pytest.mark.parametrize("value", [1, "task", None, [].append], ids=["int", "str", "None", "builtin"])
def test_something_that_is_no_function_at_all_is_refused(value: object) -> None:
    """By the called form, which takes only functions."""
    assert repr(value) in refused(lambda: retrying(attempts=2)(value))  # type: ignore[arg-type]


def test_a_setting_by_position_is_refused_with_how_it_goes() -> None:
    """`@retrying(3)` is what a user of other libraries writes first."""
    message = refused(lambda: retrying(3))  # type: ignore[call-overload]
    assert "not 3; settings go by keyword, @retrying(setting=...)" in message


def test_a_bare_time_limit_is_refused() -> None:
    """It has no default."""
    assert "write @time_limit(30)" in refused(lambda: limit(task))


@pytest.mark.parametrize(
    "above",
    [deduplicate, retry, retry(attempts=2), letter, limit(1)],
    ids=["deduplicated", "retrying", "retrying(...)", "dead_letter", "time_limit(...)"],
)
def test_a_bare_fallback_is_noticed_by_the_decorator_above(above: Any) -> None:
    """It takes the function for its answer, so that there is none to decorate."""
    assert "write @fallback(value)" in refused(lambda: above(fall_back(task)))


def test_a_bare_fallback_on_top_is_noticed_by_the_first_call() -> None:
    """What the task was to get is taken for a function to decorate."""
    assert "write @fallback(value)" in refused(lambda: fall_back(task)("m1"))


@pytest.mark.parametrize(
    ("name", "decorator"),
    [
        ("@deduplicated", deduplicate()),
        ("@retrying", retry()),
        ("@dead_letter", letter()),
        ("@fallback", fall_back(None)),
        ("@time_limit", limit(1)),
    ],
)
def test_the_same_policy_twice_is_refused(name: str, decorator: Any) -> None:
    """Also with others in between."""
    message = refused(
        lambda: decorator(retrying(decorator(task)) if name != "@retrying" else decorator(task))
    )
    if name == "@retrying":
        message = refused(lambda: decorator(dead_letter(decorator(task))))
    assert name in message
    assert "task" in message
    assert "once" in message


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("{nobody}", "nobody"),
        (("message_id", "nobody"), "nobody"),
        ("{message_id", "{message_id"),
        ("{message_id}}", "{message_id}}"),
        ("{}", "{}"),
        ("{0}", "{0}"),
        ("{message_id!r}", "message_id"),
        ("{message_id:>10}", "message_id"),
        ("message_id", "{message_id}"),
        ("", "''"),
        ((), "()"),
        (("message_id", 1), "1"),
        (5, "5"),
        (["message_id"], "['message_id']"),
        (b"{message_id}", "b'{message_id}'"),
    ],
    ids=repr,
)
def test_a_wrong_key_is_refused(key: object, told: str) -> None:
    """Unknown parameters, malformed templates and other things."""
    message = refused(lambda: deduplicate(key=key)(task))
    assert "key" in message
    assert told in message


def test_an_unknown_key_parameter_is_answered_with_those_there_are() -> None:
    """The cure is in the message."""
    message = refused(lambda: deduplicated(key="{nobody}")(task))
    assert "message_id" in message
    assert "text" in message


def test_a_function_without_parameters_needs_a_key() -> None:
    """All its calls would be the same work."""
    message = refused(lambda: deduplicated(no_parameters))
    assert "no_parameters" in message
    assert "key" in message


@pytest.mark.parametrize(
    "make",
    [lambda: None, lambda a, b, c, d: None, task, Callable_(), functools.partial(task, None)],
    ids=["none", "four", "async", "async-object", "async-partial"],
)
def test_a_key_function_that_cannot_be_called_is_refused(make: object) -> None:
    """It gets the call's arguments, at once."""
    assert "key" in refused(lambda: deduplicate(key=make)(task))


def test_two_keys_are_refused() -> None:
    """One by position and one by name."""
    message = refused(lambda: deduplicate("{message_id}", key="{text}"))
    assert "{message_id}" in message
    assert "{text}" in message


# --- numbers, durations and choices --------------------------------------------------------------

DURATIONS: list[tuple[str, Callable[[Any], object]]] = [
    ("ttl", lambda value: deduplicate(ttl=value)),
    ("seconds", lambda value: limit(value)),
    ("deadline", lambda value: retry(deadline=value)),
    ("initial", lambda value: exponential(value)),
    ("initial", lambda value: linear(value)),
    ("initial", lambda value: fibonacci(value)),
    ("cap", lambda value: exponential(1, cap=value)),
    ("step", lambda value: linear(1, step=value)),
]


@pytest.mark.parametrize(("name", "make"), DURATIONS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(DURATIONS)])
@pytest.mark.parametrize(
    "value", [0, -1, -0.5, timedelta(seconds=-1), float("inf"), float("nan"), "30", True, b"1"], ids=repr
)
def test_a_wrong_duration_is_refused(name: str, make: Callable[[Any], object], value: object) -> None:
    """Negative, zero, endless, or no duration at all."""
    message = refused(lambda: make(value))
    assert name in message
    assert repr(value) in message


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *DURATIONS[:3],
        ("max_retry_after", lambda value: retry(max_retry_after=value)),
        ("backoff", lambda value: retry(backoff=value)),
        ("lease", lambda value: JobGuard(MemoryStore(), lease=value)),
    ],
    ids=["ttl", "seconds", "deadline", "max_retry_after", "backoff", "lease"],
)
@pytest.mark.parametrize(
    "value", [1e16, 10**400, timedelta(days=36_526)], ids=["float", "whole-number", "timedelta"]
)
def test_a_duration_over_a_hundred_years_is_refused(
    name: str, make: Callable[[Any], object], value: object
) -> None:
    """No store could write when it ends. A hundred years are allowed."""
    message = refused(lambda: make(value))
    assert name in message
    assert repr(value) in message
    assert "100 years" in message
    make(timedelta(days=36_525))


def test_a_fixed_delay_is_a_constant_schedule() -> None:
    """It is shown as one, too."""
    assert retrying(backoff=5).policy.backoff == constant(5)


@pytest.mark.parametrize("make", [constant, lambda value: retry(backoff=value)], ids=["constant", "backoff"])
@pytest.mark.parametrize("value", [-1, timedelta(seconds=-1), float("inf"), "30", True], ids=repr)
def test_a_wrong_fixed_delay_is_refused(make: Any, value: object) -> None:
    """Zero is allowed: at once."""
    assert repr(value) in refused(lambda: make(value))
    make(0)


@pytest.mark.parametrize("value", ["fast", [1, -2], (30, 60), {1: 30}, None], ids=repr)
def test_a_backoff_that_is_none_is_answered_with_what_one_is(value: object) -> None:
    """A schedule, a function or one delay."""
    message = refused(lambda: retry(backoff=value))
    assert message.startswith("backoff must be a schedule such as exponential(30, cap=600)")
    assert repr(value) in message
    assert ("lambda n: delays" in message) is isinstance(value, list | tuple)


@pytest.mark.parametrize("make", [exponential, linear, fibonacci, constant])
def test_what_makes_a_schedule_is_none(make: Any) -> None:
    """`backoff=exponential` lacks its parentheses, and would answer schedules for seconds."""
    assert f"write {make.__name__}(30)" in refused(lambda: retrying(backoff=make))


@pytest.mark.parametrize("make", [exponential, linear, fibonacci])
def test_a_cap_below_initial_is_refused(make: Any) -> None:
    """Both values are named."""
    message = refused(lambda: make(30, cap=10))
    assert "cap" in message
    assert "30" in message
    assert "10" in message


@pytest.mark.parametrize("name", ["attempts", "max_crashes", "max_snoozes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True], ids=repr)
def test_a_wrong_count_is_refused(name: str, value: object) -> None:
    """Negative, zero, or no whole number. No snooze at all may be asked for."""
    if name == "max_snoozes" and value == 0 and value is not False:
        retry(max_snoozes=0)
        return
    message = refused(lambda: retry(**{name: value}))
    assert name in message
    assert repr(value) in message


@pytest.mark.parametrize("value", [-1, "1", True, float("nan")], ids=repr)
def test_a_wrong_bound_of_retry_after_is_refused(value: object) -> None:
    """It is a duration."""
    message = refused(lambda: retry(max_retry_after=value))
    assert "max_retry_after" in message
    assert repr(value) in message


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("running", ("skip", "wait", "raise", "defer")),
        ("done", ("replay", "skip", "raise", "run")),
        ("mismatch", ("event", "raise")),
    ],
)
@pytest.mark.parametrize("value", ["ignore", "", None, 1, ("skip",), ["skip"]], ids=repr)
def test_a_wrong_choice_is_answered_with_all_of_them(
    name: str, choices: tuple[str, ...], value: object
) -> None:
    """Whatever its type."""
    message = refused(lambda: deduplicate(**{name: value}))
    assert name in message
    assert repr(value) in message
    assert all(choice in message for choice in choices)


@pytest.mark.parametrize("value", ["", 5, b"scope"], ids=repr)
def test_a_wrong_scope_is_refused(value: object) -> None:
    """It is a name."""
    message = refused(lambda: deduplicate(key="{message_id}", scope=value)(task))
    assert "scope" in message


# --- exceptions ----------------------------------------------------------------------------------

ON: list[tuple[str, Callable[[Any], object]]] = [
    ("on", lambda value: retry(on=value)),
    ("never", lambda value: retry(never=value)),
    ("on", lambda value: fall_back(None, on=value)),
    ("per", lambda value: retry(per={value: retrying()})),
]
IDS = ["retrying-on", "retrying-never", "fallback-on", "retrying-per"]


@pytest.mark.parametrize(("name", "make"), ON, ids=IDS)
@pytest.mark.parametrize(
    "value", [BaseException, asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit]
)
def test_what_ends_a_process_is_never_handled(name: str, make: Callable[[Any], object], value: type) -> None:
    """`BaseException`, cancellation and exits are refused; the message names the one."""
    message = refused(lambda: make(value))
    assert name in message
    assert value.__name__ in message
    assert "Exception" in message


@pytest.mark.parametrize(("name", "make"), ON[:3], ids=IDS[:3])
def test_one_of_several_that_ends_a_process_is_refused_too(name: str, make: Callable[[Any], object]) -> None:
    """In a tuple."""
    message = refused(lambda: make((ValueError, asyncio.CancelledError)))
    assert name in message
    assert "CancelledError" in message


@pytest.mark.parametrize(("name", "make"), ON, ids=IDS)
@pytest.mark.parametrize("value", [5, "ValueError", int, None, (ValueError, 5)], ids=repr)
def test_what_is_no_exception_type_is_refused(
    name: str, make: Callable[[Any], object], value: object
) -> None:
    """The value is named."""
    message = refused(lambda: make(value))
    assert name in message
    assert repr(value) in message


@pytest.mark.parametrize("value", [[ValueError], {ValueError}], ids=["list", "set"])
def test_several_types_go_into_a_tuple(value: object) -> None:
    """As `except` has it."""
    assert "tuple" in refused(lambda: retry(on=value))


def test_an_async_predicate_is_refused() -> None:
    """Its coroutine would be true whatever it says."""

    async def predicate(error: Exception) -> bool:
        return False

    message = refused(lambda: retry(on=predicate))
    assert "on" in message
    assert "predicate" in message


@pytest.mark.parametrize(
    "value", [5, "retrying", dead_letter(), {}], ids=["int", "str", "dead_letter", "dict"]
)
def test_settings_per_error_are_made_by_retrying(value: object) -> None:
    """Anything else is refused and named."""
    message = refused(lambda: retry(per={ValueError: value}))
    assert "per" in message
    assert repr(value) in message


@pytest.mark.parametrize(
    "value", [[(ValueError, retrying())], retrying(), 5], ids=["list", "retrying", "int"]
)
def test_settings_per_error_are_a_dict(value: object) -> None:
    """From exception type to settings."""
    message = refused(lambda: retry(per=value))
    assert "per must be a dict" in message
    assert repr(value) in message


def test_several_types_in_one_entry_of_per_are_refused() -> None:
    """They would never match; the message says to write an entry for each."""
    message = refused(lambda: retry(per={(ValueError, OSError): retrying()}))
    assert repr((ValueError, OSError)) in message
    assert "entry for each" in message


@pytest.mark.parametrize("name", ["backoff", "retry_after"])
@pytest.mark.parametrize(
    "value",
    [task, functools.partial(task, None), Callable_(), functools.partial(Callable_())],
    ids=["function", "partial", "object", "partial-of-object"],
)
def test_an_async_function_for_a_delay_is_refused(name: str, value: object) -> None:
    """Its coroutine is no number of seconds."""
    message = refused(lambda: retry(**{name: value}))
    assert f"{name} must be a plain function" in message
    assert repr(value) in message


@pytest.mark.parametrize("value", [5, "header"], ids=repr)
def test_retry_after_is_a_function(value: object) -> None:
    """From exception to seconds."""
    message = refused(lambda: retry(retry_after=value))
    assert "retry_after" in message
    assert repr(value) in message


# --- dead letters --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "a b", "a{b}", "a\nb", "x" * 201, None, 5], ids=repr)
def test_a_wrong_queue_name_is_refused(value: object) -> None:
    """It becomes part of a key in the store."""
    message = refused(lambda: letter(queue=value))
    assert "queue" in message
    assert repr(value) in message


@pytest.mark.parametrize("value", ["content", (5,), ("",), None, 5], ids=repr)
def test_wrong_names_to_redact_are_refused(value: object) -> None:
    """A string alone would be taken for its letters."""
    assert "redact" in refused(lambda: letter(redact=value))


@pytest.mark.parametrize("name", ["nope", "nope.phone", "texts", "*text"])
@pytest.mark.parametrize("below", [task, retrying(task)], ids=["function", "guarded"])
def test_redacting_what_is_no_parameter_is_refused(name: str, below: Any) -> None:
    """A slip of the pen would leave a secret in clear; the parameters there are are named."""
    message = refused(lambda: letter(redact=("text", name))(below))
    assert repr(name) in message
    assert "ctx, message_id, text" in message


@pytest.mark.parametrize("path", ["customer.", ".customer", "customer..phone", "."])
def test_a_redacted_path_with_an_odd_dot_is_refused(path: str) -> None:
    """It would lead nowhere, and leave a secret in clear."""
    message = refused(lambda: letter(redact=("text", path)))
    assert f"redact must be names with dots between, not {path!r}" in message


def test_parts_and_the_rest_of_the_positional_arguments_can_be_redacted() -> None:
    """By a path from a parameter, and by the name behind the star."""

    async def with_rest(customer: object, *rest: object) -> None: ...

    letter(redact=("customer.phone", "rest"))(with_rest)


def test_a_function_that_takes_any_name_may_redact_any() -> None:
    """It is not known which there will be."""

    async def open_ended(message_id: str, **more: object) -> None: ...

    letter(redact=("phone",))(open_ended)


@pytest.mark.parametrize("value", [5, "old.jsonl", Path("old.jsonl")], ids=repr)
def test_on_evict_is_a_function(value: object) -> None:
    """The file where letters are to go is answered with what writes it."""
    message = refused(lambda: letter(on_evict=value))
    assert f"on_evict must be a function of the letters, not {value!r}" in message
    assert (f"; write spill_to({value!r})" in message) is (value != 5)


def test_an_async_on_evict_is_refused() -> None:
    """Nothing would await it, and the letters would go."""
    assert "on_evict must be a plain function" in refused(lambda: letter(on_evict=task))


@pytest.mark.parametrize("value", [None, 0, "no"], ids=repr)
def test_payload_is_true_or_false(value: object) -> None:
    """Nothing else."""
    message = refused(lambda: letter(payload=value))
    assert "payload" in message
    assert repr(value) in message


# --- guards -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("codec", "x"),
        ("codec", 0),
        ("hooks", print),
        ("hooks", (1,)),
        ("hooks", 5),
        ("lease", 0.049),
        ("on_store_error", "x"),
    ],
)
def test_a_wrong_setting_of_a_guard_is_refused(name: str, value: object) -> None:
    """When the guard is made, not when a job needs it."""
    make: Any = JobGuard
    message = refused(lambda: make(MemoryStore(), **{name: value}))
    assert name in message
    assert repr(value[0] if isinstance(value, tuple) else value) in message


# --- positional ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: retry(ValueError),
        lambda: retry(3),
        lambda: letter("queue"),
        lambda: deduplicate("{message_id}", "scope"),
        lambda: fall_back(1, ValueError),
        lambda: fall_back(),
        lambda: limit(),
        lambda: limit(1, 2),
    ],
    ids=[
        "retrying(type)",
        "retrying(3)",
        "dead_letter",
        "deduplicated",
        "fallback",
        "fallback()",
        "limit()",
        "limit2",
    ],
)
def test_all_else_is_keyword_only(call: Callable[[], object]) -> None:
    """Only `key`, an answer and a limit have a place."""
    with pytest.raises(TypeError):
        call()
