"""The jobs of a run: what is asked for, and the enqueuer, who insists until the queue has said yes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from chaos.journal import Journal

ATTEMPTS, MAX_CRASHES = 3, 10
"""Of every task."""
PAUSE = 0.2
"""Seconds after which an enqueuer tries again."""


class Failure(Exception):
    """A body was told to fail."""


@dataclass(frozen=True, slots=True)
class Order:
    """One job.

    Attributes:
        label: names it, also to the queue.
        task: `keyed`, or `plain` for one without a key.
        key: of several orders for the same work, one.
        script: what the body is to do, see `chaos.tasks.body`.
    """

    label: str
    task: str
    key: str
    script: dict[str, Any]


Kinds = tuple[tuple[int, str, dict[str, Any]], ...]

KINDS: Kinds = (
    (38, "plain", {}),
    (26, "keyed", {}),
    (5, "plain", {"fail": 1}),
    (5, "keyed", {"fail": 1}),
    (2, "plain", {"fail": 2}),
    (2, "keyed", {"fail": 2}),
    (2, "plain", {"fail": 99}),
    (2, "keyed", {"fail": 99}),
    (2, "plain", {"snooze": 0.5}),
    (2, "keyed", {"snooze": 0.5}),
    (1, "plain", {"discard": True}),
    (1, "keyed", {"discard": True}),
)
"""Weights of jobs of each task, and of what becomes of them."""
SHARED = 0.04
"""Share of the orders that several jobs place for the same work."""
LONGER_THAN_LEASE = 1.3
"""How many leases a long body takes."""


def orders(random: Random, number: int, kinds: Kinds, long: float, lease: float) -> Iterator[Order]:
    """So many jobs, the same for the same seed.

    Args:
        random: decides.
        number: of jobs.
        kinds: which there are.
        long: share of those whose bodies outlast a lease.
        lease: seconds.
    """
    weights = [weight for weight, _, _ in kinds]
    again: list[tuple[int, str]] = []  # when which key is asked for once more
    for made in range(number):
        label, hold = f"job-{made}", random.uniform(0.05, 0.6)
        if again and again[0][0] <= made:
            yield Order(label, "keyed", heappop(again)[1], {"hold": hold})
        elif random.random() < SHARED:
            key = f"shared-{made}"
            for _ in range(random.randint(1, 3)):  # at once, or when the work is long done
                heappush(again, (made + random.choice((1, 100)), key))
            yield Order(label, "keyed", key, {"hold": hold})
        else:
            [(_, task, script)] = random.choices(kinds, weights)
            hold = lease * LONGER_THAN_LEASE if random.random() < long else hold
            yield Order(label, task, f"key-{label}", {"hold": hold, **script})


async def enqueue(order: Order, connect: Callable[[], Awaitable[ArqRedis]], journal: Journal) -> None:
    """Put an order into the queue; return once the queue has said that it has it.

    A reply that does not come leaves open whether the job is there: the same id is sent again.
    """
    journal.write("order", label=order.label, task=order.task, key=order.key, script=order.script)
    while True:
        try:
            pool = await connect()
            await pool.enqueue_job(order.task, order.label, order.key, order.script, _job_id=order.label)
        except (RedisError, OSError):
            await asyncio.sleep(PAUSE)
        else:
            journal.write("accepted", label=order.label)
            return
