"""`protect`: from worker settings to worker settings that keep jobguard's promises.

The stock `arq` command reads `settings.__dict__` and nothing else, so everything is written into
the class (or a new dict), inherited settings included.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import logging
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from arq.connections import RedisSettings
from arq.constants import default_queue_name
from arq.cron import CronJob
from arq.utils import to_seconds
from arq.worker import Function, Worker
from arq.worker import func as arq_function

from jobguard.adapters.arq.endings import WorkerFunction
from jobguard.adapters.arq.enqueueing import insist
from jobguard.adapters.arq.incoming import CATCH_ALL, AbortedUnseen, reading, writing
from jobguard.adapters.arq.outages import traced
from jobguard.adapters.arq.replay import PAYLOAD_LIFE_MS
from jobguard.adapters.arq.worker import Context, RunningWorker, undeliverable_task
from jobguard.adapters.base import Terms
from jobguard.codec import Codec
from jobguard.errors import InvalidType, InvalidValue
from jobguard.events import Hook
from jobguard.guard import JobGuard, check_codec, check_hooks, check_store
from jobguard.guarding import Decorator, add_policy, make_wrapper
from jobguard.policies import DAY, Duration, Policy, check_namespace, choice, is_async, lease_of, seconds
from jobguard.runtime import OnStoreError
from jobguard.stores.base import Store
from jobguard.stores.batching import secrets_of
from jobguard.stores.redis import RedisStore
from jobguard.task import Task

if TYPE_CHECKING:
    from arq.connections import ArqRedis
    from arq.typing import WorkerCoroutine

logger: logging.Logger = logging.getLogger("jobguard.arq")

S = TypeVar("S", bound=type[Any] | dict[str, Any])

WITHOUT_LIMIT = 2**31 - 1
"""For ARQ's `max_tries`: our own counters decide, and they do not count deploys."""
SETTLE_MARGIN = 10.0
"""Seconds beyond limit and lease that ARQ's own timeout leaves for settling."""
LEAST_LEASE = 1.0
"""Seconds: a worker that runs several jobs at once is easily late by a third of that."""
SWEEP = 600.0
"""Seconds between two sweeps of a queue."""
ARQ_MAX_TRIES = 5
ARQ_JOB_TIMEOUT = 300.0

_running: ContextVar[RunningWorker | None] = ContextVar("jobguard_arq_worker", default=None)
"""Whose tasks these are; set as a worker starts up, in the task that starts all others of it."""
_SETTINGS = tuple(inspect.signature(Worker).parameters)
_NEAR = 0.88
"""How much alike a name and a setting are, up to 1, if it is taken for a slip: `max_job`, `max_retries`."""
_ORIGINALS = "__jobguard_settings__"


@overload
def protect(
    settings: S,
    /,
    *,
    store: Store | None = None,
    namespace: str = "jobguard",
    lease: Duration = 30.0,
    defaults: Iterable[Decorator[Policy, object]] = (),
    hooks: Iterable[Hook] = (),
    codec: Codec | None = None,
    on_store_error: OnStoreError = "raise",
    sweep: Duration | None = SWEEP,
) -> S: ...
@overload
def protect(
    *,
    store: Store | None = None,
    namespace: str = "jobguard",
    lease: Duration = 30.0,
    defaults: Iterable[Decorator[Policy, object]] = (),
    hooks: Iterable[Hook] = (),
    codec: Codec | None = None,
    on_store_error: OnStoreError = "raise",
    sweep: Duration | None = SWEEP,
) -> Callable[[S], S]: ...
def protect(
    settings: Any = None,
    /,
    *,
    store: Store | None = None,
    namespace: str = "jobguard",
    lease: Duration = 30.0,
    defaults: Iterable[Decorator[Policy, object]] = (),
    hooks: Iterable[Hook] = (),
    codec: Codec | None = None,
    on_store_error: OnStoreError = "raise",
    sweep: Duration | None = SWEEP,
) -> Any:
    """Make an ARQ worker keep the promises of its tasks' decorators.

    Works as `@protect`, as `@protect(...)` and as a call, on a `WorkerSettings` class or a dict; the
    stock `arq` command runs the result. A class is changed and returned, a dict copied. Subclasses
    of a protected class are protected too.

    Args:
        settings: what ARQ calls worker settings.
        store: where claims and dead letters are kept; default: the worker's own Redis.
        namespace: what jobguard's keys start with. Default `"jobguard"`.
        lease: seconds or timedelta after which the job of a crashed worker is run again. It is
            renewed while a job runs, so jobs may take longer. Default 30; at least 1.
        defaults: decorators, as `retrying(attempts=5)`, for functions that have none of their own;
            otherwise those keep ARQ's behaviour.
        hooks: called with every event.
        codec: how results and payloads are written.
        on_store_error: `"raise"` (default) puts a job off while the store is out of reach, `"run"` runs it
            unguarded.
        sweep: seconds or timedelta between sweeps of the queue. A sweep dead-letters jobs whose payload has
            run out and extends payloads about to. One worker of a queue sweeps at a time. Default 600; None =
            this worker never sweeps.

    Raises:
        ConfigurationError: a setting is wrong, or limits of the worker contradict a policy; the
            message says what to change.
    """
    choice("on_store_error", on_store_error, ("raise", "run"))
    protection = functools.partial(
        Protection,
        store=None if store is None else check_store(store),
        namespace=check_namespace(namespace),
        lease=lease_of(lease, least=LEAST_LEASE),
        defaults=_policies_of(defaults),
        hooks=check_hooks(hooks),
        codec=None if codec is None else check_codec(codec),
        on_store_error=on_store_error,
        sweep=None if sweep is None else seconds("sweep", sweep),
    )

    def apply(settings: Any) -> Any:
        if isinstance(settings, dict):
            given = cast("dict[str, Any]", settings)
            originals: dict[str, Any] = given.get(_ORIGINALS, given)
            _warn_of_slips("a dict of worker settings", given, given)
            return {**originals, **protection(originals).protected(), _ORIGINALS: originals}
        if isinstance(settings, type):
            return _protect_class(settings, protection)
        raise InvalidType(f"settings must be a class or a dict of worker settings, not {settings!r}")

    return apply if settings is None else apply(settings)


def _policies_of(decorators: object) -> tuple[Policy, ...]:
    if not isinstance(decorators, Iterable):
        raise InvalidType(
            f"defaults must be a tuple of decorators, not {decorators!r}; write defaults=(...,)"
        )
    policies: dict[type, Policy] = {}
    for decorator in cast("Iterable[object]", decorators):
        if not isinstance(decorator, Decorator):
            raise InvalidType(f"defaults must be decorators such as retrying(attempts=5), not {decorator!r}")
        policy = cast("Decorator[Policy, object]", decorator).policy
        if type(policy) in policies:
            raise InvalidValue(f"defaults has {policy!r} and another of its kind; write each once")
        policies[type(policy)] = policy
    return tuple(policies.values())


def _protect_class(cls: type, protection: Callable[[Mapping[str, Any]], Protection]) -> type:
    """Write protected settings into a class, and have its subclasses protected as they are made."""
    inherited: dict[str, Any] = dict(getattr(cls, _ORIGINALS, {}))
    originals: dict[str, Any] = cls.__dict__.get(_ORIGINALS) or {
        **{name: getattr(cls, name) for name in _SETTINGS if hasattr(cls, name)},
        **inherited,
        **{name: getattr(cls, name) for name in _SETTINGS if name in cls.__dict__},
    }
    _warn_of_slips(f"{cls.__module__}.{cls.__qualname__}", vars(cls) if inherited else dir(cls), originals)
    for name, value in protection(originals).protected().items():
        setattr(cls, name, staticmethod(value) if inspect.isfunction(value) else value)
    setattr(cls, _ORIGINALS, originals)
    if not inherited:

        def protect_subclass(subclass: type[Any], /, **options: Any) -> None:
            if theirs is not None:
                theirs(subclass, **options)
            _protect_class(subclass, protection)

        theirs = getattr(cls.__init_subclass__, "__func__", None)
        setattr(cls, "__init_subclass__", classmethod(protect_subclass))  # noqa: B010
    return cls


def _warn_of_slips(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    """ARQ ignores names that it does not know. They may be the user's own: only what is very near is told."""
    missing = [name for name in _SETTINGS if name not in known]
    for name in names:
        if name in _SETTINGS or name.startswith("_"):
            continue
        for near in difflib.get_close_matches(name, missing, n=1, cutoff=_NEAR):
            warnings.warn(
                f"{where} sets {name}, which ARQ does not know and ignores; if {near} is meant, rename it",
                stacklevel=4,
            )


def is_protected(settings: type[Any] | dict[str, Any]) -> bool:
    """Whether these worker settings come from `protect`."""
    return _ORIGINALS in (settings if isinstance(settings, dict) else vars(settings))


class Protection:
    """The protected form of one set of worker settings."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        store: Store | None,
        namespace: str,
        lease: float,
        defaults: tuple[Policy, ...],
        hooks: tuple[Hook, ...],
        codec: Codec | None,
        on_store_error: OnStoreError,
        sweep: float | None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._make_guard = functools.partial(
            JobGuard,
            namespace=namespace,
            lease=lease,
            hooks=hooks,
            codec=codec,
            on_store_error=on_store_error,
        )
        self._lease = lease
        self._sweep = sweep
        self._defaults = defaults
        self._entries: dict[str, WorkerFunction] = {}
        self._workers: dict[int, RunningWorker] = {}  # by their own ctx, of which ARQ makes those of jobs
        given: Duration | None = settings.get("job_timeout", ARQ_JOB_TIMEOUT)
        timeout = to_seconds(given)
        self._job_timeout = None if timeout is None else float(timeout)
        self._single = not settings.get("retry_jobs", True)
        _check_redis_settings(settings.get("redis_settings"))
        self._functions = [
            self._protect_function(_function(each)) for each in _several(settings.get("functions", ()))
        ]
        self._cron_jobs = [self._protect_cron(each) for each in settings.get("cron_jobs") or ()]
        if self._entries:  # else ARQ is to say that there is nothing to run
            catch_all = Function(
                CATCH_ALL, cast("WorkerCoroutine", make_wrapper(undeliverable_task())), None, None, None, None
            )
            self._functions.append(self._protect_function(catch_all))
        self._theirs_before = _harmless(settings.get("on_job_start"))
        self._theirs_after = _harmless(settings.get("after_job_end"))
        names = frozenset(self._entries) - {CATCH_ALL}
        self._read = reading(settings.get("job_deserializer"), names, Codec() if codec is None else codec)
        self._write = writing(settings.get("job_serializer"), self._aborted_unseen)

    def protected(self) -> dict[str, Any]:
        """The settings for ARQ."""
        settings = self._settings
        return {
            **settings,
            "functions": self._functions,
            "cron_jobs": self._cron_jobs or None,
            "on_startup": self._on_startup,
            "on_shutdown": self._on_shutdown,
            "on_job_start": self._on_job_start,
            "on_job_end": _harmless(settings.get("on_job_end")),
            "after_job_end": self._after_job_end,
            "job_serializer": self._write,
            "job_deserializer": self._read,
            "retry_jobs": True,
            "expires_extra_ms": settings.get("expires_extra_ms", PAYLOAD_LIFE_MS),
        }

    def _protect_function(self, function: Function) -> Function:
        call, entry = self._entry(function, cron=False)
        protected = replace(function, coroutine=cast(Any, call), max_tries=self._max_tries(entry, function))
        protected.timeout_s = self._timeout(entry, function.timeout_s)
        return protected

    def _protect_cron(self, job: CronJob) -> CronJob:
        call, entry = self._entry(job, cron=True)
        protected = replace(job, coroutine=cast(Any, call), max_tries=self._max_tries(entry, job))
        protected.timeout_s = self._timeout(entry, job.timeout_s)
        return protected

    def _entry(
        self, function: Function | CronJob, *, cron: bool
    ) -> tuple[Callable[..., Awaitable[object]], WorkerFunction]:
        """What is known of a function, and what ARQ is to call in its place."""
        call = cast("Callable[..., Awaitable[object]]", function.coroutine)
        task = _task_below(call)
        if task is None and self._defaults:
            call = add_policy(call, *self._defaults, shared=True)
            task = _task_below(call)
        if task is not None and task.wrapper is call:  # ARQ fills the first parameter, whatever its name
            task = task.given_context()
        entry = WorkerFunction(function.name, call, task, self._terms(function, cron=cron), cron)
        if task is not None:
            self._check(function, task, entry.terms, cron=cron)
        self._entries[function.name] = entry

        @functools.wraps(call)
        async def run(ctx: Context, /, *args: Any, **kwargs: Any) -> object:
            return await _this_worker().run(entry, ctx, args, kwargs)

        return run, entry

    def _terms(self, function: Function | CronJob, *, cron: bool) -> Terms:
        own = None if cron else function.max_tries
        tries: int | None = self._settings.get("max_tries") if own is None else own
        return Terms(
            attempts=tries,
            unasked=ARQ_MAX_TRIES if tries is None else tries,
            single=self._single,
            limit=self._job_timeout if function.timeout_s is None else float(function.timeout_s),
            durable=True,
            keep_ended=DAY,
        )

    def _check(self, function: Function | CronJob, task: Task, terms: Terms, *, cron: bool) -> None:
        """Refuse limits that contradict each other, before a job meets them."""
        limit = task.plan.time_limit
        if limit is not None and terms.limit is not None and limit.seconds > terms.limit:
            raise InvalidValue(
                f"time_limit({limit.seconds:g}) on {task.name} is longer than the worker's timeout of "
                f"{terms.limit:g} s, which would end it first; raise job_timeout or func(timeout=...), or "
                "lower time_limit"
            )
        retrying = task.plan.retrying
        tries = None if cron else function.max_tries
        if retrying is None or not retrying.attempts_given or tries is None:
            return
        if retrying.attempts is None or retrying.attempts > tries:
            raise InvalidValue(
                f"attempts={retrying.attempts!r} on {task.name} contradicts func(max_tries={tries!r}); "
                "leave max_tries out, or make the two equal"
            )

    def _max_tries(self, entry: WorkerFunction, function: Function | CronJob) -> int | None:
        return WITHOUT_LIMIT if entry.task is not None else function.max_tries

    def _timeout(self, entry: WorkerFunction, given: float | None) -> float | None:
        """ARQ's own timeout of a function: ours comes first, and settling fits in between."""
        if entry.task is None or entry.terms.limit is None:
            return given
        return entry.terms.limit + self._lease + SETTLE_MARGIN

    async def _on_startup(self, ctx: Context) -> None:
        pool: ArqRedis = ctx["redis"]
        # The worker made its pool with our serialisers, which are for payloads that it runs.
        if pool.job_deserializer is self._read:
            pool.job_deserializer = self._settings.get("job_deserializer")
        if pool.job_serializer is self._write:
            pool.job_serializer = self._settings.get("job_serializer")
        insist(pool)
        queue = self._settings.get("queue_name") or pool.default_queue_name or default_queue_name
        guard = self._make_guard(RedisStore(pool) if self._store is None else self._store)
        decode = self._settings.get("job_deserializer")
        worker = RunningWorker(pool, guard, queue, self._entries, decode, self._sweep)
        self._workers[id(ctx)] = worker
        _running.set(worker)
        worker.start()
        theirs = self._settings.get("on_startup")
        if theirs is not None:
            await theirs(ctx)

    async def _on_shutdown(self, ctx: Context) -> None:
        theirs = self._settings.get("on_shutdown")
        try:
            if theirs is not None:
                await theirs(ctx)
        finally:
            worker = self._workers.pop(id(ctx), None)
            if worker is not None:
                await worker.aclose()

    async def _on_job_start(self, ctx: Context) -> None:
        await _this_worker().before_job(ctx, self._theirs_before)

    async def _after_job_end(self, ctx: Context) -> None:
        await _this_worker().after_job(ctx)
        if self._theirs_after is not None:
            await self._theirs_after(ctx)

    def _aborted_unseen(self, job: AbortedUnseen) -> None:
        _this_worker().aborted_unseen(job)


def _check_redis_settings(given: object) -> None:
    """Refuse a URL, which ARQ would find out about as it connects. It is not shown: it has a password."""
    if given is not None and not isinstance(given, RedisSettings):
        raise InvalidType(
            f"redis_settings must be RedisSettings of arq.connections, not of type {type(given).__name__}; "
            "for a URL write RedisSettings.from_dsn(url)"
        )


def _several(functions: object) -> Iterable[object]:
    if not isinstance(functions, Iterable) or isinstance(functions, str):
        raise InvalidType(f"functions must be a list of them, not {functions!r}; write [...]")
    return cast("Iterable[object]", functions)


def _function(given: Any) -> Function:
    """An entry of `functions` as ARQ knows it: what it can run, a name to import, or `func(...)`."""
    if isinstance(given, (str, Function)):
        return arq_function(given)
    if not inspect.iscoroutinefunction(given) or not hasattr(given, "__qualname__"):
        cure = "write async def, and what blocks goes into await anyio.to_thread.run_sync(...)"
        if is_async(given):
            cure = "write an async def function that calls it"
        raise InvalidType(f"functions must be coroutine functions (async def), not {given!r}; {cure}")
    return arq_function(given)


def running_worker() -> RunningWorker | None:
    """The protected worker that this task is one of."""
    return _running.get()


def _this_worker() -> RunningWorker:
    worker = running_worker()
    assert worker is not None, "ARQ has not called on_startup in the task that starts its jobs"
    return worker


def _task_below(call: object) -> Task | None:
    """The guard of a function, also of one that a foreign decorator has wrapped with `functools.wraps`."""
    task = getattr(call, "__jobguard__", None)
    return task if isinstance(task, Task) else None


def _harmless(hook: Callable[[Context], Awaitable[Any]] | None) -> Callable[[Context], Awaitable[Any]] | None:
    """A user's hook whose errors are logged: ARQ would end the worker for them."""
    if hook is None:
        return None

    @functools.wraps(hook)
    async def run(ctx: Context) -> None:
        try:
            await hook(ctx)
        except Exception as error:
            name, shown = getattr(hook, "__name__", hook), traced(error, secrets_of(_this_worker().pool))
            logger.error("%s failed on job %r", name, ctx.get("job_id"), exc_info=shown)

    return run
