"""What becomes of a dead letter whose job is run again, as that job's worker writes it down.

A replay has a number. Its letter says which number it is at, so that of two deliveries of one replay,
or of one that comes after its letter was dealt with, no second one runs.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, replace
from hashlib import blake2b

from jobguard.adapters.base import Delivery, Replay
from jobguard.letters import Arguments, dead_again, entry_of, letter_in
from jobguard.stores.base import Store
from jobguard.stores.letters import DeadLetter, Kept, LetterQueue, LetterState, ReplayRecord
from jobguard.task import Task

KEPT_REPLAYS = 20
"""Replays that a letter tells of; older ones are only counted."""
SUCCEEDED, DUPLICATE, DISCARDED, ABORTED = "succeeded", "duplicate", "discarded", "aborted"
"""Words for how a replay ends that is not to be run again, as `DeadLetter.resolution` has them."""


@dataclass(frozen=True, slots=True)
class Underway:
    """A delivery whose task is being called.

    Attributes:
        delivery: of the job.
        call: the job's arguments.
        task: its function's guard, if it has one.
    """

    delivery: Delivery
    call: Arguments
    task: Task | None


underway: ContextVar[Underway | None] = ContextVar("jobguard_underway", default=None)
"""Set by an adapter around the call of a task, for what a task writes down by itself."""


async def letter_behind(store: Store, queue: LetterQueue, replay: Replay) -> DeadLetter | None:
    """The letter that a replay runs again; None = it has gone.

    A letter that has gone can tell nothing: its replay runs as an ordinary job.
    """
    entry = await store.letters.get(queue, replay.id)
    return None if entry is None else letter_in(entry)


def is_due(letter: DeadLetter, replay: Replay) -> bool:
    """Whether a letter waits for the outcome of this replay.

    It is dead still where whoever enqueued the job has not come to say so, or never will. One that was
    edited since waits for the job that has its new arguments.
    """
    if replay.variant != variant_of(letter):
        return False
    if letter.state is LetterState.DEAD:
        return letter.requeues == replay.number - 1
    return letter.state is LetterState.REQUEUED and letter.requeues == replay.number


def variant_of(letter: DeadLetter) -> str:
    """What tells the arguments of an edited letter from those before; "" = it never was edited."""
    if letter.original is None or letter.payload is None:
        return ""
    return blake2b(letter.payload.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def replayed(letter: DeadLetter, replay: Replay, by: str = "") -> DeadLetter:
    """A letter that tells of a replay, whoever comes to write it down first."""
    told = any(record.number == replay.number for record in letter.replays)
    record = ReplayRecord(replay.number, replay.job_id, time.time(), by)
    replays = letter.replays if told else (*letter.replays, record)
    return replace(letter, requeues=replay.number, replays=replays[-KEPT_REPLAYS:])


async def resolve(store: Store, queue: LetterQueue, replay: Replay, resolution: str) -> None:
    """Write down that a replay has ended well. May be repeated."""
    while True:
        entry = await store.letters.get(queue, replay.id)
        if entry is None:
            return
        letter = letter_in(entry)
        if not is_due(letter, replay):
            return
        resolved = replace(replayed(letter, replay), state=LetterState.RESOLVED, resolution=resolution)
        if await store.letters.replace(queue, entry_of(resolved, entry.revision)) is not None:
            return


async def keep_again(
    store: Store,
    queue: LetterQueue,
    replay: Replay,
    letter: DeadLetter,
    *,
    alert_over: int | None = None,
) -> Kept | None:
    """Write down that a replay has ended badly: the same entry is dead again. May be repeated.

    Where the letter has gone meanwhile, it is a new one; where it does not wait for this replay, None.

    Args:
        store, queue: where the letter is.
        replay: which one.
        letter: as if the job had been a new one.
        alert_over: as for `LetterStore.put`.
    """
    while True:
        entry = await store.letters.get(queue, replay.id)
        if entry is None:
            alone = replayed(replace(letter, id=replay.id), replay)
            return await store.letters.put(queue, entry_of(alone), alert_over=alert_over)
        before = letter_in(entry)
        if not is_due(before, replay):
            return None
        again = entry_of(dead_again(replayed(before, replay), letter), entry.revision)
        kept = await store.letters.replace(queue, again, arrive=True, alert_over=alert_over)
        if kept is not None:
            return kept
