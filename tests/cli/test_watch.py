"""`jobguard dlq watch` shows dead letters as they come."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from jobguard.stores.letters import LetterState
from jobguard.testing import EmbeddedValkey
from tests.cli.conftest import Desk, arq_letter


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def message_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.mark.parametrize("form", ["", "--jsonl", "--json"])
def test_shows_what_comes_once_and_in_order(desk: Desk, form: str) -> None:
    """What was there before is only counted; what comes then is a line each, until Ctrl-C."""
    desk.fill("before")
    options = [form] if form else []
    with desk.started("dlq", "watch", "--interval", "0.1", *options) as process:
        assert message_of(process) == "queue 'default' holds 1 letter; waiting for more\n"
        ids = [*desk.fill("one"), *desk.fill("two")]
        lines = [line_of(process), line_of(process)]
        desk.fill("three")
        lines.append(line_of(process))
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    assert (process.returncode, rest, err) == (130, "", "jobguard: interrupted\n")
    assert [id in line for id, line in zip(ids, lines, strict=False)] == [True, True]
    if form:
        assert [json.loads(line)["error_message"] for line in lines] == ["one", "two", "three"]


def test_shows_what_a_filter_means(desk: Desk) -> None:
    """Terms that indexes answer and terms that letters answer leave the others out."""
    terms = ("error=ValueError", "arg.message=two")
    with desk.started("dlq", "watch", *terms, "--interval", "0.1", "--jsonl") as process:
        assert "holds 0 letters" in message_of(process) + message_of(process)
        desk.fill("one", "two", "three", "two")
        found = [json.loads(line_of(process))["error_message"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert (found, rest) == (["two", "two"], "")


def test_waits_for_a_server_that_goes_away(valkey: EmbeddedValkey) -> None:
    """An outage is told of once, and so is its end; what came since is shown."""
    with EmbeddedValkey() as server:
        desk = Desk(server.url, lambda: None)
        with desk.started("dlq", "watch", "--interval", "0.1") as process:
            message_of(process)
            message_of(process)
            server.kill()
            assert "still waiting" in message_of(process)
            server.start()
            assert message_of(process) == "the server answers again\n"
            (id,) = desk.fill("after")
            assert id in line_of(process)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def test_tells_totals_on_a_terminal(desk: Desk) -> None:
    """When letters change their state, somebody who looks on sees the numbers."""
    desk.keep(arq_letter(1))

    def meanwhile() -> None:
        desk.keep(arq_letter(2, state=LetterState.RESOLVED))

    ended, shown = desk.at_terminal(
        "dlq", "watch", "--interval", "0.1", until=b"waiting for more", answer=b"", meanwhile=meanwhile,
        then=b"1 dead, 0 requeued, 1 resolved",
    )  # fmt: skip
    assert ended == 130, shown
