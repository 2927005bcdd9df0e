"""What every command has in common: the options it takes, what they come to, and how it is made known."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast, get_type_hints

import typer

from jobguard.cli import options
from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import Form
from jobguard.cli.screen import Screen
from jobguard.dlq import DeadLetterQueue
from jobguard.errors import ConfigurationError
from jobguard.filters import Filter
from jobguard.policies import check_name, check_namespace
from jobguard.stores.letters import LetterQueue, Totals
from jobguard.stores.redis import RedisStore

MOST_NAMES = 8
"""Names that are told in place of one that there is not."""

P = ParamSpec("P")
R = TypeVar("R")


class Opened(NamedTuple):
    """A dead letter queue, and the store that it is in."""

    store: RedisStore
    letters: DeadLetterQueue
    queue: LetterQueue

    async def totals(self) -> Totals:
        """The queue in numbers, and the store's time."""
        return await self.store.letters.totals(self.queue)


@dataclass(frozen=True, slots=True)
class Call:
    """One command as it was called.

    Attributes:
        url, namespace, queue: whose letters or keys it is about; no command needs all three.
        screen: where it writes.
        form: how it writes data.
        yes: nobody is to be asked.
        dry_run: nothing is to be changed.
    """

    url: str
    namespace: str
    queue: str
    screen: Screen
    form: Form
    yes: bool
    dry_run: bool

    def run(self, work: Callable[Concatenate[Call, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of asynchronous work for this call."""
        return options.run(work, self, *args, **kwargs)

    def confirm(self, question: str, answer: str | None = None) -> None:
        """Go on only if somebody agrees: by yes, or by typing `answer`."""
        options.confirm(self.screen, question, answer)

    def tell(self, value: object) -> bool:
        """Write one object, unless text is wanted; whether it was written."""
        if self.form is Form.TEXT:
            return False
        self.screen.json(value)
        return True

    def tell_each(self, values: list[dict[str, object]]) -> bool:
        """Write objects, as one array or a line each, unless text is wanted; whether they were written."""
        if self.form is Form.JSON:
            self.screen.json(values)
        elif self.form is Form.LINES:
            for value in values:
                self.screen.json(value)
        return self.form is not Form.TEXT

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Opened]:
        """The queue that the call is about; closed afterwards."""
        try:
            queue = LetterQueue(check_namespace(self.namespace), check_name("queue", self.queue))
        except ConfigurationError as error:
            raise Ended(Exit.USAGE, f"--queue or --namespace: {error}") from error
        async with options.opened_store(self.url) as store:
            letters = DeadLetterQueue(store, queue.name, namespace=queue.namespace)
            yield Opened(store, letters, queue)

    async def warn_of_slips(self, letters: DeadLetterQueue, number: int, asked: Filter | None = None) -> None:
        """Where nothing is found, say what there is in place of a name that nothing has: it may be a slip."""
        if number:
            return
        known = await letters.queues()
        if letters.name not in known:
            self.screen.say(
                f"no queue {letters.name!r} has ever held a letter here; those that have: "
                f"{', '.join(known) or 'none (is --namespace right?)'}"
            )
        elif asked is not None and asked.state == "dead" and (asked.task or asked.error):
            there = await letters.stats()
            for what, name, names in (
                ("task", asked.task, there.tasks),
                ("error", asked.error, there.errors),
            ):
                if name is not None and name not in names:
                    some = ", ".join(list(names)[:MOST_NAMES]) or "none"
                    self.screen.say(f"no dead letter has {what} {name!r}; those here: {some}")


@dataclass(frozen=True, slots=True)
class Command:
    """A command that can be added to a group of them.

    Attributes:
        name, alias: how it is called; "" = no other name.
        function: what typer reads its parameters from, and calls.
        example: a line that can be typed.
    """

    name: str
    alias: str
    function: Callable[..., None]
    example: str

    def add_to(self, group: typer.Typer) -> None:
        epilog = f"Example: {self.example}"
        group.command(self.name, epilog=epilog)(self.function)
        if self.alias:
            group.command(self.alias, epilog=epilog, hidden=True)(self.function)


_EVERYWHERE: dict[str, tuple[Any, object]] = {
    "url": (options.Url, options.DEFAULT_URL),
    "namespace": (options.Namespace, "jobguard"),
    "as_json": (options.AsJson, False),
    "as_lines": (options.AsLines, False),
    "quiet": (options.Quiet, False),
    "no_color": (options.NoColor, False),
}
"""Options of every command, with their types and defaults."""
_QUEUE: tuple[Any, object] = (options.Queue, "default")
_YES: tuple[Any, object] = (options.Yes, False)
_DRY_RUN: tuple[Any, object] = (options.DryRun, False)


def command(
    name: str, example: str, *, alias: str = "", queue: bool = True, asks: bool = False, changes: bool = False
) -> Callable[[Callable[Concatenate[Call, P], None]], Command]:
    """Make a command of a function, which gets the options that commands share as its `Call`.

    Args:
        name, alias: how it is called.
        example: a line that can be typed.
        queue: it takes `--queue`.
        asks: it takes `--yes`.
        changes: it takes `--dry-run`.
    """
    shared = dict(_EVERYWHERE)
    shared |= {"queue": _QUEUE} if queue else {}
    shared |= {"yes": _YES} if asks else {}
    shared |= {"dry_run": _DRY_RUN} if changes else {}

    def make(work: Callable[Concatenate[Call, P], None]) -> Command:
        def function(**given: Any) -> None:
            values = {option: given.pop(option) for option in shared}
            cast("Callable[..., None]", work)(_call(**values), **given)

        hints = get_type_hints(work, include_extras=True)
        own = list(inspect.signature(work).parameters.values())[1:]
        parameters = [each.replace(kind=each.KEYWORD_ONLY, annotation=hints[each.name]) for each in own]
        parameters += [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for option, (kind, default) in shared.items()
        ]
        function.__doc__ = work.__doc__
        function.__annotations__ = {each.name: each.annotation for each in parameters}
        # What typer reads the options from.
        cast(Any, function).__signature__ = inspect.Signature(parameters)
        return Command(name, alias, function, example)

    return make


def _call(
    *,
    url: str,
    namespace: str,
    as_json: bool,
    as_lines: bool,
    quiet: bool,
    no_color: bool,
    queue: str = "default",
    yes: bool = False,
    dry_run: bool = False,
) -> Call:
    form = options.form_of(as_json, as_lines)
    screen = options.make_screen(quiet=quiet, no_color=no_color)
    return Call(url, namespace, queue, screen, form, yes, dry_run)
