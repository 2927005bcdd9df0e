"""Keys from calls: which spellings are one call, what templates cover, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from jobguard.errors import ConfigurationError, InvalidType, InvalidValue, KeyNotEncodable
from jobguard.keys import Key, compile_key

Function = Callable[..., object]


@dataclass
class Event:
    id: object
    parts: tuple[str, ...] = ()


async def send(ctx: object, to: str, content: str = "hello", message_id: str = "m") -> None: ...


async def handle(event: object, note: str = "") -> None: ...


def key_of(fn: Function, *args: object, key: Any = None, scope: str | None = None, **kwargs: object) -> Key:
    return compile_key(fn, key=key, scope=scope)(args, kwargs)


# --- spelling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "{to}:{message_id}", ("to", "message_id"), lambda *args: args])
def test_positional_keyword_and_default_spellings_are_one_call(key: object) -> None:
    """How arguments were passed is no part of the key or the fingerprint."""
    make = compile_key(send, key=key, scope=None)  # type: ignore[arg-type]
    ctx = object()
    spellings: list[tuple[tuple[object, ...], Mapping[str, object]]] = [
        ((ctx, "x"), {}),
        ((ctx, "x", "hello"), {}),
        ((ctx, "x", "hello", "m"), {}),
        ((ctx,), {"to": "x"}),
        ((ctx,), {"message_id": "m", "to": "x"}),
        ((), {"content": "hello", "ctx": ctx, "to": "x"}),
    ]
    assert len({make(args, kwargs) for args, kwargs in spellings}) == 1


def test_variadic_arguments_are_part_of_all_arguments() -> None:
    """`*args` count in their order, `**kwargs` in none."""

    async def task(first: int, /, *rest: int, flag: bool = False, **options: int) -> None: ...

    make = compile_key(task, key=None, scope=None)
    assert make((1, 2, 3), {"a": 1, "b": 2}) == make((1, 2, 3), {"b": 2, "flag": False, "a": 1})
    assert make((1, 2, 3), {}) != make((1, 3, 2), {})
    assert make((1, 2), {"a": 1}) != make((1, 2), {"b": 1})
    assert make((1,), {"flag": True}) != make((1,), {})


def test_a_positional_only_parameter_may_share_its_name_with_an_option() -> None:
    """`f(1, a=2)` fits `f(a, /, **options)`: both values count."""

    async def task(a: int, /, **options: int) -> None: ...

    make = compile_key(task, key=None, scope=None)
    assert make((1,), {"a": 2}) != make((1,), {"a": 3})
    assert make((1,), {"a": 2}) != make((2,), {"a": 2})


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("ctx", lambda ctx, to: None),
        ("self", lambda self, to: None),
        ("cls", lambda cls, to: None),
    ],
)
def test_a_first_parameter_for_context_is_left_out(name: str, task: Function) -> None:
    """The queue's context and the instance of a method say nothing of the work."""
    make = compile_key(task, key=None, scope=None)
    assert make((object(), "x"), {}) == make((None,), {"to": "x"}) == make((), {name: {}, "to": "x"})
    assert make((None, "x"), {}) != make((None, "y"), {})


def test_a_context_name_further_back_is_an_ordinary_parameter() -> None:
    """Only the first parameter is left out."""

    async def task(to: str, ctx: str) -> None: ...

    assert key_of(task, "x", "1") != key_of(task, "x", "2")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((None,), {}),
        ((None, 1, 2, 3, 4), {}),
        ((None, 1), {"to": 1}),
        ((None, 1), {"unknown": 1}),
        ((None,), {"content": "c", "unknown": 1}),
    ],
    ids=repr,
)
def test_a_call_that_does_not_fit_is_an_ordinary_type_error(
    args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Wrong arguments are the caller's mistake, reported as Python would, with the task's name."""
    with pytest.raises(TypeError, match=r"^send\(\): ") as caught:
        compile_key(send, key="{message_id}", scope=None)(args, kwargs)
    assert not isinstance(caught.value, KeyNotEncodable)


# --- what a key covers ---------------------------------------------------------------------------


def test_digest_and_fingerprint_have_the_promised_form() -> None:
    """32 hex characters, and 22 of url-safe base64."""
    digest, fingerprint = key_of(send, None, "x", key="{to}")
    assert len(digest) == 32
    assert set(digest) <= set("0123456789abcdef")
    assert len(fingerprint) == 22
    assert fingerprint.replace("-", "a").replace("_", "a").isalnum()


def test_a_template_covers_only_what_it_names() -> None:
    """Other arguments change the fingerprint, not the digest."""
    first = key_of(send, None, "x", "one", "id", key="{message_id}")
    second = key_of(send, None, "y", "two", "id", key="{message_id}")
    assert first.digest == second.digest
    assert first.fingerprint != second.fingerprint


def test_the_context_is_not_in_the_fingerprint() -> None:
    """A redelivery comes with another context and the same payload."""
    assert key_of(send, object(), "x", key="{to}") == key_of(send, None, "x", key="{to}")


@pytest.mark.parametrize(
    "key", [None, ("to", "content", "message_id"), "{to}{content}{message_id}"], ids=repr
)
def test_a_key_over_all_arguments_has_no_fingerprint(key: Any) -> None:
    """With nothing outside the key there is nothing to compare."""
    assert key_of(send, None, "x", key=key).fingerprint == ""


def test_a_template_reaches_attributes_and_items() -> None:
    """`{event.id}` reads an attribute, `{event[id]}` an item, digits an index; they can be mixed."""
    by_attribute = key_of(handle, Event(7), key="{event.id}", scope="s").digest
    assert by_attribute == key_of(handle, {"id": 7}, key="{event[id]}", scope="s").digest
    assert by_attribute == key_of(handle, [0, 7], key="{event[1]}", scope="s").digest
    assert by_attribute == key_of(handle, Event({"a": [7]}), key="{event.id[a][0]}", scope="s").digest
    assert by_attribute != key_of(handle, Event("7"), key="{event.id}", scope="s").digest


def test_a_parameter_only_partly_in_the_key_is_in_the_fingerprint() -> None:
    """`{event.id}` leaves the rest of the event out, and that may differ."""
    first = key_of(handle, Event(1, ("a",)), key="{event.id}")
    second = key_of(handle, Event(1, ("b",)), key="{event.id}")
    assert first.digest == second.digest
    assert first.fingerprint != second.fingerprint


def test_values_next_to_each_other_do_not_run_together() -> None:
    """`"{a}:{b}"` is no text formatting: separators inside values change nothing."""

    async def task(a: str, b: str) -> None: ...

    for key in ("{a}:{b}", "{a}{b}", ("a", "b"), None):
        assert key_of(task, "a:b", "c", key=key) != key_of(task, "a", "b:c", key=key)
        assert key_of(task, "ab", "c", key=key) != key_of(task, "a", "bc", key=key)
        assert key_of(task, "", "c", key=key) != key_of(task, "c", "", key=key)


def test_literal_text_of_a_template_counts() -> None:
    """Tasks that share a scope can keep apart by a word in their templates."""
    keys = ["{to}", "sms {to}", "wa {to}", "{to} sms", "{{}}{to}", "{{}} {to}"]
    assert len({key_of(send, None, "x", key=key, scope="s").digest for key in keys}) == len(keys)


def test_a_template_may_name_something_in_the_context() -> None:
    """What is left out of all arguments can still be asked for, in parts."""
    make = compile_key(send, key="{ctx[tenant]} {to}", scope=None)
    assert make(({"tenant": 1}, "x"), {}) != make(({"tenant": 2}, "x"), {})


def test_a_callable_gets_the_arguments_without_context_and_with_defaults() -> None:
    """Positional where they can be, else by keyword."""
    seen: list[object] = []

    async def task(ctx: object, to: str, text: str = "hi", *, urgent: bool = False) -> None: ...

    def key(to: str, words: str, *, urgent: bool) -> str:
        seen.append((to, words, urgent))
        return to

    first = key_of(task, None, "x", key=key)
    second = key_of(task, None, text="other", to="x", urgent=True, key=key)
    assert seen == [("x", "hi", False), ("x", "other", True)]
    assert first.digest == second.digest
    assert first.fingerprint != second.fingerprint


def test_a_callable_gets_variadic_arguments_spread_out() -> None:
    """As the task itself would."""

    async def task(first: int, *rest: int, **options: int) -> None: ...

    key = compile_key(task, key=lambda *args, **kwargs: (args, kwargs), scope="s")
    same = compile_key(send, key=lambda *args: ((1, 2, 3), {"a": 4}), scope="s")
    assert key((1, 2, 3), {"a": 4}).digest == same((None, "x"), {}).digest


def test_a_builtin_serves_as_callable_key() -> None:
    """Some builtins do not tell their parameters; they are taken at their word."""

    async def task(value: object) -> None: ...

    assert key_of(task, 1, key=str, scope="s").digest == key_of(task, "1", key=str, scope="s").digest


def test_an_error_of_a_callable_key_goes_to_the_caller() -> None:
    """It is the user's function, so its exception is left as it is."""

    def key(event: object, note: str) -> str:
        raise LookupError("no id")

    with pytest.raises(LookupError, match="no id"):
        key_of(handle, {}, key=key)


def test_a_key_is_the_same_for_two_functions_of_one_scope() -> None:
    """A shared scope shares keys; the default scope keeps functions apart."""

    async def deliver(recipient: str) -> None: ...

    assert key_of(send, None, "x", key="{to}", scope="wa").digest == (
        key_of(deliver, "x", key="{recipient}", scope="wa").digest
    )
    assert key_of(send, None, "x", key="{to}").digest != key_of(deliver, "x", key="{recipient}").digest


def test_the_default_scope_is_module_and_qualified_name() -> None:
    """Which is what to give as scope to keep the keys of a task that moves."""
    scope = f"{__name__}.send"
    assert key_of(send, None, "x") == key_of(send, None, "x", scope=scope)


def run_script(*command: str, cwd: Path) -> str:
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, check=True, capture_output=True, text=True, timeout=120
    ).stdout.strip()


SCRIPT = dedent("""
    import sys
    from dataclasses import dataclass
    from jobguard.keys import compile_key

    @dataclass
    class Event:
        id: int

    async def task(event): ...

    if __name__ == "__main__":
        sys.stdout.write(compile_key(task, key=None, scope=None)((Event(1),), {}).digest)
""")


@pytest.mark.parametrize("as_module", [True, False], ids=["python -m", "python file"])
def test_a_script_has_the_keys_of_the_module_it_is(tmp_path: Path, as_module: bool) -> None:
    """A web process imports the tasks that its worker runs as `__main__`: they must agree."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "tasks.py").write_text(SCRIPT)
    if as_module:
        printed = run_script("-m", "package.tasks", cwd=tmp_path)
        name, home = "package.tasks", tmp_path
    else:
        printed = run_script("package/tasks.py", cwd=tmp_path)
        name, home = "tasks", tmp_path / "package"
    importing = (
        f"import sys; sys.path.insert(0, {str(home)!r})\n"
        f"from {name} import Event, task\n"
        "from jobguard.keys import compile_key\n"
        "sys.stdout.write(compile_key(task, key=None, scope=None)((Event(1),), {}).digest)\n"
    )
    assert printed == run_script("-c", importing, cwd=tmp_path)


def test_typed_in_code_keeps_the_name_of_its_module(tmp_path: Path) -> None:
    """There is neither a file nor a spec to take another name from."""
    both = SCRIPT.replace(
        "sys.stdout.write(compile_key(task, key=None, scope=None)((Event(1),), {}).digest)",
        "keys = {compile_key(task, key=None, scope=s)((1,), {}) for s in (None, '__main__.task')}\n"
        "    sys.stdout.write(str(len(keys)))",
    )
    assert run_script("-c", both, cwd=tmp_path) == "1"


# --- refused at decoration -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "kind", "words"),
    [
        ("{unknown}", InvalidValue, ["'{unknown}'", "'unknown'", "send", "message_id"]),
        (("to", "unknown"), InvalidValue, ["('to', 'unknown')", "'unknown'", "message_id"]),
        (("to", "event.id"), InvalidValue, ["'event.id'"]),
        ("{unknown.id}", InvalidValue, ["'unknown'"]),
        ("{message_id", InvalidValue, ["'{message_id'", "{message_id}"]),
        ("message_id}", InvalidValue, ["'message_id}'"]),
        ("{to[}", InvalidValue, ["'{to[}'"]),
        ("{}", InvalidValue, ["'{}'", "name a parameter"]),
        ("{0}", InvalidValue, ["'{0}'", "name a parameter"]),
        ("{to.}", InvalidValue, ["'{to.}'"]),
        ("{to[]}", InvalidValue, ["'{to[]}'"]),
        ("{to id}", InvalidValue, ["'{to id}'"]),
        ("{to!r}", InvalidValue, ["'{to!r}'", "write {to} alone"]),
        ("{to:>10}", InvalidValue, ["'{to:>10}'", "write {to} alone"]),
        ("", InvalidValue, ["''", "no field"]),
        ("send", InvalidValue, ["'send'", "no field"]),
        ("{{to}}", InvalidValue, ["'{{to}}'", "no field"]),
        ("to", InvalidValue, ["'to'", "write '{to}'"]),
        ((), InvalidValue, ["()", "at least one"]),
        (["to"], InvalidType, ["['to']", "tuple"]),
        (("to", 1), InvalidType, ["('to', 1)", "1 is not text"]),
        (7, InvalidType, ["7", "template"]),
        (b"{to}", InvalidType, ["b'{to}'"]),
        (lambda to: to, InvalidValue, ["send", "to, content, message_id"]),
        (lambda: 1, InvalidValue, ["send"]),
    ],
)
def test_a_key_that_cannot_work_is_refused_at_decoration(
    key: Any, kind: type[ConfigurationError], words: list[str]
) -> None:
    """The error names the argument, its value and the cure."""
    with pytest.raises(kind, match=r"^key ") as caught:
        compile_key(send, key=key, scope=None)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("key", ["{ctx}", "{message_id} {ctx}", ("message_id", "ctx")])
def test_a_key_over_the_whole_context_is_refused(key: Any) -> None:
    """No two jobs have the same one, so nothing would ever be a duplicate."""
    with pytest.raises(InvalidValue, match="'ctx', which is no argument of the job") as caught:
        compile_key(send, key=key, scope=None)
    for word in (repr(key), "to, content, message_id", "{ctx[tenant]}"):
        assert word in str(caught.value)


def test_a_key_over_a_whole_object_is_refused_on_its_methods() -> None:
    """A part of it is what is meant."""

    class Account:
        async def close(self) -> None: ...

    with pytest.raises(InvalidValue, match=r"'\{self\.id\}'"):
        compile_key(Account.close, key="{self}", scope=None)
    compile_key(Account.close, key="{self.id}", scope=None)


def test_an_asynchronous_callable_is_refused() -> None:
    """A key is needed before anything can be awaited."""

    async def key(*args: object) -> str:
        return ""

    class Key:
        async def __call__(self, *args: object) -> str:
            return ""

    for wrong in (key, Key()):
        with pytest.raises(InvalidType, match="coroutine function"):
            compile_key(send, key=wrong, scope=None)


def test_all_arguments_of_a_function_without_any_are_refused() -> None:
    """All its calls would be one job."""

    async def tick() -> None: ...

    async def tock(ctx: object) -> None: ...

    for fn in (tick, tock):
        with pytest.raises(InvalidValue, match=r"key=None .*(tick|tock) has none"):
            compile_key(fn, key=None, scope=None)


def test_a_function_without_parameters_may_have_a_callable_key() -> None:
    """One job a day, say."""

    async def tick() -> None: ...

    assert key_of(tick, key=lambda: "monday") != key_of(tick, key=lambda: "tuesday")
    assert key_of(tick, key=lambda: "monday").fingerprint == ""


@pytest.mark.parametrize(("scope", "kind"), [("", InvalidValue), (7, InvalidType), (b"s", InvalidType)])
def test_a_scope_that_names_nothing_is_refused(scope: Any, kind: type[ConfigurationError]) -> None:
    """It has to be text that says which work is meant."""
    with pytest.raises(kind, match=r"^scope ") as caught:
        compile_key(send, key=None, scope=scope)
    assert repr(scope) in str(caught.value)


# --- refused at the call -------------------------------------------------------------------------


class Opaque:
    """Nothing says what makes two of these equal."""


class Money(int):
    """A number with an `==` of its own."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = int.__hash__


def cyclic() -> list[object]:
    ring: list[object] = []
    ring.append(ring)
    return ring


def deep() -> object:
    value: object = 0
    for _ in range(100_000):
        value = (value,)
    return value


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (Opaque(), "event is of type"),
        ([1, {"a": (Opaque(),)}], "event[1]['a'][0] is of type"),
        ({Opaque(): 1}, "event[…] (a key) is of type"),
        ({(1, 2): Opaque()}, "event[…] is of type"),
        ({1, Opaque()}, "event (a member) is of type"),
        (Event(Opaque()), "event.id is of type"),
        (Money(3), "== of its own"),
        (Opaque, "builtins.type"),
        (print, "builtin_function_or_method"),
        (iter(()), "tuple_iterator"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_encoded_is_named_at_the_call(value: object, where: str) -> None:
    """The error names the parameter, the way to the value, and its type."""
    with pytest.raises(KeyNotEncodable) as caught:
        key_of(handle, value)
    assert str(caught.value).startswith("argument 'event' of handle cannot be part of a key: ")
    assert where in str(caught.value)


@pytest.mark.parametrize("value", [cyclic(), deep(), {"a": cyclic()}], ids=["ring", "deep", "in a dict"])
def test_endless_nesting_is_a_clear_error(value: object) -> None:
    """Neither a hang nor a `RecursionError`."""
    with pytest.raises(KeyNotEncodable, match="nested more than 64 deep, or contains itself"):
        key_of(handle, value)


@pytest.mark.parametrize(
    ("key", "event", "words"),
    [
        ("{event.id}", {"id": 1}, ["attribute 'id'", "builtins.dict", "(an item is written [id])"]),
        ("{event.id}", None, ["attribute 'id'", "NoneType"]),
        ("{event[id]}", {}, ["item 'id'"]),
        ("{event[3]}", [1], ["item 3"]),
        ("{event.id.x}", Event(1), ["attribute 'x'", "builtins.int"]),
    ],
)
def test_a_template_that_leads_nowhere_names_the_parameter(key: str, event: object, words: list[str]) -> None:
    """With what Python said as its cause."""
    with pytest.raises(KeyNotEncodable, match=r"^argument 'event' of handle .*event[.\[]") as caught:
        key_of(handle, event, key=key)
    assert all(word in str(caught.value) for word in words)
    assert isinstance(caught.value.__cause__, (AttributeError, LookupError))


def test_a_result_of_a_callable_key_that_cannot_be_encoded_is_named() -> None:
    """There is no parameter to name, so it says whose key it was."""
    with pytest.raises(KeyNotEncodable, match=r"result of the callable key of handle .* result\[0\] is of"):
        key_of(handle, 1, key=lambda event, note: [Opaque()])


def test_an_argument_outside_the_key_never_fails_the_call() -> None:
    """What cannot be encoded there is known to the fingerprint by its type."""
    first = key_of(handle, Opaque(), "n", key="{note}")
    assert first == key_of(handle, Opaque(), "n", key="{note}")
    assert first.fingerprint != key_of(handle, [Opaque()], "n", key="{note}").fingerprint
