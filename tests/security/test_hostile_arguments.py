"""Arguments and results: objects that break when they are looked at, and texts that pose as values."""

from __future__ import annotations

import json
import resource
import sys
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobguard import JobGuard, canonical, dead_letter, deduplicated, fallback
from jobguard.codec import LARGEST, Codec, preview, printable, redactor
from jobguard.errors import EncodingTooLarge, JobGuardError, KeyNotEncodable, NotEncodable
from jobguard.scalars import SCALARS
from jobguard.stores import MemoryStore
from tests.security.canary import NAME, nothing_runs, trap

pytestmark = pytest.mark.anyio


class Broken:
    """Everything that is asked of it raises."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):  # even `isinstance` asks for those
            return super().__getattribute__(name)
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")


class BrokenDict(dict[str, object]):
    def items(self) -> Any:
        raise RuntimeError("items")

    def __iter__(self) -> Any:
        raise RuntimeError("iter")


class BrokenList(list[object]):
    def __iter__(self) -> Any:
        raise RuntimeError("iter")

    def __len__(self) -> int:
        raise RuntimeError("len")


@dataclass
class BrokenField:
    value: object = None

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            raise RuntimeError("value")
        return super().__getattribute__(name)


class BrokenText(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError("len")

    def __getitem__(self, _: Any) -> str:
        raise RuntimeError("getitem")


def itself() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def itself_by_name() -> dict[str, object]:
    value: dict[str, object] = {}
    value["a"] = value["b"] = value
    return value


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"inner": [value]}
    return value


ARGUMENTS: dict[str, Any] = {
    "broken": Broken(),
    "a broken dict": BrokenDict(a=1),
    "a broken list": BrokenList([1]),
    "a broken field": BrokenField(),
    "a broken text": BrokenText("text"),
    "itself": itself(),
    "itself by name": itself_by_name(),
    "nested deep": nested(50_000),
    "a number without end": 10**10_000,
    "surrogates": "\ud800" * 10,
    "odd names": {"\x1b]0;x\x07": "\u202e", "\ud800": 1},
    "bytes": bytes(range(256)) * 10,
}


@pytest.mark.parametrize("name", ARGUMENTS)
async def test_whatever_an_argument_is_its_job_leaves_a_letter(name: str) -> None:
    """The letter is kept with what can be shown; only a key refuses what it cannot hold."""
    guard = JobGuard(MemoryStore())

    @fallback("answered")
    @dead_letter(redact=("argument.secret",))
    async def task(argument: object) -> str:
        raise ValueError("no")

    async with guard:
        assert await task(ARGUMENTS[name]) == "answered"
    [letter] = (await guard.dead_letters().list()).entries
    assert printable(letter.preview) == letter.preview
    assert len(letter.preview) <= 4096


@pytest.mark.parametrize("name", ARGUMENTS)
async def test_whatever_an_argument_is_a_key_has_it_or_refuses_it(name: str) -> None:
    """No other error than the documented one."""

    @deduplicated
    async def task(argument: object) -> str:
        return "done"

    async with JobGuard(MemoryStore()):
        with suppress(KeyNotEncodable):
            assert await task(ARGUMENTS[name]) == "done"


@pytest.mark.parametrize("name", ARGUMENTS)
async def test_whatever_a_result_is_it_comes_back_to_the_caller(name: str) -> None:
    """Work that is done does not fail for what its result is."""

    @deduplicated(key="{number}")
    async def task(number: int) -> object:
        return ARGUMENTS[name]

    async with JobGuard(MemoryStore()):
        assert await task(1) is ARGUMENTS[name]


# --- texts -----------------------------------------------------------------------------------


class Colour(Enum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Item:
    name: str
    inner: Any = None


class Model(pydantic.BaseModel):
    name: str
    items: list[Point] = []


ANNOTATION = Item | Point | Colour | Model | dict[str, Item] | list[Model] | tuple[Item, ...] | set[Point]
TAGS = [*(scalar.tag for scalar in SCALARS.values()), "$tuple", "$set", "$frozenset", "$dict", "$as", "$of"]
CLASSES = ["Item", "Point", "Colour", "Model", NAME, "os.system", "builtins.eval", "__main__.Item"]

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["RED", "Europe/Berlin", "../../etc/passwd", "/etc/passwd", "2026-11-24T09:00", "1e999999999"]
    )
    | st.sampled_from(CLASSES)
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*TAGS, "name", "inner", "items", "x", "y", "at", "zone"]), inner, max_size=3
        )
        | st.builds(lambda tag, body: {tag: body}, st.sampled_from(TAGS), inner)
        | st.builds(lambda name, body: {"$of": [name, body]}, st.sampled_from(CLASSES), inner)
    ),
    max_leaves=20,
)


@given(trees)
def test_a_text_is_read_as_what_the_annotation_names_or_refused(tree: object) -> None:
    """Whatever its tags and names say; and what was read can be written, or is refused, too."""
    with nothing_runs(Path("/nonexistent")):
        try:
            value = Codec().decode(json.dumps(tree), ANNOTATION)
        except NotEncodable:
            return
        try:
            again = Codec().decode(Codec().encode(value, ANNOTATION), ANNOTATION)
        except NotEncodable:
            return
        assert type(again) is type(value)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"$tuple":[', '{"$dict":[[', '{"$of":["Item",{"inner":'])
@pytest.mark.parametrize("depth", [60, 500, 990, 1_000_000])
def test_a_text_nested_deep_is_refused(opening: str, depth: int) -> None:
    """Complete or cut off, at the edge of the interpreter's own limit and far beyond."""
    closing = "".join({"[": "]", "{": "}"}[each] for each in reversed(opening) if each in "[{")
    for text in (opening * depth, opening * depth + "1" + closing * depth):
        try:
            Codec().decode(text, Item)
        except NotEncodable as error:
            assert len(str(error)) < 1_000  # noqa: PT017 - what is not nested deep may be a value
        else:
            assert depth == 60


def test_no_text_makes_more_of_itself() -> None:
    """What is read takes some tens of times its text's size at most: no text is a bomb."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for text in (
        '{"$int":"' + "f" * 1_000_000 + '"}',
        '{"$decimal":"1e999999999"}',
        '{"$set":[' + ",".join(map(str, range(100_000))) + "]}",
        "[" + "[]," * 300_000 + "[]]",
        '{"$bytes":"' + "A" * 1_000_000 + '"}',
        '{"$timedelta":[999999999,0,0]}',
    ):
        Codec().decode(text)
    factor = 1024 if sys.platform == "darwin" else 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000 * factor


def test_a_pickle_is_a_text_like_any_other(tmp_path: Path) -> None:
    """Bytes that hold a pickle are bytes."""
    raw = trap(tmp_path / "sprung")
    with nothing_runs(tmp_path / "sprung"):
        assert Codec().decode(Codec().encode(raw)) == raw
        with pytest.raises(JobGuardError):
            Codec().decode(raw.decode("latin-1"))


@given(st.lists(trees, max_size=3), st.lists(st.text(max_size=5), max_size=3))
def test_any_arguments_can_be_shown(args: list[object], redact: list[str]) -> None:
    """The preview is printable and bounded, and no mask fails."""
    shown = preview(args, {}, ("a", "b", "*rest"), redact, limit=300)
    assert printable(shown) == shown
    assert len(shown) <= 300
    assert isinstance(redactor(args, {}, ("a", "b", "*rest"), redact)("text"), str)


# --- few objects that come to endless ones once they are written out -----------------------------


class Looks:
    """How often a pair was looked into."""

    count = 0


@dataclass
class Pair:
    left: object
    right: object

    def __getattribute__(self, name: str) -> Any:
        if name == "left":
            Looks.count += 1
        return super().__getattribute__(name)


def doubled(make: Any, leaf: object = None) -> Any:
    """Holds the same twice, which holds the same twice … thirty times."""
    value = leaf
    for _ in range(30):
        value = make(value, value)
    return value


SHARED = {
    "list": lambda left, right: [left, right],
    "tuple": lambda left, right: (left, right),
    "dict": lambda left, right: {"a": left, "b": right},
    "dataclass": Pair,
}


@pytest.fixture(autouse=True)
def _no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Looks, "count", 0)


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("leaf", [None, (), "x" * 100_000], ids=["none", "empty", "text"])
def test_a_key_of_what_has_no_end_is_refused_at_once(make: Any, leaf: object) -> None:
    """What is met again is looked into again only where it is large, and so not often."""

    @deduplicated
    async def task(value: object) -> None: ...

    make_key = task.__jobguard__.make_key  # type: ignore[attr-defined]
    with pytest.raises(KeyNotEncodable, match="is too large: with it, more than 16777216 bytes"):
        make_key((doubled(make, leaf),), {})
    assert Looks.count <= 5 * canonical.LARGEST // canonical.REMEMBERED


def test_what_is_deep_is_not_remembered_once_for_each_level() -> None:
    """The key of a large text in many lists takes a few times its size, not once for each list."""

    @deduplicated
    async def task(value: object) -> None: ...

    value: object = "x" * 1_000_000
    for _ in range(50):
        value = [value]
    tracemalloc.start()
    try:
        task.__jobguard__.make_key((value,), {})  # type: ignore[attr-defined]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10 * 1_000_000


def test_an_object_that_is_met_twice_is_in_a_key_as_two_equal_ones_are() -> None:
    """What is remembered of one is its value."""

    @deduplicated
    async def task(value: object) -> None: ...

    make_key = task.__jobguard__.make_key  # type: ignore[attr-defined]
    once = [1, {"a": (2,)}]
    assert make_key(([once, once],), {}) == make_key(([[1, {"a": (2,)}], [1, {"a": (2,)}]],), {})
    assert make_key(([once, once],), {}) != make_key(([once, [1, {"a": (3,)}]],), {})


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("leaf", [None, (), "x" * 100_000], ids=["none", "empty", "text"])
def test_what_has_no_end_is_not_written(make: Any, leaf: object) -> None:
    """No more of it than is ever kept."""
    codec = Codec().register(Pair, "pair", lambda pair: [pair.left, pair.right], lambda parts: Pair(*parts))
    with pytest.raises(EncodingTooLarge, match="is too large: with it, more than 262144 characters"):
        codec.encode(doubled(make, leaf))
    assert Looks.count <= LARGEST


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("leaf", [None, (), "secret"], ids=["none", "empty", "text"])
def test_what_has_no_end_is_shown_from_its_beginning(make: Any, leaf: object) -> None:
    """And where it is redacted, no text is shown that it might be in."""
    value = doubled(make, leaf)
    assert len(preview((value,), {}, ("value",), ())) <= 4096
    assert redactor((value,), {}, ("value",), ("value",))("a secret") in ("[redacted]", "a [redacted]")
    assert redactor((value,), {}, ("value",), ("value.no.such",))("a text") in ("[redacted]", "a text")
    assert Looks.count <= 4 * 100_000


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
async def test_the_letter_of_a_job_with_such_an_argument_says_that_it_was_too_large(make: Any) -> None:
    """It is written all the same."""

    @dead_letter(redact=("value",))
    async def task(value: object, to: str) -> None:
        raise ValueError("no route")

    guard = JobGuard(MemoryStore())
    async with guard:
        with pytest.raises(ValueError, match="no route"):
            await task(doubled(make), "Ada")
    [letter] = (await guard.dead_letters().list()).entries
    # Without a codec for it, the class itself has no form.
    assert letter.payload_format == ("none" if make is Pair else "too_large")
    assert letter.error_message == "[redacted]"
