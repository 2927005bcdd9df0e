"""The recipe for a task of your own: write it, decorate it, register it, test it.

    python examples/add_a_task.py      runs the tests below; so does pytest, given this file

Nothing here needs a server, the tests included.
"""

# ruff: noqa: T201  (run as a script, it says which tests have passed)

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

from arq.connections import RedisSettings

from jobguard import Duplicate, GiveUp, JobGuard, dead_letter, deduplicated, exponential, retrying
from jobguard.adapters.arq import protect
from jobguard.errors import RetriesExhausted
from jobguard.stores import MemoryStore
from jobguard.testing import no_wait

# 1. Write it. What it works with comes out of ctx, so that a test can hand in something else.


class Mailer(Protocol):
    """Sends mail. `ConnectionError` is worth another try, `LookupError` (no such address) is not."""

    async def send(self, to: str, subject: str) -> str: ...


# 2. Decorate it. The key is what makes two jobs the same work: here, one mail for one invoice.
#    Retry what may pass, give up on what will not, and keep what could not be done.


@deduplicated(key="{invoice}", ttl=timedelta(days=7))
@retrying(on=ConnectionError, attempts=4, backoff=exponential(10, cap=600))
@dead_letter(queue="invoices", redact=("address",))
async def mail_invoice(ctx: dict[str, Any], invoice: str, address: str) -> str:
    """Mail an invoice; the mail server's id of the message."""
    mailer: Mailer = ctx["mailer"]
    try:
        return await mailer.send(address, f"Invoice {invoice}")
    except LookupError as error:
        raise GiveUp("there is no such address") from error


# 3. Register it. `arq examples.add_a_task.WorkerSettings` would serve it, given a mailer in on_startup.


@protect
class WorkerSettings:
    functions = [mail_invoice]  # noqa: RUF012
    redis_settings = RedisSettings(host="localhost")


# 4. Test it: what it does once, what it does again, and what it does not. Called outside of a queue, the
#    decorators work all the same; a store in memory makes each test start from nothing.


class FakeMailer:
    """Fails as it is told, then sends."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.sent: list[str] = []

    async def send(self, to: str, subject: str) -> str:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(f"{subject} to {to}")
        return f"mail-{len(self.sent)}"


def test_two_jobs_for_one_invoice_send_one_mail() -> None:
    mailer = FakeMailer()

    async def story() -> list[str | Duplicate]:
        async with JobGuard(MemoryStore()):
            return [await mail_invoice({"mailer": mailer}, "2024-7", "a@example.org") for _ in range(2)]

    assert asyncio.run(story()) == ["mail-1", "mail-1"]
    assert mailer.sent == ["Invoice 2024-7 to a@example.org"]


def test_a_mail_server_that_is_down_for_a_moment_is_tried_again() -> None:
    mailer = FakeMailer(ConnectionError("down"))

    async def story() -> str | Duplicate:
        async with JobGuard(MemoryStore()):
            return await mail_invoice({"mailer": mailer}, "2024-7", "a@example.org")

    with no_wait():  # … without the seconds that a real retry waits
        assert asyncio.run(story()) == "mail-1"


def test_an_unknown_address_ends_as_a_dead_letter_at_once_and_does_not_show_there() -> None:
    mailer = FakeMailer(LookupError("a@example.org"), ConnectionError("not reached"))

    async def story() -> None:
        async with JobGuard(MemoryStore()) as guard:
            with suppress(RetriesExhausted):
                await mail_invoice({"mailer": mailer}, "2024-7", "a@example.org")
            (letter,) = (await guard.dead_letters("invoices").list()).entries
            assert letter.reason == "gave_up"
            assert "a@example.org" not in letter.preview + letter.error_message

    asyncio.run(story())
    assert len(mailer.failures) == 1


def run_tests() -> None:
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("passed:", name.removeprefix("test_").replace("_", " "))


if __name__ == "__main__":
    run_tests()
