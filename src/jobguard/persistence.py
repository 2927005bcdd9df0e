"""Writing what must not be lost: again while the store is out of reach, and through cancellation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from jobguard.errors import StoreError
from jobguard.scopes import Background

T = TypeVar("T")

PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between tries; they double from the first to the second."""
CANCELLED_BOUND = 2.0
"""Seconds that a write may hold a cancellation up."""


async def persist(
    write: Callable[[], Awaitable[T]],
    failed: Callable[[StoreError], None],
    until: float,
    background: Background,
) -> T:
    """The answer of `write`, which is tried until it succeeds or time is up.

    A cancelled caller does not stop it: it is sent once more, apart, before the cancellation goes
    on. `write` must therefore be safe to repeat, as every operation of a store is.

    Args:
        write: one operation of a store.
        failed: told of every error.
        until: `anyio.current_time()` after which no further try starts.
        background: where the write goes on if the caller is cancelled.

    Raises:
        StoreError: the last one, when time is up.
    """
    pause = PAUSE
    while True:
        try:
            return await write()
        except StoreError as error:
            failed(error)
            if anyio.current_time() + pause >= until:
                raise
        except anyio.get_cancelled_exc_class():
            await background.see_through(lambda: _once(write, failed), CANCELLED_BOUND)
            raise
        await anyio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


async def _once(write: Callable[[], Awaitable[T]], failed: Callable[[StoreError], None]) -> None:
    try:
        await write()
    except StoreError as error:
        failed(error)
