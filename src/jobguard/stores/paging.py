"""What a page request may ask for, the same in every store."""

from __future__ import annotations

from jobguard.errors import InvalidType, InvalidValue

LARGEST_PAGE = 500
"""Entries in one page at most: no operation of a store is unbounded."""


def page_size(limit: int, least: int = 1) -> int:
    """The number of entries to read; more than the largest page gives the largest page."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InvalidType(f"limit must be a whole number, not {limit!r}")
    if limit < least:
        raise InvalidValue(f"limit must be {least} or more, not {limit!r}")
    return min(limit, LARGEST_PAGE)


def page_start(cursor: str | None) -> int | None:
    """The position that a cursor stands for: pages go on with the entries before it.

    Raises:
        InvalidValue: no page ever came with this cursor.
    """
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 16):
        raise InvalidValue(f"cursor must be one that a page came with, or None, not {cursor!r}")
    return int(cursor)
