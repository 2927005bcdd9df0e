"""What type checkers make of the public functions: tests/typing is checked, never run.

Wrong uses there carry both checkers' ignore comments, which are errors where nothing is wrong.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def check(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a type checker over tests/typing, with the settings of pyproject.toml."""
    return subprocess.run(
        [sys.executable, "-m", *command, str(Path("tests", "typing"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("mypy", "--strict", "--follow-imports=silent"), id="mypy"),
        pytest.param(("pyright", "--warnings", "--pythonpath", sys.executable), id="pyright"),
    ],
)
def test_type_checkers_see_the_types_that_the_documentation_promises(command: tuple[str, ...]) -> None:
    """Strict mypy and strict pyright agree with every `assert_type`, and object to every wrong use."""
    done = check(*command)
    assert done.returncode == 0, f"{command[0]} objects:\n{done.stdout}{done.stderr}"
