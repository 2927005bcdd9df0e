"""The demo's accounts: what the queue and jobguard have recorded, against what the services saw.

Pure functions of the two sides; nothing here asks a server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum, auto
from typing import Any

from examples.demo.orders import DOWNLOAD, SEND


class Fate(StrEnum):
    """What became of a job."""

    SUCCEEDED = auto()
    FAILED = auto()
    DEAD_LETTERED = auto()
    DUPLICATE = auto()
    LOST = auto()


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a dead letter's job went when it was last put into its queue again.

    Attributes:
        job_id: ARQ's id of it then.
        ended: ARQ has a result.
        success: … and it is neither an exception nor says that the work was another job's.
        resolution: what the letter says of it, as in `DeadLetter`; "" = nothing (yet), or it failed again.
    """

    job_id: str
    ended: bool = False
    success: bool = False
    resolution: str = ""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the store shows it at the end.

    Attributes:
        job_id: ARQ's id.
        task: the task's name.
        subject: a message's id or a URL.
        ended: ARQ has a result.
        success: … and it is no exception.
        duplicate: … and it says that the work was another job's.
        result: the result of a success.
        owns_success: jobguard's record of the work is a success, and this job's or its replay's.
        letter: queue and error of its dead letter, if it is dead still; else None.
        replay: its dead letter was put into its queue again, and how that went; else None.
    """

    job_id: str
    task: str
    subject: str
    ended: bool = False
    success: bool = False
    duplicate: bool = False
    result: object = None
    owns_success: bool = False
    letter: str | None = None
    replay: Replayed | None = None

    @property
    def fate(self) -> Fate:
        if not self.ended:
            return Fate.LOST
        if self.duplicate:
            return Fate.DUPLICATE
        if self.success:
            return Fate.SUCCEEDED
        if self.letter is not None:
            return Fate.DEAD_LETTERED
        return Fate.FAILED if self.replay is None else _RESOLVED.get(self.replay.resolution, Fate.LOST)


_RESOLVED = {"succeeded": Fate.SUCCEEDED, "discarded": Fate.FAILED, "duplicate": Fate.DUPLICATE}
"""What became of a job whose letter was resolved; of one whose replay has no end, nobody knows."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the stand-ins wrote down, in order."""

    api: Sequence[Mapping[str, Any]]
    files: Sequence[Mapping[str, Any]]
    replies: Sequence[Mapping[str, Any]]

    def accepted(self) -> Counter[str]:
        """How often the API accepted each message."""
        return Counter(entry["id"] for entry in self.api if entry["what"] == "accepted")

    def served(self) -> dict[str, str]:
        """The sha256 of each file that was sent whole, by its path."""
        return {entry["id"]: entry["sha256"] for entry in self.files if entry["what"] == "served"}

    def lines(self) -> dict[str, dict[str, int]]:
        """Per service, how often what happened."""
        logs = {"WhatsApp API": self.api, "file host": self.files, "reply service": self.replies}
        return {
            name: dict(Counter(str(entry["what"]) for entry in log).most_common())
            for name, log in logs.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The numbers that `--json` prints: how it stands in the end, the replays of dead letters included."""

    accepted: int
    succeeded: int
    failed: int
    dead_lettered: int
    duplicates: int
    replayed: int
    resolved: int
    retries: int
    interruptions: int
    crashes: int
    lost: int
    delivered_twice: int
    repeated_after_crash: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """All that a demo found out.

    Attributes:
        in_flight: jobs that the worker was running when it was killed.
        replies: jobs that were enqueued by tasks, and not by the demo.
        contradictions: where two sources disagree; each is a sentence.
        causes: what is a dead letter in the end, by queue and error.
        seen: per stand-in, how often what happened.
    """

    account: Account
    in_flight: int
    replies: int = 0
    contradictions: tuple[str, ...] = ()
    causes: Mapping[str, int] = field(default_factory=dict[str, int])
    seen: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])

    @property
    def ordered(self) -> int:
        """Jobs that the demo has enqueued itself."""
        return self.account.accepted + self.account.duplicates - self.replies

    @property
    def holds(self) -> bool:
        """Nothing was lost, nothing was done twice but for the kill, and the books balance."""
        account = self.account
        return (
            account.lost == 0
            and account.delivered_twice == 0
            and account.repeated_after_crash <= self.in_flight
            and account.accepted == account.succeeded + account.failed + account.dead_lettered
            and not self.contradictions
        )

    def as_json(self) -> dict[str, int | float]:
        return asdict(self.account)


def draw_up(
    jobs: Collection[JobRecord],
    seen: Seen,
    events: Iterable[Mapping[str, Any]],
    in_flight: Collection[str],
    files: Mapping[str, str],
    seconds: float,
    complaints: Iterable[str] = (),
    replies: Collection[str] = (),
) -> Report:
    """Hold the two sides against each other.

    Args:
        jobs: every job that was enqueued, by the demo or by a task.
        seen: what the stand-ins wrote down.
        events: what the workers' hooks wrote down.
        in_flight: ids of the jobs that the worker was running when it was killed.
        files: sha256 of each downloaded file, by its name.
        seconds: how long it all took.
        complaints: what else went wrong; each is a sentence.
        replies: ids of the jobs that tasks enqueue.
    """
    fates = Counter(job.fate for job in jobs)
    undone = [job for job in jobs if job.fate is Fate.SUCCEEDED and not _is_done(job, seen, files)]
    twice, repeated = _repeats(jobs, seen, in_flight)
    counts = _count_events(events)
    return Report(
        account=Account(
            accepted=len(jobs) - fates[Fate.DUPLICATE],
            succeeded=fates[Fate.SUCCEEDED],
            failed=fates[Fate.FAILED],
            dead_lettered=fates[Fate.DEAD_LETTERED],
            duplicates=fates[Fate.DUPLICATE],
            replayed=sum(job.replay is not None for job in jobs),
            resolved=sum(job.replay is not None and job.replay.resolution != "" for job in jobs),
            retries=counts["RetryScheduled"],
            interruptions=counts["Interrupted"],
            crashes=counts["crashes"],
            lost=fates[Fate.LOST] + len(undone),
            delivered_twice=twice,
            repeated_after_crash=repeated,
            seconds=round(seconds, 1),
        ),
        in_flight=len(in_flight),
        replies=sum(job.job_id in replies for job in jobs),
        contradictions=(*complaints, *_contradictions(jobs, seen, in_flight)),
        causes=dict(Counter(job.letter for job in jobs if job.letter is not None).most_common()),
        seen=seen.lines(),
    )


def _is_done(job: JobRecord, seen: Seen, files: Mapping[str, str]) -> bool:
    """Whether a success shows outside of the store: the message is out, the file is whole."""
    if job.task == SEND:
        return seen.accepted()[job.subject] > 0
    if job.task == DOWNLOAD:
        served = [digest for path, digest in seen.served().items() if job.subject.endswith(path)]
        return len(served) == 1 and served[0] in files.values()
    return True


def _repeats(jobs: Iterable[JobRecord], seen: Seen, in_flight: Collection[str]) -> tuple[int, int]:
    """Messages that went out twice, and those of them that one kill explains.

    A job that was running when its worker was killed may have sent its message without anybody
    knowing: that explains one repeat of it, and no more. Being run again as a dead letter explains none.
    """
    sender = {job.subject: job.job_id for job in jobs if job.task == SEND}
    twice = repeated = 0
    for message, times in seen.accepted().items():
        explained = 1 if sender.get(message) in in_flight and times > 1 else 0
        repeated += explained
        twice += times - 1 - explained
    return twice, repeated


def _contradictions(jobs: Iterable[JobRecord], seen: Seen, in_flight: Collection[str]) -> Iterable[str]:
    """Where the queue, jobguard and the services say different things of a job."""
    accepted = seen.accepted()
    for job in jobs:
        if job.fate is Fate.SUCCEEDED and not job.owns_success:
            yield f"{job.job_id}: ARQ has a success of it, jobguard's records have not"
        if job.fate is not Fate.SUCCEEDED and job.owns_success:
            yield f"{job.job_id}: jobguard has a success of it, ARQ has not"
        if job.success and job.letter is not None:
            yield f"{job.job_id}: it succeeded and is a dead letter"
        replay = job.replay
        if job.success and replay is not None:
            yield f"{job.job_id}: it succeeded, and was run again"
        if replay is not None and replay.success is not (replay.resolution == "succeeded"):
            says, has = replay.resolution or "not resolved", "a" if replay.success else "no"
            yield f"{replay.job_id}: its letter is {says}, ARQ has {has} success of it"
        sent = job.task == SEND and accepted[job.subject] > 0
        if sent and job.fate in (Fate.FAILED, Fate.DEAD_LETTERED) and job.job_id not in in_flight:
            yield f"{job.job_id}: its message went out, and yet it failed"
    for message in accepted.keys() - {job.subject for job in jobs if job.task == SEND}:
        yield f"{message}: a message went out that no job was to send"


def _count_events(events: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Events of queued jobs by kind, and the crashes that workers found when they took jobs over.

    A guard inside a job tells of its own runs too; those are not deliveries and do not count here.
    """
    counts: Counter[str] = Counter()
    crashes: dict[str, int] = {}
    for event in events:
        if event["job"].startswith("local:"):
            continue
        counts[event["event"]] += 1
        if event["event"] == "TakenOver":
            crashes[event["key"]] = max(crashes.get(event["key"], 0), event["crashes"])
    counts["crashes"] = sum(crashes.values())
    return counts
