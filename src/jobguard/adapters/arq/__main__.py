"""`python -m jobguard.adapters.arq module.WorkerSettings`: an ARQ worker that outlives Redis."""

from __future__ import annotations

import asyncio
import logging.config
import os
import sys
import traceback
from typing import Any, cast

import click
from arq.logs import default_log_config
from arq.utils import import_string
from arq.worker import check_health, get_kwargs
from redis.exceptions import RedisError

from jobguard import __version__
from jobguard.adapters.arq.liveness import AliveFile
from jobguard.adapters.arq.outages import shown
from jobguard.adapters.arq.protect import is_protected
from jobguard.adapters.arq.supervising import Exit, LastCall, Supervisor
from jobguard.adapters.arq.surviving import SurvivingWorker
from jobguard.errors import ConfigurationError, InvalidType, InvalidValue

GRACE = 20.0
"""Seconds; Kubernetes kills after thirty, and interrupted jobs have to be written down before."""
PATIENCE = 10.0
LAST_CALL = 5.0
"""Seconds for the interpreter to end: it waits for threads, whose jobs were interrupted long ago."""


@click.command()
@click.version_option(__version__, "-V", "--version", prog_name="jobguard")
@click.argument("worker-settings", required=True)
@click.option("--burst/--no-burst", default=None, help="Exit once no jobs are found in the queue.")
@click.option("--check", is_flag=True, help="Run ARQ's health check and exit.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="For running jobs to end after SIGTERM or SIGINT, before they are interrupted. "
    f"Default: job_completion_wait of the settings, or {GRACE:g}.",
)
@click.option("--alive", metavar="FILE", help="A file to touch every two seconds as a sign of life.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0, min_open=True),
    default=PATIENCE,
    metavar="SECONDS",
    help=f"Without an answer, after which Redis counts as away. Default: {PATIENCE:g}.",
)
@click.option("-v", "--verbose", is_flag=True, help="Enable verbose output.")
@click.option(
    "--custom-log-dict", metavar="PATH", help="Import path of a dictionary that configures logging."
)
def cli(
    *,
    worker_settings: str,
    burst: bool | None,
    check: bool,
    grace: float | None,
    alive: str | None,
    patience: float,
    verbose: bool,
    custom_log_dict: str | None,
) -> None:
    """Run the ARQ worker of WORKER_SETTINGS, a path such as app.WorkerSettings, and outlive outages of Redis.

    On SIGTERM or SIGINT the worker takes no more jobs and lets those that run end; a second signal
    interrupts them at once. Exit codes: 0 drained or burst done, 1 failed, 2 usage, 75 jobs or
    hooks would not end, 77 Redis refuses the worker, 78 unusable settings.
    """
    sys.path.append(os.getcwd())
    try:
        logs = _log_config(verbose) if custom_log_dict is None else import_string(custom_log_dict)
    except Exception as error:
        raise click.BadParameter(str(error), param_hint="--custom-log-dict") from error
    try:
        settings: Any = import_string(worker_settings)
        logging.config.dictConfig(logs)
        _check_settings(worker_settings, settings)
    except Exception as error:
        sys.exit(_unusable(worker_settings, error, verbose))
    if check:
        sys.exit(_checked(settings))
    options = {} if burst is None else {"burst": burst}
    try:
        file = None if alive is None else AliveFile(alive)
    except InvalidValue as error:
        raise click.BadParameter(str(error), param_hint="--alive") from error

    async def run() -> Exit:
        try:
            kwargs: dict[str, Any] = {**get_kwargs(settings), **options}
            worker = SurvivingWorker(patience=patience, **kwargs)
        except Exception as error:
            if file is not None:
                file.remove()
            return _unusable(worker_settings, error, verbose)
        wait = kwargs.get("job_completion_wait") or GRACE
        last_call = LastCall()
        code = await Supervisor(worker, float(wait if grace is None else grace), file, last_call).run()
        last_call.give(LAST_CALL, code)
        return code

    sys.exit(asyncio.run(run()))


def _log_config(verbose: bool) -> dict[str, Any]:
    """ARQ's, which says what jobguard logs as well."""
    config = default_log_config(verbose)
    config["loggers"]["jobguard"] = config["loggers"]["arq"]
    return config


def _check_settings(path: str, settings: object) -> None:
    if not isinstance(settings, (type, dict)):
        raise InvalidType(f"{path} is {settings!r}, and not a class or a dict of worker settings")
    if not is_protected(cast(Any, settings)):
        raise InvalidType(
            f"{path} is not protected; decorate it with jobguard.adapters.arq.protect, or run it with "
            "ARQ's own command"
        )


def _unusable(path: str, error: Exception, verbose: bool) -> Exit:
    """Say in one line why; where in the user's code, if that is not plain from it."""
    if verbose or not isinstance(error, (ImportError, ConfigurationError)):
        traceback.print_exception(error)
    print(f"the worker settings {path} cannot be used: {error}", file=sys.stderr)  # noqa: T201
    return Exit.SETTINGS


def _checked(settings: Any) -> int:
    try:
        return check_health(settings)
    except (RedisError, OSError) as error:
        password: str | None = getattr(get_kwargs(settings).get("redis_settings"), "password", None)
        said = shown(error, () if password is None else (password,))
        print(f"Health check failed: {said}", file=sys.stderr)  # noqa: T201
        return Exit.FAILED


if __name__ == "__main__":
    cli(prog_name="python -m jobguard.adapters.arq")
