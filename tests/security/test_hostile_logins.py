"""Servers that repeat what they were told at a login: nothing that we say shows the password."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Retry
from redis.exceptions import AuthenticationError

from jobguard import JobGuard
from jobguard.adapters.arq import ArqQueue, __main__, protect
from jobguard.adapters.arq.endings import WorkerFunction
from jobguard.adapters.arq.incoming import Incoming, incoming
from jobguard.adapters.arq.worker import RunningWorker
from jobguard.adapters.base import Replay, ReplayJob, Terms
from jobguard.errors import JobGuardError
from jobguard.events import Event, StoreFailed
from jobguard.guard import delivering
from jobguard.primitives import move_to_dead_letter_queue
from jobguard.stores import MemoryStore, RedisStore
from jobguard.stores.letters import LetterQueue
from tests.arq.harness import wait_until
from tests.security.server import Server

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t-W0rd"
SAID = {
    "unknown command": f"ERR unknown command 'AUTH', with args beginning with: 'user' '{SECRET}'",
    "wrong password": f"WRONGPASS invalid username-password pair {SECRET}",
    "a long one that steers": f"ERR \x1b]0;owned\x07 {SECRET * 2_000}",
}
JOB = ReplayJob(Replay(LetterQueue("jobguard", "q"), "a", 1), "arq:queue", "send", "{}", "json")
CTX: dict[Any, Any] = {"job_id": "a", "job_try": 1, "enqueue_time": datetime(2024, 1, 1, tzinfo=UTC)}


@pytest.fixture(params=["the handshake", "a reply"])
def at(request: pytest.FixtureRequest) -> str:
    """When the server repeats the login: as it is told, or whatever it is asked later."""
    return str(request.param)


@pytest.fixture(params=list(SAID.values()), ids=list(SAID))
async def pool(request: pytest.FixtureRequest, at: str, tmp_path: Path) -> AsyncIterator[ArqRedis]:
    """A pool of such a server."""
    said = b"-%b\r\n" % request.param.encode()
    server = Server(said, handshake={b"AUTH": said} if at == "the handshake" else {})
    async with (
        server.listening(tmp_path / "s") as url,
        ArqRedis.from_url(url, username="user", password=SECRET) as pool,
    ):
        yield pool


def check(text: str) -> None:
    """Anybody may read it, in a line."""
    assert SECRET not in text
    assert text.isprintable()
    assert 10 < len(text) < 2_000


async def look_up(pool: ArqRedis) -> None:
    store = RedisStore(pool)
    try:
        await store.look_up("k")
    finally:
        await store.aclose()


async def move(pool: ArqRedis) -> None:
    """Under a worker whose store is elsewhere."""
    guard = delivering.set(JobGuard(MemoryStore(), lease=0.05))
    try:
        await move_to_dead_letter_queue({**CTX, "redis": pool}, "k", ValueError())
    finally:
        delivering.reset(guard)


OPERATIONS: dict[str, Callable[[ArqRedis], Awaitable[object]]] = {
    "a store's": look_up,
    "a queue's, where a letter cannot be taken": lambda pool: ArqQueue(pool).enqueue(JOB),
    "a queue's, of all letters": lambda pool: ArqQueue(pool).pending("arq:queue", "a"),
    "a primitive's": move,
}


@pytest.mark.parametrize("work", OPERATIONS.values(), ids=OPERATIONS)
async def test_no_error_shows_what_a_server_repeats(
    work: Callable[[ArqRedis], Awaitable[object]], pool: ArqRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in its text nor in the traceback that a log would show; nor a control character."""
    with pytest.raises(JobGuardError) as caught:
        await work(pool)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    for text in (str(caught.value), *caplog.messages):
        check(text)


async def test_no_event_shows_what_a_server_repeats(pool: ArqRedis) -> None:
    """Of a sweep that fails, and of marks that cannot be renewed."""
    failed: dict[str, str] = {}

    def hook(event: Event) -> None:
        if isinstance(event, StoreFailed):
            failed[event.operation] = event.error

    worker = RunningWorker(
        pool, JobGuard(MemoryStore(), lease=0.3, hooks=[hook]), "arq:queue", {}, None, 600.0
    )
    incoming.set(Incoming(b"", "send", None, 0))
    worker.start()
    await worker.before_job(CTX, None)
    await wait_until(lambda: len(failed) == 2)
    await worker.aclose()
    assert set(failed) == {"sweep", "renew_marks"}
    for error in failed.values():
        check(error)


async def test_no_line_of_a_log_shows_what_a_server_repeats(
    pool: ArqRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a delivery that stays in ARQ's count, and of what could not be cleared up after it."""

    async def never(ctx: dict[Any, Any]) -> None: ...

    late = Incoming(b"", "send", None, 0)
    late.late = True  # an earlier run of the job is left here
    incoming.set(late)
    worker = RunningWorker(pool, JobGuard(MemoryStore()), "arq:queue", {}, None, None)
    with pytest.raises(Retry):
        await worker.run(WorkerFunction("send", never, None, Terms(), cron=False), CTX, (), {})
    await worker.after_job(CTX)
    await worker.aclose()
    failures = [line for line in caplog.messages if "failed" in line]
    assert [line.partition(" failed")[0] for line in failures] == [
        "uncounting a delivery of job 'a'",
        "clearing up after job 'a'",
    ]
    for line in caplog.messages:
        check(line)


async def test_no_traceback_of_a_hook_shows_what_a_server_repeats(
    pool: ArqRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """A user's own hook may ask the worker's server as well."""

    async def on_job_end(ctx: dict[Any, Any]) -> None:
        await ctx["redis"].get("mine")

    async def work() -> None:
        settings: dict[str, Any] = protect({"functions": [], "on_job_end": on_job_end}, sweep=None)
        ctx: dict[Any, Any] = {"redis": pool}
        await settings["on_startup"](ctx)
        await settings["on_job_end"]({**ctx, **CTX})
        await settings["on_shutdown"](ctx)

    await asyncio.create_task(work())
    assert "on_job_end failed on job 'a'" in caplog.text
    assert "Traceback" in caplog.text
    assert SECRET not in caplog.text


def test_no_health_check_shows_what_a_server_repeats(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line in which it says why it failed."""

    def refuse(settings: object) -> int:
        raise AuthenticationError(f"WRONGPASS {SECRET}")

    monkeypatch.setattr(__main__, "check_health", refuse)
    assert __main__._checked({"redis_settings": RedisSettings(password=SECRET)}) != 0
    assert capsys.readouterr().err == "Health check failed: AuthenticationError: WRONGPASS [redacted]\n"
