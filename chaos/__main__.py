"""`python -m chaos`: the campaign."""

from __future__ import annotations

import argparse
import importlib
import secrets
import sys
import time
from dataclasses import replace

from chaos.report import Report, Scale

LANES = (("soak", "failover", "clocks"), ("machines", "sweep"))
"""Parts that run one after the other, beside the other lane: the machine has two cores."""


def part(name: str, seed: int, scale: Scale) -> Report:
    """Run one part here."""
    began = time.monotonic()
    report: Report = importlib.import_module(f"chaos.{name}").run(seed, scale)
    return replace(report, seconds=time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos")
    parser.add_argument("part")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--scale", type=Scale, default=Scale.FULL)
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    report = part(options.part, seed, options.scale)
    print("\n".join(report.lines()))  # noqa: T201
    sys.exit(1 if report.violations else 0)


main()
