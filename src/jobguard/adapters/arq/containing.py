"""User code that raises `SystemExit` or `KeyboardInterrupt` ends its worker in order."""

from __future__ import annotations

import functools
from typing import Any


class Exited(BaseException):
    """The user's code raised one of the two, on which asyncio drops everything."""


def contained(call: Any) -> Any:
    """A body or hook that raises `Exited` instead."""

    @functools.wraps(call)
    async def run(ctx: dict[Any, Any], /, *args: Any, **kwargs: Any) -> object:
        try:
            return await call(ctx, *args, **kwargs)
        except (SystemExit, KeyboardInterrupt) as error:
            raise Exited(f"{getattr(call, '__qualname__', call)} raised {error!r}") from error

    return run
