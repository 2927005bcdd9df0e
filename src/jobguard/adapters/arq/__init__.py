"""ARQ: `protect` a worker, and enqueue through `create_pool`.

Needs the extra `arq`: `pip install "jobguard[arq]"`.
"""

from jobguard.adapters.arq.pool import create_pool
from jobguard.adapters.arq.protect import protect

__all__ = ["create_pool", "protect"]
