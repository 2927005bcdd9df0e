"""Removes what a demo has left on a Redis that is not its own: `python -m examples.demo.clean_up RUN`.

Every key of a demo has the demo's random name in it, and no other key has; but for the jobs that run dead
letters again: ARQ's keys of these are named after the letter, and have the demo's name in their values.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from arq.constants import (
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from redis import Redis

BATCH = 500
PREFIXES = (job_key_prefix, result_key_prefix, in_progress_key_prefix, retry_key_prefix)
REPLAY = "replay:"
"""What the ids of such jobs begin with."""


def clean_up(url: str, run: str) -> None:
    """Remove the keys of one demo."""
    connect: Any = Redis  # redis-py's types are partly unknown
    client = connect.from_url(url)
    keys: list[bytes] = list(client.scan_iter(match=f"*{run}*", count=BATCH))
    for prefix in (job_key_prefix, result_key_prefix):
        for key in client.scan_iter(match=f"{prefix}{REPLAY}*", count=BATCH):
            if run.encode() in (client.get(key) or b""):
                job_id = key.removeprefix(prefix.encode())
                keys += [other.encode() + job_id for other in PREFIXES]
    for start in range(0, len(keys), BATCH):
        client.unlink(*keys[start : start + BATCH])
    client.close()


if __name__ == "__main__":
    clean_up(os.environ["REDIS_URL"], sys.argv[1])
