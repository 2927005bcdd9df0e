"""What people may see of a job: previews, masked texts, cuts, and text that is safe to print."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pydantic
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jobguard.codec import clip, preview, printable, redactor


@dataclass
class Customer:
    name: str
    phone: str


class Contact(NamedTuple):
    name: str
    phone: str


class Person(pydantic.BaseModel, extra="allow"):
    name: str
    phone: str


class Plain:
    def __init__(self, phone: str) -> None:
        self.phone = phone


class Rude:
    def __repr__(self) -> str:
        raise ZeroDivisionError

    @property
    def phone(self) -> str:
        raise ZeroDivisionError


PHONE = "+49 151 2345"


def shown(
    *args: object, names: Sequence[str] = ("a", "b", "c"), redact: Sequence[str] = (), **kwargs: object
) -> Any:
    return json.loads(preview(args, kwargs, names, redact))


def masker(value: object, *redact: str) -> Callable[[str], str]:
    return redactor((value,), {}, ("a",), redact or ("a",))


# --- preview -------------------------------------------------------------------------------------


def test_a_preview_is_json_by_parameter_name() -> None:
    """What JSON knows is shown as it is."""
    assert shown("x", [1, 2.5, None, True], names=("to", "rest"), note={"k": "Zoë"}) == {
        "to": "x",
        "rest": [1, 2.5, None, True],
        "note": {"k": "Zoë"},
    }


def test_objects_with_named_parts_are_shown_as_objects() -> None:
    """Dataclasses, named tuples and models."""
    expected = {"name": "Al", "phone": PHONE}
    values = [Customer("Al", PHONE), Contact("Al", PHONE), Person(name="Al", phone=PHONE)]
    assert shown(values)["a"] == [expected] * 3


def test_other_values_are_shown_as_text() -> None:
    """Values that speak for themselves by `str`, the rest by type and `repr`."""
    moment = datetime(2024, 1, 2, tzinfo=UTC)
    values = [moment, Decimal("1.50"), b"\xff", math.inf, 2**70, Rude(), 10**5000]
    assert shown(values)["a"] == [
        *("2024-01-02 00:00:00+00:00", "1.50", "bytes: b'\\xff'", "inf", f"int: {2**70}"),
        *("Rude: its repr raised ZeroDivisionError", "int: its repr raised ValueError"),
    ]


def test_dict_keys_that_are_no_text_are_shown_as_text() -> None:
    """A preview is for people; it need not lead back."""
    assert shown({1: "x", (1, 2): "y"})["a"] == {"int: 1": "x", "tuple: (1, 2)": "y"}


def test_a_starred_name_takes_the_remaining_arguments() -> None:
    """Names after it can only be keywords."""
    assert shown(1, 2, 3, names=("a", "*rest", "b"), b=4) == {"a": 1, "rest": [2, 3], "b": 4}
    assert shown(1, names=("a", "*rest", "b"), b=4) == {"a": 1, "b": 4}


def test_arguments_without_a_name_are_shown_together() -> None:
    """A call that does not fit its function can still be looked at."""
    assert shown(1, 2, names=("a",)) == {"a": 1, "*": [2]}


def test_a_value_that_contains_itself_is_cut_off() -> None:
    """Neither a hang nor an error."""
    ring: list[object] = []
    ring.append(ring)
    assert "nested too deep" in preview((ring,), {}, ("a",), ())


# --- redaction in the preview --------------------------------------------------------------------


def test_redacted_parameters_show_no_value() -> None:
    """However they were passed."""
    assert shown("x", "secret", redact=("b", "c"), c=["secret"]) == {
        "a": "x",
        "b": "[redacted]",
        "c": "[redacted]",
    }


@pytest.mark.parametrize(
    "customer",
    [
        {"name": "Al", "phone": PHONE},
        Customer("Al", PHONE),
        Contact("Al", PHONE),
        Person(name="Al", phone=PHONE),
    ],
    ids=lambda customer: type(customer).__name__,
)
def test_a_dotted_path_redacts_one_part(customer: object) -> None:
    """Of dicts, dataclasses, named tuples and models; lists on the way are gone through."""
    expected = {"name": "Al", "phone": "[redacted]"}
    assert shown(customer, redact=("a.phone",))["a"] == expected
    assert shown([customer], (customer,), redact=("a.phone", "b.phone")) == {"a": [expected], "b": [expected]}


def test_an_extra_field_of_a_model_can_be_redacted() -> None:
    """It is a part like the declared ones."""
    person = Person.model_validate({"name": "Al", "phone": "1", "token": "secret"})
    assert shown(person, redact=("a.token",))["a"]["token"] == "[redacted]"


@pytest.mark.parametrize(
    "value", [f'{{"phone":"{PHONE}"}}', Plain(PHONE), Rude(), 12345], ids=["text", "object", "rude", "number"]
)
def test_a_path_into_something_without_parts_redacts_all_of_it(value: object) -> None:
    """What cannot be looked into may hold the secret anywhere."""
    assert shown(value, redact=("a.phone",))["a"] == "[redacted]"


def test_a_path_may_name_a_position_in_a_list() -> None:
    """As the paths of edits and filters do; the other items stay as they are."""
    cards = [{"pin": 12, "of": "Al"}, {"pin": 34, "of": "Bo"}]
    first, second = {"pin": "[redacted]", "of": "Al"}, {"pin": 34, "of": "Bo"}
    assert shown(cards, tuple(cards), redact=("a.0.pin", "b.0.pin")) == {
        "a": [first, second],
        "b": [first, second],
    }
    assert masker([["first secret"], ["second"]], "a.0.0")("first secret") == "[redacted]"


@pytest.mark.parametrize("cards", [[{"pin": 12}], {"visa": {"pin": 12}}, {7: {"pin": 12}}, ({"pin": 12},)])
def test_a_star_in_a_path_is_any_part(cards: Any) -> None:
    """Of a list or of an object, whatever its keys."""
    shown_cards = shown(cards, redact=("a.*.pin",))["a"]
    parts = shown_cards.values() if isinstance(shown_cards, dict) else shown_cards
    assert [*parts] == [{"pin": "[redacted]"}]


def test_a_name_redacts_parameters_only() -> None:
    """`phone` is not `customer.phone`."""
    assert shown({"b": "shown"}, "hidden", redact=("b",)) == {"a": {"b": "shown"}, "b": "[redacted]"}


def test_a_redacted_text_is_masked_in_the_other_arguments_too() -> None:
    """A secret is often passed twice."""
    values = shown(PHONE, f"call {PHONE}", {PHONE: 1}, redact=("a",))
    assert values == {"a": "[redacted]", "b": "call [redacted]", "c": {"[redacted]": 1}}


def test_remaining_arguments_can_be_redacted_by_their_name() -> None:
    """`*args` as a whole."""
    assert shown(1, "secret", names=("a", "*args"), redact=("args",)) == {"a": 1, "args": "[redacted]"}


leaves = st.text(max_size=10) | st.integers() | st.none() | st.binary(max_size=5)
nested = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.text("0123456789abcdef", min_size=12, max_size=12), nested, st.data())
def test_a_redacted_text_is_nowhere_in_the_preview(secret: str, other: object, data: st.DataObject) -> None:
    """Wherever else it stands."""
    assume(secret not in repr(other))
    holder = data.draw(
        st.sampled_from([secret, [secret], {"x": secret}, {secret: 1}, Customer(secret, ""), f"<{secret}>"])
    )
    text = preview((secret, [holder, other]), {}, ("a", "b"), ("a",))
    assert secret not in text
    assert isinstance(json.loads(text), dict)


# --- size ----------------------------------------------------------------------------------------


@given(st.lists(nested, max_size=5), st.integers(0, 400))
def test_a_preview_is_never_longer_than_its_limit(values: list[object], limit: int) -> None:
    """Whatever the arguments."""
    assert len(preview(values, {}, ("a", "b"), (), limit=limit)) <= limit


@pytest.mark.parametrize(
    "value",
    ["x" * 100_000, list(range(100_000)), {str(n): n for n in range(100_000)}, [["y" * 999] * 99] * 99],
    ids=["text", "list", "dict", "nested"],
)
def test_a_cut_preview_is_still_json_and_says_what_is_missing(value: object) -> None:
    """With the default limit of 4,096 characters; other arguments keep their place."""
    text = preview((value,), {"note": "n"}, ("a",), ())
    assert len(text) <= 4096
    assert " cut]" in text or " more]" in text
    assert isinstance(json.loads(text), dict)


def test_one_long_text_leaves_room_for_the_others() -> None:
    """A quarter of the limit each."""
    values = shown("x" * 100_000, "to", {"k": "v"})
    assert values["b"] == "to"
    assert values["c"] == {"k": "v"}


# --- masking -------------------------------------------------------------------------------------


def test_nothing_to_redact_leaves_texts_alone() -> None:
    """Not even zero characters are touched."""
    assert redactor(("x",), {}, ("a",), ())("x\0y") == "x\0y"


@pytest.mark.parametrize("spell", [str, repr, json.dumps, lambda text: urlencode({"q": text})])
def test_a_text_is_masked_as_messages_spell_it(spell: Callable[[str], str]) -> None:
    """Raw, in a `repr`, in JSON and in a URL."""
    secret = 'Zoë\'s "code"\n+1/2'
    masked = masker(secret)(f"before {spell(secret)} after")
    assert "[redacted]" in masked
    assert "code" not in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")


def test_a_secret_is_masked_in_a_traceback() -> None:
    """As an error's message, also within an exception group, which indents each line."""
    secret = "first line of it\nsecond line of it"
    try:
        raise ExceptionGroup("several", [ValueError(secret), KeyError(secret)])
    except ExceptionGroup as error:
        text = "".join(traceback.format_exception(error))
    lines = [line for line in masker(secret)(text).splitlines() if "raise" not in line]
    assert not [line for line in lines if "line of it" in line]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345, "id 12345"),
        (1.25, "1.25"),
        (Decimal("9.99"), "costs 9.99"),
        (b"token", "got b'token'"),
        ([{"x": ("deep",)}], "so deep"),
        (Customer("Alice", PHONE), f"Alice {PHONE}"),
        (Plain(PHONE), "<{object}>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_are_no_text_are_masked_as_text(value: object, text: str) -> None:
    """Numbers, bytes, and all that stands in containers and objects."""
    text = text.format(object=value)
    assert masker(value)(text) != text
    assert "[redacted]" in masker(value)(text)


@pytest.mark.parametrize("value", ["", "ab", 7, None, True, [None, False, "x"]], ids=repr)
def test_values_too_common_to_mask_are_left(value: object) -> None:
    """Masking each "7" or "True" would leave nothing to read."""
    text = "a True None False 7 ab x text"
    assert masker(value)(text) == text


def test_a_part_is_masked_by_its_path() -> None:
    """Also where only an attribute leads to it."""
    for value in ({"phone": PHONE, "n": "Alice"}, [Customer("Alice", PHONE)], Plain(PHONE)):
        assert masker(value, "a.phone")(f"Alice has {PHONE}") == "Alice has [redacted]"
    assert masker(Rude(), "a.phone")("text") == "text"


def test_longer_secrets_are_masked_first() -> None:
    """A secret that holds another is masked whole, and the mask itself stays whole."""
    mask = redactor(("abc", "abcdef", "red"), {}, ("a", "b", "c"), ("a", "b", "c"))
    assert mask("abcdef abc red") == "[redacted] [redacted] [redacted]"


def test_too_many_secrets_hide_the_whole_text() -> None:
    """Rather than let one slip or spend seconds on it."""
    assert masker([f"secret {n}" for n in range(5_000)])("harmless") == "[redacted]"


# --- clip and printable --------------------------------------------------------------------------


def test_a_text_within_the_limit_is_left() -> None:
    """Up to the last character."""
    assert clip("abc", 3) == "abc"


def test_a_cut_keeps_both_ends_and_counts_what_is_gone() -> None:
    """The end of a traceback says most."""
    assert clip("a" * 50 + "b" * 50, 40) == "a" * 9 + "…[82 characters cut]…" + "b" * 9


@given(st.text(max_size=200), st.integers(0, 200))
def test_a_cut_is_never_longer_than_the_limit_and_never_lies(text: str, limit: int) -> None:
    """The number in the marker is what is missing."""
    cut = clip(text, limit)
    assert len(cut) <= max(limit, 0)
    if cut != text and limit >= 40:
        head, _, rest = cut.partition("…[")
        count, _, tail = rest.partition(" characters cut]…")
        if "…" not in text:
            assert len(head) + int(count) + len(tail) == len(text)
            assert text.startswith(head)
            assert text.endswith(tail)


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_printable_text_is_printable(text: str) -> None:
    """Nothing is left that steers a terminal, breaks a line or cannot be encoded."""
    safe = printable(text)
    safe.encode()
    assert len(safe.splitlines()) <= 1
    for character in safe:
        number = ord(character)
        assert 0x20 <= number != 0x7F
        assert not 0x80 <= number <= 0x9F
        assert (
            character
            not in "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain Zoë 漢字 👩‍👩‍👧", "plain Zoë 漢字 👩‍👩‍👧"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b]0;title\x07", "\\u001b]0;title\\u0007"),
        ("\x7f\x9b\u202e\ud800", "\\u007f\\u009b\\u202e\\ud800"),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: str, expected: str) -> None:
    """And all other text stays as it is."""
    assert printable(text) == expected


def test_a_preview_is_printable() -> None:
    """It is meant for terminals and logs."""
    text = preview(("\x9b\u202e\x1b\ud800",), {}, ("a",), ())
    assert text == printable(text)
    assert json.loads(text) == {"a": "\x9b\u202e\x1b\ud800"}


def test_arguments_may_come_as_any_mapping_and_sequence() -> None:
    """Queues hand over lists."""
    kwargs: Mapping[str, object] = {"b": 2}
    assert json.loads(preview([1], kwargs, ["a"], ["b"])) == {"a": 1, "b": "[redacted]"}
