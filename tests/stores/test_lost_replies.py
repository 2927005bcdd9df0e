"""Every operation is executed, its reply is lost, and the one that is sent again answers as the first had.

An operation is done twice on empty servers: undisturbed, and with its first reply lost. Answers and all that
the server holds are then the same, times apart.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import anyio.lowlevel
import pytest
from arq.connections import RedisSettings
from arq.worker import create_worker
from arq.worker import func as arq_function
from redis.asyncio import Redis

from jobguard.adapters.arq import create_pool, protect
from jobguard.adapters.arq.replay import ArqQueue
from jobguard.adapters.base import Replay, ReplayJob
from jobguard.errors import StoreUnavailable
from jobguard.meeting import took_over
from jobguard.stores import RedisStore, batching
from jobguard.stores.base import (
    Claim,
    ClaimReply,
    LetterStore,
    Record,
    Renewal,
    Settlement,
    State,
    Store,
    Verdict,
)
from jobguard.stores.commands import Command, Script, load_script
from jobguard.stores.letters import Dimension, Entry, LetterQuery, LetterQueue, LetterState, Totals
from jobguard.testing import EmbeddedValkey
from tests.stores.conftest import Wire

pytestmark = pytest.mark.anyio

LONG, SHORT = 60.0, 0.02
"""Seconds that no test takes, and that a test waits for."""

CLAIM = Claim("jobguard:k", "one", "t", LONG, LONG, "print")
OTHER = CLAIM._replace(owner="two", token="u", fingerprint="another print")
ENDED = Settlement("jobguard:k", "one", "t", 1, State.SUCCESS, LONG, LONG, body="done", fingerprint="print")
RETRY = ENDED._replace(state=State.RETRY, body=None, overdue=LONG, history="failed once")
LATE = RETRY._replace(lasts=0.0, overdue=0.0)

QUEUE = LetterQueue("jobguard", "q")
LETTER = Entry("a", LetterState.DEAD, "send", "E", "f", "key", "text")

Act = Callable[[RedisStore], Awaitable[object]]


async def nothing(store: RedisStore) -> None:
    """An empty server."""


def after(*steps: Act) -> Act:
    """What was there before: these, one after the other."""

    async def prepare(store: RedisStore) -> None:
        for step in steps:
            await step(store)

    return prepare


def claimed(claim: Claim) -> Act:
    return lambda store: store.claim(claim)


def settled(settlement: Settlement) -> Act:
    return lambda store: store.settle(settlement)


def kept(letter: Entry, arrival: int | None = None, *, alert_over: int | None = None) -> Act:
    return lambda store: store.letters.put(QUEUE, letter, arrival, alert_over=alert_over)


def replaced(letter: Entry, *, arrive: bool = False) -> Act:
    return lambda store: store.letters.replace(QUEUE, letter, arrive=arrive, alert_over=0)


async def wait_out(store: RedisStore) -> None:
    """The lease or the delay of the record is over."""
    with anyio.fail_after(20):
        while (record := await store.look_up("jobguard:k")) is None or record.wait > 0:  # noqa: ASYNC110
            await anyio.sleep(SHORT / 4)


crashed = after(claimed(CLAIM._replace(lease=SHORT)), wait_out)
two_letters = after(kept(LETTER), kept(LETTER._replace(id="b", key="", task="pay")))


@dataclass(frozen=True)
class Case:
    """An operation in one of the situations that it meets.

    Attributes:
        operation: the method; those of letters are called `letters.put` and so on.
        script: that it runs, or None.
        act: calls it.
        before: what comes before it.
        situation: in a few words.
    """

    operation: str
    script: str | None
    act: Act
    before: Act = nothing
    situation: str = "once"


def claim(situation: str, claim: Claim = CLAIM, *before: Act) -> Case:
    async def act(store: RedisStore) -> object:
        reply = await store.claim(claim)
        if reply.verdict is not Verdict.GRANTED or took_over(reply, claim.owner):
            return reply
        # What was known of a key that was free, or one's own, only the first claim can say; nobody asks.
        return reply._replace(state=None, owner="", fingerprint="")

    return Case("claim", "claim", act, after(*before), situation)


def settle(situation: str, settlement: Settlement, *before: Act) -> Case:
    return Case("settle", "settle", settled(settlement), after(*before), situation)


def put(situation: str, letter: Entry = LETTER, arrival: int | None = None, before: Act = nothing) -> Case:
    return Case("letters.put", "put_letter", kept(letter, arrival, alert_over=0), before, situation)


def replace(situation: str, letter: Entry, *, arrive: bool = False) -> Case:
    return Case("letters.replace", "replace_letter", replaced(letter, arrive=arrive), kept(LETTER), situation)


def remove(situation: str, *entries: tuple[str, int | None], evicted: bool = False) -> Case:
    def act(store: RedisStore) -> Awaitable[object]:
        return store.letters.remove(QUEUE, entries, evicted=evicted)

    return Case("letters.remove", "remove_letters", act, two_letters, situation)


def forget(situation: str, before: Act) -> Case:
    return Case("forget", "forget", lambda store: store.forget("jobguard:k"), before, situation)


def reading(operation: str, script: str | None, act: Act) -> Case:
    return Case(operation, script, act, after(claimed(CLAIM), two_letters))


CASES = [
    claim("of a free key"),
    claim("of one's own crashed run", CLAIM._replace(token="v"), crashed),
    claim("of another's crashed run", OTHER, crashed),
    claim("of one's own retry", CLAIM._replace(token="v"), claimed(CLAIM), settled(LATE), wait_out),
    claim("of another's overdue retry", OTHER, claimed(CLAIM), settled(LATE), wait_out),
    claim(
        "of another's interrupted run", OTHER, claimed(CLAIM), settled(LATE._replace(state=State.INTERRUPTED))
    ),
    claim("of another's failure", OTHER, claimed(CLAIM), settled(ENDED._replace(state=State.FAILED))),
    claim("over another's success", OTHER._replace(rerun=True), claimed(CLAIM), settled(ENDED)),
    claim("of one's own running job", CLAIM._replace(token="v"), claimed(CLAIM)),
    claim("of another's running job", OTHER, claimed(CLAIM)),
    claim("of another's retry", OTHER, claimed(CLAIM), settled(RETRY)),
    claim("of another's success", OTHER, claimed(CLAIM), settled(ENDED)),
    claim("of one's own success", CLAIM._replace(token="v"), claimed(CLAIM), settled(ENDED)),
    claim(
        "of one's own dead letter", CLAIM, claimed(CLAIM), settled(ENDED._replace(state=State.DEAD_LETTER))
    ),
    Case(
        "renew",
        "renew",
        lambda store: store.renew(
            [Renewal("jobguard:k", "t", 2 * LONG), Renewal("jobguard:none", "t", LONG)]
        ),
        claimed(CLAIM),
    ),
    *(
        settle(f"{name} under a claim", each, claimed(CLAIM))
        for name, each in [
            ("success", ENDED),
            ("success without a result", ENDED._replace(body=None)),
            ("retry", RETRY),
            ("interruption", RETRY._replace(state=State.INTERRUPTED)),
            ("failure", ENDED._replace(state=State.FAILED)),
            ("dead letter", ENDED._replace(state=State.DEAD_LETTER)),
        ]
    ),
    settle("the first record of a job", RETRY._replace(fence=None)),
    settle(
        "the end of a job without a claim",
        ENDED._replace(fence=None, token="v"),
        settled(RETRY._replace(fence=None)),
    ),
    settle("another's claim", ENDED._replace(owner="two", token="u"), claimed(CLAIM)),
    Case("look_up", "look_up", lambda store: store.look_up("jobguard:k"), claimed(CLAIM)),
    forget("a record", claimed(CLAIM)),
    forget("nothing", nothing),
    Case("announce", "announce", lambda store: store.announce("jobguard", ["send", "pay"], LONG)),
    Case(
        "served",
        "served",
        lambda store: store.served("jobguard", "send"),
        lambda store: store.announce("jobguard", ["send"], LONG),
    ),
    put("a new one"),
    put("a new one from elsewhere", arrival=7),
    put("the first of its kind", before=kept(LETTER._replace(id="b", fingerprint="g"))),
    put("one that is there", LETTER._replace(text="later"), before=kept(LETTER)),
    replace("in its place", LETTER._replace(text="new", task="pay", revision=1)),
    replace("as the newest", LETTER._replace(text="new", revision=1), arrive=True),
    replace("the same text, resolved", LETTER._replace(state=LetterState.RESOLVED, revision=1)),
    replace("an old revision", LETTER._replace(text="new", revision=7)),
    remove("several", ("a", 1), ("b", None), ("c", None)),
    remove("a wrong revision", ("a", 2)),
    remove("evicted", ("a", None), evicted=True),
    reading("letters.get", None, lambda store: store.letters.get(QUEUE, "a")),
    reading("letters.find", "find_letter", lambda store: store.letters.find(QUEUE, "key")),
    reading("letters.page", "page_letters", lambda store: store.letters.page(QUEUE, LetterQuery(), 1)),
    reading("letters.count", "count_letters", lambda store: store.letters.count(QUEUE, LetterQuery())),
    reading(
        "letters.tally", "tally_letters", lambda store: store.letters.tally(QUEUE, Dimension.FINGERPRINT)
    ),
    reading("letters.totals", "total_letters", lambda store: store.letters.totals(QUEUE)),
    reading("letters.queues", None, lambda store: store.letters.queues("jobguard")),
]

SILENT = {"aclose"}
"""Operations that send nothing."""


def operations(protocol: type, prefix: str = "") -> set[str]:
    found = inspect.getmembers(protocol, inspect.iscoroutinefunction)
    return {prefix + name for name, _ in found if not name.startswith("_")}


def script_names() -> set[str]:
    """Every script there is; what begins with `_` is a part of some."""
    lua = files("jobguard.stores").joinpath("lua")
    names = {each.name.removesuffix(".lua") for each in lua.iterdir() if each.name.endswith(".lua")}
    return {name for name in names if not name.startswith("_")}


def test_every_operation_has_a_case() -> None:
    """A new method of the seam is not forgotten here."""
    expected = operations(Store) | operations(LetterStore, "letters.")
    assert {case.operation for case in CASES} == expected - SILENT


def test_every_script_has_a_case() -> None:
    """Nor is a new script."""
    assert {case.script for case in CASES} - {None} == script_names()


@pytest.fixture
def scripts_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the scripts that a store sends for the first time."""
    names = {load_script(name).sha: name for name in script_names()}
    run: list[str] = []

    def command(script: Script | None, *more: Any) -> Command:
        if script is not None:
            run.append(names[script.sha])
        return Command(script, *more)

    monkeypatch.setattr(batching, "Command", command)
    return run


async def on_an_empty_server(client: Redis) -> None:
    """No data, and every script known: the reply that is lost is not that a script is not."""
    await client.flushall()
    for name in script_names():
        await client.script_load(load_script(name).text.decode())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation} {case.situation}")
async def test_the_resend_answers_as_the_first_would_have(
    case: Case, wired_client: Redis, redis_client: Redis, wire: Wire, scripts_run: list[str]
) -> None:
    """With replies lost, an operation comes to what it comes to without, and leaves the same data."""
    store = RedisStore(wired_client)

    async def come_to(lost: int) -> tuple[object, dict[str, list[object]]]:
        await on_an_empty_server(redis_client)
        await case.before(store)
        scripts_run.clear()
        connections = wire.connections
        wire.lose_replies(lost)
        answer = await case.act(store)
        assert wire.connections == connections + lost  # it was sent again, on another connection
        return meaning(answer), await dump(redis_client)

    assert await come_to(1) == await come_to(0)
    assert scripts_run == [case.script] * (2 if case.operation == "renew" else case.script is not None)


def meaning(answer: object) -> object:
    """An answer without the times in it."""
    match answer:
        case ClaimReply() | Record():
            return answer._replace(fence=0, wait=round(answer.wait, -1), elapsed=round(answer.elapsed, -1))
        case Entry():
            return answer._replace(arrival=0)
        case Totals():
            return answer._replace(now=0)
        case _:
            return re.sub(r"\b\d{16}\b", "<time>", repr(answer))


TIMES = re.compile(rb"\b\d{13,16}\b")
AGE = re.compile(rb"^(\w[+-] \S+ \S+ \S+ \S+) -?\d+ ")
CALLS = re.compile(rb"(:answer:|:before:).*")
"""What ends with the random id of a call."""


async def dump(client: Any) -> dict[str, list[object]]:
    """All that a server holds, with the times to live to ten seconds, and without other times."""

    def timeless(value: bytes) -> bytes:
        return AGE.sub(rb"\1 <age> ", TIMES.sub(b"<time>", value))

    held: dict[str, list[object]] = {}
    for key in sorted(await client.keys()):
        match await client.type(key):
            case b"string":
                value: object = timeless(await client.get(key))
            case b"hash":
                fields: dict[bytes, bytes] = await client.hgetall(key)
                value = {field: timeless(text) for field, text in fields.items()}
            case b"set":
                value = await client.smembers(key)
            case _:
                pairs = await client.zrange(key, 0, -1, withscores=True)
                value = {member: "<time>" if score > 1e12 else score for member, score in pairs}
        lives = round(await client.pttl(key), -4)
        held.setdefault(CALLS.sub(rb"\1<token>", key).decode(), []).append((value, lives))
    return {key: sorted(values, key=repr) for key, values in held.items()}


async def test_a_call_knows_its_own_letter_from_a_later_one(
    wired_client: Redis, redis_client: Redis, wire: Wire
) -> None:
    """A removal that is sent again does not remove the letter that came after it, under the same id."""
    letters, others = RedisStore(wired_client).letters, RedisStore(redis_client).letters
    await on_an_empty_server(redis_client)
    await letters.put(QUEUE, LETTER)
    wire.lose_replies(1)
    removal = asyncio.ensure_future(letters.remove(QUEUE, [("a", None)]))
    await until(lambda: others.get(QUEUE, "a"), None)
    await others.put(QUEUE, LETTER._replace(text="another"))
    assert await removal == [True]
    there = await others.get(QUEUE, "a")
    assert there is not None
    assert there.text == "another"


async def test_a_letter_that_was_removed_meanwhile_does_not_come_back(
    wired_client: Redis, redis_client: Redis, wire: Wire
) -> None:
    """A letter is not kept anew by a call whose reply was lost, once somebody has dealt with it."""
    letters, others = RedisStore(wired_client).letters, RedisStore(redis_client).letters
    await on_an_empty_server(redis_client)
    wire.lose_replies(1)
    keeping = asyncio.ensure_future(letters.put(QUEUE, LETTER))
    await until(lambda: others.remove(QUEUE, [("a", None)]), [True])
    assert (await keeping).new is True
    assert await others.get(QUEUE, "a") is None


async def test_a_claim_that_came_after_is_not_forgotten(
    wired_client: Redis, redis_client: Redis, wire: Wire
) -> None:
    """To forget a key does not end a claim that was made since, when the reply was lost."""
    store, other = RedisStore(wired_client), RedisStore(redis_client)
    await on_an_empty_server(redis_client)
    await store.claim(CLAIM)
    wire.lose_replies(1)
    forgetting = asyncio.ensure_future(store.forget("jobguard:k"))
    await until(lambda: other.look_up("jobguard:k"), None)
    await other.claim(OTHER)
    assert await forgetting is True
    assert await other.look_up("jobguard:k") is not None


async def until(question: Callable[[], Awaitable[object]], answer: object) -> None:
    """Ask until this is the answer."""
    with anyio.fail_after(20):
        while await question() != answer:
            await anyio.lowlevel.checkpoint()


# ARQ's side

REPLAY = ReplayJob(Replay(QUEUE, "a", 1, False, ""), "arq:queue", "send", '{"args":[],"kwargs":{}}', "json")


async def test_a_job_whose_enqueueing_was_not_answered_waits_once(
    wired_client: Redis, redis_client: Redis, wire: Wire
) -> None:
    """Whoever asks again is told that the job waits already, and it does, as after one enqueueing."""
    queue = ArqQueue(wired_client)

    async def come_to(lost: int) -> dict[str, list[object]]:
        await queue.enqueue(REPLAY)  # so that the server knows the script
        await redis_client.flushall()
        wire.lose_replies(lost)
        if lost:
            with pytest.raises(StoreUnavailable):
                await queue.enqueue(REPLAY)
        assert await queue.enqueue(REPLAY) is not bool(lost)
        assert await queue.pending(REPLAY.queue, REPLAY.replay.job_id) is True
        return await dump(redis_client)

    assert await come_to(1) == await come_to(0)
    await redis_client.delete(REPLAY.queue)


async def test_a_mark_whose_renewal_was_not_answered_keeps_other_workers_off(
    redis_client: Redis, valkey: EmbeddedValkey, wire: Wire
) -> None:
    """A worker renews the mark of a running job again when a reply is lost: it is there all the time."""
    marked: list[bool] = []

    async def long(ctx: dict[Any, Any]) -> str:
        await until(lambda: redis_client.exists("arq:queue:health-check"), 1)  # then ARQ asks no more
        connections, beats = wire.connections, wire.round_trips
        wire.lose_replies(1)
        with anyio.fail_after(20):
            while wire.connections == connections or wire.round_trips < beats + 6:
                marked.append(await redis_client.exists(f"arq:in-progress:{ctx['job_id']}") == 1)
                await anyio.sleep(SHORT)
        return "done"

    settings = {
        "functions": [arq_function(long, name="long")],
        "redis_settings": RedisSettings(unix_socket_path=wire.url.removeprefix("unix://")),
        "poll_delay": LONG,  # else ARQ's own question might be the one that is not answered, and end it
    }
    pool = await create_pool(RedisSettings(unix_socket_path=valkey.socket_path))
    job = await pool.enqueue_job("long")
    assert job is not None
    worker = create_worker(protect(settings, lease=1.0), handle_signals=False)
    working = asyncio.ensure_future(worker.async_run())
    assert await job.result(timeout=20, poll_delay=SHORT) == "done"
    assert marked == [True] * len(marked)
    await worker.close()
    with suppress(asyncio.CancelledError):
        await working
    await pool.aclose()
