"""Workers in the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq.connections import RedisSettings
from arq.typing import WorkerCoroutine
from arq.worker import create_worker, func

from jobguard.adapters.arq import protect
from jobguard.adapters.arq.surviving import SurvivingWorker
from jobguard.testing import EmbeddedValkey

Context = dict[Any, Any]


async def drain(socket: str, body: WorkerCoroutine, **settings: Any) -> None:
    """Run a worker that has `task` until the queue is empty."""
    protected = protect(
        {
            "functions": [func(body, name="task")],
            "redis_settings": RedisSettings(unix_socket_path=socket),
            "poll_delay": 0.02,
            "burst": True,
            "handle_signals": False,
            **settings,
        }
    )
    worker = create_worker(protected)
    try:
        await worker.async_run()
    finally:
        await worker.close()


@asynccontextmanager
async def working(
    valkey: EmbeddedValkey, body: WorkerCoroutine, lease: float = 30.0, **settings: Any
) -> AsyncIterator[SurvivingWorker]:
    """A worker that runs `task` while the block does."""
    protected = protect(
        {
            "functions": [func(body, name="task")],
            "redis_settings": RedisSettings(unix_socket_path=valkey.socket_path),
            **settings,
        },
        lease=lease,
    )
    known = {name: value for name, value in protected.items() if not name.startswith("__")}
    worker = SurvivingWorker(patience=5, **known)
    serving = asyncio.get_running_loop().create_task(worker.serve())
    yield worker
    serving.cancel()
    await asyncio.wait({serving})
    await worker.halt()
    await worker.interrupt()
    await worker.shut_down()
