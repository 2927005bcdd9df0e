"""Filters: what can be written, what is refused and how, and which letters they mean."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobguard import Filter
from jobguard.codec import Codec
from jobguard.errors import ConfigurationError, InvalidType, InvalidValue
from jobguard.stores.letters import LetterState
from tests.letters.making import letter

CODEC = Codec()
NOW = 1_700_000_000_000_000

words = st.text(max_size=12)
steps = st.text(st.characters(exclude_characters=".=", exclude_categories=["Cs"]), min_size=1, max_size=6)
paths = st.lists(steps, min_size=1, max_size=3).map(".".join)
lengths = st.timedeltas(timedelta(0), timedelta(days=30_000))
instants = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
moments = st.none() | lengths | instants
bounds = st.none() | st.integers(0, 10**8)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)
)


def is_range(pair: tuple[int | None, int | None]) -> bool:
    least, most = pair
    return least is not None if most is None else most >= (least or 0)


filters = st.builds(
    Filter,
    task=st.none() | words,
    error=st.none() | words,
    fingerprint=st.none() | words,
    key=st.none() | words,
    since=moments,
    until=moments,
    state=st.sampled_from((*LetterState, "all")),
    attempts=st.none() | st.integers(0, 10**8) | st.tuples(bounds, bounds).filter(is_range),
    arguments=st.dictionaries(paths, values, max_size=3),
)


# --- the grammar ---------------------------------------------------------------------------------


def test_terms_are_settings_and_arguments() -> None:
    """Each setting by its name, arguments by their path."""
    read = Filter.parse(
        "task=shop.send error=TimeoutError fingerprint=f since=2h until=30m state=all attempts=2..5 key=k "
        "arg.to=Ada arg.items.0.price=5"
    )
    assert read == Filter(
        task="shop.send",
        error="TimeoutError",
        fingerprint="f",
        since="2h",
        until="30m",
        state="all",
        attempts=(2, 5),
        key="k",
        arguments={"to": "Ada", "items.0.price": 5},
    )


def test_no_terms_mean_what_is_dead() -> None:
    """An empty text is the filter without settings."""
    assert Filter.parse("") == Filter.parse([]) == Filter()
    assert str(Filter()) == ""


def test_one_text_is_split_as_a_shell_does() -> None:
    """Quotes keep a value with spaces together."""
    assert Filter.parse("arg.to='Ada Lovelace' key=\"a b\"").arguments == {"to": "Ada Lovelace"}


def test_several_terms_are_taken_as_they_are() -> None:
    """A command line was split by its shell already."""
    assert Filter.parse(["arg.to=Ada's cat"]).arguments == {"to": "Ada's cat"}


@pytest.mark.parametrize(
    ("text", "attempts"),
    [("3", 3), ("2..5", (2, 5)), ("3..", (3, None)), ("..5", (None, 5))],
)
def test_attempts_are_a_number_or_a_range(text: str, attempts: object) -> None:
    """Either end of a range may be open."""
    assert Filter.parse(f"attempts={text}").attempts == attempts


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        ('"5"', "5"),
        ("Ada", "Ada"),
        ("", ""),
        ("a=b", "a=b"),
        ("1.50", "1.50"),
        ("1e5", "1e5"),
        ("-0", "-0"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_the_value_of_an_argument_is_json_or_text(text: str, value: object) -> None:
    """A number that JSON would write in another way is a text: it may be a name."""
    read = Filter.parse([f"arg.x={text}"]).arguments["x"]
    assert (read, type(read)) == (value, type(value))


@given(filters)
@example(Filter(task="5", key="123e4567", fingerprint="null", error='"x"'))
@example(Filter(since=timedelta(seconds=1_234_567), until=timedelta(microseconds=1)))
@example(Filter(since="20261124"))
def test_the_text_of_a_filter_says_the_same(filter: Filter) -> None:
    """Reading it again gives a filter that means the same letters."""
    read = Filter.parse(str(filter))
    assert read.query(NOW) == filter.query(NOW)
    assert (read.key, dict(read.arguments)) == (filter.key, dict(filter.arguments))
    assert read.attempts == filter.attempts
    assert (read.relative, read.reads_letters) == (filter.relative, filter.reads_letters)


@given(st.text() | st.lists(st.text()))
@example("since=0001-01-01")
@example("until=9999-12-31T23:59:59.999999")
@example("since=99999999999999w")
@example("state=")
def test_whatever_is_written_is_a_filter_or_refused(text: str | list[str]) -> None:
    """No text raises anything else."""
    with suppress(ConfigurationError):
        Filter.parse(text).query(NOW)


@pytest.mark.parametrize(
    ("term", "parts"),
    [
        ("TimeoutError", ["'TimeoutError'", "name=value", "task, error"]),
        ("eror=OSError", ["'eror=OSError'", "error", "arg."]),
        ("error=a error=b", ["'error'", "twice", "once"]),
        ("arg.to=a arg.to=b", ["'arg.to'", "twice", "once"]),
        ("attempts=many", ["attempts", "'many'", "2..5"]),
        ("attempts=", ["attempts", "''", "2..5"]),
        ("attempts=5..2", ["attempts", "(5, 2)", "no smaller"]),
        ("attempts=-1", ["attempts", "'-1'", "2..5"]),
        ("attempts=..", ["attempts", "'..'", "2..5"]),
        ("since=1767010100000", ["since", "'1767010100000'", "2h"]),
        ("since=yesterday", ["since", "'yesterday'", "2h", "2026-11-24T09:00"]),
        ("until=3y", ["until", "'3y'", "2h"]),
        ("state=gone", ["state", "'gone'", "dead, requeued, resolved, all"]),
        ("arg.=x", ["path", "''", "dots"]),
        ("arg.a..b=x", ["path", "'a..b'", "dots"]),
        ("key='open", ["key='open", "quotes"]),
    ],
)
def test_what_cannot_be_read_is_named_with_its_cure(term: str, parts: list[str]) -> None:
    """The message has the term, or its setting and value, and what can be written."""
    with pytest.raises(InvalidValue) as raised:
        Filter.parse(term)
    assert [part for part in parts if part not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("settings", "kind", "parts"),
    [
        ({"task": 5}, InvalidType, ["task", "5"]),
        ({"key": b"k"}, InvalidType, ["key", "b'k'"]),
        ({"since": 5}, InvalidType, ["since", "5"]),
        ({"since": ""}, InvalidValue, ["since", "''"]),
        ({"until": datetime(2026, 11, 24)}, InvalidValue, ["until", "time zone", "tzinfo=UTC"]),  # noqa: DTZ001
        ({"until": timedelta(-1)}, InvalidValue, ["until", "negative"]),
        ({"state": "gone"}, InvalidValue, ["state", "'gone'", "all"]),
        ({"state": ["dead"]}, InvalidValue, ["state"]),
        ({"attempts": True}, InvalidType, ["attempts", "True"]),
        ({"attempts": (1, 2, 3)}, InvalidType, ["attempts", "(1, 2, 3)"]),
        ({"attempts": -1}, InvalidValue, ["attempts", "-1"]),
        ({"attempts": (None, None)}, InvalidValue, ["attempts", "(None, None)", "leave it out"]),
        ({"arguments": ["to"]}, InvalidType, ["arguments", "['to']"]),
        ({"arguments": {5: 1}}, InvalidValue, ["path", "5"]),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    settings: dict[str, Any], kind: type[Exception], parts: list[str]
) -> None:
    """With its value, as everywhere."""
    with pytest.raises(kind) as raised:
        Filter(**settings)
    assert [part for part in parts if part not in str(raised.value)] == []


# --- times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("90s", NOW - 90_000_000),
        ("30m", NOW - 1_800_000_000),
        ("2h", NOW - 7_200_000_000),
        ("1.5d", NOW - 129_600_000_000),
        ("1w", NOW - 604_800_000_000),
        ("999999d", 0),
        (timedelta(0), NOW),
        (timedelta(microseconds=1), NOW - 1),
        (datetime(2023, 11, 14, 22, 13, 20, 123_457, tzinfo=UTC), NOW + 123_457),
        (datetime(2023, 11, 15, 0, 13, 20, tzinfo=timezone(timedelta(hours=2))), NOW),
        ("2023-11-14T22:13:20Z", NOW),
        (datetime(1900, 1, 1, tzinfo=UTC), 0),
    ],
)
def test_a_time_is_so_long_ago_or_a_date(moment: Any, expected: int) -> None:
    """To the microsecond, on the store's clock."""
    assert Filter(since=moment).query(NOW).since == Filter(until=moment).query(NOW).until == expected


def test_a_text_without_a_zone_is_local_time() -> None:
    """As whoever types it means it."""
    at = datetime(2023, 11, 14, 22, 13)  # noqa: DTZ001
    assert Filter(since=at.isoformat()).query(0) == Filter(since=at.astimezone()).query(0)


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wanted", "alike"),
    [
        ("Ada", "Ada", True),
        ("Ada", "ada", False),
        (5, 5, True),
        (5, "5", True),
        ("5", 5, True),
        (5, "6", False),
        (5.0, 5, True),
        ("1.50", "1.50", True),
        (1.5, "1.50", True),
        (100_000.0, "1e5", True),
        (Decimal("10.00"), "10.00", True),
        (Decimal("10.00"), 10, True),
        (Decimal("sNaN"), 10, False),
        (True, True, True),
        (True, 1, False),
        (1, True, False),
        (True, "True", False),
        (None, None, True),
        (None, "None", False),
        ([1, 2], [1, 2], True),
        ((1, 2), [1, 2], True),
        ([1, 2], [2, 1], False),
        ({"a": 1}, {"a": 1}, True),
        ([1], "[1]", False),
        (date(2026, 11, 24), "2026-11-24", True),
    ],
)
def test_an_argument_is_compared_as_somebody_would_write_it(
    found: object, wanted: object, alike: bool
) -> None:
    """A number also means its text; truth values and None are only themselves; a list is also a tuple."""
    assert Filter(arguments={"to": wanted}).meets(letter(args=[found]), CODEC) is alike


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("customer.phone", "1"),
        ("items.0.price", 5),
        ("items.1", {"price": 6}),
        ("pair.1", "b"),
        ("note", None),
    ],
)
def test_a_path_leads_into_mappings_and_lists(path: str, value: object) -> None:
    """By names and positions, positional and keyword arguments alike."""
    kept = letter(
        args=[{"phone": "1"}, [{"price": 5}, {"price": 6}]],
        parameters=("customer", "items"),
        kwargs={"pair": ("a", "b"), "note": None},
    )
    assert Filter(arguments={path: value}).meets(kept, CODEC)


@pytest.mark.parametrize("path", ["other", "to.0", "to.name", "items.2", "items.x", "items.0.name.more"])
def test_a_path_that_leads_nowhere_means_no_letter(path: str) -> None:
    """Not even one for None."""
    kept = letter(args=["Ada", [1, 2]], parameters=("to", "items"))
    assert not Filter(arguments={path: None}).meets(kept, CODEC)


def test_arguments_of_any_number_have_positions() -> None:
    """`*args` are a list of their name."""
    kept = letter(args=["Ada", "b", "c"], parameters=("to", "*rest"))
    assert Filter(arguments={"rest.1": "c", "rest": ["b", "c"]}).meets(kept, CODEC)


def test_what_only_the_worker_can_read_is_compared_as_it_is_shown() -> None:
    """The preview has the arguments of an opaque payload."""
    payload = b64encode(b"\x80pickle").decode()
    kept = letter(args=["Ada"], payload=payload, payload_format="opaque")
    assert Filter(arguments={"to": "Ada"}).meets(kept, CODEC)
    assert not Filter(arguments={"to": "Bob"}).meets(kept, CODEC)


def test_a_redacted_argument_is_found_by_what_was_kept() -> None:
    """The payload has it, which the preview masks."""
    kept = letter(args=["Ada"], redact=("to",))
    assert "Ada" not in kept.preview
    assert Filter(arguments={"to": "Ada"}).meets(kept, CODEC)


def test_a_redacted_argument_that_only_the_worker_can_read_is_not_found() -> None:
    """Its mask is all that there is to compare."""
    kept = letter(args=["Ada"], redact=("to",), payload=None, payload_format="none")
    assert not Filter(arguments={"to": "Ada"}).meets(kept, CODEC)


@given(st.text(), st.sampled_from(("json", "opaque", "none")), st.text())
@example(json.dumps({"args": [], "kwargs": {"$dict": [[5, 1]]}}), "json", "[]")
@example(json.dumps({"args": "abc", "kwargs": {}}), "json", "{")
def test_no_payload_breaks_a_filter(payload: str, payload_format: str, preview: str) -> None:
    """What cannot be read has no arguments."""
    kept = letter(payload=payload, payload_format=payload_format, preview=preview)
    assert not Filter(arguments={"to": "Ada"}).meets(kept, CODEC)
