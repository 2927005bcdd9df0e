"""What `jobguard dlq` tells of queues and letters, and changes nothing of."""

from __future__ import annotations

import anyio
import pytest

from jobguard.stores import RedisStore
from jobguard.stores.letters import Edit, LetterState, ReplayRecord
from jobguard.testing import EmbeddedValkey
from tests.cli.conftest import Desk, arq_letter
from tests.stores.conftest import Wire

UNKNOWN = "0" * 24


def test_counts(desk: Desk) -> None:
    """`count` prints the number alone, or an object."""
    desk.fill("a", "b")
    assert desk("dlq", "count").out == "2\n"
    assert desk("dlq", "count", "--json").json == {"queue": "default", "filter": "", "count": 2}


def test_counts_what_a_filter_means(desk: Desk) -> None:
    """Terms narrow the count down, whether indexes or the letters themselves answer."""
    desk.keep(arq_letter(1), arq_letter(2, error_type="OSError"), arq_letter(3, state=LetterState.RESOLVED))
    assert desk("dlq", "count", "error=TimeoutError").out == "1\n"
    assert desk("dlq", "count", "state=all").out == "3\n"
    assert desk("dlq", "count", "arg.to=to-2", "error=OSError").out == "1\n"
    assert desk("dlq", "count", "until=2h", "state=resolved").out == "1\n"


@pytest.mark.parametrize(("limit", "code"), [("1", 6), ("2", 0), ("3", 0)])
def test_fails_over_a_number(desk: Desk, limit: str, code: int) -> None:
    """More letters than `--fail-over` says are exit code 6, after the count."""
    desk.fill("a", "b")
    ended = desk("dlq", "count", "--fail-over", limit)
    assert (ended.code, ended.out) == (code, "2\n")


def test_lists_the_queues(desk: Desk) -> None:
    """Every queue of the namespace is listed with its counts, emptied ones too."""
    desk.fill("a", queue="one")
    (id,) = desk.fill("b", queue="two")
    desk.keep(arq_letter(1, state=LetterState.RESOLVED), queue="two")
    assert desk("dlq", "remove", id, "-q", "two", "--yes").code == 0
    one = {"queue": "one", "dead": 1, "requeued": 0, "resolved": 0}
    two = {"queue": "two", "dead": 0, "requeued": 0, "resolved": 1}
    assert desk("dlq", "queues", "--json").json == [one, two]
    assert len(desk("dlq", "queues", "--jsonl").out.splitlines()) == 2
    assert "requeued" in desk("dlq", "queues").out


def test_lists_page_by_page(desk: Desk) -> None:
    """A page says on standard error how to go on; all pages together are all letters, newest first."""
    ids = desk.fill(*"abcde")
    first = desk("dlq", "list", "--limit", "3", "--json").json
    assert [entry["id"] for entry in first["entries"]] == ids[:3]
    told = desk("dlq", "list", "--limit", "3")
    assert told.err == f"more: --cursor {first['cursor']}\n"
    rest = desk("dlq", "ls", "--cursor", first["cursor"], "--json").json
    assert ([entry["id"] for entry in rest["entries"]], rest["cursor"]) == (ids[3:], None)


def test_lists_as_lines(desk: Desk) -> None:
    """`--jsonl` is an object a line, and `--quiet` leaves nothing beside them."""
    ids = desk.fill("a", "b", "c")
    ended = desk("dlq", "list", "--jsonl", "--quiet", "--limit", "2")
    assert ended.err == ""
    assert [line.split('"')[3] for line in ended.out.splitlines()] == ids[:2]


def test_lists_what_a_filter_means(desk: Desk) -> None:
    """Terms narrow the list down; where states are mixed, a column tells them."""
    desk.keep(arq_letter(1), arq_letter(2, state=LetterState.RESOLVED), arq_letter(3, task="other"))
    found = desk("dlq", "list", "task=send", "arg.to=to-1", "--json").json["entries"]
    assert [entry["id"] for entry in found] == [arq_letter(1).id]
    assert "state" not in desk("dlq", "list").out
    mixed = desk("dlq", "list", "state=all").out
    assert "resolved" in mixed
    assert mixed.split()[:5] == ["id", "failed", "state", "task", "error"]


def test_a_list_reads_one_page(desk: Desk, valkey: EmbeddedValkey) -> None:
    """However many letters there are, a list asks the server once."""
    desk.keep(*(arq_letter(number) for number in range(120)))

    async def work() -> int:
        wire = Wire(valkey.socket_path, valkey.directory / "list-wire")
        await wire.open()
        ended = await anyio.to_thread.run_sync(lambda: desk("dlq", "list", "--limit", "5", url=wire.url))
        await wire.close()
        assert len(ended.out.splitlines()) == 6
        return wire.round_trips

    plain = anyio.run(work)
    # Opening a connection takes some; the page is one more, and its script another if it is new.
    assert plain <= 4


def test_shows_letters(desk: Desk) -> None:
    """`get` shows each letter that there is, and tells of the others."""
    newest, oldest = desk.fill("first", "second")
    ended = desk("dlq", "get", oldest, newest)
    assert ended.code == 0
    assert ended.out.index("error_message: first") < ended.out.index("error_message: second")
    assert "Traceback (most recent call last):" in ended.out
    some = desk("dlq", "get", oldest, UNKNOWN, "--json")
    assert (some.code, [letter["id"] for letter in some.json]) == (4, [oldest])
    assert some.err == f"jobguard: queue 'default' has no letter {UNKNOWN}\n"
    assert desk("dlq", "get", UNKNOWN).code == 3


def test_shows_edits_and_replays(desk: Desk) -> None:
    """What was changed, when it was run again and who asked for it is a line each."""
    edit = Edit("to", '"Bob"', '"Ada"', 1_700_000_000.0, "me@here")
    replay = ReplayRecord(1, "replay:default:x:1", 1_700_000_000.0, "me@here")
    letter = arq_letter(
        1, edits=(edit,), replays=(replay,), requeues=1, state=LetterState.RESOLVED, resolution="succeeded"
    )
    desk.keep(letter)
    shown = desk("dlq", "get", letter.id).out
    assert 'to: "Bob" -> "Ada", by me@here' in shown
    assert "as job replay:default:x:1, by me@here" in shown
    assert "state: resolved (succeeded)" in shown


def test_finds_a_letter_by_its_key(desk: Desk) -> None:
    """A deduplication key is as good as an id."""
    letter = arq_letter(1, key="k" * 32)
    desk.keep(letter)
    assert desk("dlq", "get", "k" * 32, "--jsonl").json["id"] == letter.id


def test_groups_letters_by_cause(desk: Desk) -> None:
    """Each cause is a row, the commonest first, with its tasks and one letter to look at."""
    desk.keep(
        arq_letter(1),
        arq_letter(2, task="other"),
        arq_letter(3, fingerprint="e" * 16, error_type="OSError"),
    )
    found = desk("dlq", "groups", "--json").json
    assert [(group["count"], group["error"], group["fingerprint"]) for group in found] == [
        (2, "TimeoutError", "f" * 16),
        (1, "OSError", "e" * 16),
    ]
    assert sorted(found[0]["tasks"]) == ["other", "send"]
    assert found[0]["sample"] == arq_letter(2).id
    table = desk("dlq", "groups").out
    assert table.split()[:3] == ["count", "error", "tasks"]
    assert [group["error"] for group in desk("dlq", "groups", "arg.to=to-3", "--json").json] == ["OSError"]
    assert len(desk("dlq", "groups", "--limit", "1", "--jsonl").out.splitlines()) == 1


def test_counts_by_what_letters_have_in_common(desk: Desk) -> None:
    """`stats` says how many letters there are of each state, task, error and hour."""
    desk.fill(*(str(number) for number in range(7)))
    desk.keep(arq_letter(1, state=LetterState.RESOLVED), arq_letter(2))
    found = desk("dlq", "stats", "--json").json
    assert (found["dead"], found["resolved"], found["count"]) == (8, 1, 8)
    assert found["errors"] == {"ValueError": 7, "TimeoutError": 1}
    assert sum(found["hours"].values()) == 7
    recent = desk("dlq", "stats", "--since", "1h", "--json").json
    assert (recent["since"], recent["count"], recent["errors"]) == ("1h", 7, {"ValueError": 7})
    assert "7 dead since 1h" in desk("dlq", "stats", "--since", "1h").out


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"[]", b"\xff\xfe", b"null"])
def test_a_letter_that_cannot_be_read_hides_no_other(desk: Desk, text: bytes) -> None:
    """It is listed with its id, counted, shown and removed like the rest, which stay readable."""
    newest, middle, oldest = desk.fill("a", "b", "c")

    async def spoil(store: RedisStore) -> None:
        await store.client.hset(f"{{{desk.namespace}:dlq:default}}:entries", middle, text)  # type: ignore[misc,arg-type]

    desk.ask(spoil)
    listed = desk("dlq", "list", "--json").json["entries"]
    assert [entry["id"] for entry in listed] == [newest, middle, oldest]
    assert [entry["reason"] == "unreadable" for entry in listed] == [False, True, False]
    for command in ("list", "stats", "groups"):
        assert desk("dlq", command).code == 0
    assert "reason: unreadable" in desk("dlq", "get", middle).out
    assert desk("dlq", "clear", "--dry-run").code == 0
    assert desk("dlq", "export", "-o", "-").code == 0
    assert desk("dlq", "remove", middle, "--yes").code == 0
    assert desk("dlq", "count").out == "2\n"


def test_says_that_a_name_may_be_a_slip(desk: Desk) -> None:
    """A queue that has never been is told of, with those that have."""
    desk.fill("a", queue="whatsapp")
    ended = desk("dlq", "count", "-q", "watsapp")
    assert (ended.code, ended.out) == (0, "0\n")
    assert "'watsapp'" in ended.err
    assert "whatsapp" in ended.err


def test_a_row_is_a_line_where_there_is_no_terminal(desk: Desk) -> None:
    """Whatever a message is like, programs can read the list line by line."""
    desk.fill("x" * 3000, "two\nlines", "b")
    assert len(desk("dlq", "list").out.splitlines()) == 4


def test_takes_one_form_of_output(desk: Desk) -> None:
    """`--json` and `--jsonl` together are refused."""
    assert desk("dlq", "list", "--json", "--jsonl").code == 2


@pytest.mark.parametrize(
    "terms", [("nonsense",), ("colour=red",), ("since=soon",), ("task=a", "task=b"), ("attempts=many",)]
)
def test_a_filter_that_cannot_be_read_is_a_usage_error(desk: Desk, terms: tuple[str, ...]) -> None:
    """One line says which term it is."""
    ended = desk("dlq", "list", *terms)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
