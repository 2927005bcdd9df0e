"""Nothing that a job wrote reaches the terminal as anything but text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobguard.cli.screen import CELL_LIMIT, Screen
from tests.cli.conftest import Desk

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://x\x07link\x1b]8;;\x07",
    "\x9b31m",
    "[/nothing] [bold]x[/bold] :smile:",
    "\u202egnirts\u202c \u2066x\u2069",
    "a\rb\x00c\x7f",
    "漢字" * 300,
    "x" * 1_000_000,
    "\ud800",
]
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def narrow() -> Screen:
    """A screen of 40 columns."""
    return Screen(color=False, width=40)


@pytest.mark.parametrize("text", HOSTILE, ids=[f"hostile-{number}" for number in range(len(HOSTILE))])
def test_shows_hostile_texts_as_text(text: str, narrow: Screen, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape codes, bidirectional controls, markup, wide and endless texts: a table shows, and obeys none."""
    narrow.table(("id", "text"), [("1", text), ("2", "plain")])
    narrow.fields({"text": text})
    narrow.line(text)
    narrow.complain(text)
    out, err = capsys.readouterr()
    assert not STEERING.search(out + err)
    assert "plain" in out


@settings(deadline=None)  # how long it takes is the machine's affair
@given(texts=st.lists(st.text(), min_size=1, max_size=5), columns=st.integers(1, 3))
def test_any_text_is_shown(texts: list[str], columns: int) -> None:
    """No text makes a table fail."""
    Screen(color=False).table(["x"] * columns, [[text] * columns for text in texts])


def test_keeps_markup_of_rich_as_it_is(narrow: Screen, capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are square brackets."""
    narrow.line("[red]a[/red] [/nothing] :smile:")
    assert capsys.readouterr().out == "[red]a[/red] [/nothing] :smile:\n"


def test_cuts_long_cells(capsys: pytest.CaptureFixture[str]) -> None:
    """A cell shows the beginning and the end of what is too long for it."""
    Screen(color=False).table(("text",), [("a" + "x" * 10_000 + "z",)])
    shown = "".join(capsys.readouterr().out.split())
    assert len(shown) <= CELL_LIMIT + len("text")
    assert shown.endswith("z")
    assert "characterscut" in shown


def test_a_hostile_letter_is_listed_and_shown(desk: Desk) -> None:
    """From the job to the screen, no control character of a message gets through."""
    (id,) = desk.fill("\x1b]0;owned\x07 [/nothing] \u202e \r\n gone")
    for ended in (desk("dlq", "list"), desk("dlq", "get", id), desk("dlq", "stats")):
        assert ended.code == 0
        assert not STEERING.search(ended.out)
