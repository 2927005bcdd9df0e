"""How a run's outcome is recorded, refused, looked up and forgotten."""

from __future__ import annotations

import pytest

from jobguard.stores.base import SettleReply, State, Verdict
from jobguard.testing.contract.bench import LONG, ODD_TEXT, SHORT, Bench, until

ENDED = [State.SUCCESS, State.FAILED, State.DEAD_LETTER]
OPEN = [State.RETRY, State.INTERRUPTED]


class SettlementContract:
    """Part of `StoreContract`."""

    # With a claim

    @pytest.mark.parametrize("state", ENDED)
    async def test_records_an_end(self, bench: Bench, state: State) -> None:
        """An ended run keeps its text, owner and fence, and drops what only a next run needs."""
        await bench.crashed()
        granted = await bench.claim(token="t", fingerprint="f")
        assert granted.crashes == 1
        reply = await bench.settle(state, fingerprint="f", history="dropped", body="text")
        assert reply == SettleReply(True)
        record = await bench.record()
        assert (record.state, record.owner, record.fence) == (state, "one", granted.fence)
        assert (record.body, record.history, record.crashes) == ("text", "", 0)
        assert record.fingerprint == "f"
        assert LONG / 2 < record.wait <= LONG

    @pytest.mark.parametrize("state", OPEN)
    async def test_records_an_open_end(self, bench: Bench, state: State) -> None:
        """A run to be gone on with keeps its history and the key's crashes."""
        await bench.crashed()
        granted = await bench.claim(token="t")
        assert await bench.settle(state, history="so far") == SettleReply(True)
        record = await bench.record()
        assert (record.state, record.owner, record.fence) == (state, "one", granted.fence)
        assert (record.history, record.crashes, record.body) == ("so far", 1, None)

    async def test_says_when_a_retry_is_due(self, bench: Bench) -> None:
        """A pending retry's wait is the time until it is due; an interrupted run waits for nothing."""
        await bench.claim(token="t")
        await bench.settle(State.RETRY, lasts=LONG)
        assert LONG / 2 < (await bench.record()).wait <= LONG
        await bench.claim(token="u")
        await bench.settle(State.INTERRUPTED, token="u")
        assert (await bench.record()).wait == 0

    @pytest.mark.parametrize("state", ENDED + OPEN)
    async def test_accepts_an_outcome_again(self, bench: Bench, state: State) -> None:
        """An outcome resent after a lost reply is accepted, and changes nothing."""
        await bench.claim(token="t")
        await bench.settle(state, history="h", body="b")
        before = await bench.record()
        assert await bench.settle(state, history="other", body="other") == SettleReply(True)
        after = await bench.record()
        assert (after.history, after.body, after.fence) == (before.history, before.body, before.fence)

    @pytest.mark.parametrize("state", [State.SUCCESS, State.RETRY, State.INTERRUPTED, State.DEAD_LETTER])
    async def test_refuses_to_change_an_outcome(self, bench: Bench, state: State) -> None:
        """One run has one outcome: a second, different one is refused."""
        granted = await bench.ended(State.FAILED, body="first")
        assert await bench.settle(state, body="second") == SettleReply(False, "one", granted.fence)
        record = await bench.record()
        assert (record.state, record.body) == (State.FAILED, "first")

    async def test_fences_off_a_run_that_was_taken_over(self, bench: Bench) -> None:
        """A run that lost its lease to another job is refused, and told who holds the key."""
        late = await bench.crashed("one", "t")
        holder = await bench.claim("two", "u")
        assert await bench.settle(State.SUCCESS, fence=late.fence, body="late") == SettleReply(
            False, "two", holder.fence
        )
        assert (await bench.record()).state is State.PROCESSING

    async def test_fences_off_an_earlier_delivery_of_the_same_job(self, bench: Bench) -> None:
        """A run that lost its lease to a later delivery of its own job is refused too."""
        late = await bench.crashed("one", "t")
        holder = await bench.claim("one", "u")
        assert await bench.settle(State.SUCCESS, fence=late.fence) == SettleReply(False, "one", holder.fence)
        await bench.settle(State.SUCCESS, token="u", fence=holder.fence, body="kept")
        assert await bench.settle(State.RETRY, fence=late.fence) == SettleReply(False, "one", holder.fence)
        assert (await bench.record()).body == "kept"

    async def test_accepts_a_late_outcome_that_nobody_overtook(self, bench: Bench) -> None:
        """A lease that ran out unnoticed does no harm: the work counts."""
        late = await bench.crashed(token="t")
        assert await bench.settle(State.SUCCESS, fence=late.fence, body="late") == SettleReply(True)
        assert (await bench.record()).body == "late"

    async def test_records_an_outcome_whose_claim_is_gone(self, bench: Bench) -> None:
        """An outcome is kept even if the store has lost the claim, under the claim's fence."""
        assert await bench.settle(State.SUCCESS, fence=12345, body="b") == SettleReply(True)
        record = await bench.record()
        assert (record.state, record.owner, record.fence, record.body) == (State.SUCCESS, "one", 12345, "b")

    async def test_ends_an_interrupted_run_that_was_aborted(self, bench: Bench) -> None:
        """A job aborted in its queue ends after its interruption was recorded, and frees its key."""
        await bench.claim(token="t")
        await bench.settle(State.INTERRUPTED, history="h")
        assert await bench.settle(State.FAILED) == SettleReply(True)
        record = await bench.record()
        assert (record.state, record.history) == (State.FAILED, "")

    @pytest.mark.parametrize("state", ENDED)
    async def test_ends_a_run_that_had_released_its_claim(self, bench: Bench, state: State) -> None:
        """A run that was recorded as interrupted may still end as anything, under the same token."""
        granted = await bench.claim(token="t")
        await bench.settle(State.INTERRUPTED, history="h")
        assert await bench.settle(state, body="b") == SettleReply(True)
        record = await bench.record()
        assert (record.state, record.fence, record.body) == (state, granted.fence, "b")

    @pytest.mark.parametrize("state", ENDED)
    async def test_refuses_the_end_of_a_released_claim_that_was_taken_over(
        self, bench: Bench, state: State
    ) -> None:
        """Once another job has the key, the run that released it has no say any more."""
        await bench.claim(token="t")
        await bench.settle(State.INTERRUPTED)
        holder = await bench.claim("two", "u")
        assert await bench.settle(state) == SettleReply(False, "two", holder.fence)

    async def test_keeps_the_fingerprint_of_the_claim(self, bench: Bench) -> None:
        """A settlement that names no fingerprint leaves the claim's."""
        await bench.claim(token="t", fingerprint="f")
        await bench.settle(State.SUCCESS, fingerprint="")
        assert (await bench.record()).fingerprint == "f"

    async def test_keeps_an_end_for_its_own_job(self, bench: Bench) -> None:
        """An ended record outlives its ttl by what its own job's redelivery needs."""
        await bench.ended(State.SUCCESS, lasts=SHORT, body="b")
        await bench.wait_out()
        assert (await bench.claim()).body == "b"

    async def test_drops_an_end_that_nobody_needs(self, bench: Bench) -> None:
        """An ended record goes when its ttl and its keep are both over."""
        await bench.claim(token="t")
        await bench.settle(State.SUCCESS, lasts=SHORT, keep=SHORT)

        async def gone() -> bool:
            return await bench.store.look_up(bench.key) is None

        await until(gone)

    # Without a claim

    async def test_keeps_the_history_of_a_job_without_a_claim(self, bench: Bench) -> None:
        """A job that claims nothing keeps its history under its own key, delivery after delivery."""
        assert await bench.settle(State.RETRY, token="a", fence=None, history="1") == SettleReply(True)
        record = await bench.record()
        assert (record.owner, record.fence, record.history) == ("one", 0, "1")
        assert await bench.settle(State.INTERRUPTED, token="b", fence=None, history="2") == SettleReply(True)
        assert await bench.settle(State.RETRY, token="c", fence=None, history="3") == SettleReply(True)
        assert (await bench.record()).history == "3"
        assert await bench.settle(State.FAILED, token="d", fence=None, body="why") == SettleReply(True)
        assert (await bench.record()).body == "why"

    async def test_ends_a_job_without_a_claim_once(self, bench: Bench) -> None:
        """Its end stays: the same one again is accepted, another one is refused."""
        await bench.settle(State.DEAD_LETTER, token="a", fence=None, body="first")
        again = await bench.settle(State.DEAD_LETTER, token="b", fence=None, body="second")
        assert again == SettleReply(True)
        assert await bench.settle(State.RETRY, token="c", fence=None) == SettleReply(False, "one", 0)
        record = await bench.record()
        assert (record.state, record.body) == (State.DEAD_LETTER, "first")

    async def test_does_not_settle_a_claim_without_its_token(self, bench: Bench) -> None:
        """A delivery without a claim cannot end the run of one that has it."""
        held = await bench.claim(token="t")
        refused = await bench.settle(State.FAILED, token="u", fence=None)
        assert refused == SettleReply(False, "one", held.fence)

    async def test_does_not_settle_for_another_job(self, bench: Bench) -> None:
        """A delivery without a claim cannot touch another job's record."""
        held = await bench.claim(token="t")
        await bench.settle(State.RETRY)
        refused = await bench.settle(State.FAILED, "two", "u", fence=None)
        assert refused == SettleReply(False, "one", held.fence)

    # Looking up and forgetting

    async def test_knows_nothing_of_a_new_key(self, bench: Bench) -> None:
        """A key that was never used has no record."""
        assert await bench.store.look_up(bench.key) is None

    async def test_forgets_a_record(self, bench: Bench) -> None:
        """A record is removed whatever its state, and the key is free."""
        await bench.claim()
        assert await bench.store.forget(bench.key) is True
        assert await bench.store.forget(bench.key) is False
        assert await bench.store.look_up(bench.key) is None
        assert (await bench.claim("two")).state is None

    async def test_counts_time_from_the_first_claim(self, bench: Bench) -> None:
        """A job's time runs from its first claim, over all of its runs and ends."""
        await bench.claim(token="t")
        await bench.settle(State.RETRY, lasts=SHORT)
        await bench.wait_out()
        first = (await bench.record()).elapsed
        assert first >= SHORT / 2
        assert (await bench.claim(token="u")).elapsed >= first
        await bench.settle(State.SUCCESS, token="u")
        assert (await bench.record()).elapsed >= first

    async def test_takes_any_text(self, bench: Bench) -> None:
        """Owners, tokens, histories and bodies come back as they were, whatever is in them."""
        await bench.claim(ODD_TEXT, ODD_TEXT, fingerprint=ODD_TEXT)
        await bench.settle(State.RETRY, ODD_TEXT, ODD_TEXT, history=ODD_TEXT)
        reply = await bench.claim(ODD_TEXT, "u")
        assert (reply.verdict, reply.owner) == (Verdict.GRANTED, ODD_TEXT)
        assert (reply.history, reply.fingerprint) == (ODD_TEXT, ODD_TEXT)
        await bench.settle(State.SUCCESS, ODD_TEXT, "u", body=ODD_TEXT)
        assert (await bench.record()).body == ODD_TEXT

    async def test_takes_a_large_text(self, bench: Bench) -> None:
        """A result of many kilobytes comes back whole."""
        large = "0123456789abcdef" * 16_384
        await bench.ended(State.SUCCESS, body=large)
        assert (await bench.claim("two")).body == large
