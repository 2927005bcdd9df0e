"""`jobguard dlq`: read and tidy dead letter queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import (
    DEFAULT_URL,
    AsJson,
    AsLines,
    DryRun,
    Namespace,
    NoColor,
    Queue,
    Quiet,
    Url,
    Yes,
    confirm,
    make_screen,
    opened_queue,
    run,
)
from jobguard.cli.screen import Screen, moment
from jobguard.dlq import DeadLetterQueue
from jobguard.stores.base import DeadLetter

commands: typer.Typer = typer.Typer(
    help="Read and tidy dead letter queues.", no_args_is_help=True, rich_markup_mode=None
)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of letters.", show_default=False)]

BATCH = 500
"""Letters read in one go where all are looked at."""
COMMONEST = 20
"""Rows of a table of counts."""


@commands.command(epilog="Example: jobguard dlq count --queue whatsapp --fail-over 0")
def count(
    url: Url = DEFAULT_URL,
    namespace: Namespace = "jobguard",
    queue: Queue = "default",
    fail_over: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Exit with 6 if there are more than N.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How many letters a queue holds."""

    async def work() -> int:
        async with opened_queue(url, namespace, queue) as letters:
            return await letters.count()

    number = run(work)
    screen = make_screen()
    if as_json:
        screen.json({"queue": queue, "count": number})
    else:
        screen.line(str(number))
    if fail_over is not None and number > fail_over:
        raise Ended(Exit.THRESHOLD, f"{number} letters are more than {fail_over}")


@commands.command(epilog="Example: jobguard dlq queues --json")
def queues(url: Url = DEFAULT_URL, namespace: Namespace = "jobguard", as_json: AsJson = False) -> None:
    """Every queue that has held a letter, and how many it holds now."""

    async def work() -> dict[str, int]:
        async with opened_queue(url, namespace, "default") as letters:
            return {name: await letters.named(name).count() for name in await letters.queues()}

    found = run(work)
    screen = make_screen()
    if as_json:
        screen.json([{"queue": name, "count": number} for name, number in found.items()])
    else:
        screen.table(("queue", "letters"), found.items())


@commands.command("list", epilog="Example: jobguard dlq list --queue whatsapp --limit 20")
def list_(
    url: Url = DEFAULT_URL,
    namespace: Namespace = "jobguard",
    queue: Queue = "default",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Letters to show.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier list ended.")] = None,
    as_json: AsJson = False,
    as_lines: AsLines = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """A queue's letters, newest first."""

    async def work() -> tuple[tuple[DeadLetter, ...], str | None]:
        async with opened_queue(url, namespace, queue) as letters:
            page = await letters.list(limit, cursor)
            return page.entries, page.cursor

    entries, more = run(work)
    screen = make_screen(quiet=quiet, no_color=no_color)
    if as_json:
        screen.json({"entries": [asdict(letter) for letter in entries], "cursor": more})
        return
    if as_lines:
        for letter in entries:
            screen.json(asdict(letter))
    else:
        screen.table(
            ("id", "failed", "task", "error", "reason", "runs"),
            [
                (
                    letter.id,
                    moment(letter.failed_at),
                    letter.task,
                    f"{letter.error_type}: {letter.error_message}",
                    letter.reason,
                    letter.failures + letter.interruptions + letter.crashes,
                )
                for letter in entries
            ],
        )
    if more is not None:
        screen.say(f"more: --cursor {more}")


commands.command("ls", hidden=True)(list_)


@commands.command(epilog="Example: jobguard dlq get 4f0c… --json")
def get(
    ids: Ids,
    url: Url = DEFAULT_URL,
    namespace: Namespace = "jobguard",
    queue: Queue = "default",
    as_json: AsJson = False,
    as_lines: AsLines = False,
    no_color: NoColor = False,
) -> None:
    """All that is known of some letters."""

    async def work() -> list[DeadLetter | None]:
        async with opened_queue(url, namespace, queue) as letters:
            return [await letters.get(id) for id in ids]

    found = run(work)
    known = [letter for letter in found if letter is not None]
    screen = make_screen(no_color=no_color)
    if as_json:
        screen.json([asdict(letter) for letter in known])
    elif as_lines:
        for letter in known:
            screen.json(asdict(letter))
    else:
        for place, letter in enumerate(known):
            if place:
                screen.line("")
            _show(screen, letter)
    _end_with_missing([id for id, letter in zip(ids, found, strict=True) if letter is None], known, queue)


@commands.command(epilog="Example: jobguard dlq stats --queue whatsapp --json")
def stats(
    url: Url = DEFAULT_URL,
    namespace: Namespace = "jobguard",
    queue: Queue = "default",
    as_json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """What a queue's letters have in common: by task, by error, by reason, by hour. Reads them all."""

    async def work() -> _Stats:
        found = _Stats(Counter(), Counter(), Counter(), Counter())
        async with opened_queue(url, namespace, queue) as letters:
            async for letter in _all(letters):
                found.add(letter)
        return found

    found = run(work)
    screen = make_screen(no_color=no_color)
    if as_json:
        groups = {
            "tasks": found.tasks,
            "errors": found.errors,
            "reasons": found.reasons,
            "hours": found.hours,
        }
        screen.json({"queue": queue, "count": found.tasks.total(), **groups})
        return
    screen.line(f"{found.tasks.total()} letters")
    for title, counts in (("task", found.tasks), ("error", found.errors), ("reason", found.reasons)):
        if counts:
            screen.line("")
            screen.table((title, "letters"), counts.most_common(COMMONEST))
    if found.hours:
        screen.line("")
        screen.table(("hour (UTC)", "letters"), sorted(found.hours.items())[-COMMONEST:])


@commands.command(epilog="Example: jobguard dlq remove 4f0c… 91aa… --yes")
def remove(
    ids: Ids,
    url: Url = DEFAULT_URL,
    namespace: Namespace = "jobguard",
    queue: Queue = "default",
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove letters for good."""
    screen = make_screen(quiet=quiet)

    async def work() -> dict[str, bool]:
        async with opened_queue(url, namespace, queue) as letters:
            if dry_run:
                return {id: await letters.get(id) is not None for id in ids}
            return {id: await letters.remove(id) for id in ids}

    if not (yes or dry_run):
        confirm(screen, f"Remove {_letters(len(set(ids)))} of queue {queue!r} for good?")
    found = run(work)
    done = [id for id, removed in found.items() if removed]
    if as_json:
        screen.json({"queue": queue, "removed": [] if dry_run else done, "found": done})
    else:
        screen.say(f"{'would remove' if dry_run else 'removed'} {_letters(len(done))}")
    _end_with_missing([id for id, removed in found.items() if not removed], done, queue)


commands.command("rm", hidden=True)(remove)


@commands.command(epilog="Example: jobguard dlq clear --queue whatsapp")
def clear(
    url: Url = DEFAULT_URL,
    namespace: Namespace = "jobguard",
    queue: Queue = "default",
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove every letter that a queue holds now. Asks for the queue's name."""
    screen = make_screen(quiet=quiet)

    async def look() -> tuple[int, Counter[str]]:
        errors: Counter[str] = Counter()
        async with opened_queue(url, namespace, queue) as letters:
            async for letter in _all(letters):
                errors[f"{letter.task}: {letter.error_type}"] += 1
        return errors.total(), errors

    async def work() -> int:
        async with opened_queue(url, namespace, queue) as letters:
            return await letters.clear()

    if dry_run or not yes:
        number, errors = run(look)
        screen.say(f"queue {queue!r} holds {_letters(number)}")
        for name, each in errors.most_common(COMMONEST):
            screen.say(f"  {each:>7}  {name}")
        if dry_run:
            if as_json:
                screen.json({"queue": queue, "removed": 0, "found": number})
            return
        confirm(screen, "Type the queue's name to remove them all for good", queue)
    removed = run(work)
    if as_json:
        screen.json({"queue": queue, "removed": removed, "found": removed})
    else:
        screen.say(f"removed {_letters(removed)}")


@dataclass(frozen=True, slots=True)
class _Stats:
    """How many letters each task, error, reason and hour has."""

    tasks: Counter[str]
    errors: Counter[str]
    reasons: Counter[str]
    hours: Counter[str]

    def add(self, letter: DeadLetter) -> None:
        self.tasks[letter.task] += 1
        self.errors[letter.error_type] += 1
        self.reasons[letter.reason] += 1
        self.hours[f"{datetime.fromtimestamp(letter.failed_at, UTC):%Y-%m-%dT%H:00Z}"] += 1


async def _all(letters: DeadLetterQueue) -> AsyncIterator[DeadLetter]:
    """Every letter of a queue, newest first, read in batches."""
    cursor: str | None = None
    while True:
        page = await letters.list(BATCH, cursor)
        for letter in page.entries:
            yield letter
        cursor = page.cursor
        if cursor is None:
            return


def _show(screen: Screen, letter: DeadLetter) -> None:
    shown = asdict(letter)
    for name in ("first_seen", "failed_at"):
        shown[name] = moment(shown[name])
    shown["attempts"] = "".join(
        f"\n{each.attempt}. {moment(each.at)}  {each.type}: {each.message}" for each in letter.attempts
    )
    shown["causes"] = "".join(f"\n{cause}" for cause in letter.causes)
    shown["traceback"] = f"\n{letter.traceback.rstrip()}"
    screen.fields(shown)


def _letters(number: int) -> str:
    return f"{number} letter{'' if number == 1 else 's'}"


def _end_with_missing(missing: list[str], found: list[str] | list[DeadLetter], queue: str) -> None:
    if missing:
        code = Exit.PARTIAL if found else Exit.NOT_FOUND
        raise Ended(code, f"queue {queue!r} has no letter {', '.join(missing)}")
