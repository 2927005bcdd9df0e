"""What the supervised worker knows of a delivery while it runs it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from jobguard.adapters.arq.incoming import Incoming, incoming


@dataclass(slots=True, eq=False)
class Run:
    """A delivery that is run.

    Attributes:
        job_id: of its job.
        score: where in its queue the job was picked up.
        outages: how many of Redis the worker had met until then.
        marked_until: the event loop's time up to which the job's mark holds if nobody renews it.
        ending: ARQ has begun to write down that the job is done.
    """

    job_id: str
    score: int
    outages: int
    marked_until: float
    ending: bool = False

    @property
    def until(self) -> float:
        """The event loop's time up to which the job's mark certainly holds."""
        job = incoming.get()
        return self.marked_until if job is None or job.mark is None else job.mark.until

    def was_for_nothing(self, job: Incoming | None) -> bool:
        """Whether it has left no trace but in ARQ's count of deliveries; asked when Redis has cut it off.

        In doubt it has: the count of a delivery whose payload never arrived may not have been sent, and one
        that only puts the job off has been recorded, or uncounted, before.
        """
        return job is not None and (self.ending or not job.started)

    def begun(self, job: Incoming | None) -> bool:
        """Whether the job's function was called, or the job ended without that."""
        return self.ending or (job is not None and job.started)


marked_until: ContextVar[float] = ContextVar("jobguard_arq_marked_until")
"""`Run.marked_until` of the job that is being picked up. ARQ starts its task right after that, which so
inherits it."""
running: ContextVar[Run] = ContextVar("jobguard_arq_run")
"""The run that this task is for."""
