"""Names that packages import when they are first asked for, and slips of the pen. Checked, never run."""

from __future__ import annotations

from typing import assert_type

import jobguard
from jobguard import stores, testing
from jobguard.dlq import DeadLetterQueue
from jobguard.stores.redis import RedisStore
from jobguard.testing.contract import StoreContract


def names_imported_on_demand_are_known() -> None:
    assert_type(jobguard.DeadLetterQueue, type[DeadLetterQueue])
    assert_type(stores.RedisStore, type[RedisStore])
    assert_type(testing.StoreContract, type[StoreContract])


def misspelt_ones_are_found() -> None:
    assert jobguard.DeadLetterQueu  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert stores.RedisStor  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert testing.StoreContrac  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
