"""Downloads that are complete or not there at all."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict

import anyio
import httpx

from examples.remote import Refused, TryAgain, failure

CHUNK = 64 * 1024
PART = ".part-"
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}\Z")


class Downloaded(TypedDict):
    """A file on disk, by its name in the download directory."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Downloads:
    """Fetches files into a directory.

    A file is written under a temporary name, flushed to disk and then renamed, so that what has a
    final name is whole. That name is made of the content's sha256, so nothing in a URL decides where
    a file goes.

    Args:
        client: carries the requests.
        directory: where files go.
        limit: bytes that a file may have.
    """

    client: httpx.AsyncClient
    directory: Path
    limit: int

    async def fetch(self, url: str) -> Downloaded:
        """Download a file.

        Raises:
            TryAgain: 408, 429, 5xx or a broken connection.
            Refused: any other status, a URL that cannot be fetched, or a file over the limit.
        """
        part: _Part | None = None
        try:
            async with self.client.stream(
                "GET", url, headers={"Accept-Encoding": "identity"}, follow_redirects=True
            ) as response:
                if not response.is_success:
                    raise failure(response)
                self._check_size(int(response.headers.get("Content-Length", 0)))
                part = _Part.create(self.directory)
                async for chunk in response.aiter_bytes(CHUNK):
                    part.write(chunk)
                    self._check_size(part.size)
            suffix = _SUFFIX.search(httpx.URL(url).path)
            # In a thread: flushing may take its time, and the worker's other jobs go on.
            return await anyio.to_thread.run_sync(part.publish, "" if suffix is None else suffix[0].lower())
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise Refused(f"cannot be fetched: {type(error).__name__}") from error
        except httpx.RequestError as error:
            raise TryAgain(f"the connection broke: {type(error).__name__}") from error
        finally:
            if part is not None:
                part.discard()

    def sweep(self, older_than: float) -> int:
        """Remove parts that a killed worker has left, untouched for `older_than` seconds; how many."""
        removed = 0
        for path in self.directory.glob(f"{PART}*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink()
                    removed += 1
        return removed

    def _check_size(self, size: int) -> None:
        if size > self.limit:
            raise Refused(f"over the limit of {self.limit} bytes")


class _Part:
    """A file on its way."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._file = os.fdopen(descriptor, "wb")
        self._path = path
        self._hash = hashlib.sha256()
        self.size = 0

    @classmethod
    def create(cls, directory: Path) -> Self:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(prefix=PART, dir=directory)
        return cls(descriptor, Path(path))

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def publish(self, suffix: str) -> Downloaded:
        """Flush to disk, then rename: after a power cut the name leads to the whole file or to none."""
        digest = self._hash.hexdigest()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(self._path.with_name(digest + suffix))
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return Downloaded(name=digest + suffix, sha256=digest, size=self.size)

    def discard(self) -> None:
        """Close the file, and remove it unless it was published."""
        self._file.close()
        self._path.unlink(missing_ok=True)
