"""What the journals tell, sorted by what it is about: runs of bodies, and what befell their processes."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from chaos.journal import Entry

Span = tuple[float, float]

LAG = 1.0
"""Seconds of acknowledged writes that a failover to an asynchronous replica may cost on one machine."""


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
