"""The proof of the harness: every seeded bug is found, and what has no bug passes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from chaos.campaign import run_part
from chaos.machines import machine_on
from chaos.mutants import MUTANTS, Mutant
from chaos.report import Report
from chaos.soak import Plan, soak_one_server

PLAN = Plan(
    "short soak",
    0,
    jobs=300,
    seconds=10,
    kills=10,
    terms=6,
    stops=3,
    outages=1,
    network=15,
    stock=4,
    supervised=0,
    lease=2.0,
    patience=25,
    replay=False,
)
"""What bugs have to show themselves in, if nothing else is said of them."""
BARE, SOUND = "ARQ by itself", "jobguard as it is"
STEPS = 2_500
"""Of a state machine."""
SEEDS = 3
"""A bug that needs a coincidence to show gets so many chances."""
HARNESS = ("every worker took part", "the storm ends", "SIGTERM ends a worker")
"""What is wrong with a run and not with what is run there."""
AT_ONCE = 2
"""Processes that look for bugs at the same time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the campaign says of a subject.

    Attributes:
        name: of the seeded bug; or what else was looked at.
        guilty: whether something is to be found.
        report: what was found, with the last seed that was tried.
    """

    name: str
    guilty: bool
    report: Report

    @property
    def found(self) -> bool:
        return len(self.invariants) > 0

    @property
    def as_expected(self) -> bool:
        return bool(self.report.violations) == self.guilty == self.found

    @property
    def invariants(self) -> Counter[str]:
        """Which promises were broken, and how often; that workers crash or hang proves nothing."""
        broken = [violation.invariant for violation in self.report.violations]
        return Counter(invariant for invariant in broken if invariant not in HARNESS)


def examine(name: str, seed: int) -> Report:
    """Look at one subject with one seed, here."""
    if name == BARE:
        return _soak(replace(PLAN, seed=seed, settings="chaos.bare.WorkerSettings"))
    if name.startswith(SOUND):
        like = MUTANTS.get(name.removeprefix(f"{SOUND}, as for: "))
        return _soak(replace(PLAN, seed=seed, **({} if like is None else like.plan)))
    mutant = MUTANTS[name]
    if mutant.part == "machines":
        mutant.apply()
        return machine_on("valkey", seed, STEPS, smallest=False)
    return _soak(replace(PLAN, seed=seed, mutant=name, **mutant.plan))


def _soak(plan: Plan) -> Report:
    return asyncio.run(soak_one_server(plan))


async def proof(seed: int) -> AsyncIterator[Finding]:
    """Look at every bug, at jobguard under each plan that a bug is looked for with, and at bare ARQ."""
    done: asyncio.Queue[Finding] = asyncio.Queue()
    turn = asyncio.Semaphore(AT_ONCE)

    async def look(name: str, guilty: bool) -> None:
        async with turn:
            for number in range(SEEDS if guilty else 1):
                report = await run_part("examine", name, "--seed", str(seed + number))
                finding = Finding(name, guilty, report)
                if finding.found:
                    break
        await done.put(finding)

    sound = [SOUND, *(f"{SOUND}, as for: {each.name}" for each in _one_of_each_plan())]
    async with asyncio.TaskGroup() as group:
        for name in (BARE, *MUTANTS):
            group.create_task(look(name, guilty=True))
        for name in sound:
            group.create_task(look(name, guilty=False))
        for _ in range(1 + len(MUTANTS) + len(sound)):
            yield await done.get()


def _one_of_each_plan() -> list[Mutant]:
    plans = {repr(each.plan): each for each in MUTANTS.values() if each.part == "soak" and each.plan}
    return list(plans.values())
