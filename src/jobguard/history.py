"""A job's history as the store carries it from one run to the next."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

from jobguard.codec import clip
from jobguard.job import NO_HISTORY, AttemptError, History

logger: logging.Logger = logging.getLogger("jobguard")

KEPT_ERRORS = 20
"""Failed attempts that a history describes; older ones are only counted."""


def pack(history: History, offset: float) -> str:
    """A history as text. `offset`: seconds between the first run's start and the record's."""
    return json.dumps(
        [
            history.failures,
            history.interruptions,
            history.snoozes,
            history.crashes,
            round(offset, 3),
            [[error.attempt, round(error.at, 3), error.type, error.message] for error in history.errors],
        ],
        separators=(",", ":"),
    )


def unpack(text: str, elapsed: float) -> tuple[History, float]:
    """The history in a text, and its offset. `elapsed`: seconds since the record began.

    A text that is none (somebody else wrote it) is an empty history: the job can still be run.
    """
    if text == "":
        return NO_HISTORY if elapsed == 0 else History(elapsed=elapsed), 0.0
    try:
        failures, interruptions, snoozes, crashes, offset, errors = json.loads(text)
        history = History(
            failures=_count(failures),
            interruptions=_count(interruptions),
            snoozes=_count(snoozes),
            crashes=_count(crashes),
            elapsed=elapsed + float(offset),
            errors=tuple(_attempt(*error) for error in errors[-KEPT_ERRORS:]),
        )
        if not math.isfinite(history.elapsed):
            raise ValueError("it has no time")
    except (ValueError, TypeError, OverflowError, KeyError, RecursionError) as error:
        logger.warning("a job's history in the store cannot be read: %s", clip(repr(error), 300))
        return History(elapsed=elapsed), 0.0
    return history, float(offset)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError("not a count")
    return value


def _attempt(number: object, at: object, kind: object, message: object) -> AttemptError:
    if type(number) is not int or type(kind) is not str or type(message) is not str:
        raise TypeError("not an attempt")
    if not isinstance(at, (int, float)) or not abs(at) < 2**63:
        raise ValueError("an attempt has no time")
    return AttemptError(number, float(at), kind, message)


def add_failure(history: History, error: AttemptError) -> History:
    """A history with one more failed run."""
    return replace(history, failures=history.failures + 1, errors=(*history.errors, error)[-KEPT_ERRORS:])
