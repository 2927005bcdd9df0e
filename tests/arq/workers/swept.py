"""A worker whose queue is swept often, and which may die as soon as a dead letter is kept."""

from __future__ import annotations

import os

from jobguard.adapters.arq import protect
from jobguard.events import DeadLettered, Event
from tests.arq.workers.common import LEASE, REDIS, configure, note_event, note_startup, opened
from tests.arq.workers.scripted import keyed, retried, unguarded


def die_of_letters(event: Event) -> None:
    """End the process between the letter and what ARQ is told."""
    if isinstance(event, DeadLettered) and opened("deadly"):
        os._exit(3)


SWEEP = os.environ.get("TEST_SWEEP", "0.2")
"""Seconds, or `never`."""


@protect(lease=LEASE, hooks=[note_event, die_of_letters], sweep=None if SWEEP == "never" else float(SWEEP))
@configure
class WorkerSettings:
    functions = [keyed, retried, unguarded]  # noqa: RUF012
    redis_settings = REDIS
    on_startup = note_startup
    poll_delay = 0.05
