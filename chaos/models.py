"""What a store should answer, in a few lines an operation: stores are compared with it.

Written from what `jobguard.stores.base` promises. Each method is handed the reply that a store gave to
an operation, checks it, and says what the store should hold from then on. Times are milliseconds on the
store's clock. Of when an operation took effect only the bounds are known, so that an answer can hang on
which of two close instants came first: the model then takes either, and goes on from what was answered.

Dead letters have a model already, in `tests.stores.letter_model`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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

GRAIN = 2.0
"""Milliseconds by which a server may keep a record shorter or longer than it was told, by rounding."""
NOISE = 1e-3
"""Milliseconds within which two floats are one."""


class Differs(AssertionError):
    """A store has answered what the model does not allow."""


class Span(NamedTuple):
    """An instant of which only the bounds are known."""

    early: float
    late: float

    def after(self, milliseconds: float) -> Span:
        return Span(self.early + milliseconds, self.late + milliseconds)


def later(one: Span, other: Span) -> Span:
    return Span(max(one.early, other.early), max(one.late, other.late))


class Now:
    """When an operation took effect, and which close instants it is taken to have come after.

    Args:
        span: its bounds.
        taken: the answers to the first questions that the bounds leave open; those behind are True.
    """

    def __init__(self, span: Span, taken: tuple[bool, ...] = ()) -> None:
        self.span = span
        self._taken = taken
        self._asked: list[bool] = []

    def reached(self, instant: Span) -> bool:
        """Whether that instant has come."""
        if self.span.early >= instant.late:
            return True
        if self.span.late < instant.early:
            return False
        place = len(self._asked)
        self._asked.append(self._taken[place] if place < len(self._taken) else True)
        return self._asked[-1]

    @property
    def others(self) -> Iterator[tuple[bool, ...]]:
        """Answers that were open and have not been tried."""
        for place in range(len(self._taken), len(self._asked)):
            yield (*self._asked[:place], False)

    def until(self, instant: Span) -> Span:
        """How long it is to an instant; 0 if that is past."""
        return Span(max(instant.early - self.span.late, 0.0), max(instant.late - self.span.early, 0.0))

    def since(self, instant: Span) -> Span:
        return Span(max(self.span.early - instant.late, 0.0), max(self.span.late - instant.early, 0.0))


@dataclass(frozen=True, slots=True)
class Held:
    """What a record should say.

    Attributes:
        until: when its lease ends, its retry is due or its end stops counting for other jobs.
        overdue: ms past `until` after which another job may take a retry over.
        keeps: ms past `until` for which the record is kept.
        first: the first claim, or settlement where there was none.
        found: what its claim found.
    """

    state: State
    owner: str
    token: str
    fence: int
    until: Span
    keeps: float
    first: Span
    overdue: float = 0.0
    crashes: int = 0
    fingerprint: str = ""
    history: str = ""
    body: str | None = None
    found: Found | None = None

    @property
    def gone(self) -> Span:
        """When the record itself ends."""
        return Span(self.until.early + self.keeps - GRAIN, self.until.late + self.keeps + GRAIN)


Found = tuple[State | None, str, str]
"""State, owner and fingerprint that a claim found, as the answer to it said."""
Step = Callable[[Held | None, Now], Held | None]
"""One operation with the reply that it had: record before, when -> record after. Raises `Differs`."""


class Claims:
    """All keys of a store.

    Args:
        milliseconds: what the store makes of a duration in seconds.
        seen: counts what comes of operations.
    """

    def __init__(self, milliseconds: Callable[[float], float], seen: Counter[str]) -> None:
        self._ms = milliseconds
        self._seen = seen
        self._new = Counter[str]()
        self._records: dict[str, list[Held | None]] = {}
        self._highest: dict[str, int] = {}
        self._fence = 0
        self._found: dict[str, set[Found]] = {}
        self._finds: list[tuple[str, Found]] = []

    def holder(self, key: str) -> Held | None:
        """What a key should say; one of several possibilities where close instants left them."""
        return self._records.get(key, [None])[0]

    def follow(self, key: str, steps: Sequence[Step], span: Span) -> None:
        """Go through what was done to a key between two instants, in order.

        Raises:
            Differs: no order of close instants explains the replies.
        """
        befores = self._records.get(key, [None])
        afters: list[Held | None] = []
        differences: list[str] = []
        ways: list[tuple[Held | None, tuple[bool, ...]]] = [(before, ()) for before in befores]
        highest = 0
        while ways:
            before, taken = ways.pop()
            now, self._new, self._fence = Now(span, taken), Counter(), self._highest.get(key, 0)
            self._finds = []
            try:
                after = self._walk(before, steps, now)
            except Differs as difference:
                differences.append(str(difference))
            else:
                if not afters:
                    self._seen.update(self._new)
                if after not in afters:
                    afters.append(after)
                highest = max(highest, self._fence)
                for token, found in self._finds:
                    self._found.setdefault(token, set()).add(found)
            ways += [(before, others) for others in now.others]
        if not afters:
            raise Differs("; or ".join(differences) + f" (the model held {befores})")
        self._records[key] = afters
        self._highest[key] = highest

    def _walk(self, record: Held | None, steps: Sequence[Step], now: Now) -> Held | None:
        for step in steps:
            if record is not None and now.reached(record.gone):
                record = None
                self._new["records that ran out"] += 1
            record = step(record, now)
        return record

    # One operation each

    def claimed(self, claim: Claim, reply: ClaimReply, *, lost: bool = False) -> Step:
        """A claim; `lost`: it was sent twice, and this is the second reply, the only one that came."""

        def step(held: Held | None, now: Now) -> Held | None:
            if held is None:
                return self._granted(claim, reply, None, now, crashes=0, lost=lost)
            own, state, mine = held.owner == claim.owner, held.state, held.token == claim.token
            if state is State.PROCESSING and own and mine:
                self._granted_again(reply, held, now)
                return replace(held, until=later(held.until, now.span.after(self._ms(claim.lease))))
            if state is State.PROCESSING:
                if now.reached(held.until):
                    self._new["take-overs of a lease that ran out"] += 1
                    return self._granted(claim, reply, held, now, crashes=held.crashes + 1, lost=lost)
                return self._told(reply, Verdict.BUSY if own else Verdict.RUNNING, held, now)
            if own and state.ended:
                return self._told(reply, SUCCEEDED if state is State.SUCCESS else Verdict.ENDED, held, now)
            if own and mine:
                self._new["claims refused as settled"] += 1
                return self._told(reply, Verdict.BUSY, held, now, wait=Span(0, 0))
            if not own and state is State.RETRY and not now.reached(held.until.after(held.overdue)):
                return self._told(reply, Verdict.RUNNING, held, now)
            if state is State.SUCCESS and not claim.rerun and not now.reached(held.until):
                self._new["duplicates of a success"] += 1
                return self._told(reply, SUCCEEDED, held, now)
            if not state.ended:
                self._new[f"take-overs of a {'retry' if state is State.RETRY else 'released claim'}"] += 1
            return self._granted(claim, reply, held, now, crashes=held.crashes, lost=lost)

        return step

    def _granted(
        self, claim: Claim, reply: ClaimReply, held: Held | None, now: Now, *, crashes: int, lost: bool
    ) -> Held:
        kept = held if held is not None and held.owner == claim.owner else None
        history = "" if kept is None else kept.history
        found = (None, "", "") if held is None else (held.state, held.owner, kept.fingerprint if kept else "")
        told = (reply.state, reply.owner, reply.fingerprint)
        if not (lost and self._may_find(claim.token, claim.owner, claim.fingerprint, told)):
            _equal("what a granted claim found", told, found)
        self._finds.append((claim.token, found))
        _granting(reply, crashes, history)
        first = now.span if kept is None else kept.first
        _within("elapsed", reply.elapsed, now.since(first))
        self._rises(reply.fence, 0 if held is None else held.fence, now)
        self._new["claims granted"] += 1
        return Held(
            State.PROCESSING,
            claim.owner,
            claim.token,
            reply.fence,
            now.span.after(self._ms(claim.lease)),
            self._ms(claim.keep),
            first,
            crashes=crashes,
            fingerprint=claim.fingerprint,
            history=history,
            found=found,
        )

    def _may_find(self, token: str, owner: str, fingerprint: str, told: Found) -> bool:
        """What a claim is told that comes again: what it once found, or that it stands itself."""
        return told == (State.PROCESSING, owner, fingerprint) or told in self._found.get(token, ())

    def _granted_again(self, reply: ClaimReply, held: Held, now: Now) -> None:
        """The answer is the first one's, but for what has been found."""
        told = (reply.state, reply.owner, reply.fingerprint)
        if told != held.found and not self._may_find(held.token, held.owner, held.fingerprint, told):
            _equal("what a claim found that is granted again", told, held.found)
        _granting(reply, held.crashes, held.history)
        _equal("fence of a claim that is granted again", reply.fence, held.fence)
        _within("elapsed", reply.elapsed, now.since(held.first))
        self._new["claims granted again"] += 1

    def _rises(self, fence: int, last: int, now: Now) -> None:
        """A fence is the server's time in µs, or the next one: so it rises over a forgotten record too."""
        early, late = now.span.early * 1000, (now.span.late + 1) * 1000
        _within("fence, as microseconds", fence / 1000, Span(max(last + 1, early), max(last + 1, late)))
        if fence <= late:
            _equal("fence above every earlier one", fence > self._fence, True)
            self._fence = fence

    def _told(
        self, reply: ClaimReply, verdict: Verdict, held: Held, now: Now, wait: Span | None = None
    ) -> Held:
        """An answer that shows the record as it stands."""
        expected = (
            verdict, held.state, held.owner, held.fence, held.crashes, held.fingerprint,
            held.body,
        )  # fmt: skip
        told = (*reply[:4], reply.crashes, reply.fingerprint, reply.body)
        _equal("answer to a claim", told, expected)
        if not held.state.ended:
            _equal("history", reply.history, held.history)
        waits = verdict in (Verdict.BUSY, Verdict.RUNNING)
        _within("wait", reply.wait, (wait or now.until(held.until)) if waits else Span(0, 0))
        return held

    def renewed(self, renewal: Renewal, reply: bool) -> Step:
        def step(held: Held | None, now: Now) -> Held | None:
            if held is None or held.token != renewal.token or held.state is not State.PROCESSING:
                _equal("renewal of a claim that is lost", reply, False)
                return held
            if now.reached(held.until):
                _equal("renewal of a lease that is over", reply, False)
                self._new["renewals that came too late"] += 1
                return held
            _equal("renewal", reply, True)
            self._new["renewals"] += 1
            return replace(held, until=later(held.until, now.span.after(self._ms(renewal.lease))))

        return step

    def settled(self, settlement: Settlement, reply: SettleReply) -> Step:
        def step(held: Held | None, now: Now) -> Held | None:
            s, unclaimed = settlement, settlement.fence is None
            if held is not None:
                mine = held.token == s.token
                own = unclaimed and held.owner == s.owner
                if held.state is s.state and (mine or (own and s.state.ended)):
                    _equal("outcome that stands already", reply, SettleReply(True))
                    self._new["outcomes accepted again"] += 1
                    return held
                if mine:
                    open = held.state is State.PROCESSING or (
                        held.state is State.INTERRUPTED and s.state.ended
                    )
                else:
                    open = own and held.state in (State.RETRY, State.INTERRUPTED)
                if not open:
                    refusal = SettleReply(False, held.owner, held.fence)
                    _equal("outcome of a claim that is over", reply, refusal)
                    self._new["outcomes refused"] += 1
                    return held
            _equal("outcome", reply, SettleReply(True))
            self._new["outcomes accepted"] += 1
            lasts, keep, overdue = self._ms(s.lasts), self._ms(s.keep), self._ms(s.overdue)
            if s.state is State.RETRY:
                keep += overdue
            elif s.state is State.INTERRUPTED:
                lasts = 0
            else:
                keep = max(keep - lasts, 0)
            if held is None:
                held = Held(s.state, s.owner, s.token, s.fence or 0, now.span, 0, now.span)
            return replace(
                held,
                state=s.state,
                token=s.token,
                until=now.span.after(lasts),
                keeps=keep,
                overdue=overdue if s.state is State.RETRY else 0.0,
                crashes=0 if s.state.ended else held.crashes,
                fingerprint=s.fingerprint or held.fingerprint,
                history="" if s.state.ended else s.history,
                body=s.body if s.state.ended else None,
            )

        return step

    def looked_up(self, key: str, reply: Record | None) -> Step:
        def step(held: Held | None, now: Now) -> Held | None:
            if held is None or reply is None:
                _equal("record", reply, held)
                return held
            expected = (key, held.state, held.owner, held.fence, held.crashes)
            _equal("record", (*reply[:4], reply.crashes), expected)
            _equal("texts", reply[7:], (held.history, held.fingerprint, held.body))
            _within("wait of the record", reply.wait, now.until(held.until))
            _within("elapsed of the record", reply.elapsed, now.since(held.first))
            return held

        return step

    def forgotten(self, reply: bool) -> Step:
        def step(held: Held | None, now: Now) -> Held | None:
            _equal("whether there was a record", reply, held is not None)
            return None

        return step


SUCCEEDED = Verdict.SUCCEEDED


class Served:
    """The names that are announced, each until when.

    Args:
        milliseconds: what the store makes of a duration in seconds.
    """

    def __init__(self, milliseconds: Callable[[float], float]) -> None:
        self._ms = milliseconds
        self._until: dict[str, Span] = {}

    def announced(self, names: Sequence[str], lasts: float, span: Span) -> None:
        for name in names:
            self._until[name] = later(span.after(self._ms(lasts)), self._until.get(name, span))

    def asked(self, name: str, reply: bool, span: Span) -> None:
        until = self._until.get(name)
        if until is None or span.early >= until.late:
            _equal(f"whether {name!r} is served", reply, False)
        elif span.late < until.early:
            _equal(f"whether {name!r} is served", reply, True)


def _equal(what: str, told: object, expected: object) -> None:
    if told != expected:
        raise Differs(f"{what}: the store says {told!r}, the model {expected!r}")


def _granting(reply: ClaimReply, crashes: int, history: str) -> None:
    told = (reply.verdict, reply.wait, reply.crashes, reply.history, reply.body)
    _equal("answer to a claim that is granted", told, (Verdict.GRANTED, 0.0, crashes, history, None))


def _within(what: str, seconds: float, expected: Span) -> None:
    if not expected.early - NOISE <= seconds * 1000 <= expected.late + NOISE:
        raise Differs(f"{what}: the store says {seconds * 1000:.3f} ms, the model {expected}")
