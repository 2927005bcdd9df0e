"""The campaign as it is run: reports, exit codes, seeds, and bugs that it finds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest

from chaos.campaign import ROOT, PartFailed, run_part
from chaos.mutants import MUTANTS
from chaos.orders import KINDS, orders
from chaos.proof import BARE, examine
from chaos.report import Report, Scale, Violation
from chaos.soak import PLANS, drawn
from chaos.wallclock import skew

REPORT = Report(
    "part", 7, {"jobs": 3, "s": 1.5}, {"conservation": 3}, (Violation("i", "job", "w", ("a", "b")),)
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_report_comes_back_as_it_was() -> None:
    """Out of another process."""
    assert Report.from_json(REPORT.to_json()) == REPORT


def test_a_report_shows_what_is_known_of_a_violation() -> None:
    """Its seed first, and the history of the job."""
    lines = REPORT.lines()
    assert "FAILED (1 violations)" in lines[0]
    assert "seed 7" in lines[0]
    assert [line.strip() for line in lines[-3:]] == ["VIOLATION of 'i' by job: w", "a", "b"]


def test_a_seed_repeats_the_orders() -> None:
    """The same jobs, in the same order, with the same scripts."""
    first, second = (list(orders(Random(9), 200, KINDS, 0.1, 3.0)) for _ in range(2))
    assert first == second
    assert len({order.label for order in first}) == 200


@pytest.mark.parametrize("scale", PLANS)
def test_a_seed_repeats_the_faults(scale: Scale) -> None:
    """The same ones, at the same times, for the same workers; another seed draws others."""

    def faults(seed: int) -> list[object]:
        return list(drawn(replace(PLANS[scale], seed=seed), [("kill", 9, True), ("cut", 9, False)], 7))

    assert faults(9) == faults(9)
    assert faults(9) != faults(10)


@pytest.mark.anyio
async def test_a_part_that_dies_is_no_part_that_passed() -> None:
    """What it said is in the error."""
    with pytest.raises(PartFailed, match="no_such_part"):
        await run_part("part", "no_such_part")


def test_a_wrong_clock_is_wrong_for_all_who_have_imported_it() -> None:
    """The monotonic one stays right."""
    told = python(
        "import time\n"
        "from time import time as imported\n"
        "from chaos.wallclock import skew\n"
        "before, steady = time.time(), time.monotonic()\n"
        "skew(3600)\n"
        "print(time.time() - before > 3599, imported() - before > 3599, time.monotonic() - steady < 60)\n"
    )
    assert told.stdout.split() == ["True", "True", "True"], told.stderr
    assert skew.__module__ == "chaos.wallclock"


def test_there_are_bugs_enough_to_prove_it() -> None:
    """Of every kind that the judge and the machines look for."""
    assert len(MUTANTS) >= 15


def test_every_seeded_bug_still_fits_the_product() -> None:
    """Each can be put into a process; one whose place has gone says so."""
    told = python(
        "from chaos.mutants import MUTANTS\n"
        "import os\n"
        "for name in MUTANTS:\n"
        "    if os.fork() == 0:\n"
        "        MUTANTS[name].apply()\n"
        "        print(name, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    assert told.stdout.splitlines() == list(MUTANTS), told.stderr


def test_bare_arq_breaks_the_promises() -> None:
    """The same bodies, faults and judge, without jobguard."""
    broken = {violation.invariant for violation in examine(BARE, 1).violations}
    assert "conservation" in broken
    assert len(broken) >= 2
