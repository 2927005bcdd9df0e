"""What people and programs get to see. Data goes to standard output, all else to standard error.

Texts come from jobs, so they are hostile: whatever could steer a terminal is escaped, and markup of
rich is never read. JSON is ASCII, which is safe as it is.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from jobguard.codec import clip, printable

ID_WIDTH = 24
FLEXIBLE = frozenset({"task", "tasks", "error"})
"""Columns that share what a terminal has left beside the others."""
LEAST_WIDTH = 24
"""Columns of the terminal that each of those gets, if others can be left out for it."""
CELL_LIMIT = 500
"""Characters of a table's cell; what is longer is cut in its middle."""
WIDE = 10_000
"""Columns of a table where there is no terminal: a row is a line, for whatever reads it."""


class Screen:
    """Where a command writes.

    Args:
        color: False = never; None = where standard output is a terminal and NO_COLOR is not set.
        quiet: no messages, only data.
        width: columns; None = the terminal's, or many where there is none.
    """

    def __init__(self, *, color: bool | None = None, quiet: bool = False, width: int | None = None) -> None:
        settings: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
        if color is False or os.environ.get("NO_COLOR"):
            settings["color_system"] = None
        self._out = Console(width=width, **settings)
        self._narrow = width is not None or self._out.is_terminal
        if not self._narrow:
            self._out = Console(width=WIDE, **settings)
        self._err = Console(stderr=True, **settings)
        self._quiet = quiet
        self._barred = False

    @property
    def watched(self) -> bool:
        """Whether messages come before somebody's eyes as they are written."""
        return self._err.is_terminal and not self._quiet

    @property
    def interactive(self) -> bool:
        """Whether somebody can be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def line(self, text: str) -> None:
        """One line of data."""
        # A bar at the foot of the same terminal makes room only for what goes its own way.
        out = self._err if self._barred and self._out.is_terminal else self._out
        out.print(Text(safe(text)), soft_wrap=True)

    def say(self, text: str) -> None:
        """One line for people."""
        if not self._quiet:
            self._err.print(Text(safe(text)), soft_wrap=True)

    def complain(self, text: str) -> None:
        """One line about what went wrong; never left out."""
        self._err.print(Text(f"jobguard: {safe(text)}"), soft_wrap=True)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, spare: Sequence[str] = ()
    ) -> None:
        """Rows under headings, numbers to the right.

        Where a terminal is too narrow for all of it, names are shown without their modules, and columns left
        out.

        Args:
            columns: headings.
            rows: cells; None is an empty one.
            spare: columns that can be left out, the first one first.
        """
        found = [
            [clip(safe(_shown(each)), CELL_LIMIT) if isinstance(each, str) else each for each in row]
            for row in rows
        ]
        if self._narrow:
            columns, found = self._fitted(columns, found, spare)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for place, name in enumerate(columns):
            number = bool(found) and all(isinstance(row[place], int) for row in found)
            table.add_column(
                name,
                justify="right" if number else "left",
                no_wrap=True,
                overflow="ellipsis",
                min_width=ID_WIDTH if name == "id" else None,  # an id is to be copied, so it is never cut
                ratio=1 if self._narrow and name in FLEXIBLE else None,
            )
        table.expand = self._narrow and not FLEXIBLE.isdisjoint(columns)
        for row in found:
            table.add_row(*(Text(clip(safe(_shown(value)), CELL_LIMIT)) for value in row))
        self._out.print(table)

    def _fitted(
        self, columns: Sequence[str], rows: list[list[object]], spare: Sequence[str]
    ) -> tuple[Sequence[str], list[list[object]]]:
        """What of a table fits into the terminal; the columns that share what is left get some at least."""
        texts = [[_shown(each) for each in row] for row in rows]
        widths = {
            name: max([cell_len(name), *(cell_len(row[place]) for row in texts)]) + 2
            for place, name in enumerate(columns)
        }
        if sum(widths.values()) <= self._out.width:
            return columns, rows
        least = {
            name: min(width, LEAST_WIDTH) if name in FLEXIBLE else width for name, width in widths.items()
        }
        kept = list(columns)
        for name in spare:
            if name in kept and sum(least[each] for each in kept) > self._out.width:
                kept.remove(name)
        places = [list(columns).index(name) for name in kept]
        return kept, [
            [_without_module(row[place]) if columns[place] in FLEXIBLE else row[place] for place in places]
            for row in rows
        ]

    def fields(self, values: Mapping[str, object]) -> None:
        """One thing, a line a field; texts of several lines keep their lines, indented."""
        for name, value in values.items():
            text = _shown(value)
            lines = text.split("\n") if "\n" in text else [text]
            self._out.print(Text(f"{safe(name)}:", style="bold"), Text(safe(lines[0])), soft_wrap=True)
            for line in lines[1:]:
                self._out.print(Text(f"    {safe(line)}"), soft_wrap=True)

    def json(self, value: object) -> None:
        """One JSON value on a line of its own."""
        self.write(json.dumps(value, separators=(",", ":"), default=str) + "\n")

    def write(self, text: str) -> None:
        """Data as it is, at once: whoever reads it may be waiting."""
        self._out.file.write(text)
        self._out.file.flush()

    @contextmanager
    def bar(self, doing: str, total: int | None) -> Generator[Callable[[int], None]]:
        """A bar at the foot of a terminal, while the block lasts; takes how far it is.

        Args:
            doing: what is being done.
            total: how far it goes; None = nobody knows.
        """
        if not self.watched:
            yield _unseen
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:g}"))
        progress = Progress(
            *columns, console=self._err, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._barred = True
        try:
            with progress:
                task = progress.add_task(doing, total=total)
                yield lambda number: progress.update(task, completed=number)
        finally:
            self._barred = False


def _without_module(cell: object) -> object:
    """A name's last part, and what follows it: `TimeoutError: no answer` of `app.errors.TimeoutError: …`."""
    return _MODULES.sub("", cell) if isinstance(cell, str) else cell


_MODULES = re.compile(r"(?<![\w.])(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")


def safe(text: str) -> str:
    """Text that a terminal only shows."""
    return printable(text)


def moment(seconds: float, *, zone: bool = True) -> str:
    """A local time as people read it."""
    try:
        local = datetime.fromtimestamp(seconds).astimezone()
        return (local if zone else local.replace(tzinfo=None)).isoformat(sep=" ", timespec="seconds")
    except (TypeError, ValueError, OverflowError, OSError):  # whatever the store has
        return f"{seconds!r}"


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def _unseen(number: int) -> None: ...
