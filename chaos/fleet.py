"""The workers: processes that are born from a zygote, die, and are replaced."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.journal import Journal

ROOT = Path(__file__).parents[1]
RESPAWN = 0.1
"""Seconds after which a worker that has ended is replaced."""


@dataclass
class Slot:
    """One place for a worker, which is filled again whenever it falls empty.

    Attributes:
        name: names it in the journals.
        command: what runs there, one of `chaos.zygote.COMMANDS`.
        arguments: of the command.
        config: what `chaos.tasks` reads.
        clock: how the wall clock is wrong there, if it is.
        mutant: the seeded bug there, if any.
        pid: who is there, or None.
        birth: what that process is called in journals.
        stopped: it stands still.
        born: set once somebody is there.
    """

    name: str
    command: str
    arguments: tuple[str, ...]
    config: Mapping[str, Any]
    clock: Mapping[str, float] | None = None
    mutant: str | None = None
    pid: int | None = None
    birth: int = 0
    stopped: bool = False
    born: asyncio.Event = field(default_factory=asyncio.Event)


class Fleet:
    """Fills slots with processes.

    Args:
        directory: of logs and journals.
        journal: where it is written down what was done to whom.
    """

    def __init__(self, directory: Path, journal: Journal) -> None:
        self._directory = directory
        self._journal = journal
        self._slots: dict[str, Slot] = {}
        self._by_birth: dict[int, Slot] = {}
        self._draining = False
        self._zygote: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._ended: dict[str, asyncio.Future[int]] = {}
        self._serving: set[str] = set()
        self._replacing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Fleet:
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
        self._zygote = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chaos.zygote", str(self._directory)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environ,
            cwd=ROOT,
        )
        self._listening = asyncio.ensure_future(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        self._serving.clear()
        self._zygote.stdin.close()
        await self._zygote.wait()
        if self._listening is not None:
            await self._listening

    def fill(self, slot: Slot) -> None:
        """Keep a worker in this slot from now on."""
        self._slots[slot.name] = slot
        self._serving.add(slot.name)
        self._order(slot)

    def running(self) -> list[Slot]:
        """Slots whose workers are there and not stopped."""
        return [slot for slot in self._slots.values() if slot.pid is not None and not slot.stopped]

    def send(self, slot: Slot, number: signal.Signals) -> None:
        """Send a signal, and write down that it was sent."""
        if slot.pid is None:
            return
        self._journal.write("signal", pid=slot.birth, slot=slot.name, name=number.name)
        with suppress(ProcessLookupError):
            os.kill(slot.pid, number)

    async def stop(self, slot: Slot, seconds: float) -> None:
        """SIGSTOP a worker for a while."""
        pid, birth = slot.pid, slot.birth
        if pid is None:
            return
        slot.stopped = True
        self.send(slot, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        if slot.birth == birth:
            slot.stopped = False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        self._journal.write("signal", pid=birth, slot=slot.name, name="SIGCONT")

    async def run(self, slot: Slot) -> Awaitable[int]:
        """Run a process once. Returns when it has been born; what is returned becomes its exit code."""
        self._slots[slot.name] = slot
        ended = self._ended[slot.name] = asyncio.get_running_loop().create_future()
        slot.born.clear()
        self._order(slot)
        await slot.born.wait()
        return ended

    async def drain(self, patience: float) -> None:
        """End all workers by SIGTERM, and those that do not by SIGKILL."""
        self._serving.clear()
        self._draining = True  # who is about to be born is told as well
        for slot in self._slots.values():
            self.send(slot, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while any(slot.pid is not None for slot in self._slots.values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        for slot in self._slots.values():
            self.send(slot, signal.SIGKILL)
        self._draining = False

    def _order(self, slot: Slot) -> None:
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        order = {
            "name": slot.name,
            "command": slot.command,
            "arguments": slot.arguments,
            "environ": {"CHAOS_CONFIG": json.dumps(slot.config)},
            "log": str(self._directory / f"{slot.name}.log"),
            "clock": slot.clock,
            "mutant": slot.mutant,
        }
        self._zygote.stdin.write(json.dumps(order).encode() + b"\n")

    async def _listen(self) -> None:
        assert self._zygote is not None
        assert self._zygote.stdout is not None
        while line := await self._zygote.stdout.readline():
            told = json.loads(line)
            if "born" in told:
                self._was_born(self._slots[told["name"]], told["born"], told["pid"])
            else:
                self._died(self._by_birth.pop(told["died"]), told["code"])
        for slot in self._slots.values():  # the zygote is gone, and all with it
            slot.pid = None
        for ended in self._ended.values():
            ended.set_exception(ChildProcessError("the zygote is gone"))

    def _was_born(self, slot: Slot, birth: int, pid: int) -> None:
        slot.pid, slot.birth, slot.stopped = pid, birth, False
        self._by_birth[birth] = slot
        slot.born.set()
        if self._draining:
            self.send(slot, signal.SIGTERM)

    def _died(self, slot: Slot, code: int) -> None:
        slot.pid = None
        ended = self._ended.pop(slot.name, None)
        if ended is not None:
            ended.set_result(code)
        if slot.name in self._serving:
            task = asyncio.ensure_future(self._replace(slot))
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _replace(self, slot: Slot) -> None:
        await asyncio.sleep(RESPAWN)
        if slot.name in self._serving:
            self._order(slot)
