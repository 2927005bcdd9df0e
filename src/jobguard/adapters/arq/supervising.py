"""The life of a supervised worker: signs of life, signals, the drain, and what it ends with."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from enum import IntEnum
from typing import Any

from jobguard.adapters.arq.liveness import RENEWED, AliveFile
from jobguard.adapters.arq.outages import end, is_refusal
from jobguard.adapters.arq.surviving import SurvivingWorker
from jobguard.errors import ConfigurationError

logger: logging.Logger = logging.getLogger("jobguard.arq")

PICKED_UP = 2.0
"""Seconds for jobs that are about to start when the drain begins."""
WINDING_UP = 30.0
"""Seconds for all that is left once jobs have had their time; what is bounded by itself takes less."""


class Exit(IntEnum):
    """Exit codes; those above 64 are of `sysexits.h`."""

    OK = 0
    """Drained, or the burst is done. Interrupted jobs are run again elsewhere."""
    FAILED = 1
    """A hook, a job's `BaseException` or an error of unknown cause ended the worker."""
    STUCK = 75
    """Jobs or hooks would not end; jobs are run again when their leases are over."""
    REFUSED = 77
    """Redis refused the login, or a command that a worker needs."""
    SETTINGS = 78
    """The worker's settings cannot be used."""


class LastCall:
    """Ends the process if it does not end by itself: a thread may not let it, or a task that swallows its
    cancellation. It does not need the event loop for that."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def give(self, seconds: float, code: Exit) -> None:
        """Let the process end within `seconds`, with `code` if it has to be ended; the last call counts."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, os._exit, (int(code),))
        self._timer.daemon = True
        self._timer.start()


class Supervisor:
    """Runs one worker from its start to its end.

    Args:
        worker: not started yet.
        grace: seconds that running jobs get to end after the first signal.
        alive: the file for signs of life, or None.
        last_call: given before the worker is wound up.
    """

    def __init__(
        self, worker: SurvivingWorker, grace: float, alive: AliveFile | None, last_call: LastCall
    ) -> None:
        self._worker = worker
        self._grace = grace
        self._alive = alive
        self._last_call = last_call
        loop = asyncio.get_running_loop()
        self._asked: asyncio.Future[None] = loop.create_future()
        self._hurried: asyncio.Future[None] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: signal.Signals) -> None:
        if not self._asked.done():
            self._asked.set_result(None)
            logger.warning(
                "%s: no more jobs are taken; what runs has %g s to end (jobs: %d)",
                number.name,
                self._grace,
                len(self._worker.running),
            )
        elif not self._hurried.done():
            self._hurried.set_result(None)
            logger.warning("%s again: what runs is interrupted now", number.name)

    async def run(self) -> Exit:
        """Serve until a burst is done, a signal comes or something fails; then end in order."""
        loop, worker = asyncio.get_running_loop(), self._worker
        pulse = loop.create_task(self._pulse())
        serving = loop.create_task(worker.serve())
        try:
            await _first(serving, self._asked)
            if not serving.done() or serving.exception() is None:
                await self._drain(serving)
            ended = await self._wind_up(serving)
        finally:
            await end(pulse)
            if self._alive is not None:
                self._alive.remove()
        return ended

    async def _drain(self, serving: asyncio.Task[None]) -> None:
        """Let what runs end: as long as it takes after a burst, within the grace period after a signal."""
        worker = self._worker
        while serving.done() and worker.running and not self._asked.done():
            await _first(self._asked, *worker.running)
        if not self._asked.done():
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + self._grace
        await worker.rest(PICKED_UP)
        while (running := worker.running) and not self._hurried.done() and (left := until - loop.time()) > 0:
            if not serving.done():
                running.add(serving)
            elif serving.exception() is not None:
                return
            await _first(self._hurried, *running, within=left)

    async def _wind_up(self, serving: asyncio.Task[None]) -> Exit:
        worker = self._worker
        self._last_call.give(WINDING_UP, Exit.STUCK)
        await end(serving)
        await worker.halt()
        error = worker.failure if serving.cancelled() else serving.exception() or worker.failure
        code = Exit.OK if error is None else self._told(error)
        await worker.interrupt()
        if not await worker.shut_down() and code is Exit.OK:
            code = Exit.FAILED
        if stuck := len(worker.running):
            logger.error("jobs that do not end, and are run again when their leases are over: %d", stuck)
            return Exit.STUCK if code is Exit.OK else code
        logger.info("ended with code %d: %r", code, worker)
        return code

    def _told(self, error: BaseException) -> Exit:
        """Say why the worker ends, and with what."""
        said = self._worker.shown(error)
        if is_refusal(error):
            logger.error("Redis refuses this worker: %s", said)
            return Exit.REFUSED
        if isinstance(error, ConfigurationError):
            logger.error("the worker's settings cannot be used: %s", error)
            return Exit.SETTINGS
        logger.critical("the worker has failed: %s", said, exc_info=self._worker.traced(error))
        return Exit.FAILED

    async def _pulse(self) -> None:
        """Give signs of life, also while Redis is away: what that needs is no restart."""
        while self._alive is not None:
            if not self._worker.stuck:
                self._alive.renew()
            await asyncio.sleep(RENEWED)


async def _first(*each: asyncio.Future[Any], within: float | None = None) -> None:
    await asyncio.wait(set(each), timeout=within, return_when=asyncio.FIRST_COMPLETED)
