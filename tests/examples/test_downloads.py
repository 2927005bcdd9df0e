"""Downloads: whole or not there, in the directory and nowhere else."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import httpx
import pytest

from examples.downloads import Downloads
from examples.remote import Refused, TryAgain

pytestmark = pytest.mark.anyio

CONTENT = b"content" * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()

Answer = Callable[[httpx.Request], httpx.Response]


class Trickle(httpx.AsyncByteStream):
    """A body that comes in pieces, and may break or stall after them."""

    def __init__(
        self, *chunks: bytes, error: Exception | None = None, stalled: anyio.Event | None = None
    ) -> None:
        self._chunks = chunks
        self._error = error
        self._stalled = stalled

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if self._error is not None:
            raise self._error
        if self._stalled is not None:
            self._stalled.set()
            await anyio.sleep_forever()


def downloads(directory: Path, answer: Answer, limit: int = 10_000) -> Downloads:
    return Downloads(httpx.AsyncClient(transport=httpx.MockTransport(answer)), directory, limit)


def inside(directory: Path) -> list[str]:
    """The names in a directory."""
    return sorted(path.name for path in directory.iterdir())


def serving(content: bytes = CONTENT) -> Answer:
    return lambda request: httpx.Response(200, content=content)


async def test_a_download_is_named_by_its_content(tmp_path: Path) -> None:
    """The result names a file that holds exactly what was sent."""
    file = await downloads(tmp_path, serving()).fetch("https://files.example/a/photo.JPG?size=1")
    assert file == {"name": f"{DIGEST}.jpg", "sha256": DIGEST, "size": len(CONTENT)}
    assert (tmp_path / file["name"]).read_bytes() == CONTENT


async def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    """Nothing to write is not nothing to keep."""
    file = await downloads(tmp_path, serving(b"")).fetch("https://files.example/empty")
    assert (tmp_path / file["name"]).read_bytes() == b""


async def test_the_same_content_from_two_places_is_one_file(tmp_path: Path) -> None:
    """A second download of it does no harm."""
    service = downloads(tmp_path, serving())
    assert await service.fetch("https://a.example/x.png") == await service.fetch("https://b.example/y.png")
    assert len(inside(tmp_path)) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://files.example/../../etc/passwd",
        "https://files.example/..%2f..%2fetc%2fpasswd",
        "https://files.example/a.%2e%2e%2fb",
        "https://files.example/a.j/../..",
        "https://files.example/name.with%00zero",
        "https://files.example/.part-",
        "https://files.example/a.averylongsuffix",
    ],
)
async def test_no_url_leads_out_of_the_directory(tmp_path: Path, url: str) -> None:
    """The name is made of the content; of a URL at most a short plain suffix gets into it."""
    directory = tmp_path / "downloads"
    await downloads(directory, serving()).fetch(url)
    assert inside(tmp_path) == ["downloads"]
    (name,) = inside(directory)
    assert re.fullmatch(rf"{DIGEST}(\.[a-z0-9]{{1,8}})?", name)


async def test_a_redirect_is_followed(tmp_path: Path) -> None:
    """Media links point to other hosts."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/old":
            return httpx.Response(302, headers={"Location": "https://other.example/new"})
        return httpx.Response(200, content=CONTENT)

    file = await downloads(tmp_path, answer).fetch("https://files.example/old")
    assert file["sha256"] == DIGEST


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_an_error_that_passes_is_tried_again_when_the_server_says(tmp_path: Path, status: int) -> None:
    """With the delay of its Retry-After header."""
    answer = httpx.Response(status, headers={"Retry-After": "9"})
    with pytest.raises(TryAgain) as raised:
        await downloads(tmp_path, lambda request: answer).fetch("https://files.example/a")
    assert raised.value.retry_after == 9
    assert inside(tmp_path) == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_any_other_error_is_final(tmp_path: Path, status: int) -> None:
    """A file that is not there will not be there later."""
    with pytest.raises(Refused):
        await downloads(tmp_path, lambda request: httpx.Response(status)).fetch("https://files.example/a")


@pytest.mark.parametrize(
    "url", ["ftp://files.example/a", "file:///etc/passwd", "not a url", "https://files.example:port/a"]
)
async def test_a_url_that_cannot_be_fetched_is_final(tmp_path: Path, url: str) -> None:
    """Only the network is worth another try."""
    service = Downloads(httpx.AsyncClient(), tmp_path, 100)
    with pytest.raises(Refused):
        await service.fetch(url)


async def test_a_redirect_without_end_is_final(tmp_path: Path) -> None:
    """A ring of redirects stays one."""
    ring = httpx.Response(302, headers={"Location": "https://files.example/a"})
    with pytest.raises(Refused):
        await downloads(tmp_path, lambda request: ring).fetch("https://files.example/a")


async def test_a_declared_size_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    """The header suffices."""

    def answer(request: httpx.Request) -> httpx.Response:
        body = Trickle(error=AssertionError("the body was read"))
        return httpx.Response(200, headers={"Content-Length": "101"}, stream=body)

    with pytest.raises(Refused, match="limit"):
        await downloads(tmp_path, answer, limit=100).fetch("https://files.example/a")


async def test_a_body_over_the_limit_is_cut_off(tmp_path: Path) -> None:
    """Where no size is declared, what has come is counted; nothing of it stays."""
    answer = httpx.Response(200, stream=Trickle(b"x" * 60, b"x" * 60))
    with pytest.raises(Refused, match="limit"):
        await downloads(tmp_path, lambda request: answer, limit=100).fetch("https://files.example/a")
    assert inside(tmp_path) == []


async def test_a_body_of_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    """The limit is the largest size that is allowed."""
    file = await downloads(tmp_path, serving(), limit=len(CONTENT)).fetch("https://files.example/a")
    assert file["size"] == len(CONTENT)


async def test_a_connection_that_breaks_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """Half a file is no file; it is worth another try."""
    answer = httpx.Response(200, stream=Trickle(b"half", error=httpx.ReadError("reset")))
    with pytest.raises(TryAgain):
        await downloads(tmp_path, lambda request: answer).fetch("https://files.example/a")
    assert inside(tmp_path) == []


async def test_a_cancelled_download_leaves_nothing(tmp_path: Path) -> None:
    """Shutdowns and time limits come in the middle, too."""
    stalled = anyio.Event()
    answer = httpx.Response(200, stream=Trickle(b"half", stalled=stalled))
    async with anyio.create_task_group() as group:
        group.start_soon(downloads(tmp_path, lambda request: answer).fetch, "https://files.example/a")
        await stalled.wait()
        assert len(inside(tmp_path)) == 1
        group.cancel_scope.cancel()
    assert inside(tmp_path) == []


async def test_content_is_on_disk_before_it_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flush, rename, flush the directory: a power cut between any two leaves the whole file or none."""
    steps: list[str] = []
    flush, rename = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append("flush")
        flush(descriptor)

    def replace(path: Path, target: Path) -> Path:
        steps.append("rename")
        assert path.read_bytes() == CONTENT
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    await downloads(tmp_path, serving()).fetch("https://files.example/a")
    assert steps == ["flush", "rename", "flush"]


def test_what_a_killed_worker_left_is_swept_and_the_rest_is_not(tmp_path: Path) -> None:
    """Only parts, and only those that nobody can be writing any more."""
    old, new, file = tmp_path / ".part-old", tmp_path / ".part-new", tmp_path / "file"
    for path in (old, new, file):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(file, (0, 0))
    assert downloads(tmp_path, serving()).sweep(older_than=600) == 1
    assert sorted(tmp_path.iterdir()) == [new, file]
