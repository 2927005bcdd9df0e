"""What callers may ask for of dead letters, the same in every store."""

from __future__ import annotations

from jobguard.errors import InvalidType, InvalidValue
from jobguard.stores.letters import LARGEST_PAGE, LARGEST_REMOVAL, LetterQuery, LetterState

LATEST = 2**52
"""Microseconds of the latest arrival that a letter may bring along (the year 2112); the store counts on."""


def page_size(limit: int) -> int:
    """The number of entries to read; more than the largest page gives the largest page."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InvalidType(f"limit must be a whole number, not {limit!r}")
    if limit < 1:
        raise InvalidValue(f"limit must be 1 or more, not {limit!r}")
    return min(limit, LARGEST_PAGE)


def page_start(cursor: str | None) -> int | None:
    """The arrival that a cursor stands for: pages go on with the entries behind it.

    Raises:
        InvalidValue: no page ever came with this cursor.
    """
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 16):
        raise InvalidValue(f"cursor must be one that a page came with, or None, not {cursor!r}")
    return int(cursor)


def checked_arrival(arrival: int) -> int:
    """The arrival that a letter brings along."""
    if isinstance(arrival, bool) or not isinstance(arrival, int):
        raise InvalidType(f"arrival must be a whole number of microseconds, not {arrival!r}")
    if not 0 <= arrival <= LATEST:
        raise InvalidValue(f"arrival must be from 0 to {LATEST} microseconds, not {arrival!r}")
    return arrival


def check_countable(query: LetterQuery) -> None:
    """Refuse a query that no one index answers."""
    if len(query.dimensions) > 1:
        named = ", ".join(query.dimensions)
        raise InvalidValue(f"letters can be counted by one dimension at most, not by {named} at once")


def check_removal(number: int) -> None:
    """Refuse to remove more entries at once than other callers can be made to wait for."""
    if number > LARGEST_REMOVAL:
        raise InvalidValue(f"{LARGEST_REMOVAL} entries can be removed at once, not {number}")


def states_of(query: LetterQuery) -> tuple[LetterState, ...]:
    """The states that a query means."""
    return tuple(LetterState) if query.state is None else (query.state,)
