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
from typing import Any, TypeVar, cast

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
    """Cancels what runs inside, once: at a time (`anyio.current_time()`), or when told to.

    Attributes:
        expired: that has happened. If what ran inside ended by it, the block is left without an
            exception: its owner looks here.
    """

    expired: bool = False
    _before: int = 0
    _task: asyncio.Task[Any] | None = None
    _timer: asyncio.TimerHandle | None = None
    _scope: anyio.CancelScope | None = None

    def __init__(self, when: float = inf) -> None:
        self._when = when

    def __enter__(self) -> Deadline:
        if not on_asyncio():
            self._scope = anyio.CancelScope(deadline=-inf if self.expired else self._when)
            self._scope.__enter__()
            return self
        self._task = task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._before = task.cancelling()
        if self.expired:
            task.cancel()
        elif self._when < inf:
            self._timer = task.get_loop().call_at(self._when, self.expire)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        scope, task = self._scope, self._task
        if scope is not None:
            self._scope = None
            swallowed = bool(scope.__exit__(kind, error, traceback))
            self.expired = self.expired or scope.cancel_called
            return swallowed
        self._task = None
        if self._timer is not None:
            self._timer.cancel()
        if not self.expired or task is None:
            return False
        # As `asyncio.timeout` does: a cancellation from elsewhere, besides ours, goes on.
        others = task.uncancel() > self._before
        return kind is not None and issubclass(kind, asyncio.CancelledError) and not others

    def expire(self) -> None:
        """End the block now, or as soon as it begins."""
        if self.expired:
            return
        self.expired = True
        if self._scope is not None:
            self._scope.cancel()
        elif self._task is not None:
            self._task.cancel()


class Alarm:
    """Calls a function at a time, on the event loop that sets it; the time may only come nearer."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._at = inf
        self._home: object = None

    def set(self, when: float, home: object) -> None:
        """Ring at `when` (`anyio.current_time()`), unless that is to happen earlier already.

        Args:
            when: the time.
            home: the running event loop, as `event_loop()` says.
        """
        if when >= self._at and home is self._home:
            return
        self._at, self._home = when, home
        if isinstance(home, asyncio.AbstractEventLoop):
            home.call_at(when, self._due, when)
        else:
            import trio

            trio.lowlevel.spawn_system_task(self._sleep, when)

    async def _sleep(self, when: float) -> None:
        await anyio.sleep_until(when)
        self._due(when)

    def _due(self, when: float) -> None:
        if when == self._at:  # else an earlier time was set since
            self._at = inf
            self._ring()


def event_loop() -> object:
    """The running event loop: a thing to compare."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token()


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
