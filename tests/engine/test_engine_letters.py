"""Dead letters: what they say, what they hide, and the queue they are kept in."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from jobguard import (
    DeadLetter,
    DeadLetterQueue,
    GiveUp,
    JobGuard,
    constant,
    dead_letter,
    deduplicated,
    retrying,
)
from jobguard.errors import InvalidValue
from jobguard.events import DeadLettered, Succeeded
from tests.engine.harness import Bench, Events

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]

Task = Callable[..., Coroutine[Any, Any, object]]


async def letter_of(guard: JobGuard, task: Task, *args: object, **kwargs: object) -> DeadLetter:
    """The letter of a call that fails."""
    with pytest.raises(Exception):  # noqa: B017, PT011  whichever it is
        await task(*args, **kwargs)
    (letter,) = (await guard.dead_letters().list()).entries
    return letter


# --- what it says --------------------------------------------------------------------------------


async def test_a_letter_names_the_job(guard: JobGuard, events: Events) -> None:
    """Queue library, queue, task, id and key."""

    @deduplicated
    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    letter = await letter_of(guard, task, 1)
    event = events.only(DeadLettered)
    assert (letter.adapter, letter.queue, letter.enqueued_ms) == ("local", "local", 0)
    assert letter.task == task.__jobguard__.name == event.task  # type: ignore[attr-defined]
    assert f"local:{letter.job_id}:0" == event.job
    assert letter.key == event.key is not None
    assert letter.id == event.id


async def test_a_letter_without_a_key_says_so(guard: JobGuard) -> None:
    """Without `@deduplicated` there is none."""

    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    assert (await letter_of(guard, task, 1)).key is None


async def test_a_letter_tells_the_error(guard: JobGuard) -> None:
    """Type, message, traceback from the task's own code on, and the causes."""

    @dead_letter
    async def task(x: int) -> None:
        try:
            raise KeyError("below")
        except KeyError as error:
            raise ValueError("above") from error

    letter = await letter_of(guard, task, 1)
    assert (letter.error_type, letter.error_message) == ("ValueError", "above")
    assert letter.causes == ("KeyError: 'below'",)
    assert 'raise ValueError("above")' in letter.traceback
    assert "run_limited" not in letter.traceback


async def test_a_letter_tells_each_attempt(guard: JobGuard) -> None:
    """Number, time and error of every failure, and the counts."""
    before = time.time()
    errors = [ValueError("first"), KeyError("second"), ValueError("third")]

    @retrying(attempts=3, backoff=constant(0))
    @dead_letter
    async def task(x: int) -> None:
        raise errors.pop(0)

    letter = await letter_of(guard, task, 1)
    assert [(each.attempt, each.type, each.message) for each in letter.attempts] == [
        (1, "ValueError", "first"),
        (2, "KeyError", "'second'"),
        (3, "ValueError", "third"),
    ]
    assert all(before - 1 <= each.at <= time.time() + 1 for each in letter.attempts)
    assert (letter.failures, letter.interruptions, letter.crashes) == (3, 0, 0)


async def test_a_letter_tells_when_and_where(guard: JobGuard) -> None:
    """First seen, failed at, and the process that gave up."""
    before = time.time()

    @retrying(attempts=2, backoff=constant(0))
    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    letter = await letter_of(guard, task, 1)
    assert before - 1 <= letter.first_seen <= letter.failed_at <= time.time() + 1
    assert letter.worker.endswith(f":{os.getpid()}")


@pytest.mark.parametrize("with_key", [True, False])
async def test_a_job_is_first_seen_when_its_first_run_starts(guard: JobGuard, with_key: bool) -> None:
    """Runs and the pauses between them lie between then and its end."""

    @retrying(attempts=2, backoff=constant(0.2))
    @dead_letter
    async def task(x: int) -> None:
        await anyio.sleep(0.2)
        raise ValueError("no")

    letter = await letter_of(guard, deduplicated(task) if with_key else task, 1)
    assert letter.failed_at - letter.first_seen > 0.55


async def test_a_letter_is_new(guard: JobGuard) -> None:
    """Never run again so far, in the first layout."""

    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    letter = await letter_of(guard, task, 1)
    assert (letter.requeues, letter.version) == (0, 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("no"), "exhausted"), (GiveUp("no"), "gave_up"), (KeyError("no"), "not_retryable")],
)
async def test_a_letter_says_why_no_run_is_left(guard: JobGuard, error: Exception, reason: str) -> None:
    """In a word."""

    @retrying(attempts=1, never=KeyError, backoff=constant(0))
    @dead_letter
    async def task(x: int) -> None:
        raise error

    assert (await letter_of(guard, task, 1)).reason == reason


async def test_letters_of_one_cause_have_one_fingerprint(guard: JobGuard) -> None:
    """Error type and code location make it; the message does not."""

    @dead_letter
    async def task(x: int) -> None:
        if x < 0:
            raise KeyError(x)
        raise ValueError(x)

    for x in (1, 2, -1):
        with pytest.raises((ValueError, KeyError)):
            await task(x)
    other, *same = [letter.fingerprint for letter in (await guard.dead_letters().list()).entries]
    assert same[0] == same[1] != other


async def test_a_letter_keeps_the_arguments(guard: JobGuard) -> None:
    """As tagged JSON that can be run again; without ctx."""

    @dead_letter
    async def task(ctx: object, to: str, *, at: datetime) -> None:
        raise ValueError("no")

    letter = await letter_of(guard, task, {"redis": object()}, "bob", at=datetime(2024, 1, 1, tzinfo=UTC))
    assert letter.payload_format == "json"
    assert letter.payload is not None
    payload = guard.runtime.codec.decode(letter.payload)
    assert payload == {"args": ["bob"], "kwargs": {"at": datetime(2024, 1, 1, tzinfo=UTC)}}


async def test_a_letter_previews_the_arguments(guard: JobGuard) -> None:
    """By name, as JSON for people."""

    @dead_letter
    async def task(ctx: object, to: str, content: str = "hi") -> None:
        raise ValueError("no")

    letter = await letter_of(guard, task, {}, "bob", content="hello")
    assert json.loads(letter.preview) == {"to": "bob", "content": "hello"}


# --- what it hides -------------------------------------------------------------------------------


async def test_redacted_values_are_in_no_text(guard: JobGuard) -> None:
    """Preview, message, traceback, causes and attempts are masked."""

    @retrying(attempts=2, backoff=constant(0))
    @dead_letter(redact=("content",))
    async def task(to: str, content: str) -> None:
        try:
            raise KeyError(f"cannot send {content}")
        except KeyError as error:
            raise ValueError(f"{to} did not get {content!r}") from error

    letter = await letter_of(guard, task, "bob", content="top-secret-words")
    shown = [letter.preview, letter.error_message, letter.traceback, *letter.causes]
    shown += [attempt.message for attempt in letter.attempts]
    assert not any("top-secret-words" in text for text in shown)
    assert all("[redacted]" in text for text in shown)
    assert "bob" in letter.preview


async def test_redaction_reaches_into_arguments(guard: JobGuard) -> None:
    """A dotted path masks one part."""

    @dead_letter(redact=("customer.phone",))
    async def task(customer: dict[str, str]) -> None:
        raise ValueError(f"no answer from {customer['phone']}")

    letter = await letter_of(guard, task, {"name": "bob", "phone": "+4915551234"})
    assert "+4915551234" not in letter.preview + letter.error_message + letter.traceback
    assert "bob" in letter.preview


async def test_redacted_values_are_in_no_event(guard: JobGuard, events: Events) -> None:
    """Events and log lines are read by more people than letters."""

    @retrying(attempts=2, backoff=constant(0))
    @dead_letter(redact=("content",))
    async def task(content: str) -> None:
        raise ValueError(f"cannot send {content}")

    await letter_of(guard, task, "top-secret-words")
    assert "top-secret-words" not in repr(list(events))


async def test_the_payload_keeps_redacted_values(guard: JobGuard) -> None:
    """It is what is run again; `redact` is for what people read."""

    @dead_letter(redact=("content",))
    async def task(content: str) -> None:
        raise ValueError("no")

    letter = await letter_of(guard, task, "top-secret-words")
    assert letter.payload is not None
    assert "top-secret-words" in letter.payload


async def test_no_payload_is_kept_if_none_is_wanted(guard: JobGuard) -> None:
    """`payload=False` leaves the redacted preview only."""

    @dead_letter(payload=False)
    async def task(content: str) -> None:
        raise ValueError("no")

    letter = await letter_of(guard, task, "words")
    assert (letter.payload, letter.payload_format) == (None, "none")


class Awkward:
    """An argument that nothing can be made of."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


@pytest.mark.parametrize(
    "argument", [object(), Awkward(), lambda: None, "x" * 600_000, float("nan")], ids=type
)
async def test_arguments_that_cannot_be_written_never_fail_the_letter(
    guard: JobGuard, argument: object
) -> None:
    """Whatever the argument, there is a letter with a preview."""

    @dead_letter
    async def task(x: object) -> None:
        raise ValueError("no")

    letter = await letter_of(guard, task, argument)
    assert letter.error_message == "no"
    assert letter.preview


@pytest.mark.parametrize("argument", [object(), Awkward()], ids=["object", "awkward"])
async def test_an_argument_that_cannot_be_encoded_leaves_a_preview_only(
    guard: JobGuard, argument: object
) -> None:
    """Such a letter cannot be run again, and says so."""

    @dead_letter
    async def task(x: object) -> None:
        raise ValueError("no")

    letter = await letter_of(guard, task, argument)
    assert (letter.payload, letter.payload_format) == (None, "none")


class Broken(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


async def test_an_error_that_cannot_be_shown_never_fails_the_letter(guard: JobGuard) -> None:
    """Its type is known, at least."""

    @dead_letter
    async def task(x: int) -> None:
        raise Broken

    letter = await letter_of(guard, task, 1)
    assert letter.error_type.endswith("Broken")


async def test_long_texts_are_cut_and_say_so(guard: JobGuard) -> None:
    """Messages and tracebacks have a limit."""

    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("x" * 1_000_000)

    letter = await letter_of(guard, task, 1)
    assert len(letter.error_message) < 10_000
    assert len(letter.traceback) < 50_000
    assert "characters cut" in letter.error_message


async def test_odd_characters_in_an_error_do_not_fail_the_letter(guard: JobGuard) -> None:
    """Lone surrogates and NULs are kept."""

    @dead_letter
    async def task(text: str) -> None:
        raise ValueError(text)

    letter = await letter_of(guard, task, "\ud800\0\x1b[31m")
    assert letter.error_message == "\ud800\0\x1b[31m"


# --- where it is kept ----------------------------------------------------------------------------


async def test_no_letter_without_dead_letter(guard: JobGuard) -> None:
    """A failed job leaves none behind."""

    @retrying(attempts=1, backoff=constant(0))
    async def task(x: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await task(1)
    assert await guard.dead_letters().queues() == []


async def test_a_job_that_succeeds_in_the_end_leaves_no_letter(guard: JobGuard, events: Events) -> None:
    """Only the end counts."""
    errors = [ValueError("once")]

    @deduplicated
    @retrying(attempts=2, backoff=constant(0))
    @dead_letter
    async def task(x: int) -> None:
        if errors:
            raise errors.pop()

    await task(1)
    assert await guard.dead_letters().count() == 0
    assert len(events.of(Succeeded)) == 1


async def test_letters_go_to_the_queue_named(guard: JobGuard) -> None:
    """Each queue is apart; `queues()` lists them all."""

    @dead_letter(queue="whatsapp")
    async def one(x: int) -> None:
        raise ValueError("no")

    @dead_letter(queue="downloads")
    async def other(x: int) -> None:
        raise ValueError("no")

    for task in (one, one, other):
        with pytest.raises(ValueError, match="no"):
            await task(1)
    assert await guard.dead_letters("whatsapp").count() == 2
    assert await guard.dead_letters("downloads").count() == 1
    assert await guard.dead_letters().count() == 0
    assert await guard.dead_letters().queues() == ["downloads", "whatsapp"]


async def fill(guard: JobGuard, letters: int) -> list[str]:
    """Ids of some letters, oldest first."""

    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    for n in range(letters):
        with pytest.raises(ValueError, match="no"):
            await task(n)
    page = await guard.dead_letters().list(limit=500)
    return [letter.id for letter in reversed(page.entries)]


async def test_a_letter_is_found_by_its_id(guard: JobGuard, events: Events) -> None:
    """The id of the event."""
    await fill(guard, 1)
    id = events.only(DeadLettered).id
    letter = await guard.dead_letters().get(id)
    assert letter is not None
    assert letter.id == id
    assert await guard.dead_letters().get("unknown") is None


async def test_pages_go_from_newest_to_oldest(guard: JobGuard, events: Events) -> None:
    """Each letter once, and no cursor after the last page."""
    await fill(guard, 7)
    queue = guard.dead_letters()
    seen: list[str] = []
    page = await queue.list(limit=3)
    sizes = [len(page.entries)]
    seen += [letter.id for letter in page.entries]
    while page.cursor is not None:
        page = await queue.list(limit=3, cursor=page.cursor)
        sizes.append(len(page.entries))
        seen += [letter.id for letter in page.entries]
    assert sizes == [3, 3, 1]
    assert seen == [event.id for event in reversed(events.of(DeadLettered))]


async def test_pages_stay_in_step_while_letters_come_and_go(guard: JobGuard) -> None:
    """What was there from beginning to end is seen once."""
    ids = await fill(guard, 6)
    queue = guard.dead_letters()
    page = await queue.list(limit=2)
    seen = [letter.id for letter in page.entries]
    await queue.remove(ids[-1])
    await fill(guard, 1)
    while page.cursor is not None:
        page = await queue.list(limit=2, cursor=page.cursor)
        seen += [letter.id for letter in page.entries]
    assert seen == list(reversed(ids))


async def test_an_empty_queue_has_an_empty_page(guard: JobGuard) -> None:
    """No entries and no cursor."""
    page = await guard.dead_letters("nobody").list()
    assert (page.entries, page.cursor) == ((), None)


async def test_a_removed_letter_is_gone(guard: JobGuard) -> None:
    """`remove` says whether there was one."""
    (id,) = await fill(guard, 1)
    queue = guard.dead_letters()
    assert await queue.remove(id) is True
    assert await queue.remove(id) is False
    assert await queue.get(id) is None
    assert await queue.count() == 0


@pytest.mark.parametrize("limit", [0, -1, 501])
async def test_a_page_has_from_1_to_500_letters(guard: JobGuard, limit: int) -> None:
    """Anything else is refused, and the value named."""
    with pytest.raises(InvalidValue, match=f"limit.*{limit}"):
        await guard.dead_letters().list(limit=limit)


async def test_a_cursor_that_no_page_gave_is_refused(guard: JobGuard) -> None:
    """The error names it."""
    await fill(guard, 1)
    with pytest.raises(InvalidValue, match="nonsense"):
        await guard.dead_letters().list(cursor="nonsense")


async def test_a_queue_works_without_a_guard(bench: Bench, guard: JobGuard) -> None:
    """From a store, a name and a name space."""
    (id,) = await fill(guard, 1)
    queue = DeadLetterQueue(bench.backing, "default", namespace=bench.namespace)
    assert [letter.id for letter in (await queue.list()).entries] == [id]


async def test_a_guard_s_letters_can_be_read_outside_of_its_block(bench: Bench) -> None:
    """`guard.dead_letters(...)` works unbound."""
    unbound = bench.guard()
    assert await unbound.dead_letters("any").count() == 0


async def test_a_job_that_fails_twice_under_its_key_leaves_two_letters(guard: JobGuard) -> None:
    """Each call is a job, and each job has its letter."""

    @deduplicated
    @dead_letter
    async def task(x: int) -> None:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await task(1)
    assert await guard.dead_letters().count() == 2
