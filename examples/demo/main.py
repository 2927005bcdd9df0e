"""`python examples/arq_worker.py`: run it all, then show the accounts."""

# ruff: noqa: T201  (a program's answer goes to its standard output)

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx
from redis.exceptions import RedisError

from examples.demo.accounts import Report
from examples.demo.keeper import Broken, Keeper
from examples.demo.orders import FEWEST
from examples.demo.play import EXPIRED, Plan, operator_environment, play
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
        with _signals_end_it(), _redis(os.environ) as (url, own), Keeper() as keeper:
            run = f"demo{secrets.token_hex(6)}"
            if not own:
                command = [sys.executable, "-m", "examples.demo.clean_up", run]
                keeper.at_the_end(command, {**os.environ, "REDIS_URL": url})
            plan = Plan(
                jobs=options.jobs, seed=options.seed, run=run, url=url, keep=options.keep, started=started
            )
            with Screen(sys.stderr if options.json else sys.stdout) as screen:
                report = asyncio.run(play(plan, keeper, screen))
            _tell(report, keeper.log_of("worker"), as_json=options.json)
            if options.keep:
                _keep(plan, own)
    except KeyboardInterrupt:
        print("interrupted; nothing is left behind", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ConfigurationError, Broken, RedisError, httpx.HTTPError) as error:
        _complain(str(error).splitlines())
        return 2
    return 0 if report.holds else 1


def _tell(report: Report, log: str, *, as_json: bool) -> None:
    if as_json:
        _complain(report.contradictions)
        print(json.dumps(report.as_json()), flush=True)
    else:
        show(report)
    if not report.holds:
        _complain(log.splitlines()[-LOG_LINES:])


def _keep(plan: Plan, own: bool) -> None:
    """Say how to reach what runs, and wait until somebody ends it."""
    settings = operator_environment(plan)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    if not own:  # it may hold a password, and whoever reads this has set it
        lines[0] = 'export JOBGUARD_URL="$REDIS_URL"'
    if shutil.which("jobguard") is None:
        lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
    _complain(
        [
            "",
            "The worker and its services go on. In another terminal:",
            "",
            *(f"    {line}" for line in lines),
            "    jobguard dlq groups --queue whatsapp",
            f"    jobguard dlq requeue {EXPIRED} --queue whatsapp",
            "",
            "Ctrl-C ends them and leaves nothing behind.",
        ]
    )
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def _complain(lines: Sequence[str]) -> None:
    """Text that may come from anywhere, to standard error."""
    for line in lines:
        print(printable(line), file=sys.stderr)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="arq_worker.py",
        description="A worker, services that misbehave, a SIGKILL in the middle, and dead letters that are "
        "run again at the end. Uses the Redis at REDIS_URL and removes what it wrote there, or starts one of "
        "its own.",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="leave the worker and its services running at the end, and some dead letters that can be "
        "requeued, until Ctrl-C; says how the jobguard command reaches them",
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
