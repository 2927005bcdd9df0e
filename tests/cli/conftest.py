"""A queue with letters, and the command run on it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import anyio
import pytest

from jobguard import DeadLetter, DeadLetterQueue, JobGuard, dead_letter, fallback
from jobguard.adapters.base import served_name
from jobguard.cli.app import run
from jobguard.codec import Codec
from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey

T = TypeVar("T")

COMMANDS = [
    ("dlq", "count"),
    ("dlq", "queues"),
    ("dlq", "list"),
    ("dlq", "get"),
    ("dlq", "groups"),
    ("dlq", "stats"),
    ("dlq", "watch"),
    ("dlq", "requeue"),
    ("dlq", "remove"),
    ("dlq", "clear"),
    ("dlq", "prune"),
    ("dlq", "export"),
    ("dlq", "import"),
    ("job", "get"),
    ("job", "forget"),
]


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

    def keep(self, *letters: DeadLetter, queue: str = "default", served: bool = True) -> list[str]:
        """Have a queue keep these letters, and a worker say that it serves their tasks; their ids."""

        async def work(store: RedisStore) -> list[str]:
            kept = DeadLetterQueue(store, queue, namespace=self.namespace)
            for number, letter in enumerate(letters):
                assert await kept.take_in(letter, int(letter.failed_at * 1_000_000) + number)
            if served:
                names = {served_name(each.adapter, each.queue, each.task) for each in letters}
                await store.announce(self.namespace, sorted(names), 600.0)
            return [letter.id for letter in letters]

        return self.ask(work)

    def ask(self, work: Callable[[RedisStore], Awaitable[T]]) -> T:
        """What work on this desk's store comes to."""

        async def with_store() -> T:
            store = RedisStore.from_url(self.url)
            try:
                return await work(store)
            finally:
                await store.aclose()

        return anyio.run(with_store)

    def letter(self, id: str, queue: str = "default") -> DeadLetter | None:
        """A letter as it is now."""
        return self.ask(lambda store: DeadLetterQueue(store, queue, namespace=self.namespace).get(id))

    def arguments(self, *arguments: str) -> list[str]:
        """The command as a program, on this desk's server."""
        where = ("--url", self.url, "--namespace", self.namespace)
        return [sys.executable, "-m", "jobguard", *arguments, *where]

    @contextmanager
    def started(self, *arguments: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
        """The command as a process of its own, with its output in pipes; ended with the block."""
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
        with subprocess.Popen(
            self.arguments(*arguments),
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            **settings,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def at_terminal(
        self,
        *arguments: str,
        until: bytes,
        answer: bytes,
        meanwhile: Callable[[], object] = lambda: None,
        then: bytes | None = None,
    ) -> tuple[int, str]:
        """Run the command on a terminal; its exit code, and all that was shown.

        Args:
            arguments: of the command.
            until: what it shows before it is answered.
            answer: typed then; Ctrl-C is a signal.
            meanwhile: done before the answer.
            then: shown at some time after it, and followed by Ctrl-C.
        """

        def enough(asked: bool, shown: bytes) -> bool:
            if b"interrupted" in shown or not asked:
                return False
            return answer == b"\x03" if then is None else then in shown

        controller, terminal = pty.openpty()
        shown = b""
        asked = False
        deadline = time.monotonic() + 60
        with subprocess.Popen(
            self.arguments(*arguments),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "150"},
            start_new_session=True,
        ) as process:
            os.close(terminal)
            while time.monotonic() < deadline:
                if select.select([controller], [], [], 0.1)[0]:
                    try:
                        shown += os.read(controller, 65536)
                    except OSError:  # the other end is closed
                        break
                elif process.poll() is not None:
                    break
                elif enough(asked, shown):
                    process.send_signal(signal.SIGINT)  # Python drops one that comes while it tidies up
                if not asked and until in shown:
                    asked = True
                    meanwhile()
                    if answer != b"\x03":
                        os.write(controller, answer)
            os.close(controller)
            if time.monotonic() > deadline:
                process.kill()
        return process.returncode, shown.decode()


_CODEC = Codec()


def arq_letter(number: int, **changes: Any) -> DeadLetter:
    """A letter of an ARQ job `send(to, content)`, for which a worker has no code."""
    letter = DeadLetter(
        id=f"{number:024x}",
        adapter="arq",
        queue="arq:queue",
        task="send",
        job_id=f"job-{number}",
        enqueued_ms=1_700_000_000_000,
        key=None,
        payload=_CODEC.encode({"args": [f"to-{number}"], "kwargs": {"content": "hello"}}),
        payload_format="json",
        preview=json.dumps({"to": f"to-{number}", "content": "hello"}),
        error_type="TimeoutError",
        error_message="no answer",
        traceback="",
        causes=(),
        reason="exhausted",
        fingerprint="f" * 16,
        attempts=(),
        failures=3,
        interruptions=0,
        crashes=0,
        first_seen=1_700_000_000.0,
        failed_at=1_700_000_000.0 + number,
        worker="here:1",
        parameters=("to",),
    )
    return replace(letter, **changes)


@pytest.fixture
def desk(valkey: EmbeddedValkey, capsys: pytest.CaptureFixture[str]) -> Desk:
    """A desk with a namespace of its own on the server of the test run."""
    return Desk(valkey.url, capsys.readouterr)
