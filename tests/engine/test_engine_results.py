"""What a duplicate of a success gets: the stored result exactly, or word that there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from pydantic import BaseModel

from jobguard import Duplicate, JobGuard, JobStatus, deduplicated
from jobguard.codec import Codec
from jobguard.errors import ResultNotStored
from jobguard.events import ResultDropped, Succeeded
from tests.engine.harness import Bench, Events

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]


@dataclass
class Receipt:
    id: int
    sums: tuple[Decimal, ...]


class Answer(BaseModel):
    text: str
    at: datetime


class Colour(Enum):
    RED = "r"
    BLUE = "b"


@pytest.mark.parametrize(
    "value",
    [
        0,
        1,
        -5,
        2**200,
        0.0,
        -0.0,
        1.0,
        math.inf,
        False,
        True,
        None,
        "",
        "text\n\x1b\0",
        "\ud800",
        b"",
        b"\x00\xff",
        [],
        [[]],
        (),
        (1, (2,)),
        {},
        {"a": {"b": [None]}},
        {1: "int key", "1": "text key"},
        set(),
        {1, 2},
        frozenset({"a"}),
        Decimal("1.10"),
        UUID(int=5),
        date(2024, 2, 29),
        datetime(2024, 2, 29, 12, tzinfo=UTC),
        datetime(2024, 2, 29, 12),  # noqa: DTZ001
        timedelta(days=-1, microseconds=1),
    ],
    ids=repr,
)
async def test_a_replay_returns_the_very_value(value: object) -> None:
    """Falsy values, odd texts and every builtin value type come back equal and of the same type."""

    @deduplicated
    async def task(x: int) -> object:
        return value

    await task(1)
    replayed = await task(1)
    assert replayed == value
    assert type(replayed) is type(value)
    assert repr(replayed) == repr(value)


async def test_a_dataclass_is_replayed_by_the_return_annotation() -> None:
    """The annotation names the class; the store does not."""

    @deduplicated(running="raise")
    async def task(x: int) -> Receipt:
        return Receipt(x, (Decimal("1.50"),))

    await task(1)
    assert await task(1) == Receipt(1, (Decimal("1.50"),))


async def test_a_pydantic_model_is_replayed_by_the_return_annotation() -> None:
    """Inside of containers as well."""

    @deduplicated(running="raise")
    async def task(x: int) -> list[Answer]:
        return [Answer(text="yes", at=datetime(2024, 1, 1, tzinfo=UTC))]

    first = await task(1)
    assert await task(1) == first


async def test_an_enum_is_replayed_by_the_return_annotation() -> None:
    """The member itself, also out of an optional."""

    @deduplicated(running="raise")
    async def task(x: int) -> Colour | None:
        return Colour.BLUE

    await task(1)
    assert await task(1) is Colour.BLUE


async def test_a_registered_type_is_replayed_without_an_annotation(bench: Bench) -> None:
    """A codec given to the guard knows the class wherever it appears."""

    @dataclass
    class Point:
        x: int

    codec = Codec().register(Point, "point", lambda point: point.x, Point)

    @deduplicated
    async def task(x: int) -> object:
        return Point(x)

    async with JobGuard(bench.store, namespace=bench.namespace, codec=codec):
        await task(3)
        replayed = await task(3)
    assert replayed == Point(3)


async def test_a_task_may_return_what_a_duplicate_got() -> None:
    """A `Duplicate` that a body passes on does not fail the body's job."""

    @deduplicated
    async def task(x: int) -> object:
        return Duplicate("k", JobStatus.SUCCESS, "o")

    assert await task(1) == Duplicate("k", JobStatus.SUCCESS, "o")


# --- results that cannot be stored ---------------------------------------------------------------

UNSTORABLE = [
    pytest.param(lambda: object(), id="no encoding"),
    pytest.param(lambda: "x" * 70_000, id="too large"),
]


@pytest.mark.parametrize("make", UNSTORABLE)
async def test_a_result_that_cannot_be_stored_is_returned_all_the_same(make: object, events: Events) -> None:
    """Work already done never fails for its result."""
    result = make()  # type: ignore[operator]

    @deduplicated
    async def task(x: int) -> object:
        return result

    assert await task(1) is result
    assert len(events.of(Succeeded)) == 1


@pytest.mark.parametrize("make", UNSTORABLE)
async def test_a_result_that_cannot_be_stored_is_an_event(make: object, events: Events) -> None:
    """Nothing is hidden: the event says why."""

    @deduplicated
    async def task(x: int) -> object:
        return make()  # type: ignore[operator]

    await task(1)
    assert events.only(ResultDropped).reason


@pytest.mark.parametrize("make", UNSTORABLE)
async def test_the_replay_of_a_result_not_stored_is_a_duplicate(make: object, events: Events) -> None:
    """The success is known, its value is not; the body is not run again."""
    runs = []

    @deduplicated
    async def task(x: int) -> object:
        runs.append(1)
        return make()  # type: ignore[operator]

    await task(1)
    answer = await task(1)
    assert isinstance(answer, Duplicate)
    assert (answer.status, answer.owner) == (JobStatus.SUCCESS, events.only(Succeeded).job)
    assert len(runs) == 1


@pytest.mark.parametrize("make", UNSTORABLE)
async def test_the_replay_of_a_result_not_stored_raises_where_the_type_promises_a_result(
    make: object,
) -> None:
    """Where no skip can be returned, a `Duplicate` would break the type."""
    runs = []

    @deduplicated(running="wait")
    async def task(x: int) -> object:
        runs.append(1)
        return make()  # type: ignore[operator]

    await task(1)
    with pytest.raises(ResultNotStored):
        await task(1)
    assert len(runs) == 1


async def test_a_result_just_under_the_limit_is_stored(events: Events) -> None:
    """64 KiB are stored."""
    text = "x" * (64 * 1024 - 2)

    @deduplicated
    async def task(x: int) -> str:
        return text

    await task(1)
    assert await task(1) == text
    assert events.of(ResultDropped) == []


async def test_the_limit_is_on_bytes(events: Events) -> None:
    """64 KiB of stored text, whatever its alphabet."""

    @deduplicated
    async def task(x: int) -> str:
        return "é" * 40_000

    await task(1)
    assert isinstance(await task(1), Duplicate)
    assert len(events.of(ResultDropped)) == 1


async def test_a_stored_result_that_the_annotation_no_longer_covers_is_a_duplicate(events: Events) -> None:
    """A deploy changed the return type: the success stands, its value cannot be read."""

    @deduplicated(key="{x}", scope="result-changed")
    async def before(x: int) -> Receipt:
        return Receipt(x, ())

    @deduplicated(key="{x}", scope="result-changed")
    async def after(x: int) -> Colour:
        return Colour.RED

    await before(1)
    answer = await after(1)
    assert isinstance(answer, Duplicate)
    assert len(events.of(ResultDropped)) == 1
