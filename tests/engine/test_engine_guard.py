"""`JobGuard`: which store is used, who is told, and what is logged."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest

from jobguard import DeadLetterQueue, JobGuard, constant, dead_letter, deduplicated, retrying
from jobguard.errors import ConfigurationError
from jobguard.events import DefaultStoreUsed, Event, Succeeded
from jobguard.stores import MemoryStore
from tests.engine.harness import Bench, Events

pytestmark = pytest.mark.anyio
in_memory = pytest.mark.parametrize("where", ["memory-asyncio", "memory-trio"], indirect=True)


# --- the default ---------------------------------------------------------------------------------

BARE = """
    import {loop} as loop
    import logging
    from jobguard import deduplicated

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    runs = []

    @deduplicated
    async def task(x):
        runs.append(x)
        return 7

    async def main():
        print([await task(1), await task(1), await task(2)], runs)

    loop.run({main})
"""


@pytest.mark.parametrize(("loop", "main"), [("asyncio", "main()"), ("trio", "main")])
def test_a_decorated_function_just_works(loop: str, main: str) -> None:
    """Without a guard, a store in this process's memory serves; one warning says so."""
    program = dedent(BARE).format(loop=loop, main=main)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.stdout == "[7, 7, 7] [1, 2]\n"
    assert ended.stderr.count(DefaultStoreUsed.__name__) == 1
    assert "WARNING" in ended.stderr


@in_memory
async def test_a_guard_serves_only_inside_of_its_block(bench: Bench) -> None:
    """Outside, it is another one's turn."""

    @deduplicated
    async def task(x: int) -> None: ...

    async with bench.guard():
        pass
    async with JobGuard(MemoryStore(), namespace=bench.namespace):
        await task(1)
    assert bench.store.calls == []


@in_memory
async def test_guards_may_be_nested(bench: Bench) -> None:
    """The innermost wins, and the outer one is back afterwards."""
    inner = Bench(MemoryStore(), bench.namespace, bench.elsewhere)

    @deduplicated
    async def task(x: int) -> None: ...

    async with bench.guard():
        async with inner.guard():
            await task(1)
        await task(2)
    assert (inner.store.count("claim"), bench.store.count("claim")) == (1, 1)


@in_memory
async def test_a_guard_may_be_entered_again(bench: Bench) -> None:
    """Also while it is entered."""

    @deduplicated
    async def task(x: int) -> int:
        return x

    guard = bench.guard()
    async with guard:
        async with guard:
            await task(1)
        await task(2)
    async with guard:
        assert await task(3) == 3
    assert bench.store.count("claim") == 3


async def test_a_guard_is_left_when_its_block_fails(bench: Bench) -> None:
    """An exception goes through, and the guard is no longer in force."""
    with pytest.raises(ValueError, match="no"):
        async with bench.guard():
            raise ValueError("no")

    @deduplicated
    async def task(x: int) -> None: ...

    async with JobGuard(MemoryStore()):
        await task(1)
    assert bench.store.calls == []


TWO_LOOPS = """
    import asyncio
    from jobguard import JobGuard, deduplicated
    from jobguard.stores import MemoryStore

    guard = JobGuard(MemoryStore(), lease=0.3)

    @deduplicated
    async def task(x):
        await asyncio.sleep(0.8)
        return x

    async def main(x):
        async with guard:
            return await task(x)

    print(asyncio.run(main(1)), asyncio.run(main(2)), asyncio.run(main(1)))
"""


def test_a_guard_serves_one_event_loop_after_the_other() -> None:
    """Leases are renewed in the second as in the first."""
    program = dedent(TWO_LOOPS)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.stdout, ended.stderr) == ("1 2 1\n", "")


# --- hooks ---------------------------------------------------------------------------------------


def broken(event: Event) -> None:
    raise RuntimeError("hook")


async def test_a_hook_that_raises_does_no_harm(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the job and the other hooks go on."""
    after = Events()

    @deduplicated
    async def task(x: int) -> int:
        return 7

    async with bench.guard(hooks=(broken, after)):
        assert await task(1) == 7
    assert len(after.of(Succeeded)) == 1
    (record,) = [each for each in caplog.records if each.exc_info]
    assert "broken" in record.getMessage()


async def test_a_hook_that_raises_does_not_stop_a_failure_from_being_recorded(bench: Bench) -> None:
    """Every event on the way to a dead letter meets it."""

    @deduplicated
    @retrying(attempts=2, backoff=constant(0))
    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    async with bench.guard(hooks=(broken,)) as guard:
        with pytest.raises(ValueError, match="no"):
            await task(1)
        assert await guard.dead_letters().count() == 1


async def test_hooks_are_called_in_order(bench: Bench) -> None:
    """As they were given."""
    order: list[str] = []

    @deduplicated
    async def task(x: int) -> None: ...

    async with bench.guard(hooks=(lambda event: order.append("a"), lambda event: order.append("b"))):
        await task(1)
    assert order == ["a", "b"]


async def test_an_event_names_the_task_the_job_and_the_key(bench: Bench) -> None:
    """So that lines of one job can be found."""

    @deduplicated
    async def task(x: int) -> None: ...

    async with bench.guard():
        await task(1)
    event = bench.events.only(Succeeded)
    assert event.task == task.__jobguard__.name  # type: ignore[attr-defined]
    assert event.job.startswith("local:")
    assert event.key
    assert event.attempt == 1
    assert event.seconds >= 0


# --- log lines -----------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The lines that the logger `jobguard` has written; filled when the test asks."""
    caplog.set_level(logging.DEBUG, logger="jobguard")

    class Lines(list[str]):
        def __iter__(self) -> Iterator[str]:
            return iter([record.getMessage() for record in caplog.records if record.name == "jobguard"])

    return Lines()  # type: ignore[return-value]


async def test_each_event_is_a_log_line(bench: Bench, lines: list[str]) -> None:
    """Its kind first."""

    @deduplicated
    @retrying(attempts=2, backoff=constant(0))
    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    async with bench.guard():
        with pytest.raises(ValueError, match="no"):
            await task(1)
    assert [line.split()[0] for line in lines] == [type(event).__name__ for event in bench.events]


@pytest.mark.parametrize(
    "text", ["a\nERROR forged", "a\r\nb", "a\u2028b", "a\x85b", "a\x1b[31mb", "a\u202eb", "a\0b"]
)
async def test_a_log_line_is_one_line(bench: Bench, lines: list[str], text: str) -> None:
    """Text from jobs can neither break a line nor steer a terminal."""

    @deduplicated
    @retrying(attempts=2, backoff=constant(0))
    @dead_letter
    async def task(x: int) -> None:
        raise ValueError(text)

    async with bench.guard():
        with pytest.raises(ValueError, match="a"):
            await task(1)
    written = list(lines)
    assert written
    assert all(line.isprintable() for line in written)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"lease": 0}, "lease"),
        ({"lease": -1}, "lease"),
        ({"lease": "30"}, "lease"),
        ({"lease": float("inf")}, "lease"),
        ({"namespace": ""}, "namespace"),
        ({"namespace": "a{b}"}, "namespace"),
        ({"namespace": None}, "namespace"),
        ({"on_store_error": "ignore"}, "on_store_error"),
        ({"store": None}, "store"),
        ({"store": "redis://localhost"}, "store"),
        ({"hooks": (1,)}, "hooks"),
        ({"hooks": print}, "hooks"),
    ],
    ids=repr,
)
def test_a_wrong_setting_is_refused_and_named(settings: dict[str, Any], argument: str) -> None:
    """The error names the argument and its value, and is a TypeError or a ValueError."""
    settings = {"store": MemoryStore(), **settings}
    with pytest.raises(ConfigurationError, match=argument) as caught:
        JobGuard(settings.pop("store"), **settings)
    assert isinstance(caught.value, TypeError | ValueError)


class AsyncHook:
    async def __call__(self, event: Event) -> None: ...


async def async_hook(event: Event) -> None: ...


@pytest.mark.parametrize("hook", [async_hook, AsyncHook()], ids=["function", "object"])
def test_an_async_hook_is_refused(hook: Any) -> None:
    """Nothing would await it."""
    with pytest.raises(ConfigurationError, match="hooks must be a plain function"):
        JobGuard(MemoryStore(), hooks=(hook,))


@pytest.mark.parametrize("make", [JobGuard, DeadLetterQueue])
def test_a_url_that_is_given_for_a_store_is_not_shown(make: Any) -> None:
    """There may be a password in it."""
    with pytest.raises(ConfigurationError, match=r"not be of type str; write RedisStore\.from_url") as caught:
        make("redis://:secret@localhost")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("make", [JobGuard, DeadLetterQueue])
def test_a_wrong_codec_is_refused(make: Any) -> None:
    """Before the first value is to be read or written."""
    with pytest.raises(ConfigurationError, match=r"codec must be a jobguard\.codec\.Codec, not 'json'"):
        make(MemoryStore(), codec="json")
