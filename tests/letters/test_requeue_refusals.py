"""Dead letters whose jobs are not run again as asked, and why."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from typing import Any

import pytest

from jobguard import DeadLetterQueue, Filter, JobGuard, dead_letter
from jobguard.adapters.rerun import LocalQueue
from jobguard.errors import ConfigurationError, InvalidType, InvalidValue, LetterRefused, StoreUnavailable
from jobguard.exchange import export, import_
from jobguard.requeueing import Orders, Requeued, Status
from jobguard.stores.letters import UNKNOWN_TASK, LetterState
from tests.engine.harness import StoreProxy, down
from tests.letters.making import keep, letter
from tests.letters.replaying import Recorder, World, fail, ids

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("guard")]


def made(world: World, **settings: Any) -> Any:
    """A task that keeps dead letters."""

    @dead_letter(**settings)
    async def send(number: object) -> object:
        return await world.work(number)

    return send


def in_words(outcome: Requeued) -> tuple[str, Status]:
    return outcome.id, outcome.status


PICKLE = b64encode(b"\x80pickle").decode()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": LetterState.RESOLVED, "resolution": "succeeded"}, "it is resolved (succeeded)"),
        ({"adapter": "arq"}, "'arq', to which there is no way from here (there is: 'local')"),
        ({"payload": None, "payload_format": "none"}, "not kept (payload_format 'none')"),
        ({"payload": None, "payload_format": "too_large"}, "not kept (payload_format 'too_large')"),
        ({"payload": "x", "payload_format": "yaml"}, "not kept (payload_format 'yaml')"),
        ({"payload": PICKLE, "payload_format": "opaque", "imported": True}, "trust_imported"),
        ({"payload": "!", "payload_format": "opaque"}, "is not Base64"),
        ({"requeues": 5}, "5 times (max_requeues=5)"),
    ],
)
async def test_what_cannot_be_run_again_is_refused_by_itself(
    letters: DeadLetterQueue, changes: dict[str, Any], why: str
) -> None:
    """With the reason, and without holding the others up."""
    await keep(letters, letter("a", **changes), letter("b"))
    report = await letters.requeue(Filter(state="all"), via=Recorder(), unserved=True)
    assert list(map(in_words, report.outcomes)) == [("a", Status.REFUSED), ("b", Status.REQUEUED)]
    assert why in report.outcomes[0].why


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"payload": PICKLE, "payload_format": "opaque", "imported": True}, {"trust_imported": True}),
        ({"payload": PICKLE, "payload_format": "opaque"}, {}),
        ({"imported": True}, {}),
        ({"requeues": 5}, {"max_requeues": 6}),
        ({"requeues": 500}, {"max_requeues": None}),
        ({"task": UNKNOWN_TASK}, {}),
    ],
)
async def test_what_is_trusted_or_wanted_is_run_again(
    letters: DeadLetterQueue, changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    """JSON needs no trust, wherever it comes from."""
    await keep(letters, letter("a", **changes))
    via = Recorder()
    await letters.requeue("a", via=via, unserved=True, **settings)
    assert len(via.jobs) == 1


async def test_a_task_that_nobody_serves_is_refused(guard: JobGuard, letters: DeadLetterQueue) -> None:
    """Until somebody does, or it is wanted all the same."""
    world = World()
    send = made(world)
    await fail(send, 1)
    (id,) = await ids(letters)
    report = await letters.requeue(id, via=Recorder())
    assert report.counts == {Status.REFUSED: 1}
    assert "no worker of queue 'local'" in report.outcomes[0].why
    assert "unserved=True" in report.outcomes[0].why
    async with LocalQueue(guard, send) as via:
        assert (await letters.requeue(id, via=via)).counts == {Status.REQUEUED: 1}


async def test_a_task_that_could_not_be_read_wants_a_word(letters: DeadLetterQueue) -> None:
    """Whoever knows that its worker is mended says so."""
    await keep(letters, letter("a", task=UNKNOWN_TASK))
    report = await letters.requeue("a", via=Recorder())
    assert "unserved=True" in report.outcomes[0].why


async def test_an_opaque_letter_that_was_imported_is_not_run_without_trust(
    letters: DeadLetterQueue,
) -> None:
    """Out and in again is enough to lose it."""
    await keep(letters, letter("a", payload=PICKLE, payload_format="opaque"))
    lines = [line async for line in export(letters)]
    await letters.clear()
    await import_(letters, lines)
    via = Recorder()
    report = await letters.requeue("a", via=via, unserved=True)
    assert report.counts == {Status.REFUSED: 1}
    await letters.requeue("a", via=via, unserved=True, trust_imported=True)
    assert len(via.jobs) == 1


async def test_what_the_queue_refuses_is_refused(letters: DeadLetterQueue) -> None:
    """Its reason is told, and the others go on."""

    class Refusing(Recorder):
        async def enqueue(self, job: Any) -> bool:
            if job.replay.id == "a":
                raise LetterRefused("a", "not that one")
            return await super().enqueue(job)

    await keep(letters, letter("a"), letter("b"))
    report = await letters.requeue(Filter(), via=Refusing(), unserved=True)
    assert [each.why for each in report.outcomes] == ["not that one", ""]
    assert await ids(letters) == ["a"]


async def test_each_letter_goes_the_way_it_came(letters: DeadLetterQueue) -> None:
    """Of several ways into queues."""
    other = Recorder()
    other.adapter = "other"
    here = Recorder()
    await keep(letters, letter("a"), letter("b", adapter="other"))
    await letters.requeue(Filter(), via=[here, other], unserved=True)
    assert ([each.replay.id for each in here.jobs], [each.replay.id for each in other.jobs]) == (["a"], ["b"])


async def test_a_store_that_does_not_answer_ends_the_requeue(
    letters: DeadLetterQueue, store: StoreProxy
) -> None:
    """What is done stays done, and the same call completes it."""
    await keep(letters, letter("a"), letter("b"))
    store.then("replace_letter", down)
    via = Recorder()
    with pytest.raises(StoreUnavailable):
        await letters.requeue(Filter(), via=via, unserved=True)
    await letters.requeue(Filter(), via=via, unserved=True)
    assert sorted(each.replay.id for each in via.jobs) == ["a", "b"]
    assert await ids(letters, "requeued") == ["a", "b"]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"rate": 0}, ["rate", "0"]),
        ({"rate": 2_000_000}, ["rate", "2000000", "at most 1000000"]),
        ({"rate": float("inf")}, ["rate", "inf"]),
        ({"limit": 0}, ["limit", "0"]),
        ({"limit": "5"}, ["limit", "'5'"]),
        ({"edit": ["to"]}, ["edit", "['to']"]),
        ({"edit": {"": 1}}, ["path", "''"]),
        ({"on_duplicate": "ask"}, ["on_duplicate", "'ask'"]),
        ({"max_requeues": 0}, ["max_requeues", "0"]),
        ({"canary": -1}, ["canary", "-1"]),
        ({"max_failure_rate": 1.5}, ["max_failure_rate", "1.5"]),
        ({"max_failure_rate": float("nan")}, ["max_failure_rate", "nan"]),
        ({"patience": 0}, ["patience", "0"]),
        ({"patience": float("inf")}, ["patience", "inf"]),
        ({"patience": timedelta(days=-1)}, ["patience", "datetime.timedelta(days=-1)"]),
    ],
)
async def test_orders_that_cannot_be_are_named(
    letters: DeadLetterQueue, settings: dict[str, Any], parts: list[str]
) -> None:
    """With their value, before anything is enqueued."""
    await keep(letters, letter("a"))
    via = Recorder()
    with pytest.raises(ConfigurationError) as raised:
        await letters.requeue("a", via=via, unserved=True, **settings)
    assert [part for part in parts if part not in str(raised.value)] == []
    assert via.jobs == []


@pytest.mark.parametrize("name", ["rate", "max_failure_rate", "patience"])
@pytest.mark.parametrize("value", ["1", True, [1]], ids=repr)
async def test_orders_of_a_wrong_type_are_named(letters: DeadLetterQueue, name: str, value: object) -> None:
    """It is the type that is wrong, and not the value."""
    settings: Any = {name: value}
    with pytest.raises(InvalidType, match=name) as raised:
        await letters.requeue("a", via=Recorder(), **settings)
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize("patience", [0, float("inf")])
async def test_orders_made_by_hand_are_checked_too(patience: float) -> None:
    """As the command line makes them."""
    with pytest.raises(InvalidValue, match="patience must be a finite duration"):
        Orders(patience=patience)


class Pool:
    """A client, whose connections a way into a queue uses."""

    def __repr__(self) -> str:
        return "Pool(password='secret')"


@pytest.mark.parametrize(
    ("via", "told"),
    [(Pool(), "Pool"), ([Recorder(), Pool()], "Pool"), ("redis://:secret@host", "str"), (None, "NoneType")],
    ids=["pool", "one-of-several", "url", "None"],
)
@pytest.mark.parametrize("which", ["a", Filter()], ids=["id", "filter"])
async def test_what_is_no_way_into_a_queue_is_refused(
    letters: DeadLetterQueue, which: str | Filter, via: Any, told: str
) -> None:
    """Also where there is no letter; by its type, since a password may be in what it shows."""
    with pytest.raises(InvalidType) as raised:
        await letters.requeue(which, via=via)
    assert str(raised.value) == f"via must be a way into a queue, not of type {told}; write ArqQueue(pool)"


async def test_a_filter_as_text_is_not_taken_for_an_id(letters: DeadLetterQueue) -> None:
    """Elsewhere a text is a filter; here it is an id, and the ids that jobguard makes have no such sign."""
    await keep(letters, letter("a"))
    via = Recorder()
    with pytest.raises(InvalidValue) as raised:
        await letters.requeue("error=TimeoutError", via=via, unserved=True)
    assert "which must be ids or a Filter, not 'error=TimeoutError'" in str(raised.value)
    assert "write Filter.parse('error=TimeoutError')" in str(raised.value)
    assert via.jobs == []


async def test_an_id_that_looks_like_a_filter_is_given_as_one_of_several(letters: DeadLetterQueue) -> None:
    """It can have come out of a file."""
    await keep(letters, letter("error=TimeoutError"))
    report = await letters.requeue(["error=TimeoutError"], via=Recorder(), unserved=True)
    assert report.counts == {Status.REQUEUED: 1}
