"""Measured lines, their bounds, and the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import NamedTuple


class Bound(NamedTuple):
    """What a line's number must not pass: `most` from above, else from below."""

    limit: float
    most: bool = True

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.limit:g}"


class Line(NamedTuple):
    """One row.

    Attributes:
        what: the subject.
        shown: what it takes, for people.
        value: the number that its bound is about, and that is shown beside it.
        unit: what that number is.
        bound: None = only for comparison.
    """

    what: str
    shown: str
    value: float
    unit: str
    bound: Bound | None = None

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return ""
        return "ok" if self.bound.holds(self.value) else "OVER"


class Section(NamedTuple):
    """Comparisons that belong together.

    Attributes:
        title: of its table.
        measure: can be called again.
        noisy: whether that may give another result.
    """

    title: str
    measure: Callable[[], Awaitable[Sequence[Line]]]
    noisy: bool = True


AGAIN = 2
"""How often a noisy section is measured again if a line misses its bound; then medians count."""


async def measured(section: Section) -> list[Line]:
    """A section's lines; if one misses its bound, the medians of three measurements."""
    runs = [list(await section.measure())]
    if section.noisy and any(line.verdict == "OVER" for line in runs[0]):
        runs += [list(await section.measure()) for _ in range(AGAIN)]
    lines: list[Line] = []
    for same in zip(*runs, strict=True):
        middle = median(line.value for line in same)
        lines.append(next(line for line in same if line.value == middle))
    return lines


def table(section: Section, lines: Sequence[Line]) -> str:
    """Plain text, one line a row."""
    rows = [
        (
            line.what,
            line.shown,
            f"{line.value:.2f} {line.unit}",
            "" if line.bound is None else str(line.bound),
            line.verdict,
        )
        for line in lines
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    texts = [
        f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  "
        f"{row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]
    return "\n".join([section.title, *texts])


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.2f} µs" if seconds < 1e-5 else f"{seconds * 1e6:,.0f} µs"
