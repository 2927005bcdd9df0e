"""How a key is claimed, raced for and held."""

from __future__ import annotations

import anyio
import pytest

from jobguard.stores.base import ClaimReply, Renewal, State, Store, Verdict
from jobguard.testing.contract.bench import LONG, SHORT, Bench, until


class ClaimContract:
    """Part of `StoreContract`."""

    # A claim on a key that nobody holds

    async def test_grants_a_new_key(self, bench: Bench) -> None:
        """A key without a record is granted, with nothing behind it."""
        reply = await bench.claim()
        assert reply.fence > 0
        assert reply == ClaimReply(Verdict.GRANTED, None, "", reply.fence, 0, 0, 0, "", "", None)

    async def test_keeps_what_a_claim_says(self, bench: Bench) -> None:
        """A granted claim is on record with its owner, fence, fingerprint and lease."""
        granted = await bench.claim("one", lease=LONG, fingerprint="f")
        record = await bench.record()
        assert (record.state, record.owner, record.fence) == (State.PROCESSING, "one", granted.fence)
        assert (record.fingerprint, record.history, record.body) == ("f", "", None)
        assert 0 < record.wait <= LONG

    async def test_drops_a_record_after_its_keep(self, bench: Bench) -> None:
        """An abandoned claim is gone once its lease and the keep after it are over."""
        await bench.claim(lease=SHORT, keep=SHORT)

        async def gone() -> bool:
            return await bench.store.look_up(bench.key) is None

        await until(gone)
        reply = await bench.claim("two")
        assert (reply.verdict, reply.state, reply.crashes) == (Verdict.GRANTED, None, 0)

    async def test_raises_the_fence_with_each_claim(self, bench: Bench) -> None:
        """Fences of one key rise strictly, however fast claims follow each other."""
        fences: list[int] = []
        for _ in range(20):
            fences.append((await bench.claim(token="t")).fence)
            await bench.settle(State.INTERRUPTED, token="t")
            fences.append((await bench.claim("two", token="u")).fence)
            await bench.settle(State.FAILED, "two", "u")
        assert fences == sorted(set(fences))

    async def test_raises_the_fence_above_one_from_the_future(self, bench: Bench) -> None:
        """A clock that has stepped back does not bring the fence down."""
        ahead = 2**52
        await bench.settle(State.FAILED, fence=ahead)
        assert (await bench.claim("two")).fence == ahead + 1

    # The same job claims again

    async def test_grants_the_same_claim_again(self, bench: Bench) -> None:
        """A claim resent after a lost reply gets the same fence and history."""
        await bench.claim(token="a")
        await bench.settle(State.RETRY, token="a", history="h")
        first = await bench.claim(token="b")
        again = await bench.claim(token="b")
        assert again.verdict is Verdict.GRANTED
        assert (again.fence, again.history, again.crashes) == (first.fence, "h", first.crashes)

    async def test_never_shortens_a_lease_by_a_resend(self, bench: Bench) -> None:
        """The same claim with a shorter lease leaves the longer one."""
        await bench.claim(token="t", lease=LONG)
        await bench.claim(token="t", lease=SHORT)
        assert (await bench.record()).wait > LONG / 2

    async def test_does_not_revive_a_settled_claim(self, bench: Bench) -> None:
        """A stray resend of a claim that was settled meanwhile is turned away."""
        await bench.claim(token="t")
        await bench.settle(State.RETRY, token="t")
        stray = await bench.claim(token="t")
        assert (stray.verdict, stray.wait) == (Verdict.BUSY, 0)
        assert (await bench.record()).state is State.RETRY

    async def test_is_busy_while_another_delivery_runs(self, bench: Bench) -> None:
        """A second delivery of a job waits for the first one's lease."""
        held = await bench.claim()
        reply = await bench.claim()
        assert (reply.verdict, reply.state, reply.fence) == (Verdict.BUSY, State.PROCESSING, held.fence)
        assert LONG / 2 < reply.wait <= LONG

    async def test_counts_a_crash_when_a_job_takes_over_its_own_lease(self, bench: Bench) -> None:
        """A lease that ran out unsettled is a crash; history, start and order go on."""
        await bench.claim(token="a")
        await bench.settle(State.RETRY, token="a", history="h")
        before = await bench.crashed()
        reply = await bench.claim()
        assert (reply.verdict, reply.state, reply.owner) == (Verdict.GRANTED, State.PROCESSING, "one")
        assert (reply.crashes, reply.history) == (1, "h")
        assert reply.fence > before.fence
        assert reply.elapsed > 0

    @pytest.mark.parametrize("state", [State.RETRY, State.INTERRUPTED])
    async def test_hands_a_job_its_history_back(self, bench: Bench, state: State) -> None:
        """A job that left its run open goes on with its history, even before it is due."""
        first = await bench.claim(token="t", fingerprint="f")
        await bench.settle(state, fingerprint="f", history="so far")
        reply = await bench.claim(fingerprint="g")
        assert (reply.verdict, reply.state, reply.owner) == (Verdict.GRANTED, state, "one")
        assert (reply.history, reply.fingerprint, reply.crashes) == ("so far", "f", 0)
        assert reply.fence > first.fence

    async def test_replays_a_success_to_its_own_job_past_the_ttl(self, bench: Bench) -> None:
        """A redelivered job that succeeded gets its result, whatever the ttl."""
        granted = await bench.ended(State.SUCCESS, lasts=SHORT, body="result")
        await bench.wait_out()
        for rerun in (False, True):
            reply = await bench.claim(rerun=rerun)
            assert (reply.verdict, reply.state) == (Verdict.SUCCEEDED, State.SUCCESS)
            assert (reply.body, reply.fence) == ("result", granted.fence)

    @pytest.mark.parametrize("state", [State.FAILED, State.DEAD_LETTER])
    async def test_tells_a_job_that_it_has_ended(self, bench: Bench, state: State) -> None:
        """A redelivered job that failed for good does not run again."""
        await bench.ended(state, body="why")
        reply = await bench.claim()
        assert (reply.verdict, reply.state, reply.body) == (Verdict.ENDED, state, "why")

    # Another job claims

    async def test_tells_that_another_job_runs(self, bench: Bench) -> None:
        """While a lease is live, other jobs learn whose it is and for how long."""
        held = await bench.claim("one", fingerprint="f")
        reply = await bench.claim("two", fingerprint="g")
        assert (reply.verdict, reply.state, reply.owner) == (Verdict.RUNNING, State.PROCESSING, "one")
        assert (reply.fence, reply.fingerprint) == (held.fence, "f")
        assert LONG / 2 < reply.wait <= LONG

    async def test_counts_a_crash_when_another_job_takes_over(self, bench: Bench) -> None:
        """A lease that ran out goes to the next job: its own history, the key's crashes."""
        await bench.claim(token="a")
        await bench.settle(State.RETRY, token="a", history="h")
        before = await bench.crashed()
        reply = await bench.claim("two", fingerprint="g")
        assert (reply.verdict, reply.state, reply.owner) == (Verdict.GRANTED, State.PROCESSING, "one")
        assert (reply.crashes, reply.history, reply.fingerprint, reply.elapsed) == (1, "", "", 0)
        assert reply.fence > before.fence

    async def test_tells_that_another_job_is_pending_retry(self, bench: Bench) -> None:
        """Between attempts other jobs meet the retry, and when it is due."""
        await bench.claim(token="t")
        await bench.settle(State.RETRY, lasts=LONG)
        reply = await bench.claim("two")
        assert (reply.verdict, reply.state, reply.owner) == (Verdict.RUNNING, State.RETRY, "one")
        assert LONG / 2 < reply.wait <= LONG

    async def test_waits_a_while_for_a_retry_that_is_due(self, bench: Bench) -> None:
        """A retry that is due keeps its key until it is overdue."""
        await bench.claim(token="t")
        await bench.settle(State.RETRY, lasts=SHORT, overdue=LONG)
        await bench.wait_out()
        reply = await bench.claim("two")
        assert (reply.verdict, reply.state, reply.wait) == (Verdict.RUNNING, State.RETRY, 0)

    async def test_gives_away_an_overdue_retry(self, bench: Bench) -> None:
        """A retry that nobody took up goes to the next job, without the old one's history."""
        await bench.claim(token="t")
        await bench.settle(State.RETRY, lasts=0, overdue=0, history="h")
        reply = await bench.claim("two")
        assert (reply.verdict, reply.state, reply.owner) == (Verdict.GRANTED, State.RETRY, "one")
        assert reply.history == ""

    async def test_gives_away_an_interrupted_run(self, bench: Bench) -> None:
        """A run that a shutdown ended goes to whoever comes first; crashes stay counted."""
        await bench.crashed()
        await bench.claim(token="t")
        await bench.settle(State.INTERRUPTED, history="h")
        reply = await bench.claim("two")
        assert (reply.verdict, reply.state, reply.owner) == (Verdict.GRANTED, State.INTERRUPTED, "one")
        assert (reply.history, reply.crashes) == ("", 1)

    async def test_replays_a_success_to_other_jobs_within_its_ttl(self, bench: Bench) -> None:
        """A duplicate learns result and owner of the success, in one answer."""
        await bench.ended(State.SUCCESS, body="result")
        reply = await bench.claim("two")
        assert (reply.verdict, reply.state) == (Verdict.SUCCEEDED, State.SUCCESS)
        assert (reply.owner, reply.body) == ("one", "result")

    async def test_tells_a_missing_result_from_an_empty_one(self, bench: Bench) -> None:
        """A success without a stored result has no body, which is not an empty one."""
        await bench.ended(State.SUCCESS, body=None)
        assert (await bench.claim("two")).body is None
        other = Bench(bench.store)
        await other.ended(State.SUCCESS, body="")
        assert (await other.claim("two")).body == ""

    async def test_forgets_a_success_after_its_ttl(self, bench: Bench) -> None:
        """Past the ttl another job may do the work again."""
        await bench.ended(State.SUCCESS, lasts=SHORT, body="result")
        await bench.wait_out()
        reply = await bench.claim("two")
        assert (reply.verdict, reply.state, reply.body) == (Verdict.GRANTED, State.SUCCESS, None)

    async def test_reruns_a_success_on_request(self, bench: Bench) -> None:
        """A claim with `rerun` passes over another job's success."""
        await bench.ended(State.SUCCESS, body="result")
        reply = await bench.claim("two", rerun=True)
        assert (reply.verdict, reply.state, reply.history) == (Verdict.GRANTED, State.SUCCESS, "")

    @pytest.mark.parametrize("state", [State.FAILED, State.DEAD_LETTER])
    async def test_frees_the_key_of_a_failed_job(self, bench: Bench, state: State) -> None:
        """Another job may try what one failed at, and starts without its crashes."""
        await bench.crashed()
        await bench.ended(state, body="why")
        reply = await bench.claim("two")
        assert (reply.verdict, reply.state, reply.crashes) == (Verdict.GRANTED, state, 0)

    async def test_counts_crashes_across_jobs(self, bench: Bench) -> None:
        """Work that takes its workers down is counted by key, whoever claims it."""
        for number in range(3):
            granted = await bench.crashed(f"job {number}")
            assert granted.crashes == number

    # Races

    async def test_grants_a_key_to_one_of_a_hundred_jobs(self, bench: Bench) -> None:
        """Of a hundred jobs that claim at once, exactly one runs."""
        verdicts = await self._race(bench, [f"job {number}" for number in range(100)])
        assert verdicts.count(Verdict.GRANTED) == 1
        assert verdicts.count(Verdict.RUNNING) == 99

    async def test_grants_a_key_to_one_of_a_hundred_deliveries(self, bench: Bench) -> None:
        """Of a hundred deliveries of one job, exactly one runs."""
        verdicts = await self._race(bench, ["one"] * 100)
        assert verdicts.count(Verdict.GRANTED) == 1
        assert verdicts.count(Verdict.BUSY) == 99

    async def test_grants_a_dead_lease_to_one_of_a_hundred(self, bench: Bench) -> None:
        """A lease that ran out is taken over once."""
        await bench.crashed("gone")
        verdicts = await self._race(bench, [f"job {number}" for number in range(100)])
        assert verdicts.count(Verdict.GRANTED) == 1

    async def _race(self, bench: Bench, owners: list[str]) -> list[Verdict]:
        verdicts: list[Verdict] = []

        async def claim(owner: str) -> None:
            verdicts.append((await bench.claim(owner)).verdict)

        async with anyio.create_task_group() as group:
            for owner in owners:
                group.start_soon(claim, owner)
        return verdicts

    # Renewing

    async def test_renews_a_lease(self, bench: Bench) -> None:
        """A renewal makes the lease last from now on."""
        await bench.claim(token="t", lease=LONG)
        assert await bench.store.renew([Renewal(bench.key, "t", 10 * LONG)]) == [True]
        assert (await bench.record()).wait > 5 * LONG

    async def test_keeps_a_renewed_record(self, bench: Bench) -> None:
        """A renewed record outlives the time at which it would have gone."""
        other = Bench(bench.store)
        await bench.claim(token="t", lease=0.5, keep=0)
        await other.claim(token="t", lease=0.5, keep=0)
        assert await bench.store.renew([Renewal(bench.key, "t", LONG)]) == [True]

        async def gone() -> bool:
            return await bench.store.look_up(other.key) is None

        await until(gone)
        assert (await bench.record()).state is State.PROCESSING

    async def test_renews_in_the_order_asked(self, store: Store) -> None:
        """Many leases renew at once, each with its own answer."""
        benches = [Bench(store) for _ in range(30)]
        for bench in benches[::2]:
            await bench.claim(token="t")
        renewed = await store.renew([Renewal(bench.key, "t", LONG) for bench in benches])
        assert renewed == [True, False] * 15
        assert await store.renew([]) == []

    async def test_never_shortens_a_lease_by_renewing(self, bench: Bench) -> None:
        """A renewal for less time than is left changes nothing."""
        await bench.claim(token="t", lease=LONG)
        assert await bench.store.renew([Renewal(bench.key, "t", SHORT)]) == [True]
        assert (await bench.record()).wait > LONG / 2

    async def test_does_not_renew_under_another_token(self, bench: Bench) -> None:
        """Only the holder's token renews."""
        await bench.claim(token="t", lease=LONG)
        assert await bench.store.renew([Renewal(bench.key, "u", 10 * LONG)]) == [False]
        assert (await bench.record()).wait <= LONG

    async def test_does_not_renew_a_lease_that_is_over(self, bench: Bench) -> None:
        """A holder that comes too late learns it, even if nobody has taken over."""
        await bench.crashed(token="t")
        assert await bench.store.renew([Renewal(bench.key, "t", LONG)]) == [False]
        assert (await bench.record()).wait == 0

    @pytest.mark.parametrize("state", [State.RETRY, State.INTERRUPTED, State.SUCCESS])
    async def test_does_not_renew_a_settled_claim(self, bench: Bench, state: State) -> None:
        """A heartbeat that was overtaken by the outcome leaves it as it is."""
        await bench.claim(token="t")
        await bench.settle(state)
        assert await bench.store.renew([Renewal(bench.key, "t", LONG)]) == [False]
        assert (await bench.record()).state is state

    async def test_renewing_creates_nothing(self, bench: Bench) -> None:
        """A renewal of a record that is gone does not bring it back."""
        assert await bench.store.renew([Renewal(bench.key, "t", LONG)]) == [False]
        assert await bench.store.look_up(bench.key) is None
