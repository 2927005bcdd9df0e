"""Debian's Redis 7: the server that is installed, or Debian's packages unpacked without installing them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PATIENCE = 120.0
"""Seconds for one command of apt or dpkg."""
CURE = "install one with: apt-get install redis-server"


class NoRedis7(Exception):
    """There is no Redis 7, and none could be unpacked; says what to do."""


def find_redis7(cache: Path | None = None) -> Path:
    """The executable of a Redis 7.

    That is `redis-server` where the PATH leads to one of that version; else one out of the packages that
    apt offers, which takes a few seconds once and needs no rights but to read apt's lists.

    Args:
        cache: where packages are unpacked; None = a directory below the virtual environment.

    Raises:
        NoRedis7: neither is to be had.
    """
    installed = shutil.which("redis-server")
    if installed is not None and _is_version_7(Path(installed)):
        return Path(installed)
    directory = Path(sys.prefix) / "redis7" if cache is None else cache
    server = directory / "redis-server"
    if not server.exists():
        _unpack(directory)
    if not _is_version_7(server):
        raise NoRedis7(f"{server} is no Redis 7 that runs here; {CURE}")
    return server


def _is_version_7(server: Path) -> bool:
    try:
        told = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=PATIENCE)
    except OSError:
        return False
    return re.search(r"\bRedis server v=7\.", told.stdout) is not None


def _unpack(directory: Path) -> None:
    """Fetch the server and the libraries that this system lacks; what is half done is never seen."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NoRedis7(f"there is no redis-server 7 on the PATH, and no apt-get to fetch one with; {CURE}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="redis7-", dir=directory.parent) as made:
        new = Path(made) / "redis7"
        new.mkdir()
        _run(["apt-get", "-q", "download", *_packages()], new)
        for package in sorted(new.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(new / "root")], new)
            package.unlink()
        root = directory / "root"
        libraries = sorted({each.parent for each in (new / "root").rglob("*.so.*")})
        path = ":".join(str(root / each.relative_to(new / "root")) for each in libraries)
        # A script, so that whoever runs it needs to know nothing of libraries; it becomes the server.
        script = new / "redis-server"
        script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{path}" exec "{root}/usr/bin/redis-server" "$@"\n')
        script.chmod(0o755)
        try:
            new.rename(directory)
        except OSError:
            # Somebody else was faster, or left one that does not run.
            if not (directory / "redis-server").exists():
                raise


def _packages() -> list[str]:
    """What an installation would add: names of packages."""
    simulate = ["apt-get", "-q", "--simulate", "--no-install-recommends", "install", "redis-server"]
    try:
        told = _run(simulate, Path.cwd())
    except NoRedis7:
        # No lists yet. Where that is not allowed, the first error is the one to tell.
        if os.geteuid() != 0:
            raise
        _run(["apt-get", "-q", "update"], Path.cwd())
        told = _run(simulate, Path.cwd())
    # Named themselves too: a server of another version may be installed, and then nothing is new.
    return sorted({"redis-server", "redis-tools", *re.findall(r"^Inst (\S+)", told, flags=re.MULTILINE)})


def _run(command: list[str], directory: Path) -> str:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoRedis7(f"{' '.join(command[:3])} … has failed: {error}; {CURE}") from error
    if done.returncode != 0:
        raise NoRedis7(f"{' '.join(command[:3])} … has failed: {done.stderr.strip()[-500:]}; {CURE}")
    return done.stdout
