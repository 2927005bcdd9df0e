"""`jobguard dlq`: read and tidy dead letter queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection
from dataclasses import asdict
from typing import Annotated

import typer

from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import (
    DEFAULT_URL,
    AsJson,
    AsLines,
    DryRun,
    Form,
    Namespace,
    NoColor,
    Queue,
    Quiet,
    Url,
    Where,
    Yes,
    check_somebody_is_there,
    confirm,
    form_of,
    make_screen,
    opened_queue,
    run,
)
from jobguard.cli.screen import Screen, hour, moment
from jobguard.codec import clip
from jobguard.dlq import DeadLetterQueue
from jobguard.stores.letters import DeadLetter

commands: typer.Typer = typer.Typer(
    help="Read and tidy dead letter queues.", no_args_is_help=True, rich_markup_mode=None
)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of letters.", show_default=False)]

BATCH = 500
"""Letters read in one go where all are looked at."""
COMMONEST = 20
"""Rows of a table of counts."""
LINE_LIMIT = 200
"""Characters of a letter's line."""


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
    run(_count, make_screen(), Where(url, namespace, queue), fail_over, as_json)


async def _count(screen: Screen, where: Where, fail_over: int | None, as_json: bool) -> None:
    async with opened_queue(where) as letters:
        number = await letters.count()
        await _warn_of_slips(screen, letters, number)
    if as_json:
        screen.json({"queue": where.queue, "count": number})
    else:
        screen.line(str(number))
    if fail_over is not None and number > fail_over:
        raise Ended(Exit.THRESHOLD, f"{_letters(number)} are more than {fail_over}")


@commands.command(epilog="Example: jobguard dlq queues --json")
def queues(url: Url = DEFAULT_URL, namespace: Namespace = "jobguard", as_json: AsJson = False) -> None:
    """Every queue that has held a letter, and how many it holds now."""
    run(_queues, make_screen(), Where(url, namespace), as_json)


async def _queues(screen: Screen, where: Where, as_json: bool) -> None:
    async with opened_queue(where) as letters:
        found = {name: await letters.named(name).count() for name in await letters.queues()}
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
    form = form_of(as_json, as_lines)
    screen = make_screen(quiet=quiet, no_color=no_color)
    run(_list, screen, Where(url, namespace, queue), limit, cursor, form)


commands.command("ls", hidden=True)(list_)


async def _list(screen: Screen, where: Where, limit: int, cursor: str | None, form: Form) -> None:
    async with opened_queue(where) as letters:
        page = await letters.list(limit, cursor)
        await _warn_of_slips(screen, letters, len(page.entries))
    if form is Form.JSON:
        screen.json({"entries": [asdict(letter) for letter in page.entries], "cursor": page.cursor})
        return
    if form is Form.LINES:
        for letter in page.entries:
            screen.json(asdict(letter))
    else:
        screen.table(
            ("id", "failed", "task", "error"),
            [
                (
                    letter.id,
                    moment(letter.failed_at, zone=False),
                    letter.task,
                    f"{letter.error_type}: {letter.error_message}",
                )
                for letter in page.entries
            ],
        )
    if page.cursor is not None:
        screen.say(f"more: --cursor {page.cursor}")


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
    form = form_of(as_json, as_lines)
    run(_get, make_screen(no_color=no_color), Where(url, namespace, queue), _once(ids), form)


async def _get(screen: Screen, where: Where, ids: list[str], form: Form) -> None:
    async with opened_queue(where) as letters:
        found = await _find(letters, ids)
    if form is Form.JSON:
        screen.json([asdict(letter) for letter in found.values()])
    elif form is Form.LINES:
        for letter in found.values():
            screen.json(asdict(letter))
    else:
        for place, letter in enumerate(found.values()):
            if place:
                screen.line("")
            _show(screen, letter)
    _end_with_missing(ids, found, where.queue)


@commands.command(epilog="Example: jobguard dlq stats --queue whatsapp --json")
def stats(
    url: Url = DEFAULT_URL,
    namespace: Namespace = "jobguard",
    queue: Queue = "default",
    as_json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """What a queue's letters have in common: by task, by error, by reason, by hour. Reads them all."""
    run(_stats, make_screen(no_color=no_color), Where(url, namespace, queue), as_json)


async def _stats(screen: Screen, where: Where, as_json: bool) -> None:
    tasks: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    hours: Counter[str] = Counter()
    async with opened_queue(where) as letters:
        async for letter in _all(letters):
            tasks[letter.task] += 1
            errors[letter.error_type] += 1
            reasons[letter.reason] += 1
            hours[hour(letter.failed_at)] += 1
        await _warn_of_slips(screen, letters, tasks.total())
    if as_json:
        groups = {"tasks": tasks, "errors": errors, "reasons": reasons, "hours": hours}
        screen.json({"queue": where.queue, "count": tasks.total(), **groups})
        return
    screen.line(_letters(tasks.total()))
    for title, counts in (("task", tasks), ("error", errors), ("reason", reasons)):
        if counts:
            screen.line("")
            screen.table((title, "letters"), counts.most_common(COMMONEST))
    if hours:
        screen.line("")
        screen.table(("hour (UTC)", "letters"), sorted(hours.items())[-COMMONEST:])


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
    screen, where = make_screen(quiet=quiet), Where(url, namespace, queue)
    if dry_run:
        run(_would_remove, screen, where, _once(ids), as_json)
        return
    if not yes:
        check_somebody_is_there(screen)
        confirm(screen, run(_ask_to_remove, screen, where, _once(ids)))
    run(_remove, screen, where, _once(ids), as_json)


commands.command("rm", hidden=True)(remove)


async def _would_remove(screen: Screen, where: Where, ids: list[str], as_json: bool) -> None:
    async with opened_queue(where) as letters:
        found = await _find(letters, ids)
    if as_json:
        screen.json({"queue": where.queue, "dry_run": True, "removed": [], "found": list(found)})
    else:
        for letter in found.values():
            screen.line(f"would remove {_in_a_line(letter)}")
    _end_with_missing(ids, found, where.queue)


async def _ask_to_remove(screen: Screen, where: Where, ids: list[str]) -> str:
    """Show what is meant; the question."""
    async with opened_queue(where) as letters:
        found = await _find(letters, ids)
    if not found:
        _end_with_missing(ids, found, where.queue)
    for letter in found.values():
        screen.say(f"  {_in_a_line(letter)}")
    return f"Remove {_letters(len(found))} of queue {where.queue!r} for good?"


async def _remove(screen: Screen, where: Where, ids: list[str], as_json: bool) -> None:
    async with opened_queue(where) as letters:
        removed = [id for id in ids if await letters.remove(id)]
    if as_json:
        screen.json({"queue": where.queue, "dry_run": False, "removed": removed, "found": removed})
    else:
        screen.say(f"removed {_letters(len(removed))}")
    _end_with_missing(ids, removed, where.queue)


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
    screen, where = make_screen(quiet=quiet), Where(url, namespace, queue)
    if dry_run:
        run(_would_clear, screen, where, as_json)
    elif yes:
        run(_clear, screen, where, None, as_json)
    else:
        check_somebody_is_there(screen)
        newest = run(_look, screen, where)
        confirm(screen, "Type the queue's name to remove them all for good", queue)
        run(_clear, screen, where, newest, as_json)


async def _would_clear(screen: Screen, where: Where, as_json: bool) -> None:
    async with opened_queue(where) as letters:
        number, lines = await _groups(letters)
    if as_json:
        screen.json({"queue": where.queue, "dry_run": True, "removed": 0, "found": number})
    else:
        screen.line(f"queue {where.queue!r} holds {_letters(number)}")
        for line in lines:
            screen.line(line)


async def _look(screen: Screen, where: Where) -> str | None:
    """Show what is meant; the mark of the newest letter that is."""
    async with opened_queue(where) as letters:
        newest = await letters.newest()
        number, lines = await _groups(letters)
    if newest is None:
        raise Ended(Exit.NOT_FOUND, f"queue {where.queue!r} holds no letter")
    screen.say(f"queue {where.queue!r} holds {_letters(number)}")
    for line in lines:
        screen.say(line)
    return newest


async def _clear(screen: Screen, where: Where, until: str | None, as_json: bool) -> None:
    async with opened_queue(where) as letters:
        removed = await letters.clear(until)
        await _warn_of_slips(screen, letters, removed)
    if as_json:
        screen.json({"queue": where.queue, "dry_run": False, "removed": removed, "found": removed})
    else:
        screen.say(f"removed {_letters(removed)}")


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


async def _find(letters: DeadLetterQueue, ids: list[str]) -> dict[str, DeadLetter]:
    found = {id: await letters.get(id) for id in ids}
    return {id: letter for id, letter in found.items() if letter is not None}


async def _groups(letters: DeadLetterQueue) -> tuple[int, list[str]]:
    """How many letters there are, and a line for each of the commonest ways in which they failed."""
    ways: Counter[str] = Counter()
    async for letter in _all(letters):
        ways[f"{letter.task}: {letter.error_type}"] += 1
    lines = [f"  {number:>7}  {way}" for way, number in ways.most_common(COMMONEST)]
    return ways.total(), lines


async def _warn_of_slips(screen: Screen, letters: DeadLetterQueue, number: int) -> None:
    """Say that an empty queue has never been one: its name may be a slip of the pen."""
    if number == 0:
        known = await letters.queues()
        if letters.name not in known:
            screen.say(
                f"no queue {letters.name!r} has ever held a letter here; those that have: "
                f"{', '.join(known) or 'none (is --namespace right?)'}"
            )


def _show(screen: Screen, letter: DeadLetter) -> None:
    shown = asdict(letter)
    for name in ("first_seen", "failed_at"):
        shown[name] = moment(shown[name])
    shown["enqueued"] = moment(shown.pop("enqueued_ms") / 1000) if letter.enqueued_ms else None
    shown["job_queue"] = shown.pop("queue")
    shown["attempts"] = "".join(
        f"\n{each.attempt}. {moment(each.at)}  {each.type}: {each.message}" for each in letter.attempts
    )
    shown["causes"] = "".join(f"\n{cause}" for cause in letter.causes)
    shown["traceback"] = f"\n{letter.traceback.rstrip()}" if letter.traceback else None
    screen.fields({name: value for name, value in shown.items() if value not in (None, "")})


def _in_a_line(letter: DeadLetter) -> str:
    return clip(f"{letter.id}  {letter.task}  {letter.error_type}: {letter.error_message}", LINE_LIMIT)


def _letters(number: int) -> str:
    return f"{number} letter{'' if number == 1 else 's'}"


def _once(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))


def _end_with_missing(ids: list[str], found: Collection[str], queue: str) -> None:
    missing = [id for id in ids if id not in found]
    if missing:
        code = Exit.PARTIAL if found else Exit.NOT_FOUND
        raise Ended(code, f"queue {queue!r} has no letter {', '.join(missing)}")
