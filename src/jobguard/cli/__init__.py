"""The `jobguard` command. Needs the extra `cli`: `pip install "jobguard[cli]"`."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command with the arguments of this process, and end it with the command's exit code."""
    try:
        from jobguard.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("typer", "rich", "click"):
            raise
        print(  # noqa: T201  # there is nothing else to print with
            f"the jobguard command needs {error.name!r}: pip install 'jobguard[cli]'", file=sys.stderr
        )
        sys.exit(1)
