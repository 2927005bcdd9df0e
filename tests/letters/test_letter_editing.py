"""Changing the arguments of a dead letter, so that what was wrong with them can be put right."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import anyio
import pytest

from jobguard import DeadLetterQueue
from jobguard.arguments import arguments_of, value_at
from jobguard.codec import Codec
from jobguard.errors import InvalidValue, LetterRefused
from jobguard.stores.letters import LetterQueue, LetterState
from tests.engine.harness import Bench, Forward
from tests.letters.making import keep, letter

pytestmark = pytest.mark.anyio

NAMES = ("to", "items", "pair", "*rest")
ARGS = ("Ada", [{"price": 5}, {"price": 6}], (1, 2), "x", "y")
KWARGS = {"note": "hi", "rest_of": {"phone": "1"}}


def call(**changes: Any) -> Any:
    return letter(args=ARGS, kwargs=KWARGS, parameters=NAMES, **changes)


async def arguments(letters: DeadLetterQueue, id: str = "a") -> Mapping[str, Any]:
    found = await letters.get(id)
    assert found is not None
    return arguments_of(found, Codec())


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("to", "Bob", {"to": "Bob"}),
        ("to", None, {"to": None}),
        ("to", Decimal("1.5"), {"to": Decimal("1.5")}),
        ("note", "ho", {"note": "ho"}),
        ("items.1.price", 7, {"items": [{"price": 5}, {"price": 7}]}),
        ("pair.0", 9, {"pair": (9, 2)}),
        ("rest_of.phone", "2", {"rest_of": {"phone": "2"}}),
    ],
)
async def test_an_argument_is_changed_where_its_path_leads(
    letters: DeadLetterQueue, path: str, value: object, expected: dict[str, object]
) -> None:
    """By position or name, on the top or nested; nothing else changes, no type either."""
    await keep(letters, call())
    before = await arguments(letters)
    assert await letters.edit("a", {path: value}) == await letters.get("a")
    assert await arguments(letters) == {**before, **expected}


async def test_several_changes_are_one_edit(letters: DeadLetterQueue) -> None:
    """In the order in which they are given."""
    await keep(letters, call())
    edited = await letters.edit("a", {"rest_of": {"phone": "2"}, "rest_of.phone": "3"})
    assert edited is not None
    assert [each.path for each in edited.edits] == ["rest_of", "rest_of.phone"]
    assert (await arguments(letters))["rest_of"] == {"phone": "3"}


async def test_the_letter_is_found_by_its_key_too(letters: DeadLetterQueue) -> None:
    """As everywhere."""
    await keep(letters, call(key="k"))
    edited = await letters.edit("k", {"to": "Bob"})
    assert edited is not None
    assert edited.id == "a"


async def test_a_letter_that_is_not_there_is_none(letters: DeadLetterQueue) -> None:
    """There is nothing to refuse."""
    assert await letters.edit("a", {"to": "Bob"}) is None


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("other", "no argument 'other'.*'to', 'items', 'pair', 'rest', 'note', 'rest_of'"),
        ("items.2", "no argument 'items.2'"),
        ("items.x", "no argument 'items.x'"),
        ("to.0", "no argument 'to.0'"),
        ("rest", "'rest' takes any number of values, of which none can be changed"),
        ("rest.0", "'rest' takes any number of values, of which none can be changed"),
    ],
)
async def test_a_path_that_leads_to_no_argument_is_refused(
    letters: DeadLetterQueue, path: str, why: str
) -> None:
    """And what is there is named."""
    await keep(letters, call())
    with pytest.raises(LetterRefused, match=why):
        await letters.edit("a", {path: 1})
    assert await letters.get("a") == call()


async def test_an_argument_that_the_call_left_out_is_added(letters: DeadLetterQueue) -> None:
    """By its name, which the letter knows of the task's own; the default is told as nothing."""
    await keep(letters, letter(args=("Ada",), parameters=("to", "text", "*rest", "subject")))
    edited = await letters.edit("a", {"subject": "hi", "text": {"de": "hallo"}, "text.de": "servus"})
    assert edited is not None
    assert await arguments(letters) == {"to": "Ada", "subject": "hi", "text": {"de": "servus"}}
    told = [(each.path, each.before, each.after) for each in edited.edits]
    assert told[:2] == [("subject", "", '"hi"'), ("text", "", '{"de":"hallo"}')]
    assert json.loads(edited.preview) == await arguments(letters)


async def test_a_task_that_takes_any_names_may_be_given_another(letters: DeadLetterQueue) -> None:
    """Nobody can tell which it knows."""
    await keep(letters, letter(args=("Ada",), parameters=("to", "*rest", "**options")))
    assert await letters.edit("a", {"subject": "hi"}) is not None
    assert await arguments(letters) == {"to": "Ada", "subject": "hi"}
    with pytest.raises(LetterRefused, match="no argument 'sub-ject'"):
        await letters.edit("a", {"sub-ject": 1})


async def test_a_left_out_argument_that_is_redacted_is_added_unseen(letters: DeadLetterQueue) -> None:
    """As where it was there."""
    await keep(letters, letter(args=("Ada",), parameters=("to", "pin"), redact=("pin",)))
    edited = await letters.edit("a", {"pin": "4711"})
    assert edited is not None
    assert (edited.edits[0].before, json.loads(edited.edits[0].after)) == ("", "[redacted]")
    assert "4711" not in edited.preview


@pytest.mark.parametrize("path", ["rest", "text.de", "texts", "*rest"])
async def test_what_is_no_parameter_that_takes_one_value_is_not_added(
    letters: DeadLetterQueue, path: str
) -> None:
    """A slip of the pen would go unnoticed until the job has died again; the message says what could be."""
    await keep(letters, letter(args=("Ada",), parameters=("to", "text", "*rest")))
    with pytest.raises(LetterRefused, match=r"are: 'to'; left out, and may be added: 'text'; positions"):
        await letters.edit("a", {path: 1})


@pytest.mark.parametrize("position", ["-1", "+0", "0_0", "00", " 0", "\u0660", "\u00b2", "9" * 5000])
async def test_a_position_has_one_spelling(letters: DeadLetterQueue, position: str) -> None:
    """Python reads more as a number, and redaction would not know it again: a PIN of two digits was told."""
    kept = letter(args=([{"pin": 77}],), parameters=("cards",), redact=("cards.pin",))
    await keep(letters, kept)
    with pytest.raises(LetterRefused, match=r"no argument .*; positions in lists are 0, 1, 2 …"):
        await letters.edit("a", {f"cards.{position}.pin": 88})
    with pytest.raises(LookupError):
        value_at(arguments_of(kept, Codec()), f"cards.{position}.pin")
    assert await letters.get("a") == kept


@pytest.mark.parametrize("path", ["", "a..b", ".", 5])
async def test_what_is_no_path_is_a_mistake_of_the_caller(letters: DeadLetterQueue, path: Any) -> None:
    """Of whichever letter it was meant."""
    await keep(letters, call())
    with pytest.raises(InvalidValue, match="path"):
        await letters.edit("a", {path: 1})


@pytest.mark.parametrize(
    ("payload_format", "payload", "why"),
    [
        ("opaque", "AAAA", "only its worker can read"),
        ("none", None, "not at all"),
        ("too_large", None, "not at all.*too_large"),
        ("json", '"text"', "does not hold arguments"),
        ("json", '{"args":"abc","kwargs":{}}', "does not hold arguments"),
        ("json", '{"args":[],"kwargs":{"$dict":[[5,1]]}}', "does not hold arguments"),
        ("json", '{"args":[{"$of":["Secret",{}]}],"kwargs":{}}', "types that are not known here"),
    ],
)
async def test_arguments_that_cannot_be_read_cannot_be_edited(
    letters: DeadLetterQueue, payload_format: str, payload: str | None, why: str
) -> None:
    """The message says how they are kept."""
    await keep(letters, call(payload=payload, payload_format=payload_format))
    with pytest.raises(LetterRefused, match=why):
        await letters.edit("a", {"to": "Bob"})


async def test_a_value_that_has_no_form_is_refused(letters: DeadLetterQueue) -> None:
    """Nothing is written then."""
    await keep(letters, call())
    with pytest.raises(LetterRefused, match="object"):
        await letters.edit("a", {"to": object()})
    assert await letters.get("a") == call()


@pytest.mark.parametrize(
    ("state", "cure"),
    [(LetterState.REQUEUED, r".*if that was lost, .*requeue\(edit"), (LetterState.RESOLVED, "")],
)
async def test_only_what_is_dead_can_be_edited(
    letters: DeadLetterQueue, state: LetterState, cure: str
) -> None:
    """A job that is on its way has its arguments already; the message says what to do where it was lost."""
    await keep(letters, call(state=state))
    with pytest.raises(LetterRefused, match=f"it is {state}, and only what is dead can be edited{cure}"):
        await letters.edit("a", {"to": "Bob"})


async def test_the_first_arguments_are_kept_through_all_edits(letters: DeadLetterQueue) -> None:
    """However often they are changed."""
    await keep(letters, call())
    for name in ("Bob", "Eve"):
        await letters.edit("a", {"to": name})
    edited = await letters.get("a")
    assert edited is not None
    assert edited.original == call().payload
    assert [(each.before, each.after) for each in edited.edits] == [('"Ada"', '"Bob"'), ('"Bob"', '"Eve"')]


async def test_an_edit_of_nothing_leaves_no_trace(letters: DeadLetterQueue) -> None:
    """The letter stays as it was written."""
    await keep(letters, call())
    assert await letters.edit("a", {}) == call()


async def test_the_last_edits_are_told(letters: DeadLetterQueue) -> None:
    """20 of them; older ones make room."""
    await keep(letters, call())
    for number in range(22):
        await letters.edit("a", {"to": number})
    edited = await letters.get("a")
    assert edited is not None
    assert [each.after for each in edited.edits] == [str(number) for number in range(2, 22)]


async def test_an_edit_tells_who_made_it_and_when(letters: DeadLetterQueue) -> None:
    """As they said, on this machine's clock."""
    await keep(letters, call())
    before = time.time()
    edited = await letters.edit("a", {"to": "Bob"}, by="carol")
    assert edited is not None
    assert edited.edits[0].by == "carol"
    assert before <= edited.edits[0].at <= time.time()


@pytest.mark.parametrize(
    ("redact", "path", "value"),
    [
        ("to", "to", "secret"),
        ("rest_of.phone", "rest_of.phone", "secret"),
        ("rest_of.phone", "rest_of", {"phone": "secret"}),
        ("rest_of", "rest_of.phone", "secret"),
        ("items.price", "items.0.price", "secret"),
        ("items.0.price", "items.0.price", "secret"),
        ("items.*.price", "items.0.price", "secret"),
        ("*.phone", "rest_of.phone", "secret"),
    ],
)
async def test_what_is_redacted_is_masked_in_the_edit_and_the_preview(
    letters: DeadLetterQueue, redact: str, path: str, value: object
) -> None:
    """Whether the path leads to it, into it or around it; only the payloads have it."""
    await keep(letters, call(redact=(redact,)))
    edited = await letters.edit("a", {path: value})
    assert edited is not None
    assert "secret" in (edited.payload or "")
    assert "secret" not in edited.preview
    assert json.loads(edited.edits[0].before) == json.loads(edited.edits[0].after) == "[redacted]"


async def test_a_long_value_is_cut_in_the_edit(letters: DeadLetterQueue) -> None:
    """A letter must not grow by what it tells."""
    await keep(letters, call())
    edited = await letters.edit("a", {"to": "x" * 10_000})
    assert edited is not None
    assert len(edited.edits[0].after) <= 500


async def test_edits_at_once_both_land(letters: DeadLetterQueue) -> None:
    """Each is made on what the other left."""
    await keep(letters, call())

    async def edit(path: str, value: object) -> None:
        await letters.edit("a", {path: value})

    async with anyio.create_task_group() as group:
        for number, path in enumerate(("to", "note", "items", "pair")):
            group.start_soon(edit, path, number)
    found = await arguments(letters)
    assert [found[path] for path in ("to", "note", "items", "pair")] == [0, 1, 2, 3]


async def test_a_letter_that_is_requeued_meanwhile_is_not_edited(
    letters: DeadLetterQueue, bench: Bench
) -> None:
    """The edit looks again before it gives up or writes."""
    await keep(letters, call())

    async def requeued_meanwhile(forward: Forward) -> object:
        entry: Any = await forward()
        queue = LetterQueue(bench.namespace, letters.name)
        await bench.backing.letters.replace(queue, entry._replace(state=LetterState.REQUEUED))
        return entry

    bench.store.then("get_letter", requeued_meanwhile)
    with pytest.raises(LetterRefused, match="it is requeued"):
        await letters.edit("a", {"to": "Bob"})


async def test_what_is_masked_is_masked_in_edits_of_other_arguments_too(letters: DeadLetterQueue) -> None:
    """A secret, the one before as well, may stand in an argument that is not redacted itself."""
    secrets = {"password": "hunter2", "url": "db://me:hunter2@host"}
    await keep(letters, letter("a", kwargs=secrets, redact=("password",)))
    await letters.edit("a", {"password": "swordfish"})
    found = await letters.edit("a", {"url": "db://me:swordfish@host"})
    assert found is not None
    assert [word for word in ("hunter2", "swordfish") if word in f"{found.edits}{found.preview}"] == []
