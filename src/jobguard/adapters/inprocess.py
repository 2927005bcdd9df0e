"""A plain call of a guarded function: every call is a job, and waiting is sleeping."""

from __future__ import annotations

from typing import NoReturn

import anyio

from jobguard.adapters.base import Terms
from jobguard.errors import JobGuardError, Signal
from jobguard.job import JobRef, local_ref
from jobguard.stores.base import Settlement

LOCAL_TERMS = Terms()


class LocalDelivery:
    """The delivery of a job that nothing but its caller knows of."""

    __slots__ = ("ref",)

    adapter = "local"
    task: str | None = None
    number = 1
    terms = LOCAL_TERMS
    payload: bytes | None = None
    lost = False

    def __init__(self, ref: JobRef | None = None) -> None:
        self.ref = local_ref() if ref is None else ref

    def signal_in(self, error: Exception) -> Signal | None:
        return None

    async def expires(self) -> float | None:
        return None

    async def later(self, delay: float) -> None:
        await anyio.sleep(delay)

    async def give_back(self, delay: float, error: JobGuardError) -> NoReturn:
        raise error

    def interrupted(self, settlement: Settlement | None) -> None:
        pass
