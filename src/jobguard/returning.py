"""Putting one dead letter's job into its queue again, so that no crash on the way loses or doubles it.

A letter says how often it was run again, and the number of the next replay makes up the id of its job. So
the order is: enqueue, then write the letter. Cut off in between, the letter is still dead; whoever repeats it
asks for the same id, which the queue knows. And a worker runs a replay only while its letter waits for it,
with the arguments that the letter has.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, NamedTuple

from jobguard.adapters.base import Replay, ReplayJob, Requeuer, served_name
from jobguard.arguments import NotEditable, checked_path, edited
from jobguard.codec import Codec
from jobguard.errors import InvalidType, InvalidValue, LetterRefused, StoreError, StoreUnavailable
from jobguard.letters import entry_of, letter_in
from jobguard.policies import choice, seconds
from jobguard.policies import count as whole_number
from jobguard.replays import replayed, variant_of
from jobguard.stores.base import State, Store
from jobguard.stores.letters import UNKNOWN_TASK, DeadLetter, Entry, LetterQueue, LetterState

OnDuplicate = Literal["skip", "force", "fail"]

MOST_A_SECOND = 1_000_000
"""Jobs that can be asked for."""


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
        if self.rate is not None and not 0 < _number("rate", self.rate) <= MOST_A_SECOND:
            raise InvalidValue(
                f"rate must be jobs a second, more than 0 and at most {MOST_A_SECOND}, not {self.rate!r}"
            )
        share = self.max_failure_rate
        if share is not None and not 0 <= _number("max_failure_rate", share) <= 1:
            raise InvalidValue(f"max_failure_rate must be from 0 to 1, not {share!r}")
        seconds("patience", self.patience)
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


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(f"{name} must be a number, not {value!r}")
    return value


class Meant(NamedTuple):
    """A letter that is to be requeued.

    `arrival`: when it had come into its queue as a filter found it. One that has died again since may be of
    another kind, and nobody has looked at it. None = it was named, and is meant whatever has become of it.
    """

    id: str
    arrival: int | None = None


class Returning:
    """Puts jobs of letters back.

    Args:
        store, queue: where the letters are.
        codec: reads and writes arguments.
        via: ways into the queues, one for each adapter.
        orders: how.

    Raises:
        InvalidType: what is given is not a way into a queue.
        InvalidValue: there are two ways for one adapter.
    """

    def __init__(
        self, store: Store, queue: LetterQueue, codec: Codec, via: Sequence[Requeuer], orders: Orders
    ) -> None:
        self._store = store
        self._queue = queue
        self._codec = codec
        for each in via:
            if not isinstance(each, Requeuer):  # not shown: a pool or a URL has a password in it
                raise InvalidType(
                    f"via must be a way into a queue, not of type {type(each).__name__}; write ArqQueue(pool)"
                )
        self._via = {each.adapter: each for each in via}
        if len(self._via) < len(via):
            names = ", ".join(repr(each.adapter) for each in via)
            raise InvalidValue(f"via must lead to each queue library once, not to {names}")
        self._orders = orders
        self._served: dict[str, bool] = {}

    async def put_back(self, meant: Meant) -> Requeued | None:
        """Requeue one letter, as it is now; None = it is not the one any more that was meant."""
        id = meant.id
        while True:
            entry = await self._store.letters.get(self._queue, id)
            if entry is None:
                return Requeued(id, Status.MISSING, None, "there is no such letter")
            readable = entry.revision > 0  # of one that is not, nobody knows when it came
            if meant.arrival is not None and readable and entry.arrival != meant.arrival:
                return None
            outcome = await self._try(entry, letter_in(entry))
            if outcome is not None:
                return outcome

    async def _try(self, entry: Entry, letter: DeadLetter) -> Requeued | None:
        """What came of it; None = the letter has changed meanwhile."""
        orders, via = self._orders, self._via.get(letter.adapter)
        if letter.state is LetterState.REQUEUED and via is not None:
            current = self._replay(letter, letter.requeues)
            if await via.pending(letter.queue, current.job_id):
                return self._waiting(entry, current)
            if await self._changed(entry):
                return None
        why = self._obstacle(letter) or await self._unserved(letter)
        if why:
            return Requeued(entry.id, Status.REFUSED, None, why)
        if orders.on_duplicate != "force" and (why := await self._duplicate(letter)):
            status = Status.REFUSED if orders.on_duplicate == "fail" else Status.DUPLICATE
            return Requeued(entry.id, status, None, why)
        if orders.edit:
            unedited = self._replay(letter, letter.requeues + 1)
            if via is not None and await via.pending(letter.queue, unedited.job_id):
                return self._waiting(entry, unedited)  # whoever enqueued it has not written that down
            try:
                letter = edited(letter, orders.edit, self._codec, orders.by)
            except NotEditable as error:
                return Requeued(entry.id, Status.REFUSED, None, str(error))
        replay = self._replay(letter, letter.requeues + 1)
        if orders.dry_run:
            edits = letter.edits[-len(orders.edit) :] if orders.edit else ()
            changes = "; ".join(f"{each.path}: {each.before} -> {each.after}" for each in edits)
            return Requeued(entry.id, Status.WOULD, replay.job_id, changes)
        if orders.edit or letter.state is LetterState.REQUEUED:
            # Dead before its job is enqueued: a worker may be quicker than what is written after that.
            letter = replace(letter, state=LetterState.DEAD)
            if await self._store.letters.replace(self._queue, entry_of(letter, entry.revision)) is None:
                return None
            entry = entry._replace(revision=entry.revision + 1)
        assert via is not None
        assert letter.payload is not None
        job = ReplayJob(replay, letter.queue, letter.task, letter.payload, letter.payload_format)
        try:
            new = await via.enqueue(job)
        except LetterRefused as refusal:
            return Requeued(entry.id, Status.REFUSED, None, refusal.why)
        if not new and not await via.pending(letter.queue, replay.job_id):
            return await self._after_its_end(entry.id, replay)
        return await self._confirm(entry, letter, replay, new=new)

    def _waiting(self, entry: Entry, replay: Replay) -> Requeued:
        """The letter's job is in its queue, or runs."""
        if not self._orders.edit:
            return Requeued(entry.id, Status.WAITING, replay.job_id, "its job has not ended yet")
        why = "its job has not ended yet, so that its arguments cannot be changed; try again when it has"
        return Requeued(entry.id, Status.REFUSED, replay.job_id, why)

    def _replay(self, letter: DeadLetter, number: int) -> Replay:
        force = self._orders.on_duplicate == "force"
        return Replay(self._queue, letter.id, number, force, variant_of(letter))

    async def _changed(self, entry: Entry) -> bool:
        again = await self._store.letters.get(self._queue, entry.id)
        return again is None or again.revision != entry.revision

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
                return "its payload cannot be read: it is not Base64"
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
        if letter.key is None or letter.original is not None or self._orders.edit:
            return ""  # with other arguments it may have another key, which its worker finds out
        try:
            record = await self._store.look_up(f"{self._queue.namespace}:{letter.key}")
        except StoreUnavailable:
            raise
        except StoreError as error:  # it came out of a file, and is the key of something else
            return f"its key {letter.key!r} cannot be looked up: {error}"
        if record is None or record.wait <= 0 or record.state not in _AT_WORK:
            return ""
        return (
            f"job {record.owner!r} has its key and {_AT_WORK[record.state]}; remove the letter, or have the "
            "work done again by on_duplicate='force'"
        )

    async def _after_its_end(self, id: str, replay: Replay) -> Requeued | None:
        """The queue knows the job and has ended it. Its worker should have told the letter."""
        entry = await self._store.letters.get(self._queue, id)
        if entry is None:
            return Requeued(id, Status.MISSING, None, "it has gone")
        letter = letter_in(entry)
        if letter.requeues >= replay.number:
            if letter.state is LetterState.RESOLVED:
                return Requeued(id, Status.WAITING, replay.job_id, f"its job has ended: {letter.resolution}")
            return Requeued(id, Status.WAITING, replay.job_id, "its job has ended, and failed again")
        if self._orders.on_duplicate != "force":
            why = f"its queue has an old result of job {replay.job_id!r}, of which its worker has not told"
            return Requeued(
                id, Status.REFUSED, replay.job_id, f"{why}; on_duplicate='force' runs it once more"
            )
        # That number is spent: the next one has a job id of its own.
        spent = replace(letter, requeues=replay.number)
        await self._store.letters.replace(self._queue, entry_of(spent, entry.revision))
        return None

    async def _confirm(
        self, entry: Entry, letter: DeadLetter, replay: Replay, *, new: bool
    ) -> Requeued | None:
        """Write down that the job is on its way, unless it has ended meanwhile."""
        status = Status.REQUEUED if new else Status.WAITING
        why = "" if new else "its job is in its queue already"
        while True:
            requeued = replace(replayed(letter, replay, self._orders.by), state=LetterState.REQUEUED)
            written = await self._store.letters.replace(self._queue, entry_of(requeued, entry.revision))
            if written is not None:
                return Requeued(entry.id, status, replay.job_id, why)
            again = await self._store.letters.get(self._queue, entry.id)
            if again is None:
                gone = "it was removed meanwhile; its job runs all the same"
                return Requeued(entry.id, status, replay.job_id, gone)
            entry, letter = again, letter_in(again)
            if letter.requeues >= replay.number or letter.state is LetterState.RESOLVED:
                return Requeued(entry.id, status, replay.job_id, why)
            if variant_of(letter) != replay.variant:
                return None  # edited meanwhile: what was enqueued is not run, and the edited one is to be


_AT_WORK = {
    State.PROCESSING: "is running",
    State.RETRY: "waits for its next run",
    State.SUCCESS: "has succeeded",
}
