"""A store in this process's memory: for one process, for tests, and for a first try."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush

from jobguard.stores.base import (
    Claim,
    ClaimReply,
    Record,
    Renewal,
    Settlement,
    SettleReply,
    State,
    Verdict,
)
from jobguard.stores.memory_letters import MemoryLetters

PURGE_BATCH = 16
"""Expiries looked at per operation: more than one adds, so that garbage always shrinks."""


class _Entry:
    """One record. `until` ends the lease, the delay or the ttl; `expires` ends the record."""

    __slots__ = (
        "body", "crashes", "expires", "fence", "fingerprint", "first", "history",
        "overdue", "owner", "state", "token", "until",
    )  # fmt: skip

    def __init__(self, owner: str, token: str, fence: int, first: float) -> None:
        self.state = State.PROCESSING
        self.owner = owner
        self.token = token
        self.until = 0.0
        self.overdue = 0.0
        self.expires = 0.0
        self.fence = fence
        self.crashes = 0
        self.first = first
        self.fingerprint = ""
        self.history = ""
        self.body: str | None = None


class MemoryStore:
    """Keeps everything in this process; it ends with it. Works on asyncio and on trio.

    Args:
        clock: seconds that only rise; a test may hand in one it moves by hand.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._expiries: list[tuple[float, str]] = []
        self._served: dict[tuple[str, str], float] = {}
        self._letters = MemoryLetters(clock)

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._entries)} records)"

    @property
    def letters(self) -> MemoryLetters:
        """The store's dead letters."""
        return self._letters

    def _now(self) -> float:
        """The time, once what has expired by then is on its way out."""
        now = self._clock()
        for _ in range(PURGE_BATCH):
            if not self._expiries or self._expiries[0][0] > now:
                break
            key = heappop(self._expiries)[1]
            entry = self._entries.get(key)
            if entry is not None and entry.expires <= now:
                del self._entries[key]
        return now

    def _find(self, key: str, now: float) -> _Entry | None:
        entry = self._entries.get(key)
        return None if entry is None or entry.expires <= now else entry

    def _expire(self, key: str, entry: _Entry, at: float) -> None:
        """Note when a record ends; dates overtaken by later ones are dropped before they pile up."""
        entry.expires = at
        heappush(self._expiries, (at, key))
        if len(self._expiries) > 2 * len(self._entries) + 64:
            self._expiries = [(each.expires, name) for name, each in self._entries.items()]
            heapify(self._expiries)

    async def claim(self, claim: Claim) -> ClaimReply:
        now = self._now()
        entry = self._find(claim.key, now)
        if entry is None:
            return self._grant(claim, None, now, keeps_history=False, crashes=0)
        own = entry.owner == claim.owner
        state = entry.state
        left = max(entry.until - now, 0.0)
        if state is State.PROCESSING:
            if own and entry.token == claim.token:
                return self._grant_again(claim, entry, now)
            if left > 0:
                return _answer(Verdict.BUSY if own else Verdict.RUNNING, entry, now, left)
            return self._grant(claim, entry, now, keeps_history=own, crashes=entry.crashes + 1)
        if own and state.ended:
            return _answer(Verdict.SUCCEEDED if state is State.SUCCESS else Verdict.ENDED, entry, now, 0.0)
        if own and entry.token == claim.token:
            # A resend that was overtaken by its own settlement: granting it would undo that.
            return _answer(Verdict.BUSY, entry, now, 0.0)
        if not own and state is State.RETRY and now < entry.until + entry.overdue:
            return _answer(Verdict.RUNNING, entry, now, left)
        if state is State.SUCCESS and left > 0 and not claim.rerun:
            return _answer(Verdict.SUCCEEDED, entry, now, 0.0)
        return self._grant(claim, entry, now, keeps_history=own, crashes=entry.crashes)

    def _grant(
        self, claim: Claim, before: _Entry | None, now: float, *, keeps_history: bool, crashes: int
    ) -> ClaimReply:
        fence = max(int(now * 1_000_000), 1 if before is None else before.fence + 1)
        kept = before if keeps_history else None
        entry = _Entry(claim.owner, claim.token, fence, now if kept is None else kept.first)
        entry.crashes = crashes
        entry.history = "" if kept is None else kept.history
        entry.fingerprint = claim.fingerprint
        entry.until = now + claim.lease
        self._entries[claim.key] = entry
        self._expire(claim.key, entry, entry.until + claim.keep)
        return ClaimReply(
            Verdict.GRANTED,
            None if before is None else before.state,
            "" if before is None else before.owner,
            fence,
            0.0,
            crashes,
            now - entry.first,
            entry.history,
            "" if kept is None else kept.fingerprint,
            None,
        )

    def _grant_again(self, claim: Claim, entry: _Entry, now: float) -> ClaimReply:
        entry.until = max(entry.until, now + claim.lease)
        self._expire(claim.key, entry, max(entry.expires, entry.until + claim.keep))
        return _answer(Verdict.GRANTED, entry, now, 0.0)

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        now = self._now()
        return [self._renew(renewal, now) for renewal in renewals]

    def _renew(self, renewal: Renewal, now: float) -> bool:
        entry = self._find(renewal.key, now)
        if entry is None or entry.token != renewal.token:
            return False
        if entry.state is not State.PROCESSING or now >= entry.until:
            return False
        until = max(entry.until, now + renewal.lease)
        self._expire(renewal.key, entry, entry.expires + until - entry.until)
        entry.until = until
        return True

    async def settle(self, settlement: Settlement) -> SettleReply:
        now = self._now()
        entry = self._find(settlement.key, now)
        if entry is None:
            entry = _Entry(settlement.owner, settlement.token, max(settlement.fence or 0, 0), now)
            self._entries[settlement.key] = entry
        elif _settled_so(entry, settlement):
            return SettleReply(True)
        elif not _may_settle(entry, settlement):
            return SettleReply(False, entry.owner, entry.fence)
        self._apply(settlement, entry, now)
        return SettleReply(True)

    def _apply(self, settlement: Settlement, entry: _Entry, now: float) -> None:
        state = settlement.state
        entry.state = state
        entry.token = settlement.token
        entry.until = now + (0.0 if state is State.INTERRUPTED else settlement.lasts)
        entry.overdue = settlement.overdue if state is State.RETRY else 0.0
        entry.fingerprint = settlement.fingerprint or entry.fingerprint
        if state.ended:
            entry.history, entry.body, entry.crashes = "", settlement.body, 0
        else:
            entry.history, entry.body = settlement.history, None
        self._expire(settlement.key, entry, now + settlement.lives)

    async def look_up(self, key: str) -> Record | None:
        now = self._now()
        entry = self._find(key, now)
        if entry is None:
            return None
        return Record(
            key,
            entry.state,
            entry.owner,
            entry.fence,
            max(entry.until - now, 0.0),
            entry.crashes,
            now - entry.first,
            entry.history,
            entry.fingerprint,
            entry.body,
        )

    async def forget(self, key: str) -> bool:
        now = self._now()
        found = self._find(key, now) is not None
        self._entries.pop(key, None)
        return found

    async def announce(self, namespace: str, names: Sequence[str], lasts: float) -> None:
        now = self._clock()
        self._served = {name: until for name, until in self._served.items() if until > now}
        for name in names:
            until = max(now + lasts, self._served.get((namespace, name), now))
            self._served[namespace, name] = until

    async def served(self, namespace: str, name: str) -> bool:
        return self._served.get((namespace, name), 0.0) > self._clock()

    async def aclose(self) -> None:
        """Nothing to release: the records stay until the store itself is dropped."""


def _settled_so(entry: _Entry, settlement: Settlement) -> bool:
    """Whether this outcome stands already: sent again after a lost reply, or by another delivery."""
    if entry.state is not settlement.state:
        return False
    if entry.token == settlement.token:
        return True
    return settlement.fence is None and entry.owner == settlement.owner and entry.state.ended


def _may_settle(entry: _Entry, settlement: Settlement) -> bool:
    if entry.token == settlement.token:
        ended_after_all = entry.state is State.INTERRUPTED and settlement.state.ended
        return entry.state is State.PROCESSING or ended_after_all
    if settlement.fence is not None or entry.owner != settlement.owner:
        return False
    return entry.state in (State.RETRY, State.INTERRUPTED)


def _answer(verdict: Verdict, entry: _Entry, now: float, wait: float) -> ClaimReply:
    """Answer with the record as it stands."""
    return ClaimReply(
        verdict,
        entry.state,
        entry.owner,
        entry.fence,
        wait,
        entry.crashes,
        now - entry.first,
        entry.history,
        entry.fingerprint,
        entry.body,
    )
