"""The state machines of the campaign: quiet on stores that keep their word, and loud on those that do not."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1
from typing import Any

import pytest

from chaos.machines import INVARIANT, machine_on
from chaos.stages import STAGES
from jobguard.stores import MemoryStore, memory, redis, redis_letters
from jobguard.stores.base import Claim, Renewal, Settlement, State
from jobguard.stores.commands import Script
from jobguard.stores.letters import Entry
from jobguard.stores.memory_letters import _Letters

FEW, MANY = 1_000, 2_500
"""Steps: to see that a machine runs, and as many as the shortest campaign takes."""


@pytest.mark.parametrize("name", [name for name in STAGES if name != "redis 7"])
def test_a_sound_store_agrees(name: str) -> None:
    """Nothing is found where nothing is wrong, and much has been tried."""
    report = machine_on(name, 5, FEW)
    assert report.violations == ()
    assert report.checked == {f"{INVARIANT}: {name}": report.figures["steps"]}
    assert int(report.figures["steps"]) >= FEW
    assert report.figures["take-overs of a lease that ran out"]
    assert all(report.figures[f"operation {each}"] for each in ("claim", "settle", "renew", "put", "page"))


def test_a_seed_repeats_its_steps() -> None:
    """The same seed asks a store the same, another one something else."""
    first, again, other = (machine_on("memory", seed, FEW).figures for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_violation_says_how_it_came_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found comes with the shortest sequence of steps that shows it."""
    monkeypatch.setattr(memory, "_may_settle", lambda entry, settlement: True)
    [violation] = machine_on("memory", 1, MANY).violations
    assert (violation.invariant, violation.subject) == (INVARIANT, "memory")
    assert "the store says" in violation.what
    steps = [line.strip() for line in violation.history]
    assert "state = ClaimMachine()" in steps
    assert sum(line.startswith("state.settle") for line in steps) <= 3


def found_on(name: str) -> bool:
    """Whether a short campaign meets an answer that is not the model's; an error is none."""
    [violation] = machine_on(name, 1, MANY, smallest=False).violations
    return violation.invariant == INVARIANT and "StoreError" not in violation.what


def _renew_without_token(store: Any, renewal: Renewal, now: float) -> bool:
    entry = store._find(renewal.key, now)
    return entry is not None and RENEW(store, renewal._replace(token=entry.token), now)


def _grant_without_crash(store: Any, claim: Claim, before: Any, now: float, **more: Any) -> Any:
    more["crashes"] = 0 if before is None else before.crashes
    return GRANT(store, claim, before, now, **more)


def _grant_without_history(store: Any, claim: Claim, before: Any, now: float, **more: Any) -> Any:
    return GRANT(store, claim, before, now, crashes=more["crashes"], keeps_history=False)


def _grant_for_ever(store: Any, claim: Claim, before: Any, now: float, **more: Any) -> Any:
    return GRANT(store, claim._replace(lease=3600.0), before, now, **more)


def _apply_without_reset(store: Any, settlement: Settlement, entry: Any, now: float) -> None:
    crashes = entry.crashes
    APPLY(store, settlement, entry, now)
    entry.crashes = crashes


def _drop_without_kind(letters: Any, entry: Entry) -> None:
    DROP(letters, entry)
    letters.kinds[entry.state, entry.fingerprint] += 1


RENEW, GRANT, APPLY, DROP = MemoryStore._renew, MemoryStore._grant, MemoryStore._apply, _Letters.drop


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (MemoryStore, "_renew", _renew_without_token),
        (MemoryStore, "_grant", _grant_without_crash),
        (MemoryStore, "_grant", _grant_without_history),
        (MemoryStore, "_grant", _grant_for_ever),
        (MemoryStore, "_apply", _apply_without_reset),
        (memory, "_may_settle", lambda entry, settlement: entry.state is not State.SUCCESS),
        (memory, "_settled_so", lambda entry, settlement: False),
        (_Letters, "drop", _drop_without_kind),
    ],
    ids=[
        "renewal without the token",
        "take-over that counts no crash",
        "take-over without the history",
        "lease that never ends",
        "end that keeps the crashes",
        "settlement without the token",
        "settlement sent again refused",
        "letter that stays counted",
    ],
)
def test_a_fault_in_memory_is_found(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, fault: Callable[..., Any]
) -> None:
    """A memory store that breaks its word in one thing differs from the model within a short campaign."""
    monkeypatch.setattr(where, name, fault)
    assert found_on("memory")


@pytest.mark.parametrize(
    ("module", "script", "line", "instead"),
    [
        (redis, "_RENEW", "record.token ~= ARGV[1] or ", ""),
        (redis, "_RENEW", "or now >= record.ends", ""),
        (redis, "_RENEW", "if more > 0 then", "if true then"),
        (redis, "_SETTLE", "local mine = record.token == token", "local mine = true"),
        (redis, "_SETTLE", "if ENDED[state] then record.crashes = 0 end", ""),
        (redis, "_SETTLE", "record.tail = string.sub(ARGV[2], 2) == '+' and ARGV[7]", "record.tail = false"),
        (redis, "_CLAIM", "grant(before.crashes + 1)", "grant(before.crashes)"),
        (
            redis,
            "_CLAIM",
            "if own and before.token == token then\n    -- The same",
            "if false then\n    -- The",
        ),
        (redis, "_CLAIM", "math.max(before.fence + 1, time[1] * 1000000 + time[2])", "before.fence"),
        (redis, "_CLAIM", "first = own and before.first or now", "first = now"),
        (
            redis,
            "_CLAIM",
            "if ends and now < tonumber(ends) then return raw end",
            "if ends then return raw end",
        ),
        (redis, "_ANNOUNCE", "if not before or tonumber(before) < now + lasts then", "if true then"),
        (redis, "_FORGET", "keep_answer(kept, removed)", "keep_answer(kept, 0)"),
        (redis_letters, "_PUT", "then keep_answer(kept, answer) end", "then end"),
        (redis_letters, "_REMOVE", "keep_answer(kept, removed)", ""),
        (redis_letters, "_REMOVE", "leave(name .. ':' .. value, letter.id)", ""),
        (redis_letters, "_REPLACE", "unlink(stem, { before })", ""),
    ],
)
def test_a_fault_on_a_server_is_found(
    monkeypatch: pytest.MonkeyPatch, module: Any, script: str, line: str, instead: str
) -> None:
    """A script that forgets a check, a count or an index differs from the model within a short campaign."""
    text: bytes = getattr(module, script).text
    assert line.encode() in text
    faulty = text.replace(line.encode(), instead.encode())
    monkeypatch.setattr(module, script, Script(faulty, sha1(faulty).hexdigest().encode()))
    assert found_on("valkey")
