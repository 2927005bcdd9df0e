"""`python examples/arq_worker.py`: run it all, then draw up the accounts."""

# ruff: noqa: T201  (a program's answer goes to its standard output)

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from redis.exceptions import RedisError

from examples.demo.keeper import Broken, Keeper
from examples.demo.orders import FEWEST
from examples.demo.play import play
from examples.demo.screen import Screen, show
from jobguard.codec import printable
from jobguard.errors import ConfigurationError
from jobguard.testing import EmbeddedValkey

LOG_LINES = 40


def main(arguments: Sequence[str]) -> int:
    """Run the demo; its exit code: 0 = the accounts balance, 1 = they do not, 2 = it could not run."""
    options = _options(arguments)
    started = time.monotonic()
    try:
        with _signals_end_it(), _redis(os.environ) as (url, own), Keeper() as keeper, Screen() as screen:
            run = f"demo{secrets.token_hex(6)}"
            if not own:
                command = [sys.executable, "-m", "examples.demo.clean_up", run]
                keeper.at_the_end(command, {**os.environ, "REDIS_URL": url})
            report = asyncio.run(
                play(
                    options.jobs,
                    options.seed,
                    run=run,
                    url=url,
                    keeper=keeper,
                    screen=screen,
                    started=started,
                )
            )
            log = keeper.log_of("worker")
    except KeyboardInterrupt:
        print("interrupted; nothing is left behind", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ConfigurationError, Broken, RedisError) as error:
        _complain(str(error).splitlines())
        return 2
    if options.json:
        _complain(report.contradictions)
        print(json.dumps(report.as_json()))
    else:
        show(report)
    if not report.holds:
        _complain(log.splitlines()[-LOG_LINES:])
    return 0 if report.holds else 1


def _complain(lines: Sequence[str]) -> None:
    """Text that may come from anywhere, to standard error."""
    for line in lines:
        print(printable(line), file=sys.stderr)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="arq_worker.py",
        description="A worker, services that misbehave, and a SIGKILL in the middle. Uses the Redis at "
        "REDIS_URL and removes what it wrote there, or starts one of its own.",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    parser.add_argument("--jobs", type=_jobs, default=300, help="how many to enqueue (default: 300)")
    parser.add_argument(
        "--seed", type=int, default=None, help="of all that is random (default: another each time)"
    )
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.randrange(10_000)
    return options


def _jobs(text: str) -> int:
    number = int(text)
    if number < FEWEST:
        raise argparse.ArgumentTypeError(f"must be {FEWEST} or more, not {number}")
    return number


@contextmanager
def _redis(environ: Mapping[str, str]) -> Generator[tuple[str, bool]]:
    """Where Redis is, and whether it is the demo's own."""
    url = environ.get("REDIS_URL", "")
    if url:
        yield url, False
        return
    with EmbeddedValkey() as server:
        yield server.url, True


@contextmanager
def _signals_end_it() -> Generator[None]:
    """Let the signals that end a process do so by an exception, so that everything is cleaned up."""
    ended = [signal.SIGTERM, signal.SIGHUP]
    before = [signal.signal(each, _end) for each in ended]
    try:
        yield
    finally:
        for each, handler in zip(ended, before, strict=True):
            signal.signal(each, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
