"""`jobguard dlq`: what is in dead letter queues."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer

from jobguard.cli.calling import Call, command
from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import Form
from jobguard.cli.progress import Progress
from jobguard.cli.screen import Screen, moment
from jobguard.cli.selection import Ids, Terms, counted, end_with_missing, found_by
from jobguard.dlq import Group
from jobguard.filters import Filter, checked_moment
from jobguard.stores.letters import DeadLetter, LetterQueue, Totals

ROWS = 20
"""Rows of a table of counts."""
STATES = ("dead", "requeued", "resolved")


@command("count", "jobguard dlq count error=TimeoutError since=2h --queue whatsapp --fail-over 0")
def count(
    call: Call,
    terms: Terms = None,
    fail_over: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Exit with 6 if there are more than N.")
    ] = None,
) -> None:
    """How many letters there are: those that are dead, or that a filter means."""
    call.run(_count, Filter.parse(terms or ()), fail_over)


async def _count(call: Call, asked: Filter, fail_over: int | None) -> None:
    async with call.opened() as opened:
        with Progress(call.screen, "counting") as progress:
            number = await opened.letters.count(asked, progress=progress)
        await call.warn_of_slips(opened.letters, number, asked)
    if not call.tell({"queue": call.queue, "filter": str(asked), "count": number}):
        call.screen.line(str(number))
    if fail_over is not None and number > fail_over:
        raise Ended(Exit.THRESHOLD, f"{counted(number)} are more than {fail_over}")


@command("queues", "jobguard dlq queues --json", queue=False)
def queues(call: Call) -> None:
    """Every queue that has held a letter, and how many of each state it holds now."""
    call.run(_queues)


async def _queues(call: Call) -> None:
    async with call.opened() as opened:
        found: dict[str, Totals] = {}
        for name in await opened.letters.queues():
            found[name] = await opened.store.letters.totals(LetterQueue(call.namespace, name))
    values: list[dict[str, object]] = [
        {"queue": name, "dead": totals.dead, "requeued": totals.requeued, "resolved": totals.resolved}
        for name, totals in found.items()
    ]
    if not call.tell_each(values):
        call.screen.table(("queue", *STATES), [list(value.values()) for value in values])


@command("list", "jobguard dlq list error=TimeoutError since=2h arg.to=Ada --limit 20", alias="ls")
def list_(
    call: Call,
    terms: Terms = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Letters to show.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier list ended.")] = None,
) -> None:
    """Letters, newest first: those that are dead, or that a filter means."""
    call.run(_list, Filter.parse(terms or ()), limit, cursor)


async def _list(call: Call, asked: Filter, limit: int, cursor: str | None) -> None:
    async with call.opened() as opened:
        page = await opened.letters.list(limit, cursor, filter=asked)
        await call.warn_of_slips(opened.letters, len(page.entries), asked)
    if call.form is Form.JSON:
        call.screen.json({"entries": [asdict(letter) for letter in page.entries], "cursor": page.cursor})
        return
    if call.form is Form.LINES:
        call.tell_each([asdict(letter) for letter in page.entries])
    else:
        _table(call.screen, page.entries, with_state=asked.state == "all")
    if page.cursor is not None:
        call.screen.say(f"more: --cursor {page.cursor}")


def _table(screen: Screen, letters: Iterable[DeadLetter], *, with_state: bool) -> None:
    columns = ("id", "failed", *(["state"] if with_state else []), "task", "error")
    rows = [
        (
            letter.id,
            moment(letter.failed_at, zone=False),
            *([letter.state.value] if with_state else []),
            letter.task,
            f"{letter.error_type}: {letter.error_message}",
        )
        for letter in letters
    ]
    screen.table(columns, rows, spare=("failed", "task"))


@command("get", "jobguard dlq get 4f0c… --json")
def get(call: Call, ids: Ids) -> None:
    """All that is known of some letters, what was changed and when they were run again too."""
    call.run(_get, list(dict.fromkeys(ids)))


async def _get(call: Call, ids: list[str]) -> None:
    async with call.opened() as opened:
        found = await found_by(opened.letters, ids)
    if not call.tell_each([asdict(letter) for letter in found.values()]):
        for place, letter in enumerate(found.values()):
            if place:
                call.screen.line("")
            _show(call.screen, letter)
    end_with_missing(ids, found, call.queue)


def _show(screen: Screen, letter: DeadLetter) -> None:
    shown = asdict(letter)
    for name in ("first_seen", "failed_at"):
        shown[name] = moment(shown[name])
    shown["enqueued"] = moment(shown.pop("enqueued_ms") / 1000) if letter.enqueued_ms else None
    shown["job_queue"] = shown.pop("queue")
    shown["state"] = f"{letter.state} ({letter.resolution})" if letter.resolution else letter.state.value
    del shown["resolution"]
    for name in ("parameters", "redact"):
        shown[name] = ", ".join(shown[name])
    shown["imported"] = "yes" if letter.imported else None
    shown["attempts"] = "".join(
        f"\n{each.attempt}. {moment(each.at)}  {each.type}: {each.message}" for each in letter.attempts
    )
    shown["edits"] = "".join(
        f"\n{moment(each.at)}  {each.path}: {each.before} -> {each.after}{_by(each.by)}"
        for each in letter.edits
    )
    shown["replays"] = "".join(
        f"\n{each.number}. {moment(each.at)}  as job {each.job_id}{_by(each.by)}" for each in letter.replays
    )
    shown["causes"] = "".join(f"\n{cause}" for cause in letter.causes)
    shown["traceback"] = f"\n{letter.traceback.rstrip()}" if letter.traceback else None
    screen.fields({name: value for name, value in shown.items() if value not in (None, "")})


def _by(name: str) -> str:
    return f", by {name}" if name else ""


@command("groups", "jobguard dlq groups since=24h --queue whatsapp")
def groups(
    call: Call,
    terms: Terms = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Groups to show.")] = ROWS,
) -> None:
    """The commonest causes: the same error, raised at the same place."""
    call.run(_groups, Filter.parse(terms or ()), limit)


async def _groups(call: Call, asked: Filter, limit: int) -> None:
    async with call.opened() as opened:
        with Progress(call.screen, "counting") as progress:
            found = await opened.letters.groups(asked, limit, progress=progress)
        await call.warn_of_slips(opened.letters, len(found), asked)
    if not call.tell_each([_group(group) for group in found]):
        call.screen.table(
            ("count", "error", "tasks", "first seen", "last seen", "sample", "fingerprint"),
            [
                (
                    group.count,
                    _error_of(group),
                    ", ".join(group.tasks),
                    moment(group.first_seen, zone=False),
                    moment(group.last_seen, zone=False),
                    "" if group.sample is None else group.sample.id,
                    group.fingerprint,
                )
                for group in found
            ],
            spare=("fingerprint", "first seen", "sample", "last seen", "tasks"),
        )


def _group(group: Group) -> dict[str, object]:
    return {
        "count": group.count,
        "error": _error_of(group),
        "tasks": list(group.tasks),
        "first_seen": group.first_seen,
        "last_seen": group.last_seen,
        "sample": None if group.sample is None else group.sample.id,
        "fingerprint": group.fingerprint,
    }


def _error_of(group: Group) -> str:
    return "" if group.sample is None else group.sample.error_type


@command("stats", "jobguard dlq stats --queue whatsapp --since 24h --json")
def stats(
    call: Call,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only letters that came since: 24h, 7d, 2026-11-24T09:00."),
    ] = None,
) -> None:
    """A queue in numbers: by state, and its dead letters by task, by error and by hour."""
    if since is not None:
        checked_moment("--since", since)
    call.run(_stats, since)


async def _stats(call: Call, since: str | None) -> None:
    async with call.opened() as opened:
        found = await opened.letters.stats(since)
        await call.warn_of_slips(opened.letters, found.dead + found.requeued + found.resolved)
    if call.tell({"queue": call.queue, "since": since, **asdict(found)}):
        return
    screen = call.screen
    screen.table((*STATES, "evicted"), [(found.dead, found.requeued, found.resolved, found.evicted)])
    if since is not None:
        screen.line(f"{found.count} dead since {since}")
    for title, counts in (("task", found.tasks), ("error", found.errors)):
        if counts:
            screen.line("")
            screen.table((title, "letters"), list(counts.items())[:ROWS])
    if found.hours:
        screen.line("")
        screen.table(("hour (UTC)", "letters"), found.hours.items())
