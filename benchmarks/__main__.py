# ruff: noqa: T201  the table is what this is for
"""Run the benchmarks and print their table.

    python -m benchmarks [--strict] [retry] [redis] [memory] [letters] [sweep] [arq]

`--strict` ends with exit code 1 if a bound is missed, also when measured again.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import os
import platform
import sys
import time
import warnings

from benchmarks.arq_jobs import arq_jobs
from benchmarks.letters import letter_questions, letter_writes
from benchmarks.memory import memory
from benchmarks.redis_calls import redis_calls
from benchmarks.report import Section, measured, table
from benchmarks.retry_calls import retry_calls
from benchmarks.sweeping import sweeps

SECTIONS = {
    "retry": [Section("A call that succeeds, in-process", retry_calls)],
    "redis": [
        Section(
            f"Deduplicated calls on Redis, {'one' if callers == 1 else callers} at a time",
            functools.partial(redis_calls, callers),
        )
        for callers in (1, 10, 100)
    ],
    "memory": [Section("Memory of remembered successes, beside their results", memory, noisy=False)],
    "letters": [
        Section("A dead letter written, beside plain JSON", letter_writes),
        Section("A million dead letters on the server", letter_questions),
    ],
    "sweep": [Section("A sweep of a queue of a million jobs", sweeps)],
    "arq": [Section("Processor time of an ARQ worker by job", arq_jobs)],
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--strict", action="store_true", help="fail if a bound is missed")
    parser.add_argument("names", nargs="*", help=f"{', '.join(SECTIONS)}; default: all of them")
    options = parser.parse_args()
    unknown = set(options.names) - set(SECTIONS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: no such benchmark; choose from {', '.join(SECTIONS)}")
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore", DeprecationWarning)  # of the libraries among themselves
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors")
    start = time.monotonic()
    missed = 0
    for name in options.names or SECTIONS:
        for section in SECTIONS[name]:
            lines = asyncio.run(measured(section))
            missed += sum(line.verdict == "OVER" for line in lines)
            print(f"\n{table(section, lines)}", flush=True)
    outcome = f"{missed} bounds missed" if missed else "every bound held"
    print(f"\n{outcome}, {time.monotonic() - start:.0f} s")
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
