"""Dead letters made by hand, and what a filter means among them, in a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from jobguard import DeadLetter, DeadLetterQueue, Filter
from jobguard.codec import Codec, preview
from jobguard.job import AttemptError
from jobguard.stores.letters import LetterState

EVENT_LOOP = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
"""For properties that share a test's store: each example has a queue of its own."""
HOUR = 3_600_000_000
"""Microseconds."""
START = 1_700_000_000_000_000
"""When the first letter of a test came, in microseconds: long ago."""

_numbers = count()


def fresh_queue(letters: DeadLetterQueue) -> DeadLetterQueue:
    """An empty queue beside another one."""
    return letters.named(f"queue-{next(_numbers)}")


def letter(
    id: str = "a", *, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None, **changes: Any
) -> DeadLetter:
    """A letter of a plain call with these arguments, as a worker would have written it.

    Args:
        id: of the letter.
        args, kwargs: of the call; `changes["parameters"]` names the positional ones.
        changes: whatever else is to be different.
    """
    named = dict(kwargs or {})
    parameters = tuple(changes.setdefault("parameters", ("to", "text", "rest")[: len(args)]))
    redact = changes.setdefault("redact", ())
    values: dict[str, Any] = {
        "id": id,
        "adapter": "local",
        "queue": "local",
        "task": "shop.send",
        "job_id": f"job-{id}",
        "enqueued_ms": 0,
        "key": None,
        "payload": Codec().encode({"args": list(args), "kwargs": named}),
        "payload_format": "json",
        "preview": preview(args, named, parameters, redact),
        "error_type": "TimeoutError",
        "error_message": "no answer",
        "traceback": "Traceback",
        "causes": (),
        "reason": "exhausted",
        "fingerprint": "f1",
        "attempts": (AttemptError(1, 1.0, "TimeoutError", "no answer"),),
        "failures": 1,
        "interruptions": 0,
        "crashes": 0,
        "first_seen": 1.0,
        "failed_at": START / 1_000_000,
        "worker": "here:1",
    }
    return DeadLetter(**(values | changes))


async def keep(letters: DeadLetterQueue, *kept: DeadLetter, start: int = START, step: int = 1) -> None:
    """Put letters into a queue, as if they had come one after the other, `step` microseconds apart."""
    for number, each in enumerate(kept):
        assert await letters.take_in(each, start + number * step)


async def ids_of(letters: DeadLetterQueue, filter: Filter | str | None = None) -> list[str]:
    """The ids of the letters that a filter means, oldest first."""
    return [each.id async for each in letters.each(filter, oldest_first=True)]


# --- random letters, and what is meant by a filter, without any index --------------------------------

TASKS, ERRORS, PRINTS, KEYS = ("shop.send", "shop.pay"), ("TimeoutError", "OSError"), ("f1", "f2"), ("k", "l")
VALUES = (5, "5", 1.5, "1.50", True, None, "Ada", [1, 2], {"phone": "1"})


def _numbered(made: Sequence[Mapping[str, Any]]) -> list[DeadLetter]:
    return [letter(f"id-{number}", **each) for number, each in enumerate(made)]


random_letters = st.lists(
    st.fixed_dictionaries(
        {
            "task": st.sampled_from(TASKS),
            "error_type": st.sampled_from(ERRORS),
            "fingerprint": st.sampled_from(PRINTS),
            "key": st.sampled_from((None, *KEYS)),
            "failures": st.integers(0, 4),
            "state": st.sampled_from(LetterState),
            "args": st.tuples(st.sampled_from(VALUES)),
        }
    ),
    max_size=12,
).map(_numbered)

_bound = st.none() | st.integers(0, 4)
random_filters = st.builds(
    Filter,
    task=st.none() | st.sampled_from((*TASKS, "other")),
    error=st.none() | st.sampled_from(ERRORS),
    fingerprint=st.none() | st.sampled_from(PRINTS),
    state=st.sampled_from((*LetterState, "all")),
    attempts=_bound
    | st.tuples(_bound, _bound).filter(
        lambda pair: pair != (None, None) and (pair[1] is None or pair[1] >= (pair[0] or 0))
    ),
    key=st.none() | st.sampled_from(KEYS),
    arguments=st.dictionaries(st.just("to"), st.sampled_from(VALUES), max_size=1),
)


def meant(filter: Filter, given: Iterable[DeadLetter]) -> list[DeadLetter]:
    """Which letters agree with all that a filter says, apart from times."""
    low, high = filter.attempts if isinstance(filter.attempts, tuple) else (filter.attempts, filter.attempts)
    return [
        each
        for each in given
        if filter.state in ("all", each.state)
        and filter.task in (None, each.task)
        and filter.error in (None, each.error_type)
        and filter.fingerprint in (None, each.fingerprint)
        and filter.key in (None, each.key)
        and (low is None or each.failures >= low)
        and (high is None or each.failures <= high)
        and all(_same(_first_argument(each), wanted) for wanted in filter.arguments.values())
    ]


def _first_argument(given: DeadLetter) -> object:
    value: Any = Codec().decode(given.payload or "")
    return value["args"][0]


def _same(found: object, wanted: object) -> bool:
    """Whether a letter's value is the one that somebody wrote, both of `VALUES`."""
    if (found, wanted) in ((5, "5"), ("5", 5), (1.5, "1.50")):
        return True
    return type(found) is type(wanted) and found == wanted
