"""What a call may return: duplicates and fallbacks, alone and together. Checked, never run."""

from __future__ import annotations

from typing import assert_type

from jobguard import Duplicate, JobStatus, dead_letter, deduplicated, fallback, retrying, time_limit
from jobguard.policies import Done, Running


async def task(message_id: str) -> int:
    return 1


async def where_a_duplicate_may_be_skipped_the_result_says_so() -> None:
    assert_type(await deduplicated(task)("m"), int | Duplicate)
    assert_type(await deduplicated()(task)("m"), int | Duplicate)
    assert_type(await deduplicated("{message_id}")(task)("m"), int | Duplicate)
    assert_type(await deduplicated(running="skip")(task)("m"), int | Duplicate)
    assert_type(await deduplicated(done="run")(task)("m"), int | Duplicate)
    assert_type(await deduplicated(done="raise")(task)("m"), int | Duplicate)
    assert_type(await deduplicated(done="skip")(task)("m"), int | Duplicate)
    assert_type(await deduplicated(running="wait", done="skip")(task)("m"), int | Duplicate)
    assert_type(await deduplicated(running="raise", done="skip")(task)("m"), int | Duplicate)
    assert_type(await deduplicated(running="defer", done="skip")(task)("m"), int | Duplicate)


async def where_none_is_skipped_the_result_stays_plain() -> None:
    assert_type(await deduplicated(running="wait")(task)("m"), int)
    assert_type(await deduplicated(running="raise")(task)("m"), int)
    assert_type(await deduplicated(running="defer")(task)("m"), int)
    assert_type(await deduplicated(running="wait", done="replay")(task)("m"), int)
    assert_type(await deduplicated(running="wait", done="raise")(task)("m"), int)
    assert_type(await deduplicated(running="wait", done="run")(task)("m"), int)
    assert_type(await deduplicated(running="raise", done="replay")(task)("m"), int)
    assert_type(await deduplicated(running="raise", done="raise")(task)("m"), int)
    assert_type(await deduplicated(running="raise", done="run")(task)("m"), int)
    assert_type(await deduplicated(running="defer", done="replay")(task)("m"), int)
    assert_type(await deduplicated(running="defer", done="raise")(task)("m"), int)
    assert_type(await deduplicated(running="defer", done="run")(task)("m"), int)
    assert_type(await deduplicated("{message_id}", running="wait", mismatch="raise")(task)("m"), int)


async def settings_known_only_at_run_time_may_skip(running: Running, done: Done) -> None:
    assert_type(await deduplicated(running=running, done=done)(task)("m"), int | Duplicate)
    assert_type(await deduplicated(running="wait", done=done)(task)("m"), int | Duplicate)


async def a_duplicate_is_told_apart_from_a_result() -> None:
    result = await deduplicated(task)("m")
    result + 1  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
    if isinstance(result, Duplicate):
        assert_type(result.key, str)
        assert_type(result.status, JobStatus)
        assert_type(result.owner, str)
    else:
        assert_type(result, int)


def report(error: Exception, message_id: str) -> bytes:
    return b""


async def ask(error: Exception, message_id: str) -> str:
    return ""


class Answer:
    def __init__(self, error: Exception, message_id: str) -> None: ...


async def a_fallback_adds_the_type_of_its_answer() -> None:
    assert_type(await fallback(0)(task)("m"), int)
    assert_type(await fallback("later")(task)("m"), int | str)
    assert_type(await fallback(None)(task)("m"), int | None)
    assert_type(await fallback("later", on=TimeoutError)(task)("m"), int | str)
    assert_type(await fallback("later", on=(TimeoutError, OSError))(task)("m"), int | str)


async def a_fallback_function_adds_what_it_returns() -> None:
    assert_type(await fallback(report)(task)("m"), int | bytes)
    assert_type(await fallback(Answer)(task)("m"), int | Answer)


async def an_async_fallback_function_adds_what_its_coroutine_returns() -> None:
    assert_type(await fallback(ask)(task)("m"), int | str)


async def together_they_add_up_in_any_order() -> None:
    assert_type(await deduplicated(retrying(dead_letter(task)))("m"), int | Duplicate)
    assert_type(await dead_letter(deduplicated(retrying(task)))("m"), int | Duplicate)
    assert_type(await retrying(dead_letter(deduplicated(task)))("m"), int | Duplicate)
    assert_type(await retrying()(time_limit(1)(dead_letter()(task)))("m"), int)
    assert_type(await time_limit(1)(dead_letter()(retrying()(task)))("m"), int)
    assert_type(await dead_letter()(retrying()(time_limit(1)(task)))("m"), int)
    assert_type(await fallback("")(deduplicated()(task))("m"), int | Duplicate | str)
    assert_type(await deduplicated()(fallback("")(task))("m"), int | Duplicate | str)
    assert_type(await fallback(ask)(retrying(deduplicated(running="wait")(task)))("m"), int | str)
    assert_type(await deduplicated(running="wait")(retrying(fallback(ask)(task)))("m"), int | str)


@deduplicated(key="{message_id}")
@retrying(attempts=3)
@dead_letter(queue="orders")
@time_limit(30)
@fallback(None)
async def outermost_claims(message_id: str) -> int:
    return 1


@fallback(None)
@time_limit(30)
@dead_letter(queue="orders")
@retrying(attempts=3)
@deduplicated(key="{message_id}")
async def innermost_claims(message_id: str) -> int:
    return 1


@time_limit(30)
@fallback(None)
@deduplicated(key="{message_id}", running="raise")
@dead_letter
@retrying
async def never_skips(message_id: str) -> int:
    return 1


async def all_five_add_up_in_any_order() -> None:
    assert_type(await outermost_claims("m"), int | Duplicate | None)
    assert_type(await innermost_claims("m"), int | Duplicate | None)
    assert_type(await never_skips("m"), int | None)
    await outermost_claims(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await innermost_claims()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await never_skips("m", "n")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
