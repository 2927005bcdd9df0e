"""Every example runs as a script and says what it is meant to say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain_asyncio", ["receipt for 20 on order-1", "[redacted]", "no recommendations today"]),
        ("add_a_task", ["passed: two jobs for one invoice send one mail"]),
        ("fastapi_webhook", ["setting up: 200", "a forged one: 403"]),
    ],
)
def test_an_example_runs_as_a_script(name: str, said: list[str], tmp_path: Path) -> None:
    """From any directory, without settings."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "REDIS_URL"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in said:
        assert text in done.stdout


def test_the_demo_says_how_to_use_it() -> None:
    """`--help`, and a refusal of what cannot be."""
    command = [sys.executable, str(ROOT / "examples" / "arq_worker.py")]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=120, check=True)
    assert "--json" in shown.stdout
    refused = subprocess.run(
        [*command, "--jobs", "3"], capture_output=True, text=True, timeout=120, check=False
    )
    assert refused.returncode == 2
    assert "20 or more" in refused.stderr
