"""What a part of the campaign has found, and how it is printed and handed from process to process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum


class Scale(StrEnum):
    """How much of everything: for each push, before a release, or overnight."""

    BRIEF = "brief"
    FULL = "full"
    LONG = "long"


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was seen broken.

    Attributes:
        invariant: which one.
        subject: the job, key or step that it befell.
        what: in a sentence.
        history: all that is known of the subject, a line each, oldest first.
    """

    invariant: str
    subject: str
    what: str
    history: tuple[str, ...] = ()

    def headline(self) -> str:
        """All but the history, in a line."""
        return f"VIOLATION of {self.invariant!r} by {self.subject}: {self.what}"


@dataclass(frozen=True, slots=True)
class Report:
    """What one part of the campaign did and found.

    Attributes:
        part: its name.
        seed: repeats it.
        figures: how much was done, by what: jobs, steps, faults by kind, seconds of recovery.
        checked: how often each invariant was looked at.
        violations: what was broken; empty = passed.
        seconds: how long it took.
    """

    part: str
    seed: int
    figures: Mapping[str, int | float | str]
    checked: Mapping[str, int]
    violations: tuple[Violation, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        values = json.loads(text)
        broken = tuple(
            Violation(**{**each, "history": tuple(each["history"])}) for each in values["violations"]
        )
        return cls(**{**values, "violations": broken})

    def lasting(self, seconds: float) -> Report:
        """The same, with how long it took."""
        return replace(self, seconds=seconds)

    def lines(self) -> list[str]:
        """For people: figures, invariants, and of each violation all that is known."""
        verdict = "passed" if not self.violations else f"FAILED ({len(self.violations)} violations)"
        out = [f"{self.part}: {verdict} in {self.seconds:.0f} s, seed {self.seed}"]
        out += [f"    {name:<44} {_figure(value):>12}" for name, value in self.figures.items()]
        out += [f"    checked: {name:<35} {times:>12,}" for name, times in self.checked.items()]
        for each in self.violations[:SHOWN]:
            out += [f"  {each.headline()}"]
            out += [f"      {line}" for line in each.history[-LINES:]]
        if len(self.violations) > SHOWN:
            out.append(f"  and {len(self.violations) - SHOWN} more")
        return out


SHOWN, LINES = 5, 60
"""Violations that are printed with their history, and lines of each."""


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
