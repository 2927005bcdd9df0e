"""A body that blocks its worker's event loop past the lease: nothing in that process can end it or renew."""

from __future__ import annotations

import pytest

from tests.arq.harness import LEASE, Bench, wait_until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("program", ["arq", "jobguard.adapters.arq"])
async def test_another_worker_takes_a_blocked_job_over_and_its_neighbours(bench: Bench, program: str) -> None:
    """The block is told once; a neighbour ends at its next await; what comes late counts for nothing."""
    bench.program = program
    blocking = await bench.enqueue("keyed", "blocking", ["wait now then block late", "ok"])
    neighbour = await bench.enqueue("keyed", "neighbour", ["sleep 60", "ok"])
    blocked = bench.start()
    await bench.journal.run("blocking", 1)
    await bench.journal.run("neighbour", 1)
    bench.open("now")
    other = bench.start()
    assert (await bench.journal.run("blocking", 2))["pid"] == other.pid
    assert (await bench.journal.run("neighbour", 2))["pid"] == other.pid
    assert await bench.result(blocking) == "blocking by run 2"
    assert bench.journal.entries("LoopBlocked") == []
    bench.open("late")
    await wait_until(lambda: bench.journal.entries("cancelled", "neighbour"))
    told = await wait_until(lambda: bench.journal.entries("LoopBlocked"))
    await wait_until(lambda: blocked.output().count("retrying job") == 2)
    assert [(entry["pid"], entry["lease"]) for entry in told] == [(blocked.pid, LEASE)]
    assert len(bench.journal.entries("LoopBlocked")) == 1
    assert await bench.result(neighbour) == "neighbour by run 2"
    await bench.at_rest()
    assert [len(bench.journal.runs(label)) for label in ("blocking", "neighbour")] == [2, 2]
    assert await bench.letters() == []
