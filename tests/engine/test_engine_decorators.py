"""The decorators: any order, any kind of function, and nothing of the function lost."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import pytest

from jobguard import (
    Duplicate,
    JobGuard,
    constant,
    current_job,
    dead_letter,
    deduplicated,
    fallback,
    retrying,
    time_limit,
)
from jobguard.events import (
    DeadLettered,
    FellBack,
    Interrupted,
    NewFingerprint,
    RetryScheduled,
    Succeeded,
)
from tests.engine.harness import Bench, Events, until

P = ParamSpec("P")
R = TypeVar("R")

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]

Function = Callable[..., Coroutine[Any, Any, Any]]

FIVE: dict[str, Callable[[Function], Function]] = {
    "deduplicated": deduplicated(key="{x}", scope="any-order"),
    "retrying": retrying(attempts=2, backoff=constant(0)),
    "time_limit": time_limit(30),
    "dead_letter": dead_letter(queue="orders"),
    "fallback": fallback("stand-in"),
}

ORDERS = [pytest.param(order, id="-".join(order)) for order in itertools.permutations(FIVE)]
in_memory = pytest.mark.parametrize("where", ["memory-asyncio"], indirect=True)


def decorate(fn: Function, order: tuple[str, ...]) -> Function:
    for name in order:
        fn = FIVE[name](fn)
    return fn


# --- any order -----------------------------------------------------------------------------------


@in_memory
@pytest.mark.parametrize("order", ORDERS)
async def test_a_success_is_the_same_in_any_order(order: tuple[str, ...], events: Events) -> None:
    """One body, one key, and the duplicate gets the result."""
    runs = []

    async def task(x: int) -> int:
        runs.append(1)
        return x + 40

    decorated = decorate(task, order)
    assert [await decorated(1), await decorated(x=1)] == [41, 41]
    assert len(runs) == 1
    assert events.of(Succeeded)[0].key == KEY_OF_ONE


@in_memory
@pytest.mark.parametrize("order", ORDERS)
async def test_a_failure_is_the_same_in_any_order(
    order: tuple[str, ...], events: Events, guard: JobGuard
) -> None:
    """Two attempts, then the dead letter, then the fallback's answer; the key is the same."""
    runs = []

    async def task(x: int) -> int:
        runs.append(current_job().attempt)
        raise ValueError("no")

    assert await decorate(task, order)(1) == "stand-in"
    assert runs == [1, 2]
    told = [type(event) for event in events]
    assert told == [RetryScheduled, DeadLettered, NewFingerprint, FellBack]
    assert {event.key for event in events} == {KEY_OF_ONE}
    assert await guard.dead_letters("orders").count() == 1


KEY_OF_ONE = "27077beb6002cb893f25b409e866d999"


@pytest.mark.parametrize("order", ORDERS)
@in_memory
async def test_policies_are_listed_in_one_order(order: tuple[str, ...]) -> None:
    """`task.__jobguard__.policies` does not depend on how the decorators were written."""

    async def task(x: int) -> None: ...

    listed = decorate(task, order).__jobguard__.policies  # type: ignore[attr-defined]
    assert listed == decorate(task, tuple(FIVE)).__jobguard__.policies  # type: ignore[attr-defined]
    assert len(listed) == 5


async def test_nothing_is_wrapped_twice() -> None:
    """However many decorators, there is one function around the original."""

    @retrying
    @dead_letter
    @deduplicated
    async def task(x: int) -> None: ...

    inner = task.__wrapped__  # type: ignore[attr-defined]
    assert not hasattr(inner, "__wrapped__")
    assert not hasattr(inner, "__jobguard__")


async def test_a_decorator_leaves_the_function_below_as_it_was() -> None:
    """Decorating again makes a new function; the one it was given keeps its own policies."""

    @retrying(attempts=2, backoff=constant(0))
    async def task(x: int) -> int:
        raise ValueError("no")

    more = fallback("stand-in")(task)
    assert await more(1) == "stand-in"
    with pytest.raises(ValueError, match="no"):
        await task(1)


# --- bare and called -----------------------------------------------------------------------------


@pytest.mark.parametrize("decorator", [deduplicated, retrying, dead_letter], ids=lambda d: str(d.__name__))
async def test_bare_and_called_forms_are_the_same(decorator: Any) -> None:
    """`@retrying` and `@retrying()` have the same settings."""

    async def task(x: int) -> int:
        return x

    bare, called = decorator(task), decorator()(task)
    (one,), (other,) = bare.__jobguard__.policies, called.__jobguard__.policies
    assert repr(one).split("<function")[0] == repr(other).split("<function")[0]
    assert (await bare(1), await called(1)) == (1, 1)


async def test_a_decorator_can_be_used_for_many_functions() -> None:
    """Settings are written once and shared."""
    patient = retrying(attempts=2, backoff=constant(0))

    @patient
    async def one(x: int) -> int:
        return current_job().attempt

    @patient
    async def other(x: int) -> int:
        return current_job().attempt

    assert (await one(1), await other(1)) == (1, 1)


# --- what stays of the function ------------------------------------------------------------------


async def test_a_decorated_function_is_a_coroutine_function() -> None:
    """For `inspect` and whoever asks it."""

    @deduplicated
    @retrying
    async def task(x: int) -> None: ...

    assert inspect.iscoroutinefunction(task)
    coroutine = task(1)
    assert inspect.iscoroutine(coroutine)
    await coroutine


async def test_a_decorated_function_keeps_its_signature_and_names() -> None:
    """Signature, annotations, docstring, name and module are the function's own."""

    async def task(ctx: object, /, x: int, *rest: str, flag: bool = False, **more: float) -> str:
        """Do it."""
        return "done"

    decorated = deduplicated(key="{x}")(retrying(task))
    assert inspect.signature(decorated) == inspect.signature(task)
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(decorated, name) == getattr(task, name)


async def test_wrong_arguments_are_a_type_error_and_no_job(bench: Bench) -> None:
    """A call that Python would refuse is refused, and claims nothing."""

    @deduplicated
    async def task(x: int) -> None: ...

    with pytest.raises(TypeError):
        await task()  # type: ignore[call-arg]
    assert bench.store.calls == []


# --- methods -------------------------------------------------------------------------------------


class Service:
    def __init__(self, name: str) -> None:
        self.name = name
        self.runs = 0

    @deduplicated(key="{x}", scope="method")
    async def method(self, x: int) -> str:
        self.runs += 1
        return f"{self.name}{x}"

    @deduplicated
    async def all_arguments(self, x: int) -> int:
        self.runs += 1
        return x

    @classmethod
    @deduplicated
    async def on_class(cls, x: int) -> str:
        return f"{cls.__name__}{x}"

    @staticmethod
    @retrying(attempts=2, backoff=constant(0))
    async def static(x: int) -> int:
        if current_job().attempt == 1:
            raise ValueError("once")
        return x


async def test_a_method_is_guarded_and_bound() -> None:
    """`self` is passed on and is no part of the key."""
    one, other = Service("a"), Service("b")
    assert [await one.method(1), await other.method(1), await other.method(x=1)] == ["a1"] * 3
    assert (one.runs, other.runs) == (1, 0)


async def test_self_is_no_part_of_a_key_of_all_arguments() -> None:
    """A first parameter named `self` is left out."""
    one, other = Service("a"), Service("b")
    assert [await one.all_arguments(1), await other.all_arguments(1)] == [1, 1]
    assert (one.runs, other.runs) == (1, 0)


async def test_ctx_is_no_part_of_a_key() -> None:
    """Two workers' contexts are never the same."""

    @deduplicated
    async def task(ctx: dict[str, object], x: int) -> object:
        return ctx["n"]

    assert [await task({"n": 1}, 5), await task({"n": 2}, 5)] == [1, 1]


async def test_a_class_method_below_its_decorator_is_guarded() -> None:
    """`@classmethod` goes above."""
    assert [await Service.on_class(1), await Service("a").on_class(1)] == ["Service1", "Service1"]


async def test_a_static_method_below_its_decorator_is_guarded() -> None:
    """`@staticmethod` goes above."""
    assert await Service.static(3) == 3


# --- other decorators in between -----------------------------------------------------------------


def foreign(fn: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Some decorator of somebody's, which copies what `functools.wraps` copies."""

    @functools.wraps(fn)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return await fn(*args, **kwargs)

    return wrapper


async def test_a_foreign_decorator_in_between_is_warned_of() -> None:
    """The warning says what to move."""

    @retrying
    async def task(x: int) -> None: ...

    with pytest.warns(UserWarning, match=r"another decorator.*task.*move the other decorator") as caught:
        deduplicated(foreign(task))
    assert caught[0].filename == __file__


async def test_a_foreign_decorator_in_between_starts_a_new_guard() -> None:
    """Both guards work, each around its own: the inner one retries, the outer one deduplicates."""
    runs = []

    @retrying(attempts=3, backoff=constant(0))
    async def task(x: int) -> int:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("again")
        return 7

    with pytest.warns(UserWarning, match="another decorator"):
        outer = deduplicated(foreign(task))
    assert [await outer(1), await outer(1)] == [7, 7]
    assert len(runs) == 3


async def test_the_same_policy_on_both_sides_of_a_foreign_decorator_is_allowed() -> None:
    """They belong to different guards."""

    @retrying(attempts=2, backoff=constant(0))
    async def task(x: int) -> int:
        raise ValueError("no")

    with pytest.warns(UserWarning, match="another decorator"):
        outer = retrying(attempts=3, backoff=constant(0))(foreign(task))
    with pytest.raises(ValueError, match="no"):
        await outer(1)


async def test_a_foreign_decorator_outside_or_inside_is_no_business_of_ours() -> None:
    """Above or below all of jobguard's there is no warning."""

    async def task(x: int) -> int:
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decorated = foreign(deduplicated(retrying(foreign(task))))
    assert await decorated(5) == 5


async def test_a_copied_guard_does_not_count() -> None:
    """`functools.wraps` copies `__jobguard__` onto wrappers that are not guarded functions."""

    @retrying(attempts=2, backoff=constant(0))
    async def task(x: int) -> None: ...

    copy = foreign(task)
    guard = copy.__jobguard__  # type: ignore[attr-defined]
    assert guard is task.__jobguard__  # type: ignore[attr-defined]
    assert guard.wrapper is task
    assert guard.wrapper is not copy


# --- under a worker that nobody announced --------------------------------------------------------


@pytest.mark.parametrize("decorator", [retrying, deduplicated(key="{x}")], ids=["light", "claiming"])
async def test_a_call_by_an_unprotected_worker_is_warned_of_once_a_task(decorator: Any) -> None:
    """Also if the body succeeds."""

    async def task(ctx: dict[str, object], x: int) -> int:
        return x

    decorated = decorator(task)
    with pytest.warns(UserWarning, match="its worker is not"):
        assert await decorated({"job_id": "a", "job_try": 1}, 1) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert await decorated({"job_id": "b", "job_try": 1}, 2) == 2


# --- a first run without a claim that is cancelled -----------------------------------------------


async def test_a_cancelled_run_without_a_claim_is_an_event(events: Events) -> None:
    """Nothing is recorded, and the cancellation goes on."""
    jobs = []

    @retrying
    async def task(x: int) -> None:
        jobs.append(current_job().id)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(task, 1)
        await until(lambda: jobs)
        group.cancel_scope.cancel()
    assert group.cancel_scope.cancelled_caught
    name = task.__jobguard__.name  # type: ignore[attr-defined]
    assert events == [Interrupted(task=name, job=f"local:{jobs[0]}:0", attempt=1, recorded=False)]


async def test_an_interpreter_exit_in_a_run_without_a_claim_is_no_interruption(events: Events) -> None:
    """It ends the process, and is nobody's cancellation."""

    @retrying
    async def task(x: int) -> None:
        raise Exit

    with pytest.raises(Exit):
        await task(1)
    assert events == []


class Exit(BaseException): ...


class Pause:
    def __await__(self) -> Generator[None, None, None]:
        yield


async def test_a_run_without_a_claim_may_be_closed_where_no_event_loop_runs(events: Events) -> None:
    """As Python does with a coroutine that nobody holds any more."""

    @retrying
    async def task(x: int) -> None:
        await Pause()

    def begin_and_close() -> None:
        coroutine = task(1)
        coroutine.send(None)
        coroutine.close()

    await anyio.to_thread.run_sync(begin_and_close)
    assert events == []


# --- nested calls, and two guards ----------------------------------------------------------------


async def test_a_guarded_call_inside_a_body_is_a_job_of_its_own() -> None:
    """It has its own id, attempts and key, and the outer job goes on as it was."""
    ids: list[str] = []

    @retrying(attempts=2, backoff=constant(0))
    async def inner(x: int) -> str:
        ids.append(current_job().id)
        if current_job().attempt == 1:
            raise ValueError("once")
        return current_job().task

    @deduplicated
    async def outer(x: int) -> tuple[int, str]:
        ids.append(current_job().id)
        before = current_job()
        name = await inner(x)
        assert current_job() == before
        return current_job().attempt, name

    assert (await outer(1)) == (1, inner.__jobguard__.name)  # type: ignore[attr-defined]
    assert ids[1] == ids[2] != ids[0]


async def test_a_task_may_call_itself_with_other_arguments() -> None:
    """Each depth is a job of its own."""

    @deduplicated
    async def task(n: int) -> int:
        if n == 0:
            return 0
        below = await task(n - 1)
        assert isinstance(below, int)
        return n + below

    assert await task(4) == 10


async def test_a_task_that_calls_itself_with_the_same_arguments_meets_itself() -> None:
    """The inner call is another job with the key of the outer one, which is running."""

    @deduplicated
    async def task(n: int) -> str:
        return type(await task(n)).__name__

    assert await task(1) == Duplicate.__name__


async def test_the_inner_job_s_failure_is_an_ordinary_error_to_the_outer_one() -> None:
    """The outer body may catch it."""

    @dead_letter
    async def inner(x: int) -> None:
        raise ValueError("no")

    @deduplicated
    async def outer(x: int) -> str:
        try:
            await inner(x)
        except ValueError:
            return "caught"
        return "not raised"

    assert await outer(1) == "caught"


async def test_the_innermost_guard_in_force_is_used(bench: Bench) -> None:
    """Two guards in one process: each sees the jobs started while it was the innermost."""
    other = Events()

    @deduplicated
    async def task(x: int) -> None: ...

    await task(1)
    async with JobGuard(bench.backing, namespace=bench.namespace + "-other", hooks=(other,)):
        await task(1)
    await task(1)
    assert (len(other.of(Succeeded)), len(bench.events.of(Succeeded))) == (1, 1)


@pytest.mark.parametrize("where", ["memory-asyncio", "valkey-asyncio"], indirect=True)
async def test_tasks_started_before_a_guard_see_it(bench: Bench) -> None:
    """A guard is the default of the process, not of the code inside its block."""
    entered = asyncio.Event()
    other = Events()

    @deduplicated
    async def task(x: int) -> None: ...

    async def elsewhere() -> None:
        await entered.wait()
        await task(1)

    running = asyncio.create_task(elsewhere())
    await asyncio.sleep(0)
    async with JobGuard(bench.backing, namespace=bench.namespace + "-other", hooks=(other,)):
        entered.set()
        await running
    assert len(other.of(Succeeded)) == 1
