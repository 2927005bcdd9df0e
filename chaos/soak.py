"""Process soak: real workers, thousands of jobs, and faults of every kind until the judge has seen enough."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from chaos.arena import DURABLE, Arena, OneServer, at_rest, memory_that_stays, used_memory, what_is_left
from chaos.fleet import Fleet, Slot
from chaos.journal import Journal, read
from chaos.judge import judge
from chaos.orders import enqueue, orders
from chaos.proxy import NetFault
from chaos.report import Report, Scale, Violation
from jobguard.testing import EmbeddedValkey

PATH = "chaos.tasks.WorkerSettings"
DEATHS_ALONE = 0.4
"""Share of the time in which workers only die: how long it takes until their jobs are run again is seen there."""
MEMORY_MARGIN = 2_000_000
"""Bytes that a server may hold more than at first: its own buffers, scripts and fragments."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A soak. The same plan makes the same orders and the same faults at the same times.

    Attributes:
        part: names it in the report.
        seed: of everything that is drawn.
        jobs: how many are enqueued.
        seconds: over which they are enqueued, and faults are thrown.
        kills, terms, stops, outages, network: how many faults of each kind: SIGKILL, SIGTERM, SIGSTOP for
            longer than a lease, of the server, and of the network.
        stock, supervised: workers run by `arq`, and by jobguard's own command.
        lease: seconds.
        settings: what the workers run.
        clocks: how wall clocks are wrong, for as many workers as there are.
        mutant: a seeded bug in every worker.
        patience: seconds in which everything has to come to rest after the last fault.
        replay: whether the dead letters are run again in the end.
    """

    part: str
    seed: int
    jobs: int
    seconds: float
    kills: int = 0
    terms: int = 0
    stops: int = 0
    outages: int = 0
    network: int = 0
    stock: int = 4
    supervised: int = 3
    lease: float = 3.0
    settings: str = PATH
    clocks: tuple[dict[str, float] | None, ...] = ()
    mutant: str | None = None
    patience: float = 60.0
    replay: bool = True


PLANS = {
    Scale.BRIEF: Plan("soak", 0, jobs=1_500, seconds=45, kills=45, terms=8, stops=4, outages=3, network=150),
    Scale.FULL: Plan(
        "soak", 0, jobs=10_000, seconds=240, kills=300, terms=50, stops=20, outages=20, network=1_000
    ),
    Scale.LONG: Plan(
        "soak", 0, jobs=100_000, seconds=2_400, kills=3_000, terms=500, stops=200, outages=200, network=10_000
    ),
}


def run(seed: int, scale: Scale) -> Report:
    """The soak on one server that keeps what it acknowledged."""
    return asyncio.run(soak_one_server(replace(PLANS[scale], seed=seed)))


async def soak_one_server(plan: Plan) -> Report:
    with tempfile.TemporaryDirectory(prefix="chaos-") as name, EmbeddedValkey(config=DURABLE) as server:
        directory = Path(name)
        arena = OneServer(server, Journal(directory / "network.journal"), longest=1.3 * plan.lease)
        try:
            return await soak(plan, arena, directory)
        finally:
            await arena.close()


async def soak(plan: Plan, arena: Arena, directory: Path) -> Report:
    """Carry a plan out somewhere, and judge."""
    began = time.monotonic()
    journal = Journal(directory / "driver.journal")
    pool = await arena.connect()
    baseline = await used_memory(pool)
    late: list[str] = []
    async with Fleet(directory, journal) as fleet:
        slots = [
            await _slot(plan, number, arena, directory) for number in range(plan.stock + plan.supervised)
        ]
        for slot in slots:
            fleet.fill(slot)
        inflicted = await _storm(plan, arena, fleet, journal)
        calm = await at_rest(pool, plan.patience)
        late = await fleet.drain(plan.patience)
        rest = await what_is_left(pool)
        if plan.replay and calm:
            await _replay(plan, arena, fleet, journal, directory, slots[0])
    verdict = judge(read(directory), rest, plan.lease)
    staying = await memory_that_stays(pool)
    checked = {**verdict.checked, "memory back to baseline": 1, "SIGTERM ends a worker": len(slots)}
    violations = [*verdict.violations]
    if staying > baseline + MEMORY_MARGIN:
        what = f"{staying - baseline:,} bytes more than at first"
        violations.append(Violation("memory back to baseline", "the server", what))
    violations += [
        Violation("SIGTERM ends a worker", name, f"it went on for {plan.patience:g} s") for name in late
    ]
    figures = {**verdict.figures, **{f"faults: {kind}": number for kind, number in inflicted.items()}}
    return Report(
        plan.part, plan.seed, figures, checked, tuple(violations), round(time.monotonic() - began, 1)
    )


async def _slot(plan: Plan, number: int, arena: Arena, directory: Path) -> Slot:
    supervised = number >= plan.stock
    name = f"{'supervised' if supervised else 'stock'}-{number}"
    config: dict[str, Any] = {
        "directory": str(directory),
        "lease": plan.lease,
        "redis": await arena.redis_settings(name),
    }
    clock = plan.clocks[number % len(plan.clocks)] if plan.clocks else None
    command = "supervised" if supervised else "arq"
    return Slot(name, command, (plan.settings,), config, clock, plan.mutant)


async def _storm(plan: Plan, arena: Arena, fleet: Fleet, journal: Journal) -> Counter[str]:
    """Enqueue all jobs while all faults happen; how many of each did."""
    random, inflicted = Random(plan.seed), Counter[str]()
    one_outage_at_a_time = asyncio.Lock()

    def somebody(chosen: Random) -> Slot | None:
        running = fleet.running()
        return chosen.choice(running) if running else None

    async def signalled(number: signal.Signals, chosen: Random) -> bool:
        slot = somebody(chosen)
        if slot is not None:
            fleet.send(slot, number)
        return slot is not None

    async def stopped(chosen: Random) -> bool:
        slot = somebody(chosen)
        if slot is not None:
            await fleet.stop(slot, plan.lease * chosen.uniform(1.1, 1.6))
        return slot is not None

    async def outage(chosen: Random) -> bool:
        async with one_outage_at_a_time:
            await arena.outage(chosen)
        return True

    async def network(chosen: Random) -> bool:
        slot = somebody(chosen)
        return slot is not None and await arena.network(chosen.choice([*NetFault]), slot.name, chosen)

    def faults() -> list[tuple[str, int, Callable[[Random], Awaitable[bool]]]]:
        return [
            ("SIGKILL", plan.kills, lambda chosen: signalled(signal.SIGKILL, chosen)),
            ("SIGTERM", plan.terms, lambda chosen: signalled(signal.SIGTERM, chosen)),
            ("SIGSTOP longer than a lease", plan.stops, stopped),
            ("server kill -9", plan.outages, outage),
            ("network", plan.network, network),
        ]

    async def inflict(kind: str, fault: Callable[[Random], Awaitable[bool]], at: float, seed: int) -> None:
        await asyncio.sleep(at)
        chosen = Random(seed)
        while not await fault(chosen):  # noqa: ASYNC110  nobody was there to be struck
            await asyncio.sleep(0.1)
        inflicted[kind] += 1

    async def place(order_random: Random) -> None:
        start = time.monotonic()
        asked = set[asyncio.Task[None]]()
        for number, order in enumerate(orders(order_random, plan.jobs, plan.lease)):
            await asyncio.sleep(max(start + number * plan.seconds / plan.jobs - time.monotonic(), 0))
            task = asyncio.ensure_future(enqueue(order, arena.connect, journal))
            asked.add(task)
            task.add_done_callback(asked.discard)
        if asked:
            await asyncio.wait(asked)

    async with asyncio.TaskGroup() as group:
        group.create_task(place(Random(plan.seed)))
        for kind, number, fault in faults():
            deaths = kind in ("SIGKILL", "SIGTERM")
            for each in range(number):
                first = deaths and each < DEATHS_ALONE * number
                begin, end = (0.0, DEATHS_ALONE) if first else (DEATHS_ALONE, 1.0)
                at, seed = plan.seconds * random.uniform(begin, end), random.getrandbits(32)
                group.create_task(inflict(kind, fault, at, seed))
    return inflicted


async def _replay(
    plan: Plan, arena: Arena, fleet: Fleet, journal: Journal, directory: Path, slot: Slot
) -> None:
    """Mend what made jobs fail, and requeue all dead letters: by three commands, one of which is killed."""
    pool = await arena.connect()
    (directory / "mended").touch()
    journal.write("mended")
    for number in range(2):
        fleet.fill(replace(slot, name=f"mended-{number}", clock=None, pid=None, born=asyncio.Event()))
    arguments = ("dlq", "requeue", "--all", "--yes", "--quiet", "--url", arena.url)
    operators = [Slot(f"operator-{number}", "jobguard", arguments, {}) for number in range(3)]
    ends = [await fleet.run(operator) for operator in operators]
    await asyncio.sleep(Random(plan.seed).uniform(0.2, 0.8))
    fleet.send(operators[0], signal.SIGKILL)
    await asyncio.gather(*ends)
    await (await fleet.run(replace(operators[0], name="operator-again", born=asyncio.Event())))
    await at_rest(pool, plan.patience)
    await fleet.drain(plan.patience)
