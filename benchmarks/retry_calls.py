"""The success path of a retrying call: what it costs where nothing fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import backoff
import stamina
import tenacity

from benchmarks.harness import Work, in_turns
from benchmarks.report import Bound, Line, microseconds
from jobguard import retrying

ATTEMPTS = 3


async def bare(value: int) -> int:
    return value


async def by_hand(value: int) -> int:
    attempt = 0
    while True:
        attempt += 1
        try:
            return await bare(value)
        except Exception:
            if attempt == ATTEMPTS:
                raise
        await asyncio.sleep(30 * 2 ** (attempt - 1))


@retrying(attempts=ATTEMPTS)
async def with_jobguard(value: int) -> int:
    return value


@tenacity.retry(stop=tenacity.stop_after_attempt(ATTEMPTS), wait=tenacity.wait_exponential_jitter())
async def with_tenacity(value: int) -> int:
    return value


@stamina.retry(on=Exception, attempts=ATTEMPTS)
async def with_stamina(value: int) -> int:
    return value


@backoff.on_exception(backoff.expo, Exception, max_tries=ATTEMPTS)
async def with_backoff(value: int) -> int:
    return value


def calling(function: Callable[[int], Awaitable[int]]) -> Work:
    async def work(times: int) -> None:
        for _ in range(times):
            await function(1)

    return work


async def retry_calls() -> list[Line]:
    """All of them in turns, over a bare call."""
    timings = await in_turns(
        {
            "a bare call": calling(bare),
            "a loop by hand": calling(by_hand),
            "jobguard @retrying": calling(with_jobguard),
            "backoff": calling(with_backoff),
            "tenacity": calling(with_tenacity),
            "stamina": calling(with_stamina),
        },
        rounds=150,
        slice_seconds=0.002,
    )
    base = timings["a bare call"]
    return [
        Line(
            name,
            microseconds(timing.seconds),
            timing.over(base),
            "x bare",
            Bound(7) if name == "jobguard @retrying" else None,
        )
        for name, timing in timings.items()
    ]
