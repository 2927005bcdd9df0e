"""What `jobguard` does and says, and how it ends."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import anyio
import pytest

import jobguard
from jobguard import JobGuard, deduplicated
from jobguard.cli.app import run
from jobguard.stores import RedisStore
from jobguard.stores.base import Claim, Settlement, State
from jobguard.testing import EmbeddedValkey
from tests.cli.conftest import Desk

COMMANDS = [
    ("dlq", "count"),
    ("dlq", "queues"),
    ("dlq", "list"),
    ("dlq", "get"),
    ("dlq", "stats"),
    ("dlq", "remove"),
    ("dlq", "clear"),
    ("job", "get"),
    ("job", "forget"),
]
UNKNOWN = "0" * 24


def program(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | environ,
        timeout=60,
        check=False,
    )


# Help and versions


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(
    command: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`--help` of a command shows a line that can be typed."""
    assert run([*command, "--help"]) == 0
    assert f"Example: jobguard {' '.join(command)}" in capsys.readouterr().out


def test_is_a_module_too() -> None:
    """`python -m jobguard` is the command."""
    ended = program("-m", "jobguard", "--version")
    assert (ended.returncode, ended.stdout) == (0, f"jobguard {jobguard.__version__}\n")


def test_says_what_to_install_where_its_extra_is_missing() -> None:
    """Without typer there is one line with the cure, and no traceback."""
    ended = program("-c", "import sys; sys.modules['typer'] = None; from jobguard.cli import main; main()")
    assert ended.returncode == 1
    assert ended.stderr == "the jobguard command needs 'typer': pip install 'jobguard[cli]'\n"


@pytest.mark.parametrize(
    "arguments",
    [("nope",), ("dlq", "nope"), ("dlq", "remove"), ("dlq", "get"), ("dlq", "list", "--limit", "0")],
)
def test_a_wrong_command_line_is_a_usage_error(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown commands, missing ids and impossible numbers end with 2; no selector never means all."""
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


# Reading


def test_counts(desk: Desk) -> None:
    """`count` prints the number alone, or an object."""
    desk.fill("a", "b")
    assert desk("dlq", "count").out == "2\n"
    assert desk("dlq", "count", "--json").json == {"queue": "default", "count": 2}


@pytest.mark.parametrize(("limit", "code"), [("1", 6), ("2", 0), ("3", 0)])
def test_fails_over_a_number(desk: Desk, limit: str, code: int) -> None:
    """More letters than `--fail-over` says are exit code 6, after the count."""
    desk.fill("a", "b")
    ended = desk("dlq", "count", "--fail-over", limit)
    assert (ended.code, ended.out) == (code, "2\n")


def test_lists_the_queues(desk: Desk) -> None:
    """Every queue of the namespace is listed with its count, emptied ones too."""
    desk.fill("a", queue="one")
    (id,) = desk.fill("b", queue="two")
    assert desk("dlq", "remove", id, "-q", "two", "--yes").code == 0
    assert desk("dlq", "queues", "--json").json == [
        {"queue": "one", "count": 1},
        {"queue": "two", "count": 0},
    ]


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


def test_counts_by_what_letters_have_in_common(desk: Desk) -> None:
    """`stats` reads all pages of a queue."""
    desk.fill(*(str(number) for number in range(7)))
    found = desk("dlq", "stats", "--json").json
    assert (found["count"], found["errors"], found["reasons"]) == (
        7,
        {"ValueError": 7},
        {"not_retryable": 7},
    )
    assert sum(found["hours"].values()) == 7
    assert desk("dlq", "stats").out.startswith("7 letters\n")


# Removing


def test_removes_what_is_named(desk: Desk) -> None:
    """`remove --yes` removes these letters and no others; an unknown one is told of."""
    newest, oldest = desk.fill("a", "b")
    ended = desk("dlq", "rm", oldest, UNKNOWN, "--yes", "--json")
    assert (ended.code, ended.json["removed"], ended.json["dry_run"]) == (4, [oldest], False)
    assert [entry["id"] for entry in desk("dlq", "list", "--json").json["entries"]] == [newest]
    assert desk("dlq", "rm", oldest, "--yes").code == 3


@pytest.mark.parametrize("command", ["remove", "clear"])
def test_refuses_to_remove_where_nobody_can_confirm(desk: Desk, command: str) -> None:
    """Without a terminal and without `--yes` nothing is removed."""
    ids = desk.fill("a") if command == "remove" else []
    desk.fill("b")
    before = desk("dlq", "count").out
    ended = desk("dlq", command, *ids)
    assert (ended.code, desk("dlq", "count").out) == (5, before)
    assert "--yes" in ended.err


@pytest.mark.parametrize("command", ["remove", "clear"])
def test_a_dry_run_removes_nothing(desk: Desk, command: str) -> None:
    """`--dry-run` says what would go, even beside `--yes`."""
    ids = desk.fill("a")
    arguments = (*(ids if command == "remove" else []), "--dry-run", "--yes")
    told = desk("dlq", command, *arguments)
    assert "ValueError" in told.out
    ended = desk("dlq", command, *arguments, "--json")
    assert (ended.code, ended.json["dry_run"], desk("dlq", "count").out) == (0, True, "1\n")


def test_clears_a_queue(desk: Desk) -> None:
    """`clear --yes` removes all letters of that queue alone."""
    desk.fill(*"abc")
    desk.fill("x", queue="other")
    assert desk("dlq", "clear", "--yes", "--json").json["removed"] == 3
    assert desk("dlq", "queues", "--json").json == [
        {"queue": "default", "count": 0},
        {"queue": "other", "count": 1},
    ]


def at_terminal(desk: Desk, answer: bytes, *arguments: str) -> tuple[int, str]:
    """Run the command on a terminal, and answer once it asks; its exit code, and all that was shown."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "jobguard", *arguments, "--url", desk.url, "--namespace", desk.namespace],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    asked = answered = False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([controller], [], [], 0.5)[0]:
            try:
                shown += os.read(controller, 65536)
            except OSError:  # the other end is closed
                break
        elif process.poll() is not None:
            break
        elif asked and answer == b"\x03":
            process.send_signal(signal.SIGINT)  # Python drops one that comes while it tidies up
        asked = asked or b"]:" in shown or b"for good:" in shown
        if asked and not answered and answer != b"\x03":
            answered = True
            os.write(controller, answer)
    os.close(controller)
    return process.wait(timeout=60), shown.decode()


@pytest.mark.parametrize(
    ("answer", "code", "left"),
    [(b"default\n", 0, "0"), (b"other\n", 5, "2"), (b"y\n", 5, "2"), (b"\x03", 130, "2")],
)
def test_clear_wants_the_name_typed(desk: Desk, answer: bytes, code: int, left: str) -> None:
    """On a terminal `clear` shows what would go, and only the queue's name lets it."""
    desk.fill("a", "b")
    ended, shown = at_terminal(desk, answer, "dlq", "clear")
    assert (ended, desk("dlq", "count").out) == (code, f"{left}\n"), shown
    assert "holds 2 letters" in shown


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, "0"), (b"n\n", 5, "1"), (b"\n", 5, "1")])
def test_remove_asks(desk: Desk, answer: bytes, code: int, left: str) -> None:
    """On a terminal `remove` asks, and takes silence for no."""
    (id,) = desk.fill("a")
    ended, shown = at_terminal(desk, answer, "dlq", "remove", id)
    assert (ended, desk("dlq", "count").out) == (code, f"{left}\n"), shown


async def spoil(desk: Desk, id: str, text: bytes) -> None:
    store = RedisStore.from_url(desk.url)
    await store._client.hset(f"{{{desk.namespace}:dlq:default}}:entries", id, text)  # type: ignore[misc,arg-type]
    await store.aclose()


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"[]", b"\xff\xfe", b"null"])
def test_a_letter_that_cannot_be_read_hides_no_other(desk: Desk, text: bytes) -> None:
    """It is listed with its id, counted, shown and removed like the rest, which stay readable."""
    newest, middle, oldest = desk.fill("a", "b", "c")
    anyio.run(spoil, desk, middle, text)
    listed = desk("dlq", "list", "--json").json["entries"]
    assert [entry["id"] for entry in listed] == [newest, middle, oldest]
    assert [entry["reason"] == "unreadable" for entry in listed] == [False, True, False]
    for command in ("list", "stats"):
        assert desk("dlq", command).code == 0
    assert "reason: unreadable" in desk("dlq", "get", middle).out
    assert desk("dlq", "clear", "--dry-run").code == 0
    assert desk("dlq", "remove", middle, "--yes").code == 0
    assert desk("dlq", "count").out == "2\n"


def test_clear_takes_no_letter_that_it_has_not_shown(desk: Desk) -> None:
    """What comes while the prompt stands stays."""
    desk.fill("a", "b")
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "jobguard", "dlq", "clear", "--url", desk.url, "--namespace", desk.namespace],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    while b"for good:" not in shown:
        shown += os.read(controller, 65536)
    desk.fill("c")
    os.write(controller, b"default\n")
    assert process.wait(timeout=60) == 0
    os.close(controller)
    assert desk("dlq", "count").out == "1\n"


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


def test_a_full_disk_is_one_line(desk: Desk) -> None:
    """Output that cannot be written is an error without a traceback."""
    desk.fill("a")
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "jobguard",
                "dlq",
                "list",
                "--url",
                desk.url,
                "--namespace",
                desk.namespace,
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


def test_escapes_what_an_encoding_lacks(desk: Desk) -> None:
    """A terminal that knows ASCII only gets the rest escaped."""
    desk.fill("漢字")
    ended = program(
        "-m", "jobguard", "dlq", "list", "--url", desk.url, "--namespace", desk.namespace,
        PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert (ended.returncode, "\\u6f22" in ended.stdout) == (0, True)


# Keys


@pytest.mark.parametrize(
    ("state", "lasts", "words"),
    [
        (State.PROCESSING, 60.0, "it is running"),
        (State.PROCESSING, 0.0, "its lease is over"),
        (State.RETRY, 60.0, "its next run is due in"),
        (State.RETRY, 0.0, "its next run is due"),
        (State.INTERRUPTED, 0.0, "a shutdown cut it off"),
        (State.SUCCESS, 60.0, "get its result for"),
        (State.SUCCESS, 0.0, "too long ago"),
        (State.FAILED, 0.0, "failed for good"),
        (State.DEAD_LETTER, 0.0, "became a dead letter"),
    ],
)
def test_says_what_a_state_means(desk: Desk, state: State, lasts: float, words: str) -> None:
    """Whatever became of a key's job, a sentence says what the next one meets."""

    async def work() -> None:
        store = RedisStore.from_url(desk.url)
        key = f"{desk.namespace}:k"
        lease = lasts if state is State.PROCESSING else 60.0
        granted = await store.claim(Claim(key, "one", "t", lease, 600.0))
        if state is not State.PROCESSING:
            await store.settle(Settlement(key, "one", "t", granted.fence, state, lasts, 600.0, body="1"))
        await store.aclose()

    anyio.run(work)
    assert words in desk("job", "get", "k").out


def test_what_is_no_record_is_one_line(desk: Desk) -> None:
    """A key under which somebody else keeps something is an error in a line."""

    async def work() -> None:
        store = RedisStore.from_url(desk.url)
        await store._client.set(f"{desk.namespace}:stray", "x", px=60_000)
        await store.aclose()

    anyio.run(work)
    ended = desk("job", "get", "stray")
    assert (ended.code, ended.err.count("\n")) == (1, 1)


def test_tells_of_a_key_and_forgets_it(desk: Desk) -> None:
    """`job get` says how far a key's job has come; after `job forget` nothing is known of it."""

    @deduplicated(key="{number}")
    async def double(number: int) -> int:
        return 2 * number

    async def work() -> str:
        store = RedisStore.from_url(desk.url)
        async with JobGuard(store, namespace=desk.namespace) as guard:
            await double(21)
            (record,) = [key async for key in store._client.scan_iter(f"{desk.namespace}:*")]
        await store.aclose()
        return str(record.decode().removeprefix(f"{guard.runtime.namespace}:"))

    key = anyio.run(work)
    known = desk("job", "get", key, "--json").json
    assert (known["status"], known["result"], known["crashes"]) == ("success", "42", 0)
    assert "has succeeded" in desk("job", "get", key).out
    assert desk("job", "forget", key).code == 5
    assert desk("job", "forget", key, "--yes", "--json").json == {"key": key, "forgotten": True}
    assert desk("job", "get", key).code == 3
    assert desk("job", "forget", key, "--yes").code == 3


# What goes wrong


def test_a_server_that_is_down_is_one_line() -> None:
    """The line says what to try and hides the password; there is no traceback."""
    ended = program("-m", "jobguard", "dlq", "count", JOBGUARD_URL="redis://me:s3cret@127.0.0.1:1/0")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1
    assert "JOBGUARD_URL" in ended.stderr
    assert "s3cret" not in ended.stderr


def test_a_wrong_password_is_one_line(desk: Desk) -> None:
    """A refused login is told as that, without the password."""
    with EmbeddedValkey(password="right") as server:
        ended = desk("dlq", "count", url=server.url.replace("right", "s3cret"))
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "password" in ended.err
    assert "s3cret" not in ended.err


def test_what_is_no_redis_is_one_line(desk: Desk) -> None:
    """A server of another kind is an error in a line."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(20):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        ended = desk("dlq", "count", url=f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    ("url", "namespace", "queue"),
    [("http://x:s3cret@y", "n", "q"), ("redis://y", "n n", "q"), ("redis://y", "n", "q{")],
)
def test_wrong_settings_are_usage_errors(
    url: str, namespace: str, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A URL, a namespace or a queue that cannot be is refused before anything is asked."""
    assert run(["dlq", "count", "--url", url, "--namespace", namespace, "--queue", queue]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "s3cret" not in err
