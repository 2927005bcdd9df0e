"""Scripts that run on the server of ARQ's queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from jobguard.stores.commands import Script, load_script


def load(name: str) -> Script:
    """A script of this package."""
    return load_script(name, "jobguard.adapters.arq")


async def run_script(
    client: Redis, script: Script, keys: Sequence[object], arguments: Sequence[object]
) -> Any:
    """Run a script by its hash, or in full on a server that does not know it. Raises what redis-py does."""
    untyped = cast(Any, client)
    try:
        return await untyped.evalsha(script.sha, len(keys), *keys, *arguments)
    except NoScriptError:
        return await untyped.eval(script.text, len(keys), *keys, *arguments)
