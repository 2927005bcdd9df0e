"""Protected workers made by `create_worker`, and settings that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.worker import Worker, create_worker, func

from arq import cron
from jobguard import constant, current_job, deduplicated, retrying, time_limit
from jobguard.adapters.arq import protect
from jobguard.errors import InvalidType, InvalidValue, JobGuardError
from tests.arq.harness import Bench

pytestmark = pytest.mark.anyio


@retrying(attempts=3, backoff=constant(0.05))
async def flaky(ctx: dict[Any, Any]) -> int:
    failures = current_job().failures
    if failures < 2:
        raise ValueError(failures)
    return failures


@deduplicated(key="{name}")
async def once(ctx: dict[Any, Any], name: str) -> str:
    return f"{name} from {current_job().id}"


@time_limit(60)
async def limited(ctx: dict[Any, Any]) -> None: ...


def settings(bench: Bench, **more: Any) -> dict[str, Any]:
    return {
        "functions": [flaky, once],
        "redis_settings": RedisSettings(unix_socket_path=bench.environ["TEST_SOCKET"]),
        "poll_delay": 0.02,
        "burst": True,
        "handle_signals": False,
        **more,
    }


async def run(worker: Worker) -> None:
    try:
        await worker.async_run()
    finally:
        await worker.close()


async def test_create_worker_runs_protected_settings_in_burst_mode(bench: Bench) -> None:
    """Inside of an event loop that somebody else runs."""
    job = await bench.enqueue("flaky")
    await run(create_worker(protect(settings(bench))))
    assert await bench.result(job) == 2
    assert await bench.leftovers() == []


async def test_two_workers_one_after_another_from_one_set_of_settings(bench: Bench) -> None:
    """Nothing of the first is left in the settings: the second guards and marks as the first did."""
    protected = protect(settings(bench))
    first = await bench.enqueue("once", "a")
    await run(create_worker(protected))
    second, other = await bench.enqueue("once", "a"), await bench.enqueue("flaky")
    await run(create_worker(protected))
    assert await bench.result(second) == await bench.result(first) == f"a from {first.job_id}"
    assert await bench.result(other) == 2


async def test_a_worker_on_a_pool_of_the_users_own(bench: Bench) -> None:
    """`redis_pool` in place of `redis_settings`; its queue is the pool's."""
    job = await bench.enqueue("flaky")
    given = settings(bench, redis_pool=bench.pool, redis_settings=None, queue_name=None)
    await create_worker(protect(given)).async_run()
    assert await bench.result(job) == 2


async def test_two_protected_workers_share_a_process(bench: Bench) -> None:
    """Each guards the jobs of its own queue."""
    left = create_worker(protect(settings(bench, queue_name="left")))
    right = create_worker(protect(settings(bench, queue_name="right"), namespace="right"))
    jobs = [await bench.enqueue("once", "a", _queue_name=queue) for queue in ("left", "right")]
    for worker in (left, right):
        await run(worker)
    results = [(await job.result_info()) for job in jobs]
    # The namespaces differ, so neither knows of the other's key.
    assert [info and info.result for info in results] == [f"a from {job.job_id}" for job in jobs]


def test_protecting_a_class_twice_changes_nothing() -> None:
    """The originals are protected, not what an earlier call made of them."""

    class WorkerSettings:
        functions = [flaky]  # noqa: RUF012
        max_tries = 7

    protect(WorkerSettings)
    names = [each.name for each in vars(WorkerSettings)["functions"]]
    protect(WorkerSettings, lease=5)
    assert [each.name for each in vars(WorkerSettings)["functions"]] == names


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"functions": [limited], "job_timeout": 30}, ["time_limit(60)", "30 s", "job_timeout"]),
        ({"functions": [func(limited, timeout=5)]}, ["time_limit(60)", "5 s", "timeout"]),
        ({"functions": [func(flaky, max_tries=2)]}, ["attempts=3", "max_tries=2"]),
        ({"cron_jobs": [cron(limited, minute=0, timeout=5)]}, ["time_limit(60)", "5 s"]),
    ],
)
def test_limits_that_contradict_a_policy_are_refused(given: dict[str, Any], said: list[str]) -> None:
    """Before a job meets them, in words that name both and the cure."""
    with pytest.raises(InvalidValue) as caught:
        protect(given)
    for words in said:
        assert words in str(caught.value)


def test_func_tries_equal_to_the_attempts_are_no_contradiction() -> None:
    """The worker's own `max_tries` is a default only, and contradicts nothing."""
    protect({"functions": [func(flaky, max_tries=3)]})
    protect({"functions": [flaky], "max_tries": 1})


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ("WorkerSettings", {}),
        ({"functions": [flaky]}, {"lease": 0}),
        ({"functions": [flaky]}, {"lease": "30"}),
        ({"functions": [flaky]}, {"namespace": ""}),
        ({"functions": [flaky]}, {"defaults": [flaky]}),
        ({"functions": [flaky]}, {"defaults": [retrying(), retrying()]}),
        ({"functions": [flaky]}, {"on_store_error": "ignore"}),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: Any, options: dict[str, Any]) -> None:
    """When the worker is defined, not when it starts."""
    with pytest.raises((InvalidType, InvalidValue)) as caught:
        protect(given, **options)
    assert isinstance(caught.value, JobGuardError)


async def test_settings_without_a_function_are_still_arqs_error() -> None:
    """Protecting does not hide that there is nothing to run: every job would be a dead letter."""
    with pytest.raises(RuntimeError, match="at least one function"):
        create_worker(protect({"functions": []}))
