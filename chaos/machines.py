"""State machines: any sequence of operations on a store, beside a model of it, on every kind of store.

Hypothesis makes up the steps: claims of few keys by few jobs, renewals and outcomes in time and too late,
under the right token and others, dead letters, announcements, and pauses in which leases run out. Many
operations are sent twice, as they are after a lost reply.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from chaos.claim_machine import ClaimMachine
from chaos.letter_machine import HastyLetterMachine
from chaos.models import Differs
from chaos.progress import Progress
from chaos.report import Report, Scale, Violation
from chaos.stages import STAGES, Stage

STEPS = {Scale.BRIEF: 2_500, Scale.FULL: 50_000, Scale.LONG: 500_000}
"""Steps on each store."""
MACHINES = (ClaimMachine, HastyLetterMachine, ClaimMachine)
"""In turn."""
LENGTH = 100
"""Steps of one sequence, which begins with an empty store."""
TURN = 50
"""Sequences of one machine at most, all from one seed; the next one's are from another."""
INVARIANT = "store model"


def run(seed: int, scale: Scale) -> Report:
    """All kinds of stores, one after the other."""
    reports = [machine_on(name, seed, STEPS[scale]) for name in STAGES]
    figures: Counter[str] = Counter()
    for report in reports:
        figures.update({name: int(figure) for name, figure in report.figures.items()})
    pace = {
        f"ms per step on {name}": report.seconds * 1000 / int(report.figures["steps"])
        for name, report in zip(STAGES, reports, strict=True)
    }
    return Report(
        "state machines",
        seed,
        {**figures, **pace},
        {name: times for report in reports for name, times in report.checked.items()},
        tuple(violation for report in reports for violation in report.violations),
        sum(report.seconds for report in reports),
    )


def machine_on(name: str, seed: int, steps: int, *, smallest: bool = True) -> Report:
    """Steps on one kind of store, until there are so many or one differs from the model.

    Args:
        name: of the stage.
        seed: repeats them.
        steps: at least so many.
        smallest: of a failure, look for the shortest sequence that shows it.
    """
    began, progress, turn = time.monotonic(), Progress(), 0
    violations: tuple[Violation, ...] = ()
    longest = min(-(-steps // (LENGTH * len(MACHINES))), TURN)
    with STAGES[name]() as stage:
        while progress.steps < steps and not violations:
            sequences = min(-(-(steps - progress.steps) // LENGTH), longest)
            try:
                _sequences(stage, progress, turn, seed, sequences, smallest)
            except Exception as error:  # whatever it is: no sequence of operations may raise
                violations = (_violation(name, error, progress),)
            turn += 1
    operations = {f"operation {each}": times for each, times in progress.operations.most_common()}
    return Report(
        f"state machine on {name}",
        seed,
        {"steps": progress.steps, **operations, **progress.seen},
        {f"{INVARIANT}: {name}": progress.steps},
        violations,
        time.monotonic() - began,
    )


def _sequences(
    stage: Stage, progress: Progress, turn: int, seed: int, sequences: int, smallest: bool
) -> None:
    machine = MACHINES[turn % len(MACHINES)]
    run_machines: Any = run_state_machine_as_test  # which takes whatever makes a machine, not classes only
    run_machines(
        seeded(seed * 1_000_000 + turn)(lambda: machine(stage, progress)),
        settings=settings(
            max_examples=sequences,
            stateful_step_count=LENGTH,
            phases=[Phase.generate, Phase.shrink] if smallest else [Phase.generate],
            derandomize=False,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def _violation(name: str, error: Exception, progress: Progress) -> Violation:
    steps = [line for note in getattr(error, "__notes__", ()) for line in note.splitlines()]
    if isinstance(error, Flaky) and progress.error is not None:
        # It depends on time, and did not come again when it was repeated: all that was sent is told.
        error, steps = progress.error, progress.failed
    return Violation(INVARIANT, name, _said(error), tuple(steps))


def _said(error: Exception) -> str:
    """The first line of an error; of a bare assertion its source."""
    first = str(error).partition("\n")[0]
    if isinstance(error, Differs):
        return first
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {first or frame.line} ({frame.name}, line {frame.lineno})"
