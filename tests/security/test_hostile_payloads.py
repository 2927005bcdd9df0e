"""Payloads in a queue of ARQ that somebody else has put there, with JSON serialisers: none stops a worker."""

from __future__ import annotations

import json
import math
import pickle
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobguard import JobGuard
from jobguard.adapters.arq.incoming import CATCH_ALL, incoming, reading
from jobguard.adapters.arq.replay import MARK, is_replay, read_replay
from jobguard.codec import Codec
from jobguard.policies import check_name, check_namespace
from tests.arq.harness import Bench, wait_until
from tests.security.canary import nothing_runs, trap

pytestmark = pytest.mark.anyio

load = json.loads


def dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


GOOD: dict[str, Any] = {"t": None, "f": "keyed", "a": ["good", ["ok"]], "k": {}, "et": 1_700_000_000_000}
REPLAY = {
    "jobguard": "replay",
    "version": 1,
    "letter": ["jobguard", "default", "id", 1, False, ""],
    "task": "keyed",
    "format": "json",
    "payload": Codec().encode({"args": ["replayed", ["ok"]], "kwargs": {}}),
    "enqueued_ms": 1_700_000_000_000,
}
EXPIRED = {"jobguard": "expired", "version": 1, "job": "a", "planned_ms": 1, "delivered": 0, "token": "t"}

HOSTILE: dict[str, bytes] = {
    "tries are text": dump({**GOOD, "t": "many"}),
    "tries without end": dump({**GOOD, "t": 10**30}),
    "tries are true": dump({**GOOD, "t": True}),
    "time without end": dump({**GOOD, "et": 10**30}),
    "time is text": dump({**GOOD, "et": "1700000000000"}),
    "time is a fraction": dump({**GOOD, "et": 1.5}),
    "time is none": dump({**GOOD, "et": math.nan}),
    "arguments are a number": dump({**GOOD, "a": 5}),
    "arguments are text": dump({**GOOD, "a": "text"}),
    "named arguments are a list": dump({**GOOD, "k": []}),
    "the name is a list": dump({**GOOD, "f": ["keyed"]}),
    "no object": b"[]",
    "nested deep": b"[" * 100_000,
    "a number without end": b"1" * 5_000,
    "a pickle": b"\x80\x04.",
    "a replay of no letter": MARK + b"}",
    "a replay of an odd namespace": dump({**REPLAY, "letter": ["a}b", "default", "id", 1, False, ""]}),
    "a replay of an odd queue": dump({**REPLAY, "letter": ["jobguard", "a b", "id", 1, False, ""]}),
    "a replay whose number is text": dump({**REPLAY, "letter": ["jobguard", "q", "id", "1", False, ""]}),
    "a replay without its letter": dump({**REPLAY, "letter": []}),
    "a replay of no arguments": dump({**REPLAY, "letter": ["a", "b", "c", 1, False, ""], "payload": "{}"}),
    "a replay of text": dump(
        {**REPLAY, "letter": ["a", "b", "d", 1, False, ""], "payload": '{"args":"text","kwargs":{}}'}
    ),
    "a replay of pairs": dump(
        {**REPLAY, "letter": ["a", "b", "e", 1, False, ""], "payload": '{"args":[],"kwargs":[["a",1]]}'}
    ),
    "a replay of a class": dump({**REPLAY, "payload": '{"$of":["os.system",["true"]]}'}),
    "a replay of no format": dump({**REPLAY, "format": 5}),
    "a replay without its version": dump({name: REPLAY[name] for name in REPLAY if name != "version"}),
    "a replay nested deep": MARK + b'"letter":' + b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
def test_a_payload_that_is_no_job_goes_to_the_catch_all(payload: bytes) -> None:
    """With its bytes, which its letter keeps, and a job in its place that ARQ can begin."""
    job = reading(load, ["keyed"], Codec())(payload)
    assert job == {"f": CATCH_ALL, "a": (), "k": {}, "t": None, "et": 0}
    told = incoming.get()
    assert told is not None
    assert told.error is not None
    assert told.raw == payload


async def test_no_payload_stops_a_worker(bench: Bench) -> None:
    """All of them become dead letters, and the good job behind them runs."""
    for name, payload in HOSTILE.items():
        await bench.pool.set(f"arq:job:{name}", payload)
        await bench.pool.zadd("arq:queue", {name: 1})
    await bench.pool.set("arq:job:good", dump(GOOD))
    await bench.pool.zadd("arq:queue", {"good": 2})
    await bench.drain("as_json.WorkerSettings")
    elsewhere = JobGuard(bench.guard.store, namespace="a").dead_letters("b")  # where its replay says
    letters = [*await bench.letters(), *(await elsewhere.list()).entries]
    assert {letter.job_id for letter in letters} == set(HOSTILE)
    assert {letter.reason for letter in letters} == {"undecodable"}
    assert len(bench.journal.runs("good")) == 1
    await bench.at_rest()


@pytest.mark.parametrize("form", [REPLAY, EXPIRED], ids=["a replay", "one that has run out"])
async def test_what_another_version_has_written_is_kept_for_it(bench: Bench, form: dict[str, Any]) -> None:
    """It might be misread here. A letter keeps its bytes, and says what is wrong with them."""
    payload = dump({**form, "version": 2})
    await bench.pool.set("arq:job:newer", payload)
    await bench.pool.zadd("arq:queue", {"newer": 1})
    await bench.drain("as_json.WorkerSettings")
    letter = await bench.letter()
    assert (letter.job_id, letter.reason, letter.payload_format) == ("newer", "undecodable", "opaque")
    assert b64decode(letter.payload or "") == payload
    assert "UnknownVersion" in letter.error_message
    assert bench.journal.runs("replayed") == []


async def test_arguments_called_like_ours_are_arguments(bench: Bench) -> None:
    """A name that the worker itself uses for a parameter fails the job, which leaves a letter."""
    await bench.pool.set("arq:job:odd", dump({**GOOD, "k": {"ctx": 1, "self": 2, "entry": 3}}))
    await bench.pool.zadd("arq:queue", {"odd": 1})
    await bench.drain("as_json.WorkerSettings")
    letter = await bench.letter()
    assert (letter.job_id, letter.error_type) == ("odd", "TypeError")


class Unshown:
    """An argument that nobody can look at."""

    def __repr__(self) -> str:
        raise RuntimeError("repr")


async def test_a_job_whose_arguments_cannot_be_shown_leaves_a_letter(bench: Bench) -> None:
    """ARQ asks each for its `repr`, and where that raises ends the job without a call of its function."""
    job = await bench.enqueue("keyed", "a", Unshown())
    await bench.drain()
    letter = await bench.letter()
    assert (letter.job_id, letter.reason, letter.payload_format) == (job.job_id, "undecodable", "opaque")


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_pickle_in_a_queue_of_json_is_not_read(bench: Bench, tmp_path: Path, wrapped: bool) -> None:
    """Neither as a payload nor inside of what says it is a replay's."""
    payload = trap(tmp_path / "sprung")
    if wrapped:
        payload = dump({**REPLAY, "format": "opaque", "payload": b64encode(payload).decode()})
    with nothing_runs(tmp_path / "sprung"):
        await bench.pool.set("arq:job:trap", payload)
        await bench.pool.zadd("arq:queue", {"trap": 1})
        await bench.drain("as_json.WorkerSettings")
        await wait_until(bench.letters)
    pickle.loads(trap(tmp_path / "proof"))
    assert (tmp_path / "proof").exists()  # such a trap does go off


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


def changed(base: dict[str, Any]) -> st.SearchStrategy[bytes]:
    names = st.sampled_from([*base, "other"])
    return st.dictionaries(names, json_values, max_size=3).map(lambda changes: dump(base | changes))


@given(
    st.binary() | json_values.map(lambda value: json.dumps(value).encode()) | changed(GOOD) | changed(REPLAY)
)
def test_any_payload_is_a_job_that_arq_can_begin(payload: bytes) -> None:
    """Of a function that the worker has, with arguments, and numbers that are within bounds."""
    job = reading(load, ["keyed"], Codec())(payload)
    assert job["f"] in ("keyed", CATCH_ALL)
    assert isinstance(job["a"], (list, tuple))
    assert isinstance(job["k"], dict)
    assert 0 <= (job["t"] or 0) < 2**31
    assert 0 <= job["et"] < 2**48


@given(
    st.binary()
    | changed(REPLAY)
    | st.lists(json_values, min_size=6, max_size=6).map(lambda parts: dump({**REPLAY, "letter": parts}))
)
def test_any_payload_is_a_replay_of_a_queue_that_may_be_or_none(payload: bytes) -> None:
    """Whoever can write to the queue has no say in which keys of the store are asked for."""
    try:
        written = read_replay(payload)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return
    assert is_replay(payload) or payload.startswith(b"{")
    check_namespace(written.replay.queue.namespace)
    check_name("queue", written.replay.queue.name)
    assert written.replay.number >= 1
