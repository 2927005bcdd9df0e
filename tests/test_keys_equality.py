"""Which values are one: a key per value, compared with an equality written down a second time."""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from http import HTTPMethod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobguard.errors import KeyNotEncodable
from jobguard.job import AttemptError
from jobguard.keys import compile_key


class Colour(Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias
    BLUE = 2


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    LOW = "low"


class Access(Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Point:
    x: object
    y: object = 0


@dataclass(frozen=True)
class Place(Point):
    pass


@dataclass(slots=True)
class Cached:
    id: int
    seen: int = field(default=0, compare=False)


class Model(pydantic.BaseModel):
    x: Any
    y: Any = 0


class Open(pydantic.BaseModel, extra="allow"):
    shared: ClassVar[int] = 1
    _hidden: int = pydantic.PrivateAttr(default=0)


Pair = namedtuple("Pair", "x y")


class Text(str):
    """Text of a type of its own."""


BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2024, 7, 1, 12, 0, 0, 1, tzinfo=UTC)
NAIVE = NOON.replace(tzinfo=None)


async def task(value: object) -> None: ...


key_of_value = compile_key(task, key=None, scope="test")


def digest(value: object) -> str:
    return key_of_value((value,), {}).digest


# --- by example ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (math.nan, -math.nan),
        (0.0, -0.0),
        (complex(0.0, math.nan), complex(-0.0, math.nan)),
        (10**5000, 10**5000),
        (Decimal(1), Decimal("1.00")),
        (Decimal(100), Decimal("1E+2")),
        (Decimal(0), Decimal("-0.000")),
        (Decimal("NaN"), Decimal("-sNaN12")),
        (NOON, NOON.astimezone(BERLIN)),
        (NOON, NOON.astimezone(timezone(timedelta(hours=-3, seconds=1)))),
        (datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=timezone(timedelta(0), "Z"))),
        (NAIVE, NAIVE.replace(fold=1)),
        (
            datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
            datetime(2024, 10, 27, 1, 30, tzinfo=UTC),
        ),
        (time(12, tzinfo=UTC), time(13, tzinfo=timezone(timedelta(hours=1)))),
        (timedelta(days=1), timedelta(hours=24)),
        ({1, 2, 3}, {3, 2, 1}),
        (frozenset("ab"), frozenset("ba")),
        ({"a": 1, "b": {2, 3}}, {"b": {3, 2}, "a": 1}),
        ([{"a": (1, b"x")}], [{"a": (1, b"x")}]),
        (Colour.RED, Colour.CRIMSON),
        (Access.READ | Access.WRITE, Access.WRITE | Access.READ),
        (Point(1), Point(1, 0)),
        (Cached(1, seen=1), Cached(1, seen=2)),
        (Model(x=1), Model(y=0, x=1)),
        (Open.model_validate({"a": 1, "b": 2}), Open.model_validate({"b": 2, "a": 1})),
        (UUID(int=5), UUID("00000000-0000-0000-0000-000000000005")),
        (Path("a/b"), Path("a//b/")),
        (PureWindowsPath("A/b"), PureWindowsPath("a\\B")),
        (Text("a"), Text("a")),
        (Pair(1, 2), Pair(1, 2)),
        (defaultdict(int, a=1), defaultdict(bool, a=1)),
        ("\ud800", "\ud800"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_equal_values_share_a_key(one: object, other: object) -> None:
    """The same type and `==`, with NaN equal to NaN and aware datetimes equal by instant."""
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    "values",
    [
        [1, True, 1.0, "1", b"1", bytearray(b"1"), Decimal(1), complex(1), Level.LOW, Colour.RED],
        [0, False, 0.0, "", b"", None, (), [], {}, set(), frozenset(), timedelta(0), Decimal(0)],
        ["low", Word.LOW, Text("low"), Path("low"), PurePosixPath("low")],
        [(1, 2), [1, 2], {1, 2}, frozenset({1, 2}), {1: 2}, Pair(1, 2), ((1, 2),), (12,)],
        [[[], []], [[[]]], [[]], [], [[], [], []]],
        [("a:b", "c"), ("a", "b:c"), ("a", "b", "c"), ("abc",), ("a:b:c",)],
        [{"a": "b"}, {"b": "a"}, {"a": "b", "b": "a"}, {"a": None}],
        [NOON, NOON.replace(tzinfo=None), NOON.replace(microsecond=2), NOON.date(), NOON.time()],
        [NAIVE.replace(hour=0, microsecond=0), date(2024, 7, 1), time(0), time(0, tzinfo=UTC)],
        [Point(1, 2), Place(1, 2), Point(2, 1), Model(x=1, y=2), {"x": 1, "y": 2}],
        [Cached(1), Cached(2)],
        [Open.model_validate({"a": 1}), Open.model_validate({"b": 1}), Open()],
        [Colour.RED, Colour.BLUE, Access.READ, Access.WRITE, Access(0), Access(3)],
        [math.inf, -math.inf, math.nan, Decimal("inf"), Decimal("-inf"), Decimal("nan")],
        [1, -1, 16, 256, 2**64, -(2**64), 10**400],
        ["\ud83d\ude00", "\U0001f600", "\\ud83d"],
        ["é", "e\u0301"],
        [UUID(int=1), UUID(int=2)],
        [Decimal("1.1"), Decimal(11), Decimal("-1.1"), Decimal("1E+5"), Decimal("1E-5")],
    ],
    ids=lambda values: type(values[0]).__name__,
)
def test_different_values_have_different_keys(values: list[object]) -> None:
    """Also where Python calls them equal: `1 == True == 1.0`, a named tuple and a tuple."""
    assert len({digest(value) for value in values}) == len(values)


def test_private_attributes_of_a_model_count_as_in_its_own_equality() -> None:
    """Two models that pydantic calls different are different jobs."""
    one, other = Open(), Open()
    other._hidden = 5
    assert digest(one) != digest(other)


def test_a_field_that_was_never_set_differs_from_any_value() -> None:
    """An instance made without its `__init__` still has a key."""
    assert digest(object.__new__(Cached)) != digest(Cached(0))


@pytest.mark.parametrize("value", [Counter("a"), OrderedDict(a=1)], ids=repr)
def test_a_builtin_container_with_an_equality_of_its_own_is_refused(value: object) -> None:
    """Its rule is not known here, and a wrong guess would lose work."""
    with pytest.raises(KeyNotEncodable, match="== of its own"):
        digest(value)


# --- by property ---------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    """Equality as the documentation says it, written without looking at the encoding."""
    if type(one) is not type(other):
        return False
    match one:
        case float():
            return bool(one == other) or (one != one and other != other)
        case Decimal():
            return (one.is_nan() and other.is_nan()) or (
                not one.is_nan() and not other.is_nan() and bool(one == other)
            )
        case datetime():
            if (one.utcoffset() is None) != (other.utcoffset() is None):
                return False
            return bool(one == other if one.utcoffset() is None else one.timestamp() == other.timestamp())
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))
        case set() | frozenset():
            return len(one) == len(other) and same_members(list(one), list(other))
        case dict():
            return len(one) == len(other) and same_members(list(one.items()), list(other.items()))
        case Point():
            return same((one.x, one.y), (other.x, other.y))
        case Model():
            return same(dict(one), dict(other))
        case _:
            return bool(one == other)


def same_members(ones: list[object], others: list[object]) -> bool:
    for one in ones:
        match = next((index for index, other in enumerate(others) if same(one, other)), None)
        if match is None:
            return False
        del others[match]
    return not others


hashable_atoms: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(
            None,
            False,
            True,
            0,
            1,
            -1,
            0.0,
            -0.0,
            1.0,
            math.nan,
            float("nan"),
            "",
            "0",
            "1",
            "a",
            "a:b",
            b"",
            b"1",
        ),
        *(Decimal(0), Decimal("-0.0"), Decimal(1), Decimal("1.0"), Decimal("nan"), UUID(int=0), UUID(int=1)),
        *(NOON, NOON.astimezone(BERLIN), NOON.replace(tzinfo=None), NOON + timedelta(seconds=1), NOON.date()),
        *(timedelta(0), timedelta(1), Colour.RED, Colour.BLUE, Level.LOW, Word.LOW, Text("a"), Path("a")),
    ]
) | st.one_of(st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=2))
hashable: st.SearchStrategy[Any] = st.recursive(
    hashable_atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(tuple),
        st.frozensets(inner, max_size=2),
        st.builds(Point, inner, inner),
    ),
    max_leaves=4,
)
values: st.SearchStrategy[Any] = st.recursive(
    hashable,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.lists(inner, max_size=2).map(tuple),
        st.sets(hashable, max_size=3),
        st.dictionaries(hashable, inner, max_size=3),
        st.builds(Model, x=inner, y=inner),
    ),
    max_leaves=6,
)


def respelled(value: Any) -> Any:
    """An equal value made another way: reversed insertion order, other zeros, zones and NaNs."""
    match value:
        case dict():
            return {respelled(key): respelled(item) for key, item in reversed(value.items())}
        case set() | frozenset():
            return type(value)(map(respelled, reversed(list(value))))
        case list():
            return [respelled(item) for item in value]
        case tuple():
            return tuple(map(respelled, value))
        case Point():
            return Point(respelled(value.x), respelled(value.y))
        case Model():
            return Model(y=respelled(value.y), x=respelled(value.x))
        case float():
            return float("nan") if value != value else -value if value == 0 else value
        case Decimal() if value.is_finite():
            sign, digits, exponent = value.as_tuple()
            return Decimal((sign, (*digits, 0), int(exponent) - 1))
        case datetime() if value.tzinfo is not None:
            return value.astimezone(timezone(timedelta(hours=5)))
        case _:
            return value


pairs: st.SearchStrategy[tuple[Any, Any]] = st.one_of(
    st.tuples(values, values), values.map(lambda value: (value, respelled(value)))
)


@given(pairs)
@example(({frozenset(): 1}, {(): 1}))
@example(([1, True], [True, 1]))
def test_two_values_share_a_key_if_and_only_if_they_are_equal(pair: tuple[Any, Any]) -> None:
    """Neither a collision, which would lose work, nor two keys for one job."""
    one, other = pair
    assert (digest(one) == digest(other)) is same(one, other)


@given(values)
def test_respelling_a_value_changes_nothing(value: Any) -> None:
    """The property above has pairs on both sides: these are equal by construction."""
    assert same(value, respelled(value))
    assert digest(value) == digest(respelled(value))


async def call(
    ctx: object, a: object, b: object = 0, *rest: object, c: object = "", **more: object
) -> None: ...


small: st.SearchStrategy[Any] = st.sampled_from([0, 0.0, -0.0, "", "0", (), math.nan, NOON])
calls: st.SearchStrategy[tuple[tuple[Any, ...], dict[str, Any]]] = st.one_of(
    st.tuples(
        st.lists(small, min_size=2, max_size=5).map(tuple),
        st.dictionaries(st.sampled_from(["c", "d", "e"]), small, max_size=2),
    ),
    st.fixed_dictionaries({"ctx": small, "a": small}, optional={"b": small, "c": small, "d": small}).map(
        lambda kwargs: ((), kwargs)
    ),
)


@given(calls, calls)
def test_two_calls_share_a_key_if_and_only_if_their_arguments_are_equal(
    one: tuple[tuple[Any, ...], dict[str, Any]], other: tuple[tuple[Any, ...], dict[str, Any]]
) -> None:
    """Whatever was passed by position, by keyword or not at all."""

    def bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        arguments = inspect.signature(call).bind(*args, **kwargs)
        arguments.apply_defaults()
        return {name: value for name, value in arguments.arguments.items() if name != "ctx"}

    make = compile_key(call, key=None, scope=None)
    assert (make(*one) == make(*other)) is same(bound(*one), bound(*other))


@given(small, small, small, small)
def test_a_template_collides_only_where_all_its_fields_are_equal(a: Any, b: Any, x: Any, y: Any) -> None:
    """And the fingerprint only where the rest is."""

    async def three(a: object, b: object, c: object) -> None: ...

    make = compile_key(three, key="{a}:{b}", scope=None)
    one, other = make((a, b, a), {}), make((x, y, b), {})
    assert (one.digest == other.digest) is same((a, b), (x, y))
    assert (one.fingerprint == other.fingerprint) is same(a, b)


# --- for good ------------------------------------------------------------------------------------

PINNED = """
e98dcb443547786df13e08db249da6ec
35dc5c7ac6677fb7a1351ca368688fd1
8ff2aa4c7fe2017bbd51aef99fb245ca
1ba8620a4077ad017006ac2fd60ef007
a95259132df197e3765173f1932a30b8
93f8c04e3faffdd922189dc4f3288b45
4a5cfeba54fe3ff1f3729c3f310be254
26f8c1d2567fc7f6cff445f9e00ca967
f6334192c334610a4c3670f5dfa757b2
718719a69a50067b5f1f66310b3dd145
0853f5379662da1dc9bc07c8c5f0154c
f7305579eddc62989692d863d1315ff4
4469758612a299f82498fa3e2a9f91fa
7c583b7b85fcfe34fd3cec61325a2893
8546ebeba33424f59b05b3e49ada1766
d7c06bc8887bd3050c9c1d66e2dd41e3
4128b3538164228b73b674df922ac3a4
e4c258f1dafacdc0d2d430581241ec85
bf6e22bf6c1232241391007d2738f8e1
7fe6614ef694fc99f05f55e1f52f4b7f
dacd6b1a1e2f3e607f7194d47aab6923
5b1a0dfdd33aebb24aa7394a2405c8d7
26d85b5fbe75a90ee79e98f14030626e
b51a9a1bdbecca147a89b3f595806f3f
4a65ab6c763d84c70a1737a186c84464
e810433561787fd6e38bd2496ce73a18
1361380a9ea8e66fef82ac21cef8754c
accc6b21e7c86c04b1d68b158878f2c6
a0e013be913023b144af989c98aab5a1
c610f87c7acc002d2a33e4347ff90fe1
fa4e840ca438de124763d99cad104f0e
"""


def pinned_values() -> list[object]:
    """One of each kind; classes that live where no test moves them."""
    return [
        *(
            None,
            True,
            False,
            0,
            -255,
            2**70,
            1.5,
            math.nan,
            math.inf,
            1 + 2j,
            "",
            "é\ud800",
            b"\x00",
            bytearray(b"b"),
        ),
        *(Decimal("-1.50"), Decimal("inf"), UUID(int=7), NOON, NOON.replace(tzinfo=None), date(2024, 1, 1)),
        *(time(1, 2, 3, 4), time(1, tzinfo=UTC), timedelta(-1, 2, 3), PurePosixPath("a/b"), HTTPMethod.GET),
        *([1, [2]], (1, "a"), {"a", "b", "c"}, frozenset({1, 2}), {"a": 1, "b": [2], 3: None}),
        AttemptError(1, 2.0, "E", "m"),
    ]


def digests() -> str:
    return " ".join(digest(value) for value in pinned_values())


def test_keys_never_change() -> None:
    """Records outlive releases: another digest for an old value would run done work again."""
    assert digests().split() == PINNED.split()


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_keys_are_the_same_in_a_process_with_another_hash_seed(seed: str) -> None:
    """Sets and dicts come in another order there."""
    environment = os.environ | {"PYTHONHASHSEED": seed}
    command = [sys.executable, __file__]
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
    assert answer.stdout == digests()


if __name__ == "__main__":
    sys.stdout.write(digests())
