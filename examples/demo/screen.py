"""What the demo shows: progress on a terminal, the operator's commands, and a table at the end.

Text from jobs and services is printed as plain text, with control characters escaped: it may come from
anywhere, and must steer neither the terminal nor the table.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from examples.demo.accounts import Report
from jobguard.codec import clip, printable

WIDEST = 90
"""Characters of a text that is not ours."""
MOST = 10
"""Contradictions that are shown; where there are more, they are of one kind."""


class Screen:
    """Progress on standard error: a bar on a terminal, a line for each milestone elsewhere.

    Args:
        transcript: where commands and their output are shown.
    """

    def __init__(self, transcript: TextIO) -> None:
        self._transcript = Console(file=transcript)
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("jobs"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bar = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def milestone(self, text: str) -> None:
        self._console.print(plain(text), highlight=False)

    def progress(self, text: str, done: int, total: int) -> None:
        self._progress.update(self._bar, description=text, completed=done, total=total)

    def remark(self, text: str) -> None:
        """A comment on what comes next."""
        self._write(f"\n# {text}", "dim")

    def command(self, line: str) -> None:
        """A command as it is typed."""
        self._write(f"$ {line}", "bold")

    def output(self, text: str) -> None:
        """What a command has printed, all of it."""
        for line in text.splitlines():
            self._write(printable(line.rstrip()), "")

    def _write(self, text: str, style: str) -> None:
        self._progress.stop()  # a bar on the same terminal would run through it
        self._transcript.print(Text(text, style=style), soft_wrap=True)


def plain(text: str) -> Text:
    """Text from anywhere, made harmless and not too long."""
    return Text(clip(printable(text), WIDEST))


def show(report: Report) -> None:
    """Print the tables to standard output."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    account = report.account
    table = _table("jobs", "what became of them")
    for name, number, meaning in (
        (
            "accepted",
            account.accepted,
            f"{report.ordered} ordered, {report.replies} replies by tasks, less the duplicates",
        ),
        ("succeeded", account.succeeded, ""),
        ("failed", account.failed, "discarded on purpose"),
        ("dead-lettered", account.dead_lettered, "kept still, and can be run again"),
        ("duplicates", account.duplicates, "webhooks delivered again, not run"),
        ("replayed", account.replayed, "dead letters that were run again"),
        ("resolved", account.resolved, "… and came to a good end"),
        ("retries", account.retries, "failed attempts that were put off"),
        ("interruptions", account.interruptions, "attempts cut off by a shutdown"),
        (
            "crashes",
            account.crashes,
            f"attempts killed with their worker; {report.in_flight} were in flight",
        ),
        ("lost", account.lost, "must be 0"),
        ("delivered twice", account.delivered_twice, "through duplicates or retries: must be 0"),
        (
            "repeated after the crash",
            account.repeated_after_crash,
            f"cut off after the request went out: at most {report.in_flight}",
        ),
    ):
        table.add_row(name, str(number), meaning)
    console.print()
    console.print(table)
    console.print(_counts("dead letters left, by cause", report.causes))
    for service, counts in report.seen.items():
        console.print(_counts(f"what the {service} saw", counts))
    for text in report.contradictions[:MOST]:
        console.print(Text("contradiction: ", style="red") + Text(printable(text)))
    verdict = "nothing lost, nothing delivered twice" if report.holds else "THE ACCOUNTS DO NOT BALANCE"
    console.print(f"{verdict}, in {account.seconds:g} s", style="bold green" if report.holds else "bold red")


def _counts(title: str, counts: Mapping[str, int]) -> Table:
    table = _table(title, None)
    for name, number in counts.items():
        table.add_row(plain(name), str(number))
    return table


def _table(title: str, last: str | None) -> Table:
    table = Table(title=None, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(title, min_width=26, no_wrap=True)
    table.add_column("", justify="right")
    if last is not None:
        table.add_column(last, style="dim")
    return table
