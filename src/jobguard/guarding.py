"""From policies to a guarded function: the one around the original that callers get.

Nothing is wrapped twice: a further policy makes a new function around the same original.
"""

from __future__ import annotations

import functools
import inspect
import time
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, cast

import anyio

from jobguard import events
from jobguard.adapters.base import arriving
from jobguard.adapters.inprocess import LocalDelivery, warn_if_unprotected
from jobguard.case import Case
from jobguard.decision import attempts_of
from jobguard.engine import carry_through, recover
from jobguard.errors import InvalidType, InvalidValue
from jobguard.guard import active
from jobguard.job import current_run, ref_of
from jobguard.policies import DeadLettering, Deduplication, Fallback, Policy, Retrying, TimeLimit
from jobguard.task import Body, Task, attach, guard_of

P = ParamSpec("P")
R = TypeVar("R")
A_co = TypeVar("A_co", covariant=True)
Q_co = TypeVar("Q_co", bound=Policy, covariant=True)

_NAMES: dict[type, str] = {
    Deduplication: "@deduplicated",
    Retrying: "@retrying",
    DeadLettering: "@dead_letter",
    Fallback: "@fallback",
    TimeLimit: "@time_limit",
}


class Decorator(Generic[Q_co, A_co]):
    """A policy `Q_co` on its way to a function.

    A call of the decorated function gives what the function returns or `A_co`: `Duplicate` where
    a duplicate may be skipped, the answer of a fallback, else Never, which adds nothing.
    """

    __slots__ = ("policy",)

    def __init__(self, policy: Q_co) -> None:
        self.policy: Q_co = policy

    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | A_co]]:
        return cast("Callable[P, Coroutine[Any, Any, R | A_co]]", add_policy(fn, self.policy))

    def __repr__(self) -> str:
        return f"{_NAMES[type(self.policy)]}({self.policy!r})"


def add_policy(fn: Callable[..., object], *added: Policy, shared: bool = False) -> Body:
    """A guarded function around what `fn` guards already, or around `fn`.

    Args:
        shared: the policies were written for many functions, so they may redact what `fn` has not.

    Raises:
        InvalidType: `fn` is not a coroutine function.
        InvalidValue: it has a policy of this kind already, or no parameter that is to be redacted.
    """
    task = guard_of(fn)
    if task is None:
        _check_function(fn, added)
        if not shared:
            _check_redacted(fn, added)
        if isinstance(getattr(fn, "__jobguard__", None), Task):
            warnings.warn(
                f"another decorator stands between those of jobguard on {fn.__qualname__}: "
                f"{_NAMES[type(added[0])]} starts a guard of its own around it; move the other decorator "
                "above or below all of jobguard's",
                stacklevel=3,
            )
        return make_wrapper(Task(cast(Body, fn), added))
    present = {type(policy) for policy in task.policies}
    for policy in added:
        if type(policy) in present:
            raise InvalidValue(
                f"{_NAMES[type(policy)]} is on {task.fn.__qualname__} already; "
                "write it once, with all its settings"
            )
    if not shared:
        _check_redacted(task.fn, added)
    return make_wrapper(Task(task.fn, task.policies + added))


def make_wrapper(task: Task) -> Body:
    """The function that callers get. What is called most, a first run that succeeds, is kept short."""
    fn, name, plan = task.fn, task.name, task.plan
    attempts = attempts_of(plan, None)
    retrying = plan.retrying
    unclaimed = plan.deduplication is None and plan.time_limit is None
    light = unclaimed and (retrying is None or retrying.deadline is None)
    current, ticket, now = current_run, arriving, time.monotonic
    looked = False

    @functools.wraps(fn)
    async def guarded(*args: Any, **kwargs: Any) -> object:
        nonlocal looked
        arrived = ticket.get()
        if arrived is not None and (delivery := arrived.take()) is not None:
            own = _given_context(task) if arrived.fills_first(args) else task
            return await carry_through(Case(own, active().runtime, delivery, args, kwargs))
        if not looked:  # once a task: a worker that calls it unannounced does so from the start
            looked = True
            warn_if_unprotected(args, name)
        if not light:
            return await carry_through(Case(task, active().runtime, LocalDelivery(), args, kwargs))
        # Nothing is claimed and nothing can expire: the store is needed only if this run fails.
        run = [name, attempts, now(), None]
        before = current.set(run)
        try:
            return await fn(*args, **kwargs)
        except Exception as error:
            failure = error
        except BaseException as error:
            if _is_cancellation(error):
                identity = ref_of(run).identity
                active().runtime.emit(events.Interrupted(task=name, job=identity, attempt=1, recorded=False))
            raise
        finally:
            try:  # noqa: SIM105  # costs nothing on the way that is measured; `suppress` would
                current.reset(before)
            except ValueError:
                pass  # closed from another context, there is nothing to restore
        return await recover(task, active().runtime, run, failure, args, kwargs)

    attach(guarded, task)
    return guarded


def _is_cancellation(error: BaseException) -> bool:
    # A coroutine that is thrown away is closed wherever that happens, maybe outside of any event loop.
    return not isinstance(error, GeneratorExit) and isinstance(error, anyio.get_cancelled_exc_class())


def _check_redacted(fn: Callable[..., object], added: tuple[Policy, ...]) -> None:
    """Refuse names that no argument can have: a slip of the pen would leave a secret in clear."""
    parameters = inspect.signature(fn).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for policy in added:
        for path in policy.redact if isinstance(policy, DeadLettering) else ():
            if path.partition(".")[0] not in parameters:
                raise InvalidValue(
                    f"redact={path!r} names no parameter of {fn.__qualname__}; "
                    f"it has {', '.join(parameters) or 'none'}"
                )


def _given_context(task: Task) -> Task:
    """A task that a queue calls with its context first; it is told at start-up of a key that names that.

    One below foreign decorators cannot be told so early. It goes on, and finds no key when it looks for it.
    """
    try:
        return task.given_context()
    except InvalidValue:
        return task


def no_function(name: str, given: object) -> InvalidType:
    """The error for what cannot be decorated, with the slip of the pen that it most likely is."""
    hint = ""
    below: object = getattr(given, "policy", None)
    if isinstance(below, Fallback) or (name == "@fallback" and not callable(given)):
        hint = "; a bare @fallback takes the function for its answer: write @fallback(value)"
    elif not callable(given):
        hint = f"; settings go by keyword, {name}(setting=...)"
    elif name == "@deduplicated":
        hint = "; a function that makes the key goes by keyword: key=..."
    return InvalidType(f"{name} needs a coroutine function (async def), not {given!r}{hint}")


def _check_function(fn: object, added: tuple[Policy, ...]) -> None:
    name = _NAMES[type(added[0])] if added else "jobguard"
    if inspect.iscoroutinefunction(fn) and hasattr(fn, "__qualname__"):  # a partial has no name
        return
    if isinstance(fn, (staticmethod, classmethod)):
        kind = "staticmethod" if isinstance(fn, staticmethod) else "classmethod"
        raise InvalidType(f"{name} goes below @{kind}, onto the function itself; it got {fn!r}")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise InvalidType(f"{name} needs a coroutine function, not the generator {fn!r}; return a value once")
    raise no_function(name, fn)
