"""What the contract's tests work with: one key of a store, and short words for what they do to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from uuid import uuid4

import anyio

from jobguard.stores.base import (
    Claim,
    ClaimReply,
    Record,
    Settlement,
    SettleReply,
    State,
    Store,
    Verdict,
)

LONG = 60.0
"""Seconds that no test takes."""
SHORT = 0.03
"""Seconds that a test waits for."""
PATIENCE = 20.0
"""Seconds until a test that polls gives up."""

ODD_TEXT = 'line\nnull\0 "quotes" \\ ; \x1b[31m ünï \U0001f980 lone \ud800'


class Bench:
    """One key of a store, and short words for what tests do with it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.key: str = f"contract:{uuid4().hex}"
        self._numbers = count(1)

    async def claim(
        self,
        owner: str = "one",
        token: str | None = None,
        *,
        lease: float = LONG,
        keep: float = LONG,
        fingerprint: str = "",
        rerun: bool = False,
    ) -> ClaimReply:
        token = f"token {next(self._numbers)}" if token is None else token
        return await self.store.claim(Claim(self.key, owner, token, lease, keep, fingerprint, rerun))

    async def settle(
        self,
        state: State,
        owner: str = "one",
        token: str = "t",
        *,
        fence: int | None = 1,
        lasts: float = LONG,
        keep: float = LONG,
        overdue: float = LONG,
        fingerprint: str = "",
        history: str = "",
        body: str | None = None,
    ) -> SettleReply:
        return await self.store.settle(
            Settlement(self.key, owner, token, fence, state, lasts, keep, overdue, fingerprint, history, body)
        )

    async def ended(self, state: State, *, lasts: float = LONG, body: str | None = None) -> ClaimReply:
        """A key that job "one" claimed and settled under token "t"."""
        granted = await self.claim(token="t")
        assert await self.settle(state, lasts=lasts, body=body) == SettleReply(True)
        return granted

    async def record(self) -> Record:
        record = await self.store.look_up(self.key)
        assert record is not None
        return record

    async def crashed(self, owner: str = "one", token: str | None = None) -> ClaimReply:
        """A claim whose lease has run out."""
        granted = await self.claim(owner, token, lease=SHORT)
        assert granted.verdict is Verdict.GRANTED
        await self.wait_out()
        return granted

    async def wait_out(self) -> None:
        """Return once the lease, the delay or the ttl is over."""

        async def over() -> bool:
            return (await self.record()).wait == 0

        await until(over)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll until something has come true."""
    with anyio.fail_after(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - the store alone knows
            await anyio.sleep(SHORT / 10)
