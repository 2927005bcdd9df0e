"""`python -m chaos`: the campaign, and the proof that it can fail."""

from __future__ import annotations

import asyncio
import importlib
import secrets
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from chaos.campaign import PARTS, campaign
from chaos.processes import end_with_parent
from chaos.report import SHOWN, Report, Scale

HELP = """Throw faults at jobguard, on servers that it starts itself, and judge what comes of that.

Parts: soak (workers that are killed, stopped and cut off), failover (Sentinel), clocks (that are wrong),
machines (the store against a model), sweep (every round trip cut off). Scales: brief takes under 3 minutes,
full about 8, long over an hour.
"""

app = typer.Typer(add_completion=False, no_args_is_help=True, help=HELP)
console = Console(soft_wrap=True)
if not console.is_terminal:
    console.width = 160  # tables in a log have room

Seed = Annotated[int | None, typer.Option(help="Repeats a run.", show_default="drawn")]
ReportFile = Annotated[Path | None, typer.Option(help="Where to write the report as JSON.")]


@app.command("run")
def run(
    seed: Seed = None,
    scale: Annotated[Scale, typer.Option(help="How much of everything.")] = Scale.FULL,
    only: Annotated[
        list[str] | None, typer.Option(help=f"A part: {', '.join(PARTS)}. Repeatable.", metavar="PART")
    ] = None,
) -> None:
    """Throw every fault at jobguard, and print what the judge says."""
    drawn = _draw(seed)
    unknown = set(only or ()) - {*PARTS}
    if unknown:
        raise typer.BadParameter(f"there is no part {', '.join(sorted(unknown))}, but {', '.join(PARTS)}")
    console.print(f"chaos: scale {scale.value}, seed {drawn}; each part reports when it is done")
    raise typer.Exit(asyncio.run(_run(drawn, scale, only or PARTS)))


async def _run(seed: int, scale: Scale, parts: list[str] | tuple[str, ...]) -> int:
    began, violations, checks = time.monotonic(), list[str](), 0
    async for report in campaign(seed, scale, parts):
        _print(report)
        violations += [f"{report.part}: {violation.headline()}" for violation in report.violations]
        checks += sum(report.checked.values())
    took = time.monotonic() - began
    for line in violations[:SHOWN]:  # once more: of a long log, the end is what one sees
        console.print(line, markup=False, highlight=False)
    console.print(f"chaos: {len(violations)} violations in {checks:,} checks, {took:.0f} s, seed {seed}")
    if violations:
        console.print(f"To repeat it: python -m chaos run --scale {scale.value} --seed {seed} [--only PART]")
    return 1 if violations else 0


@app.command("part", hidden=True)
def part(name: str, seed: Seed = None, scale: Scale = Scale.FULL, report: ReportFile = None) -> None:
    """Run one part in this process."""
    end_with_parent(signal.SIGINT)
    _finish(importlib.import_module(f"chaos.{name}").run(_draw(seed), scale), report)


@app.command("examine", hidden=True)
def examine(name: str, seed: Seed = None, report: ReportFile = None) -> None:
    """Look for one seeded bug in this process."""
    end_with_parent(signal.SIGINT)
    from chaos import proof

    _finish(proof.examine(name, _draw(seed)), report)


@app.command("mutants")
def mutants(seed: Seed = None) -> None:
    """Look for every seeded bug, and print which invariant gave it away."""
    raise typer.Exit(asyncio.run(_mutants(_draw(seed))))


async def _mutants(seed: int) -> int:
    from chaos.proof import proof

    table = Table("subject", "found", "by", "seed", "s", title="Seeded bugs, and what has none")
    wrong: list[Report] = []
    async for finding in proof(seed):
        by = ", ".join(f"{name} ({times})" for name, times in finding.invariants.most_common())
        found = "yes" if finding.found else "no"
        mark = "" if finding.as_expected else "  WRONG"
        console.print(f"{finding.name}: {found}{mark} {by}")
        table.add_row(
            finding.name, found + mark, by, str(finding.report.seed), f"{finding.report.seconds:.0f}"
        )
        if not finding.as_expected:
            wrong.append(finding.report)
    console.print(table)
    for report in wrong:
        _print(report)
    console.print(f"chaos-mutants: {len(wrong)} subjects were judged wrongly, seed {seed}")
    return 1 if wrong else 0


def _draw(seed: int | None) -> int:
    return secrets.randbits(32) if seed is None else seed


def _finish(report: Report, path: Path | None) -> None:
    if path is not None:
        path.write_text(report.to_json())
    _print(report)
    raise typer.Exit(1 if report.violations else 0)


def _print(report: Report) -> None:
    for line in report.lines():
        console.print(line, markup=False, highlight=False)


if __name__ == "__main__":
    # Whoever ends it by SIGTERM wants what Ctrl-C does: its processes end with it, and its files go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
