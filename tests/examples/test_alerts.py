"""The hook that alerts: what it posts, and that a bad webhook costs no job anything."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

import httpx
import pytest

from examples import arq_worker
from examples.alerts import LONGEST, WebhookAlerts, alert_of
from jobguard.events import DeadLettered, Event, NewFingerprint, QueueGrew, Succeeded

URL = "https://hooks.example/secret"
NEW = NewFingerprint(
    task="send", queue="whatsapp", fingerprint="f1", id="id1", error="TimeoutError: no answer"
)
GREW = QueueGrew(task="send", queue="whatsapp", dead=21)


def alerts(answer: Callable[[httpx.Request], httpx.Response], most: int = 100) -> WebhookAlerts:
    return WebhookAlerts(URL, client=httpx.Client(transport=httpx.MockTransport(answer)), most=most)


def test_alerts_are_posted_in_order_before_the_end() -> None:
    """As the text of a chat message, with the command that shows more."""
    texts: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        texts.append(json.loads(request.content)["text"])
        return httpx.Response(200)

    hook = alerts(answer)
    for event in (NEW, GREW):
        hook(event)
    hook.close()
    assert texts == [
        "send fails in a new way: TimeoutError: no answer (jobguard dlq get id1 --queue whatsapp)",
        "21 dead letters in whatsapp (jobguard dlq groups --queue whatsapp)",
    ]


@pytest.mark.parametrize(
    "event",
    [
        Succeeded(task="send", attempt=1, seconds=0.1),
        DeadLettered(task="send", queue="whatsapp", id="id1", reason="gave_up", error="TimeoutError"),
    ],
)
def test_of_all_else_nothing_is_said(event: Event) -> None:
    """Not even of each single dead letter."""
    assert alert_of(event) is None


def test_an_alert_is_one_line_that_is_not_too_long() -> None:
    """Errors hold whatever a service has sent."""
    text = alert_of(
        NewFingerprint(task="send", queue="q", fingerprint="f", id="i", error="a\n\x1b[2J" * 1000)
    )
    assert text is not None
    assert len(text) <= LONGEST
    assert text.isprintable()


def test_a_webhook_that_hangs_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    """Alerts wait for it in a queue; those that find it full are dropped, which is logged."""
    asked, go_on = threading.Event(), threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.set()
        assert go_on.wait(60)
        return httpx.Response(200)

    hook = alerts(answer, most=2)
    hook(NEW)
    assert asked.wait(60)
    for _ in range(3):
        hook(GREW)
    go_on.set()
    hook.close()
    assert [
        record.message.partition(":")[0] for record in caplog.records if record.levelno >= logging.ERROR
    ] == ["alert dropped, too many are waiting"]


def test_the_end_waits_for_a_webhook_only_so_long(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that is to end must end."""
    go_on = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        assert go_on.wait(60)
        return httpx.Response(200)

    hook = alerts(answer)
    hook(NEW)
    hook.close(patience=0.01)
    assert "the webhook is too slow" in caplog.text
    go_on.set()
    hook.close(patience=60)


def test_a_webhook_that_fails_is_logged_and_asked_again_with_the_next_alert(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The URL holds a secret, and is in no line."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if len(asked) == 1:
            raise httpx.ConnectError(f"cannot reach {request.url}", request=request)
        return httpx.Response(500)

    caplog.set_level(logging.WARNING)
    hook = alerts(answer)
    hook(NEW)
    hook(GREW)
    hook.close()
    assert asked == [URL, URL]
    assert "alert not posted, ConnectError" in caplog.text
    assert "alert not posted, HTTP 500" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.anyio
async def test_a_worker_that_ends_posts_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last jobs may be those that failed in a new way."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200)

    hook = alerts(answer)
    monkeypatch.setattr(arq_worker, "ALERTS", hook)
    hook(NEW)
    await arq_worker.shutdown({})
    assert asked == [URL]


def test_an_alert_after_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody would post it."""
    hook = alerts(lambda request: httpx.Response(200))
    hook.close()
    hook(NEW)
    assert "alert dropped, it comes after the end" in caplog.text
