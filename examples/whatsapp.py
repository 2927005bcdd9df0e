"""The WhatsApp Cloud API, as far as sending a text needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import httpx

from examples.remote import Refused, TryAgain, passes, retry_after

RATE_LIMITS: Final = {
    130429: 10.0,  # messages a second, of the phone number
    131056: 6.0,  # messages to one recipient: one in six seconds in the long run
    80007: 300.0,  # requests an hour, of the business account
}
"""Codes that say "too fast", and the seconds to wait where no Retry-After header says."""

PASSING: Final = frozenset({1, 2, 4, 131000, 131016, 133004, 133005})
"""Codes for failures on the API's own side, or for being asked too often."""

REFUSALS: Final = frozenset({0, 3, 10, 100, 190, 131026, 131030})
"""Codes for a bad token, a missing permission, a bad parameter or a recipient that cannot get messages."""


class WhatsAppBusy(TryAgain):
    """The API cannot take the message now."""


class WhatsAppRefused(Refused):
    """The API will not take the message: a missing permission, a bad parameter."""


# Classes of their own, since dead letters are grouped by class: each of these wants another cure.


class WhatsAppTokenExpired(WhatsAppRefused):
    """The access token is no longer good. With a new one the same message can go out."""


class WhatsAppUndeliverable(WhatsAppRefused):
    """The recipient cannot get messages: not on WhatsApp, or not on the list of an app in development."""


KINDS: Final[dict[int | None, type[WhatsAppRefused]]] = {
    0: WhatsAppTokenExpired,
    190: WhatsAppTokenExpired,
    131026: WhatsAppUndeliverable,
    131030: WhatsAppUndeliverable,
}
"""Refusals that say more than that the message is refused."""


@dataclass(frozen=True, slots=True)
class WhatsApp:
    """Sends messages from one phone number.

    Args:
        client: carries the requests.
        url: base of the API with its version, as `https://graph.facebook.com/v21.0`.
        token: access token.
        phone_number_id: which number to send from.
    """

    client: httpx.AsyncClient
    url: str
    token: str
    phone_number_id: str

    def __repr__(self) -> str:
        return f"WhatsApp({self.url!r}, phone_number_id={self.phone_number_id!r})"

    async def send_text(self, to: str, content: str, reference: str) -> str:
        """Send a text; the API's id of the message.

        Args:
            to: phone number of the recipient.
            content: the text.
            reference: comes back in the API's status webhooks. The API does not deduplicate by it.

        Raises:
            WhatsAppBusy: try again, after `retry_after` seconds if it is set.
            WhatsAppRefused: do not.
        """
        message = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": to,
            "type": "text",
            "text": {"preview_url": False, "body": content},
            "biz_opaque_callback_data": reference,
        }
        try:
            response = await self.client.post(
                f"{self.url.rstrip('/')}/{self.phone_number_id}/messages",
                headers={"Authorization": f"Bearer {self.token}"},
                json=message,
            )
        except httpx.TransportError as error:
            raise WhatsAppBusy(f"no answer from the API: {type(error).__name__}") from error
        if not response.is_success:
            raise _error(response)
        return _message_id(response)


def _message_id(response: httpx.Response) -> str:
    try:
        return str(response.json()["messages"][0]["id"])
    except (ValueError, LookupError, TypeError):
        # The message is out: to call this a failure would send it again.
        return ""


def _error(response: httpx.Response) -> WhatsAppBusy | WhatsAppRefused:
    """The exception for an error response: its body's code decides, then the HTTP status."""
    status = response.status_code
    code, message = _code_and_message(response)
    if code is None:
        text = f"HTTP {status}"
    else:  # most of its messages begin with the code, but not all
        text = message if str(code) in message else f"(#{code}) {message}".rstrip()
    delay = retry_after(response)
    if code in RATE_LIMITS:
        return WhatsAppBusy(text, RATE_LIMITS[code] if delay is None else delay)
    if code in PASSING:
        return WhatsAppBusy(text, delay)
    if code in REFUSALS or not passes(status):
        return KINDS.get(code, WhatsAppRefused)(text)
    return WhatsAppBusy(text, delay)


def _code_and_message(response: httpx.Response) -> tuple[int | None, str]:
    """What `{"error": {"code": ..., "message": ...}}` says, or nothing: proxies answer in HTML."""
    try:
        error: Any = response.json()["error"]
        code = error["code"]
        message = error.get("message", "")
    except (ValueError, LookupError, TypeError, AttributeError):
        return None, ""
    if isinstance(code, bool) or not isinstance(code, int):
        return None, ""
    return code, message if isinstance(message, str) else ""
