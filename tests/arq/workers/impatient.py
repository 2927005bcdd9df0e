"""`python -m jobguard.adapters.arq`, with bounds that a test can wait for."""

from __future__ import annotations

from jobguard.adapters.arq import __main__ as command
from jobguard.adapters.arq import supervising, surviving

supervising.WINDING_UP = 3.0
surviving.SHUTDOWN_BOUND = 0.1
command.LAST_CALL = 0.5

command.cli(prog_name="impatient")
