"""Dead letters under any sequence of changes, beside their model, at a pace for very many steps."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from chaos.progress import Progress, Watched
from chaos.stages import Stage
from jobguard.stores.letters import Entry, LetterQuery
from tests.stores.test_letter_machine import KEYS, QUEUE, LetterMachine, keys_of, places, texts

T = TypeVar("T")

EVERYTHING = 50
"""Steps after which everything is compared, beside the end of a sequence."""
STRIDE = 7
"""From one query that is compared to the next; prime, so that all have their turn."""


class HastyLetterMachine(LetterMachine):
    """Compares some of what a step can have changed at once, and everything from time to time.

    Args:
        stage: where.
        progress: what is done is counted there.
    """

    def __init__(self, stage: Stage, progress: Progress) -> None:
        super().__init__(stage.open, thorough=False)
        self.stage, self.progress = stage, progress
        self.letters: Any = Watched(self._store.letters, progress)
        self.steps = 0
        progress.begin()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._loop.get_loop().run_until_complete(call)

    # Changes, beside those of all letter machines

    @rule(entry=texts, arrival=st.sampled_from((None, 0, 1)))
    def put_and_hear_nothing(self, entry: Entry, arrival: int | None) -> None:
        """The reply is lost, and the letter sent again: the answer is that of the first time."""
        self.lose_reply()
        if arrival is None:
            self.put(entry)
        else:
            self.bring(entry, arrival, False)

    @precondition(lambda self: self.model.entries)
    @rule(which=places, entry=texts, arrive=st.booleans())
    def replace_and_hear_nothing(self, which: int, entry: Entry, arrive: bool) -> None:
        self.lose_reply()
        self.replace(which, entry, arrive)

    @precondition(lambda self: self.model.entries)
    @rule(which=places, evicted=st.booleans())
    def remove_and_hear_nothing(self, which: int, evicted: bool) -> None:
        """What is gone is counted once."""
        self.lose_reply()
        self.remove_one(which, evicted)

    @precondition(lambda self: self.model.entries)
    @rule(which=places, evicted=st.booleans())
    def remove_twice(self, which: int, evicted: bool) -> None:
        """Somebody else removes it too."""
        id = self.present(which)
        self.remove([(id, None)], evicted)
        self.remove([(id, None)], evicted)

    def lose_reply(self) -> None:
        self.progress.seen["replies lost"] += self.stage.lose_reply()

    # Comparison

    @invariant()
    def agrees(self) -> None:
        self.steps += 1
        self.progress.steps += 1
        if self.steps % EVERYTHING == 0:
            self.compare_everything()
        else:
            self.run(self.compare_some(self.steps))

    async def compare_some(self, number: int) -> None:
        """Other questions after each step."""
        query, key = self._queries[number * STRIDE % len(self._queries)], KEYS[number % len(KEYS)]
        holder = self.model.keys.get(key)
        found, totals, _ = await asyncio.gather(
            self.letters.find(QUEUE, key), self.letters.totals(QUEUE), self.compare_pages(query)
        )
        assert found == (None if holder is None else self.model.entries[holder])
        assert totals[0] == len(self.model.meeting(LetterQuery()))
        assert totals[3] == self.model.evicted

    def compare_everything(self) -> None:
        self.progress.seen["comparisons of all letters"] += 1
        self.run(self.compare(self._queries))
        queues = [QUEUE.name] if self.model.last >= 0 else []
        assert self.run(self.letters.queues(QUEUE.namespace)) == queues

    def teardown(self) -> None:
        """Compare everything, and what is left when the queue has been emptied."""
        try:
            if self.progress.ends_well():
                self.compare_everything()
                self.remove([(id, None) for id in self.model.entries], False)
                assert self.run(self.letters.totals(QUEUE))[:3] == (0, 0, 0)
                if self._client is not None:
                    assert len(self.run(keys_of(self._client))) <= 1
        finally:
            self.run(self.stage.close(self._store, self._client))
            self._loop.close()
