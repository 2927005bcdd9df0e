"""Decorated functions and methods keep their signature, whatever stands on them. Checked, never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, TypeVar, assert_type

from jobguard import Duplicate, dead_letter, deduplicated, fallback, retrying, time_limit

T = TypeVar("T")


@deduplicated
async def bare_deduplicated(ctx: dict[str, Any], to: str, *, count: int = 1) -> int:
    return count


@deduplicated()
async def called_deduplicated(ctx: dict[str, Any], to: str, *, count: int = 1) -> int:
    return count


@retrying
async def bare_retrying(ctx: dict[str, Any], to: str, *, count: int = 1) -> int:
    return count


@retrying()
async def called_retrying(ctx: dict[str, Any], to: str, *, count: int = 1) -> int:
    return count


@dead_letter
async def bare_dead_letter(ctx: dict[str, Any], to: str, *, count: int = 1) -> int:
    return count


@dead_letter()
async def called_dead_letter(ctx: dict[str, Any], to: str, *, count: int = 1) -> int:
    return count


@time_limit(10)
async def limited(ctx: dict[str, Any], to: str, *, count: int = 1) -> int:
    return count


@fallback(0)
async def falling_back(ctx: dict[str, Any], to: str, *, count: int = 1) -> int:
    return count


async def every_decorator_keeps_parameters_and_adds_what_it_may_return() -> None:
    assert_type(await bare_deduplicated({}, "a", count=2), int | Duplicate)
    assert_type(await called_deduplicated({}, "a", count=2), int | Duplicate)
    assert_type(await bare_retrying({}, "a", count=2), int)
    assert_type(await called_retrying({}, "a", count=2), int)
    assert_type(await bare_dead_letter({}, "a", count=2), int)
    assert_type(await called_dead_letter({}, "a", count=2), int)
    assert_type(await limited({}, "a", count=2), int)
    assert_type(await falling_back({}, "a", count=2), int)


async def wrong_calls_are_errors() -> None:
    await bare_deduplicated({}, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await called_deduplicated({})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await bare_retrying({}, "a", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await called_retrying({}, "a", times=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await bare_dead_letter({}, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await called_dead_letter({})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await limited({}, "a", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await falling_back({}, "a", times=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def a_call_is_a_coroutine() -> None:
    coroutine = bare_retrying({}, "a")
    await assert_type(coroutine, Coroutine[Any, Any, int])
    assert_type(asyncio.create_task(called_deduplicated({}, "a")), asyncio.Task[int | Duplicate])
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(limited({}, "a")), asyncio.Task[int])


async def a_name_stays_a_name() -> None:
    assert_type(bare_retrying.__name__, str)
    by_position: Callable[[dict[str, Any], str], Coroutine[Any, Any, int]] = bare_retrying
    assert_type(await by_position({}, "a"), int)


@retrying
@dead_letter()
async def pair(first: T, second: T, *rest: int, **more: str) -> tuple[T, T]:
    return first, second


async def type_variables_are_solved_by_the_call() -> None:
    assert_type(await pair("a", "b", 1, 2, x="y"), tuple[str, str])
    assert_type(await pair(1, 2), tuple[int, int])
    await pair(1, 2, "3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Service:
    @deduplicated(key="{message_id}")
    @retrying
    async def send(self, to: str, message_id: str) -> bytes:
        return b""

    @time_limit(1)
    @retrying(attempts=2)
    async def fetch(self, url: str) -> bytes:
        return b""

    @classmethod
    @dead_letter
    async def build(cls, size: int) -> Service:
        return cls()

    @staticmethod
    @deduplicated(running="wait")
    async def price(product: str) -> float:
        return 0.0


class Loud(Service):
    async def all_methods_bind(self) -> None:
        assert_type(await self.send("a", message_id="m"), bytes | Duplicate)
        assert_type(await super().fetch(url="u"), bytes)


async def methods_bind() -> None:
    service = Service()
    assert_type(await service.send("a", message_id="m"), bytes | Duplicate)
    assert_type(await Service.send(service, "a", "m"), bytes | Duplicate)
    assert_type(await service.fetch("u"), bytes)
    assert_type(await Service.build(3), Service)
    assert_type(await service.build(size=3), Service)
    assert_type(await Service.price("p"), float)
    assert_type(await service.price("p"), float)


async def wrong_calls_of_methods_are_errors() -> None:
    await Service().send("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await Service().fetch(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Service.build("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Service.price(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Repository(Generic[T]):
    @retrying
    async def load(self, id: int) -> T | None:
        return None


async def methods_of_generic_classes_know_their_type(repository: Repository[str]) -> None:
    assert_type(await repository.load(1), str | None)


def plain(to: str) -> int:
    return 1


async def numbers(to: str) -> AsyncIterator[int]:
    yield 1


def only_coroutine_functions_can_be_decorated() -> None:
    deduplicated(plain)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    deduplicated()(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    retrying(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    retrying()(numbers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    dead_letter(numbers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    time_limit(1)(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fallback(0)(numbers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
