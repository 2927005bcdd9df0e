"""The sweep of crash points passes on what it is to judge, and finds bugs that are seeded into it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha1
from random import Random

import pytest

from chaos import sweep
from chaos.points import Death, Fault, Moment, Trip, names_in
from chaos.report import Report, Scale
from jobguard import engine, settling
from jobguard.case import Case
from jobguard.job import History
from jobguard.stores import redis as redis_store
from jobguard.stores.base import State
from jobguard.stores.commands import Script
from jobguard.stores.letters import DeadLetter, Kept


def swept(only: str, mutate: Callable[[], None] | None = None) -> Report:
    return sweep.run(1, Scale.FULL, only, mutate)


def broken(report: Report) -> set[str]:
    return {violation.invariant for violation in report.violations}


def test_a_path_keeps_every_promise() -> None:
    """A dead letter is written, whoever dies at whichever round trip; each planned death has happened."""
    report = swept("give up")
    assert report.violations == ()
    cases = report.checked["the planned fault happened"] - sweep.RECORDINGS
    assert cases == 6 * int(report.figures["round trips of 'give up'"]) > 6 * 5
    assert report.figures["deaths of a process"] == report.figures["deaths of a connection"] == cases / 2


def test_a_replay_that_had_succeeded_has_its_result() -> None:
    """A worker dies when the letter is resolved and its queue not told: the next one returns the result."""
    assert swept("requeued/1.replace_letter#1/after/process").violations == ()


def letter_after_the_queue() -> None:
    keep = settling._keep

    async def later(case: Case, letter: DeadLetter) -> Kept | None:
        async def put() -> None:
            await asyncio.sleep(0.3)
            await keep(case, letter)

        case.runtime.background.owe(put)
        return None

    settling._keep = later


def success_unrecorded() -> None:
    settle = settling.settle

    async def without_success(case: Case, state: State, *args: object, **more: object) -> None:
        if state is not State.SUCCESS:
            await settle(case, state, *args, **more)  # type: ignore[arg-type]

    engine.settle = without_success  # type: ignore[attr-defined]


def interruption_counted() -> None:
    counted = History.with_interruption

    def with_failure(history: History) -> History:
        return replace(counted(history), failures=history.failures + 1)

    setattr(History, "with_interruption", with_failure)  # noqa: B010  # mypy takes it for a method


def crash_counted() -> None:
    def with_failures(history: History, crashes: int) -> History:
        return replace(history, crashes=crashes, failures=history.failures + crashes)

    setattr(History, "with_crashes", with_failures)  # noqa: B010


def fence_stands_still() -> None:
    text = redis_store._CLAIM.text.replace(b"math.max(before.fence + 1, ", b"math.min(before.fence, ")
    assert text != redis_store._CLAIM.text
    redis_store._CLAIM = Script(text, sha1(text).hexdigest().encode())


@pytest.mark.parametrize(
    ("only", "mutate", "invariant"),
    [
        ("give up/1.end_run", letter_after_the_queue, "each accepted job ends in one way"),
        ("duplicate of a success/1.claim#1/lost", success_unrecorded, "each accepted job ends in one way"),
        ("success/1.settle#1/before", crash_counted, "attempts mean failures"),
        ("interrupted/1.settle#1/lost", interruption_counted, "attempts mean failures"),
        ("second attempt/2.claim#1/before", fence_stands_still, "fences rise"),
    ],
)
def test_finds_a_seeded_bug(only: str, mutate: Callable[[], None], invariant: str) -> None:
    """Each is found as what it is, with the case's history, by a part of the sweep that takes seconds."""
    report = swept(only, mutate)
    assert invariant in broken(report)
    assert all(violation.history for violation in report.violations)


def test_a_fault_that_nobody_reaches_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every planned death is accounted for."""
    nowhere = Fault(Trip(9, "claim", 1), Moment.LOST, Death.PROCESS)
    monkeypatch.setattr(sweep, "_chosen", lambda *_: [nowhere])
    report = swept("success")
    assert broken(report) == {"the planned fault happened"}


def test_a_brief_sweep_repeats_by_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed takes the same faults, of every moment and kind of death."""
    faults = [
        Fault(Trip(1, each, 1), moment, death) for each in "abc" for moment in Moment for death in Death
    ]
    first, again = (sweep._chosen(faults, Scale.BRIEF, Random(7)) for _ in range(2))
    assert first == again
    assert len({(fault.moment, fault.death) for fault in first}) == len(first) == 6


def test_names_commands_and_scripts() -> None:
    """What is written to a server is named by its commands, ARQ's kinds of keys, and scripts' names."""
    claim = redis_store._CLAIM
    parts = (
        [b"GET", b"arq:job:1"],
        [b"EVALSHA", claim.sha, b"1", b"k"],
        [b"EVAL", claim.text, b"0"],
        [b"ping"],
    )
    written = b"".join(
        b"*%d\r\n" % len(part) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in part)
        for part in parts
    )
    assert list(names_in([written[:30], written[30:]])) == ["GET:job", "claim", "claim(text)", "PING"]
