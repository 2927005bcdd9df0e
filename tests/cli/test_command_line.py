"""What `jobguard` does and says, and how it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import anyio
import pytest

import jobguard
from jobguard import JobGuard, deduplicated
from jobguard.cli.app import run
from jobguard.history import add_failure, pack
from jobguard.job import NO_HISTORY, AttemptError
from jobguard.stores import RedisStore
from jobguard.stores.base import Claim, Settlement, State
from jobguard.testing import EmbeddedValkey
from tests.cli.conftest import COMMANDS, Desk


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


@pytest.mark.parametrize(("alias", "name"), [("ls", "list"), ("rm", "remove")])
def test_a_short_name_has_the_same_help(alias: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the example of the whole name."""
    assert run(["dlq", alias, "--help"]) == 0
    assert f"Example: jobguard dlq {name} " in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_takes_the_common_options(
    command: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where, which form, how loud: the same options everywhere."""
    assert run([*command, "--help"]) == 0
    told = capsys.readouterr().out
    for option in ("--url", "--namespace", "--json", "--jsonl", "--quiet", "--no-color"):
        assert f"{option} " in told


@pytest.mark.parametrize(
    "command",
    [("dlq", "requeue"), ("dlq", "remove"), ("dlq", "clear"), ("dlq", "prune"), ("job", "forget")],
    ids=" ".join,
)
def test_what_changes_something_can_be_rehearsed(
    command: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes `--dry-run`, and `--yes`."""
    assert run([*command, "--help"]) == 0
    told = capsys.readouterr().out
    assert "--dry-run" in told
    assert "--yes" in told


def test_tells_shells_how_to_complete() -> None:
    """The script that a shell wants is printed, and it gets the names of commands."""
    script = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m jobguard --show-completion bash; exit $?"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "complete -o default -F _jobguard_completion jobguard" in script.stdout
    ended = program(
        "-m", "jobguard", _JOBGUARD_COMPLETE="complete_bash", COMP_WORDS="jobguard dlq re", COMP_CWORD="2"
    )
    assert ended.stdout.split() == ["requeue", "remove"]


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
    [
        ("nope",),
        ("dlq", "nope"),
        ("dlq", "get"),
        ("dlq", "remove"),
        ("dlq", "requeue"),
        ("dlq", "prune"),
        ("dlq", "export"),
        ("dlq", "import"),
        ("dlq", "import", "/no/such/file"),
        ("dlq", "list", "--limit", "0"),
        ("dlq", "stats", "--since", "soon"),
        ("dlq", "prune", "--older-than", "soon"),
        ("dlq", "remove", "4f0c", "error=OSError", "--yes"),
        ("dlq", "requeue", "4f0c", "--all"),
        ("dlq", "requeue", "4f0c", "--edit", "to"),
        ("dlq", "requeue", "4f0c", "--edit", "to=a", "--edit", "to=b"),
        ("dlq", "requeue", "4f0c", "--rate", "0"),
        ("dlq", "requeue", "4f0c", "--on-duplicate", "maybe"),
        ("dlq", "requeue", "4f0c", "--max-failure-rate", "2"),
        ("dlq", "export", "-o", "-", "--json"),
        ("dlq", "export", "-o", "/dev/null"),
        ("dlq", "watch", "--interval", "0"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_a_usage_error(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown commands, missing ids and impossible numbers end with 2; no selector never means all."""
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


# Output


def test_a_full_disk_is_one_line(desk: Desk) -> None:
    """Output that cannot be written is an error without a traceback."""
    desk.fill("a")
    with open("/dev/full", "w") as full, desk.started("dlq", "list", stdout=full) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err


def test_a_reader_that_has_seen_enough_is_no_news(desk: Desk) -> None:
    """A pipe that is closed at the other end ends the command without a word."""
    desk.fill("a")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, desk.started("dlq", "list", stdout=pipe) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "")


def test_escapes_what_an_encoding_lacks(desk: Desk) -> None:
    """A terminal that knows ASCII only gets the rest escaped."""
    desk.fill("漢字")
    ended = program(*desk.arguments("dlq", "list")[1:], PYTHONIOENCODING="ascii")
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
        await store.client.set(f"{desk.namespace}:stray", "x", px=60_000)
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
            (record,) = [key async for key in store.client.scan_iter(f"{desk.namespace}:*")]
        await store.aclose()
        return str(record.decode().removeprefix(f"{guard.runtime.namespace}:"))

    key = anyio.run(work)
    known = desk("job", "get", key, "--json").json
    assert (known["status"], known["result"], known["crashes"]) == ("success", "42", 0)
    assert (known["attempt"], known["blocks"]) == (None, True)
    assert "has succeeded" in desk("job", "get", key).out
    assert desk("job", "forget", key).code == 5
    assert desk("job", "forget", key, "--dry-run", "--json").json["forgotten"] is False
    assert "would forget that it has succeeded" in desk("job", "forget", key, "--dry-run").out
    forgotten = {"key": key, "dry_run": False, "forgotten": True}
    assert desk("job", "forget", key, "--yes", "--json").json == forgotten
    unknown = desk("job", "get", key, "--json")
    assert (unknown.code, unknown.json) == (3, None)
    assert desk("job", "get", key, "--jsonl").out == ""


@pytest.mark.parametrize("options", [(), ("--yes",), ("--dry-run",)], ids=str)
def test_a_key_that_is_not_known_cannot_be_forgotten(desk: Desk, options: tuple[str, ...]) -> None:
    """That is told without a question."""
    ended = desk("job", "forget", "k", *options)
    assert (ended.code, ended.err.count("\n")) == (3, 1)
    assert "nothing is known of key 'k'" in ended.err
    rehearsed = "--dry-run" in options
    assert desk("job", "forget", "k", *options, "--json").json == {
        "key": "k",
        "dry_run": rehearsed,
        "forgotten": False,
    }


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, 3), (b"n\n", 5, 0), (b"\x04", 130, 0)])
def test_forget_asks(desk: Desk, answer: bytes, code: int, left: int) -> None:
    """On a terminal it says what is known of the key, and asks."""

    async def work(store: RedisStore) -> None:
        await store.claim(Claim(f"{desk.namespace}:k", "one", "t", 60.0, 600.0))

    desk.ask(work)
    ended, shown = desk.at_terminal("job", "forget", "k", until=b"]:", answer=answer)
    assert (ended, desk("job", "get", "k").code) == (code, left), shown
    assert "it is running" in shown


def test_says_which_attempt_of_a_job_it_is(desk: Desk) -> None:
    """A key whose job has failed tells how often, with which error, and that others are kept from running."""
    history = add_failure(NO_HISTORY, AttemptError(1, 0.0, "OSError", "no route"))

    async def work(store: RedisStore) -> None:
        key = f"{desk.namespace}:k"
        granted = await store.claim(Claim(key, "one", "t", 60.0, 600.0))
        failed = Settlement(
            key, "one", "t", granted.fence, State.RETRY, 60.0, 600.0, history=pack(history, 0)
        )
        await store.settle(failed)

    desk.ask(work)
    known = desk("job", "get", "k", "--jsonl").json
    assert (known["status"], known["blocks"]) == ("retry", True)
    assert (known["attempt"], known["failures"], known["last_error"]) == (2, 1, "OSError: no route")


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
    [
        ("http://x:s3cret@y", "n", "q"),
        ("redis://x:s3cret@y?colour=red", "n", "q"),
        ("redis://x:s3cret@y?protocol=9", "n", "q"),
        ("redis://x:s3cret@y?socket_timeout=long", "n", "q"),
        ("redis://y", "n n", "q"),
        ("redis://y", "n", "q{"),
    ],
)
def test_wrong_settings_are_usage_errors(
    url: str, namespace: str, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A URL, a namespace or a queue that cannot be is refused before anything is asked."""
    assert run(["dlq", "count", "--url", url, "--namespace", namespace, "--queue", queue]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "s3cret" not in err
