"""The judge: from the journals and what is left on the server to the promises that were broken.

Whether a body ran, overlapped or came back in time is read from what bodies wrote; who was killed, stopped or
cut off, from what those wrote who did it. Only how jobs have ended is read from the server: from their
queue's results, and from the dead letters, as an operator would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import median
from typing import Any

from chaos.evidence import Evidence
from chaos.journal import Entry
from chaos.orders import ATTEMPTS, MAX_CRASHES
from chaos.report import Violation

TOLERANCE = 0.25
"""Seconds that a process may lag on a busy machine between its clock and what it writes."""
NO_OVERLAP_KEY, NO_OVERLAP_LOCK = "no overlap (lease on the key)", "no overlap (the queue's lock)"
ADMITTED = {
    "conservation": "jobs lost",
    NO_OVERLAP_KEY: "overlaps",
    NO_OVERLAP_LOCK: "overlaps",
    "no work is repeated without a fault": "repeated work",
}
"""What the loss of the last writes can break, and what that is called."""
LOST = "it was accepted, and nothing is known of it any more"
ENDS_WITHIN = 15.0
"""Seconds in which a worker that was told to end has ended."""
INTERVAL = 2.0
"""Seconds beyond a lease in which a killed worker's job has to be run again: a poll, and a busy machine."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What the server holds once nothing is left to do.

    Attributes:
        results: of each job whether its queue says that it succeeded.
        letters: ids of jobs that are dead letters, one for each letter, with the letter's reason.
        queued: ids of jobs that still wait.
        unowned: keys that would stay for ever and belong to nothing.
    """

    results: Mapping[str, bool]
    letters: Sequence[tuple[str, str]]
    queued: Sequence[str] = ()
    unowned: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge found.

    Attributes:
        violations: promises that were broken.
        checked: how often each was looked at.
        figures: what was counted on the way.
    """

    violations: tuple[Violation, ...]
    checked: Mapping[str, int]
    figures: Mapping[str, int | float]


def judge(entries: Sequence[Entry], rest: Rest, lease: float, *, admits_loss: bool = False) -> Verdict:
    """Look at everything.

    Args:
        entries: of all journals, in order of time.
        rest: what is left on the server.
        lease: seconds.
        admits_loss: what a server acknowledged within `LAG` before an outage may be gone. What follows from
            that is counted, and is no violation.
    """
    evidence = Evidence(entries)
    violations: list[Violation] = []
    checked: Counter[str] = Counter()
    figures: dict[str, int | float] = {}
    admitted = Counter(dict.fromkeys(map(_admission, ADMITTED), 0) if admits_loss else {})
    for check in CHECKS:
        for invariant, subject, what, labels in check(evidence, rest, lease, checked):
            follows = invariant in ADMITTED and (invariant != "conservation" or what == LOST)
            if admits_loss and follows and evidence.may_have_lost(labels):
                admitted[_admission(invariant)] += 1
            else:
                violations.append(Violation(invariant, subject, what, evidence.history(*labels)))
    figures |= admitted
    violations += _recoveries(evidence, lease, checked, figures)
    runs = Counter(run.how for run in evidence.runs.values())
    figures |= {"jobs accepted": len(evidence.accepted), "runs of bodies": len(evidence.runs)}
    figures |= {f"runs that ended {how}": number for how, number in sorted(runs.items())}
    return Verdict(tuple(violations), dict(checked), figures)


def _admission(invariant: str) -> str:
    return f"admitted after a failover: {ADMITTED[invariant]}"


Found = Iterator[tuple[str, str, str, Sequence[str]]]


def _conservation(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    """accepted = succeeded + failed on purpose + dead-lettered, each as its body wrote down."""
    name = "conservation"
    letters = dict(rest.letters)
    ok = {run.key for run in evidence.runs.values() if run.how == "ok"}
    discarded = {run.label for run in evidence.runs.values() if run.how == "discard"}
    for label in sorted(evidence.accepted):
        checked[name] += 1
        order = evidence.orders[label]
        key = order["key"] if order["task"] == "keyed" else label
        if label in rest.queued:
            yield name, label, "it still waits, though nothing is left to wait for", [label]
        elif label in letters:
            continue  # judged with the attempts
        elif label not in rest.results:
            yield name, label, LOST, [label]
        elif rest.results[label]:
            if key not in ok:
                yield name, label, "its queue says that it succeeded, but no body did", [label]
        elif label not in discarded:
            yield name, label, "it failed and is no dead letter, though nobody discarded it", [label]


def _one_end(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    """At most one terminal record per job."""
    name = "one terminal record"
    for label, times in Counter(job for job, _ in rest.letters).items():
        checked[name] += 1
        if label not in evidence.accepted:
            yield name, label, "a dead letter of no job that was accepted", [label]
        if times > 1:
            yield name, label, f"{times} dead letters of one job", [label]
        if rest.results.get(label):
            yield name, label, "it is a dead letter, and its queue says that it succeeded", [label]
    checked[name] += len(rest.results)


def _overlaps(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    """No body is at work once another one for its key has begun.

    A holder ends its body by its own clock, before the server lets anybody else in. Only a process that
    stood still can have missed that, and it has to end the body as soon as it goes on. Within a lease from
    the first one's beginning, nobody else can be let in at all.
    """
    for key, runs in evidence.by_key.items():
        order = evidence.orders.get(runs[0].label)
        name = NO_OVERLAP_KEY if order is not None and order["task"] == "keyed" else NO_OVERLAP_LOCK
        for number, run in enumerate(runs):
            for later in runs[number + 1 :]:
                checked[name] += 1
                since = later.begin + (TOLERANCE if later.begin >= run.begin + lease else 0.0)
                late = [sign for sign in run.signs if sign > since]
                late = [sign for sign in late if not _just_woken(evidence, run.pid, sign)]
                if late and not _just_woken(evidence, later.pid, later.begin):
                    what = (
                        f"run {run.id} was at work {late[-1] - later.begin:.2f} s after {later.id} had begun"
                    )
                    yield name, key, what, [run.label, later.label]


def _just_woken(evidence: Evidence, pid: int, at: float) -> bool:
    return any(start <= at <= stop + TOLERANCE for start, stop in evidence.stops[pid])


def _fences(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    """Of two runs for one key, the later one has the higher fence."""
    name = "fences rise"
    for key, runs in evidence.by_key.items():
        for run, later in pairwise(runs):
            if run.fence is None or later.fence is None:
                continue
            checked[name] += 1
            if later.fence <= run.fence and not _just_woken(evidence, later.pid, later.begin):
                what = f"run {later.id} has fence {later.fence}, and {run.id} before it had {run.fence}"
                yield name, key, what, [run.label, later.label]


def _attempts(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    """Failures <= attempts, and whoever is dead has had all of them: nothing else uses one up."""
    name, letters = "attempts mean failures", dict(rest.letters)
    for label in sorted(evidence.accepted):
        checked[name] += 1
        runs = [run for run in evidence.by_label[label] if run.begin < evidence.mended]
        failures = [run for run in runs if run.how == "fail"]
        unseen = [run for run in failures if evidence.struck(run)]
        if len(failures) > ATTEMPTS + len(unseen):
            yield name, label, f"it failed {len(failures)} times, and was to be run {ATTEMPTS} times", [label]
        for run in runs:
            before = sum(1 for each in failures if each.end is not None and each.end <= run.begin)
            if run.told > before:
                what = f"run {run.id} was told of {run.told} failures, and there had been {before}"
                yield name, label, what, [label]
        reason, script = letters.get(label), evidence.orders[label]["script"]
        if reason == "crashes":
            cut = sum(1 for run in runs if run.how in ("cut", "cancelled") or evidence.struck(run))
            # A worker may also have died before the body began.
            picked = sum(1 for at, _ in evidence.picks[label] if at < evidence.mended)
            came_to_nothing = max(cut, picked - sum(1 for run in runs if run.how not in ("cut", "cancelled")))
            if came_to_nothing < MAX_CRASHES:
                what = f"dead for its crashes, but only {came_to_nothing} deliveries came to nothing"
                yield name, label, what, [label]
        elif reason == "exhausted":
            if len(failures) < ATTEMPTS:
                what = f"dead after {len(failures)} failures, and was to have {ATTEMPTS}"
                yield name, label, what, [label]
            elif script.get("fail", 0) < ATTEMPTS and not unseen:
                yield name, label, "dead, though it was to fail less often than it may", [label]
        elif reason is not None:
            yield name, label, f"dead for the reason {reason!r}, which nobody has given it", [label]


def _repeats(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    """Work is done again only where its worker or server was struck before it was recorded."""
    name = "no work is repeated without a fault"
    for key, runs in evidence.by_key.items():
        done = [run for run in runs if run.how == "ok" and run.begin < evidence.mended]
        checked[name] += sum(1 for run in done if not evidence.struck(run))
        for run, later in pairwise(done):
            if not evidence.struck(run, later.begin):
                what = f"run {later.id} did again what {run.id} had done, to which nothing had happened"
                yield name, key, what, [run.label, later.label]


def _survivors(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    """A supervised worker ends only when it is told to; any worker does then."""
    outlives, ends = "a supervised worker outlives Redis", "SIGTERM ends a worker"
    for pid, slot in evidence.slots.items():
        died, signals = evidence.deaths.get(pid, inf), evidence.signals[pid]
        if slot.startswith("supervised"):
            checked[outlives] += 1
            told = [at for at, name in signals if name in ("SIGKILL", "SIGTERM") and at <= died]
            if died < inf and not told:
                yield outlives, f"{slot} ({pid})", "it ended by itself", []
        terms = [at for at, name in signals if name == "SIGTERM"]
        if terms and not evidence.stops[pid]:
            checked[ends] += 1
            if died > terms[0] + ENDS_WITHIN:
                yield ends, f"{slot} ({pid})", f"not within {ENDS_WITHIN:g} s", []


def _replays(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    """Each dead letter that was requeued is run once, however often somebody asked for it."""
    if evidence.mended == inf:
        return
    name = "a dead letter replays once"
    for label in dict(rest.letters):
        checked[name] += 1
        runs = [run for run in evidence.by_label[label] if run.begin >= evidence.mended]
        if len(runs) != 1 or runs[0].how != "ok":
            yield name, label, f"it was run {len(runs)} times: {[run.how for run in runs]}", [label]


def _keys(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    name = "no key without an end or an owner"
    checked[name] += 1
    for key in rest.unowned:
        yield name, key, "it would stay for ever", []


def _recoveries(
    evidence: Evidence, lease: float, checked: Counter[str], figures: dict[str, Any]
) -> Iterator[Violation]:
    """A killed worker's job is run again within a lease and an interval, of whoever had it last."""
    name = "recovery within lease and interval"
    times: list[float] = []
    judged: list[float] = []
    for label, runs in evidence.by_label.items():
        for run, later in pairwise([run for run in runs if run.begin < evidence.mended]):
            death = evidence.deaths.get(run.pid, inf)
            if run.how != "cut" or death > later.begin:
                continue
            times.append(later.begin - death)
            freed = evidence.freed(run, later)
            if freed is None:
                continue
            took = later.begin - freed
            checked[name] += 1
            judged.append(took)
            if took > lease + INTERVAL:
                what = f"it was run again {took:.2f} s after the last worker that had it was struck"
                yield Violation(name, label, what, evidence.history(label))
    figures["recoveries from a worker's death"] = len(times)
    if times:
        figures["seconds of recovery: median"] = round(median(times), 2)
        figures["seconds of recovery: longest, whatever else happened"] = round(max(times), 2)
    if judged:
        figures["seconds of recovery: longest of those judged"] = round(max(judged), 2)


CHECKS = (
    _conservation,
    _one_end,
    _overlaps,
    _fences,
    _attempts,
    _repeats,
    _survivors,
    _replays,
    _keys,
)
