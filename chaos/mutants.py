"""Seeded bugs: each is put into a running process, and the campaign has to find it.

A bug is a function that changes jobguard where it stands. What it names must be there: a change of
the product that makes a bug meaningless is an error, not a bug that nobody finds.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any

from jobguard.stores.commands import Script

ALWAYS_FAILING = ((1, "plain", {"fail": 99}), (1, "keyed", {"fail": 99}))
JUMPING = ({"ahead": 0.0, "step": 3600.0, "every": 1.5},)
NO_FAULTS = {"kills": 0, "terms": 0, "stops": 0, "outages": 0, "network": 0}
FAILING_TWICE = ((1, "plain", {"fail": 2}), (1, "keyed", {"fail": 2}))


@dataclass(frozen=True, slots=True)
class Mutant:
    """A seeded bug.

    Attributes:
        name: in a few words, what is wrong.
        apply: makes it so.
        part: of the campaign, that has to find it: `soak` or `machines`.
        plan: how its soak differs from the others.
    """

    name: str
    apply: Callable[[], None]
    part: str = "soak"
    plan: Mapping[str, Any] = field(default_factory=dict[str, Any])


def apply(name: str) -> None:
    """Put a bug into this process."""
    MUTANTS[name].apply()


def _rewrite(script: str, *changes: tuple[str, str]) -> None:
    """Change the text of one of the store's scripts."""
    from jobguard.stores import redis

    text = getattr(redis, script).text.decode()
    for old, new in changes:
        assert old in text, f"{script} has no {old!r}"
        text = text.replace(old, new)
    setattr(redis, script, Script(text.encode(), sha1(text.encode()).hexdigest().encode()))


def _renew_any_token() -> None:
    _rewrite("_RENEW", ("record.token ~= ARGV[1] or ", ""))


def _renew_what_is_over() -> None:
    _rewrite("_RENEW", (" or now >= record.ends", ""))


def _settle_without_fence() -> None:
    _rewrite("_SETTLE", ("if not allowed then", "if false then"))


def _claim_what_is_held() -> None:
    _rewrite("_CLAIM", ("if left > 0 then return answer(own and 'busy' or 'running', left) end", ""))


def _uncounted_crash() -> None:
    _rewrite("_CLAIM", ("grant(before.crashes + 1)", "grant(before.crashes)"))


def _fences_that_fall() -> None:
    _rewrite("_CLAIM", ("fence = math.max(before.fence + 1, time[1] * 1000000 + time[2])", "fence = 1"))


def _no_time_to_live() -> None:
    for script in ("_CLAIM", "_SETTLE"):
        _rewrite(script, (", 'PX', lives)", ")"))


def _retry_that_nobody_may_wait_for() -> None:
    """Another job takes a key over while its owner waits for its next run."""
    _rewrite("_CLAIM", ("not own and state == 'R' and now < before.ends + before.overdue", "false"))


def _keys_by_hash() -> None:
    from jobguard.runtime import Runtime

    def record_key(self: Runtime, digest: str) -> str:
        return f"{self.namespace}:{hash((digest, os.getpid()))}"

    _replace(Runtime, "record_key", record_key)


def _check_then_mark() -> None:
    from jobguard.stores import RedisStore

    claim = RedisStore.claim

    async def check_and_mark(self: RedisStore, wanted: Any) -> Any:
        if await self.look_up(wanted.key) is not None:
            return await claim(self, wanted)
        await asyncio.sleep(0.3)
        await self.forget(wanted.key)
        return await claim(self, wanted)

    _replace(RedisStore, "claim", check_and_mark)


def _success_is_not_recorded() -> None:
    from jobguard.stores import RedisStore
    from jobguard.stores.base import Settlement, SettleReply, State

    settle = RedisStore.settle

    async def settle_others(self: RedisStore, settlement: Settlement) -> SettleReply:
        if settlement.state is not State.SUCCESS:
            return await settle(self, settlement)
        await self.forget(settlement.key)
        return SettleReply(True)

    _replace(RedisStore, "settle", settle_others)


def _no_heartbeat() -> None:
    from jobguard.leases import Heartbeat

    async def rest(self: Heartbeat) -> None:
        await asyncio.sleep(0)

    _replace(Heartbeat, "_beat", rest)


def _lease_that_never_ends() -> None:
    """A holder goes on until the store tells it that it has lost."""
    from jobguard.leases import Heartbeat, Held

    _replace(Heartbeat, "_expire", lambda self: None)
    _replace(Held, "expire", lambda self: None)


def _leases_by_wall_clock() -> None:
    """A holder judges its lease by a clock that somebody may set."""
    import sys
    import time

    from jobguard import leases

    true, zero = leases.now, time.time() - time.monotonic()
    for name, module in [*sys.modules.items()]:
        if name.startswith("jobguard.") and getattr(module, "now", None) is true:
            _replace(module, "now", lambda: time.time() - zero)


def _long_marks() -> None:
    from jobguard.adapters.arq.transactions import Transactions

    _replace(Transactions, "lease_ms", property(lambda self: 70_000))


def _lost_run_ends_its_job() -> None:
    from jobguard.adapters.arq.delivery import ArqDelivery
    from jobguard.adapters.arq.transactions import Transactions

    async def leave(self: ArqDelivery, error: Exception) -> None:
        raise error

    async def end(self: Any, held: Any, commands: Any) -> None:
        await self._ending(held)
        async with self._pipelines._before(transaction=True) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            await pipe.execute()

    _replace(ArqDelivery, "leave", leave)
    _replace(Transactions, "end", end)


def _interruption_is_a_success() -> None:
    from jobguard.case import Case
    from jobguard.stores.base import State

    settlement = Case.settlement

    def settle(self: Case, state: State, *args: Any) -> Any:
        return settlement(self, State.SUCCESS if state is State.INTERRUPTED else state, *args)

    _replace(Case, "settlement", settle)


def _cancellation_is_a_failure() -> None:
    from jobguard.history import add_failure
    from jobguard.job import AttemptError, History

    _replace(
        History,
        "with_interruption",
        lambda self: add_failure(self, AttemptError(self.runs + 1, 0.0, "CancelledError", "")),
    )


def _letter_after_the_queue() -> None:
    """The queue hears of the end first, and the letter is written a second later."""
    from jobguard import settling

    keep = settling._keep

    async def keep_later(case: Any, letter: Any) -> None:
        async def later() -> None:
            await asyncio.sleep(1)
            await keep(case, letter)

        case.runtime.background.owe(later)

    _replace(settling, "_keep", keep_later)


def _begun_is_gone() -> None:
    """A job leaves its queue when it begins, as in a queue that is a mere list."""
    from jobguard.adapters.arq.worker import RunningWorker

    before_job = RunningWorker.before_job

    async def take_out(self: RunningWorker, ctx: Any, hook: Any) -> None:
        await self.pool.zrem(self.queue, ctx["job_id"])
        await before_job(self, ctx, hook)

    _replace(RunningWorker, "before_job", take_out)


def _attempts_without_end() -> None:
    from jobguard import engine
    from jobguard.decision import decide

    _replace(engine, "decide", lambda *args, attempts, **kwargs: decide(*args, attempts=None, **kwargs))


def _one_attempt_too_few() -> None:
    from jobguard import engine
    from jobguard.decision import decide

    _replace(engine, "decide", lambda *args, attempts, **kw: decide(*args, attempts=attempts - 1, **kw))


def _replays_under_new_ids() -> None:
    from jobguard.adapters.base import Replay

    job_id = Replay.job_id.fget  # type: ignore[attr-defined]
    _replace(Replay, "job_id", property(lambda self: f"{job_id(self)}:{secrets.token_hex(4)}"))


def _letter_taken_out_to_requeue() -> None:
    from jobguard.returning import Meant, Returning

    put_back = Returning.put_back

    async def take_out_and_put_back(self: Any, meant: Meant) -> Any:
        entry = await self._store.letters.get(self._queue, meant.id)
        if entry is not None:
            await self._store.letters.remove(self._queue, [(meant.id, None)])
            await asyncio.sleep(0.3)
            await self._store.letters.put(self._queue, entry)
        return await put_back(self, Meant(meant.id))

    _replace(Returning, "put_back", take_out_and_put_back)


def _replace(place: Any, name: str, value: object) -> None:
    assert hasattr(place, name), f"{place} has no {name!r}"
    setattr(place, name, value)


MUTANTS = {
    each.name: each
    for each in (
        Mutant("renewal under any token", _renew_any_token, "machines"),
        Mutant("renewal of a lease that is over", _renew_what_is_over, "machines"),
        Mutant("settlement without a fence", _settle_without_fence, "machines"),
        Mutant("crashes are not counted", _uncounted_crash, "machines"),
        Mutant("a retry's key is free", _retry_that_nobody_may_wait_for, "machines"),
        Mutant("a held key is granted again", _claim_what_is_held),
        Mutant("fences that fall", _fences_that_fall, plan={"kinds": FAILING_TWICE}),
        Mutant("records without a time to live", _no_time_to_live),
        Mutant("keys by hash()", _keys_by_hash),
        Mutant("check, then mark", _check_then_mark),
        Mutant("success is not recorded", _success_is_not_recorded, plan=NO_FAULTS),
        Mutant("no heartbeat", _no_heartbeat, plan={"long": 0.2}),
        Mutant(
            "a holder that trusts no clock",
            _lease_that_never_ends,
            plan={"long": 0.5, "network": 60, "stops": 8},
        ),
        Mutant("leases by the wall clock", _leases_by_wall_clock, plan={"clocks": JUMPING, "long": 0.3}),
        Mutant("marks that last as long as ARQ's", _long_marks),
        Mutant("a lost run ends its job", _lost_run_ends_its_job, plan={"long": 0.5, "stops": 8}),
        Mutant("interruption taken for success", _interruption_is_a_success, plan={"long": 0.3, "terms": 20}),
        Mutant(
            "cancellation counted as failure",
            _cancellation_is_a_failure,
            plan={"long": 0.2, "jobs": 200, "terms": 30, "kills": 0, "kinds": ALWAYS_FAILING},
        ),
        Mutant(
            "the queue is told before the letter", _letter_after_the_queue, plan={"kinds": ALWAYS_FAILING}
        ),
        Mutant("a job leaves its queue as it begins", _begun_is_gone),
        Mutant("attempts without end", _attempts_without_end, plan={"kinds": ALWAYS_FAILING}),
        Mutant("one attempt too few", _one_attempt_too_few, plan={"kinds": ALWAYS_FAILING}),
        Mutant(
            "replays under new ids", _replays_under_new_ids, plan={"kinds": ALWAYS_FAILING, "replay": True}
        ),
        Mutant(
            "a letter is taken out to be requeued",
            _letter_taken_out_to_requeue,
            plan={"kinds": ALWAYS_FAILING, "replay": True},
        ),
    )
}
