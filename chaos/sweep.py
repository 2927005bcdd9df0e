"""Crash points: every round trip of every path meets a fault, once before, once in and once after it.

Each path is played undisturbed first, to find its round trips; then once for each of them, each moment and
each kind of death. A case has a process of its own that the fault befalls, and a queue, a namespace and jobs
of its own; another process does for many cases what is left to do.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import random
import selectors
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import count
from pathlib import Path as Directory
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import redis

from chaos.bodies import LEASE, PATIENCE
from chaos.cases import Case, Judge
from chaos.journal import Journal, read
from chaos.paths import PATHS, Facts, Path, Stage, look
from chaos.points import Death, Fault, Interceptor, Moment, Trip, worth_a_fault
from chaos.report import Report, Scale, Violation
from jobguard.adapters.arq import create_pool
from jobguard.testing import EmbeddedValkey

PR_SET_PDEATHSIG = 1
VICTIMS, FINISHING = 6, 100
"""Processes that are about to die, and cases that wait for leases to run out, at once."""
RECORDINGS = 3
"""Times that a path is played undisturbed, to tell what always comes from what comes by chance."""
ROUNDS = {Scale.BRIEF: 1, Scale.FULL: 1, Scale.LONG: 3}
SAMPLED = 1
"""Round trips that a brief sweep takes, of each path, moment and kind of death."""
TRIES = 3
"""A fault that was not reached, since a busy machine did something else first, is tried again."""

Mutate = Callable[[], None]


def run(seed: int, scale: Scale, only: str = "", mutate: Mutate | None = None) -> Report:
    """Sweep.

    Args:
        seed: chooses what a brief sweep takes, and the order.
        scale: all but `BRIEF` are exhaustive.
        only: what the names of the cases begin with that are played, as a violation tells them: a path, a
            round trip of it, or all of a name.
        mutate: called in every process that runs jobs, to patch a bug into it.
    """
    began = time.monotonic()
    chance = Random(seed)
    with ExitStack() as stack:
        directory = Directory(stack.enter_context(TemporaryDirectory(prefix="jobguard-sweep-")))
        server = stack.enter_context(EmbeddedValkey())
        sweep = stack.enter_context(Sweep(directory, server.socket_path, mutate))
        paths = [
            path for path in PATHS if f"{path.name}/".startswith(only) or only.startswith(f"{path.name}/")
        ]
        judge = Judge()
        points = sweep.points(paths, judge)
        wanted = [
            (path, fault)
            for path in paths
            for fault in _chosen(points[path.name], scale, chance)
            if f"{path.name}/{fault}".startswith(only)
        ]
        cases: list[Case] = []
        for _ in range(ROUNDS[scale]):
            chance.shuffle(wanted)
            cases += sweep.play_until_struck(wanted)
        for case in cases:
            judge.judge(case)
        with redis.Redis(unix_socket_path=server.socket_path) as client:
            stray = list(_stray(client))
        judge.checked["no key without an end or an owner"] = len(cases)
        judge.violations += [
            Violation("no key without an end or an owner", key, "it would stay for ever") for key in stray
        ]
    struck = [case for case in cases if case.struck and case.fault is not None]
    figures: dict[str, int | float | str] = {
        f"round trips of {name!r}": len({fault.trip for fault in faults}) for name, faults in points.items()
    }
    figures |= {"cases": len(cases), "cases tried again": sweep.again, "runs that repeat one": judge.reruns}
    for kind, number in sorted(Counter(_kinds(struck)).items()):
        figures[kind] = number
    figures["seconds"] = round(time.monotonic() - began, 1)
    return Report(
        "sweep", seed, figures, dict(judge.checked), tuple(judge.violations), time.monotonic() - began
    )


def _kinds(cases: Iterable[Case]) -> Iterator[str]:
    for case in cases:
        fault = case.fault
        assert fault is not None
        yield f"deaths of a {fault.death}"
        yield f"deaths {_MOMENTS[fault.moment]}"
        if "attempt" in case.path.name or "exhausted" in case.path.name:
            yield f"deaths in attempt {fault.trip.delivery}"


_MOMENTS = {
    Moment.BEFORE: "before a command was sent",
    Moment.LOST: "before a reply came",
    Moment.AFTER: "after a reply had come",
}


def _chosen(faults: Sequence[Fault], scale: Scale, chance: Random) -> list[Fault]:
    """All of them; of a brief sweep, some of each moment and kind of death."""
    if scale is not Scale.BRIEF:
        return list(faults)
    strata: dict[tuple[Moment, Death], list[Fault]] = defaultdict(list)
    for fault in faults:
        strata[fault.moment, fault.death].append(fault)
    return [
        each for stratum in strata.values() for each in chance.sample(stratum, min(SAMPLED, len(stratum)))
    ]


def _stray(client: Any) -> Iterator[str]:
    """Keys that would stay for ever, and are no part of a dead letter queue that is listed."""
    for key in client.scan_iter(count=1000):
        text = key.decode(errors="replace")
        if text.endswith(":dlq") or client.pttl(key) != -1:
            continue
        namespace, _, rest = text.removeprefix("{").partition(":dlq:")
        name = rest.partition("}")[0]
        if not (text.startswith("{") and client.sismember(f"{namespace}:dlq", name)):
            yield text


class Sweep:
    """Plays cases, many at once.

    Args:
        directory: for what processes leave.
        socket: of the server.
        mutate: see `run`.
    """

    def __init__(self, directory: Directory, socket: str, mutate: Mutate | None) -> None:
        self._directory = directory
        self._socket = socket
        self._mutate = mutate
        self._journal = Journal(directory / "sweep.journal")
        self._numbers = count()
        self._victims: dict[int, tuple[Case, float]] = {}
        self._selector = selectors.DefaultSelector()
        self.again = 0

    def __enter__(self) -> Sweep:
        gc.collect()
        gc.freeze()  # what is here is in every child, and not to be looked through there
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self._finisher = os.fork()
        if self._finisher == 0:
            os.close(self._orders)
            os.close(self._answers)
            self._become(lambda: asyncio.run(finish_cases(orders, answers, self._stage)), "finisher.log")
        os.close(orders)
        os.close(answers)
        self._heard = b""
        self._selector.register(self._answers, selectors.EVENT_READ, None)
        return self

    def __exit__(self, *error: object) -> None:
        for pid in self._victims:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(self._orders)
        os.waitpid(self._finisher, 0)
        os.close(self._answers)
        self._selector.close()
        gc.unfreeze()

    def points(self, paths: Sequence[Path], judge: Judge) -> dict[str, list[Fault]]:
        """Every fault that can befall each path. Paths that break a promise undisturbed have none."""
        self.play([(path, None) for path in paths])  # so that the server knows every script
        found: dict[str, list[list[Trip]]] = defaultdict(list)
        for case in self.play([(path, None) for path in paths for _ in range(RECORDINGS)]):
            broken = len(judge.violations)
            judge.judge(case)
            found[case.path.name].append(_trips(case) if broken == len(judge.violations) else [])
        return {
            path.name: [
                Fault(trip, moment, death)
                for trip in _always(path, found[path.name])
                for moment in Moment
                for death in Death
            ]
            for path in paths
        }

    def play_until_struck(self, wanted: Sequence[tuple[Path, Fault]]) -> list[Case]:
        """Play cases, those again that their faults did not reach."""
        played: list[Case] = []
        left: Sequence[tuple[Path, Fault | None]] = wanted
        for _ in range(TRIES):
            missed: list[tuple[Path, Fault | None]] = []
            last: list[Case] = []
            for case in self.play(left):
                if case.struck:
                    played.append(case)
                else:
                    last.append(case)
                    missed.append((case.path, case.fault))
            if not missed:
                return played
            left = missed
            self.again += len(missed)
        return played + last

    def play(self, wanted: Sequence[tuple[Path, Fault | None]]) -> list[Case]:
        """Play cases to their ends."""
        cases = {}
        for path, fault in wanted:
            id = f"{next(self._numbers)}"
            cases[id] = Case(id, path, fault, self._directory / id)
        fresh, ready = deque(cases.values()), deque[Case]()
        victims = self._victims
        under_way = ended = 0
        while ended < len(cases):
            while fresh and under_way < FINISHING:
                under_way += 1
                self._order("prepare", fresh.popleft())
            while ready and len(victims) < VICTIMS:
                case = ready.popleft()
                pid = self._fork_victim(case)
                self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                victims[pid] = case, time.monotonic() + PATIENCE
            for key, _ in self._selector.select(1.0):
                if key.data is None:
                    for answer in self._answered():
                        case = cases[answer["case"]]
                        if answer["op"] == "prepare" and not answer["facts"]["trouble"]:
                            ready.append(case)
                        else:
                            case.facts = Facts(**answer["facts"])
                            ended += 1
                            under_way -= 1
                else:
                    self._selector.unregister(key.fileobj)
                    os.close(int(key.fd))
                    case, _ = victims.pop(key.data)
                    os.waitpid(key.data, 0)
                    self._order("finish", case)
            for pid, (case, deadline) in victims.items():
                if time.monotonic() > deadline and not case.hung:
                    case.hung = True
                    os.kill(pid, signal.SIGKILL)
        for entry in read(self._directory):
            if entry["case"] in cases:
                cases[entry["case"]].entries.append(entry)
        return list(cases.values())

    def _stage(self, case: str) -> Stage:
        return Stage(case, self._directory / case, self._socket, self._journal)

    def _order(self, op: str, case: Case) -> None:
        # Some are finished by a worker that was there all the time, most by one that comes a lease later.
        wait = 0.0 if case.fault is None or int(case.id) % 4 == 0 else LEASE
        order = {"op": op, "case": case.id, "path": case.path.name, "wait": wait}
        order["repeat"] = case.fault is not None
        os.write(self._orders, json.dumps(order).encode() + b"\n")

    def _answered(self) -> list[dict[str, Any]]:
        data = os.read(self._answers, 1 << 20)
        if not data:
            raise RuntimeError((self._directory / "finisher.log").read_text())
        *lines, self._heard = (self._heard + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _fork_victim(self, case: Case) -> int:
        pid = os.fork()
        if pid == 0:
            stage = self._stage(case.id)

            def note(what: str, **values: object) -> None:
                if what != "replied" or values["what_trip"] == case.path.recorded:
                    stage.note(what, pid=os.getpid(), **values)

            def die() -> None:
                asyncio.set_event_loop(asyncio.new_event_loop())
                Interceptor(case.fault, note).install()
                if case.path.victim is None:
                    stage.victim()
                else:
                    case.path.victim(stage)

            self._become(die, f"{case.id}/log")
        return pid

    def _become(self, act: Callable[[], object], log: str) -> NoReturn:
        """Be another process from here on, which ends with the one that it came from."""
        code = 1
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            output = os.open(self._directory / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            random.seed()
            if self._mutate is not None:
                self._mutate()
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _always(path: Path, recordings: Sequence[Sequence[Trip]]) -> list[Trip]:
    """The round trips that a path always has, and that are not like another one."""
    last = max((trip.delivery for trip in recordings[0]), default=0)
    return [
        trip
        for trip in recordings[0]
        if all(trip in other for other in recordings)
        and worth_a_fault(trip, idles=path.idles, last=trip.delivery == last)
        and (path.whole or trip.delivery > 0)
    ]


def _trips(case: Case) -> list[Trip]:
    return [
        Trip(entry["delivery"], entry["what_trip"], entry["nth"], entry["by"])
        for entry in case.entries
        if entry["what"] == "trip"
    ]


async def finish_cases(orders: int, answers: int, stage_of: Callable[[str], Stage]) -> None:
    """Set the scenes of cases, and do what is left of them, as orders come in; until no more do."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(orders, "rb"))
    stages: dict[str, Stage] = {}
    paths = {path.name: path for path in PATHS}
    tasks: set[asyncio.Task[None]] = set()
    pool = await create_pool(stage_of("").redis_settings)

    async def obey(order: dict[str, Any]) -> None:
        case, path = order["case"], paths[order["path"]]
        if case not in stages:
            stages[case] = stage_of(case)
        stage, facts = stages[case], Facts()
        try:
            async with asyncio.timeout(3 * PATIENCE):
                if order["op"] == "prepare":
                    await _prepare(stage, path)
                else:
                    facts = await _finish(stages.pop(case), path, order)
        except Exception as error:
            facts.trouble = f"{error!r}"
            traceback.print_exc()
        answer = {"op": order["op"], "case": case, "facts": asdict(facts)}
        os.write(answers, json.dumps(answer).encode() + b"\n")

    async def _prepare(stage: Stage, path: Path) -> None:
        stage.directory.mkdir()
        if path.prepare is not None:
            await path.prepare(stage, pool)
        else:
            for job in path.jobs:
                await stage.enqueue(pool, job)

    async def _finish(stage: Stage, path: Path, order: dict[str, Any]) -> Facts:
        await asyncio.sleep(order["wait"])
        if path.repeat is not None and order["repeat"]:
            await path.repeat(stage, pool)
        if path.finish is not None:
            await path.finish(stage, pool)
        else:
            await stage.work()
        return await look(stage, path, pool)

    while line := await reader.readline():
        task = loop.create_task(obey(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
