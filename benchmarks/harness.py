"""Timing in turns: the subjects of a comparison share every second of the machine.

One run is many rounds. In a round each subject works for a short slice, in an order that is drawn
anew; the garbage collector waits outside. What a subject takes is the median of its slices, and how
it compares is the median of the rounds' own ratios: what slows the machine down slows both sides.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from typing import NamedTuple

Work = Callable[[int], Awaitable[None]]
"""Does something so many times."""
Clock = Callable[[], float]

SEED = 20_240_229


class Timing(NamedTuple):
    """One subject: seconds that one operation takes, by slice."""

    slices: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return median(self.slices)

    def over(self, other: Timing) -> float:
        """How many times the other's time this takes."""
        return median(mine / its for mine, its in zip(self.slices, other.slices, strict=True))


async def in_turns(
    subjects: Mapping[str, Work],
    *,
    rounds: int,
    slice_seconds: float,
    step: int = 1,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Time subjects against each other.

    Args:
        subjects: by name.
        rounds: how often each has its turn.
        slice_seconds: about how long a turn lasts.
        step: a turn's number of operations is a multiple of this.
        clock: what is counted: time on the wall, or of the processor.
    """
    order = random.Random(SEED)
    sizes = {name: await _calibrate(work, slice_seconds, step) for name, work in subjects.items()}
    slices: dict[str, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            order.shuffle(names)
            for name in names:
                start = clock()
                await subjects[name](sizes[name])
                slices[name].append((clock() - start) / sizes[name])
                gc.collect(1)
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(tuple(found)) for name, found in slices.items()}


async def _calibrate(work: Work, slice_seconds: float, step: int) -> int:
    """How many operations fill a slice; warms the subject up."""
    size = step
    while True:
        start = time.perf_counter()
        await work(size)
        took = time.perf_counter() - start
        if took >= slice_seconds / 4:
            return max(round(size * slice_seconds / took / step), 1) * step
        size *= 4
