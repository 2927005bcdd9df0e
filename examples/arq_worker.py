"""A worker for WhatsApp messages and downloads.

    arq examples.arq_worker.WorkerSettings      serves; examples/README.md says with which settings
    python examples/arq_worker.py               is a demo: hundreds of jobs, bad services, one SIGKILL,
                                                and dead letters that are run again at the end

A task says in its decorators what may happen to it, and its body only what is to be done.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import httpx

if __name__ == "__main__":  # run as a script, Python looks for imports beside it, not here
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.alerts import WebhookAlerts
from examples.demo.events import append_to
from examples.downloads import Downloaded, Downloads
from examples.remote import Refused, TryAgain, delay_asked_for
from examples.replies import Acknowledgement, Replies, ReplyService
from examples.settings import RedisFromEnv, Settings, Tuning
from examples.whatsapp import WhatsApp
from jobguard import Discard, GiveUp, dead_letter, deduplicated, exponential, fallback, retrying
from jobguard.adapters.arq import protect

Context = dict[Any, Any]

TUNING = Tuning.from_env(os.environ)
ALERTS = WebhookAlerts(TUNING.alert_url) if TUNING.alert_url else None
BACKOFF = exponential(TUNING.retry_first, cap=TUNING.retry_cap)
HOLDING_ANSWER = "Thank you for your message. We are a little slow today and will answer soon."


@deduplicated(key="{url}")
@retrying(backoff=BACKOFF, retry_after=delay_asked_for)
@dead_letter(queue="downloads")
async def download_content(ctx: Context, url: str) -> Downloaded:
    """Fetch a file into the download directory; a duplicate gets the result of the first."""
    downloads: Downloads = ctx["downloads"]
    try:
        file = await downloads.fetch(url)
    except Refused as error:
        raise GiveUp(f"not downloaded: {error}") from error
    ctx["logger"].info("downloaded %s, %d bytes", file["name"], file["size"])
    return file


# Nobody waits for what a webhook comes to, so a duplicate just says that it is one.
@deduplicated(key="{message_id}", done="skip")
@retrying(backoff=BACKOFF)
@dead_letter(queue="incoming", redact=("from_number", "user_message"))
async def handle_incoming_whatsapp_message(
    ctx: Context, customer_id: str, from_number: str, user_message: str, message_id: str
) -> str:
    """Answer a message: compose the reply and have it sent; the id of that job."""
    if user_message.strip() == "":
        raise Discard("a message without text wants no answer")
    reply = await compose_reply(ctx["replies"], customer_id, user_message)
    reply_id = f"reply-{message_id}"
    # Its id follows from the message's: run again after a crash, this enqueues nothing new.
    await ctx["redis"].enqueue_job(
        "send_whatsapp_message", to=from_number, content=reply, message_id=reply_id, _job_id=reply_id
    )
    ctx["logger"].info("answering message %r", message_id)
    return reply_id


# A guard of its own, inside the job: here the fallback is an answer to go on with, not the job's end.
@retrying(on=TryAgain, attempts=2, backoff=exponential(0.5, cap=5))
@fallback(HOLDING_ANSWER)
async def compose_reply(replies: Replies, customer_id: str, user_message: str) -> str:
    """The reply service's answer, or one that holds the customer off while it is down."""
    return await replies.answer(customer_id, user_message)


# Rate limits are part of the day's work here, so more attempts than the worker's three.
@deduplicated(key="{message_id}")
@retrying(attempts=5, backoff=BACKOFF, retry_after=delay_asked_for)
@dead_letter(queue="whatsapp", redact=("to", "content"), alert_over=20)
async def send_whatsapp_message(ctx: Context, to: str, content: str, message_id: str) -> str:
    """Send a text; WhatsApp's id of the message."""
    whatsapp: WhatsApp = ctx["whatsapp"]
    try:
        sent = await whatsapp.send_text(to, content, reference=message_id)
    except Refused as error:
        raise GiveUp(f"WhatsApp will not send this: {error}") from error
    ctx["logger"].info("sent %r as %r", message_id, sent)
    return sent


async def startup(ctx: Context) -> None:
    """Put into ctx what the tasks work with."""
    settings = Settings.from_env(os.environ)
    client = httpx.AsyncClient(timeout=httpx.Timeout(60, connect=10))
    ctx["logger"] = logging.getLogger("arq.worker.whatsapp")  # below a logger that `arq` sets up
    ctx["client"] = client
    ctx["whatsapp"] = WhatsApp(
        client, settings.whatsapp_api_url, settings.whatsapp_token, settings.whatsapp_phone_number_id
    )
    ctx["downloads"] = downloads = Downloads(client, settings.download_dir, TUNING.download_limit)
    ctx["replies"] = ReplyService(client, TUNING.reply_url) if TUNING.reply_url else Acknowledgement()
    swept = downloads.sweep(older_than=2 * TUNING.job_timeout)
    ctx["logger"].info("ready; %d parts of broken downloads removed", swept)


async def shutdown(ctx: Context) -> None:
    """Close what startup opened."""
    if "client" in ctx:
        await ctx["client"].aclose()
    if ALERTS is not None:
        await asyncio.to_thread(ALERTS.close)


@protect(
    lease=TUNING.lease,
    namespace=TUNING.namespace,
    hooks=[*([append_to(TUNING.event_log)] if TUNING.event_log else []), *([ALERTS] if ALERTS else [])],
)
class WorkerSettings:
    """What the `arq` command reads."""

    functions = [download_content, handle_incoming_whatsapp_message, send_whatsapp_message]  # noqa: RUF012
    redis_settings = RedisFromEnv()
    queue_name = TUNING.queue
    on_startup = startup
    on_shutdown = shutdown
    max_jobs = 10
    job_timeout = TUNING.job_timeout
    keep_result = 3600
    max_tries = 3
    retry_jobs = True
    poll_delay = TUNING.poll_delay


if __name__ == "__main__":
    from examples.demo.main import main

    sys.exit(main(sys.argv[1:]))
