"""`jobguard dlq requeue`: which jobs go back into ARQ's queue, and what is said of the others."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import pytest
from redis.asyncio import Redis

from jobguard import DeadLetter
from jobguard.adapters.base import Replay
from jobguard.replays import keep_again
from jobguard.stores import RedisStore
from jobguard.stores.base import Claim
from jobguard.stores.letters import LetterQueue, LetterState
from jobguard.testing import EmbeddedValkey
from tests.cli.conftest import Desk, arq_letter

UNKNOWN = "0" * 24


@pytest.fixture
def arq_queue(desk: Desk) -> str:
    """The name of a queue of ARQ's, on a server that knows no job of another test."""

    async def work(store: RedisStore) -> None:
        await store.client.flushall()

    desk.ask(work)
    return f"queue-{desk.namespace}"


def jobs_in(desk: Desk, queue: str, url: str | None = None) -> list[str]:
    """Ids of the jobs that wait in a queue."""

    async def work(store: RedisStore) -> list[str]:
        assert isinstance(store.client, Redis)
        return [id.decode() for id in await store.client.zrange(queue, 0, -1)]

    where = Desk(desk.url if url is None else url, lambda: None)
    return where.ask(work)


def letters(queue: str, number: int, **changes: Any) -> list[DeadLetter]:
    return [arq_letter(each, queue=queue, **changes) for each in range(1, number + 1)]


def job_of(desk: Desk, letter: DeadLetter, number: int = 1) -> str:
    return f"replay:{desk.namespace}:default:{letter.id}:{number}"


def test_requeues_what_is_named(desk: Desk, arq_queue: str) -> None:
    """Without a question: the jobs wait in their queue, and the letters say who asked for it."""
    first, second = letters(arq_queue, 2)
    desk.keep(first, second)
    ended = desk("dlq", "requeue", first.id, "--by", "me")
    assert (ended.code, ended.out, ended.err) == (0, "", "1 requeued\n")
    assert jobs_in(desk, arq_queue) == [job_of(desk, first)]
    letter = desk.letter(first.id)
    assert letter is not None
    assert (letter.state, [each.by for each in letter.replays]) == (LetterState.REQUEUED, ["me"])


def test_requeues_by_key(desk: Desk, arq_queue: str) -> None:
    """A deduplication key is as good as an id; to name a letter twice is to name it once."""
    (letter,) = letters(arq_queue, 1, key="k" * 32)
    desk.keep(letter)
    ended = desk("dlq", "requeue", "k" * 32, letter.id)
    assert (ended.code, ended.err) == (0, "1 requeued\n")
    assert jobs_in(desk, arq_queue) == [job_of(desk, letter)]


def test_says_who_asked_by_itself(desk: Desk, arq_queue: str) -> None:
    """Without `--by` it is this user on this machine."""
    (letter,) = letters(arq_queue, 1)
    desk.keep(letter)
    assert desk("dlq", "requeue", letter.id).code == 0
    now = desk.letter(letter.id)
    assert now is not None
    assert "@" in now.replays[0].by


def test_requeues_what_a_filter_means(desk: Desk, arq_queue: str) -> None:
    """The oldest first; each letter is told of as an object, or all of them in one."""
    kept = letters(arq_queue, 3)
    desk.keep(*kept, arq_letter(9, queue=arq_queue, error_type="OSError"))
    ended = desk("dlq", "requeue", "error=TimeoutError", "--yes", "--jsonl", "--limit", "2")
    assert [json.loads(line)["id"] for line in ended.out.splitlines()] == [kept[0].id, kept[1].id]
    rest = desk("dlq", "requeue", "error=TimeoutError", "--yes", "--json").json
    assert (rest["counts"]["requeued"], rest["outcomes"][0]["job_id"]) == (1, job_of(desk, kept[2]))
    assert len(jobs_in(desk, arq_queue)) == 3


def test_requeues_all(desk: Desk, arq_queue: str) -> None:
    """`--all` is every dead letter; to say it again does nothing twice."""
    kept = letters(arq_queue, 3)
    desk.keep(*kept, arq_letter(9, queue=arq_queue, state=LetterState.RESOLVED))
    assert desk("dlq", "requeue", "--all", "--yes").err == "3 requeued\n"
    assert desk("dlq", "requeue", "--all", "--yes").err == "nothing requeued\n"
    again = desk("dlq", "requeue", "state=requeued", "--yes")
    assert (again.code, again.err) == (0, "3 waiting\n")
    assert jobs_in(desk, arq_queue) == [job_of(desk, letter) for letter in kept]


@pytest.mark.parametrize("which", ["--all", "error=TimeoutError"])
def test_many_are_requeued_only_if_somebody_agrees(desk: Desk, arq_queue: str, which: str) -> None:
    """It refuses where nobody can be asked; on a terminal it shows what is meant and asks."""
    desk.keep(*letters(arq_queue, 2))
    assert desk("dlq", "requeue", which).code == 5
    ended, shown = desk.at_terminal("dlq", "requeue", which, until=b"]:", answer=b"n\n")
    assert (ended, jobs_in(desk, arq_queue)) == (5, []), shown
    assert "2 letters are meant" in shown
    assert "Requeue 2 letters of queue 'default' now?" in shown


def test_requeues_no_letter_that_it_has_not_shown(desk: Desk, arq_queue: str) -> None:
    """What comes while the question stands stays."""
    kept = letters(arq_queue, 2)
    desk.keep(*kept)
    late = arq_letter(9, queue=arq_queue)
    ended, shown = desk.at_terminal(
        "dlq", "requeue", "--all", until=b"]:", answer=b"y\n", meanwhile=lambda: desk.keep(late)
    )
    assert (ended, jobs_in(desk, arq_queue)) == (0, [job_of(desk, letter) for letter in kept]), shown
    assert "2 requeued" in shown


def test_rehearses(desk: Desk, arq_queue: str) -> None:
    """`--dry-run` says what would happen to each, asks nobody, and does nothing."""
    kept = letters(arq_queue, 2)
    desk.keep(*kept)
    ended = desk("dlq", "requeue", "--all", "--dry-run")
    assert [line.split()[:2] for line in ended.out.splitlines()] == [
        [letter.id, "would_requeue"] for letter in kept
    ]
    assert (ended.code, ended.err, jobs_in(desk, arq_queue)) == (0, "2 would requeue\n", [])
    assert desk("dlq", "requeue", "--all", "--dry-run", "--json").json["dry_run"] is True


def test_edits_on_the_way(desk: Desk, arq_queue: str) -> None:
    """`--edit` changes arguments before the job runs: JSON where it is any, else text."""
    (letter,) = letters(arq_queue, 1)
    desk.keep(letter)
    edits = ("--edit", "to=Ada", "--edit", 'content={"n": 1}', "--by", "me")
    assert desk("dlq", "requeue", letter.id, *edits).code == 0
    shown = desk("dlq", "get", letter.id).out
    assert 'to: "to-1" -> "Ada", by me' in shown
    assert 'preview: {"to": "Ada", "content": {"n": 1}}' in shown


@pytest.mark.parametrize(
    ("changes", "options", "why"),
    [
        ({"payload": None, "payload_format": "none"}, (), "were not kept"),
        ({"requeues": 5}, (), "run again 5 times"),
        ({"state": LetterState.RESOLVED, "resolution": "succeeded"}, (), "is resolved"),
        ({"adapter": "local"}, (), "no way from here"),
        ({}, ("--edit", "subject=x"), "no argument 'subject'"),
        ({"task": "nobody's"}, (), "serves task"),
        (
            {"payload": base64.b64encode(b"x").decode(), "payload_format": "opaque", "imported": True},
            (),
            "trust",
        ),
    ],
)
def test_says_why_a_letter_is_refused(
    desk: Desk, arq_queue: str, changes: dict[str, Any], options: tuple[str, ...], why: str
) -> None:
    """It is a line with its id and the reason, the others go on, and the exit code tells of it."""
    good, bad = letters(arq_queue, 2)
    desk.keep(good)
    bad = arq_letter(2, **{"queue": arq_queue, **changes})
    desk.keep(bad, served=False)
    ended = desk("dlq", "requeue", bad.id, *([] if options else [good.id]), *options)
    assert ended.code == 4
    assert ended.out.startswith(f"{bad.id}  refused  ")
    assert why in ended.out
    assert jobs_in(desk, arq_queue) == ([] if options else [job_of(desk, good)])


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"requeues": 5}, ("--max-requeues", "0")),
        ({"task": "nobody's"}, ("--unserved",)),
        (
            {"payload": base64.b64encode(b"x").decode(), "payload_format": "opaque", "imported": True},
            ("--trust-imported",),
        ),
    ],
)
def test_what_is_refused_can_be_asked_for(
    desk: Desk, arq_queue: str, changes: dict[str, Any], option: tuple[str, ...]
) -> None:
    """An option says that it is meant all the same."""
    desk.keep(arq_letter(1, queue=arq_queue))
    bad = arq_letter(2, queue=arq_queue, **changes)
    desk.keep(bad, served=False)
    assert desk("dlq", "requeue", bad.id, *option).code == 0
    assert jobs_in(desk, arq_queue) == [job_of(desk, bad, 1 + bad.requeues)]


@pytest.mark.parametrize(
    ("choice", "code", "status", "jobs"),
    [("skip", 0, "duplicate", 0), ("fail", 4, "refused", 0), ("force", 0, "", 1)],
)
def test_another_job_with_the_key(
    desk: Desk, arq_queue: str, choice: str, code: int, status: str, jobs: int
) -> None:
    """`--on-duplicate` says what to do where another job has the work in hand."""
    (letter,) = letters(arq_queue, 1, key="k" * 32)
    desk.keep(letter)

    async def work(store: RedisStore) -> None:
        await store.claim(Claim(f"{desk.namespace}:{'k' * 32}", "other", "t", 60.0, 600.0))

    desk.ask(work)
    ended = desk("dlq", "requeue", letter.id, "--on-duplicate", choice)
    assert (ended.code, status in ended.out, len(jobs_in(desk, arq_queue))) == (code, True, jobs)


def test_missing_letters(desk: Desk, arq_queue: str) -> None:
    """Some that are not there are a part, none at all is nothing found."""
    (letter,) = letters(arq_queue, 1)
    desk.keep(letter)
    some = desk("dlq", "requeue", letter.id, UNKNOWN)
    assert (some.code, some.out) == (4, f"{UNKNOWN}  missing  there is no such letter\n")
    assert desk("dlq", "requeue", UNKNOWN).code == 3


def test_stops_where_canaries_do_not_end(desk: Desk, arq_queue: str) -> None:
    """The rest stays dead, a line says why, and the exit code tells of it."""
    desk.keep(*letters(arq_queue, 5))
    ended = desk("dlq", "requeue", "--all", "--yes", "--canary", "2", "--patience", "0.1", "--json")
    assert (ended.code, ended.json["counts"]["requeued"]) == (4, 2)
    assert "canaries have not ended" in ended.json["stopped"]
    assert "stopped: " in ended.err
    assert len(jobs_in(desk, arq_queue)) == 2


def test_stops_where_canaries_fail_again(desk: Desk, arq_queue: str) -> None:
    """Then the rest is not sent after them."""
    kept = letters(arq_queue, 5)
    desk.keep(*kept)

    async def fail(store: RedisStore) -> None:
        for letter in kept[:2]:
            queue = LetterQueue(desk.namespace, "default")
            await keep_again(store, queue, Replay(queue, letter.id, 1), letter)

    with desk.started("dlq", "requeue", "--all", "--yes", "--canary", "2") as process:
        while len(jobs_in(desk, arq_queue)) < 2 and process.poll() is None:
            pass
        desk.ask(fail)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, len(jobs_in(desk, arq_queue))) == (4, "", 2)
    assert "stopped: 2 of 2 replays have failed again" in err


def test_keeps_to_a_rate_and_shows_how_far_it_is(desk: Desk, arq_queue: str) -> None:
    """On a terminal, what takes a while has a bar; Ctrl-C ends it, and says how much was done."""
    desk.keep(*letters(arq_queue, 50))
    ended, shown = desk.at_terminal(
        "dlq", "requeue", "--all", "--yes", "--rate", "5", until=b"requeueing", answer=b"\x03"
    )
    assert ended == 130, shown
    assert "so far: " in shown
    assert "interrupted" in shown
    assert 0 < len(jobs_in(desk, arq_queue)) < 50


def test_finds_arqs_queues_on_another_server(desk: Desk, arq_queue: str) -> None:
    """`--arq-url` says where they are."""
    (letter,) = letters(arq_queue, 1)
    desk.keep(letter)
    with EmbeddedValkey() as other:
        assert desk("dlq", "requeue", letter.id, "--arq-url", other.url).code == 0
        assert jobs_in(desk, arq_queue, other.url) == [job_of(desk, letter)]
    assert jobs_in(desk, arq_queue) == []
    now = desk.letter(letter.id)
    assert now is not None
    assert now.state is LetterState.REQUEUED


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://x:s3cret@y", 2),
        ("redis://x:s3cret@y?colour=red", 2),
        ("redis+cluster://x:s3cret@127.0.0.1:1", 2),
        ("redis://x:s3cret@127.0.0.1:1/0", 1),
    ],
)
def test_a_server_of_arq_that_cannot_be_is_one_line(desk: Desk, arq_queue: str, url: str, code: int) -> None:
    """It says which server is meant, and hides the password."""
    desk.keep(*letters(arq_queue, 1))
    ended = desk("dlq", "requeue", "--all", "--yes", "--arq-url", url)
    assert (ended.code, "s3cret" in ended.err, "Traceback" in ended.err) == (code, False, False)
    assert "ARQ" in ended.err or "--arq-url" in ended.err


def test_says_what_to_install_for_letters_of_arq(
    desk: Desk, arq_queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ARQ its letters are refused, with the cure."""
    for name in [
        name
        for name in sys.modules
        if name.split(".")[0] == "arq" or name.startswith("jobguard.adapters.arq")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "arq", None)
    (letter,) = letters(arq_queue, 1)
    desk.keep(letter)
    ended = desk("dlq", "requeue", letter.id)
    assert ended.code == 4
    assert "pip install 'jobguard[arq]'" in ended.out
