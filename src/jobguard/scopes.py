"""Deadlines that can be moved, and work that outlives its caller's cancellation.

On asyncio a deadline cancels once, as `asyncio.timeout` does: bodies written for asyncio await in
their `finally` blocks, and anyio's scopes would cancel those awaits again and again. On trio it is
a cancel scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from types import TracebackType
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


def on_asyncio() -> bool:
    """Whether asyncio runs the current task; if not, trio does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def cut_off(error: Exception) -> bool:
    """Whether an error stands for a cancellation of the current task: a clean-up that failed, or a
    task group whose children did.

    asyncio counts a cancellation that somebody swallowed for as long as the task lives. So there an
    error must also bear the trace of one.
    """
    if not on_asyncio():
        return anyio.current_effective_deadline() == -inf
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return False
    return isinstance(error, ExceptionGroup) or _follows_cancellation(error)


def _follows_cancellation(error: BaseException) -> bool:
    seen: set[int] = set()
    earlier: BaseException | None = error
    while earlier is not None and id(earlier) not in seen:
        if isinstance(earlier, asyncio.CancelledError):
            return True
        seen.add(id(earlier))
        earlier = earlier.__context__
    return False


class Deadline:
    """Cancels what runs inside at a time (`anyio.current_time()`), which may be moved meanwhile.

    Attributes:
        expired: the deadline passed while the block ran. If what ran inside ended by that, the
            block is left without an exception: its owner looks here.
    """

    __slots__ = ("_scope", "_timeout", "_when", "expired")

    def __init__(self, when: float) -> None:
        self._when = when
        self._timeout: asyncio.Timeout | None = None
        self._scope: anyio.CancelScope | None = None
        self.expired: bool = False

    async def __aenter__(self) -> Deadline:
        if on_asyncio():
            self._timeout = await asyncio.timeout_at(self._when).__aenter__()
        else:
            self._scope = anyio.CancelScope(deadline=self._when)
            self._scope.__enter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._timeout is not None:
            timeout, self._timeout = self._timeout, None
            self.expired = timeout.expired()
            try:
                await timeout.__aexit__(kind, error, traceback)
            except TimeoutError:
                return True
            return False
        assert self._scope is not None
        scope, self._scope = self._scope, None
        swallowed = bool(scope.__exit__(kind, error, traceback))
        self.expired = scope.cancel_called
        return swallowed

    def move(self, when: float) -> None:
        """Let the deadline be at another time; one that has passed ends the block now."""
        if self._timeout is not None:
            if not self._timeout.expired():
                self._timeout.reschedule(when)
        elif self._scope is not None:
            self._scope.deadline = when
        self._when = when


class Background:
    """Tasks that must not end with the one that started them.

    References are kept, since event loops hold only weak ones.
    """

    def __init__(self) -> None:
        self._services: set[asyncio.Task[Any]] = set()
        self._owed: set[asyncio.Task[Any]] = set()

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` beside everything else, until it ends or the event loop does."""
        if on_asyncio():
            _keep(asyncio.get_running_loop().create_task(work()), self._services)
        else:
            import trio

            trio.lowlevel.spawn_system_task(work)

    async def see_through(self, work: Callable[[], Awaitable[T]], bound: float) -> T | None:
        """The result of `work`, which ends whether or not the caller is cancelled meanwhile.

        Gives up waiting after `bound` seconds and returns None; on asyncio the work goes on.
        A task of its own under `asyncio.shield`, because a second native `cancel()` passes
        through anyio's shielded scopes.
        """
        if on_asyncio():

            async def run() -> T:
                return await work()

            task = asyncio.get_running_loop().create_task(run())
            _keep(task, self._owed)
            done: set[asyncio.Task[T]] = set()
            with anyio.CancelScope(shield=True):  # anyio cancels again at every await
                done, _ = await asyncio.wait({task}, timeout=bound)
            return task.result() if done else None
        with anyio.move_on_after(bound, shield=True):
            return await work()
        return None

    def owe(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` beside everything else; `aclose` waits for it. asyncio only."""
        _keep(asyncio.get_running_loop().create_task(work()), self._owed)

    async def aclose(self) -> None:
        """Wait for what was to be seen through and is still going on."""
        while self._owed:
            await asyncio.wait(set(self._owed))


def _keep(task: asyncio.Task[Any], tasks: set[asyncio.Task[Any]]) -> None:
    def ended(task: asyncio.Task[Any]) -> None:
        tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen; the work itself reports its failures as events

    tasks.add(task)
    task.add_done_callback(ended)
