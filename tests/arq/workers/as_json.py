"""A worker whose payloads and results are JSON."""

from __future__ import annotations

import json
from typing import Any

from jobguard import constant, dead_letter, deduplicated, retrying
from jobguard.adapters.arq import protect
from tests.arq.workers.common import LEASE, REDIS, Context, configure, note_event, play


def dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, default=repr).encode()


def load(text: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    return value


@deduplicated(key="{label}")
@retrying(attempts=2, backoff=constant(0.1))
@dead_letter
async def keyed(ctx: Context, label: str, script: list[str]) -> str:
    return await play(ctx, label, script)


@protect(lease=LEASE, hooks=[note_event])
@configure
class WorkerSettings:
    functions = [keyed]  # noqa: RUF012
    redis_settings = REDIS
    job_serializer = dump
    job_deserializer = load
    poll_delay = 0.05
