"""Decorators that keep async jobs from being lost, doubled or retried into the ground."""

from importlib import import_module
from typing import TYPE_CHECKING

from jobguard.backoff import constant, exponential, fibonacci, linear
from jobguard.decorators import dead_letter, deduplicated, fallback, retrying, time_limit
from jobguard.errors import Discard, GiveUp, RetryLater, Snooze
from jobguard.guard import JobGuard
from jobguard.job import Duplicate, Job, JobStatus, current_job
from jobguard.stores.letters import DeadLetter

if TYPE_CHECKING:
    from jobguard.browsing import Page
    from jobguard.dlq import DeadLetterQueue
    from jobguard.filters import Filter

__version__ = "0.1.0"

__all__ = [
    "DeadLetter",
    "DeadLetterQueue",
    "Discard",
    "Duplicate",
    "Filter",
    "GiveUp",
    "Job",
    "JobGuard",
    "JobStatus",
    "Page",
    "RetryLater",
    "Snooze",
    "constant",
    "current_job",
    "dead_letter",
    "deduplicated",
    "exponential",
    "fallback",
    "fibonacci",
    "linear",
    "retrying",
    "time_limit",
]

_ON_DEMAND = {
    "DeadLetterQueue": "jobguard.dlq",
    "Filter": "jobguard.filters",
    "Page": "jobguard.browsing",
}
"""Names for those who look after dead letters, with their modules: workers start without them."""

if not TYPE_CHECKING:  # type checkers are to find slips of the pen

    def __getattr__(name: str) -> object:
        if name in _ON_DEMAND:
            return getattr(import_module(_ON_DEMAND[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
