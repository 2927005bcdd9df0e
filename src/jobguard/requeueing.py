"""Putting dead letters' jobs into their queues again, so that no crash on the way loses or doubles one.

A letter says how often it was run again, and the number of the next replay makes up the id of its job. So
the order is: enqueue, then write the letter. Cut off in between, the letter is still dead; whoever repeats it
asks for the same id, which the queue knows. And a worker runs a replay only while its letter waits for it.
"""

from __future__ import annotations

import binascii
import time
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

import anyio

from jobguard.adapters.base import Replay, ReplayJob, Requeuer, served_name
from jobguard.arguments import NotEditable, checked_path, edited
from jobguard.codec import Codec
from jobguard.errors import InvalidType, InvalidValue, LetterRefused
from jobguard.letters import entry_of, letter_in
from jobguard.policies import choice
from jobguard.policies import count as whole_number
from jobguard.replays import replayed
from jobguard.stores.base import State, Store
from jobguard.stores.letters import (
    UNKNOWN_TASK,
    DeadLetter,
    Entry,
    LetterQueue,
    LetterState,
)

AT_ONCE = 50
"""Letters that are under way together where no rate is asked for."""
LOOK_PAUSE, LONGEST_LOOK_PAUSE = 0.05, 1.0
"""Seconds between looks at what became of replays."""
LOOKED_AT = 100
"""Replays that are looked at in one go."""
JUDGED = 10
"""Replays that must have ended before their failure rate stops the rest."""

OnDuplicate = Literal["skip", "force", "fail"]


class Status(StrEnum):
    """What a requeue came to for one letter."""

    REQUEUED = "requeued"
    """Its job is in its queue."""
    WAITING = "waiting"
    """Its job was in its queue already."""
    DUPLICATE = "duplicate"
    """Another job does or has done the work."""
    REFUSED = "refused"
    """It cannot be run again as asked; `why` says what stands in the way."""
    MISSING = "missing"
    """There is no such letter."""
    WOULD = "would_requeue"
    """It would be put into its queue, were this not a dry run."""


@dataclass(frozen=True, slots=True)
class Requeued:
    """What a requeue came to for one letter.

    Attributes:
        id: of the letter, or what was given for it.
        status: in a word.
        job_id: the queue's id of the job that runs it again, or None.
        why: in words, where it was not put into its queue.
    """

    id: str
    status: Status
    job_id: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class RequeueReport:
    """What a requeue came to.

    Attributes:
        outcomes: one for each letter that was looked at, oldest letter first.
        stopped: why it was stopped before the last letter; "" = it was not.
    """

    outcomes: tuple[Requeued, ...]
    stopped: str = ""

    @property
    def counts(self) -> dict[Status, int]:
        """How many letters came to what."""
        return dict(Counter(outcome.status for outcome in self.outcomes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """How letters are to be requeued; `DeadLetterQueue.requeue` says what each setting means."""

    rate: float | None = None
    limit: int | None = None
    edit: Mapping[str, object] = field(default_factory=dict[str, object])
    on_duplicate: OnDuplicate = "skip"
    max_requeues: int | None = 5
    canary: int = 0
    max_failure_rate: float | None = None
    patience: float = 300.0
    trust_imported: bool = False
    unserved: bool = False
    dry_run: bool = False
    by: str = ""

    def __post_init__(self) -> None:
        choice("on_duplicate", self.on_duplicate, ("skip", "force", "fail"))
        for name in ("limit", "max_requeues"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name))
        whole_number("canary", self.canary, least=0)
        if self.rate is not None and not (_is_number(self.rate) and 0 < self.rate <= 1_000_000):
            raise InvalidValue(f"rate must be jobs a second, more than 0, not {self.rate!r}")
        share = self.max_failure_rate
        if share is not None and not (_is_number(share) and 0 <= share <= 1):
            raise InvalidValue(f"max_failure_rate must be from 0 to 1, not {share!r}")
        if not (_is_number(self.patience) and self.patience > 0):
            raise InvalidValue(f"patience must be seconds, more than 0, not {self.patience!r}")
        if not isinstance(self.edit, Mapping):
            raise InvalidType(f"edit must map paths to values, not be {self.edit!r}")
        for path in self.edit:
            checked_path(path)

    @property
    def bearable(self) -> float | None:
        """The share of failures up to which to go on; None = nobody looks."""
        if self.max_failure_rate is None and self.canary:
            return 0.2
        return self.max_failure_rate


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Stopped(Exception):
    """The requeue was stopped before the last letter; the message says why. Never leaves this package."""


class Requeueing:
    """One requeue of many letters.

    Args:
        store, queue: where the letters are.
        codec: reads and writes arguments.
        via: ways into the queues.
        orders: how.
    """

    def __init__(
        self, store: Store, queue: LetterQueue, codec: Codec, via: Sequence[Requeuer], orders: Orders
    ) -> None:
        self._store = store
        self._queue = queue
        self._codec = codec
        self._via = {each.adapter: each for each in via}
        self._orders = orders
        self._served: dict[str, bool] = {}
        self._replayed: dict[str, int] = {}
        self._ended = self._failed = 0

    async def run(self, entries: AsyncIterator[tuple[Entry, DeadLetter]]) -> AsyncGenerator[Requeued]:
        """Requeue them, in this order.

        Raises:
            Stopped: too much of what was requeued has failed again, or canaries have not ended in time.
        """
        orders = self._orders
        sent, started = 0, time.monotonic()
        canaries = 0 if orders.dry_run else orders.canary
        batch: list[Entry] = []
        more = True
        while more:
            size = self._batch_size(canaries - sent if sent < canaries else None)
            if orders.limit is not None:
                size = min(size, orders.limit - sent)
            more = size > 0
            while more and len(batch) < size:
                found = await anext(entries, None)
                if found is None:
                    more = False
                else:
                    batch.append(found[0])
            for outcome in await self._all(batch):
                sent += outcome.status in (Status.REQUEUED, Status.WAITING, Status.WOULD)
                yield outcome
            batch.clear()
            if orders.dry_run:
                continue
            if canaries and (sent >= canaries or not more):
                await self._await_canaries()
                canaries, started = 0, time.monotonic() - (sent / orders.rate if orders.rate else 0.0)
            elif more and orders.bearable is not None:
                await self._look(LOOKED_AT)
            if more and orders.rate is not None:
                await anyio.sleep(max(started + sent / orders.rate - time.monotonic(), 0))

    def _batch_size(self, canaries_left: int | None) -> int:
        most = AT_ONCE if canaries_left is None else min(AT_ONCE, canaries_left)
        if self._orders.rate is None:
            return most
        return max(min(most, int(self._orders.rate / 10)), 1)

    async def _all(self, entries: Sequence[Entry]) -> list[Requeued]:
        outcomes: dict[int, Requeued] = {}

        async def one(place: int, entry: Entry) -> None:
            outcomes[place] = await self.one(entry)

        try:
            async with anyio.create_task_group() as group:
                for place, entry in enumerate(entries):
                    group.start_soon(one, place, entry)
        except* Exception as errors:  # the first of them says enough
            raise _first(errors) from None
        return [outcomes[place] for place in range(len(entries))]

    async def one(self, entry: Entry) -> Requeued:
        """Requeue one letter."""
        orders = self._orders
        while True:
            letter = letter_in(entry)
            number = letter.requeues + 1
            replay = Replay(self._queue, entry.id, number, orders.on_duplicate == "force")
            via = self._via.get(letter.adapter)
            if letter.state is LetterState.REQUEUED and via is not None:
                current = replace(replay, number=letter.requeues).job_id
                if await via.pending(letter.queue, current):
                    return Requeued(entry.id, Status.WAITING, current, "its job has not ended yet")
            why = self._obstacle(letter) or await self._unserved(letter)
            if why:
                return Requeued(entry.id, Status.REFUSED, None, why)
            if orders.on_duplicate != "force" and (why := await self._duplicate(letter)):
                status = Status.REFUSED if orders.on_duplicate == "fail" else Status.DUPLICATE
                return Requeued(entry.id, status, None, why)
            if orders.edit:
                try:
                    letter = edited(letter, orders.edit, self._codec, orders.by)
                except NotEditable as error:
                    return Requeued(entry.id, Status.REFUSED, None, str(error))
            if orders.dry_run:
                return Requeued(entry.id, Status.WOULD, replay.job_id)
            if orders.edit:
                if not await self._store.letters.replace(self._queue, entry_of(letter, entry.revision)):
                    again = await self._store.letters.get(self._queue, entry.id)
                    if again is None:
                        return Requeued(entry.id, Status.MISSING, None, "it has gone")
                    entry = again
                    continue
                entry = entry._replace(revision=entry.revision + 1)
            assert via is not None
            assert letter.payload is not None
            job = ReplayJob(replay, letter.queue, letter.task, letter.payload, letter.payload_format)
            status = Status.REQUEUED
            try:
                new = await via.enqueue(job)
            except LetterRefused as refusal:
                return Requeued(entry.id, Status.REFUSED, None, refusal.why)
            if not new:
                status = Status.WAITING
                if not await via.pending(letter.queue, replay.job_id):
                    outcome = await self._after_its_end(entry.id, replay)
                    if isinstance(outcome, Requeued):
                        return outcome
                    entry = outcome
                    continue
            await self._confirm(entry, letter, replay)
            self._replayed[entry.id] = number
            why = "" if status is Status.REQUEUED else "its job is in its queue already"
            return Requeued(entry.id, status, replay.job_id, why)

    def _obstacle(self, letter: DeadLetter) -> str:
        """What in the letter itself stands in the way of another run, or ""."""
        orders = self._orders
        if letter.state is LetterState.RESOLVED:
            return f"it is resolved ({letter.resolution})"
        if letter.adapter not in self._via:
            known = ", ".join(map(repr, self._via)) or "none"
            return (
                f"it came through {letter.adapter!r}, to which there is no way from here (there is: {known})"
            )
        if letter.payload is None or letter.payload_format not in ("json", "opaque"):
            return f"its arguments were not kept (payload_format {letter.payload_format!r})"
        if letter.payload_format == "opaque":
            if letter.imported and not orders.trust_imported:
                return "its opaque payload was imported: run it only if you trust the file (trust_imported)"
            try:
                b64decode(letter.payload, validate=True)
            except (binascii.Error, ValueError):
                return "its payload cannot be read: it is no Base64"
        if orders.max_requeues is not None and letter.requeues >= orders.max_requeues:
            return f"it was run again {letter.requeues} times (max_requeues={orders.max_requeues})"
        return ""

    async def _unserved(self, letter: DeadLetter) -> str:
        if self._orders.unserved:
            return ""
        if letter.task == UNKNOWN_TASK:
            return "its worker could not read which task it is for; if that is mended, say unserved=True"
        name = served_name(letter.adapter, letter.queue, letter.task)
        if name not in self._served:
            self._served[name] = await self._store.served(self._queue.namespace, name)
        if self._served[name]:
            return ""
        return (
            f"no worker of queue {letter.queue!r} has said in the last day that it serves task "
            f"{letter.task!r}; start one, or say unserved=True"
        )

    async def _duplicate(self, letter: DeadLetter) -> str:
        """Which other job does or has done the work, or ""."""
        if letter.key is None:
            return ""
        record = await self._store.look_up(f"{self._queue.namespace}:{letter.key}")
        if record is None or record.wait <= 0 or record.state in (State.FAILED, State.DEAD_LETTER):
            return ""
        if record.state is State.INTERRUPTED:
            return ""
        words = {State.SUCCESS: "has succeeded", State.RETRY: "waits for its next run"}
        return f"job {record.owner!r} has its key and {words.get(record.state, 'is running')}"

    async def _after_its_end(self, id: str, replay: Replay) -> Entry | Requeued:
        """The queue knows the job and has ended it. Its worker should have told the letter."""
        entry = await self._store.letters.get(self._queue, id)
        if entry is None:
            return Requeued(id, Status.MISSING, None, "it has gone")
        letter = letter_in(entry)
        if letter.requeues >= replay.number:
            if letter.state is LetterState.RESOLVED:
                return Requeued(id, Status.WAITING, replay.job_id, f"its job has ended: {letter.resolution}")
            return Requeued(id, Status.WAITING, replay.job_id, "its job has ended, and failed again")
        why = f"its queue has an old result of job {replay.job_id!r}, of which its worker has not told"
        if self._orders.on_duplicate != "force":
            return Requeued(
                id, Status.REFUSED, replay.job_id, f"{why}; on_duplicate='force' runs it once more"
            )
        # That number is spent: the next one has a job id of its own.
        spent = replace(letter, requeues=replay.number)
        await self._store.letters.replace(self._queue, entry_of(spent, entry.revision))
        return await self._store.letters.get(self._queue, id) or Requeued(
            id, Status.MISSING, None, "it has gone"
        )

    async def _confirm(self, entry: Entry, letter: DeadLetter, replay: Replay) -> None:
        """Write down that the job is on its way, unless it has ended meanwhile, or the letter has gone."""
        while True:
            requeued = replace(replayed(letter, replay, self._orders.by), state=LetterState.REQUEUED)
            if await self._store.letters.replace(self._queue, entry_of(requeued, entry.revision)):
                return
            again = await self._store.letters.get(self._queue, entry.id)
            if again is None:
                return
            entry, letter = again, letter_in(again)
            if letter.requeues >= replay.number:
                return

    async def _await_canaries(self) -> None:
        """Wait until all that was requeued so far has ended."""
        pause = LOOK_PAUSE
        until = anyio.current_time() + self._orders.patience
        while True:
            await self._look(None, least=0)
            if not self._replayed:
                return
            if anyio.current_time() > until:
                raise Stopped(
                    f"{len(self._replayed)} of {self._orders.canary} canaries have not ended within "
                    f"{self._orders.patience:g} s"
                )
            await anyio.sleep(pause)
            pause = min(pause * 2, LONGEST_LOOK_PAUSE)

    async def _look(self, most: int | None, least: int = JUDGED) -> None:
        """See how what was requeued has ended, and stop if too much of it has failed again."""
        for id, number in list(self._replayed.items())[:most]:
            entry = await self._store.letters.get(self._queue, id)
            letter = None if entry is None else letter_in(entry)
            if letter is not None and letter.state is LetterState.REQUEUED and letter.requeues == number:
                # The oldest are looked at first; what still runs goes to the end.
                self._replayed[id] = self._replayed.pop(id)
                continue
            del self._replayed[id]
            self._ended += 1
            self._failed += letter is not None and letter.state is LetterState.DEAD
        bearable = self._orders.bearable
        if least == 0 and self._replayed:
            return
        if bearable is not None and self._ended >= max(least, 1) and self._failed > bearable * self._ended:
            raise Stopped(
                f"{self._failed} of {self._ended} replays have failed again, more than {bearable:.0%}"
            )


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
