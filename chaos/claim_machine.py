"""Keys under any sequence of claims, renewals, outcomes and pauses, beside a model of them.

Few keys, few jobs. Some replies are lost, so that their operation is sent again; some operations come
long after their time. What a step could have changed is compared at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chaos.models import Claims, Served, Span, Step
from chaos.progress import Progress, Watched
from chaos.stages import Stage
from jobguard.stores.base import Claim, Renewal, Settlement, State

T = TypeVar("T")
Operation = Callable[[], Coroutine[Any, Any, Any]]

NOTHING, SHORT, LONG = 0.0, 0.002, 60.0
"""Seconds: over at once, over soon, and never over while a sequence lasts."""
PAUSE = 0.005
"""Seconds after which all that was to be over soon is."""
AHEAD = 2**52
"""A fence from the future."""
NAMESPACE = "machine"
KEYS = ("k:one", "k:two", "k:\0\ud800")
JOBS = ("one", "two", "3 3 3\nthree\0\ud800")
NAMES = ("send", "pay", "odd\0\ud800")


class Fate(StrEnum):
    """What becomes of an operation on its way."""

    SENT = "sent"
    LOST = "lost"
    """Its reply is lost once it has been executed, and the store sends it again by itself. So it is with
    what lasts: a record that is over before its operation comes again is written a second time."""
    REPEATED = "repeated"
    """The caller does it again."""


def lasting(fate: Fate, duration: float) -> Fate:
    return fate if fate is not Fate.LOST or duration == LONG else Fate.SENT


keys, jobs = st.sampled_from(KEYS), st.sampled_from(JOBS)
durations = st.sampled_from((LONG, SHORT, NOTHING))
keeps = st.sampled_from((LONG, LONG, LONG, SHORT, NOTHING))
prints = st.sampled_from(("", "f", "g\ud800"))
fates = st.sampled_from((Fate.SENT, Fate.SENT, Fate.LOST, Fate.REPEATED))
backs = st.integers(0, 5)
"""How many of their kind ago an operation was sent that comes again, or late."""
claims = st.builds(
    partial(Claim, token=""), keys, jobs, lease=durations, keep=keeps, fingerprint=prints, rerun=st.booleans()
)
outcomes = st.builds(
    partial(Settlement, "", "", "", None),
    st.sampled_from((State.SUCCESS, State.RETRY, State.INTERRUPTED, State.FAILED, State.DEAD_LETTER)),
    durations,
    keeps,
    durations,
    prints,
    st.sampled_from(("", "history", "h\n1 2 3\n\0\ud800")),
    st.sampled_from((None, "", "result", "b\n+\0\ud800")),
)
"""What a run came to, without whose it was."""


class ClaimMachine(RuleBasedStateMachine):
    """Claims keys of a store and announces names, and compares every answer with a model's.

    What there is to choose from never depends on time: the same seed makes the same choices again.

    Args:
        stage: where.
        progress: what is done is counted there.
    """

    def __init__(self, stage: Stage, progress: Progress) -> None:
        super().__init__()
        self.stage, self.progress = stage, progress
        self.loop = asyncio.new_event_loop()
        self.opened = self.run(stage.open_empty())
        self.store: Any = Watched(self.opened[0], progress)
        self.claims = Claims(stage.milliseconds, progress.seen)
        self.served = Served(stage.milliseconds)
        self.made: list[Claim] = []
        self.fences: dict[str, int] = {}
        self.outcomes: list[Settlement] = []
        self.paused = False
        progress.begin()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    async def during(self, *operations: Operation) -> tuple[list[Any], Span]:
        """The replies to operations, one after the other, and between what instants that was."""
        early = self.stage.now().early
        replies = [await operation() for operation in operations]
        return replies, Span(early, self.stage.now().late)

    def act(self, key: str, operation: Operation, expected: Callable[[Any], Step], fate: Fate) -> Any:
        """Do something to a key, and compare its record; the last reply."""
        operations = self.sent(operation, fate)
        (*replies, record), span = self.run(self.during(*operations, partial(self.store.look_up, key)))
        self.claims.follow(key, [*map(expected, replies), self.claims.looked_up(key, record)], span)
        return replies[-1]

    def sent(self, operation: Operation, fate: Fate) -> list[Operation]:
        self.paused = False
        if fate is Fate.LOST:
            self.progress.seen["replies lost"] += self.stage.lose_reply()
        elif fate is Fate.REPEATED:
            self.progress.seen["operations repeated"] += 1
        return [operation] * (2 if fate is Fate.REPEATED else 1)

    # Claims

    @initialize(jobs=st.tuples(jobs, jobs))
    def begin(self, jobs: tuple[str, str]) -> None:
        for key, job in zip(KEYS[:2], jobs, strict=True):
            self.claim(Claim(key, job, "", LONG, LONG), Fate.SENT)

    @rule(claim=claims, fate=fates)
    def claim(self, claim: Claim, fate: Fate) -> None:
        self.made.append(claim._replace(token=f"t{len(self.made)}"))
        self.send(self.made[-1], fate)

    @rule(back=backs)
    def claim_once_more(self, back: int) -> None:
        """A claim that was sent long ago comes again."""
        self.send(self.some_claim(back), Fate.SENT)

    def send(self, claim: Claim, fate: Fate) -> None:
        fate = lasting(fate, claim.keep)
        expected = partial(self.claims.claimed, claim, lost=fate is Fate.LOST)
        reply = self.act(claim.key, partial(self.store.claim, claim), expected, fate)
        self.fences.setdefault(claim.token, reply.fence)

    def some_claim(self, back: int) -> Claim:
        return self.made[-1 - back % len(self.made)]

    @rule(which=st.lists(st.tuples(keys, st.booleans()), min_size=1, max_size=3), lease=durations, fate=fates)
    def renew(self, which: list[tuple[str, bool]], lease: float, fate: Fate) -> None:
        """Holders renew, and some that hold nothing."""
        held = {key: record.token for key in KEYS if (record := self.claims.holder(key)) is not None}
        renewals = [
            Renewal(key, "another" if other else held.get(key, "none"), lease) for key, other in which
        ]
        self.send_renewals(renewals, lasting(fate, lease))

    @rule(back=backs, lease=durations)
    def renew_late(self, back: int, lease: float) -> None:
        """A heartbeat of a claim that may have been lost meanwhile."""
        claim = self.some_claim(back)
        self.send_renewals([Renewal(claim.key, claim.token, lease)], Fate.SENT)

    def send_renewals(self, renewals: list[Renewal], fate: Fate) -> None:
        operations = self.sent(partial(self.store.renew, renewals), fate)
        touched = sorted({renewal.key for renewal in renewals})
        looks = [partial(self.store.look_up, key) for key in touched]
        replies, span = self.run(self.during(*operations, *looks))
        answers = [
            (renewal, answer)
            for reply in replies[: len(operations)]
            for renewal, answer in zip(renewals, reply, strict=True)
        ]
        for key, record in zip(touched, replies[len(operations) :], strict=True):
            steps = [self.claims.renewed(*each) for each in answers if each[0].key == key]
            self.claims.follow(key, [*steps, self.claims.looked_up(key, record)], span)

    # Outcomes

    @rule(key=keys, outcome=outcomes, fate=fates)
    def settle(self, key: str, outcome: Settlement, fate: Fate) -> None:
        """The run of whoever holds the key, or held it last, has ended."""
        held = self.claims.holder(key)
        if held is not None:
            self.end(outcome._replace(key=key, owner=held.owner, token=held.token, fence=held.fence), fate)

    @rule(claim=claims, outcome=outcomes, fate=fates)
    def work(self, claim: Claim, outcome: Settlement, fate: Fate) -> None:
        """A job claims a key, and the run of whoever holds it then ends."""
        self.claim(claim, fate)
        self.settle(claim.key, outcome, fate)

    @rule(back=backs, outcome=outcomes, fate=fates)
    def settle_late(self, back: int, outcome: Settlement, fate: Fate) -> None:
        """The run of a claim that may have been lost, or was never granted, has ended."""
        claim = self.some_claim(back)
        fence = self.fences[claim.token]
        self.end(outcome._replace(key=claim.key, owner=claim.owner, token=claim.token, fence=fence), fate)

    @rule(
        key=keys, job=jobs, outcome=outcomes, fence=st.sampled_from((None, None, None, 1, AHEAD)), fate=fates
    )
    def settle_as_stranger(
        self, key: str, job: str, outcome: Settlement, fence: int | None, fate: Fate
    ) -> None:
        """A job that has made no claim, or says that it has, under a token that nobody knows."""
        token = f"d{len(self.outcomes)}"
        self.end(outcome._replace(key=key, owner=job, token=token, fence=fence), fate)

    @rule(back=backs)
    def settle_once_more(self, back: int) -> None:
        """An outcome that was sent long ago comes again."""
        if self.outcomes:
            self.end(self.outcomes[-1 - back % len(self.outcomes)], Fate.SENT)

    def end(self, outcome: Settlement, fate: Fate) -> None:
        self.outcomes.append(outcome)
        send, expected = partial(self.store.settle, outcome), partial(self.claims.settled, outcome)
        self.act(outcome.key, send, expected, lasting(fate, outcome.keep))

    @rule(key=keys, fate=fates)
    def forget(self, key: str, fate: Fate) -> None:
        self.act(key, partial(self.store.forget, key), self.claims.forgotten, fate)

    # Names, and time

    @rule(
        names=st.lists(st.sampled_from(NAMES), max_size=2), lasts=st.sampled_from((LONG, SHORT)), fate=fates
    )
    def announce(self, names: list[str], lasts: float, fate: Fate) -> None:
        operations = self.sent(partial(self.store.announce, NAMESPACE, names, lasts), fate)
        replies, span = self.run(self.during(*operations, *self.questions()))
        self.served.announced(names, lasts, span)
        self.compare_names(replies[len(operations) :], span)

    def questions(self) -> list[Operation]:
        return [partial(self.store.served, NAMESPACE, name) for name in NAMES]

    def compare_names(self, replies: list[bool], span: Span) -> None:
        for name, reply in zip(NAMES, replies, strict=True):
            self.served.asked(name, reply, span)

    @rule()
    def pause(self) -> None:
        """Whatever was to be over soon is over."""
        if not self.paused:
            self.progress.seen["pauses"] += 1
            self.stage.pause(PAUSE)
            self.compare_everything()
        self.paused = True

    # Comparison

    @invariant()
    def count(self) -> None:
        self.progress.steps += 1

    def compare_everything(self) -> None:
        looks = [partial(self.store.look_up, key) for key in KEYS]
        replies, span = self.run(self.during(*looks, *self.questions()))
        for key, record in zip(KEYS, replies, strict=False):
            self.claims.follow(key, [self.claims.looked_up(key, record)], span)
        self.compare_names(replies[len(KEYS) :], span)

    def teardown(self) -> None:
        """Compare everything once more."""
        try:
            if self.progress.ends_well():
                self.compare_everything()
        finally:
            self.run(self.stage.close(*self.opened))
            self.loop.close()
