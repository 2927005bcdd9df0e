"""`Duplicate`: what a call returns in place of a result when the work was another job's."""

from __future__ import annotations

import json
import pickle

import pytest

from jobguard import Duplicate, JobStatus

DUPLICATE = Duplicate("key", JobStatus.SUCCESS, "local:1:0")


def test_a_duplicate_is_falsy() -> None:
    """`if result:` does not take a skip for a result."""
    assert not DUPLICATE


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_duplicate_passes_through_pickle(protocol: int) -> None:
    """It comes back as what it was, through any protocol."""
    copy = pickle.loads(pickle.dumps(DUPLICATE, protocol))
    assert isinstance(copy, Duplicate)
    assert copy == DUPLICATE


def test_a_duplicate_passes_through_json() -> None:
    """Serialisers that know only JSON write its three values."""
    assert json.loads(json.dumps(DUPLICATE)) == ["key", "success", "local:1:0"]
