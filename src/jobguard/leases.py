"""Leases held by this process, and the heartbeat that renews them all at once.

A holder trusts only its own monotonic clock, started before the claim was sent: when the time it
knows of is over, the body is cancelled, whatever the store would say.
"""

from __future__ import annotations

from asyncio import get_running_loop
from binascii import b2a_base64
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from os import urandom
from time import monotonic

import anyio

from jobguard.scopes import Alarm, Background, Deadline, event_loop

BEATS_PER_LEASE = 3
BLOCKED = 1 / 3
"""Share of a lease by which a heartbeat comes late if its event loop was blocked, and not just busy."""


def new_token() -> str:
    """A random id of one claim: 72 bits in 12 characters."""
    return b2a_base64(urandom(9), newline=False).decode()


def now() -> float:
    """`anyio.current_time()`, without its search for the event loop's kind: every claim asks."""
    try:
        return get_running_loop().time()
    except RuntimeError:
        return anyio.current_time()


class Held:
    """One lease: until when it certainly holds, and the deadline of the body that runs under it.

    Attributes:
        name: what is held: a record's key, a queue's mark.
        token: random id of the claim.
        until: `anyio.current_time()` up to which the lease holds if nobody renews it.
        lost: the store said that the lease is not ours any more.
        over: the body was told to end.
    """

    lost: bool = False
    over: bool = False
    _deadline: Deadline | None = None

    def __init__(self, name: str, token: str, until: float) -> None:
        self.name: str = name
        self.token: str = token
        self.until: float = until

    def ends(self, deadline: Deadline) -> None:
        """Let the lease's end be that of what runs under `deadline`, while a heartbeat has it."""
        self._deadline = deadline
        if self.over:
            deadline.expire()

    def renewed(self, until: float) -> None:
        """The store has prolonged it. One that was over before we heard of that stays over."""
        if now() < self.until:
            self.until = max(self.until, until)
        else:
            self.expire()

    def lose(self) -> None:
        """The lease is gone."""
        self.lost = True
        self.until = 0.0
        self.expire()

    def expire(self) -> None:
        """End the body now."""
        self.over = True
        if self._deadline is not None:
            self._deadline.expire()


class Lag:
    """Notices that the event loop was blocked, and tells of each block once, however many look.

    Args:
        lease: seconds of the leases that would not be renewed meanwhile.
        blocked: told for how many seconds at least.
    """

    def __init__(self, lease: float, blocked: Callable[[float], None]) -> None:
        self._enough = lease * BLOCKED
        self._blocked = blocked
        self._told = -inf

    def look(self, due: float) -> None:
        """Called by what was to happen at `due` (`anyio.current_time()`), and happens now."""
        late = now() - due
        if late <= self._enough:
            return
        clock = monotonic()  # event loops have zeros of their own
        began, told = clock - late, self._told
        self._told = clock
        if began > told:
            self._blocked(late)


class Heartbeat:
    """Renews every lease of a process in one call per interval, and ends bodies whose lease is over.

    Args:
        lease: seconds that a lease lasts from a renewal.
        renew: sends the renewals; answers per lease whether it still holds.
        failed: told of an error in `renew`; the leases then run on towards their end.
        background: where the beating task lives.
        lag: looks at how late a beat comes.
    """

    def __init__(
        self,
        lease: float,
        renew: Callable[[Sequence[Held]], Awaitable[Sequence[bool]]],
        failed: Callable[[Exception], None],
        background: Background,
        lag: Lag,
    ) -> None:
        self.lease = lease
        self.lag = lag
        self._interval = lease / BEATS_PER_LEASE
        self._renew = renew
        self._failed = failed
        self._background = background
        self._held: dict[str, Held] = {}
        self._home: object = None
        self._due = inf
        self._alarm = Alarm(self._expire)
        self._beating: frozenset[str] = frozenset()
        self._beaten: anyio.Event | None = None
        self._rest: anyio.Event | None = None

    def add(self, held: Held) -> None:
        """Renew this lease from now on, and end its body when it is over all the same."""
        self._held[held.token] = held
        home = event_loop()
        if self._home is not home:
            self._home = home
            self._rest = anyio.Event()
            self._due = now() + self._interval
            self._background.start(self._beat)
        self._alarm.set(held.until, home)

    def discard(self, held: Held) -> bool:
        """Stop renewing. False = a renewal is on its way and may still arrive."""
        self._held.pop(held.token, None)
        return held.token not in self._beating

    def _expire(self) -> None:
        time, earliest = now(), inf
        for held in list(self._held.values()):
            if held.until <= time:
                held.expire()
            elif held.until < earliest:
                earliest = held.until
        if earliest < inf:
            self._alarm.set(earliest, event_loop())

    async def settled(self, held: Held) -> None:
        """Stop renewing, and return when no renewal of this lease is on its way."""
        if not self.discard(held) and self._beaten is not None:
            await self._beaten.wait()

    def rest(self) -> None:
        """Stop beating now if nothing is held, instead of at the next beat."""
        if self._rest is not None and not self._held:
            self._rest.set()

    async def _beat(self) -> None:
        home, rest = self._home, self._rest
        assert rest is not None
        try:
            while True:
                with anyio.CancelScope(deadline=self._due):
                    await rest.wait()
                self.lag.look(self._due)
                if not self._held or rest.is_set() or self._home is not home:
                    return
                pause = self._interval if await self._renew_all() else self._interval / BEATS_PER_LEASE
                self._due = now() + pause
        finally:
            if self._home is home:
                self._home = None

    async def _renew_all(self) -> bool:
        # After a block the alarm may be due and not yet have rung: what is over is not ours to prolong.
        self._expire()
        sent = now()
        batch = [held for held in self._held.values() if held.until > sent]
        if not batch:
            return True
        self._beating = frozenset(held.token for held in batch)
        self._beaten = anyio.Event()
        try:
            with anyio.fail_after(self._interval):
                answers = await self._renew(batch)
        except Exception as error:
            self._failed(error)
            return False
        finally:
            self._beating = frozenset()
            self._beaten.set()
            self.lag.look(sent + self._interval)
        for held, holds in zip(batch, answers, strict=True):
            if held.token not in self._held:
                continue
            if holds:
                held.renewed(sent + self.lease)
            else:
                held.lose()
        return True
