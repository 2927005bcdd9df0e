"""Dead letters as lines of JSON: from one store into another, or into a file before they are evicted."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from jobguard.dlq import DeadLetterQueue, Progress
from jobguard.errors import StoreError
from jobguard.filters import MICROSECONDS, Filter
from jobguard.letters import PAYLOAD_LIMIT, from_text, to_text
from jobguard.stores.letters import DeadLetter, LetterState

LONGEST_LINE = 8 * 1024 * 1024
"""Characters of a line that an import reads at most: no letter comes near that."""
LONGEST_ID = 200
LONGEST_NAME = 2_000
"""Characters of what letters are indexed by."""
LONGEST_PAYLOAD = 2 * PAYLOAD_LIMIT
"""Characters of a payload: more than any that was kept comes to, as JSON or in base64."""
REFUSALS_KEPT = 1_000
"""Lines that an import tells of one by one; further ones are only counted."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import came to.

    Attributes:
        imported: letters that are new to the queue.
        known: letters that were there already, and stay as they were.
        refused: numbers of lines that are no letters, with what is wrong; the first 1,000 of them.
        refusals: how many those were in all.
    """

    imported: int
    known: int
    refused: tuple[tuple[int, str], ...]
    refusals: int


async def export(
    letters: DeadLetterQueue, filter: Filter | str | None = None, *, progress: Progress | None = None
) -> AsyncGenerator[str]:
    """The letters that a filter means as lines of JSON, oldest first; by default all, of whatever state.

    Each has one line, also if its job ends badly again meanwhile, which makes it the newest once more.
    The lines hold the payloads, which redaction leaves as they are: keep them like the store itself.
    """
    asked = Filter(state="all") if filter is None else filter
    written: set[str] = set()
    async with aclosing(letters.each(asked, oldest_first=True, progress=progress)) as found:
        async for letter in found:
            if letter.reason != "unreadable" and letter.id not in written:
                written.add(letter.id)
                yield to_text(letter) + "\n"


async def import_(
    letters: DeadLetterQueue, lines: Iterable[str], *, progress: Progress | None = None
) -> ImportReport:
    """Put exported letters into a queue. May be repeated: letters that are there stay as they are.

    They keep their times and their order. What was requeued where it comes from is dead here, since its job
    is not on its way from here. Opaque payloads count as not to be trusted, as the file may be anybody's: to
    run them again wants `trust_imported=True`.

    Args:
        letters: the queue.
        lines: of JSON, one letter each; empty ones are passed over.
        progress: told how many lines have been dealt with.

    Raises:
        StoreError: the store does not answer; what was imported stays, and the import can be repeated.
    """
    now = await letters.now()
    imported = known = refusals = number = 0
    refused: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            letter = _read(line)
        except StoreError as error:
            refusals += 1
            if len(refused) < REFUSALS_KEPT:
                refused.append((number, str(error)))
        else:
            # A clock that was wrong must not date what comes after it.
            if await letters.take_in(letter, min(int(letter.failed_at * MICROSECONDS), now)):
                imported += 1
            else:
                known += 1
        if progress is not None and number % 100 == 0:
            progress(number)
    if progress is not None:
        progress(number)
    return ImportReport(imported, known, tuple(refused), refusals)


def _read(line: str) -> DeadLetter:
    if len(line) > LONGEST_LINE:
        raise StoreError(f"a line of {len(line)} characters is longer than any letter")
    letter = from_text(line)
    if not letter.id.isprintable() or not 0 < len(letter.id) <= LONGEST_ID:
        raise StoreError(f"a dead letter's id must be 1 to {LONGEST_ID} printable characters")
    if not 0 <= letter.failed_at < 2**33:
        raise StoreError(f"failed_at must be Unix seconds, not {letter.failed_at!r}")
    for name in ("requeues", "failures", "interruptions", "crashes", "enqueued_ms"):
        if not 0 <= getattr(letter, name) < 2**48:
            raise StoreError(f"{name} must be a number from 0 on, not {getattr(letter, name)!r}")
    for name in ("queue", "adapter"):
        value: str = getattr(letter, name)
        if not value.isprintable() or len(value) > LONGEST_ID:
            raise StoreError(f"{name} must be at most {LONGEST_ID} printable characters, not {value!r:.60}")
    for name in ("task", "error_type", "fingerprint", "key"):
        if len(getattr(letter, name) or "") > LONGEST_NAME:
            raise StoreError(f"{name} must be at most {LONGEST_NAME} characters")
    for name in ("payload", "original"):
        if len(getattr(letter, name) or "") > LONGEST_PAYLOAD:
            raise StoreError(f"{name} must be at most {LONGEST_PAYLOAD} characters")
    state = LetterState.DEAD if letter.state is LetterState.REQUEUED else letter.state
    return replace(letter, state=state, imported=True)


def spill_to(path: str | os.PathLike[str]) -> Callable[[Sequence[DeadLetter]], None]:
    """For `on_evict`: append the letters to a file of JSON lines, which `import_` reads, and see it on disk.

    A line that a full disk has torn stays by itself; what it was to hold is written again before it goes.

    Args:
        path: of the file; made when first needed, readable by its owner only.
    """
    file = Path(path)

    def spill(evicted: Sequence[DeadLetter]) -> None:
        text = "".join(to_text(letter) + "\n" for letter in evicted).encode()
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                text = b"\n" + text
            while text:
                text = text[os.write(descriptor, text) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    return spill
