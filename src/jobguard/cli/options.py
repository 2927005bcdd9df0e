"""Options that commands share, and what they lead to."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, ParamSpec, TypeAlias, TypeVar

import anyio
import typer

from jobguard.cli.exits import Ended, Exit
from jobguard.cli.screen import Screen
from jobguard.dlq import DeadLetterQueue
from jobguard.errors import ConfigurationError
from jobguard.stores.redis import RedisStore

Url: TypeAlias = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="JOBGUARD_URL",
        show_envvar=True,
        help="Server: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://.",
    ),
]
Namespace: TypeAlias = Annotated[
    str,
    typer.Option("--namespace", "-n", envvar="JOBGUARD_NAMESPACE", help="What the keys start with."),
]
Queue: TypeAlias = Annotated[
    str, typer.Option("--queue", "-q", envvar="JOBGUARD_QUEUE", help="Dead letter queue.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON value instead of text.")]
AsLines: TypeAlias = Annotated[bool, typer.Option("--jsonl", help="One JSON object a line.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", help="No messages, only data.")]
NoColor: TypeAlias = Annotated[bool, typer.Option("--no-color", help="No colours. NO_COLOR does the same.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")]

DEFAULT_URL = "redis://localhost:6379/0"


P = ParamSpec("P")
R = TypeVar("R")


def run(work: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """The result of asynchronous work. Ctrl-C ends the command with the exit code that shells give it."""
    try:
        return anyio.run(functools.partial(work, *args, **kwargs))
    except KeyboardInterrupt:
        raise Ended(Exit.INTERRUPTED, "interrupted") from None


def confirm(screen: Screen, question: str, answer: str | None = None) -> None:
    """Go on only if somebody agrees: by yes, or by typing `answer`.

    Raises:
        Ended: nobody is there, or they do not agree.
    """
    if not screen.interactive:
        raise Ended(Exit.REFUSED, "nobody is there to confirm: say --yes if you mean it")
    try:
        if answer is None:
            agreed = typer.confirm(question, err=True)
        else:
            agreed = typer.prompt(question, err=True) == answer
    except typer.Abort:
        raise Ended(Exit.INTERRUPTED, "interrupted, nothing was done") from None
    if not agreed:
        raise Ended(Exit.REFUSED, "not confirmed, nothing was done")


@asynccontextmanager
async def opened_store(url: str) -> AsyncGenerator[RedisStore]:
    """The store behind a URL, closed afterwards."""
    try:
        store = RedisStore.from_url(url)
    except ConfigurationError as error:
        raise Ended(Exit.USAGE, str(error)) from error
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def opened_queue(url: str, namespace: str, queue: str) -> AsyncGenerator[DeadLetterQueue]:
    """A dead letter queue behind a URL."""
    async with opened_store(url) as store:
        try:
            letters = DeadLetterQueue(store, queue, namespace=namespace)
        except ConfigurationError as error:
            raise Ended(Exit.USAGE, str(error)) from error
        yield letters


def make_screen(*, quiet: bool = False, no_color: bool = False) -> Screen:
    return Screen(color=False if no_color else None, quiet=quiet)
