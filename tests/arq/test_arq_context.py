"""ARQ hands its context to every task first, whatever the parameter's name; it is no argument of the job."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.worker import create_worker, func

from jobguard import constant, dead_letter, deduplicated, retrying
from jobguard.adapters.arq import protect
from jobguard.errors import InvalidValue
from tests.arq.harness import Bench

pytestmark = pytest.mark.anyio


async def work(bench: Bench, *functions: Callable[..., Any]) -> None:
    worker = create_worker(
        protect(
            {
                "functions": [func(each, name="task") for each in functions],
                "redis_settings": RedisSettings(unix_socket_path=bench.environ["TEST_SOCKET"]),
                "poll_delay": 0.02,
                "burst": True,
                "handle_signals": False,
            }
        )
    )
    try:
        await worker.async_run()
    finally:
        await worker.close()


@pytest.mark.parametrize("key", [None, "{name}", ("name",), lambda context, name: name])
async def test_a_key_has_no_part_of_a_context_by_another_name(bench: Bench, key: Any) -> None:
    """The second job is a duplicate of the first, though each was handed a context of its own."""
    ran: list[str] = []

    @deduplicated(key=key)
    async def task(context: dict[str, Any], name: str) -> str:
        ran.append(name)
        return f"{name} from {context['job_id']}"

    jobs = [await bench.enqueue("task", name) for name in ("a", "a", "b")]
    await work(bench, task)
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
