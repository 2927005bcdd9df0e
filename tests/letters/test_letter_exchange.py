"""Letters as lines of JSON: out of one queue and into another one, or the same one again."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobguard import DeadLetter, DeadLetterQueue, Filter, JobGuard
from jobguard.errors import StoreUnavailable
from jobguard.exchange import LONGEST_ID, LONGEST_LINE, ImportReport, export, import_
from jobguard.job import AttemptError
from jobguard.letters import entry_of, to_text
from jobguard.stores import MemoryStore
from jobguard.stores.letters import Edit, LetterQueue, LetterState, ReplayRecord
from tests.engine.harness import Forward, StoreProxy, down
from tests.letters.making import EVENT_LOOP, fresh_queue, ids_of, keep, letter, random_letters

pytestmark = pytest.mark.anyio

SECONDS = 1_700_000_000.0

FULL = letter(
    "full",
    args=["Ada \u00e9\u2028\ud83d\ude00"],
    key="k",
    causes=("OSError: no",),
    attempts=(AttemptError(1, 2.5, "E", "m"), AttemptError(2, 3.5, "F", "n")),
    failures=2,
    requeues=3,
    redact=("to",),
    original='{"args":[],"kwargs":{}}',
    edits=(Edit("to", '"a"', '"b"', 1.5, "me"),),
    replays=(ReplayRecord(1, "replay:default:full:1", 4.5, "me"),),
    failed_at=SECONDS,
)


@pytest.fixture
def elsewhere() -> DeadLetterQueue:
    """An empty queue of another store."""
    return JobGuard(MemoryStore()).dead_letters("elsewhere")


async def lines_of(letters: DeadLetterQueue, filter: Filter | str | None = None) -> list[str]:
    return [line async for line in export(letters, filter)]


async def all_of(letters: DeadLetterQueue) -> list[DeadLetter]:
    return [each async for each in letters.each("state=all", oldest_first=True)]


def line(**changes: Any) -> str:
    """A letter's line with other fields; `...` leaves one out."""
    values = json.loads(to_text(letter("a", failed_at=SECONDS))) | changes
    return json.dumps({name: value for name, value in values.items() if value is not ...})


# --- there and back ------------------------------------------------------------------------------


async def test_a_letter_is_the_same_elsewhere_and_back(
    letters: DeadLetterQueue, elsewhere: DeadLetterQueue
) -> None:
    """All but that it says where it comes from: out of a file."""
    await keep(letters, FULL)
    await import_(elsewhere, await lines_of(letters))
    assert await all_of(elsewhere) == [replace(FULL, imported=True)]
    await letters.clear()
    await import_(letters, await lines_of(elsewhere))
    assert await all_of(letters) == [replace(FULL, imported=True)]


@EVENT_LOOP
@given(given=random_letters)
async def test_letters_keep_their_order(
    letters: DeadLetterQueue, elsewhere: DeadLetterQueue, given: list[DeadLetter]
) -> None:
    """Also those that failed in the same moment."""
    here, there = fresh_queue(letters), fresh_queue(elsewhere)
    await keep(here, *given)
    report = await import_(there, await lines_of(here))
    assert report == ImportReport(len(given), 0, (), 0)
    assert await ids_of(there, "state=all") == [each.id for each in given]


async def test_letters_keep_the_time_at_which_they_failed(letters: DeadLetterQueue) -> None:
    """An imported letter is as old as it is, for filters and bounds."""
    await import_(letters, [line(id="old", failed_at=SECONDS), line(id="new", failed_at=SECONDS + 60)])
    assert await ids_of(letters, "until=2023-11-14T22:13:30Z") == ["old"]
    assert await letters.newest() == str(int((SECONDS + 60) * 1_000_000))


async def test_a_letter_of_the_future_came_now(letters: DeadLetterQueue) -> None:
    """A clock that was wrong does not date the letters that come after it."""
    await import_(letters, [line(id="a", failed_at=2**33 - 1)])
    assert await ids_of(letters, "until=0s") == ["a"]


async def test_the_clock_of_who_imports_dates_nothing(
    letters: DeadLetterQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's own does, and what came before its time keeps that."""
    monkeypatch.setattr("time.time", lambda: 2.0**32)
    await import_(letters, [line(id="past"), line(id="future", failed_at=2**32 - 1)])
    assert await ids_of(letters, "until=0s") == ["past", "future"]


@pytest.mark.parametrize(
    ("state", "after"),
    [("dead", "dead"), ("requeued", "dead"), ("resolved", "resolved")],
)
async def test_a_job_is_not_on_its_way_from_here(letters: DeadLetterQueue, state: str, after: str) -> None:
    """What was requeued where it comes from is dead where it goes to."""
    await import_(letters, [line(state=state)])
    (found,) = await all_of(letters)
    assert found.state == after


async def test_only_what_a_filter_means_is_exported(letters: DeadLetterQueue) -> None:
    """Without one, letters of every state."""
    await keep(letters, letter("a"), letter("b", state=LetterState.RESOLVED))
    assert [json.loads(each)["id"] for each in await lines_of(letters)] == ["a", "b"]
    assert [json.loads(each)["id"] for each in await lines_of(letters, "state=dead")] == ["a"]


@pytest.mark.parametrize("id", ["0000", "0599"])
async def test_a_letter_that_dies_again_meanwhile_has_one_line(
    letters: DeadLetterQueue, store: StoreProxy, id: str
) -> None:
    """Whether or not the export has come by it before: it is neither there twice nor missing."""
    given = [letter(f"{number:04}") for number in range(600)]
    await keep(letters, *given)
    queue = LetterQueue(letters.namespace, letters.name)

    async def dies_again(forward: Forward) -> object:
        reply = await forward()
        assert (
            await store.letters.replace(queue, entry_of(letter(id, requeues=1), 1), arrive=True) is not None
        )
        return reply

    store.then("page_letters", dies_again)
    lines = await lines_of(letters)
    assert sorted(json.loads(each)["id"] for each in lines) == [each.id for each in given]


async def test_a_line_is_a_line_whatever_is_in_it(letters: DeadLetterQueue) -> None:
    """Plain ASCII, so that no editor, terminal or splitter takes it for more."""
    await keep(letters, FULL)
    (text,) = await lines_of(letters)
    assert text.isascii()
    assert text.splitlines() == [text.removesuffix("\n")]


async def test_an_import_can_be_repeated(letters: DeadLetterQueue) -> None:
    """What is there stays as it is, also if it has changed since."""
    lines = [line(id="a"), line(id="b")]
    assert await import_(letters, lines) == ImportReport(2, 0, (), 0)
    before = await all_of(letters)
    assert await import_(letters, [*lines, line(id="c", failed_at=SECONDS + 1)]) == ImportReport(1, 2, (), 0)
    assert (await all_of(letters))[:2] == before


async def test_progress_is_told_in_lines(letters: DeadLetterQueue) -> None:
    """Every hundred, and at the end."""
    told: list[int] = []
    await import_(
        letters, ["\n"] * 99 + [line(id=f"{number}") for number in range(150)], progress=told.append
    )
    assert told == [100, 200, 249]


async def test_a_store_that_does_not_answer_ends_the_import(
    letters: DeadLetterQueue, store: StoreProxy
) -> None:
    """What was imported stays; repeating it completes it."""
    lines = [line(id="a"), line(id="b")]
    store.then("put_letter", _plainly, down)
    with pytest.raises(StoreUnavailable):
        await import_(letters, lines)
    assert await import_(letters, lines) == ImportReport(1, 1, (), 0)


async def _plainly(forward: Any) -> object:
    return await forward()


# --- lines that are no letters -------------------------------------------------------------------


async def test_bad_lines_are_told_by_their_number_and_the_rest_is_imported(letters: DeadLetterQueue) -> None:
    """Empty lines count as lines, and are no letters, good or bad."""
    report = await import_(letters, ["\n", line(id="a") + "\n", "what\n", "\n", "{}\n", line(id="b")])
    assert (report.imported, report.refusals) == (2, 2)
    assert [number for number, _ in report.refused] == [3, 5]
    assert await ids_of(letters) == ["a", "b"]


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        ("null", ""),
        ("[]", ""),
        ('"text"', ""),
        ("{", ""),
        ("[" * 100_000, "recursion"),
        ("1" * 5_000, ""),
        (line(id=...), "id"),
        (line(id=""), "id"),
        (line(id="x" * (LONGEST_ID + 1)), str(LONGEST_ID)),
        (line(id="a\nb"), "printable"),
        (line(id="\ud800"), "printable"),
        (line(id=5), "id"),
        (line(task=None), "task"),
        (line(key=5), "key"),
        (line(payload={}), "payload"),
        (line(failures="1"), "failures"),
        (line(failures=True), "failures"),
        (line(failed_at=-1), "failed_at"),
        (line(failed_at=1e300), "failed_at"),
        (line(failed_at=float("nan")), "failed_at"),
        (line(failed_at=None), "failed_at"),
        (line(first_seen=float("inf")), "first_seen"),
        (line(imported=1), "imported"),
        (line(state="gone"), "gone"),
        (line(state=[]), ""),
        (line(causes="text"), "causes"),
        (line(causes=[1]), "causes"),
        (line(attempts=[{}]), ""),
        (line(attempts=[{"attempt": 1}]), ""),
        (line(attempts=[{"other": 1}]), "other"),
        (line(attempts=[5]), ""),
        (line(edits=5), "edits"),
        (line(replays=[None]), ""),
        (" " * LONGEST_LINE + "{}", "longer than any letter"),
    ],
)
async def test_what_is_no_letter_is_refused(letters: DeadLetterQueue, bad: str, part: str) -> None:
    """With what is wrong; nothing of it is kept."""
    report = await import_(letters, [bad])
    assert (report.imported, report.refusals) == (0, 1)
    ((number, why),) = report.refused
    assert number == 1
    assert part in why
    assert len(why) < 1_000
    assert await letters.count("state=all") == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
fields = st.sampled_from([*sorted(json.loads(to_text(FULL))), "state", "parameters", "imported", "version"])
nearly = st.builds(
    lambda changes: json.dumps(json.loads(to_text(FULL)) | changes),
    st.dictionaries(fields, json_values, max_size=3),
)


@EVENT_LOOP
@given(lines=st.lists(st.text() | json_values.map(json.dumps) | nearly, max_size=4))
@example([line(id="a", task="\ud800", key="\ud800", fingerprint="\0", error_type="\ud800")])
@example([line(id="a", failed_at=2**33 - 1, requeues=-(2**70), failures=2**70)])
@example([line(id="a", payload="{", parameters=["*"], redact=["", ".", "a.b"])])
async def test_no_line_breaks_an_import(letters: DeadLetterQueue, lines: list[str]) -> None:
    """Each is imported, known, refused or empty, and whatever was imported can be read and exported."""
    queue = fresh_queue(letters)
    report = await import_(queue, lines)
    empty = sum(not each.strip() for each in lines)
    assert report.imported + report.known + report.refusals + empty == len(lines)
    assert len(await all_of(queue)) == report.imported
    assert len(await lines_of(queue)) == report.imported
    await queue.groups()
    await queue.stats()
    await queue.count("arg.to=Ada state=all")


async def test_of_very_many_bad_lines_the_first_are_told(letters: DeadLetterQueue) -> None:
    """The others are only counted."""
    report = await import_(letters, ["what"] * 1_500)
    assert (len(report.refused), report.refusals) == (1_000, 1_500)


async def test_what_was_imported_says_so(letters: DeadLetterQueue) -> None:
    """Whatever its line claims, since an opaque payload out of a file is not to be trusted."""
    payload = b64encode(b"\x80pickle").decode()
    await import_(letters, [line(payload=payload, payload_format="opaque", imported=False)])
    (found,) = await all_of(letters)
    assert found.imported
