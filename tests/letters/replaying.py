"""Jobs that have failed and are to be run again: tasks that do as they are told, and what they did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from jobguard import DeadLetter, DeadLetterQueue
from jobguard.adapters.base import ReplayJob

Send = Callable[..., Any]


class World:
    """What tasks meet outside: broken until it is mended, or for as long as a job is told to fail.

    Attributes:
        done: how often the work of each number was done to its end.
        tries: every try, in order.
        broken: whether tries fail.
        error: what they fail with.
    """

    def __init__(self) -> None:
        self.done: Counter[Any] = Counter()
        self.tries: list[Any] = []
        self.broken = True
        self.error: Exception = ValueError("no")

    async def work(self, number: object) -> object:
        self.tries.append(number)
        if self.broken:
            raise type(self.error)(*self.error.args)
        self.done[number] += 1
        return number


async def fail(task: Send, *numbers: object) -> None:
    """Let the jobs of these numbers become dead letters."""
    for number in numbers:
        with pytest.raises(Exception):  # noqa: B017, PT011  whichever it is
            await task(number)


async def letter_with(letters: DeadLetterQueue, id: str) -> DeadLetter:
    found = await letters.get(id)
    assert found is not None
    return found


async def ids(letters: DeadLetterQueue, state: str = "dead") -> list[str]:
    """Of the letters of a state, oldest first."""
    return [each.id async for each in letters.each(f"state={state}", oldest_first=True)]


class Recorder:
    """A queue that takes jobs and never runs one.

    Attributes:
        jobs: what it was given.
        known: ids that it takes for known.
        waiting: ids of jobs that wait or run.
    """

    adapter = "local"

    def __init__(self, known: Sequence[str] = (), waiting: Sequence[str] = ()) -> None:
        self.jobs: list[ReplayJob] = []
        self.known = set(known)
        self.waiting = set(waiting)

    async def enqueue(self, job: ReplayJob) -> bool:
        if job.replay.job_id in self.known:
            return False
        self.known.add(job.replay.job_id)
        self.waiting.add(job.replay.job_id)
        self.jobs.append(job)
        return True

    async def pending(self, queue: str, job_id: str) -> bool:
        return job_id in self.waiting
