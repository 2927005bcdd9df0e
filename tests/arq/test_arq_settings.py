"""Worker settings in every form, what they mean, and the hooks that they name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from arq.worker import Function

from jobguard import dead_letter, retrying
from jobguard.adapters.arq import protect
from jobguard.errors import ConfigurationError
from tests.arq.harness import Bench

pytestmark = pytest.mark.anyio


async def doubled(ctx: object, number: int) -> int:
    return 2 * number


def sync(ctx: object) -> None: ...


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ("Bare", 3),
        ("Inherited", 4),
        ("Subclass", 2),
        ("Called", 4),
        ("AS_DICT", 4),
    ],
)
async def test_protect_takes_settings_in_every_form(bench: Bench, settings: str, runs: int) -> None:
    """The stock command runs each; `max_tries` (written, inherited or overridden) bounds the attempts."""
    job = await bench.enqueue("guarded", "a", ["fail"])
    await bench.drain(f"styles.{settings}")
    assert isinstance(await bench.error(job), ValueError)
    assert (await bench.letter()).failures == runs
    assert len(bench.journal.runs("a")) == runs


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("hooks", print, repr(print)),
        ("hooks", (1,), "1"),
        ("hooks", 5, "5"),
        ("defaults", retrying(), "defaults=(...,)"),
        ("defaults", retrying, "defaults=(...,)"),
        ("defaults", (5,), "5"),
        ("store", "x", "of type str"),
        ("codec", "x", "'x'"),
    ],
)
@pytest.mark.parametrize("called", [True, False], ids=["on-settings", "as-decorator"])
async def test_a_wrong_setting_is_refused_where_it_is_written(
    called: bool, name: str, value: object, told: str
) -> None:
    """By name, before any worker starts."""
    make: Any = protect
    with pytest.raises(ConfigurationError) as caught:
        make(*([{}] if called else []), **{name: value})
    assert name in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"redis_settings": "redis://:secret@host"},
            ["redis_settings", "str", "RedisSettings.from_dsn(url)"],
        ),
        ({"functions": [sync]}, ["functions", repr(sync), "async def", "to_thread"]),
        ({"functions": [partial(doubled)]}, ["functions", "partial", "async def function that calls it"]),
        ({"functions": doubled}, ["functions", repr(doubled), "list"]),
        ({"functions": None}, ["functions", "None", "list"]),
    ],
    ids=["url", "sync", "partial", "function", "None"],
)
@pytest.mark.parametrize(
    "make", [dict, lambda given: type("WorkerSettings", (), given)], ids=["dict", "class"]
)
async def test_wrong_worker_settings_are_refused_by_name(
    make: Callable[[dict[str, object]], Any], settings: dict[str, object], told: list[str]
) -> None:
    """Before ARQ stumbles over them; a URL is not shown, since it has a password."""
    with pytest.raises(ConfigurationError) as caught:
        protect(make({"functions": [doubled], **settings}))
    assert "secret" not in str(caught.value)
    for word in told:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_job", "max_jobs"),
        ("functionz", "functions"),
        ("max_retries", "max_tries"),
        ("job_timout", "job_timeout"),
    ],
)
@pytest.mark.parametrize(
    "make", [dict, lambda given: type("WorkerSettings", (), given)], ids=["dict", "class"]
)
async def test_a_misspelt_worker_setting_is_warned_of(
    make: Callable[[dict[str, object]], Any], name: str, meant: str
) -> None:
    """ARQ ignores it without a word."""
    with pytest.warns(UserWarning, match=rf"sets {name}, .* if {meant} is meant, rename it"):
        protect(make({name: 1}))


async def test_attributes_of_ones_own_are_not_warned_of() -> None:
    """Also one much like a setting that is there too, and those that a protected class has already."""

    @protect
    class WorkerSettings:
        functions = (doubled,)
        queue_name = "orders"
        queue_names = ("orders", "mails")
        redis_url = "redis://host"
        retries = 3
        timeout = 10

        def helper(self) -> None: ...

    class Subclass(WorkerSettings):
        max_jobs = 3

    protect(Subclass)


async def test_a_lease_too_small_for_a_worker_is_refused() -> None:
    """The least is said, and why."""
    with pytest.raises(ConfigurationError, match=r"lease must be at least 1 s, not 0\.5: it is renewed"):
        protect({"functions": [doubled]}, lease=0.5)
    protect({"functions": [doubled]}, lease=1)


async def test_defaults_may_redact_what_not_every_function_has() -> None:
    """They are written for all functions, so one name too many is no slip."""

    async def sends(ctx: object, content: str) -> None: ...
    async def counts(ctx: object) -> None: ...

    settings: dict[str, Any] = {"functions": [sends, counts]}
    protected = protect(settings, defaults=[dead_letter(redact=("content",))])
    functions: list[Function] = protected["functions"]
    assert [each.name for each in functions][:2] == [sends.__qualname__, counts.__qualname__]


async def test_defaults_give_policies_to_functions_that_have_none(bench: Bench) -> None:
    """A function with a guard of its own keeps exactly that."""
    bare = await bench.enqueue("bare_task", "a", ["fail"])
    guarded = await bench.enqueue("guarded", "b", ["fail"])
    await bench.drain("styles.Defaults")
    assert isinstance(await bench.error(bare), ValueError)
    assert isinstance(await bench.error(guarded), ValueError)
    assert (await bench.letter("others")).job_id == bare.job_id
    assert (await bench.letter("default")).job_id == guarded.job_id
    assert [len(bench.journal.runs(label)) for label in "ab"] == [2, 4]


async def test_func_entries_keep_their_own_name_timeout_and_tries(bench: Bench) -> None:
    """What `arq.worker.func` and import strings set is honoured, and letters carry ARQ's name."""
    twice = await bench.enqueue("twice", "a", ["fail"])
    quick = await bench.enqueue("quick", "b", ["sleep 60"])
    bare = await bench.enqueue("bare", "c", ["sleep 60"])
    text = await bench.enqueue("tests.arq.workers.styles.guarded", "d", ["fail", "fail", "fail", "ok"])
    await bench.drain("styles.Entries")
    assert isinstance(await bench.error(twice), ValueError)
    assert isinstance(await bench.error(quick), TimeoutError)
    assert isinstance(await bench.error(bare), TimeoutError)
    assert await bench.result(text) == "d by run 4"
    assert [len(bench.journal.runs(label)) for label in "abcd"] == [2, 1, 1, 4]
    assert {letter.task for letter in await bench.letters()} == {"twice", "quick"}


async def test_ctx_and_hooks_are_as_under_arq_alone(bench: Bench) -> None:
    """Tasks find what settings and `on_startup` put into ctx; each hook runs when it should."""
    job = await bench.enqueue("shows_ctx")
    await bench.drain("styles.Hooks")
    names = ["enqueue_time", "given", "job_id", "job_try", "redis", "score", "service"]
    assert await bench.result(job) == names
    (ctx,) = bench.journal.entries("ctx")
    assert (ctx["service"], ctx["given"], ctx["job_try"]) == ("of mine", "in settings", 1)
    hooks = bench.journal.entries("hook")
    assert [hook["name"] for hook in hooks] == [
        "on_startup", "on_job_start", "on_job_end", "after_job_end", "on_shutdown",
    ]  # fmt: skip
    assert {hook["job_id"] for hook in hooks if "job_id" in hook} == {job.job_id}
    assert hooks[-1]["service"] == "of mine"


async def test_a_job_hook_that_raises_kills_neither_worker_nor_job(bench: Bench) -> None:
    """Under ARQ alone any of them would end the worker."""
    jobs = [await bench.enqueue("guarded", label, ["fail", "ok"]) for label in "ab"]
    await bench.drain("styles.BrokenHooks")
    assert [await bench.result(job) for job in jobs] == ["a by run 2", "b by run 2"]


async def test_a_hook_before_the_job_may_take_longer_than_a_lease(bench: Bench) -> None:
    """The job's mark is kept from before the hook on, so that the job is not picked up twice."""
    job = await bench.enqueue("guarded", "a", ["ok"])
    bench.start("styles.SlowHook")
    bench.start("styles.SlowHook")
    assert await bench.result(job) == "a by run 1"
    assert len(bench.journal.entries("hook")) == 1
    assert bench.journal.entries("LeaseLost") == []


async def test_a_guarded_task_works_under_an_unprotected_worker_and_warns(bench: Bench) -> None:
    """Its retries then happen inside of one delivery, as in-process; that is said once."""
    jobs = [await bench.enqueue("guarded", label, ["fail", "ok"]) for label in "ab"]
    worker = await bench.drain("styles.Unprotected")
    assert [await bench.result(job) for job in jobs] == ["a by run 2", "b by run 2"]
    assert [run["job_try"] for run in bench.journal.runs("a")] == [1, 1]
    assert "protect" in worker.output()


async def test_an_unprotected_worker_is_warned_of_though_no_job_fails(bench: Bench) -> None:
    """The first job of each task is enough."""
    job = await bench.enqueue("guarded", "a", ["ok"])
    worker = await bench.drain("styles.Unprotected")
    assert await bench.result(job) == "a by run 1"
    assert "its worker is not" in worker.output()
