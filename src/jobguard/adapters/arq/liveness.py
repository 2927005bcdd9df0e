"""A file whose age tells whoever watches the process that its event loop runs."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from jobguard.errors import InvalidValue

logger: logging.Logger = logging.getLogger("jobguard.arq")

RENEWED = 2.0
"""Seconds between two signs of life."""


class AliveFile:
    """Holds the process id, and is as old as the last sign of life.

    Args:
        path: in a directory that this process may write to.

    Raises:
        InvalidValue: it cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._failed = False
        try:
            self._write()
        except OSError as error:
            raise InvalidValue(f"the file {path!r} cannot be written: {error}") from error

    def renew(self) -> None:
        """Give a sign of life. An error is logged once: a full disk is no reason to end jobs."""
        try:
            try:
                os.utime(self._path)
            except FileNotFoundError:
                self._write()
        except OSError as error:
            if not self._failed:
                logger.error("the sign of life cannot be given: %s", error)
            self._failed = True
        else:
            self._failed = False

    def remove(self) -> None:
        with suppress(OSError):
            self._path.unlink()

    def _write(self) -> None:
        """Put it there in one step, so that nobody reads half of it."""
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        draft.write_text(f"{os.getpid()}\n")
        draft.replace(self._path)
