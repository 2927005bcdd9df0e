"""Records and letters at their limits: text that cannot be read, arguments that are too large."""

from __future__ import annotations

import pytest

from jobguard import GiveUp, JobGuard, dead_letter
from jobguard.history import add_failure, pack, unpack
from jobguard.job import AttemptError, History
from jobguard.letters import PAYLOAD_LIMIT
from jobguard.stores import MemoryStore

pytestmark = pytest.mark.anyio


def test_a_history_comes_back_as_it_was_packed() -> None:
    """Counts, errors and the time since the first run survive the way through a store."""
    error = AttemptError(1, 12.5, "OSError", "away")
    history = add_failure(History(interruptions=2, snoozes=1, crashes=3), error)
    back, offset = unpack(pack(history, 4.0), elapsed=10.0)
    assert offset == 4.0
    assert back == History(failures=1, interruptions=2, snoozes=1, crashes=3, elapsed=14.0, errors=(error,))


@pytest.mark.parametrize(
    "text", ["no JSON", "[1, 2]", "null", '["a", 0, 0, 0, 0, []]', "[0, 0, 0, 0, 0, [[1]]]"]
)
def test_a_history_that_cannot_be_read_is_an_empty_one(text: str) -> None:
    """What somebody else wrote into a record does not keep its job from running."""
    assert unpack(text, elapsed=3.0) == (History(elapsed=3.0), 0.0)


async def test_arguments_that_are_too_large_are_not_kept_and_the_letter_says_so() -> None:
    """A letter without its payload tells that size was the reason; the preview is there."""

    @dead_letter
    async def swallow(content: str) -> None:
        raise GiveUp("no")

    async with JobGuard(MemoryStore()) as guard:
        for content in ("x" * (PAYLOAD_LIMIT + 1), "\u00e4" * (PAYLOAD_LIMIT // 2), "x"):
            with pytest.raises(Exception, match="gave up: no"):
                await swallow(content)
        small, *large = (await guard.dead_letters().list()).entries
    assert small.payload_format == "json"
    assert [(letter.payload, letter.payload_format) for letter in large] == [(None, "too_large")] * 2
    assert all(letter.preview.startswith('{"content": ') for letter in large)
