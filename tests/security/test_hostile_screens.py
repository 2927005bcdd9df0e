"""What an operator sees of a store that somebody else has written to: text, whatever it is."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobguard.job import AttemptError
from jobguard.letters import entry_of
from jobguard.stores.letters import DeadLetter, Edit, LetterQueue, LetterState, ReplayRecord
from tests.cli.conftest import Desk, arq_letter

STEERING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Whatever steers a terminal or forges a line of it, but for the ends of our own lines."""
HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m [/nothing] [link=http://x]y[/link] :smile: \u202egnp.exe\u202c\r\n"
    "jobguard: all is well\n\x00\x08\ud800\u2028"
)


def hostile_letter(id: str, text: str = HOSTILE) -> DeadLetter:
    """A letter whose every text is hostile."""
    whole = arq_letter(1)
    changes: dict[str, Any] = {
        each.name: text for each in fields(DeadLetter) if isinstance(getattr(whole, each.name), str)
    }
    return replace(
        whole,
        **changes
        | {
            "id": id,
            "state": LetterState.DEAD,
            "key": text,
            "original": text,
            "causes": (text, text),
            "redact": (text,),
            "parameters": (text,),
            "attempts": (AttemptError(1, 1.0, text, text), AttemptError(2, 10.0**300, text, text)),
            "edits": (Edit(text, text, text, -1e300, text),),
            "replays": (ReplayRecord(1, text, 1.0, text),),
            "first_seen": 1e308,
            "failed_at": -1e308,
            "failures": 2**62,
        },
    )


def commands(id: str) -> Iterator[tuple[str, ...]]:
    """Every command that shows something of the letters or asks about them; one that changes comes last."""
    for form in ((), ("--json",), ("--jsonl",)):
        yield "dlq", "count", *form
        yield "dlq", "list", "--limit", "5", *form
        yield "dlq", "get", id, *form
        yield "dlq", "groups", *form
        yield "dlq", "stats", *form
        yield "dlq", "queues", *form
        yield "dlq", "requeue", "--all", "--dry-run", "--unserved", *form
        yield "dlq", "remove", id, "--dry-run", *form
        yield "dlq", "prune", "--keep", "0", "--dry-run", *form
        yield "dlq", "clear", "--dry-run", *form
    yield "dlq", "count", f"task={HOSTILE}"
    yield "dlq", "get", HOSTILE.replace("\x00", "")
    yield "dlq", "export", "-o", "-"
    yield "dlq", "requeue", id, "--yes"
    yield "dlq", "requeue", id, "--edit", f"to={HOSTILE}", "--yes"
    yield "job", "get", HOSTILE
    yield "job", "get", "tampered"


def keep(desk: Desk, text: str, id: str) -> None:
    """Put a hostile letter, one that is none, a hostile queue and a hostile record into the store."""

    async def work(store: Any) -> None:
        queue = LetterQueue(desk.namespace, "default")
        await store.letters.put(queue, entry_of(hostile_letter(id, text)))
        raw = text.encode("utf-8", "surrogatepass")
        await store.letters.put(queue, entry_of(hostile_letter("n" + id))._replace(text=text))
        await store.client.sadd(f"{desk.namespace}:dlq", raw)
        head = b"S+ 99999999999999 0 0 1 0 %d 0 %d\n" % (len(raw), len(raw))
        await store.client.set(f"{desk.namespace}:tampered", head + raw * 3, px=60_000)

    desk.ask(work)


def check(desk: Desk, id: str) -> None:
    for words in commands(id):
        ended = desk(*words)
        shown = ended.out + ended.err
        found = STEERING.search(shown)
        assert found is None, (words, shown[max(found.start() - 60, 0) : found.end() + 60])
        assert not re.search("^jobguard: all is well", shown, re.MULTILINE)
        if "--json" in words and ended.code == 0:
            json.loads(ended.out)


def test_no_command_lets_a_text_of_the_store_reach_the_terminal(desk: Desk, tmp_path: Path) -> None:
    """Of any field of a letter, of a queue's name, of a record, of an argument of the command itself."""
    keep(desk, HOSTILE, "a")
    check(desk, "a")
    exported = tmp_path / "letters"
    assert desk("dlq", "export", "-o", str(exported)).code == 0
    lines = exported.read_text("ascii").splitlines()
    lines += [
        HOSTILE.replace("\n", "").replace("\r", ""),
        json.dumps({"id": HOSTILE}),
        lines[0].replace("a", HOSTILE[:3]),
    ]
    exported.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    ended = desk("dlq", "import", str(exported), "--queue", "other")
    assert not STEERING.search(ended.out + ended.err)


odd = st.text(st.characters(exclude_categories=()), max_size=40) | st.just(HOSTILE)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd)
def test_no_command_fails_for_what_a_text_is(desk: Desk, text: str) -> None:
    """Whatever characters a letter has: an exit code of ours, and nothing that steers."""
    desk.namespace = f"desk-{uuid.uuid4().hex}"
    keep(desk, text, "b")
    check(desk, "b")


@pytest.mark.parametrize("words", [("list",), ("get", "c")])
def test_a_terminal_gets_no_more_of_a_text_than_a_file(desk: Desk, words: tuple[str, ...]) -> None:
    """The only escape codes are those of our own styles: no title, no link, nothing that moves the cursor."""
    keep(desk, HOSTILE, "c")
    code, shown = desk.at_terminal("dlq", *words, until=b"never", answer=b"")
    assert code == 0
    assert "owned" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n")
    assert not STEERING.search(plain)
