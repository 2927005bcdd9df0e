"""One of a queue's workers looks through the whole queue now and then, for payloads that run out.

A queue of ARQ holds ids; each job's payload is a key of its own, which ends at a time of its own. When it
has, the job cannot be run, and ARQ forgets it as soon as a worker comes to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix, retry_key_prefix
from arq.jobs import Deserializer

from jobguard.adapters.arq.delivery import NO_EXPIRY, is_given
from jobguard.adapters.arq.incoming import enqueued_ms
from jobguard.adapters.arq.outages import end, shown
from jobguard.adapters.arq.replay import PAYLOAD_LIFE_MS
from jobguard.adapters.arq.scripts import load, run_script
from jobguard.events import StoreFailed
from jobguard.leases import new_token
from jobguard.runtime import Runtime
from jobguard.stores.batching import secrets_of

if TYPE_CHECKING:
    from arq.connections import ArqRedis

logger: logging.Logger = logging.getLogger("jobguard.arq")

BATCH = 500
"""Entries looked at by one script call, at most."""
PAGE = 450
"""Entries asked for at once; there may be a few more."""
PAUSE = 0.02
"""Seconds between two pages, for the server and the worker's event loop."""
MARGIN = 3
"""How many sweeps a payload has to outlast, or it is extended."""
AGAIN = 5.0
"""Seconds after which a sweep that failed is tried again, at most."""
READ, READ_BYTES = 100, 2**20
"""Payloads fetched at once, and the bytes from which on it is no more of them."""
MARKED = 100
"""Entries whose payload has gone that one script call deals with."""

_LOOK = load("look")
_EXTEND = load("extend")
_MARK_EXPIRED = load("mark_expired")
_JOB = job_key_prefix.encode()
_KEYS = tuple(
    prefix.encode()
    for prefix in (job_key_prefix, in_progress_key_prefix, result_key_prefix, retry_key_prefix)
)
"""What comes before a job's id in the names of its keys, in the order in which the script wants them."""


class Waning(NamedTuple):
    """A payload that is about to run out: its job's id, when (Unix ms on the server's clock), its bytes."""

    id: bytes
    ends_ms: int
    size: int


class Sweeper:
    """Sweeps a queue from `start` to `aclose`, unless another of its workers does.

    Payloads about to run out are extended, except those that an `_expires` was given for. Where one has gone,
    what is known of the job is put in its place, for whichever worker comes first to dead-letter.

    A payload that has less than three times `every` left is extended. Between two looks at it lie `every`,
    the time of a sweep and, where the worker that swept has died, a lease; so nothing runs out unseen unless
    a sweep takes longer than `every`, which at the default of 10 minutes is a queue of more than 10 million.

    Args:
        pool: the worker's connection.
        runtime: whose namespace and lease count, and whose hooks are told of failures.
        queue: its name.
        deserializer: how the worker reads payloads; None = ARQ's way.
        every: seconds from the end of a sweep to the next one's begin, whichever worker makes it.
    """

    def __init__(
        self,
        pool: ArqRedis,
        runtime: Runtime,
        queue: str,
        deserializer: Deserializer | None,
        every: float,
    ) -> None:
        self._pool = pool
        self._runtime = runtime
        self._queue = queue
        self._deserializer = deserializer
        self._every = every
        self._right = f"{runtime.namespace}:sweep:{queue}"
        self._token = new_token()
        self._lease_ms = int(runtime.lease * 1000)
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._work = asyncio.get_running_loop().create_task(self._go_on())

    async def aclose(self) -> None:
        """Stop, also in the middle of a sweep: the right to it ends by itself, and another begins anew."""
        if self._work is not None:
            await end(self._work)

    async def _go_on(self) -> None:
        while True:
            try:
                pause = await self.turn()
            except Exception as error:  # nothing that is wrong here may keep the worker from its jobs
                said = shown(error, secrets_of(self._pool))
                self._runtime.emit(StoreFailed(task="", operation="sweep", error=said))
                pause = min(AGAIN, self._every)
            await asyncio.sleep(pause)

    async def turn(self) -> float:
        """Sweep, unless another worker does so or has done so lately; seconds until the next turn."""
        if await self._pool.set(self._right, self._token, nx=True, px=self._lease_ms) and await self._sweep():
            # Whoever sweeps, the queue was swept; that keeps the others from it for a while.
            await self._pool.set(self._right, b"swept", px=max(int(self._every * 1000), 1))
            return self._every
        left = await self._pool.pttl(self._right)
        return self._every if left == NO_EXPIRY else min(max(left, 0) / 1000 + PAUSE, self._every)

    async def _sweep(self) -> bool:
        """Look at all entries that stay in the queue meanwhile; False = another worker has taken over."""
        cursor, extended, expired = 0, 0, 0
        scan = cast(Any, self._pool).zscan  # redis-py types it in part
        while True:
            # Its pages are by hash, so that none is missed for those that come, go or are put off.
            cursor, found = await scan(self._queue, cursor, count=PAGE)
            ids: list[bytes] = [id for id, _ in found]
            for at in range(0, len(ids), BATCH):
                looked = await self._look(ids[at : at + BATCH])
                if looked is None:
                    return False
                waning, gone = looked
                extended += await self._extend(waning)
                expired += await self._mark_expired(gone)
            if cursor == 0:
                break
            await asyncio.sleep(PAUSE)
        if extended or expired:
            logger.info("swept %r: payloads extended: %d, run out: %d", self._queue, extended, expired)
        return True

    async def _look(self, ids: Sequence[bytes]) -> tuple[list[Waning], list[bytes]] | None:
        """What of these entries' payloads is about to run out, and of which it has gone."""
        keys = [self._right, *(_JOB + id for id in ids)]
        margin = int(MARGIN * self._every * 1000)
        reply: Any = await run_script(self._pool, _LOOK, keys, (self._token, self._lease_ms, margin))
        if reply == 0:
            return None
        now, *told = cast("list[int]", reply)
        waning: list[Waning] = []
        gone: list[bytes] = []
        for place, left, size in zip(told[0::3], told[1::3], told[2::3], strict=True):
            if left < 0:
                gone.append(ids[place])
            else:
                waning.append(Waning(ids[place], now + left, size))
        return waning, gone

    async def _extend(self, waning: Sequence[Waning]) -> int:
        """Extend what nobody said to let run out; how many those are."""
        extended = 0
        for some in _in_portions(waning):
            raws = await self._pool.mget([_JOB + each.id for each in some])
            keys: list[bytes] = []
            digests: list[str] = []
            for each, raw in zip(some, raws, strict=True):
                if raw is not None and not self._is_given(each, raw):
                    keys.append(_JOB + each.id)
                    digests.append(sha1(raw, usedforsecurity=False).hexdigest())
            if keys:
                extended += await run_script(self._pool, _EXTEND, keys, (PAYLOAD_LIFE_MS, *digests))
        return extended

    def _is_given(self, waning: Waning, raw: bytes) -> bool:
        enqueued = enqueued_ms(raw, self._deserializer)
        return enqueued is not None and is_given(waning.ends_ms, enqueued)

    async def _mark_expired(self, gone: Sequence[bytes]) -> int:
        """Have jobs delivered whose payload has gone; how many of them it still has."""
        marked = 0
        for at in range(0, len(gone), MARKED):
            some = gone[at : at + MARKED]
            keys = [self._queue, *(prefix + id for id in some for prefix in _KEYS)]
            arguments = (new_token(), PAYLOAD_LIFE_MS, *some)
            marked += await run_script(self._pool, _MARK_EXPIRED, keys, arguments)
        return marked


def _in_portions(waning: Sequence[Waning]) -> Iterator[list[Waning]]:
    """Payloads in portions that are not too large to be held at once."""
    portion: list[Waning] = []
    for each in waning:
        if portion and (len(portion) == READ or sum(one.size for one in portion) + each.size > READ_BYTES):
            yield portion
            portion = []
        portion.append(each)
    if portion:
        yield portion
