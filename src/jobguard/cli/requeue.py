"""`jobguard dlq requeue`: dead letters' jobs go into their queues again."""

from __future__ import annotations

import getpass
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Annotated

import typer
from redis.asyncio import Redis

from jobguard.adapters.base import Requeuer
from jobguard.arguments import Typed
from jobguard.cli.calling import Call, command
from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import Form, check_somebody_is_there, check_url_options, client_timeouts
from jobguard.cli.progress import Progress
from jobguard.cli.selection import Words, counted, ids_or_filter, look
from jobguard.errors import ConfigurationError
from jobguard.filters import Filter
from jobguard.requeueing import Orders, Requeued, Status, Stopped
from jobguard.stores.connecting import connect
from jobguard.stores.redis import RedisStore

WITHOUT_ARQ = "ARQ is not installed here: pip install 'jobguard[arq]'"


class WhereDuplicate(StrEnum):
    """What to do where another job runs or has succeeded with a letter's key."""

    SKIP = "skip"
    FORCE = "force"
    FAIL = "fail"


@command(
    "requeue",
    "jobguard dlq requeue error=TimeoutError --canary 5 --rate 20",
    asks=True,
    changes=True,
)
def requeue(
    call: Call,
    words: Words = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter of the queue.")] = False,
    rate: Annotated[float | None, typer.Option(help="Jobs a second at most.", metavar="N")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Letters at most, the oldest first.", metavar="N")
    ] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH=VALUE", help="Change an argument first; JSON or text. Repeatable."),
    ] = None,
    on_duplicate: Annotated[
        WhereDuplicate, typer.Option(help="Where another job has the key and runs or has succeeded.")
    ] = WhereDuplicate.SKIP,
    max_requeues: Annotated[
        int, typer.Option(min=0, metavar="N", help="Refuse what was run again so often; 0 = never.")
    ] = 5,
    canary: Annotated[
        int, typer.Option(min=0, metavar="N", help="N letters first; the rest if they end well.")
    ] = 0,
    max_failure_rate: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Stop if more fail again, from ten on. [with --canary: 0.2]"),
    ] = None,
    patience: Annotated[float, typer.Option(metavar="SECONDS", help="To wait for canaries.")] = 300.0,
    trust_imported: Annotated[
        bool, typer.Option("--trust-imported", help="Also run opaque payloads that came out of a file.")
    ] = False,
    unserved: Annotated[
        bool, typer.Option("--unserved", help="Also what no worker has said it serves.")
    ] = False,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who asks for it. [default: user@host]")
    ] = None,
    arq_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="JOBGUARD_ARQ_URL", help="Server of ARQ's queues. [default: --url]"
        ),
    ] = None,
) -> None:
    """Put letters' jobs into their queues again: by id, by key, those that a filter means, or all."""
    if everything and words:
        raise Ended(Exit.USAGE, "--all is every dead letter: leave out the ids or the filter")
    which = (
        Filter()
        if everything
        else ids_or_filter(words or (), otherwise="every dead letter is meant by --all")
    )
    orders = Orders(
        rate=rate,
        limit=limit,
        edit=_changes(edit or ()),
        on_duplicate=on_duplicate.value,
        max_requeues=max_requeues or None,
        canary=canary,
        max_failure_rate=max_failure_rate,
        patience=patience,
        trust_imported=trust_imported,
        unserved=unserved,
        dry_run=call.dry_run,
        by=_somebody() if by is None else by,
    )
    until: str | None = None
    if isinstance(which, Filter) and not call.yes and not call.dry_run:
        check_somebody_is_there(call.screen)
        meant = call.run(look, which, call.screen.say)
        if meant.count == 0:
            _tell_all(call, [], "")
            _conclude(call, Counter(), "")
            return
        some = counted(meant.count)
        if limit is not None and limit < meant.count:
            some = f"the oldest {limit} of {some}"
        call.confirm(f"Requeue {some} of queue {call.queue!r} now?")
        which, until = meant.filter, meant.mark
    call.run(_requeue, which, orders, arq_url, until)


def _changes(edits: Iterable[str]) -> dict[str, object]:
    changes: dict[str, object] = {}
    for edit in edits:
        path, equals, value = edit.partition("=")
        if not equals:
            raise Ended(Exit.USAGE, f"--edit {edit!r}: write PATH=VALUE")
        if path in changes:
            raise Ended(Exit.USAGE, f"--edit {path!r} is given twice")
        changes[path] = Typed(value)
    return changes


def _somebody() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        user = "?"
    return f"{user}@{socket.gethostname()}"


async def _requeue(
    call: Call, which: tuple[str, ...] | Filter, orders: Orders, arq_url: str | None, until: str | None
) -> None:
    told: list[Requeued] = []
    statuses: Counter[Status] = Counter()
    stopped = ""
    async with call.opened() as opened, _ways(opened.store, arq_url) as ways:
        total: int | None = len(which) if isinstance(which, tuple) else None
        if isinstance(which, Filter) and not which.reads_letters:
            total = await opened.letters.count(which)
            await call.warn_of_slips(opened.letters, total)
        with Progress(call.screen, "requeueing", total, lambda _: _summary(statuses)) as progress:
            try:
                async with aclosing(opened.letters.requeueing(which, ways, orders, until=until)) as outcomes:
                    async for found in outcomes:
                        outcome = found if ways else _with_cure(found)
                        statuses[outcome.status] += 1
                        progress(statuses.total())
                        if call.form is Form.JSON:
                            told.append(outcome)
                        else:
                            _tell(call, outcome)
            except Stopped as reason:
                stopped = str(reason)
    _tell_all(call, told, stopped)
    _conclude(call, statuses, stopped)


def _tell_all(call: Call, outcomes: Sequence[Requeued], stopped: str) -> None:
    """All letters in one object, if that is the form."""
    if call.form is Form.JSON:
        counts = Counter(outcome.status for outcome in outcomes)
        call.screen.json(
            {
                "queue": call.queue,
                "dry_run": call.dry_run,
                "outcomes": [asdict(outcome) for outcome in outcomes],
                "counts": {status.value: counts[status] for status in Status},
                "stopped": stopped,
            }
        )


def _tell(call: Call, outcome: Requeued) -> None:
    """One letter's line: as text, only of those of which there is something to say."""
    if call.form is Form.LINES:
        call.screen.json(asdict(outcome))
    elif outcome.status is not Status.REQUEUED:
        why = _as_options(outcome.why) or f"as job {outcome.job_id}"
        call.screen.line(f"{outcome.id}  {outcome.status}  {why}")


def _with_cure(outcome: Requeued) -> Requeued:
    """An outcome where there is no way into any queue."""
    if outcome.status is not Status.REFUSED or "'arq'" not in outcome.why:
        return outcome
    return replace(outcome, why=f"{outcome.why}; {WITHOUT_ARQ}")


def _as_options(why: str) -> str:
    """A reason that names settings of the API, as this command calls them."""
    for setting, option in _OPTIONS.items():
        why = why.replace(setting, option)
    return why


_OPTIONS = {
    "unserved=True": "--unserved",
    "on_duplicate='force'": "--on-duplicate force",
    "(max_requeues=": "(--max-requeues ",
    "(trust_imported)": "(--trust-imported)",
}


def _summary(statuses: Counter[Status]) -> str:
    parts = [f"{statuses[status]} {status.replace('_', ' ')}" for status in Status if statuses[status]]
    return ", ".join(parts) or "nothing requeued"


def _conclude(call: Call, counts: Counter[Status], stopped: str) -> None:
    """Say what it came to.

    Raises:
        Ended: not everything that was asked for was done.
    """
    call.screen.say(_summary(counts))
    if stopped:
        raise Ended(Exit.PARTIAL, f"stopped: {stopped}")
    missing = counts[Status.MISSING]
    if missing and missing == counts.total():
        raise Ended(Exit.NOT_FOUND, f"queue {call.queue!r} has none of these letters")
    if missing or counts[Status.REFUSED]:
        raise Ended(Exit.PARTIAL, f"{counted(missing + counts[Status.REFUSED])} could not be requeued")


@asynccontextmanager
async def _ways(store: RedisStore, arq_url: str | None) -> AsyncGenerator[list[Requeuer]]:
    """The ways into queues that there are from here."""
    try:
        from jobguard.adapters.arq import ArqQueue
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "arq":
            raise
        yield []
        return
    async with AsyncExitStack() as stack:
        client = store.client
        if arq_url is not None:
            try:
                client, *others = connect(arq_url, client_timeouts())
            except ConfigurationError as error:
                raise Ended(Exit.USAGE, f"--arq-url: {error}") from error
            for each in (client, *others):
                stack.push_async_callback(each.aclose)
            check_url_options(client, "--arq-url")
        if not isinstance(client, Redis):
            raise Ended(Exit.USAGE, "ARQ's queues are on no Cluster: say with --arq-url where they are")
        yield [ArqQueue(client)]
