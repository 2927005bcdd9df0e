"""The demo's shell: commands are run for real, and one that fails does not pass for a success."""

from __future__ import annotations

from io import StringIO

import pytest

from examples.demo.keeper import Keeper
from examples.demo.screen import Screen
from examples.demo.shell import Shell

pytestmark = pytest.mark.anyio


async def test_a_command_is_shown_with_its_output_and_a_failure_is_complained_of() -> None:
    """Both streams of output, in the order of the commands."""
    shown = StringIO()
    with Keeper() as keeper:
        shell = Shell(keeper, Screen(shown), {"JOBGUARD_NAMESPACE": "demo"})
        await shell.jobguard("--version")
        await shell.jobguard("dlq", "count", "one two", "--nonsense")
    first, second = shown.getvalue().split("$ jobguard ")[1:]
    assert first.startswith("--version\njobguard ")
    assert second.startswith("dlq count 'one two' --nonsense\n")
    assert "--nonsense" in second.partition("\n")[2]
    assert shell.complaints == ["jobguard dlq count 'one two' --nonsense: ended with exit code 2"]
