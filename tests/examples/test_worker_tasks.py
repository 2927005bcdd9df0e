"""The example worker's tasks, called without a queue: what runs once, what is tried again, what is kept."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples import arq_worker
from examples.arq_worker import (
    HOLDING_ANSWER,
    download_content,
    handle_incoming_whatsapp_message,
    send_whatsapp_message,
)
from examples.downloads import Downloaded
from examples.remote import Refused, TryAgain
from examples.replies import Acknowledgement, ReplyService
from jobguard import DeadLetter, Discard, Duplicate, JobGuard
from jobguard.errors import RetriesExhausted
from jobguard.stores import MemoryStore
from jobguard.testing import no_wait

pytestmark = pytest.mark.anyio

FILE = Downloaded(name="f", sha256="f", size=1)


class Service:
    """Stands in for any service: raises or returns what it was given, and notes what it was asked."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[tuple[object, ...]] = []

    def _next(self, *question: object) -> Any:
        self.asked.append(question)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def fetch(self, url: str) -> Any:
        return self._next(url)

    async def send_text(self, to: str, content: str, reference: str) -> Any:
        return self._next(to, content, reference)

    async def answer(self, customer_id: str, user_message: str) -> Any:
        return self._next(customer_id, user_message)


class Queue:
    """Takes each job id once, as ARQ does."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, object]] = {}

    async def enqueue_job(self, function: str, *, _job_id: str, **arguments: object) -> object | None:
        if _job_id in self.jobs:
            return None
        self.jobs[_job_id] = {"function": function, **arguments}
        return object()


@pytest.fixture
async def guard() -> AsyncIterator[JobGuard]:
    async with JobGuard(MemoryStore()) as guard:
        yield guard


def context(**services: object) -> dict[str, Any]:
    return {"logger": logging.getLogger("test"), **services}


async def only_letter(guard: JobGuard, queue: str) -> DeadLetter:
    (letter,) = (await guard.dead_letters(queue).list()).entries
    return letter


async def download(service: Service) -> object:
    with no_wait():
        return await download_content(context(downloads=service), "https://files.example/a")


async def send(service: Service) -> object:
    with no_wait():
        return await send_whatsapp_message(context(whatsapp=service), "12025550123", "Hello", "order-7")


async def handle(replies: object, queue: Queue, text: str = "Hello?") -> object:
    with no_wait():
        return await handle_incoming_whatsapp_message(
            context(replies=replies, redis=queue), "customer-1", "12025550123", text, "wamid.1"
        )


async def test_a_url_is_downloaded_once(guard: JobGuard) -> None:
    """A second job gets the result of the first."""
    service = Service(FILE)
    assert await download(service) == await download(service) == FILE
    assert len(service.asked) == 1


async def test_a_download_that_broke_is_tried_again(guard: JobGuard) -> None:
    """Three attempts in all."""
    assert await download(Service(TryAgain("reset"), TryAgain("HTTP 503"), FILE)) == FILE


async def test_a_download_that_keeps_breaking_is_kept(guard: JobGuard) -> None:
    """The error of the last attempt goes on to the queue, the job into its dead letters."""
    service = Service(TryAgain("HTTP 503"))
    with pytest.raises(TryAgain):
        await download(service)
    assert len(service.asked) == 3
    assert (await only_letter(guard, "downloads")).reason == "exhausted"


async def test_a_refused_download_is_not_tried_again(guard: JobGuard) -> None:
    """The dead letter tells of the refusal itself."""
    service = Service(Refused("HTTP 404 Not Found"))
    with pytest.raises(RetriesExhausted):
        await download(service)
    assert len(service.asked) == 1
    letter = await only_letter(guard, "downloads")
    assert (letter.reason, letter.error_message) == ("gave_up", "HTTP 404 Not Found")


async def test_a_message_is_sent_once(guard: JobGuard) -> None:
    """However many jobs there are for it; its id goes along as the reference."""
    service = Service("wamid.9")
    assert await send(service) == await send(service) == "wamid.9"
    assert service.asked == [("12025550123", "Hello", "order-7")]


async def test_a_message_gets_more_attempts_than_other_jobs(guard: JobGuard) -> None:
    """Rate limits are routine: five."""
    assert await send(Service(*[TryAgain("busy", 1.0)] * 4, "wamid.9")) == "wamid.9"


async def test_a_refused_message_is_kept_without_what_is_private(guard: JobGuard) -> None:
    """Neither the number nor the text show where people look."""
    with pytest.raises(RetriesExhausted):
        await send(Service(Refused("(#131026) 12025550123 is not reachable")))
    letter = await only_letter(guard, "whatsapp")
    assert letter.reason == "gave_up"
    shown = letter.preview + letter.error_message + letter.traceback
    assert "12025550123" not in shown
    assert "Hello" not in shown
    assert "order-7" in shown


async def test_an_answer_is_enqueued_for_the_sender(guard: JobGuard) -> None:
    """To the number that wrote, under an id that follows from the message's."""
    queue = Queue()
    assert await handle(Service("We are here."), queue) == "reply-wamid.1"
    assert queue.jobs == {
        "reply-wamid.1": {
            "function": "send_whatsapp_message",
            "to": "12025550123",
            "content": "We are here.",
            "message_id": "reply-wamid.1",
        }
    }


async def test_a_message_that_is_delivered_again_is_a_duplicate(guard: JobGuard) -> None:
    """No second question to the reply service, no second answer."""
    replies, queue = Service("We are here."), Queue()
    await handle(replies, queue)
    assert isinstance(await handle(replies, queue), Duplicate)
    assert len(replies.asked) == len(queue.jobs) == 1


async def test_a_job_that_runs_again_enqueues_no_second_answer() -> None:
    """After a crash behind the enqueueing, even if the answer would now be another."""
    queue = Queue()
    for answer in ("We are here.", "Still here."):
        async with JobGuard(MemoryStore()):  # that forgets the first run, as a crash would
            await handle(Service(answer), queue)
    assert [job["content"] for job in queue.jobs.values()] == ["We are here."]


async def test_a_reply_service_that_hiccups_is_asked_again(guard: JobGuard) -> None:
    """Once more, within the job."""
    queue = Queue()
    await handle(Service(TryAgain("HTTP 503"), "We are here."), queue)
    assert queue.jobs["reply-wamid.1"]["content"] == "We are here."


@pytest.mark.parametrize("error", [TryAgain("HTTP 503"), Refused("HTTP 400"), RuntimeError("broken")])
async def test_without_the_reply_service_the_customer_gets_a_holding_answer(
    guard: JobGuard, error: Exception
) -> None:
    """The job itself is a success: the customer was answered."""
    queue = Queue()
    assert await handle(Service(error), queue) == "reply-wamid.1"
    assert queue.jobs["reply-wamid.1"]["content"] == HOLDING_ANSWER
    assert await guard.dead_letters("incoming").count() == 0


async def test_a_message_without_text_is_discarded(guard: JobGuard) -> None:
    """Stickers and the like: no answer, no dead letter."""
    queue = Queue()
    with pytest.raises(Discard):
        await handle(Service("We are here."), queue, text=" ")
    assert queue.jobs == {}
    assert await guard.dead_letters("incoming").count() == 0


async def test_the_reply_service_is_asked_over_http() -> None:
    """Customer and message in, reply out."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.content == b'{"customer_id":"c","message":"Hello?"}'
        return httpx.Response(200, json={"reply": "We are here."})

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    assert await ReplyService(client, "https://replies.example/").answer("c", "Hello?") == "We are here."


@pytest.mark.parametrize(
    "response", [httpx.Response(503), httpx.Response(200, text="<html>"), httpx.Response(200, json=[])]
)
async def test_a_reply_service_that_is_down_or_speaks_nonsense_is_asked_again(
    response: httpx.Response,
) -> None:
    """Both pass, as a rule."""
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: response))
    with pytest.raises(TryAgain):
        await ReplyService(client, "https://replies.example/").answer("c", "Hello?")


async def test_startup_puts_services_into_ctx_and_shutdown_closes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logger, a connection and three services; the connection is closed."""
    for name in ("REDIS_URL", "WHATSAPP_API_URL", "WHATSAPP_TOKEN", "WHATSAPP_PHONE_NUMBER_ID"):
        monkeypatch.setenv(name, "redis://localhost")
    monkeypatch.setenv("DOWNLOAD_DIR", str(tmp_path))
    ctx: dict[str, Any] = {}
    await arq_worker.startup(ctx)
    assert ctx.keys() >= {"logger", "client", "whatsapp", "downloads", "replies"}
    assert isinstance(ctx["replies"], Acknowledgement)
    await arq_worker.shutdown(ctx)
    assert ctx["client"].is_closed


async def test_shutdown_after_a_failed_startup_does_no_harm() -> None:
    """ARQ calls it all the same."""
    await arq_worker.shutdown({})
