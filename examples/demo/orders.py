"""The jobs of a demo, all drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from examples.demo.stand_ins import UNKNOWN_NUMBER

INCOMING, SEND, DOWNLOAD = "handle_incoming_whatsapp_message", "send_whatsapp_message", "download_content"
FEWEST = 20
"""Jobs that a demo must have at least, for every kind of them to be there."""


@dataclass(frozen=True, slots=True)
class Order:
    """A job to enqueue.

    Attributes:
        job_id: ARQ's id of it.
        task: the task's name.
        subject: what makes it this piece of work: a message's id, or a URL.
        arguments: of the task.
        late: it is enqueued after the worker was killed.
    """

    job_id: str
    task: str
    subject: str
    arguments: tuple[str, ...]
    late: bool = False


def draw_orders(jobs: int, seed: int, run: str, files_url: str) -> list[Order]:
    """As many orders as asked for, one in five of them a webhook that is delivered again.

    Half of those come close to the first delivery, half much later, as WhatsApp does it.
    """
    draw = random.Random(seed)
    redelivered = jobs // 5
    downloads = jobs // 8
    incoming = jobs // 2
    sends = jobs - redelivered - downloads - incoming
    webhooks = [_incoming(f"wamid.{run}.{number}", number, draw) for number in range(incoming)]
    orders = [
        *webhooks,
        *(_send(f"note.{run}.{number}", draw) for number in range(sends)),
        *(_download(f"file.{run}.{number}", number, files_url) for number in range(downloads)),
    ]
    draw.shuffle(orders)
    # A message without text fails, and of what has failed a duplicate is not skipped but run.
    answerable = [webhook for webhook in webhooks if webhook.arguments[2] != ""]
    for number, first in enumerate(draw.sample(answerable, redelivered)):
        late = number % 2 == 1
        again = Order(f"{first.job_id}.again", first.task, first.subject, first.arguments, late)
        orders.insert(orders.index(first) + draw.randint(1, 5), again)
    return orders


def _incoming(message_id: str, number: int, draw: random.Random) -> Order:
    text = "" if number % 50 == 49 else f"Where is order {draw.randint(1000, 9999)}?"
    arguments = (f"customer-{number}", _phone(draw), text, message_id)
    return Order(f"incoming.{message_id}", INCOMING, message_id, arguments)


def _send(message_id: str, draw: random.Random) -> Order:
    arguments = (_phone(draw), "Your order is on its way.", message_id)
    return Order(f"send.{message_id}", SEND, message_id, arguments)


def _download(name: str, number: int, files_url: str) -> Order:
    kind = {3: "missing", 9: "private", 15: "huge"}.get(number % 18, "file")
    url = f"{files_url}/{kind}/{name}.jpg"
    return Order(f"download.{name}", DOWNLOAD, url, (url,))


def _phone(draw: random.Random) -> str:
    """A number from a range that is kept free for fiction; one in forty is of nobody on WhatsApp."""
    return f"120255501{UNKNOWN_NUMBER if draw.random() < 1 / 40 else f'{draw.randint(1, 99):02}'}"
