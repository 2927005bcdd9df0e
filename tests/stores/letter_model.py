"""What a queue of dead letters should hold and answer, in a few lines: stores are compared with it."""

from __future__ import annotations

from collections import Counter

from jobguard.stores.letters import Dimension, Entry, Kept, LetterQuery, LetterState, Tally

STEM = "{machine:dlq:q}:"


class Model:
    """What a queue should hold."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.keys: dict[str, str] = {}
        self.last = -1
        self.evicted = 0
        self.told = 0
        self.teller = ""

    def write(self, entry: Entry) -> None:
        self.told = min(self.told, self.dead)
        self.drop(entry.id)
        self.entries[entry.id] = entry
        self.last = max(self.last, entry.arrival)
        if entry.key:
            self.keys[entry.key] = entry.id

    def drop(self, id: str) -> None:
        self.entries.pop(id, None)
        self.keys = {key: holder for key, holder in self.keys.items() if holder != id}

    @property
    def dead(self) -> int:
        return len(self.meeting(LetterQuery()))

    def kept(self, id: str, new: bool, alert_over: int | None) -> Kept:
        """What is told of an entry that has just been written, maybe once more."""
        entry, dead, grew = self.entries[id], self.dead, False
        if entry.state is LetterState.DEAD and alert_over is not None and alert_over < dead:
            write = f"{entry.revision} {id}"
            if self.told <= alert_over:
                self.told, self.teller = dead, write
            grew = self.teller == write
        same = self.meeting(LetterQuery(LetterState.DEAD, fingerprint=entry.fingerprint))
        return Kept(new, dead, entry.state is LetterState.DEAD and len(same) == 1, grew)

    def meeting(self, query: LetterQuery) -> list[Entry]:
        """Oldest first."""
        found = [entry for entry in self.entries.values() if query.meets(entry)]
        return sorted(found, key=lambda entry: entry.arrival)

    def tallies(self, dimension: Dimension, state: LetterState, since: int | None) -> list[Tally]:
        """In no order that the store must keep."""
        found: list[Tally] = []
        for value in {getattr(entry, dimension) for entry in self.entries.values()}:
            group = self.meeting(LetterQuery(**{"state": state, dimension: value}))
            counted = [entry for entry in group if since is None or entry.arrival >= since]
            if counted:
                tasks = sorted({entry.task for entry in group})
                more = (tuple(tasks), counted[-1]) if dimension is Dimension.FINGERPRINT else ()
                found.append(Tally(value, len(counted), counted[0].arrival, counted[-1].arrival, *more))
        return found

    def keys_of_redis(self) -> dict[str, object]:
        """Every key of the queue on a server, with what it holds."""
        indexes: dict[str, dict[str, float]] = {}

        def index(name: str, member: str, score: float) -> None:
            indexes.setdefault(name, {})[member] = score

        counts: Counter[tuple[str, str]] = Counter()
        for entry in self.entries.values():
            index(entry.state, entry.id, entry.arrival)
            for dimension in Dimension:
                value = getattr(entry, dimension)
                index(f"{entry.state}:{dimension}:{value}", entry.id, entry.arrival)
                counts[f"{entry.state}:{dimension}", value] += 1
            counts[f"{entry.state}:tasks:{entry.fingerprint}", entry.task] += 1
        for (name, value), count in counts.items():
            index(name, value, count)
        info = {"last": self.last} if self.last >= 0 else {}
        info |= {"evicted": self.evicted} if self.evicted else {}
        told = {"told": self.told, "teller": self.teller} if self.teller else {}
        hashes: dict[str, object] = {
            "info": {name: str(value) for name, value in (info | told).items()},
            "keys": self.keys,
            "entries": set(self.entries),
        }
        return {f"{STEM}{name}": held for name, held in (hashes | indexes).items() if held}
