"""Stand-ins for the services that the worker talks to, as badly behaved as the real ones.

    python -m examples.demo.stand_ins DIRECTORY SEED

They are a process of their own, so that they outlive the worker's SIGKILL, and write down all they do
in files of DIRECTORY: what they saw is the measure of what the worker says it did. Which request
meets which trouble follows from the seed and the request; only when the token expires and when the
reply service is down goes by the order of arrival.

Trouble comes before a message is accepted, never between that and the answer: as the API knows no
idempotency keys, a message whose answer was lost would be sent again, by any client.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import secrets
import sys
import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from typing import Any

from examples.demo.http import Handler, Request, Reset, Response, serve

ADDRESSES = "addresses.json"
API_LOG, FILES_LOG, REPLIES_LOG = "api.jsonl", "files.jsonl", "replies.jsonl"

UNKNOWN_NUMBER = "00"
"""How the phone number ends of somebody who is not on WhatsApp."""
FIRST_TOKEN = "first-token"
"""The API's access token until it is renewed."""
EXPIRED_TOKEN = range(10, 18)
"""The messages, of those that could go out, for which the first token has expired, by order of arrival."""
REPLIES_DOWN = range(30, 60)
"""The requests to the reply service that find it down."""
FILE_SIZE, HUGE_FILE_SIZE = 20_000, 400_000
PACE = 0.03
"""Seconds that a service takes for an answer, on average."""
FOR_EVER = 3600.0

# Troubles that pass after a number of requests for the same thing, and how likely they are.
API_TROUBLES = {"rate limit": (0.06, 1), "503": (0.05, 2), "reset": (0.04, 1), "hang": (0.02, 1)}
FILE_TROUBLES = {"rate limit": (0.08, 1), "503": (0.08, 1), "reset": (0.08, 1), "hang": (0.04, 1)}
NEVER_PASSES = 0.02
"""How likely it is that a thing gets 503 for ever."""
GOLDEN = (5**0.5 - 1) / 2
RATE_LIMITS = {
    130429: "Rate limit hit",
    131056: "Pair rate limit hit",
    80007: "Rate limit issues",
}


class Log:
    """Lines of JSON, each one whole or not there."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, what: str, id: str, **more: object) -> None:
        line = json.dumps({"at": time.time(), "what": what, "id": id, **more})
        os.write(self._descriptor, line.encode() + b"\n")


class Fates:
    """Which trouble a thing meets: drawn once for each, from the seed and the number in its name.

    The draws of a row of numbers are spread evenly (multiples of the golden ratio), so that every
    trouble gets its share, and none is missing whatever the seed.
    """

    def __init__(self, seed: int, troubles: dict[str, tuple[float, int]]) -> None:
        self._seed = seed
        self._troubles = troubles
        self._asked: Counter[str] = Counter()

    def trouble(self, id: str) -> str | None:
        """What befalls this request for `id`; None = nothing."""
        self._asked[id] += 1
        draw = self._draw(id) - NEVER_PASSES
        if draw < 0:
            return "503"
        for name, (share, times) in self._troubles.items():
            if draw < share:
                return name if self._asked[id] <= times else None
            draw -= share
        return None

    def hopeless(self, id: str) -> bool:
        """Whether no request for `id` will ever be served."""
        return self._draw(id) < NEVER_PASSES

    def _draw(self, id: str) -> float:
        row, number = id.split(".")[0], int(id.split(".")[2])
        return (random.Random(f"{self._seed}:{row}").random() + number * GOLDEN) % 1


async def befall(trouble: str, log: Log, id: str) -> Response:
    """The trouble itself, as far as it is the same everywhere."""
    log.write(trouble, id)
    if trouble == "reset":
        raise Reset
    if trouble == "hang":
        await asyncio.sleep(FOR_EVER)
    return Response(503, b"<html>upstream is down</html>")


async def take_time() -> None:
    await asyncio.sleep(random.uniform(0.3, 1.7) * PACE)


class Api:
    """The WhatsApp Cloud API: `POST /{version}/{phone number id}/messages`.

    Its first token expires early, though not on all of its servers at once: a few messages are refused, and
    go on being refused. `GET /{version}/oauth/access_token` gives a new one, and ends the first for good.
    """

    def __init__(self, log: Log, seed: int) -> None:
        self._log = log
        self._fates = Fates(seed, API_TROUBLES)
        self._token = FIRST_TOKEN
        self._arrivals: dict[str, int] = {}

    async def __call__(self, request: Request) -> Response:
        if request.path.partition("?")[0].endswith("/oauth/access_token"):
            return self._renew()
        message = json.loads(request.body)
        id = message["biz_opaque_callback_data"]
        hopeless = message["to"].endswith(UNKNOWN_NUMBER) or self._fates.hopeless(id)
        if not hopeless:
            self._arrivals.setdefault(id, len(self._arrivals))
        self._log.write("request", id)
        await take_time()
        if not self._accepts(request.headers.get("authorization", ""), id):
            self._log.write("expired token", id)
            return self._error(401, 190, "Error validating access token: Session has expired")
        trouble = self._fates.trouble(id)
        if trouble == "rate limit":
            self._log.write(trouble, id)
            code = random.Random(id).choice(list(RATE_LIMITS))
            return self._error(429, code, RATE_LIMITS[code], {"Retry-After": "1"})
        if trouble is not None:
            return await befall(trouble, self._log, id)
        if message["to"].endswith(UNKNOWN_NUMBER):
            self._log.write("invalid recipient", id)
            return self._error(400, 131026, "Message undeliverable")
        self._log.write("accepted", id)
        await take_time()  # from here on the message is out, and a client that dies cannot know it
        answer = {
            "messaging_product": "whatsapp",
            "contacts": [{"input": message["to"], "wa_id": message["to"]}],
            "messages": [{"id": f"wamid.{hashlib.sha256(id.encode()).hexdigest()[:16]}"}],
        }
        return Response(200, json.dumps(answer).encode())

    def _accepts(self, authorization: str, id: str) -> bool:
        """Whether the token of a request for a message is good."""
        if authorization != f"Bearer {self._token}":
            return False
        return self._token != FIRST_TOKEN or self._arrivals.get(id) not in EXPIRED_TOKEN

    def _renew(self) -> Response:
        self._token = f"renewed-{secrets.token_hex(8)}"
        self._log.write("token renewed", "")
        return Response(200, json.dumps({"access_token": self._token, "token_type": "bearer"}).encode())

    def _error(self, status: int, code: int, message: str, headers: dict[str, str] | None = None) -> Response:
        body: dict[str, Any] = {
            "error": {"message": f"(#{code}) {message}", "type": "OAuthException", "code": code}
        }
        return Response(status, json.dumps(body).encode(), headers or {})


class FileHost:
    """`GET /{kind}/{name}`; kind is `file`, `missing`, `private` or `huge`."""

    def __init__(self, log: Log, seed: int) -> None:
        self._log = log
        self._fates = Fates(seed, FILE_TROUBLES)

    async def __call__(self, request: Request) -> Response:
        path = request.path
        self._log.write("request", path)
        await take_time()
        kind = path.split("/")[1]
        if kind in ("missing", "private"):
            status = 404 if kind == "missing" else 403
            self._log.write(str(status), path)
            return Response(status)
        size = HUGE_FILE_SIZE if kind == "huge" else FILE_SIZE
        content = random.Random(path).randbytes(size)
        trouble = self._fates.trouble(path)
        if trouble == "reset":  # in the middle of the body
            self._log.write("reset", path)
            return Response(200, content, cut=size // 2)
        if trouble == "rate limit":  # the header in its other form
            self._log.write(trouble, path)
            return Response(429, headers={"Retry-After": formatdate(time.time() + 1, usegmt=True)})
        if trouble is not None:
            return await befall(trouble, self._log, path)
        self._log.write("served", path, sha256=hashlib.sha256(content).hexdigest())
        return Response(200, content)


class ReplyService:
    """`POST /`: `{"customer_id", "message"}` in, `{"reply"}` out; down for a while."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._requests = 0

    async def __call__(self, request: Request) -> Response:
        question = json.loads(request.body)
        self._requests += 1
        number = self._requests
        await take_time()
        if number in REPLIES_DOWN:
            self._log.write("503", question["customer_id"])
            return Response(503)
        self._log.write("answered", question["customer_id"])
        return Response(200, json.dumps({"reply": f"You wrote: {question['message']}"}).encode())


async def stand_in(directory: Path, seed: int) -> None:
    """Serve until killed; the addresses are in a file as soon as all listen."""
    handlers: dict[str, Handler] = {
        "api": Api(Log(directory / API_LOG), seed),
        "files": FileHost(Log(directory / FILES_LOG), seed),
        "replies": ReplyService(Log(directory / REPLIES_LOG)),
    }
    started = {name: await serve(handler) for name, handler in handlers.items()}
    unfinished = directory / f"{ADDRESSES}.part"
    unfinished.write_text(json.dumps({name: url for name, (_, url) in started.items()}))
    unfinished.rename(directory / ADDRESSES)
    await asyncio.gather(*(server.serve_forever() for server, _ in started.values()))


if __name__ == "__main__":
    asyncio.run(stand_in(Path(sys.argv[1]), int(sys.argv[2])))
