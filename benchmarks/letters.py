"""Dead letters by the million: what the server works for a question, what one takes of its memory, and
what it takes to write one, beside a plain hash of JSON texts with a sorted set by time.

Times are the server's own, as it counts them by command; the letters are those that a worker writes.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Any

from redis.asyncio import Redis

from benchmarks.harness import in_turns
from benchmarks.report import Bound, Line, microseconds
from jobguard import DeadLetterQueue, Filter
from jobguard.adapters.arq import ArqQueue
from jobguard.job import AttemptError
from jobguard.letters import entry_of
from jobguard.requeueing import Status
from jobguard.stores import RedisStore
from jobguard.stores.commands import load_script
from jobguard.stores.entries import pack
from jobguard.stores.letters import (
    LARGEST_REMOVAL,
    DeadLetter,
    Dimension,
    Entry,
    LetterPage,
    LetterQuery,
    LetterQueue,
)
from jobguard.testing import EmbeddedValkey

ENTRIES = 1_000_000
BATCH = 500
TIMES = 200
"""How often each question is asked."""
PAGE = 50
MILLISECOND = Bound(1.0)
LONGEST = Bound(10.0)
"""Milliseconds for which a command may keep all others waiting."""
MEMORY = Bound(1.2)
WRITING = Bound(1.3)

REQUEUED = 20_000
"""Letters that are requeued: all of them take the same commands, one letter's at a time."""
SLOW = 200
"""Microseconds of a command from which on the server notes how long it took."""

QUEUE = LetterQueue("jobguard", "default")
EVERYTHING = LetterQuery(state=None)
TASKS = [
    f"app.{module}.{verb}"
    for module in ("mail", "billing", "search")
    for verb in ("send", "sync", "close", "retry")
]
ERRORS = [
    "TimeoutError", "ValueError", "KeyError", "RuntimeError", "httpx.ReadTimeout", "httpx.ConnectError",
    "redis.exceptions.ConnectionError", "app.errors.Rejected", "jobguard.errors.JobTimeout",
]  # fmt: skip
PRINTS = [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(1, 41)]
BEGAN = 1_764_000_000


def letters(seed: int) -> Iterator[DeadLetter]:
    """Letters without end, the same for the same seed."""
    draw = random.Random(seed)
    while True:
        message = f"no order {draw.randrange(10**8)}"
        arguments = json.dumps({"args": [draw.randrange(10**12)], "kwargs": {}}, separators=(",", ":"))
        error, at = draw.choice(ERRORS), BEGAN + draw.random() * 1e6
        yield DeadLetter(
            id=f"{draw.getrandbits(96):024x}",
            adapter="arq",
            queue="arq:queue",
            task=draw.choice(TASKS),
            job_id=f"{draw.getrandbits(128):032x}",
            enqueued_ms=int(at * 1000) - draw.randrange(10_000),
            key=f"jobguard:{draw.getrandbits(128):032x}" if draw.random() < 0.5 else None,
            payload=arguments,
            payload_format="json",
            preview=arguments,
            error_type=error,
            error_message=message,
            traceback="",
            causes=(),
            reason="exhausted",
            fingerprint=draw.choice(PRINTS),
            attempts=(AttemptError(1, at, error, message),),
            failures=1,
            interruptions=0,
            crashes=0,
            first_seen=at - draw.random(),
            failed_at=at,
            worker=f"worker-{draw.randrange(4)}:17",
        )


async def letter_writes() -> list[Line]:
    """Time to write one letter after the other, on one connection."""
    connect: Any = Redis.from_url
    with EmbeddedValkey() as server:
        async with connect(server.url) as client:
            store = RedisStore(client)
            fresh = map(entry_of, letters(1))

            async def ours(times: int) -> None:
                for entry in islice(fresh, times):
                    await store.letters.put(QUEUE, entry)

            async def plain(times: int) -> None:
                for entry in islice(fresh, times):
                    await _write_plainly(client, [entry])

            timings = await in_turns({"plain": plain, "ours": ours}, rounds=30, slice_seconds=0.1)
            await store.aclose()
    base, taken = timings["plain"], timings["ours"]
    return [
        Line("MULTI, HSET, ZADD, EXEC", microseconds(base.seconds), 1.0, "x plain"),
        Line("jobguard store", microseconds(taken.seconds), taken.over(base), "x plain", WRITING),
    ]


async def letter_questions(entries: int = ENTRIES) -> list[Line]:
    """The server's time for each question, its memory, and its longest command while all is cleared."""
    with EmbeddedValkey() as server:
        plain = await _memory_of(server, entries, _write_plainly)
    with EmbeddedValkey() as server:
        ours = await _memory_of(server, entries, _write_packed)
        connect: Any = Redis.from_url
        async with connect(server.url) as client:
            store = RedisStore(client)
            lines = [await _asked(client, name, ask) for name, ask in await _questions(store)]
            lines.append(await _requeued(client, store, min(REQUEUED, entries)))
            lines.append(await _cleared(client, store))
            await store.aclose()
    each, base = ours / entries, plain / entries
    memory = Line(f"memory of {entries:,} letters", f"{each:,.0f} B each", ours / plain, "x plain", MEMORY)
    return [
        Line("a plain hash and sorted set of them", f"{base:,.0f} B each", 1.0, "x plain"),
        memory,
        *lines,
    ]


Ask = Callable[[], Awaitable[object]]
Write = Callable[[Redis, Sequence[Entry]], Awaitable[None]]


async def _write_plainly(client: Redis, entries: Sequence[Entry]) -> None:
    async with client.pipeline(transaction=True) as pipeline:
        for entry in entries:
            pipeline.hset("plain:entries", entry.id, entry.text)
            pipeline.zadd("plain:by_time", {entry.id: BEGAN * 1_000_000 + secrets.randbits(40)})
        await pipeline.execute()


async def _write_packed(client: Redis, entries: Sequence[Entry]) -> None:
    """What the store sends, without waiting for each answer."""
    script = load_script("put_letter")
    stem = f"{{{QUEUE.namespace}:dlq:{QUEUE.name}}}"
    async with client.pipeline(transaction=False) as pipeline:
        run: Any = pipeline.evalsha  # which takes bytes too
        for entry in entries:
            run(script.sha, 1, stem, entry.id, *pack(entry), "", secrets.token_hex(8), "")
        await pipeline.execute()


async def _memory_of(server: EmbeddedValkey, entries: int, write: Write) -> int:
    """Bytes that a server grows by."""
    connect: Any = Redis.from_url
    async with connect(server.url) as client:
        store = RedisStore(client)
        first = next(letters(2))
        await store.letters.put(QUEUE, entry_of(first))  # which loads the script
        before = (await client.info("memory"))["used_memory"]
        fresh = map(entry_of, letters(3))
        for _ in range(0, entries, BATCH):
            await write(client, list(islice(fresh, BATCH)))
        await _forget_answers(client)
        after = (await client.info("memory"))["used_memory"]
        await store.aclose()
    return int(after - before)


async def _forget_answers(client: Redis) -> None:
    """Remove what is there for seconds only: answers for whoever has not got the first one."""
    answers = client.scan_iter("*:answer:*", count=10_000)
    async with client.pipeline(transaction=False) as pipeline:
        async for key in answers:
            pipeline.unlink(key)
            if len(pipeline) == BATCH:
                await pipeline.execute()
        await pipeline.execute()


async def _questions(store: RedisStore) -> list[tuple[str, Ask]]:
    """What is asked of a full queue."""
    ours, newest = store.letters, LetterQuery()
    task, kind = LetterQuery(task=TASKS[0]), LetterQuery(fingerprint=PRINTS[0])
    both = LetterQuery(task=TASKS[0], error=ERRORS[0])
    first = await ours.page(QUEUE, newest, 1)
    last = await ours.page(QUEUE, newest, 1, oldest_first=True)
    arrivals = first.entries[0].arrival, last.entries[0].arrival
    middle = str(sum(arrivals) // 2)
    id = first.entries[0].id
    return [
        ("totals", lambda: ours.totals(QUEUE)),
        ("count", lambda: ours.count(QUEUE, newest)),
        ("count by task, within a time", lambda: ours.count(QUEUE, task._replace(since=int(middle)))),
        ("tally of tasks", lambda: ours.tally(QUEUE, Dimension.TASK)),
        ("tally of fingerprints", lambda: ours.tally(QUEUE, Dimension.FINGERPRINT)),
        ("tally of fingerprints since", lambda: ours.tally(QUEUE, Dimension.FINGERPRINT, since=int(middle))),
        ("get", lambda: ours.get(QUEUE, id)),
        (f"page of {PAGE}, newest", lambda: ours.page(QUEUE, newest, PAGE)),
        (f"page of {PAGE}, deep", lambda: ours.page(QUEUE, newest, PAGE, middle)),
        (f"page of {PAGE}, of all states, deep", lambda: ours.page(QUEUE, LetterQuery(None), PAGE, middle)),
        (f"page of {PAGE} by task", lambda: ours.page(QUEUE, task, PAGE)),
        (f"page of {PAGE} by task, deep", lambda: ours.page(QUEUE, task, PAGE, middle)),
        (f"page of {PAGE} by fingerprint, deep", lambda: ours.page(QUEUE, kind, PAGE, middle)),
        (f"page of {PAGE} by task and error, deep", lambda: ours.page(QUEUE, both, PAGE, middle)),
    ]


async def _asked(client: Redis, name: str, ask: Ask) -> Line:
    await ask()
    took = median([await _duration(client, ask) for _ in range(TIMES)])
    return Line(name, f"{took:,.0f} µs", took / 1000, "ms", MILLISECOND)


async def _requeued(client: Redis, store: RedisStore, number: int) -> Line:
    """Put many letters' jobs into their queues, as fast as it goes; the letters are of all states then."""
    configure: Any = client.config_set
    await configure("slowlog-log-slower-than", SLOW)
    await configure("slowlog-max-len", 100_000)
    await client.slowlog_reset()
    queue = DeadLetterQueue(store, QUEUE.name, namespace=QUEUE.namespace)
    began = perf_counter()
    report = await queue.requeue(Filter(), via=ArqQueue(client), limit=number, unserved=True)
    seconds = perf_counter() - began
    if report.counts != {Status.REQUEUED: number}:
        raise RuntimeError(f"all {number} letters should have been requeued, not {report.counts}")
    slow: list[dict[str, Any]] = await client.slowlog_get(100_000)
    longest = max((entry["duration"] for entry in slow), default=SLOW)
    what = f"longest command while {number:,} are requeued"
    return Line(what, f"{number / seconds:,.0f} a second", longest / 1000, "ms", LONGEST)


async def _cleared(client: Redis, store: RedisStore) -> Line:
    """Remove everything, as a caller does who clears a queue."""
    pages: list[LetterPage] = []
    longest = 0
    while not pages or pages[-1].cursor is not None:
        cursor = pages.pop().cursor if pages else None

        async def look(cursor: str | None = cursor) -> None:
            pages.append(
                await store.letters.page(
                    QUEUE, EVERYTHING, LARGEST_REMOVAL, cursor, oldest_first=True, texts=False
                )
            )

        async def remove() -> None:
            meant = [(entry.id, entry.revision) for entry in pages[-1].entries]
            if not all(await store.letters.remove(QUEUE, meant)):
                raise RuntimeError("every letter of a page should have been there to be removed")

        for step in (look, remove):
            longest = max(longest, await _duration(client, step))
    left = await store.letters.count(QUEUE, EVERYTHING)
    if left:
        raise RuntimeError(f"{left} letters should have been removed with the others")
    return Line("longest command while all is cleared", f"{longest:,.0f} µs", longest / 1000, "ms", LONGEST)


async def _duration(client: Redis, ask: Ask) -> int:
    """Microseconds that the server works for one operation: a script, or a plain command."""
    before = await client.info("commandstats")
    await ask()
    after = await client.info("commandstats")
    for command in ("cmdstat_evalsha", "cmdstat_hget"):
        calls, took = (after[command][each] - before[command][each] for each in ("calls", "usec"))
        if calls:
            if calls != 1:
                raise RuntimeError(f"one operation should be one command, not {calls} of {command}")
            return int(took)
    raise RuntimeError("the server should have counted a command")
