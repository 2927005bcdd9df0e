"""The demo as a user runs it: what it prints, and what is left of it, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "examples/arq_worker.py", "--json", "--jobs", "80"]
KEYS = [
    "accepted",
    "succeeded",
    "failed",
    "dead_lettered",
    "duplicates",
    "retries",
    "interruptions",
    "crashes",
    "lost",
    "delivered_twice",
    "repeated_after_crash",
    "seconds",
]
TIMEOUT = 120.0

pytestmark = pytest.mark.anyio


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for all that the demo makes, with a path short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="jg-", dir="/tmp") as directory:
        yield Path(directory)


def environment(place: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(place), "REDIS_URL": "", **more}


def processes_of(place: Path) -> list[int]:
    """The processes that were started with this directory in their environment, on systems that tell."""
    mark = f"TMPDIR={place}\0".encode()
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def wait_until_gone(place: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while processes_of(place) or any(place.iterdir()):
        assert time.monotonic() < deadline, (processes_of(place), [*place.iterdir()])
        time.sleep(0.05)


def run(place: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(place, **more),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_the_accounts_balance(place: Path) -> None:
    """One object on standard output, with these numbers; and nothing is left."""
    done = run(place)
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    assert list(account) == KEYS
    assert account["lost"] == account["delivered_twice"] == 0
    assert account["accepted"] == account["succeeded"] + account["failed"] + account["dead_lettered"]
    assert account["duplicates"] == 16  # one job in five is a webhook that is delivered again
    assert account["retries"] > 0
    assert account["dead_lettered"] > 0
    wait_until_gone(place)


async def test_a_server_of_the_users_is_left_as_it_was(
    place: Path, redis_client: Redis, redis_url: str
) -> None:
    """The demo works under names of its own, and removes them."""
    await redis_client.set("arq:job:mine", "payload")
    await redis_client.zadd("arq:queue", {"mine": 1})
    done = run(place, REDIS_URL=redis_url)
    assert done.returncode == 0, done.stderr
    assert sorted(await redis_client.keys("*")) == [b"arq:job:mine", b"arq:queue"]


@contextmanager
def demo_up_to(sign: str, place: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A demo that has just printed a line with `sign` in it; killed at the end if it still runs."""
    demo = subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment(place, **more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert demo.stderr is not None
        assert any(sign in line for line in demo.stderr)
        yield demo
    finally:
        demo.kill()
        demo.communicate()


@pytest.mark.parametrize("sign", ["80 jobs", "worker killed"], ids=["at the start", "in the middle"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_ending_the_demo_leaves_nothing_behind(place: Path, how: signal.Signals, sign: str) -> None:
    """No server, no worker, no stand-in, no directory; and an exit code that says how it ended."""
    with demo_up_to(sign, place) as demo:
        demo.send_signal(how)
        assert demo.wait(TIMEOUT) == (-how if how is signal.SIGKILL else 128 + how)
    wait_until_gone(place)


async def test_a_killed_demo_leaves_nothing_on_a_server_of_the_users(
    place: Path, redis_client: Redis, redis_url: str
) -> None:
    """Its keeper outlives it, and cleans up."""
    with demo_up_to("worker killed", place, REDIS_URL=redis_url) as demo:
        assert await redis_client.dbsize() > 0
        demo.kill()
    wait_until_gone(place)
    assert await redis_client.keys("*") == []


def test_a_server_that_is_not_there_is_said_so(place: Path) -> None:
    """In a line, not in a traceback."""
    done = run(place, REDIS_URL=f"unix://{place}/nobody")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
