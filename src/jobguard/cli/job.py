"""`jobguard job`: what the store knows of a key."""

from __future__ import annotations

from typing import Annotated

import typer

from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import (
    DEFAULT_URL,
    AsJson,
    Namespace,
    NoColor,
    Quiet,
    Url,
    Yes,
    confirm,
    make_screen,
    opened_store,
    run,
)
from jobguard.cli.screen import Screen
from jobguard.dlq import check_name
from jobguard.stores.base import Record, State

commands: typer.Typer = typer.Typer(
    help="What the store knows of a deduplication key.", no_args_is_help=True, rich_markup_mode=None
)

Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="The key as events, letters and `Duplicate` show it: 32 characters.",
        show_default=False,
    ),
]


@commands.command(epilog="Example: jobguard job get 3b1f… --json")
def get(
    key: Key,
    url: Url = DEFAULT_URL,
    namespace: Namespace = "jobguard",
    as_json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Whose a key is, how far that job has come, and what that means for the next one."""
    run(_get, make_screen(no_color=no_color), url, namespace, key, as_json)


async def _get(screen: Screen, url: str, namespace: str, key: str, as_json: bool) -> None:
    async with opened_store(url) as store:
        record = await store.look_up(_record_key(namespace, key))
    if record is None:
        raise Ended(Exit.NOT_FOUND, f"nothing is known of key {key!r}: the next job that has it will run")
    values = {
        "key": key,
        "status": record.state.status.value,
        "owner": record.owner,
        "fence": record.fence,
        "seconds_left": record.wait,
        "crashes": record.crashes,
        "seconds_since_first_claim": record.elapsed,
        "result": record.body if record.state is State.SUCCESS else None,
        "meaning": _meaning(record),
    }
    if as_json:
        screen.json(values)
    else:
        screen.fields({name: value for name, value in values.items() if value is not None})


@commands.command(epilog="Example: jobguard job forget 3b1f… --yes")
def forget(
    key: Key,
    url: Url = DEFAULT_URL,
    namespace: Namespace = "jobguard",
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Forget what is known of a key, so that the next job that has it runs. A run under way is fenced off."""
    screen = make_screen(quiet=quiet)
    if not yes:
        confirm(screen, f"Forget key {key!r}? Its work may be done again.")
    run(_forget, screen, url, namespace, key, as_json)


async def _forget(screen: Screen, url: str, namespace: str, key: str, as_json: bool) -> None:
    async with opened_store(url) as store:
        forgotten = await store.forget(_record_key(namespace, key))
    if as_json:
        screen.json({"key": key, "forgotten": forgotten})
    if not forgotten:
        raise Ended(Exit.NOT_FOUND, f"nothing is known of key {key!r}")
    if not as_json:
        screen.say("forgotten")


def _record_key(namespace: str, key: str) -> str:
    return f"{check_name('namespace', namespace)}:{key}"


def _meaning(record: Record) -> str:
    left = f"{record.wait:.0f} s"
    match record.state:
        case State.PROCESSING if record.wait > 0:
            return f"it is running; unless its lease is renewed, others may take over in {left}"
        case State.PROCESSING:
            return "its lease is over: its worker has gone, and the next job with this key takes over"
        case State.RETRY if record.wait > 0:
            return f"it failed, and its next run is due in {left}"
        case State.RETRY:
            return "it failed, and its next run is due"
        case State.INTERRUPTED:
            return "a shutdown cut it off: the next job with this key takes over"
        case State.SUCCESS if record.wait > 0:
            return f"it has succeeded; other jobs with this key get its result for {left} more"
        case State.SUCCESS:
            return "it has succeeded, too long ago to count for other jobs"
        case State.FAILED:
            return "it failed for good, and the key is free"
        case State.DEAD_LETTER:
            return "it became a dead letter, and the key is free"
