"""Removes what a demo has left on a Redis that is not its own: `python -m examples.demo.clean_up RUN`.

Every key of a demo has the demo's random name in it, and no other key has.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from redis import Redis

BATCH = 500


def clean_up(url: str, run: str) -> None:
    """Remove the keys of one demo."""
    connect: Any = Redis  # redis-py's types are partly unknown
    client = connect.from_url(url)
    keys: list[bytes] = list(client.scan_iter(match=f"*{run}*", count=BATCH))
    for start in range(0, len(keys), BATCH):
        client.unlink(*keys[start : start + BATCH])
    client.close()


if __name__ == "__main__":
    clean_up(os.environ["REDIS_URL"], sys.argv[1])
