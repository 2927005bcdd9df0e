"""The judge: from the journals and what is left on the server to the promises that were broken.

Nothing here asks jobguard. Whether a body ran, overlapped or came back in time is read from what
bodies wrote; who was killed, stopped or cut off, from what those wrote who did it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from statistics import median
from typing import Any

from chaos.journal import Entry
from chaos.orders import ATTEMPTS, MAX_CRASHES
from chaos.report import Violation

Span = tuple[float, float]

TOLERANCE = 0.25
"""Seconds that a process may lag on a busy machine between its clock and what it writes."""
LAG = 1.0
"""Seconds of acknowledged writes that a failover to an asynchronous replica may cost on one machine."""
NO_OVERLAP_KEY, NO_OVERLAP_LOCK = "no overlap (lease on the key)", "no overlap (the queue's lock)"
ADMITTED = {
    "conservation": "jobs lost",
    NO_OVERLAP_KEY: "overlaps",
    NO_OVERLAP_LOCK: "overlaps",
    "no work is repeated without a fault": "repeated work",
}
"""What the loss of the last writes can break, and what that is called."""
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


@dataclass(slots=True)
class Run:
    """One run of a body, as far as it wrote of itself.

    Attributes:
        id: random.
        label: of its job.
        key: what two jobs have in common that are the same work; of a task without a key, the label.
        pid: its process.
        fence: what it was told; None without a claim.
        begin: when.
        signs: when it was known to be at work.
        end: when it ended, or None if it never did.
        how: how it ended: ok, fail, cancelled, snooze, discard; or "cut".
    """

    id: str
    label: str
    key: str
    pid: int
    fence: int | None
    begin: float
    signs: list[float] = field(default_factory=list[float])
    end: float | None = None
    how: str = "cut"

    @property
    def last(self) -> float:
        """When it was seen at work last."""
        return max(self.begin, self.signs[-1] if self.signs else 0.0)


class Evidence:
    """The journals, sorted by what they are about."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.orders: dict[str, Entry] = {}
        self.accepted: set[str] = set()
        self.runs: dict[str, Run] = {}
        self.deaths: dict[int, float] = {}
        self.stops: dict[int, list[Span]] = defaultdict(list)
        self.slots: dict[int, str] = {}
        self.net: dict[str, list[Span]] = defaultdict(list)
        self.outages: list[Span] = []
        self.faults: list[float] = []
        self.died: list[float] = []
        self.picks: dict[str, list[float]] = defaultdict(list)
        self.mended = inf
        for entry in entries:
            read = getattr(self, f"_read_{entry['what']}", None)
            if read is not None:
                read(entry)
        self.faults.sort()
        self.by_key: dict[str, list[Run]] = defaultdict(list)
        self.by_label: dict[str, list[Run]] = defaultdict(list)
        for run in sorted(self.runs.values(), key=lambda run: run.begin):
            self.by_key[run.key].append(run)
            self.by_label[run.label].append(run)

    def _read_order(self, entry: Entry) -> None:
        self.orders[entry["label"]] = entry

    def _read_accepted(self, entry: Entry) -> None:
        self.accepted.add(entry["label"])

    def _read_begin(self, entry: Entry) -> None:
        order = self.orders.get(entry["label"])
        key = entry["key"] if order is not None and order["task"] == "keyed" else entry["label"]
        self.runs[entry["run"]] = Run(
            entry["run"], entry["label"], key, entry["pid"], entry["fence"], entry["at"]
        )

    def _read_step(self, entry: Entry) -> None:
        self.runs[entry["run"]].signs.append(entry["at"])

    def _read_end(self, entry: Entry) -> None:
        run = self.runs[entry["run"]]
        run.end, run.how = entry["at"], entry["how"]
        if entry["how"] != "cancelled":  # the end of a cancelled body is no work
            run.signs.append(entry["at"])

    def _read_picked(self, entry: Entry) -> None:
        self.picks[entry["label"]].append(entry["at"])

    def _read_born(self, entry: Entry) -> None:
        self.slots[entry["pid"]] = entry["name"]

    def _read_died(self, entry: Entry) -> None:
        self.deaths[entry["pid"]] = entry["at"]
        self.died.append(entry["at"])

    def _read_signal(self, entry: Entry) -> None:
        if entry["name"] == "SIGSTOP":
            self.stops[entry["pid"]].append((entry["at"], inf))
            self.faults.append(entry["at"])
        elif entry["name"] == "SIGCONT" and self.stops[entry["pid"]]:
            self.stops[entry["pid"]][-1] = (self.stops[entry["pid"]][-1][0], entry["at"])
            self.faults.append(entry["at"])

    def _read_net(self, entry: Entry) -> None:
        self.net[entry["slot"]].append((entry["began"], entry["at"]))
        self.faults += [entry["began"], entry["at"]]

    def _read_outage(self, entry: Entry) -> None:
        self.outages.append((entry["began"], entry["at"]))
        self.faults += [entry["began"], entry["at"]]

    def _read_mended(self, entry: Entry) -> None:
        self.mended = entry["at"]

    def disturbed(self, run: Run, after: float) -> bool:
        """Whether anything befell the run's process or server, from so long before to so long after it."""
        begin, end = run.begin - after, (run.last if run.end is None else run.end) + after
        spans = [*self.stops[run.pid], *self.net[self.slots.get(run.pid, "")], *self.outages]
        death = self.deaths.get(run.pid, inf)
        return begin <= death <= end or any(start <= end and stop >= begin for start, stop in spans)

    def may_have_lost(self, labels: Sequence[str]) -> bool:
        """Whether a server failed just after one of the jobs was enqueued, or something of it recorded."""
        times = [entry["at"] for entry in self.entries if entry.get("label") in labels]
        times += [run.last for label in labels for run in self.by_label[label]]
        return any(start - LAG <= at <= stop for start, stop in self.outages for at in times)

    def deaths_between(self, start: float, end: float) -> int:
        """How many workers died in a span of time."""
        return _between(self.died, start, end)

    def others_between(self, start: float, end: float) -> int:
        """How many faults of other kinds there were, and of those how many ends."""
        return _between(self.faults, start, end)

    def history(self, *labels: str) -> tuple[str, ...]:
        """All that is known of jobs and of the processes that ran them, a line each."""
        runs = [run for label in labels for run in self.by_label[label]]
        ids, pids = {run.id for run in runs}, {run.pid for run in runs}
        slots = {self.slots.get(pid) for pid in pids}
        start = self.entries[0]["at"] if self.entries else 0.0
        keep: list[str] = []
        first = min((run.begin for run in runs), default=0.0) - 10
        last = max((run.last for run in runs), default=0.0) + 10
        for entry in self.entries:
            about_job = entry.get("label") in labels or entry.get("run") in ids
            about_place = entry.get("pid") in pids or entry.get("slot") in slots or entry["what"] == "outage"
            if about_job or (
                about_place and "run" not in entry and "label" not in entry and first <= entry["at"] <= last
            ):
                values = " ".join(f"{k}={v}" for k, v in entry.items() if k not in ("at", "what"))
                keep.append(f"{entry['at'] - start:9.3f} s  {entry['what']:9} {values}")
        return tuple(keep)


def _between(times: Sequence[float], start: float, end: float) -> int:
    return bisect_right(times, end) - bisect_right(times, start)


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
    admitted: Counter[str] = Counter()
    for check in (_conservation, _one_end, _overlaps, _fences, _attempts, _repeats, _replays, _keys):
        for invariant, subject, what, labels in check(evidence, rest, lease, checked):
            if admits_loss and invariant in ADMITTED and evidence.may_have_lost(labels):
                admitted[f"admitted after a failover: {ADMITTED[invariant]}"] += 1
            else:
                violations.append(Violation(invariant, subject, what, evidence.history(*labels)))
    figures |= admitted
    violations += _recoveries(evidence, lease, checked, figures)
    runs = Counter(run.how for run in evidence.runs.values())
    figures |= {"jobs accepted": len(evidence.accepted), "runs of bodies": len(evidence.runs)}
    figures |= {f"runs that ended {how}": number for how, number in sorted(runs.items())}
    return Verdict(tuple(violations), dict(checked), figures)


Found = Iterator[tuple[str, str, str, Sequence[str]]]


def _conservation(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    """accepted = succeeded + failed on purpose + dead-lettered, each as its body wrote down."""
    name = "conservation"
    letters = dict(rest.letters)
    ok = {run.key for run in evidence.runs.values() if run.how == "ok"}
    for label in sorted(evidence.accepted):
        checked[name] += 1
        order = evidence.orders[label]
        key = order["key"] if order["task"] == "keyed" else label
        if label in rest.queued:
            yield name, label, "it still waits, though nothing is left to wait for", [label]
        elif label in letters:
            continue  # judged with the attempts
        elif label not in rest.results:
            yield name, label, "it was accepted, and nothing is known of it any more", [label]
        elif rest.results[label]:
            if key not in ok:
                yield name, label, "its queue says that it succeeded, but no body did", [label]
        elif not order["script"].get("discard"):
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
    stood still can have missed that, and it has to end the body as soon as it goes on.
    """
    for key, runs in evidence.by_key.items():
        name = (
            "no overlap (lease on the key)" if runs[0].fence is not None else "no overlap (the queue's lock)"
        )
        for number, run in enumerate(runs):
            for later in runs[number + 1 :]:
                checked[name] += 1
                late = [sign for sign in run.signs if sign > later.begin + TOLERANCE]
                late = [sign for sign in late if not _just_woken(evidence, run.pid, sign)]
                if late:
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
        unseen = [run for run in failures if evidence.disturbed(run, lease)]
        if len(failures) > ATTEMPTS + len(unseen):
            yield name, label, f"it failed {len(failures)} times, and was to be run {ATTEMPTS} times", [label]
        reason = letters.get(label)
        if reason == "crashes":
            cut = [run for run in runs if run.how in ("cut", "cancelled") or evidence.disturbed(run, lease)]
            if len(cut) < MAX_CRASHES:
                yield name, label, f"dead for its crashes, but only {len(cut)} runs were cut off", [label]
        elif reason == "exhausted":
            if len(failures) < ATTEMPTS:
                what = f"dead after {len(failures)} failures, and was to have {ATTEMPTS}"
                yield name, label, what, [label]
        elif reason is not None:
            yield name, label, f"dead for the reason {reason!r}, which nobody has given it", [label]


def _repeats(evidence: Evidence, rest: Rest, lease: float, checked: Counter[str]) -> Found:
    """Work is done again only where its worker or server was struck before it was recorded."""
    name = "no work is repeated without a fault"
    for key, runs in evidence.by_key.items():
        checked[name] += 1
        done = [run for run in runs if run.how == "ok" and run.begin < evidence.mended]
        struck = [run for run in done if evidence.disturbed(run, lease)]
        if len(done) > 1 + len(struck):
            labels = list(dict.fromkeys(run.label for run in done))
            yield name, key, f"done {len(done)} times, of which {len(struck)} were struck", labels


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
    """A killed worker's job is run again within a lease and an interval.

    Where only other workers have died meanwhile, it has to be delivered again in that time: to whoever was
    killed next, perhaps. With other faults at the same moment nothing is said about it.
    """
    name = "recovery within lease and interval"
    times: list[float] = []
    for label, runs in evidence.by_label.items():
        for run, later in pairwise([run for run in runs if run.begin < evidence.mended]):
            death = evidence.deaths.get(run.pid, inf)
            if run.how != "cut" or death > later.begin:
                continue
            times.append(later.begin - death)
            if evidence.others_between(death - lease, later.begin) > 0:
                continue
            back = later.begin
            if evidence.deaths_between(death, later.begin) > 0:
                back = next(at for at in evidence.picks[label] if at > death)
            checked[name] += 1
            if back - death > lease + INTERVAL:
                what = f"it came back {back - death:.2f} s after its worker's death"
                yield Violation(name, label, what, evidence.history(label))
    figures["recoveries from a worker's death"] = len(times)
    if times:
        figures["recovery: median s"] = round(median(times), 2)
        figures["recovery: max s, whatever else happened"] = round(max(times), 2)
