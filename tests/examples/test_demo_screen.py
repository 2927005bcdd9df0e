"""What the demo prints of other people's text cannot steer the terminal."""

from __future__ import annotations

from io import StringIO

import pytest

from examples.demo.accounts import JobRecord, Seen, draw_up
from examples.demo.orders import INCOMING, SEND
from examples.demo.screen import Screen, plain, show


def test_control_characters_and_markup_are_shown_and_not_obeyed() -> None:
    """Neither escapes nor rich's own markup."""
    text = plain("[red]alarm[/red] \x1b[2J\x9b2J \u202egnp.exe\r\n")
    assert text.plain == "[red]alarm[/red] \\u001b[2J\\u009b2J \\u202egnp.exe\\r\\n"
    assert not text.spans


def test_a_dead_letters_text_is_printed_as_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    """It may be whatever a service has sent."""
    job = JobRecord("send.1", SEND, "note.1", ended=True, letter="whatsapp: [bold]\x1b]0;owned\x07")
    show(draw_up([job], Seen([], [], []), [], [], {}, 1.0))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "whatsapp: [bold]\\u001b]0;owned\\u0007" in printed


def test_a_command_is_shown_as_typed_with_all_that_it_printed() -> None:
    """Long lines are not broken, and escapes in them not obeyed."""
    shown = StringIO()
    screen = Screen(shown)
    screen.command("jobguard dlq groups")
    screen.output(f"count  error  \n    1  {'x' * 300}\n[bold]\x1b[2J\n")
    assert shown.getvalue() == f"$ jobguard dlq groups\ncount  error\n    1  {'x' * 300}\n[bold]\\u001b[2J\n"


def test_accounts_that_do_not_balance_are_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    """In the last line."""
    show(draw_up([JobRecord("send.1", SEND, "note.1")], Seen([], [], []), [], [], {}, 1.0))
    assert "DO NOT BALANCE" in capsys.readouterr().out.splitlines()[-1]


def test_the_number_of_accepted_jobs_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """It is larger than what was asked for, since tasks enqueue jobs too."""
    jobs = [
        JobRecord("incoming.1", INCOMING, "1", ended=True, success=True),
        JobRecord("incoming.1.again", INCOMING, "1", ended=True, success=True, duplicate=True),
        JobRecord("reply-1", SEND, "reply-1", ended=True, success=True),
    ]
    show(draw_up(jobs, Seen([], [], []), [], [], {}, 1.0, replies={"reply-1", "reply-2"}))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("accepted"))
    assert line.split(maxsplit=2)[1] == "2"
    assert "2 ordered, 1 replies by tasks, less the duplicates" in line
