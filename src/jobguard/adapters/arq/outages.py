"""Errors that say that Redis is away for a while, or that it will never do as asked; what to log of them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterator
from math import inf
from typing import Any, TypeVar

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ExecAbortError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    WatchError,
)

from jobguard.stores.batching import is_passing
from jobguard.stores.replies import without

T = TypeVar("T")

_FOR_NOW = frozenset({"BUSY", "LOADING", "MISCONF", "NOREPLICAS", "OOM", "READONLY"})
"""First words of a server that does not do as asked for now: it runs somebody's script or starts up; its
disk or memory is full; its replicas are gone; it is one itself."""
_BEFORE_ANSWERS = (" of pipeline caused error: ", "Transaction discarded because of: ")
"""What redis-py, or the server, says before the answer to a command of several."""
_CANCEL_PAUSE = 0.2
"""Seconds that each `await` of a cancelled task may still take before the next is cancelled too."""
_GIVING_IN = 2.0
"""Seconds that work whose time is over has to give in to being cancelled."""


def is_outage(error: BaseException) -> bool:
    """Whether the same command can succeed later, with nothing changed here."""
    cause = error.__cause__
    if isinstance(cause, ResponseError) and not isinstance(cause, ExecAbortError) and not is_outage(cause):
        return False  # the server is there; redis-py wraps what it answers to a new connection
    if is_passing(error) or isinstance(error, OutOfMemoryError):
        return True
    if isinstance(error, WatchError):
        return True  # where nobody expects one, it is how redis-py tells of a connection that broke
    if not isinstance(error, ResponseError):
        return False
    said = answer(error)
    return said.partition(" ")[0] in _FOR_NOW or is_passing(ResponseError(said))


def answer(error: BaseException) -> str:
    """What an error says, without the command that redis-py repeats: its arguments are the user's data."""
    said = str(error)
    for words in _BEFORE_ANSWERS:
        _, found, rest = said.rpartition(words)
        said = rest.lstrip("('\"") if found else said
    return said


def shown(error: BaseException, secrets: Collection[str]) -> str:
    """What may be logged of an error: no command, and none of these passwords, which a server may repeat."""
    return f"{type(error).__name__}: {without(answer(error), secrets)}"


def traced(error: BaseException, secrets: Collection[str]) -> BaseException:
    """An error to log the traceback of, which prints what errors say: those of redis-py it leaves out."""
    if not any(isinstance(each, RedisError) for each in _chain(error)):
        return error
    return RedisError(shown(error, secrets)).with_traceback(error.__traceback__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_refusal(error: BaseException) -> bool:
    """Whether the server does not let us in, or not do what a worker has to."""
    return any(
        isinstance(each, (AuthenticationError, AuthorizationError, NoPermissionError))
        for each in (error, error.__cause__)
    )


async def end(task: asyncio.Task[Any], bound: float = inf) -> None:
    """Cancel a task until it has ended: redis-py tidies up with commands, which may hang as well.

    Args:
        bound: seconds after which it is left to itself: it may swallow each cancellation.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + bound
    while not task.done() and loop.time() < until:
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_PAUSE)


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. If it takes longer it is cancelled; if it does not give in, it is left alone.

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
        await end(task, _GIVING_IN)
