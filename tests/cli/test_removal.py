"""What `jobguard dlq` takes away, and how it asks before."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobguard.stores.letters import LetterState
from tests.cli.conftest import Desk, arq_letter

UNKNOWN = "0" * 24
ASKED = b"for good"
"""What every question of these commands says."""


def ids_in(desk: Desk, *terms: str) -> list[str]:
    return [entry["id"] for entry in desk("dlq", "list", *terms, "--json").json["entries"]]


def test_removes_what_is_named(desk: Desk) -> None:
    """`remove --yes` removes these letters and no others; an unknown one is told of."""
    newest, oldest = desk.fill("a", "b")
    ended = desk("dlq", "rm", oldest, UNKNOWN, "--yes", "--json")
    assert (ended.code, ended.json["removed"], ended.json["missing"]) == (4, 1, [UNKNOWN])
    assert ids_in(desk) == [newest]
    assert desk("dlq", "rm", oldest, "--yes").code == 3


def test_removes_by_key(desk: Desk) -> None:
    """A deduplication key is as good as an id; to name a letter twice is to name it once."""
    letter = arq_letter(1, key="k" * 32)
    desk.keep(letter, arq_letter(2))
    both = ("dlq", "remove", "k" * 32, letter.id)
    rehearsed = desk(*both, "--dry-run", "--json")
    assert (rehearsed.code, rehearsed.json["found"], rehearsed.json["missing"]) == (0, 1, [])
    _, shown = desk.at_terminal(*both, until=ASKED, answer=b"n\n")
    assert "Remove 1 letter of" in shown
    ended = desk(*both, "--yes", "--json")
    assert (ended.code, ended.json["found"], ended.json["removed"], ended.json["missing"]) == (0, 1, 1, [])
    assert ids_in(desk) == [arq_letter(2).id]


def test_removes_the_letter_of_a_key_that_it_has_shown(desk: Desk) -> None:
    """One that comes with the same key while the question stands stays."""
    shown, late = arq_letter(1, key="k" * 32), arq_letter(2, key="k" * 32)
    desk.keep(shown)
    code, text = desk.at_terminal(
        "dlq", "remove", "k" * 32, until=ASKED, answer=b"y\n", meanwhile=lambda: desk.keep(late)
    )
    assert (code, ids_in(desk)) == (0, [late.id]), text


def test_removes_what_a_filter_means(desk: Desk) -> None:
    """Terms of a filter remove the letters that agree with all of them."""
    desk.keep(arq_letter(1), arq_letter(2, error_type="OSError"), arq_letter(3, error_type="OSError"))
    ended = desk("dlq", "remove", "error=OSError", "arg.to=to-2", "--yes", "--jsonl")
    assert (ended.code, ended.json["removed"], ended.json["filter"]) == (0, 1, "error=OSError arg.to=to-2")
    assert desk("dlq", "remove", "error=OSError", "--yes").err == "removed 1 letter\n"
    assert ids_in(desk) == [arq_letter(1).id]


def test_a_filter_that_means_none_removes_none(desk: Desk) -> None:
    """That is no failure."""
    desk.fill("a")
    ended = desk("dlq", "remove", "error=OSError", "--yes", "--json")
    assert (ended.code, ended.json["removed"]) == (0, 0)


COMMANDS = [
    ("dlq", "remove", "error=ValueError"),
    ("dlq", "clear"),
    ("dlq", "prune", "--keep", "0"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_refuses_to_remove_where_nobody_can_confirm(desk: Desk, command: tuple[str, ...]) -> None:
    """Without a terminal and without `--yes` nothing is removed."""
    (id,) = desk.fill("a")
    for arguments in (command, ("dlq", "remove", id)):
        ended = desk(*arguments)
        assert (ended.code, desk("dlq", "count").out) == (5, "1\n")
        assert "--yes" in ended.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_dry_run_removes_nothing(desk: Desk, command: tuple[str, ...]) -> None:
    """`--dry-run` says what would go, even beside `--yes`."""
    (id,) = desk.fill("a")
    for arguments in (command, ("dlq", "remove", id)):
        assert "ValueError" in desk(*arguments, "--dry-run", "--yes").out
        ended = desk(*arguments, "--dry-run", "--yes", "--json")
        assert (ended.code, ended.json["dry_run"], ended.json["found"]) == (0, True, 1)
        assert (ended.json["removed"], desk("dlq", "count").out) == (0, "1\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("answer", "code"),
    [(b"n\n", 5), (b"\n\n", 5), (b"\x04", 130), (b"\x03", 130)],
    ids=["no", "", "^D", "^C"],
)
def test_what_is_not_confirmed_is_not_done(
    desk: Desk, command: tuple[str, ...], answer: bytes, code: int
) -> None:
    """Any other answer, none, the end of input and Ctrl-C leave the letters where they are."""
    desk.fill("a", "b")
    ended, shown = desk.at_terminal(*command, until=ASKED, answer=answer)
    assert (ended, desk("dlq", "count").out) == (code, "2\n"), shown
    assert "2 letters are meant" in shown
    assert re.search(r"2 +ValueError +\S*broken", shown)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_takes_no_letter_that_it_has_not_shown(desk: Desk, command: tuple[str, ...]) -> None:
    """What comes while the question stands stays."""
    desk.fill("a", "b")
    late: list[str] = []
    answer = b"default\n" if "clear" in command else b"y\n"
    ended, shown = desk.at_terminal(
        *command, until=ASKED, answer=answer, meanwhile=lambda: late.extend(desk.fill("c"))
    )
    assert (ended, ids_in(desk)) == (0, late), shown
    assert "removed 2 letters" in shown


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, "0"), (b"n\n", 5, "1"), (b"\n", 5, "1")])
def test_remove_asks_for_ids_too(desk: Desk, answer: bytes, code: int, left: str) -> None:
    """On a terminal it shows the letters, and takes silence for no."""
    (id,) = desk.fill("a")
    ended, shown = desk.at_terminal("dlq", "remove", id, until=ASKED, answer=answer)
    assert (ended, desk("dlq", "count").out) == (code, f"{left}\n"), shown
    assert f"{id}  " in shown


@pytest.mark.parametrize("answer", [b"other\n", b"y\n", b"Default\n"])
def test_clear_wants_the_name_typed(desk: Desk, answer: bytes) -> None:
    """Nothing but the queue's name will do."""
    desk.fill("a", "b")
    ended, shown = desk.at_terminal("dlq", "clear", until=ASKED, answer=answer)
    assert (ended, desk("dlq", "count").out) == (5, "2\n"), shown


def test_clears_a_queue(desk: Desk) -> None:
    """`clear --yes` removes all letters of that queue alone, whatever their state."""
    desk.fill(*"abc")
    desk.keep(arq_letter(1, state=LetterState.RESOLVED))
    desk.fill("x", queue="other")
    assert desk("dlq", "clear", "--yes", "--json").json["removed"] == 4
    assert [(each["queue"], each["dead"]) for each in desk("dlq", "queues", "--json").json] == [
        ("default", 0),
        ("other", 1),
    ]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("remove", "state=all"), 0),
        (("remove", UNKNOWN), 3),
        (("clear",), 0),
        (("prune", "--keep", "5"), 0),
        (("requeue", "state=all"), 0),
    ],
)
def test_where_nothing_is_meant_programs_are_told_so(desk: Desk, command: tuple[str, ...], code: int) -> None:
    """At a terminal too, and though nobody is asked, the output is one object."""
    ended, shown = desk.at_terminal("dlq", *command, "--json", until=b"never", answer=b"")
    [found] = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert (ended, found["queue"], found.get("removed", 0)) == (code, "default", 0), shown


@pytest.mark.parametrize("command", [("remove", "state=all"), ("clear",), ("prune", "--keep", "5")])
def test_where_nothing_is_meant_nobody_is_asked(desk: Desk, command: tuple[str, ...]) -> None:
    """An empty queue is told of, and the command ends well."""
    ended, shown = desk.at_terminal("dlq", *command, until=b"never", answer=b"")
    assert ended == 0, shown
    assert "no letter is meant: nothing was done" in shown


def test_shows_letters_of_every_state_that_clear_would_take(desk: Desk) -> None:
    """Causes are counted over all states, and what is too much for the list is counted too."""
    desk.keep(
        *(arq_letter(number, fingerprint=f"{number:016x}") for number in range(25)),
        arq_letter(25, fingerprint=f"{0:016x}", state=LetterState.RESOLVED),
    )
    shown = desk("dlq", "clear", "--dry-run").out.splitlines()
    assert shown[0] == "queue 'default': 26 letters are meant"
    assert shown[1].split() == ["2", "TimeoutError", "send"]
    assert shown[-2].split() == ["5", "of", "other", "kinds"]
    assert shown[-1] == "would remove 26 letters"


# Prune


def test_prunes_by_number(desk: Desk) -> None:
    """The oldest beyond a number go, and count as evicted."""
    desk.keep(*(arq_letter(number) for number in range(5)))
    ended = desk("dlq", "prune", "--keep", "2", "--yes", "--json")
    assert (ended.code, ended.json["removed"]) == (0, 3)
    assert ids_in(desk) == [arq_letter(4).id, arq_letter(3).id]
    assert desk("dlq", "stats", "--json").json["evicted"] == 3


def test_prunes_by_age(desk: Desk) -> None:
    """What came longer ago goes."""
    fresh = desk.fill("a")
    desk.keep(arq_letter(1), arq_letter(2))
    assert desk("dlq", "prune", "--older-than", "30d", "--yes").err == "removed 2 letters\n"
    assert ids_in(desk) == fresh


def test_prunes_one_state(desk: Desk) -> None:
    """`--state` leaves letters of the others alone."""
    desk.keep(arq_letter(1), arq_letter(2, state=LetterState.RESOLVED))
    assert desk("dlq", "prune", "--keep", "0", "--state", "resolved", "--yes").code == 0
    assert ids_in(desk, "state=all") == [arq_letter(1).id]


def test_spills_what_it_prunes(desk: Desk, tmp_path: Path) -> None:
    """The letters are in a file, for its owner only, from which they can be imported again."""
    file = tmp_path / "old.jsonl"
    desk.keep(*(arq_letter(number) for number in range(3)))
    assert desk("dlq", "prune", "--keep", "1", "--spill", str(file), "--yes").code == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == [arq_letter(0).id, arq_letter(1).id]
    assert file.stat().st_mode & 0o777 == 0o600
    assert desk("dlq", "import", str(file)).code == 0
    assert desk("dlq", "count").out == "3\n"


def test_what_cannot_be_spilled_is_not_pruned(desk: Desk) -> None:
    """A file that cannot be written keeps the letters where they are."""
    desk.keep(arq_letter(1))
    ended = desk("dlq", "prune", "--keep", "0", "--spill", "/no/such/directory/file", "--yes")
    assert (ended.code, desk("dlq", "count").out) == (1, "1\n")
    assert "--spill" in ended.err
    assert "Traceback" not in ended.err
