"""Filters, bulk work on dead letters, replays and their reports. Checked, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_type

from jobguard import DeadLetter, DeadLetterQueue, Filter, JobGuard, dead_letter
from jobguard.adapters.base import Requeuer
from jobguard.adapters.rerun import LocalQueue
from jobguard.browsing import Group, Stats
from jobguard.events import Evicted, EvictionFailed, NewFingerprint, QueueGrew
from jobguard.exchange import ImportReport, export, import_, spill_to
from jobguard.requeueing import Requeued, RequeueReport, Status
from jobguard.stores.letters import Edit, LetterState, ReplayRecord


def filters() -> None:
    assert_type(Filter.parse("error=TimeoutError since=2h"), Filter)
    assert_type(Filter.parse(["error=TimeoutError", "arg.to=Ada"]), Filter)
    assert_type(str(Filter()), str)
    Filter(since="2h", until=datetime.now(UTC), state="all")
    Filter(since=timedelta(hours=2), state=LetterState.RESOLVED)
    Filter(attempts=3, arguments={"to": "Ada", "items.0.price": 5})
    Filter(attempts=(2, None))
    Filter(state="gone")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Filter(since=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Filter("TimeoutError")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def reading(letters: DeadLetterQueue) -> None:
    assert_type(await letters.count("state=all"), int)
    assert_type(await letters.count(Filter(), progress=print), int)
    assert_type((await letters.list(10, filter="key=k")).entries, tuple[DeadLetter, ...])
    assert_type(letters.each("task=t", oldest_first=True), AsyncGenerator[DeadLetter])
    assert_type(await letters.groups(limit=5), list[Group])
    assert_type(await letters.stats("24h"), Stats)
    assert_type(await letters.newest(), str | None)
    await letters.stats(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await letters.list(filter=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def what_a_letter_tells(letter: DeadLetter) -> None:
    assert_type(letter.state, LetterState)
    assert_type(letter.edits, tuple[Edit, ...])
    assert_type(letter.replays, tuple[ReplayRecord, ...])
    assert_type(letter.original, str | None)
    assert_type(letter.imported, bool)


async def removing(letters: DeadLetterQueue) -> None:
    assert_type(await letters.remove_all("error=E", until=await letters.newest()), int)
    assert_type(await letters.clear(), int)
    assert_type(await letters.prune(older_than="30d", keep=5, state="resolved", dry_run=True), int)
    await letters.prune(older_than=timedelta(days=30), on_evict=spill_to("evicted.jsonl"))
    await letters.remove_all()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await letters.prune(keep="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def editing(letters: DeadLetterQueue) -> None:
    assert_type(await letters.edit("id", {"to": "Ada"}, by="carol"), DeadLetter | None)
    await letters.edit("id", ["to"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def exchanging(letters: DeadLetterQueue) -> None:
    assert_type(export(letters, "state=dead"), AsyncGenerator[str])
    with open("letters.jsonl") as lines:  # noqa: ASYNC230
        assert_type(await import_(letters, lines), ImportReport)
    await import_(letters, [b"{}"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


@dead_letter
async def send(to: str) -> None: ...


async def requeueing(guard: JobGuard, via: Requeuer) -> None:
    letters = guard.dead_letters()
    async with LocalQueue(guard, send, ctx={}) as local:
        assert_type(local, LocalQueue)
        assert_type(await letters.requeue("id", via=local), RequeueReport)
        await letters.requeue(["a", "b"], via=[local, via], edit={"to": "Ada"})
    report = await letters.requeue(
        Filter(error="TimeoutError"),
        via=via,
        rate=10,
        limit=100,
        on_duplicate="force",
        max_requeues=None,
        canary=2,
        max_failure_rate=0.1,
        patience=timedelta(minutes=1),
        by="carol",
    )
    assert_type(report.outcomes, tuple[Requeued, ...])
    assert_type(report.counts, dict[Status, int])
    assert_type(report.stopped, str)
    await letters.requeue("id")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await letters.requeue("id", via=guard)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await letters.requeue("id", via=via, on_duplicate="ask")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def note(evicted: Sequence[DeadLetter]) -> None: ...


def count(number: int) -> None: ...


def bounds_of_a_queue() -> None:
    dead_letter(retention=timedelta(days=30), max_entries=1000, on_evict=note, alert_over=50)
    dead_letter(retention=3600, on_evict=spill_to("evicted.jsonl"))
    dead_letter(on_evict=count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def events_of_a_queue(new: NewFingerprint, grown: QueueGrew, gone: Evicted, stuck: EvictionFailed) -> None:
    assert_type((new.queue, new.fingerprint, new.id, new.error), tuple[str, str, str, str])
    assert_type((grown.queue, grown.dead), tuple[str, int])
    assert_type((gone.queue, gone.number), tuple[str, int])
    assert_type((stuck.queue, stuck.error), tuple[str, str])
