"""Which errors say that Redis is away for a while, and which that it will never do as asked."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    ResponseError,
    WatchError,
)

from jobguard.stores.batching import is_passing

T = TypeVar("T")

_FULL = frozenset({"MISCONF", "NOREPLICAS"})
"""First words of a server that takes no writes for now: its disk is full, its replicas are gone."""
_CANCEL_PAUSE = 0.2
"""Seconds that each `await` of a cancelled task may still take before the next is cancelled too."""


def is_outage(error: BaseException) -> bool:
    """Whether the same command can succeed later, with nothing changed here."""
    cause = error.__cause__
    if isinstance(cause, ResponseError) and not is_outage(cause):
        return False  # the server is there; redis-py wraps what it answers to a new connection
    if is_passing(error) or isinstance(error, OutOfMemoryError):
        return True
    if isinstance(error, WatchError):
        return True  # where nobody expects one, it is how redis-py tells of a connection that broke
    return isinstance(error, ResponseError) and str(error).partition(" ")[0] in _FULL


def is_refusal(error: BaseException) -> bool:
    """Whether the server does not let us in, or not do what a worker has to."""
    return any(
        isinstance(each, (AuthenticationError, AuthorizationError, NoPermissionError))
        for each in (error, error.__cause__)
    )


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended: redis-py tidies up with commands, which may hang as well."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_PAUSE)


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which certainly ends.

    Raises:
        TimeoutError: it took longer.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise TimeoutError(f"it took longer than {seconds:g} s")
        return task.result()
    finally:
        await end(task)
