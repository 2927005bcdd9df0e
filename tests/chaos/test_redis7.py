"""Where the campaign's Redis 7 comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.redis7 import NoRedis7, find_redis7


def program(directory: Path, name: str, does: str) -> Path:
    """A script on the PATH."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on the PATH besides those of the shell, which has no program of interest."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def test_takes_the_server_that_is_installed(programs: Path, tmp_path: Path) -> None:
    """A redis-server of version 7 on the PATH is the one."""
    installed = program(programs, "redis-server", 'echo "Redis server v=7.0.15 sha=00000000:0"')
    assert find_redis7(tmp_path / "cache") == installed
    assert not (tmp_path / "cache").exists()


def test_says_how_to_get_one(programs: Path, tmp_path: Path) -> None:
    """Where there is none, or one of another version, and nothing to fetch one with, the cure is named."""
    with pytest.raises(NoRedis7, match="apt-get install redis-server"):
        find_redis7(tmp_path / "cache")
    program(programs, "redis-server", 'echo "Redis server v=8.0.1 sha=00000000:0"')
    with pytest.raises(NoRedis7, match="apt-get install redis-server"):
        find_redis7(tmp_path / "cache")


def test_says_what_apt_said(programs: Path, tmp_path: Path) -> None:
    """An apt that fails is quoted, beside the cure, and nothing half done is left."""
    program(programs, "apt-get", 'echo "E: no such luck" >&2; exit 100')
    program(programs, "dpkg-deb", "exit 1")
    with pytest.raises(NoRedis7, match=r"no such luck.*apt-get install redis-server"):
        find_redis7(tmp_path / "cache" / "redis7")
    assert list((tmp_path / "cache").iterdir()) == []


def test_unpacks_what_apt_offers(programs: Path, tmp_path: Path) -> None:
    """Packages are unpacked once, and the server starts with the libraries that came along."""
    program(
        programs,
        "apt-get",
        'case "$*" in *simulate*) echo "Inst liblzf1 (3.6-3)";; *download*) for each in "$@"; do\n'
        'case "$each" in redis-server|liblzf1) : > "$each.deb";; esac; done;; esac; echo "$@" >> "$0.log"',
    )
    program(programs, "redis", 'echo "Redis server v=7.0.15 with $LD_LIBRARY_PATH"')
    program(
        programs,
        "dpkg-deb",
        '/bin/mkdir -p "$3/usr/bin" "$3/usr/lib/here"; : > "$3/usr/lib/here/liblzf.so.1"\n'
        f'/bin/cp "{programs}/redis" "$3/usr/bin/redis-server"',
    )
    cache = tmp_path / "below" / "redis7"
    server = find_redis7(cache)
    assert server == cache / "redis-server"
    assert f'LD_LIBRARY_PATH="{cache}/root/usr/lib/here"' in server.read_text()
    asked = (programs / "apt-get.log").read_text()
    assert find_redis7(cache) == server
    assert (programs / "apt-get.log").read_text() == asked
    assert "download liblzf1 redis-server redis-tools" in asked
