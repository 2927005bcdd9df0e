"""A WhatsApp webhook receiver: checks who calls, drops what is delivered again, enqueues the rest.

    uvicorn examples.fastapi_webhook:app      serves, with REDIS_URL, WHATSAPP_APP_SECRET and
                                              WHATSAPP_VERIFY_TOKEN from the environment
    python examples/fastapi_webhook.py        shows what it does, without a server or Redis

WhatsApp delivers a webhook again until it is answered with 200, and now and then although it was. A
message's id becomes the job's id, so ARQ takes it once while it remembers the job; after that, and for
jobs that come another way, the task's own `@deduplicated` does the same.
"""

# ruff: noqa: T201  (run as a script, it prints what was answered)

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import httpx
from arq.connections import RedisSettings
from fastapi import FastAPI, HTTPException, Request, Response

from jobguard.adapters.arq import create_pool

TASK = "handle_incoming_whatsapp_message"
"""Enqueued by name: the receiver needs none of the worker's code."""
LARGEST_BODY = 1024 * 1024
"""Bytes. Anybody can send a body, and all of it is in memory before its signature can be checked."""

logger = logging.getLogger("webhook")


class Queue(Protocol):
    """What is needed of an ARQ pool."""

    async def enqueue_job(self, function: str, *args: Any, _job_id: str | None = None) -> object | None: ...


@dataclass(frozen=True, slots=True)
class Secrets:
    """What WhatsApp and this receiver share.

    Attributes:
        app_secret: signs each webhook.
        verify_token: proves to us that WhatsApp is setting the webhook up.
    """

    app_secret: str = field(repr=False)
    verify_token: str = field(repr=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        return cls(_required(environ, "WHATSAPP_APP_SECRET"), _required(environ, "WHATSAPP_VERIFY_TOKEN"))

    def signed(self, body: bytes, signature: str) -> bool:
        """Whether `X-Hub-Signature-256` is that of these very bytes; takes as long if it is not."""
        digest = hmac.new(self.app_secret.encode(), body, hashlib.sha256).hexdigest()
        return hmac.compare_digest(f"sha256={digest}".encode(), signature.encode())

    def verified(self, token: str) -> bool:
        return hmac.compare_digest(self.verify_token.encode(), token.encode())


@dataclass(frozen=True, slots=True)
class Incoming:
    """A text that a customer has sent."""

    customer_id: str
    from_number: str
    text: str
    message_id: str


def read_messages(webhook: Any) -> Iterator[Incoming]:
    """The texts in a webhook, which may hold several, or none: it also tells of deliveries and reads.

    What is no text, or malformed, is logged and left out: to refuse the webhook would lose the others.

    Raises:
        LookupError, TypeError, AttributeError: it is none of WhatsApp's.
    """
    for entry in webhook["entry"]:
        for change in entry["changes"]:
            value = change["value"]
            for message in value.get("messages", []):
                try:
                    incoming = read_message(value, message)
                except (LookupError, TypeError) as error:
                    logger.error("a malformed message is left out: %r", error)
                    continue
                if incoming is not None:
                    yield incoming


def read_message(value: Any, message: Any) -> Incoming | None:
    """One message of a webhook; None if it is no text."""
    message_id = _text(message["id"])
    if message["type"] != "text":
        logger.warning("message %r is left out: its type is %r, not text", message_id, message["type"])
        return None
    return Incoming(
        customer_id=_text(value["contacts"][0]["wa_id"]),
        from_number=_text(message["from"]),
        text=_text(message["text"]["body"]),
        message_id=message_id,
    )


def _text(found: object) -> str:
    # `str(None)` would do as an id too, and all messages without one would be the same job.
    if not isinstance(found, str) or found == "":
        raise TypeError(f"a text was expected, not {type(found).__name__}")
    return found


async def read_body(request: Request) -> bytes:
    """The body, if it is not too large; one that says so itself is not even read."""
    declared = request.headers.get("Content-Length", "")
    # The first digits of a length will do: a number of thousands of them is not one for `int`.
    if declared.isdecimal() and int(declared[:20]) > LARGEST_BODY:
        raise HTTPException(413, "body too large")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise HTTPException(413, "body too large")
    return bytes(body)


def create_app(secrets: Secrets | None = None, queue: Queue | None = None) -> FastAPI:
    """The receiver. What is not given is read from the environment, and opened, at start-up."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        app.state.secrets = Secrets.from_env(os.environ)
        pool = await create_pool(RedisSettings.from_dsn(_required(os.environ, "REDIS_URL")))
        app.state.queue = pool
        yield
        await pool.aclose()

    ready = secrets is not None and queue is not None
    app = FastAPI(title="WhatsApp webhooks", lifespan=None if ready else lifespan)
    app.state.secrets, app.state.queue = secrets, queue

    @app.get("/webhook")
    async def verify(request: Request) -> Response:
        """WhatsApp's question when the webhook is set up: the answer is its own challenge."""
        secrets: Secrets = request.app.state.secrets
        query = request.query_params
        if query.get("hub.mode") != "subscribe" or not secrets.verified(query.get("hub.verify_token", "")):
            raise HTTPException(403, "wrong verify token")
        return Response(query.get("hub.challenge", ""), media_type="text/plain")

    @app.post("/webhook")
    async def receive(request: Request) -> dict[str, int]:
        """A webhook. An error of the queue is a 500 here, upon which WhatsApp delivers it again."""
        secrets: Secrets = request.app.state.secrets
        queue: Queue = request.app.state.queue
        # The signature is of the bytes as they came; parsed and written again they may differ.
        body = await read_body(request)
        if not secrets.signed(body, request.headers.get("X-Hub-Signature-256", "")):
            raise HTTPException(403, "wrong signature")
        try:
            messages = list(read_messages(json.loads(body)))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise HTTPException(400, "not a webhook of WhatsApp") from None
        enqueued = 0
        for each in messages:
            job = await queue.enqueue_job(
                TASK,
                each.customer_id,
                each.from_number,
                each.text,
                each.message_id,
                _job_id=f"incoming-{each.message_id}",
            )
            enqueued += job is not None
        return {"messages": len(messages), "enqueued": enqueued}

    return app


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if value == "":
        raise RuntimeError(f"{name} is not set in the environment; examples/README.md says what it means")
    return value


app = create_app()


# From here on: the receiver shown to work, with a queue that is a dict.


class FakeQueue:
    """Takes each job id once, as ARQ does."""

    def __init__(self) -> None:
        self.jobs: dict[str | None, tuple[Any, ...]] = {}

    async def enqueue_job(self, function: str, *args: Any, _job_id: str | None = None) -> object | None:
        if _job_id in self.jobs:
            return None
        self.jobs[_job_id] = (function, *args)
        return object()


def make_webhook(message_id: str, text: str) -> bytes:
    """What WhatsApp sends for a text."""
    message = {"from": "12025550123", "id": message_id, "type": "text", "text": {"body": text}}
    value = {
        "messaging_product": "whatsapp",
        "contacts": [{"wa_id": "12025550123"}],
        "messages": [message],
    }
    return json.dumps(
        {"object": "whatsapp_business_account", "entry": [{"changes": [{"value": value}]}]}
    ).encode()


def sign(body: bytes, app_secret: str) -> str:
    """The header that WhatsApp would send with it."""
    return "sha256=" + hmac.new(app_secret.encode(), body, hashlib.sha256).hexdigest()


async def demonstrate() -> None:
    queue = FakeQueue()
    receiver = create_app(Secrets(app_secret="app secret", verify_token="verify token"), queue)
    transport = httpx.ASGITransport(receiver)
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
        query = {"hub.mode": "subscribe", "hub.verify_token": "verify token", "hub.challenge": "1158201444"}
        answer = await client.get("/webhook", params=query)
        print("setting up:", answer.status_code, answer.text)
        body = make_webhook("wamid.1", "Where is my order?")
        headers = {"X-Hub-Signature-256": sign(body, "app secret")}
        for what in ("a webhook:", "the same once more:"):
            answer = await client.post("/webhook", content=body, headers=headers)
            print(what, answer.status_code, answer.text)
        forged = body.replace(b"my order", b"your safe")
        answer = await client.post("/webhook", content=forged, headers=headers)
        print("a forged one:", answer.status_code, answer.text)
    print("enqueued:", queue.jobs)


if __name__ == "__main__":
    asyncio.run(demonstrate())
