"""`python -m jobguard` is the `jobguard` command."""

from jobguard.cli import main

main()
