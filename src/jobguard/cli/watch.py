"""`jobguard dlq watch`: dead letters as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Annotated

import anyio
import typer

from jobguard.cli.calling import Call, Opened, command
from jobguard.cli.options import Form
from jobguard.cli.screen import moment
from jobguard.cli.selection import Terms, counted, in_a_line
from jobguard.codec import Codec
from jobguard.errors import StoreUnavailable
from jobguard.filters import Filter
from jobguard.letters import letter_in
from jobguard.stores.letters import LARGEST_PAGE, DeadLetter


@command("watch", "jobguard dlq watch error=TimeoutError --jsonl | jq .error_message")
def watch(
    call: Call,
    terms: Terms = None,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Between looks.")
    ] = 2.0,
) -> None:
    """Show dead letters as they come, a line each, until Ctrl-C. Objects are a line each with --json too."""
    call.run(_watch, Filter.parse(terms or ()), interval)


async def _watch(call: Call, asked: Filter, interval: float) -> None:
    async with call.opened() as opened:
        before, mark = await opened.totals(), await opened.letters.newest() or "0"
        number = await opened.letters.count(asked)
        await call.warn_of_slips(opened.letters, number)
        call.screen.say(f"queue {call.queue!r} holds {counted(number)}; waiting for more")
        silent = False
        while True:
            try:
                async for arrival, letter in _newer(opened, asked, mark):
                    mark = arrival
                    if letter is not None:
                        _tell(call, letter)
                if call.screen.watched:
                    totals = await opened.totals()
                    if before._replace(now=totals.now) != totals:
                        call.screen.say(
                            f"{totals.dead} dead, {totals.requeued} requeued, {totals.resolved} resolved"
                        )
                    before = totals
                if silent:
                    call.screen.say("the server answers again")
                silent = False
            except StoreUnavailable as error:
                if not silent:
                    call.screen.complain(f"{error}; still waiting")
                silent = True
            await anyio.sleep(interval)


async def _newer(opened: Opened, asked: Filter, mark: str) -> AsyncGenerator[tuple[str, DeadLetter | None]]:
    """What has come since a mark, in order: its own mark, and the letter, or None for one not meant."""
    query, codec = asked.query((await opened.totals()).now), Codec()
    cursor: str | None = mark
    while cursor is not None:
        page = await opened.store.letters.page(opened.queue, query, LARGEST_PAGE, cursor, oldest_first=True)
        for entry in page.entries:
            letter = letter_in(entry)
            yield str(entry.arrival), letter if asked.meets(letter, codec) else None
        cursor = page.cursor


def _tell(call: Call, letter: DeadLetter) -> None:
    if call.form is Form.TEXT:
        call.screen.line(f"{moment(letter.failed_at, zone=False)}  {in_a_line(letter)}")
    else:
        call.screen.json(asdict(letter))
