"""What the journals tell, sorted by what it is about: runs of bodies, and what befell their processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from chaos.journal import Entry

Span = tuple[float, float]

RECORDED = 0.5
"""Seconds from the end of a body in which its outcome has been recorded, on a busy machine."""
LAG = 1.0
"""Seconds of acknowledged writes that a failover to an asynchronous replica may cost on one machine."""


@dataclass(slots=True)
class Run:
    """One run of a body, as far as it wrote of itself.

    Attributes:
        id: random.
        label: of its job.
        key: what two jobs have in common that are the same work; of a task without a key, the label.
        pid: its process: not the system's number, which is used again, but that of its birth.
        told: how often the job had failed before, as the body was told.
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
    told: int = 0
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
        self.askers: dict[str, list[str]] = defaultdict(list)
        self.accepted: set[str] = set()
        self.runs: dict[str, Run] = {}
        self.deaths: dict[int, float] = {}
        self.stops: dict[int, list[Span]] = defaultdict(list)
        self.slots: dict[int, str] = {}
        self.hangs: dict[str, list[Span]] = defaultdict(list)
        self.outages: list[Span] = []
        self.cuts: dict[str, list[float]] = defaultdict(list)
        self.taken: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self.picks: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self.signals: dict[int, list[tuple[float, str]]] = defaultdict(list)
        self.mended = inf
        readers: dict[str, Callable[[Entry], None]] = {
            "order": self._read_order,
            "accepted": self._read_accepted,
            "taken": self._read_taken,
            "picked": self._read_picked,
            "begin": self._read_begin,
            "step": self._read_step,
            "end": self._read_end,
            "born": self._read_born,
            "died": self._read_died,
            "signal": self._read_signal,
            "net": self._read_net,
            "outage": self._read_outage,
            "mended": self._read_mended,
            "ready": lambda entry: None,
        }
        for entry in entries:
            readers[entry["what"]](entry)
        self.by_key: dict[str, list[Run]] = defaultdict(list)
        self.by_label: dict[str, list[Run]] = defaultdict(list)
        for run in sorted(self.runs.values(), key=lambda run: run.begin):
            self.by_key[run.key].append(run)
            self.by_label[run.label].append(run)

    def _read_order(self, entry: Entry) -> None:
        self.orders[entry["label"]] = entry
        if entry["task"] == "keyed":
            self.askers[entry["key"]].append(entry["label"])

    def _read_accepted(self, entry: Entry) -> None:
        self.accepted.add(entry["label"])

    def _read_begin(self, entry: Entry) -> None:
        order = self.orders.get(entry["label"])
        key = entry["key"] if order is not None and order["task"] == "keyed" else entry["label"]
        self.runs[entry["run"]] = Run(
            entry["run"], entry["label"], key, entry["pid"], entry["fence"], entry["at"], entry["failures"]
        )

    def _read_step(self, entry: Entry) -> None:
        self.runs[entry["run"]].signs.append(entry["at"])

    def _read_end(self, entry: Entry) -> None:
        run = self.runs[entry["run"]]
        run.end, run.how = entry["at"], entry["how"]
        if entry["how"] != "cancelled":  # the end of a cancelled body is no work
            run.signs.append(entry["at"])

    def _read_taken(self, entry: Entry) -> None:
        self.taken[entry["label"]].append((entry["at"], entry["pid"]))

    def _read_picked(self, entry: Entry) -> None:
        self.picks[entry["label"]].append((entry["at"], entry["pid"]))

    def _read_born(self, entry: Entry) -> None:
        self.slots[entry["pid"]] = entry["name"]

    def _read_died(self, entry: Entry) -> None:
        self.deaths[entry["pid"]] = entry["at"]

    def _read_signal(self, entry: Entry) -> None:
        stops = self.stops[entry["pid"]]
        self.signals[entry["pid"]].append((entry["at"], entry["name"]))
        if entry["name"] == "SIGSTOP":
            stops.append((entry["at"], inf))
        elif entry["name"] == "SIGCONT" and stops:
            stops[-1] = (stops[-1][0], entry["at"])

    def _read_net(self, entry: Entry) -> None:
        if entry["kind"] == "half-open":
            self.hangs[entry["slot"]].append((entry["began"], entry["at"]))
        elif entry["kind"] in ("cut", "reply lost"):
            self.cuts[entry["slot"]].append(entry["at"])

    def _read_outage(self, entry: Entry) -> None:
        self.outages.append((entry["began"], entry["at"]))

    def _read_mended(self, entry: Entry) -> None:
        self.mended = entry["at"]

    def struck(self, run: Run, until: float = inf) -> bool:
        """Whether what the run came to may not have been recorded.

        That is, its process died, stood still or was cut off without a word, or its server failed, before it
        can have been recorded, and before `until`. Late bytes, a connection that is reset, and a reply that
        is lost are no excuse.
        """
        begin, end = run.begin, min((run.last if run.end is None else run.end) + RECORDED, until)
        spans = [*self.stops[run.pid], *self.hangs[self.slots.get(run.pid, "")], *self.outages]
        died = begin <= self.deaths.get(run.pid, inf) <= end
        return died or any(start <= end and stop >= begin for start, stop in spans)

    def freed(self, run: Run, later: Run) -> float | None:
        """When the last of those let go that kept a killed worker's job from its next run; None = unsaid.

        That is its worker's death, unless another worker took the job up meanwhile, or another job had its
        key, and came to grief or to an end in its turn. Whoever asks for a job may get it without hearing of
        it. Where processes stand still, connections hang or the server is away, nothing is said.
        """
        start, end = self.deaths[run.pid], later.begin
        everywhere = [span for spans in (*self.stops.values(), *self.hangs.values()) for span in spans]
        if any(first <= end and last >= start for first, last in (*everywhere, *self.outages)):
            return None
        rivals = self.by_key[run.key]
        takers = [taker for each in {run.label, *self.askers[run.key]} for taker in self.taken[each]]
        griefs = [
            grief
            for at, pid in takers
            if start < at <= end
            for grief in (self.deaths.get(pid, inf), *self.cuts[self.slots.get(pid, "")])
            if at <= grief <= end
        ]
        others = [each for each in rivals if each.label != run.label and start < each.begin <= end]
        ends = [each.last if each.end is None else each.end for each in others]
        return max([start, *griefs, *(each for each in ends if each <= end)])

    def may_have_lost(self, labels: Sequence[str]) -> bool:
        """Whether a server failed just after one of the jobs was enqueued, or something of it recorded."""
        times = [entry["at"] for entry in self.entries if entry.get("label") in labels]
        times += [run.last for label in labels for run in self.by_label[label]]
        return any(start - LAG <= at <= stop for start, stop in self.outages for at in times)

    def history(self, *labels: str) -> tuple[str, ...]:
        """All that is known of jobs and of the processes that ran them, a line each."""
        runs = [run for label in labels for run in self.by_label[label]]
        ids, pids = {run.id for run in runs}, {run.pid for run in runs}
        slots = {self.slots.get(pid) for pid in pids}
        start = self.entries[0]["at"] if self.entries else 0.0
        keep: list[str] = []
        own = [entry["at"] for entry in self.entries if entry.get("label") in labels]
        own += [run.last for run in runs]
        first, last = min(own, default=0.0) - 10, max(own, default=0.0) + 10
        for entry in self.entries:
            about_job = entry.get("label") in labels or entry.get("run") in ids
            about_place = entry.get("pid") in pids or entry.get("slot") in slots or entry["what"] == "outage"
            if about_job or (
                about_place and "run" not in entry and "label" not in entry and first <= entry["at"] <= last
            ):
                values = " ".join(f"{k}={v}" for k, v in entry.items() if k not in ("at", "what"))
                keep.append(f"{entry['at'] - start:9.3f} s  {entry['what']:9} {values}")
        return tuple(keep)
