"""Cut off at every single step, and done again: nothing is lost, and nothing is done twice.

No step is written down here: a first run counts the calls to the store, and each of them is then the
one at which the process dies, before the call has reached the store or before its reply has come.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple, TypeVar

import pytest

from jobguard import DeadLetter, DeadLetterQueue, Filter, JobGuard, dead_letter
from jobguard.adapters.base import ReplayJob
from jobguard.adapters.rerun import LocalQueue
from jobguard.errors import StoreUnavailable
from jobguard.exchange import import_
from jobguard.letters import to_text
from jobguard.stores.base import Store
from tests.engine.harness import Bench, Gate, StoreProxy
from tests.letters.making import START, ids_of, keep, letter
from tests.letters.replaying import World

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Act = Callable[[DeadLetterQueue], Awaitable[object]]

THREE = [letter(each, args=[each], failed_at=(START + number) / 1e6) for number, each in enumerate("abc")]


@dataclass(frozen=True)
class Crash:
    """When a process dies.

    Attributes:
        call: at which of its calls to the store; 0 is the first.
        arrives: whether that call takes effect.
    """

    call: int
    arrives: bool


class Mortal(StoreProxy):
    """The store as a process has it that dies at one of its calls; no later one reaches the store."""

    def __init__(self, store: Store, crash: Crash | None) -> None:
        super().__init__(store)
        self._crash = crash

    async def pass_on(self, operation: str, forward: Callable[[], Awaitable[T]]) -> T:
        number = len(self.calls)
        self.calls.append(operation)
        if self._crash is None or number < self._crash.call:
            return await forward()
        if number == self._crash.call and self._crash.arrives:
            await forward()
        raise StoreUnavailable(f"died in {operation}")


_queues = count()


async def calls_of(bench: Bench, act: Act, letters: DeadLetterQueue) -> list[str]:
    """What a run that nothing befalls asks of the store."""
    store = Mortal(bench.backing, None)
    await act(DeadLetterQueue(store, letters.name, namespace=bench.namespace))
    return store.calls


async def dies_and_is_done_again(bench: Bench, act: Act, letters: DeadLetterQueue, crash: Crash) -> bool:
    """Act, die, and act once more as another process; False = it was done before it could die."""
    doomed = Mortal(bench.backing, crash)
    with suppress(StoreUnavailable):
        await act(DeadLetterQueue(doomed, letters.name, namespace=bench.namespace))
    await act(DeadLetterQueue(StoreProxy(bench.backing), letters.name, namespace=bench.namespace))
    return len(doomed.calls) > crash.call


def crashes(calls: list[str]) -> list[Crash]:
    return [Crash(number, arrives) for number in range(len(calls)) for arrives in (False, True)]


def a_queue(guard: JobGuard) -> DeadLetterQueue:
    """An empty one."""
    return guard.dead_letters(f"crash-{next(_queues)}")


# --- requeue -------------------------------------------------------------------------------------


class Counting(LocalQueue):
    """A queue that says how many jobs it has taken."""

    taken = 0

    async def enqueue(self, job: ReplayJob) -> bool:
        taken = await super().enqueue(job)
        self.taken += taken
        return taken


class Forgetful(Counting):
    """A queue that takes the same job as often as it comes."""

    async def enqueue(self, job: ReplayJob) -> bool:
        await self._guard.store.forget(self._record(job.replay.job_id))
        return await super().enqueue(job)


@asynccontextmanager
async def workers(
    guard: JobGuard, world: World, kind: type[Counting], gate: Gate | None
) -> AsyncIterator[tuple[LocalQueue, str]]:
    """A queue and its workers, whom nothing befalls; with a gate, all of them wait there before one works."""

    @dead_letter
    async def send(id: object) -> object:
        if gate is not None:
            await gate()
        return await world.work(id)

    async with kind(guard, send) as via:
        yield via, send.__jobguard__.name  # type: ignore[attr-defined]
        if gate is not None:
            await gate.reached(via.taken)
            gate.open()


class Requeued(NamedTuple):
    """Three letters whose jobs were run again: what the jobs did, and what is left of the letters.

    Attributes:
        world: where the work was done.
        letters: their queue.
        calls: what a requeue that did not die has asked of the store.
        died: whether one did.
    """

    world: World
    letters: DeadLetterQueue
    calls: list[str]
    died: bool


async def requeued(
    guard: JobGuard,
    bench: Bench,
    crash: Crash | None = None,
    *,
    kind: type[Counting] = Counting,
    held: bool = False,
    edit: Mapping[str, object] | None = None,
) -> Requeued:
    """Requeue three letters in a process that dies, and again in another one.

    Args:
        guard, bench: where.
        crash: when; None = never.
        kind: of the queue, which lives on.
        held: whether the workers start only when both have asked; else at once.
        edit: of the arguments, on the way.
    """
    world, letters = World(), a_queue(guard)
    world.broken = False
    calls: list[str] = []
    died = False
    async with workers(guard, world, kind, Gate() if held else None) as (via, task):
        await keep(letters, *(replace(each, task=task) for each in THREE))

        async def requeue(queue: DeadLetterQueue) -> None:
            await queue.requeue(Filter(), via=via, edit=edit)

        if crash is None:
            calls = await calls_of(bench, requeue, letters)
        else:
            died = await dies_and_is_done_again(bench, requeue, letters, crash)
    return Requeued(world, letters, calls, died)


@pytest.mark.parametrize("held", [False, True])
async def test_a_requeue_that_dies_anywhere_and_is_repeated_runs_each_job_once(
    guard: JobGuard, bench: Bench, held: bool
) -> None:
    """Whether the workers are quick or slow: every letter is resolved, by one run of its body."""
    calls = (await requeued(guard, bench, held=held)).calls
    assert calls.count("replace_letter") >= 3
    deaths = 0
    for crash in crashes(calls):
        found = await requeued(guard, bench, crash, held=held)
        deaths += found.died
        assert (crash, dict(found.world.done)) == (crash, {"a": 1, "b": 1, "c": 1})
        resolved = [each async for each in found.letters.each("state=all", oldest_first=True)]
        assert [(crash, each.id, each.resolution, each.requeues) for each in resolved] == [
            (crash, id, "succeeded", 1) for id in "abc"
        ]
    assert deaths >= 12  # how many calls a quick worker spares depends on how quick it is


async def test_a_requeue_with_an_edit_that_dies_anywhere_runs_each_job_once(
    guard: JobGuard, bench: Bench
) -> None:
    """With the new arguments, whatever was written when it died."""
    edit = {"to": "edited"}
    for crash in crashes((await requeued(guard, bench, edit=edit)).calls):
        found = await requeued(guard, bench, crash, edit=edit)
        assert (crash, dict(found.world.done)) == (crash, {"edited": 3})
        assert (crash, await found.letters.count("state=resolved")) == (crash, 3)


async def test_a_queue_that_takes_a_job_twice_would_be_found_out(guard: JobGuard, bench: Bench) -> None:
    """The checks above can fail: with such a queue some body runs twice."""
    calls = (await requeued(guard, bench, held=True)).calls
    most = 0
    for crash in crashes(calls):
        found = await requeued(guard, bench, crash, kind=Forgetful, held=True)
        most = max(most, *found.world.done.values())
    assert most == 2


# --- clear, prune, import ------------------------------------------------------------------------


async def test_a_clear_that_dies_anywhere_and_is_repeated_leaves_nothing(
    guard: JobGuard, bench: Bench
) -> None:
    """Nor does it take more than was there."""

    async def clear(queue: DeadLetterQueue) -> None:
        await queue.clear()

    many = [letter(f"{number:03}") for number in range(401)]
    letters = a_queue(guard)
    await keep(letters, *many)
    calls = await calls_of(bench, clear, letters)
    assert calls.count("remove_letters") == 3
    for crash in crashes(calls):
        letters, other = a_queue(guard), a_queue(guard)
        await keep(letters, *many)
        await keep(other, letter("other"))
        assert await dies_and_is_done_again(bench, clear, letters, crash)
        assert (crash, await letters.count("state=all"), await other.count()) == (crash, 0, 1)


async def test_a_prune_that_dies_anywhere_and_is_repeated_keeps_what_it_is_to_keep(
    guard: JobGuard, bench: Bench
) -> None:
    """No more goes, and all that goes was shown before."""
    many = [letter(f"{number:03}") for number in range(250)]
    shown: set[str] = set()

    def show(evicted: Sequence[DeadLetter]) -> None:
        shown.update(each.id for each in evicted)

    async def prune(queue: DeadLetterQueue) -> None:
        await queue.prune(keep=10, on_evict=show)

    letters = a_queue(guard)
    await keep(letters, *many)
    for crash in crashes(await calls_of(bench, prune, letters)):
        letters = a_queue(guard)
        await keep(letters, *many)
        shown.clear()
        assert await dies_and_is_done_again(bench, prune, letters, crash)
        assert (crash, await ids_of(letters)) == (crash, [each.id for each in many[240:]])
        assert (crash, len(shown)) == (crash, 240)


async def test_an_import_that_dies_anywhere_and_is_repeated_has_each_letter_once(
    guard: JobGuard, bench: Bench
) -> None:
    """In the order of the file."""
    lines = [to_text(each) for each in THREE]

    async def load(queue: DeadLetterQueue) -> None:
        await import_(queue, lines)

    calls = await calls_of(bench, load, a_queue(guard))
    assert len(calls) == 4  # the time, and each letter
    for crash in crashes(calls):
        letters = a_queue(guard)
        assert await dies_and_is_done_again(bench, load, letters, crash)
        found = [each async for each in letters.each(oldest_first=True)]
        assert (crash, found) == (crash, [replace(each, imported=True) for each in THREE])
