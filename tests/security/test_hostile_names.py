"""Namespaces and names of dead letter queues: parts of keys, so refused wherever they come in unfit."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jobguard
from jobguard import DeadLetterQueue, JobGuard, dead_letter
from jobguard.adapters.arq import protect
from jobguard.adapters.arq.replay import read_replay, written
from jobguard.adapters.base import Replay, ReplayJob, replay_of
from jobguard.cli.app import run
from jobguard.errors import ConfigurationError, InvalidType, InvalidValue
from jobguard.policies import check_name, check_namespace
from jobguard.stores import MemoryStore
from jobguard.stores.letters import LetterQueue

UNFIT = {
    "empty": "",
    "a brace": "a{b",
    "a closing brace": "a}b",
    "a space": "a b",
    "NUL": "a\x00b",
    "a newline": "a\nb",
    "an escape": "\x1b]0;x\x07",
    "a bidirectional control": "a\u202eb",
    "a surrogate": "a\ud800",
    "no-break space": "a\u00a0b",
    "zero width": "a\u200bb",
    "201 characters": "a" * 201,
    "a million": "a" * 1_000_000,
}
FIT = ["default", "a:b", "prod/eu-1", "ünïcödé", "a" * 200, "*", "[x]?"]
NO_TEXT: list[Any] = [None, 5, b"default", ["default"]]


def from_replay(namespace: Any, queue: Any) -> object:
    replay = Replay(LetterQueue(namespace, queue), "id", 1)
    return read_replay(written(ReplayJob(replay, "arq:queue", "task", "{}", "json")))


DOORS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "JobGuard(namespace=)": ("namespace", lambda name: JobGuard(MemoryStore(), namespace=name)),
    "protect(namespace=)": ("namespace", lambda name: protect(namespace=name)),
    "DeadLetterQueue(namespace=)": (
        "namespace",
        lambda name: DeadLetterQueue(MemoryStore(), namespace=name),
    ),
    "a replay's namespace": ("namespace", lambda name: from_replay(name, "default")),
    "JobGuard.dead_letters()": ("name", lambda name: JobGuard(MemoryStore()).dead_letters(name)),
    "DeadLetterQueue()": ("name", lambda name: DeadLetterQueue(MemoryStore(), name)),
    "@dead_letter(queue=)": ("queue", lambda name: dead_letter(queue=name)),
    "a replay's queue": ("queue", lambda name: from_replay("jobguard", name)),
}


@pytest.mark.parametrize("name", UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("door", DOORS)
def test_an_unfit_name_is_refused_at_every_door(door: str, name: str) -> None:
    """The error says which argument, with which value, and what would do; it is never a long one."""
    argument, enter = DOORS[door]
    with pytest.raises(InvalidValue) as refused:
        enter(name)
    text = str(refused.value)
    assert text.startswith(f"{argument} must be ")
    assert repr(name)[:200] in text
    assert "1 to 200 printable characters" in text
    assert text.isprintable()
    assert len(text) < 400


@pytest.mark.parametrize("name", NO_TEXT)
@pytest.mark.parametrize("door", [door for door in DOORS if "replay" not in door])
def test_a_name_that_is_no_text_is_refused_at_every_door(door: str, name: Any) -> None:
    """As a type error that names the argument."""
    argument, enter = DOORS[door]
    with pytest.raises(InvalidType, match=f"{argument} must be a string"):
        enter(name)


@pytest.mark.parametrize("name", FIT)
@pytest.mark.parametrize("door", DOORS)
def test_a_fit_name_is_taken_at_every_door(door: str, name: str) -> None:
    """Colons, slashes, letters of any script."""
    DOORS[door][1](name)


@pytest.mark.parametrize("namespace", ["dlq", "a:dlq", "dlq:a", "a:dlq:b"])
@pytest.mark.parametrize("door", [door for door, (argument, _) in DOORS.items() if argument == "namespace"])
def test_a_namespace_that_could_be_another_ones_queue_is_refused(door: str, namespace: str) -> None:
    """With `dlq` in it, two queues of two namespaces would have the same keys."""
    with pytest.raises(InvalidValue, match=r"namespace must not have 'dlq' .* choose another"):
        DOORS[door][1](namespace)


fit = st.text(st.sampled_from("ab:dlq"), min_size=1, max_size=12)


@given(fit, fit, fit, fit)
def test_no_two_queues_share_a_key(namespace: str, name: str, other: str, another: str) -> None:
    """What a key says of its queue, one namespace and one name say only."""
    try:
        queues = {
            (check_namespace(ns), check_name("name", q)) for ns, q in ((namespace, name), (other, another))
        }
    except ConfigurationError:
        return
    assert len({f"{ns}:dlq:{q}" for ns, q in queues}) == len(queues)


# --- the command line ------------------------------------------------------------------------


def commands() -> Iterator[tuple[list[str], str]]:
    """Every command that takes a name, with the option; a command that is missing is one too few."""
    queue_commands: dict[str, list[str]] = {
        "count": [], "list": [], "get": ["id"], "groups": [], "stats": [], "watch": [],
        "requeue": ["--all", "--yes"], "remove": ["id", "--yes"], "clear": ["--yes"],
        "prune": ["--keep", "1", "--yes"], "export": ["-o", "-"], "import": ["-"],
    }  # fmt: skip
    for name, arguments in queue_commands.items():
        for option in ("--queue", "--namespace"):
            yield ["dlq", name, *arguments], option
    for words in (["dlq", "queues"], ["job", "get", "key"], ["job", "forget", "key", "--yes"], ["doctor"]):
        yield words, "--namespace"


def test_every_command_is_among_those_that_are_tried() -> None:
    """The list above is complete."""
    from typer.main import get_command

    from jobguard.cli.app import app

    root: Any = get_command(app)
    found = set()
    for name, command in root.commands.items():
        for each in [None, *getattr(command, "commands", {})]:
            below = command if each is None else command.commands[each]
            options = {flag for parameter in below.params for flag in parameter.opts}
            if "--namespace" in options and not below.hidden:
                found.add((name,) if each is None else (name, each))
    assert found == {tuple(words[: 1 if words[0] == "doctor" else 2]) for words, _ in commands()}


@pytest.mark.parametrize("name", [name for key, name in UNFIT.items() if key not in ("NUL", "a million")])
def test_an_unfit_name_is_refused_by_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is sent: nobody listens there. The message shows it escaped."""
    for words, option in commands():
        code = run([*words, "--url", "unix:///nonexistent", option, name])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), (words, option)
        assert "must be 1 to 200 printable characters" in err.replace("\n", " ")
        assert "\x1b" not in err
        assert "\u202e" not in err


# --- what is made of a job's id --------------------------------------------------------------


@given(st.text() | st.lists(st.text(), min_size=3, max_size=5).map(lambda parts: "replay:" + ":".join(parts)))
def test_any_id_of_a_job_is_that_of_a_replay_or_of_none(id: str) -> None:
    """The ids in a queue are whatever somebody put there."""
    replay = replay_of(id)
    if replay is not None:
        check_namespace(replay.queue.namespace)
        check_name("queue", replay.queue.name)


def test_an_id_with_a_number_without_end_is_none_of_a_replay() -> None:
    """Python refuses to read such a number."""
    assert replay_of("replay:jobguard:default:id:" + "9" * 5_000) is None


# --- and that none is missed -----------------------------------------------------------------


CHECKED_BEFORE = {
    "runtime.py": "the guard's namespace, and a policy's queue",
    "primitives.py": "two constants",
    "cli/dlq.py": "names that the store lists, of which only numbers are read",
}
"""Files that make a `LetterQueue` of names that need no check there."""


def test_no_queue_of_letters_is_made_of_names_that_nobody_checked() -> None:
    """Wherever the package makes a `LetterQueue`, its names are checked there, or were before."""
    root = Path(jobguard.__file__).parent
    unchecked = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "LetterQueue":
                first, second = map(ast.unparse, node.args)
                if not (first.startswith("check_namespace(") and second.startswith("check_name(")):
                    unchecked.add(str(file.relative_to(root)))
    assert {file for file in unchecked if not file.startswith("testing/")} == set(CHECKED_BEFORE)
