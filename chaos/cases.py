"""One case of the sweep, and what is wrong with what has come of it.

Judged by what bodies, the enqueuer and the fault itself wrote down, by what ARQ keeps as results, and by the
dead letters.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path as Directory

from chaos.bodies import ATTEMPTS, LEASE
from chaos.journal import Entry
from chaos.paths import End, Facts, Job, Path
from chaos.points import Fault
from chaos.report import Violation

LOG_LINES = 25
"""Lines of a victim's log that a history ends with."""


@dataclass
class Case:
    """A path with a fault somewhere, or none.

    Attributes:
        id: short and unique.
        path: which.
        fault: None = undisturbed.
        directory: what its processes leave.
        facts: what was left in the end.
        entries: what was written down of it, in order.
        hung: its process did not end by itself.
    """

    id: str
    path: Path
    fault: Fault | None
    directory: Directory
    facts: Facts = field(default_factory=Facts)
    entries: list[Entry] = field(default_factory=list)
    hung: bool = False

    @property
    def name(self) -> str:
        return f"{self.path.name}/{self.fault}" if self.fault else self.path.name

    @property
    def struck(self) -> bool:
        return any(entry["what"] == "struck" for entry in self.entries)

    def history(self) -> tuple[str, ...]:
        """All that is known of it."""
        start = self.entries[0]["at"] if self.entries else 0.0
        lines = [
            f"{entry['at'] - start:8.3f} s  "
            + " ".join(f"{name}={value}" for name, value in entry.items() if name not in ("at", "case"))
            for entry in self.entries
        ]
        lines.append(f"in the end: {self.facts}")
        log = self.directory / "log"
        if log.exists():
            lines += log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return tuple(lines)


@dataclass
class Run:
    """A run of a body."""

    begin: Entry
    end: Entry | None = None

    @property
    def how(self) -> str:
        return "cut" if self.end is None else str(self.end["how"])


class Judge:
    """Looks at cases, and counts at how many each promise was looked at."""

    def __init__(self) -> None:
        self.checked: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.reruns = 0

    def judge(self, case: Case) -> None:
        """Look at everything of a case."""

        def check(invariant: str, wrong: str) -> None:
            self.checked[invariant] += 1
            if wrong:
                self.violations.append(Violation(invariant, case.name, wrong, case.history()))

        check("the planned fault happened", _not_reached(case))
        check("nothing is left undone", _undone(case))
        for job in case.path.jobs:
            check("each accepted job ends in one way", _ended_otherwise(case, job))
            check("one terminal record for each job", _ended_twice(case, job))
        for runs in _grouped(
            case.entries, "label"
        ):  # a replay is the same work as the job that it runs again
            self.reruns += sum(run.how in ("cut", "cancelled", "ok") for run in runs[:-1])
            check("what has succeeded is not done again", _done_again(case, runs))
            check("fences rise", _fences_fall(runs))
            check("no two bodies of a key at once", _overlapping(case, runs))
        for runs in _grouped(case.entries, "job_id"):  # it counts anew
            check("failures are no more than attempts", _too_many_failures(case, runs))
            check("attempts mean failures", _wrongly_told(case, runs))


def _grouped(entries: Sequence[Entry], by: str) -> list[list[Run]]:
    """The runs of bodies that have something in common, each group in order of time."""
    runs: dict[str, Run] = {}
    groups: dict[str, list[Run]] = defaultdict(list)
    for entry in entries:
        if entry["what"] == "begin":
            run = runs[entry["run"]] = Run(entry)
            groups[entry[by]].append(run)
        elif entry["what"] == "end":
            runs[entry["run"]].end = entry
    return list(groups.values())


def _not_reached(case: Case) -> str:
    if case.fault is not None and not case.struck:
        return "the process ended without coming to where the fault was to befall it"
    return "its process did not end by itself" if case.hung else ""


def _undone(case: Case) -> str:
    if case.facts.trouble:
        return f"nobody could finish it: {case.facts.trouble}"
    return f"the queue still has {case.facts.left}" if case.facts.left else ""


def _ended_otherwise(case: Case, job: Job) -> str:
    id = f"{case.id}-{job.label}"
    result = case.facts.results.get(id)
    # A letter tells the id under which its job has ended last: of a replay, another.
    letters = [each for each in case.facts.letters if each[0] == id or len(case.path.jobs) == 1]
    if result is None:
        return f"the queue says nothing of job {job.label!r}; its letters: {letters}"
    success, truth, text = result
    states = [(state, reason) for _, state, reason, _ in letters]
    done = sum(success and truth for success, truth, _ in case.facts.results.values())
    match job.end:
        case End.DONE:
            good = success and truth and not letters
        case End.SKIPPED:
            good = success and not truth and not letters
        case End.FAILED:
            good = not success and not letters
        case End.ABORTED:
            good = not letters and (not success or (truth and case.struck))
        case End.DEAD:
            good = not success and ("dead", job.reason) in states
        case End.REVIVED:
            good = not success and ("resolved", job.reason) in states and done == 1
        case End.DEAD_AGAIN:
            good = not success and ("dead", job.reason) in states and done == 0 and letters[0][3] > 0
    if good:
        return ""
    return f"job {job.label!r} was to end {job.end}; success={success}, result {text}, letters {states}"


def _ended_twice(case: Case, job: Job) -> str:
    own = f"{case.id}-{job.label}"
    letters = [each for each in case.facts.letters if each[0] == own or len(case.path.jobs) == 1]
    return f"job {job.label!r} has {len(letters)} dead letters" if len(letters) > 1 else ""


def _done_again(case: Case, runs: Sequence[Run]) -> str:
    """A success is repeated only where its worker was cut off before it could be recorded.

    Of a replay, whose job had failed before, too: nothing of it was recorded as a success.
    """
    done = [run for run in runs if run.how == "ok"]
    for first, second in pairwise(done):
        assert first.end is not None
        between = [each for each in case.entries if first.end["at"] <= each["at"] <= second.begin["at"]]
        if not any(each["what"] == "struck" for each in between):
            return "a body that had succeeded ran again, and nothing had befallen its worker"
        if any(each["what"] == "replied" and each["what_trip"] == case.path.recorded for each in between):
            return "a body ran again whose success had been recorded"
    return ""


def _too_many_failures(case: Case, runs: Sequence[Run]) -> str:
    failed = sum(run.how == "fail" for run in runs)
    most = ATTEMPTS + case.struck
    return f"{failed} runs failed; attempts={ATTEMPTS}" if failed > most else ""


def _wrongly_told(case: Case, runs: Sequence[Run]) -> str:
    """A body is told of each failure before it, of none that was not, and of all but one that a fault hid."""
    failed = 0
    for run in runs:
        told = run.begin["failures"]
        if not failed - case.struck <= told <= failed:
            return f"a body was told of {told} failures; there had been {failed}"
        failed += run.how == "fail"
    return ""


def _fences_fall(runs: Sequence[Run]) -> str:
    fences = [run.begin["fence"] for run in runs if run.begin["fence"] is not None]
    if all(a < b for a, b in pairwise(fences)):
        return ""
    return f"fences in order of time: {fences}"


def _overlapping(case: Case, runs: Sequence[Run]) -> str:
    """A run is taken to hold its lease for most of one from its begin, or to the death of its process."""
    killed = {
        each["pid"]: each["at"]
        for each in case.entries
        if each["what"] == "struck" and each["fault"].endswith("/process")
    }
    for first, second in pairwise(runs):
        begin = float(first.begin["at"])
        end = begin + LEASE * 0.75
        if first.end is not None:
            end = min(end, float(first.end["at"]))
        end = min(end, float(killed.get(first.begin["pid"], end)))
        if second.begin["at"] < end:
            return f"run {second.begin['run']} began while run {first.begin['run']} was at work"
    return ""
