"""A store on a server of its own that is out of reach while the queue is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobguard.testing import EmbeddedValkey
from tests.arq.harness import Bench, wait_until

pytestmark = pytest.mark.anyio
ELSEWHERE = "elsewhere.WorkerSettings"


@pytest.fixture
def store(bench: Bench) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        bench.environ["TEST_STORE"] = server.url
        yield server


async def test_a_job_is_put_off_while_the_store_is_out_of_reach(bench: Bench, store: EmbeddedValkey) -> None:
    """Nothing runs unguarded, and the outage uses up no attempt and counts as no crash."""
    store.kill()
    job = await bench.enqueue("keyed", "a", ["fail", "ok"])
    bench.start(ELSEWHERE)
    await wait_until(lambda: bench.journal.entries("StoreFailed"))
    assert bench.journal.runs("a") == []
    store.start()
    assert await bench.result(job) == "a by run 2"
    first, second = bench.journal.runs("a")
    assert (first["attempt"], first["failures"], first["crashes"]) == (1, 0, 0)
    assert (second["failures"], second["crashes"]) == (1, 0)


async def test_a_job_runs_unguarded_where_that_is_wanted(bench: Bench, store: EmbeddedValkey) -> None:
    """`on_store_error="run"`: the work goes on, and an event says at what price."""
    store.kill()
    job = await bench.enqueue("keyed", "a", ["ok"])
    bench.start(ELSEWHERE, on_store_error="run")
    assert await bench.result(job) == "a by run 1"
    assert len(bench.journal.entries("RanUnguarded")) == 1
    assert len(bench.journal.runs("a")) == 1


async def test_an_outage_that_ends_within_the_lease_costs_nothing(
    bench: Bench, store: EmbeddedValkey
) -> None:
    """The outcome of a run is written as soon as the store is back; the body is not repeated."""
    job = await bench.enqueue("keyed", "a", ["wait go"])
    bench.start(ELSEWHERE, lease=30)
    await bench.journal.run("a", 1)
    store.kill()
    bench.open("go")
    await wait_until(lambda: bench.journal.entries("StoreFailed"))
    store.start()
    assert await bench.result(job) == "a by run 1"
    duplicate = await bench.enqueue("keyed", "a", ["ok"])
    assert await bench.result(duplicate) == "a by run 1"
    assert len(bench.journal.runs("a")) == 1


async def test_deliveries_that_an_outage_brought_to_nothing_are_no_crashes(
    bench: Bench, store: EmbeddedValkey
) -> None:
    """Without a claim crashes are told by ARQ's count of deliveries; such a one is taken out of it."""
    job = await bench.enqueue("retried", "a", ["fail", "ok"])
    bench.start(ELSEWHERE)
    await wait_until(lambda: bench.journal.entries("RetryScheduled"))
    store.kill()
    await wait_until(lambda: bench.journal.entries("StoreFailed"))
    store.start()
    assert await bench.result(job) == "a by run 2"
    second = await bench.journal.run("a", 2)
    assert (second["attempt"], second["failures"], second["crashes"]) == (2, 1, 0)
