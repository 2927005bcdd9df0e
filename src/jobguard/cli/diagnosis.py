"""What facts about a server mean for jobs, and which guarantees hold on it. Pure: nothing is asked here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from jobguard.stores.inspection import Facts, KeyFacts, ServerFacts

OLDEST_REDIS = (6, 2)
"""The oldest Redis that the store works with."""
FULL = 0.9
"""Part of `maxmemory` from which on memory counts as scarce."""
STEP = 0.5
"""Seconds that a server's clock may move more or less than ours without being called stepped."""
OFFSET = 1.0
"""Seconds by which a server's clock may differ from this machine's without a warning."""
SERVERS_NAMED = 3
"""Servers of a Cluster that a finding names."""


class Status(StrEnum):
    """How a finding is, the best first."""

    OK = "ok"
    WARN = "warn"
    UNKNOWN = "unknown"
    FAIL = "fail"


class Holds(StrEnum):
    """Whether a guarantee holds, the best first; bounded = it does, but for a loss that has a bound."""

    YES = "yes"
    BOUNDED = "bounded"
    UNKNOWN = "unknown"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is like, what that means for jobs, and what to do (empty = nothing)."""

    name: str
    status: Status
    found: str
    meaning: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A promise of jobguard's, whether this server lets it be kept, why, and what to do about it."""

    promise: str
    holds: Holds
    because: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, and the guarantees that follow from them."""

    findings: tuple[Finding, ...]
    guarantees: tuple[Guarantee, ...]


class _Verdict(NamedTuple):
    holds: Holds
    because: str
    cure: str = ""


_GRANT_INFO = "let this user run INFO and TIME (ACL: +info +time), or look at the server as another user"
_GRANT_CONFIG = "let this user run CONFIG GET (ACL: +config|get), or ask whoever runs the server"
_GRANT_SCAN = "let this user run SCAN (ACL: +scan); in a Cluster, every primary must answer"
_APPEND = (
    "CONFIG SET appendonly yes, which loses nothing that is there, then `appendonly yes` and "
    "`appendfsync everysec` in the configuration file"
)
_FSYNC = "`appendfsync everysec` (a second at most is lost) or `always` (nothing)"
_PAUSES = "`no-appendfsync-on-rewrite no`"
_KEEP = "`maxmemory-policy noeviction`"
_REPLICAS = "`min-replicas-to-write 1` and a short `min-replicas-max-lag`"
_PRIMARY = "give --url the primary, or Sentinels that know it: redis+sentinel://host:26379/name/0"
_SLEW = "slew the server's clock (chrony, ntpd), do not step it"
_DISK = "mend what keeps the server from writing to its disk (space, rights); its log says what"

_RESTS_ON = "it rests on records being kept"


def diagnose(facts: Facts) -> Diagnosis:
    """Say what facts mean."""
    checks = (_server, _persistence, _memory, _replication, _clock)
    findings = [_worst_finding(facts.servers, check) for check in checks]
    writes = _worst(facts.servers, _accepts_writes)
    crash = _worst(facts.servers, _over_a_crash)
    failover = _worst(facts.servers, _over_a_failover)
    memory = _worst(facts.servers, _over_eviction)
    clock = _worst(facts.servers, _over_time)
    records = max((crash, failover, memory), key=_badness)
    once = max((clock, records), key=_badness)
    if once is records and once.holds is not Holds.YES:
        once = once._replace(because=f"{_RESTS_ON}, and {once.because}")
    promises = (
        ("Claims, outcomes and dead letters can be written", writes),
        ("No accepted job is lost over a crash of the server", crash),
        ("No accepted job is lost over a failover", failover),
        ("No job, record or dead letter is thrown away for want of memory", memory),
        ("No two runs of a key overlap, and an outcome is recorded once", once),
    )
    guarantees = tuple(Guarantee(promise, *verdict) for promise, verdict in promises)
    return Diagnosis((*findings, _keys(facts.keys)), guarantees)


# Findings


def _server(facts: ServerFacts) -> Finding:
    if facts.failure is not None:
        meaning = "Jobs whose keys are on this server wait until it is back."
        return Finding("server", Status.FAIL, facts.failure, meaning, "bring it back, or fail over")
    if facts.kind is None or facts.version is None:
        meaning = "Whether jobguard works with this server is not known."
        return Finding("server", Status.UNKNOWN, "INFO server says nothing", meaning, _GRANT_INFO)
    found = f"{facts.kind} {facts.version}, {facts.mode or 'mode unknown'}"
    if facts.mode == "sentinel":
        meaning = "This is a Sentinel, which knows where servers are and keeps no jobs."
        cure = "write it as redis+sentinel://host:26379/name/0"
        return Finding("server", Status.FAIL, found, meaning, cure)
    if facts.mode == "cluster" and not facts.address:
        meaning = "This is one node of a Cluster, and refuses keys that are on others."
        return Finding("server", Status.FAIL, found, meaning, "write it as redis+cluster://host:6379")
    if facts.kind == "Redis" and _version(facts.version) < OLDEST_REDIS:
        meaning = "This Redis is older than what jobguard is tested with."
        return Finding("server", Status.WARN, found, meaning, "Redis 6.2 or newer, or Valkey")
    return Finding("server", Status.OK, found, "jobguard works with this server.")


def _persistence(facts: ServerFacts) -> Finding:
    if facts.appends is None:
        meaning = "Whether a crash of the server loses jobs is not known."
        return Finding("persistence", Status.UNKNOWN, "INFO persistence says nothing", meaning, _GRANT_INFO)
    found = _persistence_found(facts)
    if facts.appends and _broken(facts.append_status):
        meaning = "The server cannot write its log, and refuses writes: no job can be claimed or recorded."
        return Finding("persistence", Status.FAIL, found, meaning, _DISK)
    if not facts.appends:
        since = "the last snapshot" if facts.save else "it started"
        since = "the last snapshot, or since it started," if facts.save is None else since
        meaning = f"A crash loses all that was written since {since}: jobs, claims and dead letters."
        return Finding("persistence", Status.FAIL, found, meaning, _APPEND)
    if facts.fsync == "no":
        meaning = "A crash of the machine loses what the kernel has not written yet: 30 seconds or more."
        return Finding("persistence", Status.FAIL, found, meaning, _FSYNC)
    if facts.fsync_pauses:
        meaning = (
            "While the server rewrites its log it flushes nothing; a crash of the machine then loses more."
        )
        return Finding("persistence", Status.WARN, found, meaning, _PAUSES)
    if _broken(facts.rewrite_status) or _broken(facts.snapshot_status):
        meaning = "The server could not save in the background: its log grows, or it refuses writes soon."
        return Finding("persistence", Status.WARN, found, meaning, _DISK)
    if facts.fsync is None:
        meaning = (
            "A crash of the server's process loses nothing; how much one of its machine does is not known."
        )
        return Finding("persistence", Status.UNKNOWN, found, meaning, _GRANT_CONFIG)
    lost = "nothing" if facts.fsync == "always" else "a second of work at most"
    return Finding("persistence", Status.OK, found, f"A crash of the server loses {lost}.")


def _persistence_found(facts: ServerFacts) -> str:
    parts = ["appendonly yes" if facts.appends else "appendonly no"]
    if facts.appends:
        parts.append(f"appendfsync {facts.fsync or 'unknown'}")
        if facts.fsync_pauses:
            parts.append("no-appendfsync-on-rewrite yes")
    if facts.save is None:
        parts.append("snapshots unknown")
    else:
        parts.append(f"snapshots {facts.save}" if facts.save else "no snapshots")
    if facts.save and facts.time is not None and facts.snapshot_time is not None:
        parts.append(f"the last {max(facts.time - facts.snapshot_time, 0):.0f} s ago or at the start")
    last = {
        "write to the log": facts.append_status,
        "rewrite of the log": facts.rewrite_status,
        "snapshot": facts.snapshot_status,
    }
    parts += [f"last {what}: {status}" for what, status in last.items() if status and _broken(status)]
    return ", ".join(parts)


def _memory(facts: ServerFacts) -> Finding:
    if facts.policy is None:
        meaning = "Whether a full server throws jobs away is not known."
        return Finding("memory", Status.UNKNOWN, "INFO memory says nothing", meaning, _GRANT_INFO)
    limit = "unknown" if facts.memory_limit is None else _bytes(facts.memory_limit)
    found = f"maxmemory-policy {facts.policy}, maxmemory {limit}"
    if facts.memory_used is not None:
        found += f", {_bytes(facts.memory_used)} used"
    if facts.evicted:
        found += f", {facts.evicted} keys evicted since it started"
    if facts.policy != "noeviction":
        if facts.memory_limit == 0 and not facts.evicted:
            meaning = "Nothing is thrown away, as memory has no limit; with one, records would be."
            return Finding("memory", Status.WARN, found, meaning, _KEEP)
        meaning = "A full server throws away claims, jobs and results: lost jobs, and work done twice."
        return Finding("memory", Status.FAIL, found, meaning, _KEEP)
    if facts.evicted:
        meaning = "Nothing is thrown away now, but keys were, under an earlier policy."
        cure = "look for jobs that were lost; the count starts anew with the server, or by CONFIG RESETSTAT"
        return Finding("memory", Status.WARN, found, meaning, cure)
    if facts.memory_limit and facts.memory_used and facts.memory_used > FULL * facts.memory_limit:
        meaning = "Memory is nearly used up: then the server refuses writes, and jobs wait."
        return Finding("memory", Status.WARN, found, meaning, "more `maxmemory`, or fewer keys")
    return Finding("memory", Status.OK, found, "A full server refuses writes, which jobguard reports.")


def _replication(facts: ServerFacts) -> Finding:
    if facts.role is None:
        meaning = "Whether this is a primary, and what a failover loses, is not known."
        return Finding("replication", Status.UNKNOWN, "INFO replication says nothing", meaning, _GRANT_INFO)
    if facts.role != "master":
        found = "role replica" if facts.role == "slave" else f"role {facts.role}"
        meaning = "A replica is not to be written to: it refuses, or forgets when it next synchronises."
        return Finding("replication", Status.FAIL, found, meaning, _PRIMARY)
    needed = "unknown" if facts.replicas_needed is None else str(facts.replicas_needed)
    found = f"role primary, {_counted(facts.replicas)}, min-replicas-to-write {needed}"
    if facts.replica_lag is not None and facts.replicas_needed:
        found += f", min-replicas-max-lag {facts.replica_lag}"
    if facts.replicas_needed and facts.replicas is not None and facts.replicas < facts.replicas_needed:
        meaning = "Too few replicas are connected: the server refuses writes, and jobs wait."
        return Finding("replication", Status.FAIL, found, meaning, "bring the replicas back")
    if facts.replicas and facts.replicas_needed == 0:
        meaning = "Writes are acknowledged before a replica has them, however far behind the replicas are."
        return Finding("replication", Status.WARN, found, meaning, _REPLICAS)
    if facts.replicas and facts.replicas_needed is None:
        meaning = "How far behind replicas may be is not known."
        return Finding("replication", Status.UNKNOWN, found, meaning, _GRANT_CONFIG)
    if facts.replicas:
        return Finding("replication", Status.OK, found, "A failover loses no more than the replicas' lag.")
    return Finding(
        "replication", Status.OK, found, "Nothing can fail over: this server's disk is the only copy."
    )


def _clock(facts: ServerFacts) -> Finding:
    if facts.offset is None or facts.step is None:
        meaning = "Whether the server's clock goes forward evenly, as leases need, is not known."
        return Finding("clock", Status.UNKNOWN, "TIME says nothing", meaning, _GRANT_INFO)
    ahead = "ahead of" if facts.offset > 0 else "behind"
    apart = abs(facts.offset)
    found = f"{apart:.1f} s {ahead} this machine" if apart >= OFFSET else "less than 1 s off this machine's"
    if facts.went_back or abs(facts.step) > STEP:
        found += f", stepped by {facts.step:+.3f} s while it was looked at"
        meaning = (
            "Leases go by this clock. Stepping forward ends them early; stepping back makes them last longer."
        )
        return Finding("clock", Status.FAIL, found, meaning, _SLEW)
    if apart - facts.offset_error > OFFSET:
        meaning = (
            "Leases do not mind; a queue that goes by its workers' clocks, as ARQ does, is early or late."
        )
        return Finding("clock", Status.WARN, found, meaning, "keep NTP on all machines")
    return Finding("clock", Status.OK, found, "It went forward evenly while it was looked at.")


def _keys(facts: KeyFacts | None) -> Finding:
    if facts is None:
        meaning = "Whether keys are left over is not known."
        return Finding("keys", Status.UNKNOWN, "they could not be listed", meaning, _GRANT_SCAN)
    found = f"{facts.looked_at} looked at" + ("" if facts.complete else ", not all that there are")
    if facts.unread:
        found += f", {facts.unread} could not be asked after"
    if facts.unowned:
        more = facts.unowned - len(facts.names)
        found += f", {facts.unowned} without an end or an owner: {', '.join(facts.names)}"
        found += f" and {more} more" if more else ""
        meaning = (
            "jobguard writes no such keys: something else does, or has removed their end. They stay for ever."
        )
        cure = "find out who writes them, and remove them or give jobguard a namespace of its own"
        return Finding("keys", Status.WARN, found, meaning, cure)
    if facts.unread:
        meaning = "Whether these keys are left over is not known."
        cure = "let this user run PTTL and SMEMBERS on the namespace's keys"
        return Finding("keys", Status.UNKNOWN, found, meaning, cure)
    return Finding("keys", Status.OK, found, "Each has a time to live, or an index that owns it.")


# Guarantees


def _accepts_writes(facts: ServerFacts) -> _Verdict:
    if facts.failure is not None:
        return _Verdict(Holds.NO, "the server does not answer", "bring it back, or fail over")
    for finding in (_server(facts), _replication(facts)):
        if finding.status is Status.FAIL:
            return _Verdict(Holds.NO, finding.found, finding.cure)
    if facts.appends and _broken(facts.append_status):
        return _Verdict(Holds.NO, "the server cannot write its log", _DISK)
    if facts.role is None:
        return _Verdict(Holds.UNKNOWN, "the server's role is not known", _GRANT_INFO)
    return _Verdict(Holds.YES, "this is a primary that answers")


def _over_a_crash(facts: ServerFacts) -> _Verdict:
    if facts.appends is None:
        return _Verdict(Holds.UNKNOWN, "INFO persistence says nothing", _GRANT_INFO)
    if not facts.appends:
        return _Verdict(Holds.NO, "appendonly is no", _APPEND)
    if facts.fsync is None:
        because = "appendonly is yes, but appendfsync is not known"
        return _Verdict(Holds.UNKNOWN, because, _GRANT_CONFIG)
    if facts.fsync == "no":
        return _Verdict(Holds.NO, "appendfsync is no", _FSYNC)
    if facts.fsync_pauses:
        because = "no-appendfsync-on-rewrite is yes: during a rewrite, the kernel decides what is lost"
        return _Verdict(Holds.BOUNDED, because, _PAUSES)
    if facts.fsync == "everysec":
        because = "appendfsync is everysec: the last second is lost if the machine crashes"
        return _Verdict(Holds.BOUNDED, because, "`appendfsync always`, if a second matters")
    return _Verdict(Holds.YES, f"appendonly is yes, and appendfsync {facts.fsync}")


def _over_a_failover(facts: ServerFacts) -> _Verdict:
    if facts.role is None or facts.replicas is None:
        return _Verdict(Holds.UNKNOWN, "INFO replication says nothing", _GRANT_INFO)
    if facts.role != "master":
        return _Verdict(Holds.UNKNOWN, "only a primary knows", _PRIMARY)
    if not facts.replicas:
        return _Verdict(Holds.YES, "there is no replica that could take over")
    if facts.replicas_needed is None:
        return _Verdict(Holds.UNKNOWN, "min-replicas-to-write is not known", _GRANT_CONFIG)
    if not facts.replicas_needed:
        because = "min-replicas-to-write is 0: a replica that takes over may be behind by any time"
        return _Verdict(Holds.NO, because, _REPLICAS)
    lag = "min-replicas-max-lag" if facts.replica_lag is None else f"{facts.replica_lag} s"
    return _Verdict(Holds.BOUNDED, f"replication is asynchronous: the last {lag} may be lost", "")


def _over_eviction(facts: ServerFacts) -> _Verdict:
    if facts.policy is None:
        return _Verdict(Holds.UNKNOWN, "INFO memory says nothing", _GRANT_INFO)
    if facts.policy == "noeviction":
        return _Verdict(Holds.YES, "maxmemory-policy is noeviction")
    if facts.memory_limit == 0 and not facts.evicted:
        return _Verdict(Holds.YES, "memory has no limit", _KEEP)
    return _Verdict(Holds.NO, f"maxmemory-policy is {facts.policy}", _KEEP)


def _over_time(facts: ServerFacts) -> _Verdict:
    clock = _clock(facts)
    if clock.status is Status.FAIL:
        return _Verdict(Holds.NO, "the server's clock stepped", clock.cure)
    if clock.status is Status.UNKNOWN:
        return _Verdict(Holds.UNKNOWN, "the server's clock cannot be read", clock.cure)
    return _Verdict(Holds.YES, "records are kept, and the server's clock goes forward")


# Several servers


def _worst_finding(servers: Sequence[ServerFacts], check: Callable[[ServerFacts], Finding]) -> Finding:
    """What the worst servers have in common; found says which they are where there are several."""
    order = list(Status)
    each = [(facts.address, check(facts)) for facts in servers]
    worst = max((finding for _, finding in each), key=lambda finding: order.index(finding.status))
    if len(each) == 1:
        return worst
    alike = [(address, finding.found) for address, finding in each if finding.status is worst.status]
    found = "; ".join(f"{address}: {what}" for address, what in alike[:SERVERS_NAMED])
    more = len(alike) - SERVERS_NAMED
    return replace(worst, found=f"{found}; and {more} more servers" if more > 0 else found)


def _worst(servers: Iterable[ServerFacts], check: Callable[[ServerFacts], _Verdict]) -> _Verdict:
    return max((_placed(facts.address, check(facts)) for facts in servers), key=_badness)


def _placed(address: str, verdict: _Verdict) -> _Verdict:
    if not address or verdict.holds is Holds.YES:
        return verdict
    return verdict._replace(because=f"on {address}, {verdict.because}")


def _badness(verdict: _Verdict) -> int:
    return list(Holds).index(verdict.holds)


# Words


def _broken(status: str | None) -> bool:
    return status is not None and status != "ok"


def _counted(replicas: int | None) -> str:
    if replicas is None:
        return "replicas unknown"
    return f"{replicas} replica" if replicas == 1 else f"{replicas} replicas"


def _bytes(number: int) -> str:
    if number == 0:
        return "without limit"
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"


def _version(text: str) -> tuple[int, ...]:
    """Its first two numbers; what is none is 0."""
    numbers = (*text.split("."), "0")[:2]
    return tuple(int(number) if number.isdecimal() else 0 for number in numbers)
