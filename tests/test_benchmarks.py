"""The benchmarks do what they measure: they are run rarely, and follow the stores' own commands."""

from __future__ import annotations

import pytest

from benchmarks.letters import letter_questions
from benchmarks.report import Line

pytestmark = pytest.mark.anyio


async def test_a_small_dead_letter_queue_is_measured_like_a_large_one() -> None:
    """Written, weighed, asked, requeued and cleared; nothing is said of the time that it takes."""
    lines: list[Line] = await letter_questions(entries=2_000)
    assert len({line.what for line in lines}) == len(lines) > 10
