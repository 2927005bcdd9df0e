"""What is special to the memory store."""

from __future__ import annotations

import pytest

from jobguard.errors import InvalidValue
from jobguard.stores import MemoryStore
from jobguard.stores.base import Claim, Settlement, State, Verdict
from jobguard.testing import ManualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(clock=clock)


async def test_keeps_time_by_its_clock(store: MemoryStore, clock: ManualClock) -> None:
    """A lease ends when the clock that was handed in says so."""
    await store.claim(Claim("k", "one", "t", 30.0, 60.0))
    clock.advance(29.0)
    assert (await store.claim(Claim("k", "two", "u", 30.0, 60.0))).wait == 1.0
    clock.advance(1.0)
    assert (await store.claim(Claim("k", "two", "u", 30.0, 60.0))).verdict is Verdict.GRANTED


async def test_drops_what_has_expired(store: MemoryStore, clock: ManualClock) -> None:
    """Records that nobody asks for again do not stay."""
    for number in range(1000):
        await store.claim(Claim(f"k{number}", "one", "t", 1.0, 1.0))
    clock.advance(10.0)
    for _ in range(100):
        await store.look_up("other")
    assert repr(store) == "MemoryStore(0 records)"


async def test_keeps_no_trace_of_what_was_renewed_or_forgotten(store: MemoryStore) -> None:
    """A key used over and over leaves no more behind than a key used once."""
    for _ in range(2000):
        await store.claim(Claim("k", "one", "t", 1000.0, 1000.0))
        await store.forget("k")
    assert len(store._expiries) < 200


async def test_holds_an_ended_record_no_longer_than_said(store: MemoryStore, clock: ManualClock) -> None:
    """A record that ends earlier than its claim would have is dropped at that time."""
    await store.claim(Claim("k", "one", "t", 1000.0, 1000.0))
    await store.settle(Settlement("k", "one", "t", 1, State.SUCCESS, 5.0, 5.0))
    clock.advance(6.0)
    assert await store.look_up("other") is None
    assert repr(store) == "MemoryStore(0 records)"


async def test_raises_the_fence_on_a_clock_that_stands(store: MemoryStore) -> None:
    """Fences rise even while no time passes."""
    first = await store.claim(Claim("k", "one", "t", 1.0, 1.0))
    await store.settle(Settlement("k", "one", "t", first.fence, State.FAILED, 9.0, 9.0))
    second = await store.claim(Claim("k", "two", "u", 1.0, 1.0))
    assert second.fence == first.fence + 1


def test_a_clock_moved_by_hand_does_not_run_back(clock: ManualClock) -> None:
    """Negative time is refused, and shown."""
    with pytest.raises(InvalidValue, match="-1"):
        clock.advance(-1)
    assert clock() == 1000.0
