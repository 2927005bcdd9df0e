"""What a job does when it meets another record of its work: the table of `@deduplicated`, pure."""

from __future__ import annotations

from enum import Enum, auto

from jobguard.policies import Deduplication
from jobguard.stores.base import ClaimReply, Verdict


class Course(Enum):
    """How the delivery goes on."""

    RUN = auto()
    """The key is ours: run the body."""
    WAIT = auto()
    """Come back when the other has ended or its lease is over, and look again."""
    SKIP = auto()
    """Return a `Duplicate`."""
    RAISE = auto()
    """Raise `DuplicateJob`."""
    REPLAY = auto()
    """Return the stored result."""
    CLOSE = auto()
    """This very job has failed before, and its queue was not told."""


def course_of(reply: ClaimReply, policy: Deduplication, identity: str) -> Course:
    """What to do about a claim's answer.

    Args:
        reply: the answer.
        policy: what the task says of duplicates.
        identity: the job that claimed.
    """
    match reply.verdict:
        case Verdict.SUCCEEDED:
            return Course.REPLAY if reply.owner == identity else _DONE[policy.done]
        case Verdict.RUNNING:
            return _RUNNING[policy.running]
        case verdict:
            return _ALWAYS[verdict]


_ALWAYS = {Verdict.GRANTED: Course.RUN, Verdict.ENDED: Course.CLOSE, Verdict.BUSY: Course.WAIT}
_RUNNING = {"skip": Course.SKIP, "wait": Course.WAIT, "raise": Course.RAISE, "defer": Course.WAIT}
# With "run", the store grants the claim; that answer comes from one that was sent before.
_DONE = {"replay": Course.REPLAY, "skip": Course.SKIP, "raise": Course.RAISE, "run": Course.WAIT}


def took_over(reply: ClaimReply, identity: str) -> bool:
    """Whether a granted claim was another's until now, or this job's own in a run that crashed."""
    if reply.state is None or reply.state.ended:
        return False
    return reply.owner != identity or reply.crashes > 0
