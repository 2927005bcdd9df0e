"""The WhatsApp service: what it sends, and what each answer of the API becomes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from examples.whatsapp import (
    RATE_LIMITS,
    WhatsApp,
    WhatsAppBusy,
    WhatsAppRefused,
    WhatsAppTokenExpired,
    WhatsAppUndeliverable,
)

pytestmark = pytest.mark.anyio

SENT = {"messaging_product": "whatsapp", "messages": [{"id": "wamid.1"}]}


def service(answer: Callable[[httpx.Request], httpx.Response]) -> WhatsApp:
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return WhatsApp(client, "https://api.example/v21.0/", "token", "4711")


def answering(status: int, body: Any, headers: dict[str, str] | None = None) -> WhatsApp:
    return service(lambda request: httpx.Response(status, json=body, headers=headers))


def refusing(status: int, code: int, headers: dict[str, str] | None = None) -> WhatsApp:
    error = {"error": {"message": "what is wrong", "type": "OAuthException", "code": code}}
    return answering(status, error, headers)


async def test_a_text_is_posted_as_the_api_wants_it() -> None:
    """To the number's messages, with the token, in the Cloud API's shape."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=SENT)

    await service(answer).send_text("12025550123", "Hello", "order-7")
    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", "https://api.example/v21.0/4711/messages")
    assert request.headers["Authorization"] == "Bearer token"
    assert json.loads(request.content) == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "12025550123",
        "type": "text",
        "text": {"preview_url": False, "body": "Hello"},
        "biz_opaque_callback_data": "order-7",
    }


async def test_the_answer_is_the_id_of_the_message() -> None:
    """The API's id is what status webhooks will speak of."""
    assert await answering(200, SENT).send_text("1", "Hello", "r") == "wamid.1"


@pytest.mark.parametrize("body", [[], {}, {"messages": []}, {"messages": [1]}, None])
async def test_an_odd_answer_to_a_sent_message_is_no_failure(body: Any) -> None:
    """The message is out: failing now would send it again."""
    assert await answering(200, body).send_text("1", "Hello", "r") == ""


@pytest.mark.parametrize("code", sorted(RATE_LIMITS))
async def test_a_rate_limit_is_tried_again_after_a_delay_of_its_own(code: int) -> None:
    """Without a header, each limit has the delay that lifts it."""
    with pytest.raises(WhatsAppBusy) as raised:
        await refusing(400, code).send_text("1", "Hello", "r")
    assert raised.value.retry_after == RATE_LIMITS[code]


async def test_the_api_knows_best_when_to_come_back() -> None:
    """A Retry-After header wins over our own delay."""
    with pytest.raises(WhatsAppBusy) as raised:
        await refusing(429, 130429, {"Retry-After": "42"}).send_text("1", "Hello", "r")
    assert raised.value.retry_after == 42


@pytest.mark.parametrize(
    ("status", "code"), [(401, 190), (400, 100), (400, 131026), (400, 131030), (403, 10), (400, 999999)]
)
async def test_a_bad_token_or_recipient_is_refused(status: int, code: int) -> None:
    """Another try would meet the same answer; so would one for a code that nobody knows."""
    with pytest.raises(WhatsAppRefused, match=str(code)):
        await refusing(status, code).send_text("1", "Hello", "r")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0, WhatsAppTokenExpired),
        (190, WhatsAppTokenExpired),
        (131026, WhatsAppUndeliverable),
        (131030, WhatsAppUndeliverable),
        (100, WhatsAppRefused),
    ],
)
async def test_refusals_with_different_cures_are_different_errors(
    code: int, kind: type[WhatsAppRefused]
) -> None:
    """By its error's class a dead letter is found again, when the cause has gone."""
    with pytest.raises(WhatsAppRefused) as raised:
        await refusing(400, code).send_text("1", "Hello", "r")
    assert type(raised.value) is kind


async def test_the_code_decides_over_the_status() -> None:
    """The API sends some of its refusals as server errors."""
    with pytest.raises(WhatsAppRefused):
        await refusing(500, 131026).send_text("1", "Hello", "r")


@pytest.mark.parametrize("code", [1, 2, 131000, 131016])
async def test_a_failure_on_the_apis_side_is_tried_again(code: int) -> None:
    """It says itself that it is temporary, whatever the status."""
    with pytest.raises(WhatsAppBusy):
        await refusing(400, code).send_text("1", "Hello", "r")


@pytest.mark.parametrize(
    "body", [[], {"error": "text"}, {"error": {"code": "190"}}, {"error": {"code": True}}]
)
async def test_an_error_without_a_code_goes_by_its_status(body: Any) -> None:
    """Proxies in between do not speak the API's language."""
    with pytest.raises(WhatsAppBusy, match="HTTP 503"):
        await answering(503, body).send_text("1", "Hello", "r")
    with pytest.raises(WhatsAppRefused, match="HTTP 401"):
        await answering(401, body).send_text("1", "Hello", "r")


async def test_a_broken_connection_is_tried_again() -> None:
    """Resets and time-outs say nothing about the message."""

    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset", request=request)

    with pytest.raises(WhatsAppBusy):
        await service(answer).send_text("1", "Hello", "r")


def test_the_token_does_not_show() -> None:
    """Services end up in logs and tracebacks."""
    assert "token" not in repr(answering(200, SENT))
