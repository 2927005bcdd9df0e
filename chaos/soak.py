"""Process soak: real workers, thousands of jobs, and faults of every kind until the judge has seen enough."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from chaos.arena import DURABLE, Arena, OneServer, at_rest, used_memory, what_is_left, what_stays
from chaos.fleet import Fleet, Slot
from chaos.journal import Entry, Journal, read
from chaos.judge import judge
from chaos.orders import KINDS, Kinds, enqueue, orders
from chaos.proxy import NetFault
from chaos.report import Report, Scale, Violation
from jobguard.cli.exits import Exit
from jobguard.testing import EmbeddedValkey

T = TypeVar("T")
Fault = Callable[[Slot, Random], Awaitable[str | None]]
"""Something that befalls whoever is in a slot: what it was, or None if it could not happen."""
PATH = "chaos.tasks.WorkerSettings"
DEATHS_ALONE = 0.4
"""Share of the time in which workers only die: there one sees how soon their jobs are run again."""
REQUEUED = (Exit.OK, Exit.PARTIAL, Exit.NOT_FOUND)
"""What a requeue ends with that has done its work, or some of it where others were quicker."""
MEMORY_MARGIN = 2_000_000
"""Bytes that a server may hold more than at first: its own buffers, scripts and fragments."""
DRAIN = 20.0
"""Seconds in which workers that are told to end have ended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A soak. The same plan makes the same orders, and the same faults at the same times for the same slots.

    Attributes:
        part: names it in the report.
        seed: of everything that is drawn.
        jobs: how many are enqueued.
        seconds: over which they are enqueued, and faults are thrown.
        kills, terms, stops, outages, network: how many faults of each kind: SIGKILL, SIGTERM, SIGSTOP for
            longer than a lease, of the server, and of the network.
        stock, supervised: workers run by `arq`, and by jobguard's own command.
        lease: seconds.
        kinds, long: which jobs there are, and the share whose bodies outlast a lease.
        settings: what the workers run.
        clocks: how wall clocks are wrong, for as many workers as there are.
        mutant: a seeded bug in every worker.
        patience: seconds in which everything has to come to rest after the last fault.
        replay: whether the dead letters are run again in the end.
        admits_loss: an outage of the servers may cost what they acknowledged just before.
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
    kinds: Kinds = KINDS
    long: float = 0.02
    settings: str = PATH
    clocks: tuple[dict[str, float] | None, ...] = ()
    mutant: str | None = None
    patience: float = 60.0
    replay: bool = True
    admits_loss: bool = False


PLANS = {
    Scale.BRIEF: Plan("soak", 0, jobs=1_000, seconds=30, kills=30, terms=6, stops=3, outages=2, network=100),
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
    baseline = await used_memory(await arena.connect())
    async with Fleet(directory, journal) as fleet:
        slots = [
            await _slot(plan, number, arena, directory) for number in range(plan.stock + plan.supervised)
        ]
        for slot in slots:
            fleet.fill(slot)
        inflicted, wrong = await _storm(plan, arena, fleet, slots, journal, directory)
        pool = await arena.connect()  # an outage may have made the first one useless
        calm = await at_rest(pool, plan.patience)
        await fleet.drain(DRAIN)
        rest = await what_is_left(pool)
        if plan.replay and calm:
            wrong += await _replay(plan, arena, fleet, journal, directory, slots[0])
    entries = read(directory)
    verdict = judge(entries, rest, plan.lease, admits_loss=plan.admits_loss)
    checked = {**verdict.checked, "every worker took part": len(slots)}
    wrong += [
        Violation("every worker took part", slot.name, "it never got ready", _log(directory, slot))
        for slot in slots
        if not _took_part(slot, entries)
    ]
    if not plan.admits_loss:  # a replica's buffers are its own affair
        checked["memory back to baseline"] = 1
        left = await what_stays(pool)
        if left.memory > baseline + MEMORY_MARGIN or left.keys:
            what = f"{left.memory - baseline:,} bytes more than at first, and {left.keys}"
            wrong.append(Violation("memory back to baseline", "the server", what))
    figures = {**verdict.figures, **{f"faults: {kind}": number for kind, number in sorted(inflicted.items())}}
    violations = (*verdict.violations, *wrong)
    return Report(plan.part, plan.seed, figures, checked, violations, round(time.monotonic() - began, 1))


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


async def _storm(
    plan: Plan, arena: Arena, fleet: Fleet, slots: Sequence[Slot], journal: Journal, directory: Path
) -> tuple[Counter[str], list[Violation]]:
    """Enqueue all jobs while all faults happen; how many of each did, and what went wrong with that."""
    inflicted: Counter[str] = Counter()
    one_outage_at_a_time = asyncio.Lock()

    async def signalled(number: signal.Signals, slot: Slot) -> str:
        fleet.send(slot, number)
        return number.name

    async def stopped(slot: Slot, random: Random) -> str:
        await fleet.stop(slot, plan.lease * random.uniform(1.1, 1.6))
        return "SIGSTOP longer than a lease"

    async def outage(slot: Slot, random: Random) -> str:
        async with one_outage_at_a_time:
            await arena.outage(random)
        return "server kill -9"

    async def network(slot: Slot, random: Random) -> str | None:
        kind = random.choice([*NetFault])
        return f"network, {kind}" if await arena.network(kind, slot.name, random) else None

    async def inflict(fault: Fault, at: float, victim: int, seed: int) -> None:
        """Let a fault befall its victim, or the next one who is there; again until it could happen."""
        await asyncio.sleep(at)
        while True:
            there = fleet.running()
            ranked = [slot for slot in (*slots[victim:], *slots[:victim]) if slot in there]
            kind = await fault(ranked[0], Random(seed)) if ranked else None
            if kind is not None:
                inflicted[kind] += 1
                return
            await asyncio.sleep(0.1)

    async def place() -> None:
        start = time.monotonic()
        asked = set[asyncio.Task[None]]()
        wanted = orders(Random(plan.seed), plan.jobs, plan.kinds, plan.long, plan.lease)
        for number, order in enumerate(wanted):
            await asyncio.sleep(max(start + number * plan.seconds / plan.jobs - time.monotonic(), 0))
            task = asyncio.ensure_future(enqueue(order, arena.connect, journal))
            asked.add(task)
            task.add_done_callback(asked.discard)
        if asked:
            await asyncio.wait(asked)

    faults: list[tuple[Fault, int, bool]] = [
        (lambda slot, random: signalled(signal.SIGKILL, slot), plan.kills, True),
        (lambda slot, random: signalled(signal.SIGTERM, slot), plan.terms, True),
        (stopped, plan.stops, False),
        (outage, plan.outages, False),
        (network, plan.network, False),
    ]
    planned = list(drawn(plan, faults, len(slots)))
    try:
        async with asyncio.timeout(plan.seconds + plan.patience), asyncio.TaskGroup() as group:
            group.create_task(place())
            for fault, times in planned:
                group.create_task(inflict(fault, *times))
    except TimeoutError:
        logs = [line for slot in slots for line in (f"{slot.name}:", *_log(directory, slot)[-10:])]
        left = len(planned) - inflicted.total()
        what = f"{left} of {len(planned)} faults are left over, or jobs that could not be placed"
        return inflicted, [Violation("the storm ends", "the harness", what, tuple(logs))]
    return inflicted, []


def drawn(
    plan: Plan, faults: Sequence[tuple[T, int, bool]], victims: int
) -> Iterator[tuple[T, tuple[float, int, int]]]:
    """When each fault is to happen, whom it is to befall, and a seed for the rest: all by the plan's."""
    random = Random(plan.seed)
    for fault, number, deaths in faults:
        for each in range(number):
            alone = deaths and each < DEATHS_ALONE * number
            begin, end = (0.0, DEATHS_ALONE) if alone else (DEATHS_ALONE, 1.0)
            at = plan.seconds * random.uniform(begin, end)
            yield fault, (at, random.randrange(victims), random.getrandbits(32))


async def _replay(
    plan: Plan, arena: Arena, fleet: Fleet, journal: Journal, directory: Path, slot: Slot
) -> list[Violation]:
    """Mend what made jobs fail, and requeue all dead letters: by three commands, one of which is killed.

    Returns what went wrong with a command that was not.
    """
    pool = await arena.connect()
    (directory / "mended").touch()
    journal.write("mended")
    for number in range(2):
        fleet.fill(replace(slot, name=f"mended-{number}", clock=None, pid=None, born=asyncio.Event()))
    arguments = ("dlq", "requeue", "--all", "--yes", "--url", arena.url)
    config = {"directory": str(directory)}
    operators = [
        Slot(f"operator-{number}", "jobguard", arguments, config, mutant=plan.mutant) for number in range(4)
    ]
    ends = [await fleet.run(operator) for operator in operators[:3]]
    await asyncio.sleep(Random(plan.seed).uniform(0.2, 0.8))
    fleet.send(operators[0], signal.SIGKILL)
    codes = [await end for end in ends[1:]]
    codes.append(await (await fleet.run(operators[3])))
    wrong = [
        Violation("a requeue succeeds", operator.name, f"exit code {code}", _log(directory, operator))
        for operator, code in zip(operators[1:], codes, strict=True)
        if code not in REQUEUED
    ]
    if not await at_rest(pool, plan.patience):
        logs = tuple(line for each in operators for line in (f"{each.name}:", *_log(directory, each)[-10:]))
        wrong.append(Violation("a requeue succeeds", "the queue", "jobs are left in it", logs))
    await fleet.drain(DRAIN)
    return wrong


def _took_part(slot: Slot, entries: Sequence[Entry]) -> bool:
    born = {entry["pid"] for entry in entries if entry["what"] == "born" and entry["name"] == slot.name}
    return any(entry["what"] == "ready" and entry["pid"] in born for entry in entries)


def _log(directory: Path, slot: Slot) -> tuple[str, ...]:
    return tuple((directory / f"{slot.name}.log").read_text(errors="replace").splitlines())
