"""What commands write for programs is what the documentation says."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobguard.job import AttemptError
from jobguard.stores import RedisStore
from jobguard.stores.base import Claim
from jobguard.stores.letters import Edit, LetterState, ReplayRecord
from tests.cli.conftest import COMMANDS, Desk, arq_letter

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "command-line-json.md"
PLAIN: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "boolean": lambda value: isinstance(value, bool),
}


def documented() -> dict[str, dict[str, str]]:
    """The fields of each record and each command, with their types. A command may be as another."""
    found: dict[str, dict[str, str]] = {}
    for title, text in re.findall(r"^### `([^`]+)`\n(.*?)(?=^##|\Z)", PAGE.read_text("utf-8"), re.M | re.S):
        same = re.search(r"^As `([^`]+)`", text, re.M) or re.search(r"(?:array of|^A) `(\w+)`", text, re.M)
        rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.M)
        fields = {name: kind.strip() for name, kind in rows}
        found[title] = found[same[1]] if same is not None and not fields else fields
    return found


FORMS = documented()


def check(value: Any, kind: str) -> None:
    """Fail unless a value is of a documented type."""
    if kind.endswith(" or null"):
        if value is not None:
            check(value, kind.removesuffix(" or null"))
    elif kind.startswith("array of "):
        assert isinstance(value, list)
        for item in value:
            check(item, kind.removeprefix("array of "))
    elif kind.startswith("object of "):
        assert isinstance(value, dict)
        for item in value.values():
            check(item, kind.removeprefix("object of "))
    elif kind in PLAIN:
        assert PLAIN[kind](value), f"{value!r} is no {kind}"
    else:
        check_fields(value, FORMS[kind])


def check_fields(value: Any, form: dict[str, str]) -> None:
    assert form
    assert set(value) == set(form)
    for name, kind in form.items():
        check(value[name], kind)


FULL = arq_letter(
    1,
    key="k" * 32,
    causes=("OSError: x",),
    attempts=(AttemptError(1, 1.5, "OSError", "x"),),
    edits=(Edit("to", '"a"', '"b"', 1.5, "me"),),
    replays=(ReplayRecord(1, "job", 1.5, "me"),),
    original="{}",
    redact=("content",),
)


@pytest.fixture
def full(desk: Desk, tmp_path: Path) -> Desk:
    """A desk with something in every field, a key that is claimed, and a file to import."""

    async def work(store: RedisStore) -> None:
        await store.claim(Claim(f"{desk.namespace}:k", "one", "t", 60.0, 600.0))

    desk.keep(FULL, arq_letter(2), arq_letter(3, state=LetterState.RESOLVED, resolution="succeeded"))
    desk.ask(work)
    assert desk("dlq", "export", "-o", str(tmp_path / "in.jsonl")).code == 0
    with open(tmp_path / "in.jsonl", "a") as file:
        file.write("nonsense\n")
    return desk


CALLS: dict[str, tuple[tuple[str, ...], ...]] = {
    "dlq count": ((), ("error=TimeoutError",)),
    "dlq list": (("state=all", "--limit", "2"), ("error=none",)),
    "dlq get": ((FULL.id, "unknown"),),
    "dlq groups": ((), ("arg.to=to-1",)),
    "dlq stats": ((), ("--since", "9999d")),
    "dlq queues": ((),),
    "dlq requeue": ((FULL.id, "unknown", "--dry-run"), ("error=none", "--yes")),
    "dlq remove": ((FULL.id, "unknown", "--dry-run"), ("error=none", "--yes"), (FULL.id, "--yes")),
    "dlq clear": (("--dry-run",), ("--yes",)),
    "dlq prune": (("--keep", "1", "--dry-run"), ("--keep", "1", "--yes")),
    "dlq export": (("-o", "{directory}/out.jsonl"), ("error=none", "-o", "{directory}/out.jsonl")),
    "dlq import": (("{directory}/in.jsonl", "--dry-run"), ("{directory}/in.jsonl",)),
    "job get": (("k",),),
    "job forget": (("k", "--dry-run"), ("k", "--yes")),
}
ITEMS = {"dlq list": ("entries", "Letter"), "dlq requeue": ("outcomes", "Outcome")}
"""Commands of which `--jsonl` writes the items of one field, and what those are."""


def test_every_command_is_documented() -> None:
    """Each has a section with its form."""
    assert set(CALLS) | {"dlq watch"} == {" ".join(command) for command in COMMANDS}
    assert {name for name in FORMS if " " in name} == {" ".join(command) for command in COMMANDS}


@pytest.mark.parametrize("command", list(CALLS))
def test_json_has_the_documented_fields(full: Desk, command: str, tmp_path: Path) -> None:
    """`--json` is one value with these fields and no others, of these types."""
    for arguments in CALLS[command]:
        given = [each.format(directory=tmp_path) for each in arguments]
        ended = full(*command.split(), *given, "--json")
        assert ended.out.count("\n") == 1, ended
        assert ended.out.isascii()
        for value in ended.json if isinstance(ended.json, list) else [ended.json]:
            check_fields(value, FORMS[command])


@pytest.mark.parametrize("command", list(CALLS))
def test_lines_of_json_have_the_documented_fields(full: Desk, command: str, tmp_path: Path) -> None:
    """`--jsonl` is one such object a line, or one item of the field that holds many."""
    form = FORMS[ITEMS[command][1]] if command in ITEMS else FORMS[command]
    for arguments in CALLS[command]:
        given = [each.format(directory=tmp_path) for each in arguments]
        for line in full(*command.split(), *given, "--jsonl").out.splitlines():
            check_fields(json.loads(line), form)


def test_what_is_watched_has_the_documented_fields(desk: Desk) -> None:
    """A letter a line."""
    with desk.started("dlq", "watch", "--jsonl", "--interval", "0.1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "waiting for more" not in process.stderr.readline():
            pass
        desk.fill("a")
        check_fields(json.loads(process.stdout.readline()), FORMS["dlq watch"])
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
