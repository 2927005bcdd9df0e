"""When a cron job was due last."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from datetime import datetime, timedelta

from arq.cron import CronJob


def last_due(job: CronJob, now: datetime) -> datetime | None:
    """The last of the times of a cron job that have passed, from its next one on; None = none has.

    It is found by halving: a job of every second has a hundred thousand times in a day.
    """
    first = job.next_run
    if first is None or first > now:
        return None

    def after(seconds: int) -> datetime:
        known = replace(job)
        known.calculate_next(first + timedelta(seconds=seconds))
        assert known.next_run is not None
        return known.next_run

    passed = bisect_left(range(int((now - first).total_seconds()) + 1), True, key=lambda n: after(n) > now)
    return first if passed == 0 else after(passed - 1)
