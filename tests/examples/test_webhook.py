"""The webhook receiver: who may call, and what becomes of what they send."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from examples.fastapi_webhook import (
    LARGEST_BODY,
    FakeQueue,
    Secrets,
    create_app,
    make_webhook,
    sign,
)

pytestmark = pytest.mark.anyio

SECRET = "app secret"


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
async def client(queue: FakeQueue) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Secrets(app_secret=SECRET, verify_token="verify token"), queue)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
        yield client


async def deliver(client: httpx.AsyncClient, body: bytes, signature: str | None = None) -> httpx.Response:
    header = sign(body, SECRET) if signature is None else signature
    return await client.post("/webhook", content=body, headers={"X-Hub-Signature-256": header})


async def test_the_challenge_is_echoed_to_who_knows_the_token(client: httpx.AsyncClient) -> None:
    """As plain text, as it came."""
    query = {"hub.mode": "subscribe", "hub.verify_token": "verify token", "hub.challenge": "0815"}
    answer = await client.get("/webhook", params=query)
    assert (answer.status_code, answer.text) == (200, "0815")


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"hub.mode": "subscribe", "hub.verify_token": "guess", "hub.challenge": "0815"},
        {"hub.mode": "unsubscribe", "hub.verify_token": "verify token", "hub.challenge": "0815"},
    ],
)
async def test_nobody_else_gets_the_challenge(client: httpx.AsyncClient, query: dict[str, str]) -> None:
    """A wrong token or mode is refused."""
    answer = await client.get("/webhook", params=query)
    assert answer.status_code == 403
    assert "0815" not in answer.text


async def test_a_message_becomes_a_job(client: httpx.AsyncClient, queue: FakeQueue) -> None:
    """Named after the message, with the task's arguments in order."""
    answer = await deliver(client, make_webhook("wamid.1", "Hello?"))
    assert answer.status_code == 200
    assert queue.jobs == {
        "incoming-wamid.1": (
            "handle_incoming_whatsapp_message",
            "12025550123",
            "12025550123",
            "Hello?",
            "wamid.1",
        )
    }


async def test_a_webhook_that_is_delivered_again_enqueues_nothing(
    client: httpx.AsyncClient, queue: FakeQueue
) -> None:
    """It is still answered with 200: else it would come again and again."""
    body = make_webhook("wamid.1", "Hello?")
    await deliver(client, body)
    answer = await deliver(client, body)
    assert answer.json() == {"messages": 1, "enqueued": 0}
    assert len(queue.jobs) == 1


@pytest.mark.parametrize("signature", ["", "sha256=", "sha256=00", "md5=0", "sha256=ü"])
async def test_a_wrong_signature_is_refused(
    client: httpx.AsyncClient, queue: FakeQueue, signature: str
) -> None:
    """Whatever it looks like."""
    headers = {b"X-Hub-Signature-256": signature.encode()}
    answer = await client.post("/webhook", content=make_webhook("wamid.1", "Hello?"), headers=headers)
    assert answer.status_code == 403
    assert queue.jobs == {}


async def test_a_changed_body_is_refused(client: httpx.AsyncClient, queue: FakeQueue) -> None:
    """The signature is of the very bytes: even the same JSON in another form has another."""
    body = make_webhook("wamid.1", "Hello?")
    other = json.dumps(json.loads(body), indent=1).encode()
    assert (await deliver(client, other, sign(body, SECRET))).status_code == 403
    assert queue.jobs == {}


async def test_a_body_signed_by_another_app_is_refused(client: httpx.AsyncClient) -> None:
    """The secret is what counts."""
    body = make_webhook("wamid.1", "Hello?")
    assert (await deliver(client, body, sign(body, "another secret"))).status_code == 403


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[]", b"{}", b'{"entry": [{}]}', b'{"entry": 1}', b"[" * 100_000]
)
async def test_a_signed_body_that_is_no_webhook_is_a_bad_request(
    client: httpx.AsyncClient, body: bytes
) -> None:
    """Refused, not crashed on."""
    assert (await deliver(client, body)).status_code == 400


async def test_a_body_that_says_it_is_too_large_is_not_read(client: httpx.AsyncClient) -> None:
    """Refused by its Content-Length, whoever has signed it."""
    read: list[bytes] = []

    async def chunks() -> AsyncIterator[bytes]:
        read.append(b"x")
        yield b"x"

    headers = {"Content-Length": str(LARGEST_BODY + 1)}
    answer = await client.post("/webhook", content=chunks(), headers=headers)
    assert answer.status_code == 413
    assert read == []


async def test_a_body_that_turns_out_too_large_is_read_no_further(client: httpx.AsyncClient) -> None:
    """Without a Content-Length, reading stops at the limit."""
    read: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(64):
            read.append(number)
            yield b"x" * (LARGEST_BODY // 4)

    answer = await client.post("/webhook", content=chunks())
    assert answer.status_code == 413
    assert len(read) < 8


async def test_a_body_of_the_largest_size_is_taken(client: httpx.AsyncClient) -> None:
    """JSON may end in blanks."""
    body = make_webhook("wamid.1", "Hello?").ljust(LARGEST_BODY)
    assert (await deliver(client, body)).json() == {"messages": 1, "enqueued": 1}


async def test_a_message_that_is_no_text_is_logged(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else will tell that it came."""
    image = {"from": "12025550123", "id": "wamid.2", "type": "image", "image": {"id": "1"}}
    with caplog.at_level(logging.WARNING, "webhook"):
        await deliver(client, make_batch(image))
    assert "'wamid.2'" in caplog.text
    assert "'image'" in caplog.text


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        {},
        {"id": "wamid.1", "from": "12025550123", "type": "text"},
        {"id": None, "from": "12025550123", "type": "text", "text": {"body": "Hello?"}},
        {"id": "wamid.1", "from": "12025550123", "type": "text", "text": {"body": 5}},
    ],
)
async def test_a_malformed_message_is_logged_and_fails_no_other(
    client: httpx.AsyncClient, queue: FakeQueue, caplog: pytest.LogCaptureFixture, malformed: object
) -> None:
    """The others of its webhook are enqueued; none comes again because of it."""
    message = {"from": "12025550123", "id": "wamid.2", "type": "text", "text": {"body": "Hello?"}}
    with caplog.at_level(logging.ERROR, "webhook"):
        answer = await deliver(client, make_batch(malformed, message))
    assert answer.json() == {"messages": 1, "enqueued": 1}
    assert list(queue.jobs) == ["incoming-wamid.2"]
    assert "malformed" in caplog.text


def make_batch(*messages: object) -> bytes:
    value = {"contacts": [{"wa_id": "12025550123"}], "messages": messages}
    return json.dumps({"entry": [{"changes": [{"value": value}]}]}).encode()


async def test_status_webhooks_and_other_kinds_of_messages_enqueue_nothing(
    client: httpx.AsyncClient, queue: FakeQueue
) -> None:
    """Reads and deliveries come the same way; images are not for this worker."""
    image = {"from": "12025550123", "id": "wamid.2", "type": "image", "image": {"id": "1"}}
    values = [{"statuses": [{"id": "wamid.1", "status": "read"}]}, {"contacts": [], "messages": [image]}]
    body = json.dumps({"entry": [{"changes": [{"value": value} for value in values]}]}).encode()
    assert (await deliver(client, body)).json() == {"messages": 0, "enqueued": 0}
    assert queue.jobs == {}


def test_the_secrets_do_not_show() -> None:
    """Not in a traceback either."""
    assert SECRET not in repr(Secrets(app_secret=SECRET, verify_token="verify token"))


def test_a_missing_secret_is_named() -> None:
    """When the receiver starts."""
    with pytest.raises(RuntimeError, match="WHATSAPP_VERIFY_TOKEN"):
        Secrets.from_env({"WHATSAPP_APP_SECRET": "x"})
