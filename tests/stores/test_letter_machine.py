"""Dead letters under any sequence of changes, beside a model of a few lines, and every key they leave."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from hashlib import sha1
from itertools import product
from typing import Any, TypeVar

import fakeredis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from jobguard.errors import StoreError
from jobguard.stores import MemoryStore, RedisStore, Store, redis_letters
from jobguard.stores.commands import Script
from jobguard.stores.letters import (
    Dimension,
    Entry,
    Kept,
    LetterQuery,
    LetterQueue,
    LetterState,
    Tally,
)
from jobguard.stores.memory_letters import MemoryLetters
from jobguard.testing import EmbeddedValkey
from tests.stores.letter_model import STEM, Model

T = TypeVar("T")

DEAD = LetterState.DEAD
QUEUE = LetterQueue("machine", "q")
TASKS, ERRORS, PRINTS, KEYS = ("send", "", "pay:\0\ud800"), ("E", "F"), ("f", "g"), ("", "k", "l")
QUERIES = [
    LetterQuery(*each)
    for each in product((*LetterState, None), (None, *TASKS), (None, *ERRORS), (None, *PRINTS))
]
AHEAD = 10**9
"""Microseconds from now that lie in the future."""

ids = st.sampled_from("abcdef")
places = st.integers(0, 5)
states = st.sampled_from(LetterState)
bounds = st.sampled_from((None, 0, 1, 3))
texts = st.builds(
    Entry,
    ids,
    states,
    st.sampled_from(TASKS),
    st.sampled_from(ERRORS),
    st.sampled_from(PRINTS),
    st.sampled_from(KEYS),
    st.sampled_from(("", "text", "text \0" * 40)),
    revision=st.just(0),
    arrival=st.just(0),
)


class LetterMachine(RuleBasedStateMachine):
    """Changes letters in a store and in a model, and compares all that can be asked.

    Args:
        open_store: makes an empty store, and the client whose keys are compared, if it has one.
        thorough: pages of all queries are compared after each step, not of those by one dimension only.
    """

    def __init__(self, open_store: Callable[[], tuple[Store, Redis | None]], *, thorough: bool) -> None:
        super().__init__()
        self._loop = asyncio.Runner()
        self._store, self._client = self.run(opened(open_store))
        self._queries = [each for each in QUERIES if thorough or len(each.dimensions) < 2]
        self.letters = self._store.letters
        self.model = Model()
        self.alert_over: int | None = None
        self.change: tuple[Entry, bool] | None = None

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(call)

    def stored(self, id: str) -> Entry:
        entry = self.run(self.letters.get(QUEUE, id))
        assert entry is not None
        return entry

    def present(self, which: int) -> str:
        """The id of some entry."""
        return sorted(self.model.entries)[which % len(self.model.entries)]

    # Changes

    @initialize(entries=st.lists(texts, max_size=6), alert_over=bounds)
    def begin(self, entries: list[Entry], alert_over: int | None) -> None:
        for entry in entries:
            self.put(entry)
        self.alert_over = alert_over

    @rule(entry=texts)
    def put(self, entry: Entry) -> None:
        self.kept(entry, self.run(self.letters.put(QUEUE, entry, alert_over=self.alert_over)))

    @rule(entry=texts, arrival=st.integers(0, 4), ahead=st.booleans())
    def bring(self, entry: Entry, arrival: int, ahead: bool) -> None:
        if ahead:
            arrival += self.run(self.letters.totals(QUEUE)).now + AHEAD
        taken = {each.arrival for each in self.model.entries.values()}
        new = entry.id not in self.model.entries
        self.kept(
            entry, self.run(self.letters.put(QUEUE, entry, arrival, alert_over=self.alert_over)), later=False
        )
        if new:
            free = next(at for at in range(arrival, arrival + 9) if at not in taken)
            assert self.model.entries[entry.id].arrival == free

    def kept(self, entry: Entry, kept: Kept, *, later: bool = True) -> None:
        new = entry.id not in self.model.entries
        if new:
            there = self.stored(entry.id)
            assert there == entry._replace(revision=1, arrival=there.arrival)
            assert not later or there.arrival > self.model.last
            self.model.write(there)
            self.change = None
        assert kept == self.model.kept(entry.id, new, self.alert_over)

    @precondition(lambda self: self.model.entries)
    @rule(which=places, entry=texts, arrive=st.booleans())
    def replace(self, which: int, entry: Entry, arrive: bool) -> None:
        """Requeue, resolve, edit, die again."""
        before = self.model.entries[self.present(which)]
        entry = entry._replace(id=before.id, revision=before.revision)
        replaced = self.replaced(entry, arrive)
        there = self.stored(entry.id)
        assert there == entry._replace(revision=before.revision + 1, arrival=there.arrival)
        assert there.arrival > self.model.last if arrive else there.arrival == before.arrival
        self.model.write(there)
        assert replaced == self.model.kept(entry.id, False, self.alert_over)
        self.change = entry, arrive

    def replaced(self, entry: Entry, arrive: bool) -> Kept | None:
        return self.run(self.letters.replace(QUEUE, entry, arrive=arrive, alert_over=self.alert_over))

    @precondition(lambda self: self.change is not None)
    @rule()
    def replace_once_more(self) -> None:
        """The reply to the last change was lost."""
        assert self.change is not None
        entry, arrive = self.change
        assert self.replaced(entry, arrive) == self.model.kept(entry.id, False, self.alert_over)

    @precondition(lambda self: self.model.entries)
    @rule(which=places, entry=texts, off=st.sampled_from((-1, 1, 2)))
    def replace_another_revision(self, which: int, entry: Entry, off: int) -> None:
        """Somebody else has changed or removed it meanwhile."""
        there = self.model.entries[self.present(which)]
        entry = entry._replace(id=there.id, revision=there.revision + off)
        same = there == entry._replace(revision=entry.revision + 1, arrival=there.arrival)
        assert (self.run(self.letters.replace(QUEUE, entry)) is not None) is same
        assert self.run(self.letters.replace(QUEUE, entry._replace(id="gone"))) is None

    @precondition(lambda self: self.model.entries)
    @rule(which=places, evicted=st.booleans())
    def remove_one(self, which: int, evicted: bool) -> None:
        self.remove([(self.present(which), None)], evicted)

    @rule(meant=st.lists(st.tuples(ids, st.sampled_from((None, 1, 2))), max_size=2), evicted=st.booleans())
    def remove(self, meant: list[tuple[str, int | None]], evicted: bool) -> None:
        expected: list[bool] = []
        for id, revision in meant:
            there = self.model.entries.get(id)
            expected.append(there is not None and revision in (None, there.revision))
            if expected[-1]:
                self.model.drop(id)
                self.change = None
        self.model.evicted += sum(expected) if evicted else 0
        assert self.run(self.letters.remove(QUEUE, meant, evicted=evicted)) == expected

    @rule(number=st.integers(1, 2))
    def evict_the_oldest(self, number: int) -> None:
        page = self.run(self.letters.page(QUEUE, LetterQuery(), number, oldest_first=True, texts=False))
        assert [entry.id for entry in page.entries] == [
            entry.id for entry in self.model.meeting(LetterQuery())[:number]
        ]
        self.remove([(entry.id, entry.revision) for entry in page.entries], True)

    # Comparison

    @invariant()
    def agrees(self) -> None:
        self.run(self.compare(self._queries))

    async def compare(self, queries: list[LetterQuery]) -> None:
        letters, model = self.letters, self.model
        sizes = [len(model.meeting(LetterQuery(state))) for state in LetterState]
        totals = await letters.totals(QUEUE)
        assert (*sizes, model.evicted) == totals[:4]
        for key in KEYS:
            holder = model.keys.get(key)
            assert await letters.find(QUEUE, key) == (None if holder is None else model.entries[holder])
        await asyncio.gather(*(self.compare_pages(query) for query in queries))
        middle = sorted(entry.arrival for entry in model.entries.values())[len(model.entries) // 2 :][:1]
        for dimension, state, since in product(Dimension, LetterState, (None, *middle)):
            tallies = await letters.tally(QUEUE, dimension, state=state, since=since)
            assert tallies is not None
            assert [each.count for each in tallies] == sorted((each.count for each in tallies), reverse=True)
            told = [dataclasses.replace(each, tasks=tuple(sorted(each.tasks))) for each in tallies]
            expected = model.tallies(dimension, state, since)
            assert sorted(told, key=by_value) == sorted(expected, key=by_value)
        if self._client is not None:
            assert await keys_of(self._client) == model.keys_of_redis()

    async def compare_pages(self, query: LetterQuery) -> None:
        expected = self.model.meeting(query)
        if len(query.dimensions) < 2:
            assert await self.letters.count(QUEUE, query) == len(expected)
        for oldest_first, limit in ((True, 3), (False, 500)):
            found: list[Entry] = []
            cursor: str | None = None
            while True:
                page = await self.letters.page(QUEUE, query, limit, cursor, oldest_first=oldest_first)
                found += page.entries
                cursor = page.cursor
                if cursor is None:
                    break
            assert found == (expected if oldest_first else expected[::-1])

    def teardown(self) -> None:
        """Compare everything once, and again when the queue has been emptied."""
        try:
            self.run(self.compare(QUERIES))
            self.remove([(id, None) for id in self.model.entries], False)
            self.run(self.compare(QUERIES))
            if self._client is not None:
                held = set(self.run(keys_of(self._client)))
                assert held <= {f"{STEM}info"}
        finally:
            self.run(closed(self._store, self._client))
            self._loop.close()


def by_value(tally: Tally) -> str:
    return tally.value


async def opened(open_store: Callable[[], tuple[Store, Redis | None]]) -> tuple[Store, Redis | None]:
    store, client = open_store()
    if client is not None:
        await client.flushdb()
    return store, client


async def closed(store: Store, client: Redis | None) -> None:
    await store.aclose()
    if client is not None:
        await client.aclose()


async def keys_of(client: Any) -> dict[str, object]:
    """Every key of the queue, with what it holds; of entries the ids."""
    held: dict[str, object] = {}
    names = [name async for name in client.scan_iter(count=1000)]
    for name in names:
        decoded = name.decode("utf-8", "surrogatepass")
        if name == b"machine:dlq" or b":answer:" in name:  # kept for calls that are sent again
            continue
        if await client.type(name) == b"zset":
            pairs = await client.zrange(name, 0, -1, withscores=True)
            held[decoded] = {member.decode("utf-8", "surrogatepass"): score for member, score in pairs}
        else:
            found = await client.execute_command("HGETALL", name)
            fields = {field.decode(): value.decode("utf-8", "replace") for field, value in found.items()}
            held[decoded] = set(fields) if decoded == f"{STEM}entries" else fields
    return held


def drive(
    open_store: Callable[[], tuple[Store, Redis | None]], examples: int, steps: int, **more: Any
) -> None:
    """Run the machine; how long it takes is the computer's affair."""
    thorough = more.pop("thorough", True)
    run: Any = run_state_machine_as_test  # which takes whatever makes a machine, not classes only
    run(
        lambda: LetterMachine(open_store, thorough=thorough),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


def in_memory() -> tuple[Store, Redis | None]:
    return MemoryStore(), None


def on_fakeredis() -> tuple[Store, Redis | None]:
    client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    return RedisStore(client), client


def test_letters_in_memory_agree_with_the_model() -> None:
    """Whatever happens to letters in memory, every question has the model's answer."""
    drive(in_memory, 60, 25)


def test_letters_on_fakeredis_agree_with_the_model() -> None:
    """The same, with fakeredis's own reading of Lua, and every key is what the letters imply."""
    drive(on_fakeredis, 8, 12, thorough=False)


def test_letters_on_a_server_agree_with_the_model(valkey: EmbeddedValkey) -> None:
    """The same on a real server."""

    def on_server() -> tuple[Store, Redis | None]:
        client = Redis.from_url(valkey.url)
        return RedisStore(client), client

    drive(on_server, 15, 20)


QUICKLY = {"phases": [Phase.generate], "derandomize": True, "database": None}
"""A failure is all that is wanted, not its smallest example."""
FOUND = (AssertionError, StoreError, ExceptionGroup)


def test_the_machine_finds_what_memory_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that is not counted off does not agree with the model."""
    remove = MemoryLetters.remove

    async def forgetful(
        self: MemoryLetters, queue: LetterQueue, entries: Any, *, evicted: bool = False
    ) -> Any:
        removed = await remove(self, queue, entries, evicted=evicted)
        self._of(queue).sizes[DEAD] += sum(removed)
        return removed

    monkeypatch.setattr(MemoryLetters, "remove", forgetful)
    with pytest.raises(FOUND):
        drive(in_memory, 60, 25, **QUICKLY)


@pytest.mark.parametrize(
    ("script", "line", "instead"),
    [
        ("_REMOVE", "leave(name .. ':' .. value, letter.id)", ""),
        ("_REMOVE", "count(name, value)\n", "\n"),
        ("_REMOVE", "count(state .. ':tasks:' .. letter.fingerprint, letter.task)", ""),
        ("_REMOVE", "redis.call('HDEL', keys, letter.key)", ""),
        ("_REMOVE", "if left <= 0 then", "if nil then"),
        ("_REPLACE", "unlink(stem, { before })", ""),
        ("_REPLACE", "before.revision == revision + 1 and same", "before.revision == revision + 1"),
        ("_PUT", "while taken(first, high) do", "while false do"),
        ("_PUT", "if dead < told then", "if nil then"),
        ("_REPLACE", "tonumber(told or 0) <= most", "tonumber(told or 0) < most"),
        ("_PAGE", "(this < arrival) == oldest_first", "this < arrival"),
        ("_TALLY", "since == '' and '-inf' or since", "'-inf'"),
    ],
)
def test_the_machine_finds_a_fault(
    monkeypatch: pytest.MonkeyPatch, valkey: EmbeddedValkey, script: str, line: str, instead: str
) -> None:
    """A script that forgets an index, or mistakes a case, does not agree with the model."""

    def on_server() -> tuple[Store, Redis | None]:
        client = Redis.from_url(valkey.url)
        return RedisStore(client), client

    text: bytes = getattr(redis_letters, script).text
    assert line.encode() in text
    faulty = text.replace(line.encode(), instead.encode())
    monkeypatch.setattr(redis_letters, script, Script(faulty, sha1(faulty).hexdigest().encode()))
    with pytest.raises(FOUND):
        drive(on_server, 40, 25, **QUICKLY)
