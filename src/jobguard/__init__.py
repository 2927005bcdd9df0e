"""Decorators that keep async jobs from being lost, doubled or retried into the ground."""

from jobguard.backoff import constant, exponential, fibonacci, linear
from jobguard.browsing import Page
from jobguard.decorators import dead_letter, deduplicated, fallback, retrying, time_limit
from jobguard.dlq import DeadLetterQueue
from jobguard.errors import Discard, GiveUp, RetryLater, Snooze
from jobguard.filters import Filter
from jobguard.guard import JobGuard
from jobguard.job import Duplicate, Job, JobStatus, current_job
from jobguard.stores.letters import DeadLetter

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
