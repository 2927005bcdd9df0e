"""The ACL user that the deployment guide gives a worker: may do all that one needs, and little else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.worker import create_worker
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from jobguard import JobGuard, constant, dead_letter, deduplicated, retrying
from jobguard.adapters.arq import create_pool, protect
from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "deployment.md"


def documented_rule() -> str:
    [rule] = re.findall(r"^user (worker on >password .*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    return str(rule)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    """A server of which only the guide's user and the administrator may do anything."""
    with EmbeddedValkey(password="admin", config={"user": documented_rule()}) as server:
        yield server


@pytest.fixture
def settings(server: EmbeddedValkey) -> RedisSettings:
    return RedisSettings(unix_socket_path=server.socket_path, username="worker", password="password")


@deduplicated(key="{order}")
@retrying(attempts=2, backoff=constant(0.01))
@dead_letter
async def pay(ctx: dict[Any, Any], order: str) -> str:
    if order == "bad":
        raise ValueError(order)
    return f"{order} paid"


async def test_a_worker_needs_no_more(server: EmbeddedValkey, settings: RedisSettings) -> None:
    """Enqueue, work, retry, keep a dead letter, read and remove it: all as that user."""
    pool = await create_pool(settings)
    good, bad = [await pool.enqueue_job("pay", order) for order in ("good", "bad")]
    worker = create_worker(
        protect(
            {
                "functions": [pay],
                "redis_settings": settings,
                "burst": True,
                "poll_delay": 0.02,
                "handle_signals": False,
                "allow_abort_jobs": True,
            }
        )
    )
    async with asyncio.timeout(20):  # what may not be written is written again and again
        await worker.async_run()
    await worker.close()
    assert good is not None
    assert bad is not None
    assert await good.result(timeout=20) == "good paid"
    with pytest.raises(ValueError, match="bad"):
        await bad.result(timeout=20)
    await pool.aclose()
    store = RedisStore.from_url(f"unix://worker:password@{server.socket_path}")
    letters = JobGuard(store).dead_letters()
    [letter] = (await letters.list()).entries
    assert letter.reason == "exhausted"
    assert await letters.remove(letter.id) is True
    assert await letters.queues() == ["default"]
    await store.aclose()


@pytest.mark.parametrize("command", [("GET", "other"), ("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*")])
async def test_other_keys_and_the_server_itself_are_out_of_reach(
    server: EmbeddedValkey, command: tuple[str, ...]
) -> None:
    """Neither another application's data nor commands that administer the server."""
    async with Redis.from_url(f"unix://worker:password@{server.socket_path}") as client:
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command)
