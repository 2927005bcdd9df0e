"""What HTTP answers mean for a job: try again, and when, or do not."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.remote import Refused, RemoteError, TryAgain, delay_asked_for, failure, retry_after


def asking(header: str) -> httpx.Response:
    return httpx.Response(429, headers={"Retry-After": header})


def test_a_delay_in_seconds_is_taken_as_it_is() -> None:
    """`Retry-After: 120` means two minutes."""
    assert retry_after(asking("120")) == 120


def test_a_delay_as_a_date_is_counted_from_now() -> None:
    """`Retry-After: <HTTP date>` means until then."""
    due = datetime.now(UTC) + timedelta(minutes=2)
    delay = retry_after(asking(format_datetime(due, usegmt=True)))
    assert delay is not None
    assert 60 < delay <= 120


def test_a_date_that_has_passed_means_at_once() -> None:
    """A date before now is no negative delay."""
    assert retry_after(asking("Wed, 21 Oct 2015 07:28:00 GMT")) == 0


@pytest.mark.parametrize("header", ["", "soon", "-5", "1.5", "Wed, 99 Oct 2015 07:28:00 GMT"])
def test_a_header_that_says_nothing_usable_is_no_delay(header: str) -> None:
    """What is neither of the two forms is as good as no header."""
    assert retry_after(asking(header)) is None


def test_no_header_is_no_delay() -> None:
    """Most answers do not say."""
    assert retry_after(httpx.Response(503)) is None


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_no_header_breaks_the_reading(header: str) -> None:
    """Whatever a service sends, the answer is a delay of 0 or more, or none."""
    delay = retry_after(asking(header))
    assert delay is None or 0 <= delay < float("inf")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_passes_asks_for_another_try(status: int) -> None:
    """Time-outs, overload and failures of the server are worth another try."""
    assert isinstance(failure(httpx.Response(status)), TryAgain)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_any_other_status_is_a_refusal(status: int) -> None:
    """What the server does not want today, it will not want tomorrow."""
    assert isinstance(failure(httpx.Response(status)), Refused)


def test_the_delay_goes_with_the_error() -> None:
    """`@retrying(retry_after=delay_asked_for)` finds it there."""
    assert delay_asked_for(failure(asking("7"))) == 7
    assert delay_asked_for(ValueError("of something else")) is None


def test_an_error_passes_through_pickle() -> None:
    """ARQ pickles what a job ended with."""
    error = pickle.loads(pickle.dumps(TryAgain("busy", 3.0)))
    assert isinstance(error, RemoteError)
    assert (str(error), error.retry_after) == ("busy", 3.0)
