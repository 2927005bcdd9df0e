"""Scripts that run on the server of ARQ's queues."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from jobguard.stores.commands import Script


def load_script(name: str) -> Script:
    """A script out of its file."""
    text = files("jobguard.adapters.arq").joinpath("lua", f"{name}.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


async def run_script(
    client: Redis, script: Script, keys: Sequence[object], arguments: Sequence[object]
) -> Any:
    """Run a script by its hash, or in full on a server that does not know it. Raises what redis-py does."""
    untyped = cast(Any, client)
    try:
        return await untyped.evalsha(script.sha, len(keys), *keys, *arguments)
    except NoScriptError:
        return await untyped.eval(script.text, len(keys), *keys, *arguments)
