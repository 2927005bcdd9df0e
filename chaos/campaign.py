"""All parts, each in a process of its own, and what they have found."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

from chaos.report import Report, Scale, Violation

LONGEST = 3 * 3600.0
"""Seconds that a part may take."""
CLEARING_UP = 15.0
"""Seconds that one that is ended may take to end its own processes."""
ROOT = Path(__file__).parents[1]
LANES = (("soak", "failover", "clocks"), ("machines", "sweep"))
"""Parts that run one after the other, beside those of the other lane: a machine has two cores at least."""
PARTS = tuple(part for lane in LANES for part in lane)


class PartFailed(Exception):
    """A part ended without a report."""


async def run_part(*arguments: str) -> Report:
    """Run `python -m chaos` with such arguments in a process of its own, and read its report.

    Raises:
        PartFailed: it has none; the message is what the process said.
    """
    with tempfile.TemporaryDirectory(prefix="chaos-report-") as name:
        path = Path(name) / "report.json"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chaos", *arguments, "--report", str(path)),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(LONGEST):
                said, _ = await process.communicate()
        except BaseException:
            await _end(process)
            raise
        if not path.exists():
            raise PartFailed(f"{' '.join(arguments)} ended with {process.returncode}:\n{said.decode()}")
        return Report.from_json(path.read_text())


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let a part clear up after itself; it has not for ever."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLEARING_UP):
                await process.wait()
        process.kill()
    await process.wait()


async def campaign(seed: int, scale: Scale, parts: Sequence[str]) -> AsyncIterator[Report]:
    """Reports of parts, as they come."""
    done: asyncio.Queue[Report | None] = asyncio.Queue()

    async def run_lane(lane: Sequence[str]) -> None:
        for part in lane:
            if part in parts:
                began = time.monotonic()
                try:
                    report = await run_part("part", part, "--seed", str(seed), "--scale", scale.value)
                    await done.put(report.lasting(time.monotonic() - began))
                except PartFailed as error:
                    broken = Violation(
                        "the part ran", part, "it has no report", tuple(str(error).splitlines())
                    )
                    await done.put(Report(part, seed, {}, {"the part ran": 1}, (broken,)))
        await done.put(None)

    async with asyncio.TaskGroup() as group:
        for lane in LANES:
            group.create_task(run_lane(lane))
        running = len(LANES)
        while running > 0:
            told = await done.get()
            if told is None:
                running -= 1
            else:
                yield told
