"""A queue with letters, and the command run on it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio
import pytest

from jobguard import JobGuard, dead_letter, fallback
from jobguard.cli.app import run
from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Desk:
    """An operator's: one server, one namespace.

    Attributes:
        url, namespace: where the letters are.
    """

    def __init__(self, url: str, capture: Callable[[], Any]) -> None:
        self.url = url
        self.namespace = f"desk-{uuid.uuid4().hex}"
        self._capture = capture

    def __call__(self, *arguments: str, url: str | None = None) -> Ended:
        """Run `jobguard` with these arguments and this desk's server."""
        where = ("--url", self.url if url is None else url, "--namespace", self.namespace)
        self._capture()
        code = run([*arguments, *where])
        out, err = self._capture()
        return Ended(code, out, err)

    def fill(self, *messages: str, queue: str = "default") -> list[str]:
        """Let jobs end with these errors, one after the other; the ids of their letters, newest first."""

        async def work() -> list[str]:
            store = RedisStore.from_url(self.url)
            guard = JobGuard(store, namespace=self.namespace)

            @fallback(None)
            @dead_letter(queue=queue)
            async def broken(message: str) -> None:
                raise ValueError(message)

            async with guard:
                for message in messages:
                    await broken(message)
            page = await guard.dead_letters(queue).list(len(messages))
            await store.aclose()
            return [letter.id for letter in page.entries]

        return anyio.run(work)


@pytest.fixture
def desk(valkey: EmbeddedValkey, capsys: pytest.CaptureFixture[str]) -> Desk:
    """A desk with a namespace of its own on the server of the test run."""
    return Desk(valkey.url, capsys.readouterr)
