"""ARQ hands its context to every task first, whatever the parameter's name; it is no argument of the job."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from jobguard import constant, dead_letter, deduplicated, retrying
from jobguard.errors import InvalidValue
from tests.arq.harness import Bench, wait_until
from tests.arq.inprocess import drain

pytestmark = pytest.mark.anyio


async def work(bench: Bench, body: Callable[..., Any], **settings: Any) -> None:
    await drain(bench.environ["TEST_SOCKET"], body, **settings)


def hands_on(fn: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    """A decorator that jobguard knows nothing of."""

    @functools.wraps(fn)
    async def run(*args: object) -> object:
        return await fn(*args)

    return run


@pytest.mark.parametrize("key", [None, "{name}", ("name",), lambda context, name: name])
async def test_a_key_has_no_part_of_a_context_by_another_name(bench: Bench, key: Any) -> None:
    """The second job is a duplicate of the first, though each was handed a context of its own."""
    ran: list[str] = []

    @deduplicated(key=key)
    async def task(context: dict[str, Any], name: str) -> str:
        ran.append(name)
        return f"{name} from {context['job_id']}"

    jobs = [await bench.enqueue("task", name) for name in ("a", "a", "b")]
    await work(bench, task, max_jobs=1)  # one after the other: the second one finds the first one's result
    assert sorted(ran) == ["a", "b"]
    assert await bench.result(jobs[0]) == await bench.result(jobs[1])


async def test_a_letter_has_no_part_of_a_context_by_another_name(bench: Bench) -> None:
    """Its payload is the job's own arguments, each under its own name, and so can be edited and run again."""

    @retrying(attempts=1, backoff=constant(0))
    @dead_letter(redact=("card.pin",))
    async def task(_ctx: dict[str, Any], name: str, card: dict[str, int]) -> None:
        raise ValueError(name)

    await bench.enqueue("task", "a", {"pin": 1234})
    await work(bench, task)
    [letter] = await bench.letters()
    assert letter.payload_format == "json"
    assert letter.parameters == ("name", "card")
    assert letter.preview == '{"name": "a", "card": {"pin": "[redacted]"}}'


async def test_what_a_foreign_decorator_hands_on_in_place_of_the_context_is_an_argument(bench: Bench) -> None:
    """Nothing of a call is left out of its key because of where it stands."""
    ran: list[tuple[str, str]] = []

    def without_context(fn: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        @functools.wraps(fn)
        async def run(ctx: dict[str, Any], *args: object) -> object:
            return await fn(*args)

        return run

    @without_context
    @deduplicated
    async def task(name: str, to: str) -> None:
        ran.append((name, to))

    for name in ("a", "b"):
        await bench.enqueue("task", name, "same")
    await work(bench, task)
    assert sorted(ran) == [("a", "same"), ("b", "same")]


async def test_a_key_that_names_the_context_is_refused_before_the_worker_starts(bench: Bench) -> None:
    """It would be another one for every job; the error says what identifies the work."""

    @deduplicated(key="{context}")
    async def task(context: dict[str, Any], name: str) -> None: ...

    with pytest.raises(InvalidValue, match=r"names 'context', which is no argument of the job.*has: name"):
        await work(bench, task)


@pytest.mark.parametrize("key", ["{context}", None])
async def test_a_key_that_is_only_the_context_leaves_a_letter_where_it_is_found_out_late(
    bench: Bench, key: str | None
) -> None:
    """Below a foreign decorator nobody knows how a task is called before it is."""

    @hands_on
    @deduplicated(key=key)
    @dead_letter
    async def task(context: dict[str, Any]) -> None: ...

    await bench.enqueue("task")
    await work(bench, task)
    [letter] = await bench.letters()
    assert letter.error_type == "jobguard.errors.KeyNotEncodable"


@pytest.mark.parametrize("between", [hands_on, lambda fn: fn], ids=["foreign decorator", "direct"])
async def test_a_job_that_is_aborted_between_two_runs_frees_its_key(
    bench: Bench, between: Callable[[Any], Any]
) -> None:
    """It has the key that its run had found, with another name for the context too."""
    ran: list[str] = []

    @between
    @deduplicated
    @retrying(attempts=3, backoff=constant(300))
    async def task(_c: dict[str, Any], name: str) -> None:
        ran.append(name)
        if len(ran) == 1:
            raise ValueError(name)

    job = await bench.enqueue("task", "a")
    serving = asyncio.create_task(work(bench, task, burst=False, allow_abort_jobs=True))
    await wait_until(lambda: ran)
    await wait_until(lambda: bench.pool.exists(f"arq:retry:{job.job_id}"))
    with suppress(asyncio.CancelledError):
        await job.abort(timeout=20, poll_delay=0.03)
    assert await wait_until(lambda: job.result_info())
    again = await bench.enqueue("task", "a")
    await wait_until(lambda: again.result_info())
    assert ran == ["a", "a"]
    serving.cancel()
    await asyncio.wait({serving})
