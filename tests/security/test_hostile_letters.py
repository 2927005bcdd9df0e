"""What stands where jobguard keeps records and letters, but was written by somebody else."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobguard import Filter, JobGuard, dead_letter, deduplicated
from jobguard.adapters.rerun import LocalQueue
from jobguard.codec import Codec
from jobguard.errors import JobGuardError, StoreError
from jobguard.exchange import LONGEST_NAME, LONGEST_PAYLOAD, import_
from jobguard.history import KEPT_ERRORS, pack, unpack
from jobguard.letters import PAYLOAD_LIMIT, dead_again, from_text, letter_in, to_text
from jobguard.stores import MemoryStore, RedisStore, entries, records
from jobguard.stores.entries import LARGEST_TEXT
from jobguard.stores.letters import DeadLetter, Entry, LetterState
from tests.letters.making import EVENT_LOOP, letter
from tests.security.canary import NAME, nothing_runs, trap

pytestmark = pytest.mark.anyio


@deduplicated
@dead_letter
async def task(*args: object, **kwargs: object) -> str:
    raise ValueError(f"{args} {kwargs}")


NAMED = f"{task.__module__}.{task.__qualname__}"
FULL = json.loads(to_text(letter("a", args=["Ada"], key="k", task=NAMED, failed_at=1_700_000_000.0)))

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**400, -(10**400), 2**63, "\x1b]0;x\x07", NAME, "os.system"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
records_within = st.lists(
    st.dictionaries(
        st.sampled_from(
            ["attempt", "at", "type", "message", "number", "job_id", "by", "path", "before", "after"]
        ),
        values,
        max_size=5,
    ),
    max_size=2,
)
tampered = st.dictionaries(
    st.sampled_from([*FULL, "attempts", "edits", "replays", "state", "original", "redact"]),
    values | records_within,
    max_size=4,
).map(lambda changes: json.dumps(FULL | changes))


# --- letters ---------------------------------------------------------------------------------


@given(st.text() | values.map(json.dumps) | tampered)
@example("[" * 100_000)
@example(json.dumps(FULL | {"attempts": [{"attempt": 10**4_000, "at": 1.0, "type": "E", "message": ""}]}))
@example(json.dumps(FULL | {"enqueued_ms": 2**63}))
def test_a_stored_text_is_a_letter_that_can_be_written_again_or_an_error(text: str) -> None:
    """Also once its job has failed again, which adds to its numbers."""
    try:
        found = from_text(text)
    except StoreError as error:
        assert len(str(error)) < 1_000  # noqa: PT017
        found = letter_in(Entry("a", LetterState.DEAD, "", "", "", text=text))
    assert from_text(to_text(found)) == found
    to_text(dead_again(found, found))


@EVENT_LOOP
@given(st.lists(st.text() | tampered, max_size=3))
async def test_whatever_was_imported_can_be_worked_with(lines: list[str]) -> None:
    """Listed, filtered, edited, run again: an outcome, or an error of ours. Nothing in it is run."""
    guard = JobGuard(MemoryStore())
    letters = guard.dead_letters()
    with nothing_runs(Path("/nonexistent")):
        await import_(letters, lines)
        for asked in ("arg.to=Ada state=all", "key=k state=all", "attempts=1.. state=all"):
            await letters.count(asked)
        async for each in letters.each("state=all"):
            try:
                await letters.edit(each.id, {"to": "Bob"})
            except JobGuardError:
                continue
        async with LocalQueue(guard, task) as local:
            report = await letters.requeue(Filter(), via=local, unserved=True)
        assert len(report.outcomes) <= len(lines)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        *(({name: "x" * (LONGEST_NAME + 1)}, name) for name in ("task", "error_type", "fingerprint", "key")),
        *(({name: "x" * (LONGEST_PAYLOAD + 1)}, name) for name in ("payload", "original")),
        ({"requeues": 2**63}, "requeues"),
        ({"first_seen": 10**400}, "first_seen"),
        ({"replays": [{"number": 2**63, "job_id": "", "at": 1.0, "by": ""}]}, "replays.number"),
    ],
)
async def test_a_line_that_is_larger_than_any_letter_is_refused(changes: dict[str, Any], part: str) -> None:
    """Names are keys of indexes, numbers are counted with, payloads are handed to workers."""
    report = await import_(JobGuard(MemoryStore()).dead_letters(), [json.dumps(FULL | changes)])
    [(_, why)] = report.refused
    assert part in why
    assert len(why) < 400


async def test_an_opaque_payload_out_of_a_file_is_never_read(tmp_path: Path) -> None:
    """A pickle in it is neither shown, nor compared, nor edited, nor run again without a word of trust."""
    guard = JobGuard(MemoryStore())
    letters = guard.dead_letters()
    payload = b64encode(trap(tmp_path / "sprung")).decode()
    with nothing_runs(tmp_path / "sprung"):
        await import_(letters, [json.dumps(FULL | {"payload": payload, "payload_format": "opaque"})])
        assert await letters.count("arg.to=Ada") == 1  # by the preview
        with pytest.raises(JobGuardError):
            await letters.edit("a", {"to": "Bob"})
        async with LocalQueue(guard, task) as local:
            [refused] = (await letters.requeue(Filter(), via=local, unserved=True)).outcomes
        assert refused.status == "refused"
        assert "trust" in refused.why


async def test_an_edit_cannot_make_a_letter_larger_than_one_is_kept() -> None:
    """The limit of a worker's letters is that of edited ones."""
    letters = JobGuard(MemoryStore()).dead_letters()
    await import_(letters, [json.dumps(FULL)])
    with pytest.raises(JobGuardError, match=str(PAYLOAD_LIMIT)):
        await letters.edit("a", {"to": "x" * PAYLOAD_LIMIT})


def test_a_filter_nested_as_deep_as_python_reads_meets_nothing() -> None:
    """Neither its value nor a preview of the same depth breaks the comparison."""
    for depth in range(100, 1_100, 10):
        deep = "[" * depth + "]" * depth
        odd = letter("a", payload=None, payload_format="none", preview='{"to":' + deep + "}")
        Filter.parse([f"arg.to={deep}"]).meets(odd, Codec())


# --- packed entries --------------------------------------------------------------------------


heads = st.builds(
    lambda mark, revision, arrival, sizes, rest: b"%b%b %b %b\n%b" % (mark, revision, arrival, sizes, rest),
    st.sampled_from([b"D", b"Q", b"R", b"", b"X", b"\xff"]),
    st.sampled_from([b"1", b"-1", b"", b"9" * 5_000, b"1_0", b"x"]),
    st.sampled_from([b"1", b"-1", b"9" * 400, b"x", b""]),
    st.lists(st.sampled_from([b"0", b"1", b"-1", b"999999999", b"x", b""]), max_size=5).map(b" ".join),
    st.binary(max_size=40)
    | st.binary(max_size=40).map(lambda body: b"z" + zlib.compress(body, wbits=-15))
    | st.binary(max_size=40).map(lambda body: b"p" + body),
)


@given(st.binary(max_size=60) | heads, st.booleans())
def test_any_bytes_are_an_entry(packed: bytes, with_text: bool) -> None:
    """Of ours or not; and each becomes a letter."""
    entry = entries.unpack("a", packed, with_text=with_text)
    assert isinstance(letter_in(entry), DeadLetter)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_bomb_does_not_go_off(layers: int) -> None:
    """A body that would fill memory when inflated is shown as it is, having taken its bounds at most."""
    body = b"\0" * (64 * 2**20)
    for _ in range(layers):
        body = zlib.compress(body, 9, wbits=-15)
    entry = entries.unpack("a", b"D1 1 0 0 0 0\nz" + body)
    assert len(entry.text) <= LARGEST_TEXT
    assert letter_in(entry).reason == "unreadable"


# --- records ---------------------------------------------------------------------------------


record_heads = st.lists(
    st.sampled_from([b"P+", b"S-", b"X+", b"0", b"1", b"-1", b"9" * 400, b"9" * 5_000, b"x", b""]),
    max_size=10,
).map(b" ".join)


@given(st.builds(lambda head, rest: head + b"\n" + rest, record_heads, st.binary(max_size=30)) | st.binary())
def test_any_bytes_are_a_record_or_cannot_be_read(raw: bytes) -> None:
    """The errors are those that the store turns into its own."""
    for read in (records.unpack, records.success_reply):
        try:
            read(raw)
        except (ValueError, LookupError, TypeError):
            continue


@pytest.mark.parametrize(
    "record",
    [b"", b"P", b"\xff" * 50, b"S+ 99999999999999 0 0 1 0 5 5 5\n", b"S+ 99999999999999 0 0 x 0 0 0 0\n"],
)
async def test_a_record_that_somebody_else_wrote_is_an_error_of_the_store(
    redis_store: RedisStore, redis_client: Any, record: bytes
) -> None:
    """Whatever is asked of it."""
    from jobguard.stores.base import Claim, Settlement, State

    await redis_client.set("k", record, px=60_000)
    for work in (
        lambda: redis_store.claim(Claim("k", "one", "t", 60.0, 60.0)),
        lambda: redis_store.look_up("k"),
        lambda: redis_store.settle(Settlement("k", "one", "t", 1, State.RETRY, 60.0, 60.0, history="")),
    ):
        try:
            await work()
        except StoreError:
            continue


# --- histories -------------------------------------------------------------------------------


@given(
    st.text()
    | values.map(json.dumps)
    | st.lists(values, min_size=6, max_size=6).map(json.dumps)
    | st.builds(
        lambda counts, errors: json.dumps([*counts, 0.0, errors]),
        st.lists(st.integers() | st.floats() | st.text(max_size=2), min_size=4, max_size=4),
        st.lists(st.lists(values, max_size=4), max_size=2),
    )
)
@example("[1,1,1,1,Infinity,[]]")
@example("[Infinity,1,1,1,0,[]]")
@example('[1,1,1,1,0,[[1,"x",{},[]]]]')
@example("[-5,0,0,0,0,[]]")
def test_any_text_is_a_history_that_can_be_written_again(text: str) -> None:
    """One that makes no sense is an empty one: its job can still be run."""
    history, offset = unpack(text, 1.0)
    assert min(history.failures, history.interruptions, history.snoozes, history.crashes) >= 0
    assert len(history.errors) <= KEPT_ERRORS
    assert unpack(pack(history, offset), 1.0)[0].failures == history.failures
