"""A plain call of a guarded function: every call is a job, and waiting is sleeping."""

from __future__ import annotations

import warnings
from contextvars import ContextVar
from typing import NoReturn

import anyio

from jobguard.adapters.base import Replay, Terms
from jobguard.errors import JobGuardError, Signal
from jobguard.job import LOCAL, JobRef, new_local_id
from jobguard.stores.base import Settlement

LOCAL_TERMS = Terms()

hurried: ContextVar[bool] = ContextVar("jobguard_hurried", default=False)
"""Set by tests that do not want to wait."""


class LocalDelivery:
    """The delivery of a job that nothing but its caller knows of."""

    __slots__ = ("_id", "identity", "token")

    adapter = "local"
    task: str | None = None
    number = 1
    terms = LOCAL_TERMS
    payload: bytes | None = None
    lost = False
    replay: Replay | None = None

    def __init__(self, ref: JobRef | None = None) -> None:
        id, token = new_local_id()
        self.token: str = token
        self._id: str = id if ref is None else ref.id
        self.identity: str = f"{LOCAL}:{self._id}:0"

    @property
    def ref(self) -> JobRef:
        return JobRef(LOCAL, self._id)

    def signal_in(self, error: Exception) -> Signal | None:
        return None

    async def expires(self) -> float | None:
        return None

    async def later(self, delay: float) -> None:
        await anyio.sleep(0 if hurried.get() else delay)

    async def give_back(self, delay: float, error: JobGuardError) -> NoReturn:
        raise error

    async def uncount(self) -> None:
        pass

    def interrupted(self, settlement: Settlement | None) -> None:
        pass


def warn_if_unprotected(args: tuple[object, ...], task: str) -> None:
    """Warn about a call that looks like a queue's, though no adapter has announced it."""
    context = args[0] if args else None
    if isinstance(context, dict) and "job_id" in context and "job_try" in context:
        warnings.warn(
            f"{task} is guarded, but its worker is not: retries sleep inside the job, and a crash is not "
            "noticed; decorate the worker's settings with jobguard.adapters.arq.protect",
            stacklevel=3,
        )
