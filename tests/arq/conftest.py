"""A queue on the run's server, and workers that end with their test."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from arq.connections import ArqRedis, RedisSettings

from jobguard import JobGuard
from jobguard.adapters.arq import create_pool
from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey
from tests.arq.harness import Bench


@pytest.fixture
async def bench(valkey: EmbeddedValkey, tmp_path: Path) -> AsyncIterator[Bench]:
    """An empty queue. Whatever workers a test starts are ended, and their output shown if it fails."""
    pool = await create_pool(RedisSettings(unix_socket_path=valkey.socket_path))
    await pool.flushall()
    bench = Bench(pool, JobGuard(RedisStore(pool)), valkey.socket_path, tmp_path)
    yield bench
    for worker in bench.workers:
        worker.kill()
        sys.stdout.write(worker.output())
    await pool.aclose()


@pytest.fixture
async def pool(valkey: EmbeddedValkey) -> AsyncIterator[ArqRedis]:
    """An empty queue, for workers in the test's own process."""
    pool = await create_pool(RedisSettings(unix_socket_path=valkey.socket_path))
    await pool.flushall()
    yield pool
    await pool.aclose()
