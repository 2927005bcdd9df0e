"""What a remote service's answer means for the job that asked: try again, and when, or do not."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx


class RemoteError(Exception):
    """A remote service did not do what it was asked.

    Attributes:
        retry_after: seconds to wait before the next try, if the service said so.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message


class TryAgain(RemoteError):
    """It may work later: overload, an outage, a broken connection."""


class Refused(RemoteError):
    """It will not work, however often it is tried."""


def passes(status: int) -> bool:
    """Whether an HTTP error is one that passes by itself."""
    return status in (408, 429) or status >= 500


def failure(response: httpx.Response) -> RemoteError:
    """The error for an HTTP status. Names no URL: it may hold a secret, and errors are logged."""
    kind = TryAgain if passes(response.status_code) else Refused
    return kind(f"HTTP {response.status_code} {response.reason_phrase}", retry_after(response))


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its two forms; None = nothing usable."""
    header = response.headers.get("Retry-After", "").strip()
    if header.isascii() and header.isdigit():
        return float(header[:9])  # three decades; longer numbers stop being a float some time
    try:
        due = parsedate_to_datetime(header)
    except ValueError:
        return None
    if due.tzinfo is None:
        due = due.replace(tzinfo=UTC)
    return max((due - datetime.now(UTC)).total_seconds(), 0.0)


def delay_asked_for(error: Exception) -> float | None:
    """For `@retrying(retry_after=...)`: the delay that the service asked for."""
    return error.retry_after if isinstance(error, RemoteError) else None
