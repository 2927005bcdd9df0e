"""What a task raises to steer its job: its settings are checked where it is raised."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import pytest

from jobguard import RetryLater, Snooze
from jobguard.errors import ConfigurationError, InvalidType

later: Any = RetryLater
snooze: Any = Snooze
both = pytest.mark.parametrize("signal", [later, snooze], ids=["RetryLater", "Snooze"])


@both
@pytest.mark.parametrize("after", [90, 90.0, timedelta(seconds=90)], ids=repr)
def test_a_delay_is_seconds_or_a_timedelta(signal: Any, after: object) -> None:
    """Kept as seconds, also over a pickle."""
    made = signal("busy", after=after)
    again = pickle.loads(pickle.dumps(made))
    assert (made.after, made.reason) == (again.after, again.reason) == (90.0, "busy")


@both
@pytest.mark.parametrize("after", [-1, float("inf"), float("nan"), 10**400, "30", True], ids=repr)
def test_a_delay_that_cannot_be_is_refused(signal: Any, after: object) -> None:
    """The message names it."""
    with pytest.raises(ConfigurationError, match="after must be") as raised:
        signal(after=after)
    assert repr(after) in str(raised.value)


def test_retry_later_without_a_delay_leaves_it_to_the_backoff() -> None:
    """Also over a pickle, and where None is said."""
    for made in (RetryLater("busy"), RetryLater("busy", after=None)):
        again = pickle.loads(pickle.dumps(made))
        assert (made.after, again.after, again.reason) == (None, None, "busy")


def test_a_snooze_of_none_is_refused() -> None:
    """A header that is missing would have the job run again at once, for ever; `RetryLater` has a backoff."""
    with pytest.raises(InvalidType, match="after must be seconds or a timedelta, not None; RetryLater"):
        snooze(after=None)
    assert Snooze(after=0).after == 0.0


@both
@pytest.mark.parametrize("delay", [30, 0.5, timedelta(minutes=1)], ids=repr)
def test_a_delay_in_the_place_of_the_reason_is_refused(signal: Any, delay: object) -> None:
    """It would be shown to people, and not be waited for."""
    with pytest.raises(InvalidType) as raised:
        signal(delay, after=60)
    assert str(raised.value) == f"reason must be text, not {delay!r}; write after={delay!r}"
