"""Options that commands share, and what they lead to."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Annotated, Any, ParamSpec, TypeAlias, TypeVar

import anyio
import typer
from redis.asyncio import Redis, RedisCluster

from jobguard.cli.exits import Ended, Exit
from jobguard.cli.screen import Screen
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
REPLY_TIMEOUT = 5.0
"""Seconds that a command waits for the server, three times at most."""
CLOSING_BOUND = 1.0
"""Seconds that a command which ends early waits for what is under way."""


class Form(Enum):
    """How data is written."""

    TEXT = auto()
    JSON = auto()
    LINES = auto()


def form_of(as_json: bool, as_lines: bool) -> Form:
    if as_json and as_lines:
        raise Ended(Exit.USAGE, "--json and --jsonl are two forms: choose one")
    return Form.JSON if as_json else Form.LINES if as_lines else Form.TEXT


P = ParamSpec("P")
R = TypeVar("R")


def run(work: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """The result of asynchronous work. Ctrl-C ends the command with the exit code that shells give it."""
    try:
        return anyio.run(functools.partial(work, *args, **kwargs))
    except KeyboardInterrupt:
        raise Ended(Exit.INTERRUPTED, "interrupted") from None


def check_somebody_is_there(screen: Screen) -> None:
    """Refuse where there is no terminal to ask at."""
    if not screen.interactive:
        raise Ended(Exit.REFUSED, "nobody is there to confirm: say --yes if you mean it")


def confirm(screen: Screen, question: str, answer: str | None = None) -> None:
    """Go on only if somebody agrees: by yes, or by typing `answer`.

    Raises:
        Ended: nobody is there, or they do not agree.
    """
    check_somebody_is_there(screen)
    try:
        if answer is None:
            agreed = typer.confirm(question, err=True)
        else:
            agreed = typer.prompt(question, default="", show_default=False, err=True) == answer
    except typer.Abort:
        raise Ended(Exit.INTERRUPTED, "interrupted, nothing was done") from None
    if not agreed:
        raise Ended(Exit.REFUSED, "not confirmed, nothing was done")


@asynccontextmanager
async def opened_store(url: str) -> AsyncGenerator[RedisStore]:
    """The store behind a URL, closed afterwards."""
    if not url:
        raise Ended(Exit.USAGE, "--url (or JOBGUARD_URL) must not be empty")
    try:
        store = RedisStore.from_url(url, **client_timeouts())
    except ConfigurationError as error:
        raise Ended(Exit.USAGE, f"--url (or JOBGUARD_URL): {error}") from error
    check_url_options(store.client, "--url (or JOBGUARD_URL)")
    try:
        yield store
    finally:
        with anyio.move_on_after(CLOSING_BOUND, shield=True):  # Ctrl-C does not wait for a server that hangs
            await store.aclose()


def client_timeouts() -> dict[str, Any]:
    """Settings of a client of redis-py that does not wait for ever."""
    return {"socket_timeout": REPLY_TIMEOUT, "socket_connect_timeout": REPLY_TIMEOUT}


def check_url_options(client: Redis | RedisCluster, name: str) -> None:
    """Refuse what stands behind the '?' of a URL and no connection takes; else it is found out much later.

    Args:
        client: which the URL has led to.
        name: of the option that had the URL.
    """
    if isinstance(client, Redis):
        pool: Any = client.connection_pool
        try:
            pool.connection_class(**pool.connection_kwargs)  # connects to nothing yet
        except Exception as error:
            raise Ended(Exit.USAGE, f"{name}: a setting behind its '?' cannot be used: {error}") from error


def make_screen(*, quiet: bool = False, no_color: bool = False) -> Screen:
    return Screen(color=False if no_color else None, quiet=quiet)
