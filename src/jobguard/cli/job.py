"""`jobguard job`: what the store knows of a key."""

from __future__ import annotations

from typing import Annotated

import typer

from jobguard.cli.calling import Call, command
from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import Form, opened_store
from jobguard.history import unpack
from jobguard.policies import check_namespace
from jobguard.stores.base import Record, State

Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="The key as events, letters and `Duplicate` show it: 32 characters.",
        show_default=False,
    ),
]


@command("get", "jobguard job get 3b1f… --json", queue=False)
def get(call: Call, key: Key) -> None:
    """Whose a key is, how far that job has come, and what that means for the next one."""
    record = call.run(_look_up, key)
    if record is None:
        if call.form is Form.JSON:
            call.screen.json(None)
        raise _unknown(call, key)
    values = _values(key, record)
    if not call.tell(values):
        call.screen.fields({name: _word(value) for name, value in values.items() if value is not None})


async def _look_up(call: Call, key: str) -> Record | None:
    record_key = _record_key(call, key)
    async with opened_store(call.url) as store:
        return await store.look_up(record_key)


def _values(key: str, record: Record) -> dict[str, object]:
    history, _ = unpack(record.history, record.elapsed)
    last = history.errors[-1] if history.errors else None
    return {
        "key": key,
        "status": record.state.status.value,
        "owner": record.owner,
        "attempt": None if record.state.ended else history.with_crashes(record.crashes).runs + 1,
        "fence": record.fence,
        "seconds_left": record.wait,
        "crashes": record.crashes,
        "failures": None if record.state.ended else history.failures,
        "last_error": None if last is None else f"{last.type}: {last.message}",
        "seconds_since_first_claim": record.elapsed,
        "result": record.body if record.state is State.SUCCESS else None,
        "blocks": _blocks(record),
        "meaning": _meaning(record),
    }


def _blocks(record: Record) -> bool:
    """Whether the next job with this key does not simply run."""
    return record.wait > 0 and record.state in (State.PROCESSING, State.RETRY, State.SUCCESS)


def _word(value: object) -> object:
    return ("yes" if value else "no") if isinstance(value, bool) else value


@command("forget", "jobguard job forget 3b1f… --yes", queue=False, asks=True, changes=True)
def forget(call: Call, key: Key) -> None:
    """Forget what is known of a key, so that the next job that has it runs. A run under way is fenced off."""
    if call.dry_run or not call.yes:
        record = call.run(_look_up, key)
        if record is None:
            call.tell(_forgetting(call, key))
            raise _unknown(call, key)
        meaning = _meaning(record)
        if call.dry_run:
            if not call.tell(_forgetting(call, key)):
                call.screen.line(f"would forget that {meaning}")
            return
        call.screen.say(meaning)
        call.confirm(f"Forget key {key!r}? Its work may be done again.")
    call.run(_forget, key)


async def _forget(call: Call, key: str) -> None:
    record_key = _record_key(call, key)
    async with opened_store(call.url) as store:
        forgotten = await store.forget(record_key)
    told = call.tell(_forgetting(call, key, forgotten=forgotten))
    if not forgotten:
        raise _unknown(call, key)
    if not told:
        call.screen.say("forgotten")


def _forgetting(call: Call, key: str, *, forgotten: bool = False) -> dict[str, object]:
    return {"key": key, "dry_run": call.dry_run, "forgotten": forgotten}


def _unknown(call: Call, key: str) -> Ended:
    nothing = f"nothing is known of key {key!r} in namespace {call.namespace!r}"
    return Ended(Exit.NOT_FOUND, f"{nothing}: the next job that has it will run")


def _record_key(call: Call, key: str) -> str:
    return f"{check_namespace(call.namespace)}:{key}"


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
