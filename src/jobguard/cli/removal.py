"""`jobguard dlq remove`, `clear` and `prune`: what takes letters away, and asks before it does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from jobguard.cli.calling import Call, command
from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import Form, check_somebody_is_there
from jobguard.cli.progress import Progress
from jobguard.cli.selection import (
    KINDS_SHOWN,
    LINE_LIMIT,
    Meant,
    Words,
    counted,
    end_with_missing,
    found_by,
    ids_or_filter,
    in_a_line,
    look,
    until_mark,
)
from jobguard.codec import clip
from jobguard.dlq import OnEvict
from jobguard.exchange import spill_to
from jobguard.filters import Filter, ago
from jobguard.stores.letters import DeadLetter, LetterState


def _removed(number: int) -> str:
    return f"removed {counted(number)}"


@command("remove", "jobguard dlq remove 4f0c… 91aa… --yes", alias="rm", asks=True, changes=True)
def remove(call: Call, words: Words = None) -> None:
    """Remove letters for good: by id, by key, or those that a filter means."""
    meant = ids_or_filter(words or (), otherwise="all of a queue are removed by `clear`")
    if isinstance(meant, Filter):
        _remove_by_filter(call, meant)
        return
    if not (call.dry_run or call.yes):
        check_somebody_is_there(call.screen)
    named = call.run(_named, meant)
    letters = {letter.id: letter for letter in named.values()}  # an id and a key may name the same one
    if call.dry_run:
        _would_remove_ids(call, meant, named, letters)
        return
    if letters and not call.yes:
        for letter in letters.values():
            call.screen.say(f"  {in_a_line(letter)}")
        call.confirm(f"Remove {counted(len(letters))} of queue {call.queue!r} for good?")
    call.run(_remove_ids, meant, {word: letter.id for word, letter in named.items()})


async def _named(call: Call, words: Sequence[str]) -> dict[str, DeadLetter]:
    async with call.opened() as opened:
        return await found_by(opened.letters, words)


def _would_remove_ids(
    call: Call, words: Sequence[str], named: Collection[str], letters: Mapping[str, DeadLetter]
) -> None:
    missing = [word for word in words if word not in named]
    if not call.tell(_removal(call, found=len(letters), missing=missing)):
        for letter in letters.values():
            call.screen.line(f"would remove {in_a_line(letter)}")
    end_with_missing(words, named, call.queue)


async def _remove_ids(call: Call, words: Sequence[str], named: Mapping[str, str]) -> None:
    """Remove letters. `named`: their ids, by what was given for them."""
    removed: set[str] = set()
    async with call.opened() as opened:
        with Progress(call.screen, "removing", len(named), _removed) as progress:
            for id in dict.fromkeys(named.values()):
                if await opened.letters.remove(id):
                    removed.add(id)
                    progress(len(removed))
    gone = [word for word, id in named.items() if id in removed]
    missing = [word for word in words if word not in gone]
    if not call.tell(_removal(call, found=len(removed), removed=len(removed), missing=missing)):
        call.screen.say(_removed(len(removed)))
    end_with_missing(words, gone, call.queue)


def _remove_by_filter(call: Call, asked: Filter) -> None:
    if call.dry_run:
        call.run(_would_remove, asked)
        return
    until: str | None = None
    if not call.yes:
        check_somebody_is_there(call.screen)
        meant = call.run(look, asked, call.screen.say)
        if meant.count == 0:
            _nothing_meant(call, asked)
            return
        call.confirm(f"Remove {counted(meant.count)} of queue {call.queue!r} for good?")
        asked, until = meant.filter, meant.mark
    call.run(_remove_all, asked, until)


def _nothing_meant(call: Call, asked: Filter) -> None:
    if not call.tell(_removal(call, asked)):
        call.screen.say("no letter is meant: nothing was done")


async def _would_remove(call: Call, asked: Filter) -> None:
    meant = await look(call, asked, _lines(call))
    if not call.tell(_removal(call, asked, found=meant.count)):
        call.screen.line(f"would remove {counted(meant.count)}")


async def _remove_all(call: Call, asked: Filter, until: str | None) -> None:
    async with call.opened() as opened:
        total = None if asked.reads_letters else await opened.letters.count(asked)
        with Progress(call.screen, "removing", total, _removed) as progress:
            removed = await opened.letters.remove_all(asked, until=until, progress=progress)
        await call.warn_of_slips(opened.letters, removed)
    _tell_removed(call, asked, removed)


@command("clear", "jobguard dlq clear --queue whatsapp", asks=True, changes=True)
def clear(call: Call) -> None:
    """Remove every letter that a queue holds now, whatever its state. Asks for the queue's name."""
    everything = Filter(state="all")
    if call.dry_run:
        call.run(_would_remove, everything)
        return
    until: str | None = None
    if not call.yes:
        check_somebody_is_there(call.screen)
        meant = call.run(look, everything, call.screen.say)
        if meant.count == 0:
            _nothing_meant(call, everything)
            return
        call.confirm("Type the queue's name to remove them all for good", call.queue)
        until = meant.mark
    call.run(_remove_all, everything, until)


@dataclass(frozen=True, slots=True)
class Limits:
    """Which of the oldest letters `prune` is to remove."""

    older_than: str | None
    keep: int | None
    state: LetterState | None

    @property
    def filter(self) -> Filter:
        return Filter(state="all" if self.state is None else self.state)


@command("prune", "jobguard dlq prune --older-than 30d --spill old.jsonl --yes", asks=True, changes=True)
def prune(
    call: Call,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Letters that came so long ago: 12h, 30d.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="But never the newest N letters.")
    ] = None,
    state: Annotated[LetterState | None, typer.Option(help="Only letters of this state.")] = None,
    spill: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append them to this file first, as JSON lines.", dir_okay=False),
    ] = None,
) -> None:
    """Remove the oldest letters: those of an age, or beyond a number, or (with both) only what is both.

    They count as evicted.
    """
    if older_than is None and keep is None:
        raise Ended(Exit.USAGE, "say which letters are to go: --older-than, --keep, or both")
    if older_than is not None:
        ago("--older-than", older_than)
    limits = Limits(older_than, keep, state)
    if call.dry_run:
        call.run(_would_prune, limits)
        return
    meant: Meant | None = None
    if not call.yes:
        check_somebody_is_there(call.screen)
        meant = call.run(_look_at_oldest, limits, call.screen.say)
        if meant.count == 0:
            _nothing_meant(call, limits.filter)
            return
        call.confirm(f"Remove the oldest {counted(meant.count)} of queue {call.queue!r} for good?")
    call.run(_prune, limits, spill, meant)


async def _would_prune(call: Call, limits: Limits) -> None:
    meant = await _look_at_oldest(call, limits, _lines(call))
    if not call.tell(_removal(call, limits.filter, found=meant.count)):
        call.screen.line(f"would remove {counted(meant.count)}")


async def _look_at_oldest(call: Call, limits: Limits, tell: Callable[[str], None]) -> Meant:
    """Show which letters are to go."""
    kinds: Counter[tuple[str, str]] = Counter()
    async with call.opened() as opened:
        mark, at = await opened.letters.newest(), time.monotonic()
        count = await opened.letters.prune(
            older_than=limits.older_than,
            keep=limits.keep,
            state=limits.filter.state,
            dry_run=True,
        )
        await call.warn_of_slips(opened.letters, count)
        if count:
            with Progress(call.screen, "looking", count) as progress:
                async with aclosing(opened.letters.each(limits.filter, oldest_first=True)) as letters:
                    async for letter in letters:
                        kinds[letter.error_type, letter.task] += 1
                        progress(kinds.total())
                        if kinds.total() == count:
                            break
            tell(f"queue {call.queue!r}: the oldest {counted(count)} {'is' if count == 1 else 'are'} meant")
    for (error, task), number in kinds.most_common(KINDS_SHOWN):
        tell(clip(f"{number:>9}  {error}  {task}", LINE_LIMIT))
    return Meant(limits.filter, mark, at, count)


async def _prune(call: Call, limits: Limits, spill: Path | None, meant: Meant | None) -> None:
    async with call.opened() as opened:
        age = None if limits.older_than is None else ago("--older-than", limits.older_than).total_seconds()
        keep = limits.keep
        if meant is not None and meant.mark is not None:
            # What has aged, or come, while the question stood was not shown.
            age = None if age is None else age + time.monotonic() - meant.at
            if keep is not None:
                here = await opened.letters.count(meant.filter)
                keep += here - await opened.letters.count(replace(meant.filter, until=until_mark(meant.mark)))
        with Progress(call.screen, "removing", None if meant is None else meant.count, _removed) as progress:
            removed = await opened.letters.prune(
                older_than=age,
                keep=keep,
                state=limits.filter.state,
                on_evict=None if spill is None else _spilling(spill),
                progress=progress,
            )
    _tell_removed(call, limits.filter, removed)


def _spilling(file: Path) -> OnEvict:
    spill = spill_to(file)

    def write(letters: Sequence[DeadLetter]) -> None:
        try:
            spill(letters)
        except OSError as error:
            raise Ended(Exit.FAILED, f"--spill: {error}; what was not written was not removed") from error

    return write


def _lines(call: Call) -> Callable[[str], None]:
    """Where a dry run shows what is meant: it is its data, unless that is JSON."""
    return call.screen.line if call.form is Form.TEXT else call.screen.say


def _removal(
    call: Call, asked: Filter | None = None, *, found: int = 0, removed: int = 0, missing: Sequence[str] = ()
) -> dict[str, object]:
    return {
        "queue": call.queue,
        "filter": None if asked is None else str(asked),
        "dry_run": call.dry_run,
        "found": found,
        "removed": removed,
        "missing": list(missing),
    }


def _tell_removed(call: Call, asked: Filter, removed: int) -> None:
    if not call.tell(_removal(call, asked, found=removed, removed=removed)):
        call.screen.say(_removed(removed))
