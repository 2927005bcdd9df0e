"""`@fallback`: an answer once everything else is spent."""

from __future__ import annotations

import pytest

from jobguard import (
    Discard,
    GiveUp,
    JobGuard,
    JobStatus,
    RetryLater,
    constant,
    dead_letter,
    deduplicated,
    fallback,
    retrying,
)
from jobguard.events import DeadLettered, Failed, FellBack, NewFingerprint, Succeeded
from tests.engine.harness import Bench, Events

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]


async def test_a_value_is_the_answer() -> None:
    """Falsy ones too."""

    @fallback(None)
    async def task(x: int) -> int:
        raise ValueError("no")

    assert await task(1) is None


async def test_a_function_answers_with_the_error_and_the_arguments() -> None:
    """It gets the exception and what the task was called with."""

    def answer(error: Exception, x: int, *, y: str) -> tuple[str, int, str]:
        return str(error), x, y

    @fallback(answer)
    async def task(x: int, *, y: str) -> object:
        raise ValueError("no")

    assert await task(1, y="z") == ("no", 1, "z")


async def test_an_async_function_answers() -> None:
    """It is awaited."""

    async def answer(error: Exception, x: int) -> int:
        return x + 1

    @fallback(answer)
    async def task(x: int) -> int:
        raise ValueError("no")

    assert await task(1) == 2


async def test_an_error_of_the_function_goes_on() -> None:
    """A fallback that fails has no answer."""

    def answer(error: Exception, x: int) -> int:
        raise KeyError("worse")

    @fallback(answer)
    async def task(x: int) -> int:
        raise ValueError("no")

    with pytest.raises(KeyError, match="worse"):
        await task(1)


async def test_a_success_needs_no_fallback(events: Events) -> None:
    """The task's own answer counts."""

    @fallback(0)
    async def task(x: int) -> int:
        return 7

    assert await task(1) == 7
    assert events.of(FellBack) == []


async def test_the_fallback_comes_after_all_attempts() -> None:
    """Retries first."""
    runs = []

    @fallback("stand-in")
    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> str:
        runs.append(1)
        raise ValueError("no")

    assert await task(1) == "stand-in"
    assert len(runs) == 3


async def test_other_errors_than_named_are_raised() -> None:
    """`on` says what is answered."""

    @fallback("stand-in", on=(KeyError, LookupError))
    async def task(x: int) -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await task(1)


async def test_named_errors_are_answered() -> None:
    """Subclasses of them, too."""

    @fallback("stand-in", on=LookupError)
    async def task(x: int) -> str:
        raise KeyError("no")

    assert await task(1) == "stand-in"


@pytest.mark.parametrize("signal", [GiveUp("no"), RetryLater("busy", after=0)], ids=repr)
async def test_a_job_that_ended_by_a_signal_is_answered(signal: Exception) -> None:
    """Everything else is spent then, too."""

    @fallback("stand-in")
    @retrying(attempts=1)
    async def task(x: int) -> str:
        raise signal

    assert await task(1) == "stand-in"


async def test_discard_passes_the_fallback_by() -> None:
    """The work is not wanted: no answer stands in for it."""

    @fallback("stand-in")
    async def task(x: int) -> str:
        raise Discard("not wanted")

    with pytest.raises(Discard):
        await task(1)


async def test_an_answer_is_no_success(events: Events, bench: Bench) -> None:
    """The outcome stays FAILED."""

    @deduplicated
    @fallback("stand-in")
    async def task(x: int) -> str:
        raise ValueError("no")

    await task(1)
    assert events.of(Succeeded) == []
    assert len(events.of(Failed)) == 1
    assert [each.state.status for each in bench.store.settlements] == [JobStatus.FAILED]


async def test_an_answered_job_is_a_dead_letter_all_the_same(events: Events, guard: JobGuard) -> None:
    """The outcome stays DEAD_LETTER."""

    @deduplicated
    @fallback("stand-in")
    @dead_letter
    async def task(x: int) -> str:
        raise ValueError("no")

    assert await task(1) == "stand-in"
    assert await guard.dead_letters().count() == 1
    assert [type(event) for event in events] == [DeadLettered, NewFingerprint, FellBack]


async def test_an_answer_is_never_replayed() -> None:
    """The next job of the key runs."""
    runs = []

    @deduplicated
    @fallback("stand-in")
    async def task(x: int) -> str:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("no")
        return "done"

    assert [await task(1), await task(1), await task(1)] == ["stand-in", "done", "done"]


async def test_a_fallback_is_an_event(events: Events) -> None:
    """With the error it stood in for."""

    @fallback("stand-in")
    async def task(x: int) -> str:
        raise ValueError("no")

    await task(1)
    assert events.only(FellBack).error == "ValueError: no"


async def test_a_fallback_on_a_method_gets_self_too() -> None:
    """The call's arguments are all of them."""

    class Service:
        name = "svc"

        @fallback(lambda error, self, x: f"{self.name}{x}")
        async def method(self, x: int) -> str:
            raise ValueError("no")

    assert await Service().method(1) == "svc1"
