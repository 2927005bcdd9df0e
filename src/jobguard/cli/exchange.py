"""`jobguard dlq export` and `import`: letters as lines of JSON, from one server to another."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TextIO

import typer

from jobguard.cli.calling import Call, command
from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import Form
from jobguard.cli.progress import Progress
from jobguard.cli.selection import Terms, counted
from jobguard.dlq import DeadLetterQueue
from jobguard.exchange import LONGEST_LINE, ImportReport, export, import_
from jobguard.filters import Filter
from jobguard.stores.letters import DeadLetter

STANDARD = "-"
REFUSALS_SHOWN = 20
"""Lines that are no letters, of which an import tells one by one."""


@command("export", "jobguard dlq export -o letters.jsonl --queue whatsapp")
def export_(
    call: Call,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to; - is standard output.", show_default=False
        ),
    ],
    terms: Terms = None,
) -> None:
    """Write letters as lines of JSON, oldest first: all of them, of whatever state, or those a filter means.

    The file holds their arguments unmasked, so its owner alone may read it. It appears when it is complete.
    """
    if output == STANDARD and call.form is not Form.TEXT:
        raise Ended(
            Exit.USAGE, "with -o - the letters are the output, as JSON lines: leave out --json and --jsonl"
        )
    if output != STANDARD and Path(output).exists() and not Path(output).is_file():
        raise Ended(Exit.USAGE, f"--output: {output!r} is not a file; - is standard output")
    call.run(_export, Filter.parse(terms) if terms else Filter(state="all"), output)


async def _export(call: Call, asked: Filter, output: str) -> None:
    number = 0
    async with call.opened() as opened:
        total = None if asked.reads_letters else await opened.letters.count(asked)
        with ExitStack() as stack:
            write = stack.enter_context(_writing(call, output))
            progress = stack.enter_context(Progress(call.screen, "exporting", total))
            async with aclosing(export(opened.letters, asked)) as lines:
                async for line in lines:
                    write(line)
                    number += 1
                    if number % 100 == 0:
                        progress(number)
        await call.warn_of_slips(opened.letters, number)
    if total is not None and number < total:
        call.screen.say(f"{counted(total - number)} went meanwhile, or could not be read")
    if not call.tell({"queue": call.queue, "filter": str(asked), "file": output, "exported": number}):
        call.screen.say(f"exported {counted(number)}")


@contextmanager
def _writing(call: Call, output: str) -> Generator[Callable[[str], object]]:
    """Where lines go: a file appears under its name once the block has ended well, and is on disk then."""
    if output == STANDARD:
        yield call.screen.write
        return
    path = Path(output).resolve()
    try:
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise Ended(Exit.FAILED, f"--output: {error}") from error
    try:
        with open(descriptor, "w", encoding="ascii") as file:  # mkstemp made it its owner's alone
            yield file.write
            file.flush()
            os.fsync(descriptor)
        os.replace(beside, path)
    except OSError as error:
        raise Ended(Exit.FAILED, f"--output: {output!r} could not be written: {error}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside)


@command("import", "jobguard dlq import letters.jsonl --queue whatsapp", changes=True)
def import_file(
    call: Call,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="What `export` wrote; - is standard input.", show_default=False),
    ],
) -> None:
    """Put exported letters into a queue. May be repeated: letters that are there stay as they are."""
    if file != STANDARD and (not os.access(file, os.R_OK) or Path(file).is_dir()):
        raise Ended(Exit.USAGE, f"there is no file {file!r} that can be read")
    call.run(_import, file)


async def _import(call: Call, file: str) -> None:
    async with call.opened() as opened:
        letters = opened.letters
        if call.dry_run:
            letters = _Untouched(opened.store, call.queue, namespace=call.namespace)
        with (
            _reading(file) as lines,
            Progress(call.screen, "importing", None, lambda number: f"{number} lines dealt with") as progress,
        ):
            report = await import_(letters, lines, progress=progress)
    values = {**asdict(report), "refused": [{"line": line, "why": why} for line, why in report.refused]}
    if not call.tell({"queue": call.queue, "dry_run": call.dry_run, **values}):
        _say(call, report)
    if report.refusals:
        told = (
            "1 line is not a letter" if report.refusals == 1 else f"{report.refusals} lines are not letters"
        )
        raise Ended(Exit.PARTIAL, told)


class _Untouched(DeadLetterQueue):
    """Says what an import would do, and takes nothing in."""

    async def take_in(self, letter: DeadLetter, arrival: int) -> bool:
        return await self.get(letter.id) is None


def _say(call: Call, report: ImportReport) -> None:
    for line, why in report.refused[:REFUSALS_SHOWN]:
        call.screen.complain(f"line {line}: {why}")
    word = "would import" if call.dry_run else "imported"
    known = f", {report.known} were there already" if report.known else ""
    call.screen.say(f"{word} {counted(report.imported)}{known}")


@contextmanager
def _reading(file: str) -> Generator[Iterator[str]]:
    try:
        standard = file == STANDARD
        source = sys.stdin.fileno() if standard else file
        # What is no UTF-8 is told of as a line that is no letter.
        with open(source, encoding="utf-8", errors="backslashreplace", closefd=not standard) as lines:
            yield _lines(lines)
    except OSError as error:
        raise Ended(Exit.FAILED, f"{file!r} could not be read: {error}") from error


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file; of an endless one, as much as shows that it is no letter."""
    while line := file.readline(LONGEST_LINE + 1):
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith("\n"):
            rest = file.readline(LONGEST_LINE + 1)
        yield line
