"""`import jobguard`: what it brings along, how long it takes, and what it offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import jobguard

NAMES = [
    "deduplicated",
    "retrying",
    "dead_letter",
    "time_limit",
    "fallback",
    "exponential",
    "constant",
    "linear",
    "fibonacci",
    "RetryLater",
    "Snooze",
    "GiveUp",
    "Discard",
    "JobStatus",
    "Job",
    "Duplicate",
    "Filter",
    "current_job",
    "JobGuard",
    "DeadLetterQueue",
    "DeadLetter",
    "Page",
]


def python(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )


@pytest.mark.parametrize("name", ["arq", "redis", "typer", "rich", "pydantic", "trio", "pytest", "httpx"])
def test_importing_jobguard_does_not_import(name: str) -> None:
    """It needs neither a queue nor a server."""
    ended = python(f"import sys, jobguard; print({name!r} in sys.modules)")
    assert ended.stdout == "False\n"


def test_importing_jobguard_is_quick() -> None:
    """Under 100 ms on a machine that is not busy; the bound leaves room for one that is."""

    def took() -> float:
        lines = python("import jobguard", "-X", "importtime").stderr.splitlines()
        (line,) = (line for line in lines if line.rpartition("|")[2] == " jobguard")
        return int(line.split("|")[1]) / 1000

    assert min(took() for _ in range(5)) < 400


def test_importing_jobguard_starts_nothing() -> None:
    """No thread, no event loop, no handler on a logger."""
    ended = python(
        "import jobguard, logging, threading;"
        "print(threading.active_count(), logging.getLogger('jobguard').handlers, logging.root.handlers)"
    )
    assert ended.stdout == "1 [] []\n"


def test_all_is_complete() -> None:
    """What is public is in `__all__`, and what is in `__all__` is there."""
    assert sorted(jobguard.__all__) == sorted(NAMES)
    public = {name for name, value in vars(jobguard).items() if not name.startswith("_") and _own(value)}
    on_demand = {"DeadLetterQueue", "Filter", "Page"}
    assert public == set(NAMES) - on_demand
    assert all(_own(getattr(jobguard, name)) for name in on_demand)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = jobguard.nothing  # type: ignore[attr-defined]


def _own(value: object) -> bool:
    return not isinstance(value, type(jobguard)) and getattr(value, "__module__", "").startswith("jobguard")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_public_has_a_docstring(name: str) -> None:
    """`help()` has something to say."""
    assert getattr(jobguard, name).__doc__


@pytest.mark.parametrize(
    "statement",
    [
        "from jobguard.errors import JobGuardError",
        "from jobguard.stores import MemoryStore, RedisStore",
        "from jobguard.adapters.arq import protect, create_pool",
        "from jobguard.primitives import is_job_already_processed, mark_job_as_processed, get_retry_delay",
        "from jobguard.primitives import log_job_failure, move_to_dead_letter_queue",
    ],
)
def test_the_other_public_names_are_where_they_are_said_to_be(statement: str) -> None:
    """The rest of the public surface."""
    python(statement)


def test_the_package_says_that_it_is_typed() -> None:
    """So that type checkers read its annotations."""
    ended = python(
        "from importlib.resources import files; print(files('jobguard').joinpath('py.typed').is_file())"
    )
    assert ended.stdout == "True\n"
