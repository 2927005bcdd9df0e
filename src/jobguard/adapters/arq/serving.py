"""A worker says which tasks it serves, so that nobody puts a job back that no worker would run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from jobguard.adapters.base import served_name
from jobguard.errors import StoreError
from jobguard.events import StoreFailed
from jobguard.policies import DAY
from jobguard.runtime import Runtime

RENEWED = DAY / 24
"""Seconds between announcements; each lasts a day, so that a worker may be down for a while."""
AGAIN = 5.0
"""Seconds after which one that failed is made again."""


class Serving:
    """Announces names from `start` to `aclose`.

    Args:
        runtime: where.
        adapter, queue: whose tasks these are.
        tasks: their names.
    """

    def __init__(self, runtime: Runtime, adapter: str, queue: str, tasks: Iterable[str]) -> None:
        self._runtime = runtime
        self._names = [served_name(adapter, queue, task) for task in tasks]
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._work = asyncio.get_running_loop().create_task(self._announce())

    async def aclose(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait({self._work})

    async def _announce(self) -> None:
        runtime = self._runtime
        while True:
            pause = RENEWED
            try:
                await runtime.store.announce(runtime.namespace, self._names, DAY)
            except StoreError as error:
                runtime.emit(StoreFailed(task="", operation="announce", error=repr(error)))
                pause = AGAIN
            await asyncio.sleep(pause)
