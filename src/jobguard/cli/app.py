"""The tree of commands, and how each of them ends."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import typer

from jobguard import __version__
from jobguard.cli import dlq, doctor, exchange, job, removal, requeue, watch
from jobguard.cli.calling import Command
from jobguard.cli.exits import Ended, Exit
from jobguard.cli.screen import Screen
from jobguard.errors import ConfigurationError, StoreError, StoreUnavailable

app: typer.Typer = typer.Typer(
    name="jobguard",
    help="Look after the jobs that jobguard keeps: dead letters, and what is known of a key.",
    epilog="The server is that of --url or JOBGUARD_URL; without either, redis://localhost:6379/0.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(name: str, help: str, *commands: Command) -> None:
    group = typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None)
    for command in commands:
        command.add_to(group)
    app.add_typer(group, name=name)


_add(
    "dlq",
    "Work through dead letter queues: read, requeue, remove, export and import.",
    dlq.count,
    dlq.list_,
    dlq.get,
    dlq.groups,
    dlq.stats,
    dlq.queues,
    watch.watch,
    requeue.requeue,
    removal.remove,
    removal.clear,
    removal.prune,
    exchange.export_,
    exchange.import_file,
)
_add("job", "What the store knows of a deduplication key.", job.get, job.forget)
doctor.doctor.add_to(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"jobguard {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None: ...


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. What an operator can mend is told in a line, no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what an encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    screen = Screen()
    try:
        app(args=list(arguments), prog_name="jobguard")
    except SystemExit as end:  # the way in which typer ends, also with its own errors of usage
        return end.code if isinstance(end.code, int) else Exit.OK
    except Ended as end:
        screen.complain(str(end))
        return end.code
    except ConfigurationError as error:
        screen.complain(str(error))
        return Exit.USAGE
    except StoreUnavailable as error:
        screen.complain(f"{error}; is the server up, and is --url (or JOBGUARD_URL) the right one?")
        return Exit.FAILED
    except StoreError as error:
        screen.complain(f"{error}; is it a Redis or Valkey, with this user's password and rights?")
        return Exit.FAILED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is written at exit
        return Exit.FAILED
    except OSError as error:
        screen.complain(f"the output could not be written: {error}")
        return Exit.FAILED
    return Exit.OK
