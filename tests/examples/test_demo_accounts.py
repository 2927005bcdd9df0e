"""The demo's accounts: each way in which they could be wrong shows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from examples.demo.accounts import Fate, JobRecord, Replayed, Report, Seen, draw_up
from examples.demo.orders import DOWNLOAD, INCOMING, SEND

SENT = JobRecord("send.1", SEND, "note.1", ended=True, success=True, owns_success=True)
FETCHED = JobRecord(
    "download.1", DOWNLOAD, "http://h/file/1.jpg", ended=True, success=True, owns_success=True
)
HANDLED = JobRecord("incoming.1", INCOMING, "wamid.1", ended=True, success=True, owns_success=True)
AGAIN = replace(HANDLED, job_id="incoming.1.again", duplicate=True, owns_success=False)
KEPT = JobRecord("send.2", SEND, "note.2", ended=True, letter="whatsapp: HTTP 503")
DISCARDED = JobRecord("incoming.2", INCOMING, "wamid.2", ended=True)
MENDED = replace(KEPT, letter=None, owns_success=True, replay=Replayed("replay.2", True, True, "succeeded"))
"""A dead letter that was run again, and then succeeded."""


def accepted(*messages: str) -> list[dict[str, str]]:
    return [{"what": "accepted", "id": message} for message in messages]


def served(path: str, digest: str) -> list[dict[str, str]]:
    return [{"what": "served", "id": path, "sha256": digest}]


def report(
    *jobs: JobRecord,
    api: Collection[Mapping[str, Any]] = (),
    files_log: Collection[Mapping[str, Any]] = (),
    events: Iterable[Mapping[str, Any]] = (),
    in_flight: Collection[str] = (),
    files: Mapping[str, str] | None = None,
    complaints: Collection[str] = (),
) -> Report:
    seen = Seen(list(api), list(files_log), [])
    return draw_up(jobs, seen, events, in_flight, files or {}, 1.0, complaints)


def test_each_job_is_counted_under_what_became_of_it() -> None:
    """And the duplicates are not among the accepted."""
    made = report(
        SENT,
        FETCHED,
        HANDLED,
        AGAIN,
        KEPT,
        DISCARDED,
        api=accepted("note.1"),
        files_log=served("/file/1.jpg", "d1"),
        files={"d1.jpg": "d1"},
    )
    account = made.account
    assert (account.accepted, account.succeeded, account.failed) == (5, 3, 1)
    assert (account.dead_lettered, account.duplicates, account.lost) == (1, 1, 0)
    assert made.causes == {"whatsapp: HTTP 503": 1}
    assert made.holds


def test_a_job_without_a_result_is_lost() -> None:
    """Nobody knows what became of it."""
    made = report(replace(SENT, ended=False, success=False, owns_success=False))
    assert made.account.lost == 1
    assert not made.holds


def test_a_success_whose_message_nobody_got_is_lost() -> None:
    """The queue says that it was sent, the API never saw it."""
    assert report(SENT).account.lost == 1
    assert not report(SENT).holds


@pytest.mark.parametrize("files", [{}, {"other.jpg": "d2"}])
def test_a_success_whose_file_is_missing_or_other_is_lost(files: dict[str, str]) -> None:
    """What counts is a file with the content that was served."""
    made = report(FETCHED, files_log=served("/file/1.jpg", "d1"), files=files)
    assert made.account.lost == 1


def test_a_message_that_went_out_twice_is_delivered_twice() -> None:
    """Without a kill there is no excuse."""
    made = report(SENT, api=accepted("note.1", "note.1"))
    assert (made.account.delivered_twice, made.account.repeated_after_crash) == (1, 0)
    assert not made.holds


def test_a_kill_explains_one_repeat_of_what_was_in_flight() -> None:
    """That job's message may have gone out without anybody knowing."""
    made = report(SENT, api=accepted("note.1", "note.1"), in_flight=["send.1"])
    assert (made.account.delivered_twice, made.account.repeated_after_crash) == (0, 1)
    assert made.holds


def test_a_kill_explains_no_second_repeat() -> None:
    """There was one kill."""
    made = report(SENT, api=accepted("note.1", "note.1", "note.1"), in_flight=["send.1"])
    assert (made.account.delivered_twice, made.account.repeated_after_crash) == (1, 1)
    assert not made.holds


def test_a_kill_explains_nothing_of_other_jobs() -> None:
    """Only of those that were running."""
    made = report(SENT, HANDLED, api=accepted("note.1", "note.1"), in_flight=["incoming.1"])
    assert (made.account.delivered_twice, made.account.repeated_after_crash) == (1, 0)


@pytest.mark.parametrize(
    ("job", "api"),
    [
        (replace(HANDLED, owns_success=False), []),
        (replace(DISCARDED, owns_success=True), []),
        (replace(SENT, letter="whatsapp: HTTP 503"), accepted("note.1")),
        (KEPT, accepted("note.2")),
        (HANDLED, accepted("note.9")),
        (replace(HANDLED, replay=Replayed("replay.1", True, True, "succeeded")), []),
        (replace(MENDED, replay=Replayed("replay.2", True, False, "succeeded")), accepted("note.2")),
        (replace(KEPT, replay=Replayed("replay.2", True, True)), []),
        (replace(MENDED, owns_success=False), accepted("note.2")),
    ],
    ids=[
        "success unrecorded",
        "failure recorded as success",
        "success kept",
        "sent but failed",
        "unknown",
        "success replayed",
        "replay resolved without a success",
        "replay succeeded and dead",
        "replay's success unrecorded",
    ],
)
def test_sources_that_disagree_are_a_contradiction(job: JobRecord, api: list[dict[str, str]]) -> None:
    """Then the numbers cannot be trusted, whatever they are."""
    made = report(job, api=api)
    assert len(made.contradictions) == 1
    assert not made.holds


def test_a_replay_that_succeeded_is_a_success_and_no_dead_letter() -> None:
    """The books balance after replays as they did before."""
    made = report(MENDED, KEPT, api=accepted("note.2"))
    account = made.account
    assert (account.accepted, account.succeeded, account.dead_lettered) == (2, 1, 1)
    assert (account.replayed, account.resolved, account.lost) == (1, 1, 0)


def test_a_replay_that_failed_again_is_a_dead_letter() -> None:
    """With the cause that it has now."""
    made = report(replace(KEPT, replay=Replayed("replay.2", ended=True)))
    assert (made.account.dead_lettered, made.account.replayed, made.account.resolved) == (1, 1, 0)
    assert made.holds


@pytest.mark.parametrize(
    ("resolution", "fate"), [("", Fate.LOST), ("discarded", Fate.FAILED), ("duplicate", Fate.DUPLICATE)]
)
def test_what_became_of_a_replay_is_what_its_letter_says(resolution: str, fate: Fate) -> None:
    """Where it says nothing, nobody knows."""
    assert replace(MENDED, replay=Replayed("replay.2", resolution=resolution)).fate is fate


def test_a_replayed_message_has_gone_out_exactly_once() -> None:
    """Not never, though its letter is resolved; and not twice."""
    assert report(MENDED).account.lost == 1
    assert report(MENDED, api=accepted("note.2")).holds
    assert report(MENDED, api=accepted("note.2", "note.2")).account.delivered_twice == 1


def test_accounts_do_not_hold_where_something_else_went_wrong() -> None:
    """Such as a command that did not do what it was to."""
    made = report(MENDED, api=accepted("note.2"), complaints=["jobguard dlq groups: ended with exit code 1"])
    assert made.contradictions == ("jobguard dlq groups: ended with exit code 1",)
    assert not made.holds


def test_a_message_of_a_killed_job_may_be_out_although_it_failed_later() -> None:
    """The kill came between request and answer, and the next run met another answer."""
    assert report(KEPT, api=accepted("note.2"), in_flight=["send.2"]).holds


def test_events_of_jobs_are_counted_and_those_of_guards_inside_are_not() -> None:
    """A retry inside a body is no delivery."""
    retry = {"event": "RetryScheduled", "job": "q:send.1:1", "key": "k"}
    inside = {"event": "RetryScheduled", "job": "local:1:0", "key": None}
    interrupted = {"event": "Interrupted", "job": "q:send.1:1", "key": "k"}
    account = report(events=[retry, retry, inside, interrupted]).account
    assert (account.retries, account.interruptions) == (2, 1)


def test_a_crash_is_counted_once_however_often_it_is_told() -> None:
    """Each later delivery of the job says again how many there were."""
    taken = {"event": "TakenOver", "job": "q:send.1:1", "key": "k", "crashes": 1}
    other = {**taken, "key": "l"}
    assert report(events=[taken, taken, other]).account.crashes == 2
