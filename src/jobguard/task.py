"""A decorated function: what was decorated, with which policies, and what follows from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, cast

from jobguard.canonical import module_name
from jobguard.codec import resolve_return_annotation
from jobguard.keys import Key, compile_key, takes_context
from jobguard.policies import Policies, Policy, in_order

Body = Callable[..., Coroutine[Any, Any, object]]


class Task:
    """The guard of one function: `fn.__jobguard__`.

    Attributes:
        fn: the original function.
        name: `module.qualname`, for messages, and where no queue has another name for it.
        policies: one per decorator, in a fixed order whatever order they were written in.
        plan: the same policies by kind.
        wrapper: the decorated function; `functools.wraps` copies `__jobguard__` onto foreign
            wrappers, so the guard counts only where `fn.__jobguard__.wrapper is fn`.
        parameters: the names of its parameters; those that take any number of values have their stars.
        takes_context: the first parameter is one that a queue or an object fills, and no argument of the job.
        make_key: from the call's arguments to its key; None without `@deduplicated`.
        plain_result: the type says that a duplicate is never returned.
    """

    def __init__(self, fn: Body, policies: tuple[Policy, ...], *, context: bool | None = None) -> None:
        self.fn = fn
        self.name: str = f"{module_name(fn.__module__)}.{fn.__qualname__}"
        self.policies: tuple[Policy, ...] = in_order(policies)
        self.plan: Policies = Policies.of(policies)
        self.wrapper: Body | None = None
        signature = inspect.signature(fn)
        self.parameters: tuple[str, ...] = _names(signature)
        self.takes_context: bool = takes_context(signature, context)
        deduplication = self.plan.deduplication
        self.make_key: Callable[[tuple[object, ...], Mapping[str, object]], Key] | None = None
        self.plain_result: bool = False
        if deduplication is not None:
            self.make_key = compile_key(fn, key=deduplication.key, scope=deduplication.scope, context=context)
            self.plain_result = deduplication.running != "skip" and deduplication.done != "skip"
        self._returns: object = _UNRESOLVED
        self._given_context: Task | None = None

    def given_context(self) -> Task:
        """The same task, called by a queue that fills its first parameter, whatever that is named.

        Raises:
            InvalidValue: its key names that parameter.
        """
        if self.takes_context:
            return self
        if self._given_context is None:
            task = Task(self.fn, self.policies, context=True)
            task.wrapper = self.wrapper
            self._given_context = task
        return self._given_context

    @property
    def returns(self) -> object:
        """The return annotation, resolved when first needed: the classes it names may come later."""
        if self._returns is _UNRESOLVED:
            self._returns = resolve_return_annotation(self.fn)
        return self._returns

    def own_arguments(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[tuple[object, ...], Mapping[str, object], tuple[str, ...]]:
        """A call's arguments and parameter names without a leading ctx, self or cls."""
        if not self.takes_context:
            return args, kwargs, self.parameters
        first, *names = self.parameters
        own = kwargs if args else {name: value for name, value in kwargs.items() if name != first}
        return args[1:], own, tuple(names)

    def __repr__(self) -> str:
        return f"<jobguard task {self.name} {list(self.policies)!r}>"


def parameters_of(fn: Callable[..., object], *, below: bool = True) -> tuple[str, ...]:
    """The names of a function's parameters, as a task has them; none where nobody can say.

    Args:
        fn: the function.
        below: whether one that `functools.wraps` has made goes by the function below it.
    """
    try:
        return _names(inspect.signature(fn, follow_wrapped=below))
    except (TypeError, ValueError):
        return ()


def _names(signature: inspect.Signature) -> tuple[str, ...]:
    return tuple(map(_shown_name, signature.parameters.values()))


_STARS: Mapping[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def _shown_name(parameter: inspect.Parameter) -> str:
    """A parameter's name; one that takes any number of values has its stars, as in a signature."""
    return _STARS.get(parameter.kind, "") + parameter.name


_UNRESOLVED = object()


class _Guarded(Protocol):
    __jobguard__: Task


def guard_of(fn: object) -> Task | None:
    """The guard of a decorated function, or None: a copied `__jobguard__` does not count."""
    task = getattr(fn, "__jobguard__", None)
    return task if isinstance(task, Task) and task.wrapper is fn else None


def attach(wrapper: Body, task: Task) -> None:
    """Make `wrapper` the decorated form of `task`."""
    task.wrapper = wrapper
    cast("_Guarded", wrapper).__jobguard__ = task
