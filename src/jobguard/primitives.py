"""Building blocks for tasks written by hand, on the same records as the decorators.

    if await is_job_already_processed(ctx, key):
        return
    try:
        ...
    except Exception as error:
        await log_job_failure(ctx, key, error, ctx["job_try"], 3)
        if ctx["job_try"] < 3:
            raise Retry(defer=await get_retry_delay(ctx["job_try"])) from error
        await move_to_dead_letter_queue(ctx, key, error)
        raise
    await mark_job_as_processed(ctx, key)

`ctx` is what an ARQ worker hands to its tasks, protected or not. Records are kept in the worker's
Redis (a protected worker's own store) under the namespace `jobguard`.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import anyio

from jobguard.backoff import exponential
from jobguard.codec import clip, preview, printable
from jobguard.errors import InvalidType, StoreError, StoreUnavailable
from jobguard.events import DeadLettered
from jobguard.guard import JobGuard, delivering
from jobguard.history import add_failure, pack, unpack
from jobguard.job import AttemptError, History, JobRef
from jobguard.keeping import keep
from jobguard.keys import compile_key
from jobguard.letters import MESSAGE_LIMIT, Arguments, End, message_of, to_text, type_name, write_letter
from jobguard.persistence import persist
from jobguard.policies import DAY, DeadLettering, Duration, seconds
from jobguard.redaction import by_name
from jobguard.replays import Underway, underway
from jobguard.stores.base import UNFINISHED, Claim, Settlement, State, Verdict
from jobguard.stores.letters import UNKNOWN_TASK, DeadLetter, LetterQueue

if TYPE_CHECKING:
    from arq.connections import ArqRedis

logger: logging.Logger = logging.getLogger("jobguard")

LEASE = 310.0
"""Seconds after which a claim ends by itself: as long as ARQ itself takes a job to be running."""
NAMESPACE = "jobguard"
QUEUE = "default"

Context = Mapping[Any, Any]


async def is_job_already_processed(ctx: Context, job_key: str) -> bool:
    """Claim the work, atomically; False = this job may do it now.

    True = it has succeeded, or another job holds it. The same job gets False until it succeeds,
    however often it is delivered. The claim ends by `mark_job_as_processed`, `log_job_failure` or
    `move_to_dead_letter_queue`; left alone, after 310 s.

    Args:
        ctx: what the worker handed to the task.
        job_key: what makes two jobs the same work.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    work = _work(ctx, job_key)
    claim = Claim(work.key, work.job.identity, work.token, LEASE, UNFINISHED)
    reply = await work.guard.store.claim(claim)
    if reply.verdict is Verdict.BUSY:
        # An earlier delivery of this job has released the claim under this token. A new one on the
        # job's own record lets it be claimed again.
        released = work.settlement(State.INTERRUPTED, history=reply.history)
        await work.guard.store.settle(released._replace(token=secrets.token_urlsafe(9)))
        reply = await work.guard.store.claim(claim)
    return reply.verdict not in (Verdict.GRANTED, Verdict.ENDED)


async def mark_job_as_processed(ctx: Context, job_key: str, ttl: Duration = DAY) -> bool:
    """End the claim with success; other jobs of this key are then already processed for `ttl` seconds.

    Returns:
        False if the success was refused, since another job has taken the claim over meanwhile.
    """
    work = _work(ctx, job_key)
    settlement = work.settlement(State.SUCCESS, lasts=seconds("ttl", ttl))
    return await work.settle(settlement)


async def log_job_failure(
    ctx: Context, job_key: str, error: Exception, attempt: int, max_attempts: int, **details: object
) -> None:
    """Log a failed attempt, note it in the job's history, and release the claim.

    Args:
        ctx: what the worker handed to the task.
        job_key: what makes two jobs the same work.
        error: what failed.
        attempt: which attempt it was, 1-based.
        max_attempts: how many there are.
        details: more for the log line; every value is `repr`ed. Like the error, they are cut to
            2,048 characters, and what could break the line is escaped.
    """
    work = _work(ctx, job_key)
    logger.warning(
        "job %r with key %r failed on attempt %r of %r: %s %s",
        work.job.id,
        job_key,
        attempt,
        max_attempts,
        _shown(repr(error)),
        _shown(" ".join(f"{name}={value!r}" for name, value in details.items())),
    )
    history = add_failure(await work.history(), _attempt_error(attempt, error))
    await work.settle(work.settlement(State.INTERRUPTED, history=pack(history, 0.0)))


async def move_to_dead_letter_queue(
    ctx: Context, job_key: str, error: Exception, *, task: str | None = None, **details: object
) -> str:
    """End the claim and keep the job in the dead letter queue `"default"`.

    Both are tried together for as long as a lease lasts. If another job has taken the claim over
    meanwhile, the work is that job's: this is logged, and no letter is kept.

    A protected worker knows the job's task and arguments, and the letter has them; of the task's
    `@dead_letter`, if it has one, `redact` and `payload` hold here too.

    Args:
        ctx: what the worker handed to the task.
        job_key: what makes two jobs the same work.
        error: what failed.
        task: the name that the task is enqueued by, for the letter to be run again; only a bare
            worker's letter needs it. Default None: `"<unknown>"` there.
        details: kept in the letter's preview.

    Returns:
        The letter's id; the same one each time this job is moved, also where no letter was kept.

    Raises:
        StoreUnavailable: the store does not answer. Called again, it goes on where it ended.
    """
    if task is not None and not isinstance(task, str):
        raise InvalidType(f"task must be the name that the task is enqueued by, not {task!r}")
    work = _work(ctx, job_key)
    here = work.here
    replay = None if here is None else here.delivery.replay
    queue = LetterQueue(NAMESPACE, QUEUE) if replay is None else replay.queue
    letter: DeadLetter | None = None

    async def move() -> str:
        nonlocal letter
        if letter is None:  # written once: settling ends the history
            raw = await _payload(ctx["redis"], work.job.id) if here is None else here.delivery.payload
            history = await work.history()
            written = _letter(work, error, history, raw, task, {"job_key": job_key, **details})
            letter = written if replay is None else replace(written, id=replay.id)
        if await work.settle(work.settlement(State.DEAD_LETTER, body=to_text(letter))):
            await keep(work.guard.runtime, queue, letter, DeadLettering(QUEUE), replay)
            told = f"{letter.error_type}: {letter.error_message}"
            work.guard.runtime.emit(
                DeadLettered(
                    task=letter.task,
                    job=work.job.identity,
                    key=letter.key,
                    queue=queue.name,
                    id=letter.id,
                    reason=letter.reason,
                    error=told,
                )
            )
        return letter.id

    def failed(error: StoreError) -> None:
        logger.warning("moving job %r to the dead letters failed: %s", work.job.id, _shown(repr(error)))

    runtime = work.guard.runtime
    return await persist(move, failed, anyio.current_time() + runtime.lease, runtime.background)


async def get_retry_delay(attempt: int) -> float:
    """Seconds to wait after a failed attempt: 30, 60, 120 … at most 600; without jitter."""
    return _DELAYS.base(attempt)


_DELAYS = exponential(30, cap=600, jitter=None)


class _Work(NamedTuple):
    """A key and the job that asks for it. The token is the same for every delivery of a job.

    `here`: what a protected worker knows of the delivery; None under a bare one.
    """

    guard: JobGuard
    key: str
    job: JobRef
    token: str
    here: Underway | None

    def settlement(
        self, state: State, *, lasts: float = 0.0, history: str = "", body: str | None = None
    ) -> Settlement:
        return Settlement(
            self.key, self.job.identity, self.token, None, state, lasts, DAY if state.ended else UNFINISHED,
            history=history, body=body,
        )  # fmt: skip

    async def settle(self, settlement: Settlement) -> bool:
        reply = await self.guard.store.settle(settlement)
        if not reply.accepted:
            logger.warning(
                "%s of job %r was refused: %r holds the key",
                settlement.state.status,
                self.job.id,
                reply.owner,
            )
        return reply.accepted

    async def history(self) -> History:
        record = await self.guard.store.look_up(self.key)
        if record is None or record.owner != self.job.identity:
            return History()
        return unpack(record.history, record.elapsed)[0]


def _letter(
    work: _Work,
    error: Exception,
    history: History,
    raw: bytes | None,
    task: str | None,
    details: Mapping[str, object],
) -> DeadLetter:
    """The letter of a job, with what its worker knows of it."""
    here, call, policy = work.here, None, None
    if here is not None:
        call, task = here.call, task if here.delivery.task is None else here.delivery.task
        policy = None if here.task is None else here.task.plan.dead_lettering
    policy = DeadLettering() if policy is None else policy
    known = Arguments((), {}, ()) if call is None else call
    named = by_name(known.args, known.kwargs, known.names)
    if not {path.partition(".")[0] for path in policy.redact} <= {*known.names, *named}:
        # A decorator between the queue and the task hands on other arguments than it gets: nobody can
        # say which of them are meant.
        policy = replace(policy, redact=tuple(named))
    end = End(
        adapter="arq" if here is None else here.delivery.adapter,
        job=work.job,
        task=UNKNOWN_TASK if task is None else task,
        key=work.key.removeprefix(f"{NAMESPACE}:"),
        history=history,
        error=error,
        reason="moved",
        raw=raw,
    )
    letter = write_letter(end, policy, work.guard.runtime.codec, call)
    return replace(letter, preview=preview((), {**named, **details}, (), policy.redact))


def _work(ctx: Context, job_key: str) -> _Work:
    if not isinstance(job_key, str):
        raise InvalidType(f"job_key must be a string, not {job_key!r}")
    lacking = [name for name in ("redis", "job_id", "enqueue_time") if name not in ctx]
    if lacking:
        lacks = ", ".join(map(repr, lacking))
        raise InvalidType(f"ctx must be what an ARQ worker hands to its tasks; it lacks {lacks}")
    pool: ArqRedis = ctx["redis"]
    guard = delivering.get() or _guard_of(pool)
    here = underway.get()
    if here is not None and here.delivery.ref.id != ctx["job_id"]:
        here = None  # what one job has started works for another one
    queue = pool.default_queue_name if here is None else here.delivery.ref.queue
    job = JobRef(queue, ctx["job_id"], int(ctx["enqueue_time"].timestamp() * 1000))
    digest = _make_key((job_key,), {}).digest
    return _Work(guard, f"{NAMESPACE}:{digest}", job, f"by-hand:{job.id}:{job.enqueued_ms}", here)


_guards: WeakKeyDictionary[ArqRedis, JobGuard] = WeakKeyDictionary()


def _guard_of(pool: ArqRedis) -> JobGuard:
    """The guard of a bare worker: one for all of its jobs, as every store keeps connections."""
    guard = _guards.get(pool)
    if guard is None:
        from redis.asyncio import Redis

        from jobguard.stores.redis import RedisStore

        # A client of its own, over the same connections: a guard that held its key would keep it for ever.
        connections: Any = pool.connection_pool  # redis-py's mixins annotate the blocking pool as well
        client = Redis(connection_pool=connections)
        guard = _guards[pool] = JobGuard(RedisStore(client), namespace=NAMESPACE)
    return guard


async def _payload(pool: ArqRedis, job_id: str) -> bytes | None:
    """The job as ARQ stores it."""
    from redis.exceptions import RedisError

    from jobguard.stores.batching import is_passing, secrets_of
    from jobguard.stores.replies import without

    try:
        payload: bytes | None = await pool.get(f"arq:job:{job_id}")
    except (OSError, RedisError) as error:
        said = without(f"{type(error).__name__}: {error}", secrets_of(pool))
        kind = StoreUnavailable if is_passing(error) else StoreError
        raise kind(f"ARQ's server: {said}") from None
    return payload


def _shown(text: str) -> str:
    """Text that stays in its line of the log, and leaves room for others."""
    return clip(printable(clip(text, MESSAGE_LIMIT)), MESSAGE_LIMIT)


def _by_hand(job_key: str) -> None:
    """Stands for a task of which only the key is known."""


_make_key = compile_key(_by_hand, key="{job_key}", scope="jobguard.primitives")


def _attempt_error(attempt: int, error: Exception) -> AttemptError:
    return AttemptError(attempt, time.time(), type_name(error), clip(message_of(error), MESSAGE_LIMIT))
