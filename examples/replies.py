"""What to answer a customer with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import httpx

from examples.remote import TryAgain, failure


class Replies(Protocol):
    """Knows what to answer."""

    async def answer(self, customer_id: str, user_message: str) -> str: ...


class Acknowledgement:
    """Answers the same to everybody; serves where no reply service is configured."""

    async def answer(self, customer_id: str, user_message: str) -> str:
        return "Thank you, your message has arrived. We will answer as soon as we can."


@dataclass(frozen=True, slots=True)
class ReplyService:
    """Asks a service over HTTP: `{"customer_id", "message"}` in, `{"reply"}` out."""

    client: httpx.AsyncClient
    url: str

    async def answer(self, customer_id: str, user_message: str) -> str:
        """The service's reply.

        Raises:
            TryAgain: it is down, busy, or speaks nonsense.
            Refused: it does not want this message.
        """
        try:
            response = await self.client.post(
                self.url, json={"customer_id": customer_id, "message": user_message}
            )
        except httpx.TransportError as error:
            raise TryAgain(f"no answer from the reply service: {type(error).__name__}") from error
        if not response.is_success:
            raise failure(response)
        try:
            return str(response.json()["reply"])
        except (ValueError, LookupError, TypeError) as error:
            raise TryAgain("the reply service sent no reply") from error
