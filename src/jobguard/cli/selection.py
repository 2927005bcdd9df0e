"""Which letters a command line means: ids and keys, or a filter, held to what was there when it was shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeAlias

import typer

from jobguard.cli.calling import Call
from jobguard.cli.exits import Ended, Exit
from jobguard.cli.progress import Progress
from jobguard.codec import clip
from jobguard.dlq import DeadLetterQueue, Group
from jobguard.filters import Filter, Moment, microseconds
from jobguard.stores.letters import DeadLetter, LetterState

Terms: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME=VALUE",
        help="Filter: task, error, fingerprint, since, until, state, attempts, key, or arg.PATH.",
        show_default=False,
    ),
]
Ids: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="ID|KEY", help="Letters, by id or deduplication key.", show_default=False),
]
Words: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID|KEY|NAME=VALUE",
        help="Letters, by id or deduplication key; or the terms of a filter.",
        show_default=False,
    ),
]

KINDS_SHOWN = 20
"""Groups of letters that are shown before something is done to them."""
LINE_LIMIT = 200
"""Characters of a letter's or a group's line."""


@dataclass(frozen=True, slots=True)
class Meant:
    """Letters that were shown to somebody.

    Attributes:
        filter: which, with times that do not move.
        mark: of the newest letter that there was; None = there was none.
        at: when that was, on this machine's monotonic clock.
        count: how many they were.
    """

    filter: Filter
    mark: str | None
    at: float
    count: int


def ids_or_filter(words: Iterable[str], *, otherwise: str) -> tuple[str, ...] | Filter:
    """What words mean: all of them ids and keys, or all of them terms of a filter.

    Args:
        words: of the command line.
        otherwise: how all letters are meant, told where there is no word. Nothing never means all.
    """
    given = tuple(dict.fromkeys(words))
    terms = [word for word in given if "=" in word]
    if not given:
        raise Ended(
            Exit.USAGE, f"say which letters: ids, keys, or a filter such as error=TimeoutError; {otherwise}"
        )
    if not terms:
        return given
    if len(terms) < len(given):
        other = next(word for word in given if "=" not in word)
        raise Ended(
            Exit.USAGE, f"{terms[0]!r} is a filter, and {other!r} an id or a key: use one or the other"
        )
    return Filter.parse(terms)


async def look(call: Call, asked: Filter, tell: Callable[[str], None]) -> Meant:
    """Show what a filter means: the count, and the commonest causes.

    Args:
        call: where.
        asked: which letters.
        tell: writes a line.
    """
    async with call.opened() as opened:
        letters = opened.letters
        mark, at = await letters.newest(), time.monotonic()
        asked = pinned(asked, (await opened.totals()).now)
        with Progress(call.screen, "looking") as progress:
            count = await letters.count(asked, progress=progress)
        if count:
            tell(f"queue {letters.name!r}: {counted(count)} {'is' if count == 1 else 'are'} meant")
            with Progress(call.screen, "looking", count) as progress:
                groups = await _groups(letters, asked, progress)
            for line in group_lines(groups, count):
                tell(line)
        await call.warn_of_slips(letters, count)
    return Meant(asked, mark, at, count)


async def _groups(letters: DeadLetterQueue, asked: Filter, progress: Progress) -> list[Group]:
    """The commonest causes. States have indexes of their own, so `all` is asked for one by one."""
    if asked.state != "all":
        return await letters.groups(asked, progress=progress)
    found: list[Group] = []
    for state in LetterState:
        found += await letters.groups(replace(asked, state=state), progress=progress)
    return found


def group_lines(groups: Iterable[Group], count: int) -> list[str]:
    """A line for each of the commonest causes: how many letters, their error, their tasks."""
    kinds: dict[str, tuple[int, str, tuple[str, ...]]] = {}
    for group in groups:
        number, error, tasks = kinds.get(group.fingerprint, (0, "", ()))
        error = error or (group.sample.error_type if group.sample else group.fingerprint)
        tasks = tuple(dict.fromkeys((*tasks, *group.tasks)))
        kinds[group.fingerprint] = (number + group.count, error, tasks)
    shown = sorted(kinds.values(), key=lambda kind: -kind[0])[:KINDS_SHOWN]
    lines = [clip(f"{number:>9}  {error}  {', '.join(tasks)}", LINE_LIMIT) for number, error, tasks in shown]
    rest = count - sum(number for number, _, _ in shown)
    return [*lines, f"{rest:>9}  of other kinds"] if rest > 0 else lines


def pinned(asked: Filter, now: int) -> Filter:
    """A filter whose times do not move while somebody thinks about it. `now`: the store's time."""

    def fixed(moment: Moment | None) -> Moment | None:
        return None if moment is None else _date(microseconds(moment, now))

    return replace(asked, since=fixed(asked.since), until=fixed(asked.until))


def until_mark(mark: str) -> datetime:
    """For `Filter.until`: the newest letter that there was, and all before it."""
    return _date(int(mark))


def _date(at: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at)


async def found_by(letters: DeadLetterQueue, words: Iterable[str]) -> dict[str, DeadLetter]:
    """The letters that ids and keys mean, by what was given for them."""
    found = {word: await letters.get(word) for word in words}
    return {word: letter for word, letter in found.items() if letter is not None}


def end_with_missing(words: Collection[str], found: Collection[str], queue: str) -> None:
    """End with a code of its own where ids or keys lead to no letter."""
    missing = [word for word in words if word not in found]
    if missing:
        shown = clip(", ".join(missing), LINE_LIMIT)
        raise Ended(Exit.PARTIAL if found else Exit.NOT_FOUND, f"queue {queue!r} has no letter {shown}")


def in_a_line(letter: DeadLetter) -> str:
    """A letter as one line."""
    return clip(f"{letter.id}  {letter.task}  {letter.error_type}: {letter.error_message}", LINE_LIMIT)


def counted(number: int) -> str:
    """A number of letters, in words."""
    return f"{number} letter{'' if number == 1 else 's'}"
