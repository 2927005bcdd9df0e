"""Letters in files: what `jobguard dlq export` writes, and `import` reads."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from jobguard.exchange import LONGEST_LINE
from jobguard.stores.letters import LetterState
from tests.cli.conftest import Desk, arq_letter


def test_goes_from_one_queue_to_another(desk: Desk, tmp_path: Path) -> None:
    """What was exported and imported is the same, whatever its state; the order stays too."""
    file = tmp_path / "letters.jsonl"
    desk.keep(arq_letter(1), arq_letter(2, state=LetterState.RESOLVED), arq_letter(3))
    ended = desk("dlq", "export", "-o", str(file))
    assert (ended.code, ended.out, ended.err) == (0, "", "exported 3 letters\n")
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [
        arq_letter(number).id for number in (1, 2, 3)
    ]
    assert desk("dlq", "import", str(file), "-q", "other").err == "imported 3 letters\n"
    before = desk("dlq", "list", "state=all", "--json").json["entries"]
    after = desk("dlq", "list", "state=all", "-q", "other", "--json").json["entries"]
    assert after == [{**entry, "imported": True} for entry in before]


def test_exports_what_a_filter_means(desk: Desk) -> None:
    """To standard output too, where nothing else is written."""
    desk.keep(arq_letter(1), arq_letter(2, error_type="OSError"))
    ended = desk("dlq", "export", "error=OSError", "-o", "-")
    assert [json.loads(line)["id"] for line in ended.out.splitlines()] == [arq_letter(2).id]
    assert ended.err == "exported 1 letter\n"


def test_an_export_is_its_owners_and_appears_when_it_is_complete(desk: Desk, tmp_path: Path) -> None:
    """The file replaces an older one, nobody else may read it, and nothing is left beside it."""
    file = tmp_path / "letters.jsonl"
    file.write_text("older")
    file.chmod(0o644)
    desk.keep(arq_letter(1))
    ended = desk("dlq", "export", "-o", str(file), "--json")
    assert ended.json == {"queue": "default", "filter": "state=all", "file": str(file), "exported": 1}
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["letters.jsonl"]


def test_an_export_that_fails_leaves_the_older_file(desk: Desk, tmp_path: Path) -> None:
    """A server that does not answer costs nothing that was there."""
    file = tmp_path / "letters.jsonl"
    file.write_text("older")
    assert desk("dlq", "export", "-o", str(file), url="redis://127.0.0.1:1/0").code == 1
    assert (file.read_text(), os.listdir(tmp_path)) == ("older", ["letters.jsonl"])


def test_a_place_that_cannot_be_written_is_one_line(desk: Desk) -> None:
    """It names the file."""
    ended = desk("dlq", "export", "-o", "/no/such/directory/file")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "/no/such/directory" in ended.err


def test_an_import_may_be_repeated(desk: Desk, tmp_path: Path) -> None:
    """Letters that are there stay as they are, and are counted."""
    file = tmp_path / "letters.jsonl"
    desk.keep(arq_letter(1), arq_letter(2))
    assert desk("dlq", "export", "-o", str(file)).code == 0
    assert desk("dlq", "remove", arq_letter(1).id, "--yes").code == 0
    assert desk("dlq", "import", str(file)).err == "imported 1 letter, 1 were there already\n"
    assert desk("dlq", "count").out == "2\n"


def test_rehearses_an_import(desk: Desk, tmp_path: Path) -> None:
    """`--dry-run` says what would be imported, and imports nothing."""
    file = tmp_path / "letters.jsonl"
    desk.keep(arq_letter(1), arq_letter(2))
    assert desk("dlq", "export", "-o", str(file)).code == 0
    assert desk("dlq", "remove", arq_letter(1).id, "--yes").code == 0
    ended = desk("dlq", "import", str(file), "--dry-run")
    assert ended.err == "would import 1 letter, 1 were there already\n"
    assert desk("dlq", "import", str(file), "--dry-run", "--json").json["imported"] == 1
    assert desk("dlq", "count").out == "1\n"


def test_lines_that_are_no_letters_are_told_of(desk: Desk, tmp_path: Path) -> None:
    """Each by its number, as far as a screen is good for; the others are imported, and the exit code is 4."""
    file = tmp_path / "letters.jsonl"
    desk.keep(arq_letter(1))
    assert desk("dlq", "export", "-o", str(file)).code == 0
    good = file.read_bytes()
    file.write_bytes(b"{}\n\n\xff\xfe\n" + b"[" * 100_000 + b"\n" + good + b"nonsense\n" * 30)
    ended = desk("dlq", "import", str(file), "-q", "other")
    assert (ended.code, ended.out) == (4, "")
    assert "line 1: " in ended.err
    assert "line 3: " in ended.err
    assert "33 lines are not letters" in ended.err
    assert len(ended.err.splitlines()) == 22
    told = desk("dlq", "import", str(file), "-q", "other", "--json")
    assert (told.code, told.json["known"], told.json["refusals"]) == (4, 1, 33)
    assert [each["line"] for each in told.json["refused"][:3]] == [1, 3, 4]


def test_an_endless_line_is_not_kept_in_memory(desk: Desk, tmp_path: Path) -> None:
    """What is longer than any letter counts as one line that is none, and the next one is read."""
    file = tmp_path / "letters.jsonl"
    desk.keep(arq_letter(1))
    assert desk("dlq", "export", "-o", str(file)).code == 0
    good = file.read_bytes()
    file.write_bytes(b"x" * (3 * LONGEST_LINE) + b"\n" + good)
    ended = desk("dlq", "import", str(file), "-q", "other", "--json")
    assert (ended.json["imported"], [each["line"] for each in ended.json["refused"]]) == (1, [1])


def test_imports_from_standard_input(desk: Desk) -> None:
    """`-` reads what is piped in, whatever bytes those are."""
    desk.keep(arq_letter(1))
    text = b"\xff\xfe\n" + desk("dlq", "export", "-o", "-", "--quiet").out.encode()
    ended = subprocess.run(
        desk.arguments("dlq", "import", "-", "-q", "other"),
        input=text,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, desk("dlq", "count", "-q", "other").out) == (4, "1\n")
    assert ended.stderr.startswith(b"jobguard: line 1: ")
