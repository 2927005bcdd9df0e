"""A hook that posts to a webhook when dead letters begin to need somebody's attention."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue

import httpx

from jobguard.codec import clip, printable
from jobguard.events import Event, NewFingerprint, QueueGrew

logger = logging.getLogger("arq.worker.alerts")  # below a logger that `arq` sets up

TIMEOUT = 10.0
"""Seconds for one post."""
LONGEST = 1_000
"""Characters of an alert."""


class WebhookAlerts:
    """Posts `{"text": ...}`, as Slack, Mattermost and Google Chat take it, about two kinds of events:
    jobs have begun to fail in a new way, and a queue holds more letters than `alert_over` of its tasks says.

    A hook is called in the middle of a job, so this one only puts the alert into a bounded queue; a thread
    posts them, one after the other. What does not fit in, or cannot be posted, is logged and dropped: an
    alert is a hint, and the letter itself is safe where it is.

    Args:
        url: of the webhook. It often holds a secret, and is never logged.
        client: carries the posts; None = a client of its own. Either is closed in the end.
        most: alerts that may wait.
    """

    def __init__(self, url: str, *, client: httpx.Client | None = None, most: int = 100) -> None:
        self._url = url
        self._client = httpx.Client(timeout=TIMEOUT) if client is None else client
        self._most = most
        self._waiting: SimpleQueue[str | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __call__(self, event: Event) -> None:
        text = alert_of(event)
        if text is None:
            return
        with self._lock:
            if self._closed or self._waiting.qsize() >= self._most:
                why = "it comes after the end" if self._closed else "too many are waiting"
                logger.error("alert dropped, %s: %s", why, text)
                return
            self._waiting.put(text)
            if self._thread is None:  # not before it is needed: a hook is made where settings are imported
                self._thread = threading.Thread(target=self._post_all, name="alerts", daemon=True)
                self._thread.start()

    def close(self, patience: float = TIMEOUT) -> None:
        """Post what waits, and end. Blocks for `patience` seconds at most; what is left then is dropped."""
        with self._lock:
            self._closed = True
            self._waiting.put(None)
        if self._thread is None:
            self._client.close()
            return
        self._thread.join(patience)
        if self._thread.is_alive():
            logger.error("alerts dropped, the webhook is too slow: %d", self._waiting.qsize())

    def _post_all(self) -> None:
        with self._client:
            while (text := self._waiting.get()) is not None:
                self._post(text)

    def _post(self, text: str) -> None:
        try:
            answer = self._client.post(self._url, json={"text": text})
        except Exception as error:  # the thread must outlive whatever this is; its text may hold the URL
            logger.error("alert not posted, %s: %s", type(error).__name__, text)
            return
        if not answer.is_success:
            logger.error("alert not posted, HTTP %d: %s", answer.status_code, text)


def alert_of(event: Event) -> str | None:
    """What to say of an event; None = nothing. One line, whatever the job's error has in it."""
    match event:
        case NewFingerprint():
            text = (
                f"{event.task} fails in a new way: {event.error} "
                f"(jobguard dlq get {event.id} --queue {event.queue})"
            )
        case QueueGrew():
            text = f"{event.dead} dead letters in {event.queue} (jobguard dlq groups --queue {event.queue})"
        case _:
            return None
    return clip(printable(text), LONGEST)
