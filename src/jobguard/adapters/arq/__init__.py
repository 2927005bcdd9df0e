"""ARQ: `protect` a worker, enqueue through `create_pool`, and run dead letters again through `ArqQueue`.

Needs the extra `arq`: `pip install "jobguard[arq]"`.
"""

from jobguard.adapters.arq.pool import create_pool
from jobguard.adapters.arq.protect import protect
from jobguard.adapters.arq.replay import ArqQueue

__all__ = ["ArqQueue", "create_pool", "protect"]
