"""What a job that is moved by hand leaves: its own letter, whoever moves it, with nothing in clear."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jobguard import Filter, dead_letter
from jobguard.adapters.arq import ArqQueue
from jobguard.adapters.arq.incoming import incoming
from jobguard.primitives import is_job_already_processed, move_to_dead_letter_queue
from tests.arq.harness import Bench
from tests.arq.inprocess import drain

pytestmark = pytest.mark.anyio
Context = dict[str, Any]


async def work(bench: Bench, body: Callable[..., Any]) -> None:
    await drain(bench.environ["TEST_SOCKET"], body)


async def test_what_one_job_has_started_moves_another_with_its_own_arguments(bench: Bench) -> None:
    """Whoever is handed the ctx of a job works for that job."""
    waiting: asyncio.Queue[tuple[Context, str]] = asyncio.Queue()
    started: list[asyncio.Task[None]] = []

    async def move_each() -> None:
        while True:
            ctx, name = await waiting.get()
            await move_to_dead_letter_queue(ctx, name, ValueError(name))
            waiting.task_done()

    async def task(ctx: Context, name: str) -> None:
        if not started:
            started.append(asyncio.create_task(move_each()))
        await waiting.put((ctx, name))
        await waiting.join()

    for name in ("one", "two"):
        await bench.enqueue("task", name, _job_id=name)
    await work(bench, task)
    started[0].cancel()
    letters = {letter.job_id: letter for letter in await bench.letters()}
    assert {id: letter.error_message for id, letter in letters.items()} == {"one": "one", "two": "two"}
    assert letters["one"].payload != letters["two"].payload


async def test_arguments_that_a_foreign_decorator_may_have_moved_are_all_masked(bench: Bench) -> None:
    """Nobody can say which of them `redact` means."""

    def with_a_connection(fn: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        @functools.wraps(fn)
        async def run(*args: object) -> object:
            return await fn("a connection", *args)

        return run

    @with_a_connection
    @dead_letter(redact=("pin",))
    async def task(db: str, ctx: Context, to: str, pin: str) -> None:
        await move_to_dead_letter_queue(ctx, "key", ValueError(f"declined {pin}"), said=f"by {pin}")

    await bench.enqueue("task", "ann", "open sesame")
    await work(bench, task)
    [letter] = await bench.letters()
    assert "open sesame" not in f"{letter.preview} {letter.error_message} {letter.traceback}"
    assert json.loads(letter.preview)["job_key"] == "key"


async def test_a_preview_with_a_masked_number_is_still_json(bench: Bench) -> None:
    """Texts that are redacted are masked in details too."""

    @dead_letter(redact=("pin",))
    async def task(ctx: Context, pin: int, number: int) -> None:
        await move_to_dead_letter_queue(ctx, "key", ValueError(), amount=4321, text="it is 4321")

    await bench.enqueue("task", 4321, 4321)
    await work(bench, task)
    [letter] = await bench.letters()
    shown = json.loads(letter.preview)
    assert (shown["pin"], shown["text"]) == ("[redacted]", "it is [redacted]")


async def test_the_id_of_a_replay_that_is_moved_is_its_letters(bench: Bench) -> None:
    """It is dead again where it was, and that is what the caller is told."""
    moved: list[str] = []

    @dead_letter(queue="whatsapp")
    async def task(ctx: Context) -> None:
        if incoming.get().replay is None:  # type: ignore[union-attr]
            raise ValueError("first")
        await is_job_already_processed(ctx, "key")
        moved.append(await move_to_dead_letter_queue(ctx, "key", ValueError("second")))

    await bench.enqueue("task")
    await work(bench, task)
    letters = bench.guard.dead_letters("whatsapp")
    [before] = (await letters.list()).entries
    await letters.requeue(Filter(), via=ArqQueue(bench.pool))
    await work(bench, task)
    [after] = (await letters.list()).entries
    assert moved == [after.id] == [before.id]
    assert after.error_message == "second"
    assert await bench.letters() == []
