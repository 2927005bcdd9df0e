"""Servers that are not what they should be: each operation of a store ends, soon, and in an error of ours."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis._parsers import _AsyncRESP2Parser

from jobguard.cli import options
from jobguard.errors import StoreError, StoreUnavailable
from jobguard.stores import RedisStore, bounded
from jobguard.stores.base import Claim, ClaimReply, Record, Renewal, Settlement, SettleReply, State
from jobguard.stores.letters import (
    Dimension,
    Entry,
    Kept,
    LetterPage,
    LetterQuery,
    LetterQueue,
    LetterState,
    Tally,
    Totals,
)
from jobguard.stores.redis_letters import RedisLetters
from tests.cli.conftest import Desk
from tests.security.server import Server

pytestmark = pytest.mark.anyio

QUEUE = LetterQueue("jobguard", "q")
ENTRY = Entry("a", LetterState.DEAD, "send", "E", "f", "key", "text", 1)
SETTLEMENT = Settlement("k", "one", "t", 1, State.SUCCESS, 60.0, 60.0, body="done")


def _is(kind: type, *, none: bool = False) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind) or (none and value is None)


def _all(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(each, kind) for each in value)


def _nothing(value: object) -> bool:
    return value is None


Operation = tuple[Callable[[RedisStore], Awaitable[object]], Callable[[Any], bool]]

OPERATIONS: dict[str, Operation] = {
    "claim": (lambda store: store.claim(Claim("k", "one", "t", 60.0, 60.0)), _is(ClaimReply)),
    "renew": (lambda store: store.renew([Renewal("k", "t", 60.0), Renewal("l", "t", 60.0)]), _all(bool)),
    "settle": (lambda store: store.settle(SETTLEMENT), _is(SettleReply)),
    "look_up": (lambda store: store.look_up("k"), _is(Record, none=True)),
    "forget": (lambda store: store.forget("k"), _is(bool)),
    "announce": (lambda store: store.announce("jobguard", ["send"], 60.0), _nothing),
    "served": (lambda store: store.served("jobguard", "send"), _is(bool)),
    "letters.put": (lambda store: store.letters.put(QUEUE, ENTRY), _is(Kept)),
    "letters.replace": (lambda store: store.letters.replace(QUEUE, ENTRY), _is(Kept, none=True)),
    "letters.get": (lambda store: store.letters.get(QUEUE, "a"), _is(Entry, none=True)),
    "letters.find": (lambda store: store.letters.find(QUEUE, "key"), _is(Entry, none=True)),
    "letters.page": (lambda store: store.letters.page(QUEUE, LetterQuery(), 5), _is(LetterPage)),
    "letters.count": (lambda store: store.letters.count(QUEUE, LetterQuery()), _is(int)),
    "letters.tally": (lambda store: store.letters.tally(QUEUE, Dimension.TASK), _all(Tally)),
    "letters.remove": (lambda store: store.letters.remove(QUEUE, [("a", None)]), _all(bool)),
    "letters.totals": (lambda store: store.letters.totals(QUEUE), _is(Totals)),
    "letters.queues": (lambda store: store.letters.queues("jobguard"), _all(str)),
}
"""Every operation, and whether a value is one that it may return."""

REPLIES: dict[str, bytes] = {
    "nil": b"$-1\r\n",
    "a nil array": b"*-1\r\n",
    "an array of negative size": b"*-9\r\n",
    "a number": b":5\r\n",
    "a negative number": b":-7\r\n",
    "a word": b"+OK\r\n",
    "a text": b"$3\r\nabc\r\n",
    "bytes": b"$4\r\n\xff\xfe\x00\n\r\n",
    "an empty text": b"$0\r\n\r\n",
    "an empty array": b"*0\r\n",
    "an array of nil": b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
    "an array of numbers": b"*6\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
    "a grant of nothing": b"*6\r\n$7\r\ngranted\r\n:0\r\n:0\r\n$3\r\nabc\r\n$1\r\nx\r\n:0\r\n",
    "an odd array": b"*3\r\n$1\r\na\r\n$1\r\nb\r\n:5\r\n",
    "nested arrays": b"*1\r\n" * 7 + b":1\r\n",
    "a record of odd numbers": b"$24\r\nS+ x x x x x 9 9 9\nabcde\n\r\n",
    "a refusal": b"-ERR no\r\n",
    "a wrong type": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    "no rights": b"-NOPERM this user has no permissions\r\n",
    "a login": b"-NOAUTH Authentication required.\r\n",
    "an unknown script, for ever": b"-NOSCRIPT No matching script.\r\n",
    "loading, for ever": b"-LOADING Redis is loading the dataset in memory\r\n",
    "moved": b"-MOVED 3999 127.0.0.1:6381\r\n",
}
BROKEN: dict[str, bytes] = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "a text of negative size": b"$-5\r\n",
    "an array of more than there is": b"*99999999999\r\n",
    "a size that is none": b"$abc\r\n",
    "arrays without end": b"*1\r\n" * 100_000,
    "a control character": b"\x1b[2J\r\n",
    "more replies than commands": b":1\r\n" * 50,
}
SILENT: dict[str, bytes | None] = {
    "no answer": None,
    "half a line": b"+OK",
    "a text of which nothing comes": b"$99999999999\r\n",
    "half an array": b"*3\r\n:1\r\n",
}


def test_every_operation_is_among_those_that_are_tried() -> None:
    """The table above is complete."""
    found = {
        prefix + name
        for prefix, kind in (("", RedisStore), ("letters.", RedisLetters))
        for name, member in vars(kind).items()
        if inspect.iscoroutinefunction(member) and name != "aclose"
    }
    assert found == set(OPERATIONS)


async def outcome(url: str, name: str, patience: float = 5.0, **settings: Any) -> object:
    """What an operation comes to: what it returned, or its error. It must end."""
    store = RedisStore.from_url(url, socket_timeout=patience, **settings)
    work, fits = OPERATIONS[name]
    try:
        async with asyncio.timeout(60):
            value = await work(store)
    except StoreError as error:
        return error
    finally:
        async with asyncio.timeout(20):
            await store.aclose()
    assert fits(value), value
    return value


@pytest.fixture(params=["as installed", "pure Python"])
def parser(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings for each of redis-py's parsers."""
    return {} if request.param == "as installed" else {"parser_class": bounded.bounded(_AsyncRESP2Parser)}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_whatever_is_answered_is_a_value_or_an_error_of_the_store(
    reply: bytes, parser: dict[str, Any], tmp_path: Path
) -> None:
    """Of every operation; what it returns is of the type that it says."""
    async with Server(reply).listening(tmp_path / "s") as url:
        await asyncio.gather(*(outcome(url, name, **parser) for name in OPERATIONS))


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_redis_is_an_error(reply: bytes, parser: dict[str, Any], tmp_path: Path) -> None:
    """Before or after the handshake, for every operation."""
    for handshake in ({}, {b"CLIENT": reply}):
        async with Server(reply, handshake=handshake).listening(tmp_path / "s") as url:
            errors = await asyncio.gather(*(outcome(url, name, 0.3, **parser) for name in OPERATIONS))
        if reply != BROKEN["more replies than commands"]:  # the first of which may fit
            assert {type(each) for each in errors} <= {StoreError, StoreUnavailable}


@pytest.mark.parametrize("reply", SILENT.values(), ids=SILENT)
async def test_no_answer_is_an_error_in_time(
    reply: bytes | None, parser: dict[str, Any], tmp_path: Path
) -> None:
    """After so many tries of as long as the time limit says; all operations at once, or the handshake."""
    for handshake in ({}, {b"CLIENT": reply}):
        async with Server(reply, handshake=handshake).listening(tmp_path / "s") as url:
            errors = await asyncio.gather(*(outcome(url, name, 0.2, **parser) for name in OPERATIONS))
        assert {type(each) for each in errors} == {StoreUnavailable}


@pytest.mark.parametrize(
    ("opening", "endless"),
    [
        (b"$9999999999\r\n", b"x" * 65536),
        (b"*10000000\r\n", b"$5\r\nabcde\r\n" * 5_000),
        (b"*1\r\n*1\r\n$9999999999\r\n", b"x" * 65536),
        (b"+", b"x" * 65536),
    ],
    ids=["a text", "an array", "a nested text", "a line"],
)
@pytest.mark.parametrize("at", ["the handshake", "a reply"])
async def test_an_endless_answer_fills_no_memory(
    endless: bytes, opening: bytes, at: str, parser: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The connection is closed once more has come than any reply has, long before the time limit."""
    monkeypatch.setattr(bounded, "LARGEST_REPLY", 2**20)
    early = {} if at == "a reply" else {b"CLIENT": None}
    server = Server(opening, endless=endless, handshake=early)
    if at == "the handshake":
        del server.handshake[b"CLIENT"]
    async with server.listening(tmp_path / "s") as url:
        error = await outcome(url, "look_up", **parser)
    assert isinstance(error, StoreError)
    assert server.sent < 20 * 2**20


async def test_a_long_reply_is_a_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is one reply, not what a connection has carried."""
    monkeypatch.setattr(bounded, "LARGEST_REPLY", 2**20)
    body = b"x" * 600_000
    async with Server(b"$%d\r\n%b\r\n" % (len(body), body)).listening(tmp_path / "s") as url:
        store = RedisStore.from_url(url)
        for _ in range(5):
            assert (await store.letters.get(QUEUE, "a")) is not None
        await store.aclose()


resp = st.recursive(
    st.integers(-5, 2**62).map(lambda number: b":%d\r\n" % number)
    | st.binary(max_size=30).map(lambda text: b"$%d\r\n%b\r\n" % (len(text), text))
    | st.sampled_from([b"$-1\r\n", b"+OK\r\n", b"$7\r\ngranted\r\n", b"$7\r\nrunning\r\n"]),
    lambda inner: st.lists(inner, max_size=7).map(lambda all: b"*%d\r\n%b" % (len(all), b"".join(all))),
    max_leaves=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(resp)
async def test_any_well_formed_reply_is_a_value_or_an_error_of_the_store(
    tmp_path: Path, reply: bytes
) -> None:
    """Of every operation."""
    async with Server(reply).listening(tmp_path / "s") as url:
        await asyncio.gather(*(outcome(url, name) for name in OPERATIONS))


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [*BROKEN.values(), *SILENT.values(), *REPLIES.values()])
def test_the_command_says_in_a_line_that_it_is_no_server(
    reply: bytes | None, tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a traceback, and an exit code of ours."""
    monkeypatch.setattr(options, "REPLY_TIMEOUT", 0.1)
    with start_blocking_portal() as portal:
        listening = portal.wrap_async_context_manager(Server(reply).listening(tmp_path / "s"))
        with listening as url:
            for words in (("dlq", "count"), ("dlq", "get", "a"), ("job", "get", "k"), ("doctor",)):
                ended = desk(*words, url=url)
                assert ended.code in (0, 1, 3, 4, 6)
                assert "Traceback" not in ended.err
                assert "\x1b" not in ended.out + ended.err
