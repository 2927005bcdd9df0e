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
    "replayed",
    "resolved",
    "retries",
    "interruptions",
    "crashes",
    "lost",
    "delivered_twice",
    "repeated_after_crash",
    "seconds",
]
EXPIRED = "error=examples.whatsapp.WhatsAppTokenExpired"
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


def test_the_demo_has_the_letters_run_again_whose_cause_has_gone(place: Path) -> None:
    """By the real command, shown with what it says; all of them succeed, and the rest stays."""
    done = run(place)
    account = json.loads(done.stdout)
    assert account["replayed"] == account["resolved"] == 8
    commands = [line for line in done.stderr.splitlines() if line.startswith("$ ")]
    assert commands[0] == "$ jobguard dlq queues"
    assert any(line.startswith(f"$ jobguard dlq requeue {EXPIRED}") for line in commands)
    assert "8 requeued" in done.stderr
    assert "examples.remote.Refused" in done.stderr


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
def demo(place: Path, *arguments: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """A demo that runs, and the lines that it says; killed at the end if it still runs."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(place, **more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        yield process, iter(process.stderr)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def demo_up_to(sign: str, place: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A demo that has just printed a line with `sign` in it."""
    with demo(place, **more) as (process, lines):
        assert any(sign in line for line in lines)
        yield process


@pytest.mark.parametrize(
    "sign",
    ["80 jobs", "worker killed", "dlq requeue"],
    ids=["at the start", "in the middle", "in a requeue"],
)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_ending_the_demo_leaves_nothing_behind(place: Path, how: signal.Signals, sign: str) -> None:
    """No server, no worker, no stand-in, no directory; and an exit code that says how it ended."""
    with demo_up_to(sign, place) as process:
        process.send_signal(how)
        assert process.wait(TIMEOUT) == (-how if how is signal.SIGKILL else 128 + how)
    wait_until_gone(place)


@pytest.mark.parametrize("sign", ["worker killed", "dlq list"], ids=["in the middle", "after a requeue"])
async def test_a_killed_demo_leaves_nothing_on_a_server_of_the_users(
    sign: str, place: Path, redis_client: Redis, redis_url: str
) -> None:
    """Its keeper outlives it, and cleans up."""
    with demo_up_to(sign, place, REDIS_URL=redis_url) as process:
        assert await redis_client.dbsize() > 0
        process.kill()
    wait_until_gone(place)
    assert await redis_client.keys("*") == []


def test_a_server_that_is_not_there_is_said_so(place: Path) -> None:
    """In a line, not in a traceback."""
    done = run(place, REDIS_URL=f"unix://{place}/nobody")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_demo_that_is_kept_can_be_worked_on(place: Path) -> None:
    """It says how to reach it; a requeue succeeds, since its worker goes on; Ctrl-C ends it all."""
    settings: dict[str, str] = {}
    with demo(place, "--keep") as (process, lines):
        for line in lines:
            if line.startswith("    export JOBGUARD_"):
                name, _, value = line.removeprefix("    export ").strip().partition("=")
                settings[name] = value
            if "Ctrl-C" in line:
                break

        def jobguard(*arguments: str) -> str:
            command = [sys.executable, "-m", "jobguard", "dlq", *arguments, "--queue", "whatsapp"]
            done = subprocess.run(
                command,
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=True,
            )
            return done.stdout.strip()

        assert jobguard("count", EXPIRED) == "5"
        jobguard("requeue", EXPIRED, "--yes")
        deadline = time.monotonic() + TIMEOUT
        while jobguard("count", "state=resolved") != "8":
            assert time.monotonic() < deadline, jobguard("list", "state=all")
        assert jobguard("count", EXPIRED) == "0"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
    wait_until_gone(place)
