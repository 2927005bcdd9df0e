"""Tagged JSON: exact round trips, classes by annotation or registration only, and hostile text."""

from __future__ import annotations

import collections
import json
import math
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    NamedTuple,
    NewType,
    NotRequired,
    Protocol,
    TypedDict,
    TypeVar,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from jobguard.codec import LARGEST, Codec, resolve_return_annotation
from jobguard.errors import EncodingTooLarge, InvalidType, InvalidValue, NotEncodable
from jobguard.job import Duplicate, JobStatus

if TYPE_CHECKING:
    from somewhere import OnlyForTypeCheckers  # type: ignore[import-not-found]

codec = Codec()
BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2024, 7, 1, 12, 0, 0, 1, tzinfo=UTC)
NAIVE = NOON.replace(tzinfo=None)


class Colour(Enum):
    RED = "r"
    BLUE = object()

    def __repr__(self) -> str:  # names tests: the same in every process
        return str(self)


class Level(IntEnum):
    LOW = 1


class Access(Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class Receipt:
    id: int
    sent: datetime | None = None
    parts: list[Receipt] = field(default_factory=list)


@dataclass
class Refusal:
    id: int


class Place(NamedTuple):
    name: str
    receipt: Receipt | None = None


class Report(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    when: datetime
    url: pydantic.HttpUrl
    receipts: dict[str, Receipt] = {}
    tags: set[str] = pydantic.Field(default=set(), alias="labels")


class Loose(pydantic.BaseModel):
    value: Any


class Answer(TypedDict):
    receipt: NotRequired[Receipt]
    note: str


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass
class Page(Generic[T]):
    number: int


Ticket = NewType("Ticket", Receipt)
Alias = TypeAliasType("Alias", Receipt | None)


def there_and_back(value: object, annotation: object = Any, by: Codec = codec) -> object:
    text = by.encode(value, annotation)
    text.encode()  # valid Unicode
    json.loads(text)
    return by.decode(text, annotation)


def identical(one: Any, other: Any) -> bool:
    """The same types all the way down, the same order, the same zeros, folds and zones."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and sorted(map(describe, one)) == sorted(map(describe, other))
    if isinstance(one, dict):
        return identical(list(one.items()), list(other.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    return describe(one) == describe(other)


def describe(value: Any) -> str:
    if isinstance(value, frozenset):
        return f"frozenset{sorted(map(describe, value))}"
    if isinstance(value, tuple):
        return f"tuple{list(map(describe, value))}"
    if isinstance(value, int):
        return f"{type(value)} {value:x}"
    return f"{type(value)} {value!r} {getattr(value, 'fold', '')}"


# --- builtin values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *(None, False, True, 0, 1, -1, 2**63, -(2**63) - 1, 2**64, 10**5000, -(10**400)),
        *(0.0, -0.0, 0.1, 1e300, math.inf, -math.inf, math.nan, complex(-0.0, math.inf), 1j),
        *("", "é", "\0\x1b\u2028", "\ud800", "\ud83d\ude00", "\U0001f600", "$tuple"),
        *(b"", b"\0\xff", bytearray(b"x"), [], (), {}, set(), frozenset(), [[]], ((),), (1,), {1, (2,)}),
        *({"": 1}, {"$tuple": [1]}, {"$": 1, "a": 2}, {1: "a", "1": "b", (1, None): {}}, {"\ud800": 1}),
        *(
            NOON,
            NAIVE,
            NAIVE.replace(fold=1),
            datetime.max.replace(tzinfo=UTC),
            datetime.min.replace(tzinfo=BERLIN),
        ),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
        NOON.astimezone(timezone(timedelta(hours=-3, seconds=7, microseconds=9))),
        NOON.astimezone(timezone(timedelta(hours=1), "named")),
        *(date.min, time(1, 2, 3, 4), time(1, fold=1), time(1, tzinfo=UTC), time(1, tzinfo=BERLIN)),
        *(timedelta(-1, 5, 7), timedelta.max, Decimal("-0.00"), Decimal("1E+500"), Decimal("sNaN12")),
        *(Decimal("-Infinity"), UUID(int=7), Path("a/b"), Path(), Path("a\udc80")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_builtin_value_comes_back_exactly(value: object) -> None:
    """Without any annotation: same type, same value, down to signs, folds and zones."""
    assert identical(there_and_back(value), value)


scalars = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.complex_numbers(),
        st.binary(),
        st.decimals().filter(lambda number: not number.is_snan()),
    ),
    st.text(st.characters(codec=None, exclude_categories=())),
    *(st.datetimes(timezones=st.none() | st.timezones()), st.times(timezones=st.none() | st.timezones())),
    *(st.dates(), st.timedeltas(), st.uuids()),
)
hashables = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
values = st.recursive(
    hashables | st.binary().map(bytearray),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.sets(hashables, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.dictionaries(hashables, inner, max_size=3),
    ),
    max_leaves=10,
)


@given(values)
def test_any_nesting_of_builtin_values_comes_back_exactly(value: object) -> None:
    """Whatever stands in whatever."""
    assert identical(there_and_back(value), value)


def test_what_json_knows_is_written_plainly() -> None:
    """Stored results stay small, and people can read and edit them."""
    plain = {"to": "Zoë", "n": [1, 2.5, None, True], "more": {}}
    assert codec.encode(plain) == '{"to":"Zoë","n":[1,2.5,null,true],"more":{}}'


class Text(str):
    pass


@pytest.mark.parametrize(
    "value",
    [
        *(
            Text("a"),
            Level.LOW,
            collections.OrderedDict(a=1),
            collections.defaultdict(list),
            object(),
            print,
            str,
        ),
        Duplicate("k", JobStatus.SUCCESS, "o"),
        Receipt(1),
        Loose(value=1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_any_other_type_is_refused(value: object) -> None:
    """A subclass would come back as its base, so it is not written; the error says what to do."""
    with pytest.raises(NotEncodable, match=r"^value is of type .*annotation, or register a codec"):
        codec.encode(value)


def test_the_way_to_what_cannot_be_written_is_named() -> None:
    """Through containers, keys and fields alike."""
    with pytest.raises(NotEncodable, match=r"^value\['a'\]\[1\] is of type builtins.object"):
        codec.encode({"a": [1, object()]})
    with pytest.raises(NotEncodable, match=r"^value\[0\]\[…\] \(a key\) is of type"):
        codec.encode([{object(): 1}])
    with pytest.raises(NotEncodable, match=r"^value\[…\] is of type"):
        codec.encode({1: object()})
    with pytest.raises(NotEncodable, match=r"^value\.parts\[0\] is of type .*Refusal"):
        codec.encode(Receipt(1, None, [Refusal(1)]), Receipt)  # type: ignore[list-item]


def test_a_value_that_contains_itself_is_refused() -> None:
    """Neither a hang nor a `RecursionError`."""
    ring: list[object] = []
    ring.append({"ring": (ring,)})
    with pytest.raises(NotEncodable, match=r"nested more than 64 deep, or contains itself"):
        codec.encode(ring)


@pytest.mark.parametrize(
    "value",
    [[1] * 131_000, [()] * 18_000, {str(n): {} for n in range(24_000)}, ["x" * 26_000] * 10, [b""] * 18_000],
    ids=["numbers", "tuples", "objects", "texts", "bytes"],
)
def test_what_has_room_in_a_letter_is_never_too_large(value: Any) -> None:
    """The count on the way stays below the characters that there are in the end."""
    assert 240_000 < len(codec.encode(value)) <= LARGEST
    with pytest.raises(EncodingTooLarge, match="is too large: with it, more than 262144 characters"):
        codec.encode([value] * 7)


class Odd(tzinfo):
    def utcoffset(self, moment: datetime | None, /) -> timedelta:
        return timedelta(0)

    dst = utcoffset

    def tzname(self, moment: datetime | None, /) -> str:
        return "odd"


def test_a_foreign_time_zone_is_refused() -> None:
    """Its class could not be named in the text."""
    with pytest.raises(NotEncodable, match=r"time zone of type .*Odd; use datetime.timezone"):
        codec.encode([NOON.replace(tzinfo=Odd())])


def test_a_zone_read_from_a_file_is_refused() -> None:
    """It has no key by which another process could find it."""
    counts = struct.pack(">6i", 0, 0, 0, 0, 1, 4)
    zone = ZoneInfo.from_file(BytesIO(b"TZif" + bytes(16) + counts + bytes(6) + b"UTC\0"))
    with pytest.raises(NotEncodable, match=r"use datetime\.timezone"):
        codec.encode(NOON.replace(tzinfo=zone))


# --- classes by annotation -----------------------------------------------------------------------

RECEIPT = Receipt(1, NOON, [Receipt(2)])


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (RECEIPT, Receipt),
        (RECEIPT, Receipt | None),
        (None, Receipt | None),
        (Refusal(1), Receipt | Refusal),
        (Receipt(1), Refusal | Receipt | str),
        (RECEIPT, Annotated[Receipt, "note"]),
        (RECEIPT, Ticket),
        (RECEIPT, Alias),
        ([RECEIPT, Refusal(3)], list[Receipt | Refusal]),
        ([RECEIPT], Sequence[Receipt]),
        ([RECEIPT], list[Receipt] | list[Refusal]),
        ((RECEIPT, Refusal(3)), tuple[Receipt, Refusal]),
        ((RECEIPT, RECEIPT), tuple[Receipt, ...]),
        ((RECEIPT,), Iterable[Receipt]),
        ((), tuple[()]),
        ({"a": [RECEIPT]}, dict[str, list[Receipt]]),
        ({"a": RECEIPT}, Mapping[str, Receipt]),
        ({Colour.RED: 1, Colour.BLUE: 2}, dict[Colour, int]),
        ({Colour.RED}, set[Colour]),
        (frozenset({Colour.RED}), frozenset[Colour]),
        ({"receipt": RECEIPT, "note": "n"}, Answer),
        ({"note": "n"}, Answer | None),
        (Colour.BLUE, Colour),
        (Level.LOW, Level | int),
        (1, Level | int),
        (Access.READ | Access.WRITE, Access),
        (Access(0), Access),
        (Place("x", RECEIPT), Place),
        (("x", None), Place | tuple[str, None]),
        (Duplicate("k", JobStatus.SUCCESS, "o"), dict[str, int] | Duplicate),
        (Page[int](3), Page[int]),
        (Report(when=NOON, url=pydantic.HttpUrl("http://x/"), receipts={"a": RECEIPT}, labels={"t"}), Report),
        ([Loose(value={"a": [1, None]})], list[Loose]),
    ],
    ids=repr,
)
def test_an_annotated_class_comes_back(value: object, annotation: object) -> None:
    """Dataclasses, enums, named tuples and models, alone, in unions and in containers."""
    back = there_and_back(value, annotation)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (RECEIPT, Refusal),
        (RECEIPT, Any),
        (RECEIPT, object),
        (RECEIPT, "Receipt"),
        (RECEIPT, list[Receipt]),
        ([RECEIPT], Receipt),
        ([RECEIPT], dict[str, Receipt]),
        ({"a": RECEIPT}, Iterable[Receipt]),
        ((RECEIPT,), tuple[Receipt, Receipt]),
        ({"other": RECEIPT, "note": ""}, Answer),
        (JobStatus.SUCCESS, StrEnum),
    ],
)
def test_a_class_where_the_annotation_does_not_name_it_is_refused(value: object, annotation: object) -> None:
    """Each position counts for itself, and a base class is not enough."""
    with pytest.raises(NotEncodable, match="name that class in the annotation"):
        codec.encode(value, annotation)


def test_a_text_does_not_choose_a_class_of_its_own() -> None:
    """The name in it is compared with the annotation, never looked up."""
    text = codec.encode(Refusal(1), Refusal)
    for annotation in (Any, object, Receipt, Receipt | None, list[Refusal], int):
        with pytest.raises(NotEncodable, match="cannot be read back"):
            codec.decode(text, annotation)


def test_a_union_is_read_by_name_not_by_order_or_shape() -> None:
    """Members of the same shape stay apart, also after the union was reordered."""

    @dataclass
    class Sent:
        id: int

    text = codec.encode(Refusal(1), Sent | Refusal)
    assert codec.decode(text, Sent | Refusal) == codec.decode(text, Refusal | Sent) == Refusal(1)


def test_two_annotated_classes_of_one_name_are_refused() -> None:
    """The text could not tell them apart."""
    twin: Any = make_dataclass("Refusal", ["id"])
    with pytest.raises(NotEncodable, match="several annotated classes called Refusal"):
        codec.encode(Refusal(1), Refusal | twin)


def test_a_dataclass_is_restored_without_running_its_init() -> None:
    """Fields come back as they were, whatever `__init__` and `__post_init__` would make of them."""

    @dataclass
    class Account:
        name: str
        opened: InitVar[int]
        number: int = field(init=False)

        def __post_init__(self, opened: int) -> None:
            self.number = opened
            self.name = self.name + "!"

    back = there_and_back(Account("a", 5), Account)
    assert isinstance(back, Account)
    assert (back.name, back.number) == ("a!", 5)


def test_a_cached_property_is_computed_again() -> None:
    """It follows from the fields, so it is not stored."""

    @dataclass
    class Square:
        side: int

        @cached_property
        def area(self) -> int:
            return self.side**2

    square = Square(3)
    assert square.area == 9
    back = there_and_back(square, Square)
    assert back == square
    assert "area" not in vars(back)


def test_a_dataclass_with_more_than_its_fields_is_refused() -> None:
    """What would not come back is not written in silence."""
    marked = Refusal(1)
    marked.mark = True  # type: ignore[attr-defined]
    with pytest.raises(NotEncodable, match="attribute 'mark', which is none of its fields"):
        codec.encode(marked, Refusal)
    with pytest.raises(NotEncodable, match="no value for its field 'id'"):
        codec.encode(object.__new__(Receipt), Receipt)

    @dataclass
    class Failure(Exception):
        code: int

    with pytest.raises(NotEncodable, match="needs a registered codec"):
        codec.encode(Failure(1), Failure)


def test_a_dataclass_that_cannot_be_read_is_refused() -> None:
    """Its own code may raise anything; a result must then count as not storable."""

    @dataclass
    class Broken:
        id: int

        def __getattribute__(self, name: str) -> Any:
            if name == "id":
                raise ZeroDivisionError
            return super().__getattribute__(name)

    with pytest.raises(NotEncodable, match=r"Broken cannot be written: ZeroDivisionError while"):
        codec.encode(Broken(1), Broken)


def test_a_field_added_since_gets_its_default() -> None:
    """Results outlive a deploy that only adds optional fields."""
    before = '{"$of":["Receipt",{"id":1}]}'
    assert codec.decode(before, Receipt) == Receipt(1)
    assert codec.decode('{"$of":["Receipt",{"id":1,"parts":[]}]}', Receipt) == Receipt(1)


@pytest.mark.parametrize("fields", ['{"sent":null}', '{"id":1,"gone":2}', "{}", "[]", "null", '"id"'])
def test_other_fields_than_the_class_has_are_refused(fields: str) -> None:
    """A missing one without a default, or one too many."""
    with pytest.raises(NotEncodable):
        codec.decode(f'{{"$of":["Receipt",{fields}]}}', Receipt)


def test_a_class_with_unresolvable_annotations_still_holds_builtin_values() -> None:
    """Only its nested classes are unknown then."""

    @dataclass
    class Holder:
        value: OnlyForTypeCheckers

    assert there_and_back(Holder((1, 2)), Holder) == Holder((1, 2))
    with pytest.raises(NotEncodable, match=r"^value\.value is of type"):
        codec.encode(Holder(Refusal(1)), Holder)


def test_a_protocol_in_an_annotation_does_no_harm() -> None:
    """It says nothing about builtin containers."""

    class Box(Protocol[T_co]):
        def open(self) -> T_co: ...

    assert there_and_back([1], Box[int]) == [1]


class Secret(pydantic.BaseModel):
    password: pydantic.SecretStr


@pytest.mark.parametrize(
    "model",
    [
        Secret(password=pydantic.SecretStr("x")),
        Loose(value=(1, 2)),
        Loose(value=Decimal("1.5")),
        Loose(value=math.inf),
        Loose(value="\ud800"),
        Loose(value=object()),
    ],
)
def test_a_model_that_would_come_back_changed_is_refused(model: pydantic.BaseModel) -> None:
    """Pydantic's JSON keeps no secrets and few types of untyped fields; that is found at the write."""
    with pytest.raises(NotEncodable, match=r"leads back|changed"):
        codec.encode(model, type(model))


def test_a_model_is_validated_when_read() -> None:
    """A text that was tampered with does not make an invalid model."""
    text = codec.encode(Report(when=NOON, url=pydantic.HttpUrl("http://x/")), Report)
    with pytest.raises(NotEncodable, match="ValidationError"):
        codec.decode(text.replace("http://x/", "no address"), Report)


def test_an_enum_is_read_by_member_name() -> None:
    """A member that is gone is an error, not a guess."""
    assert codec.encode(Colour.RED, Colour) == '{"$of":["Colour","RED"]}'
    for text in ('{"$of":["Colour","r"]}', '{"$of":["Colour",["RED"]]}', '{"$of":["Access","READ"]}'):
        with pytest.raises(NotEncodable):
            codec.decode(text, Colour | Access)


def test_a_name_that_is_no_valid_unicode_is_refused() -> None:
    """The text must be fit for any store."""
    strange = Enum("strange", {"\ud800": 1})
    with pytest.raises(NotEncodable, match="no valid Unicode"):
        codec.encode(next(iter(strange)), strange)


# --- registered classes --------------------------------------------------------------------------


class Money:
    def __init__(self, amount: Decimal, currency: str) -> None:
        self.amount = amount
        self.currency = currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


with_money = codec.register(
    Money, "money", lambda money: (money.amount, money.currency), lambda parts: Money(*parts)
)


def test_a_registered_class_comes_back_without_annotation() -> None:
    """Wherever it stands; what its codec makes of it is tagged JSON in turn."""
    value = {"price": [Money(Decimal("1.50"), "EUR")]}
    assert there_and_back(value, by=with_money) == value


def test_a_registration_wins_over_an_annotation() -> None:
    """Whoever registers a codec wants it used."""
    by_id = codec.register(Refusal, "refusal", lambda refusal: refusal.id, Refusal)
    assert by_id.encode(Refusal(3), Refusal) == '{"$as":["refusal",3]}'
    assert there_and_back(Refusal(3), Refusal, by_id) == Refusal(3)


def test_registering_leaves_the_old_codec_as_it_was() -> None:
    """A codec never changes under those who use it."""
    with pytest.raises(NotEncodable):
        codec.encode(Money(Decimal(1), "EUR"))
    with pytest.raises(NotEncodable):
        codec.decode(with_money.encode(Money(Decimal(1), "EUR")))


def test_a_subclass_of_a_registered_class_is_refused() -> None:
    """It would come back as its base."""

    class Tip(Money):
        pass

    with pytest.raises(NotEncodable, match="Tip"):
        with_money.encode(Tip(Decimal(1), "EUR"))


def test_an_error_in_a_registered_codec_is_ours_with_its_cause() -> None:
    """One kind of error for the caller, whatever goes wrong."""

    def fail(value: object) -> Any:
        raise ZeroDivisionError

    broken = codec.register(Money, "money", fail, fail)
    with pytest.raises(
        NotEncodable, match=r"^value\[0\] was refused by the codec registered as 'money'"
    ) as caught:
        broken.encode([Money(Decimal(1), "EUR")])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(NotEncodable) as caught:
        broken.decode('{"$as":["money",1]}')
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("Money", "m", str, str), InvalidType, "kind must be a class, not 'Money'"),
        ((Refusal, 7, str, str), InvalidType, "name must be text, not 7"),
        ((Refusal, "", str, str), InvalidValue, "name must not be ''"),
        ((Refusal, "r", 7, str), InvalidType, "encode must be a function of one value, not 7"),
        ((Refusal, "r", str, None), InvalidType, "decode must be a function of one value, not None"),
        ((dict, "d", str, str), InvalidValue, "builtin value type"),
        ((type(None), "d", str, str), InvalidValue, "builtin value type"),
        ((UUID, "d", str, str), InvalidValue, "builtin value type"),
        ((Money, "other", str, str), InvalidValue, "is taken"),
        ((Refusal, "money", str, str), InvalidValue, "is taken"),
    ],
)
def test_a_wrong_registration_is_refused(
    arguments: tuple[Any, Any, Any, Any], kind: type[Exception], words: str
) -> None:
    """The error names the argument, its value and the cure."""
    with pytest.raises(kind, match=f"^(kind|name|encode|decode) .*{words.split(maxsplit=1)[1]}") as caught:
        with_money.register(*arguments)
    assert words in str(caught.value)


# --- hostile text --------------------------------------------------------------------------------

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=4), inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "$str",
                    "$int",
                    "$float",
                    "$complex",
                    "$bytes",
                    "$bytearray",
                    "$tuple",
                    "$set",
                    "$frozenset",
                    "$dict",
                    "$datetime",
                    "$date",
                    "$time",
                    "$timedelta",
                    "$decimal",
                    "$uuid",
                    "$path",
                    "$as",
                    "$of",
                    "$other",
                    "$",
                ]
            ),
            inner
            | st.tuples(
                st.sampled_from(["Receipt", "Colour", "Access", "Place", "Report", "money", "int"]), inner
            )
            | st.lists(st.tuples(inner, inner), max_size=2)
            | st.dictionaries(
                st.sampled_from(["at", "zone", "name", "fold", "id", "parts"]), inner, max_size=3
            )
            | st.sampled_from(["2024-01-01", "12:00", "/etc", "../x", "Europe", "", "__class__", "1" * 50]),
            min_size=1,
            max_size=2,
        ),
    ),
    max_leaves=8,
)
EVERYTHING = Receipt | Colour | Access | Place | Report | list[Receipt] | dict[str, Colour] | int


@given(json_values.map(json.dumps) | st.text())
def test_any_text_is_read_or_refused_with_our_error(text: str) -> None:
    """And what was read is of a type that could have been written."""
    try:
        value = with_money.decode(text, EVERYTHING)
    except NotEncodable:
        return
    assert type(value).__module__ in {"builtins", "datetime", "decimal", "uuid", "pathlib", __name__}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "nonsense", "NaN", "Infinity", "[1", "[" * 100_000, '{"a":' * 100_000, "1" * 100_000),
        *(
            '{"$of":["Receipt",' * 500,
            '{"$tuple":[' * 200 + "]}" * 200,
            '{"$unknown":1}',
            '{"$tuple":[],"a":1}',
        ),
        *(
            '{"$set":[[]]}',
            '{"$dict":[[[],1]]}',
            '{"$dict":[[1]]}',
            '{"$bytes":"*"}',
            '{"$int":"0x"}',
            '{"$int":5}',
        ),
        *('{"$float":"1.5"}', '{"$decimal":"x"}', '{"$decimal":[0,[1],1]}', '{"$uuid":7}', '{"$complex":1}'),
        *('{"$datetime":"yesterday"}', '{"$datetime":{"at":"2024-01-01","zone":"../../etc/passwd"}}'),
        *(
            '{"$datetime":{"at":"2024-01-01","zone":"No/Where"}}',
            '{"$datetime":{"at":"2024-01-01","name":"x"}}',
        ),
        *(
            '{"$timedelta":[1e308,0,0]}',
            '{"$timedelta":[1,2]}',
            '{"$path":[]}',
            '{"$as":["money",1]}',
            '{"$of":[]}',
        ),
        *('{"$of":["builtins.eval","1"]}', '{"$of":["str","x"]}', '{"$as":["os.system","true"]}'),
    ],
    ids=lambda text: text[:40],
)
def test_a_text_that_encode_never_wrote_is_refused(text: str) -> None:
    """Broken, nested without end, of unknown tags, or naming what nobody annotated."""
    with pytest.raises(NotEncodable, match="text cannot be read back") as caught:
        with_money.decode(text, EVERYTHING | str)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_what_is_no_text_is_refused() -> None:
    """A store may hand back anything."""
    for wrong in (None, 7, b"\xff"):
        with pytest.raises(NotEncodable):
            codec.decode(wrong)  # type: ignore[arg-type]


# --- return annotations --------------------------------------------------------------------------


async def returns_receipt(argument: OnlyForTypeCheckers) -> Receipt | None: ...


async def returns_unknown() -> OnlyForTypeCheckers: ...


async def returns_nothing_said(argument: int):  # type: ignore[no-untyped-def]
    ...


async def returns_none() -> None: ...


def test_the_return_annotation_is_resolved_alone() -> None:
    """An argument's type that exists for type checkers only does not stand in the way."""
    assert resolve_return_annotation(returns_receipt) == Receipt | None


def test_an_unresolvable_or_missing_return_annotation_is_any() -> None:
    """It then says nothing, as for type checkers."""
    assert resolve_return_annotation(returns_unknown) is Any
    assert resolve_return_annotation(returns_nothing_said) is Any
    assert resolve_return_annotation(print) is Any


def test_a_task_that_returns_nothing_is_annotated_so() -> None:
    """None is a value like others."""
    assert resolve_return_annotation(returns_none) is type(None)
    assert there_and_back(None, type(None)) is None


def test_neither_pydantic_nor_zoneinfo_is_imported() -> None:
    """Programs that use neither do not pay for them."""
    code = (
        "import sys; import jobguard.codec, jobguard.keys; "
        "assert not {'pydantic', 'zoneinfo', 'arq', 'redis'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
