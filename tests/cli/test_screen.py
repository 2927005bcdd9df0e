"""Nothing that a job wrote reaches the terminal as anything but text."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

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


ANY = st.text(st.characters(exclude_categories=())) | st.sampled_from(HOSTILE)
"""Texts of whatever characters, lone surrogates too."""
COLUMNS = ["id", "failed", "state", "task", "error"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # the machine's affair
@given(rows=st.lists(st.tuples(ANY, ANY, ANY, ANY, ANY), max_size=3), width=st.integers(40, 200) | st.none())
def test_any_text_is_shown(
    rows: list[tuple[str, ...]], width: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """No text makes a table fail, steers the terminal, or makes a row of a list more than a line."""
    screen = Screen(color=False, width=width)
    screen.table(COLUMNS, rows)
    out, _ = capsys.readouterr()
    assert not STEERING.search(out)
    assert len(out.splitlines()) == len(rows) + 1
    assert width is None or max(map(cell_len, out.splitlines())) <= width
    screen.fields(dict(zip(COLUMNS, rows[0], strict=True)) if rows else {})
    assert not STEERING.search(capsys.readouterr().out)


@pytest.mark.parametrize("width", [1, 10, 40])
def test_a_terminal_may_be_narrow(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of all columns is cut to what there is."""
    columns = ("count", "error", "tasks", "first seen", "last seen", "sample", "fingerprint")
    Screen(color=False, width=width).table(
        columns, [(1, "x" * 50, "y" * 50, "t" * 19, "t" * 19, "i" * 24, "f" * 16)]
    )
    assert len(capsys.readouterr().out.splitlines()) == 2


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
    reading = [
        ("list",),
        ("get", id),
        ("stats",),
        ("groups",),
        ("remove", id, "--dry-run"),
        ("clear", "--dry-run"),
    ]
    for command in reading:
        ended = desk("dlq", *command)
        assert ended.code == 0
        assert not STEERING.search(ended.out)


SOME = ["error", "count", "fingerprint", "seen"]


@pytest.mark.parametrize(("width", "kept"), [(40, ["count", "error"]), (300, SOME)])
def test_what_a_terminal_has_no_room_for_is_left_out(
    capsys: pytest.CaptureFixture[str], width: int, kept: list[str]
) -> None:
    """Columns that can be spared make room, and names go without their modules; wide ones show it all."""
    row = ["examples.whatsapp.WhatsAppBusy: (#4) too fast", 3, "f" * 16, "2026-11-24 10:00:00"]
    Screen(width=width).table(SOME, [row], spare=("fingerprint", "seen"))
    head, line = capsys.readouterr().out.splitlines()
    assert [name for name in SOME if name in head.split()] == [name for name in SOME if name in kept]
    assert ("examples." in line) is (width == 300)
    assert "WhatsAppBusy" in line


def test_a_name_that_nothing_has_is_told(desk: Desk) -> None:
    """A filter that cannot match is likely a slip of the pen: what there is stands beside it."""
    desk.fill("no")
    ended = desk("dlq", "count", "error=Value")
    assert (ended.code, ended.out) == (0, "0\n")
    assert "no dead letter has error 'Value'; those here: ValueError" in ended.err
