"""What the worker processes of these tests share: their server, their journal and their gates."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from arq.connections import RedisSettings
from arq.worker import Retry, RetryJob

from jobguard import Discard, GiveUp, RetryLater, Snooze, current_job
from jobguard.errors import NoCurrentJob
from jobguard.events import Event

Context = dict[Any, Any]

DIRECTORY = Path(os.environ["TEST_DIRECTORY"])
REDIS = RedisSettings(unix_socket_path=os.environ["TEST_SOCKET"])
SETTINGS: dict[str, Any] = json.loads(os.environ["TEST_SETTINGS"])
"""What the test wants this worker to be set to."""
LEASE: float = SETTINGS.pop("lease")


def note(event: str, **values: object) -> None:
    """Add a line to the journal, in one write, so that it is whole whatever happens next."""
    line = json.dumps({"event": event, "pid": os.getpid(), "at": time.time(), **values}, default=repr)
    journal = os.open(DIRECTORY / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(journal, line.encode() + b"\n")
    os.close(journal)


def note_event(event: Event) -> None:
    """A jobguard hook."""
    note(type(event).__name__, **{each.name: getattr(event, each.name) for each in fields(event)})


def note_run(ctx: Context, label: str) -> int:
    """Write down that a body has begun; which run of this label it is, 1-based."""
    journal = DIRECTORY / "journal"
    lines = journal.read_text().splitlines() if journal.exists() else []
    earlier = [
        entry for entry in map(json.loads, lines) if entry["event"] == "run" and entry["label"] == label
    ]
    try:
        job = current_job()
    except NoCurrentJob:
        counts: dict[str, object] = {}
    else:
        counts = {
            "attempt": job.attempt,
            "failures": job.failures,
            "interruptions": job.interruptions,
            "crashes": job.crashes,
            "remaining": job.remaining,
            "fence": job.fence,
            "key": job.key,
        }
    note("run", label=label, job_id=ctx["job_id"], job_try=ctx["job_try"], **counts)
    return len(earlier) + 1


def opened(gate: str) -> bool:
    return (DIRECTORY / f"gate-{gate}").exists()


async def gate(name: str) -> None:
    """Wait until the test opens this gate."""
    while not opened(name):  # noqa: ASYNC110  # a file tells nobody
        await asyncio.sleep(0.02)


async def play(ctx: Context, label: str, script: list[str]) -> str:
    """The body of every scripted task: does what the script says for this run; the last line repeats.

    A line is a verb and what it needs: `fail`, `ok`, `wait gate`, `sleep 2`, `retry 0.5` …
    Several make one by ` then `.
    """
    number = note_run(ctx, label)
    for line in script[min(number, len(script)) - 1].split(" then "):
        await act(label, number, line)
    note("done", label=label, number=number)
    return f"{label} by run {number}"


async def act(label: str, number: int, line: str) -> None:
    """What one line of a script says."""
    verb, _, rest = line.partition(" ")
    try:
        match verb:
            case "ok":
                pass
            case "fail":
                raise ValueError(f"{label} failed in run {number}")
            case "wait":
                await gate(rest)
            case "sleep":
                await asyncio.sleep(float(rest))
            case "block":
                while not opened(rest):
                    time.sleep(0.02)  # noqa: ASYNC251
            case "linger":
                try:
                    await asyncio.sleep(60)
                finally:
                    # A claimed job has two leases, the claim's and the mark's, and the end of each cancels.
                    while not opened(rest):
                        with suppress(asyncio.CancelledError):
                            await gate(rest)
            case "exit":
                os._exit(3)
            case "system_exit":
                raise SystemExit(4)
            case "fatal":
                raise FatalError(label)
            case "retry":
                raise Retry(defer=float(rest))
            case "retry_job":
                raise RetryJob
            case "later":
                raise RetryLater("not yet", after=float(rest))
            case "snooze":
                raise Snooze(after=float(rest))
            case "give_up":
                raise GiveUp("of no use")
            case "discard":
                raise Discard("not wanted")
            case _:
                raise AssertionError(f"no verb {verb!r}")
    except asyncio.CancelledError:
        note("cancelled", label=label)
        raise


class FatalError(BaseException):
    """What no task should raise."""


async def note_startup(ctx: Context) -> None:
    note("startup")


def configure(settings: type) -> type:
    """Set what the test asked for on a class of worker settings."""
    for name, value in SETTINGS.items():
        setattr(settings, name, value)
    return settings
