"""What every store must do, as tests to run on one's own.

```python
from jobguard.testing import StoreContract

class TestMyStore(StoreContract):
    @pytest.fixture
    async def store(self):
        store = MyStore()
        yield store
        await store.aclose()
```

The tests are marked `anyio`: give the `anyio_backend` fixture the event loops your store supports.
Keys and queues are new in each test, so a store may be shared. Time is real: leases end by polling.
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from jobguard.stores.base import Store
from jobguard.stores.letters import LetterQueue
from jobguard.testing.contract.bench import Bench
from jobguard.testing.contract.claims import ClaimContract
from jobguard.testing.contract.letters import LetterContract
from jobguard.testing.contract.settlements import SettlementContract

__all__ = ["StoreContract"]


@pytest.mark.anyio
class StoreContract(ClaimContract, SettlementContract, LetterContract):
    """Subclass it, override the `store` fixture, and let pytest collect the subclass."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError(f"{type(self).__name__} must override the fixture 'store'")

    @pytest.fixture
    def bench(self, store: Store) -> Bench:
        return Bench(store)

    @pytest.fixture
    def queue(self) -> LetterQueue:
        return LetterQueue(f"contract-{uuid4().hex}", "default")

    async def test_is_a_store(self, store: Store) -> None:
        """The store has every method of the protocol."""
        assert isinstance(store, Store)
