"""What a server that cannot do as asked for now answers, what is logged of it, and how work is given up."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ExecAbortError, NoPermissionError, RedisError, ResponseError

from jobguard.adapters.arq.incoming import Incoming, incoming
from jobguard.adapters.arq.lateness import EndWriter
from jobguard.adapters.arq.outages import is_outage, is_refusal, shown, traced, within
from jobguard.adapters.arq.runs import Run, running
from jobguard.testing import EmbeddedValkey

pytestmark = pytest.mark.anyio

DATA = "the user's data"
FULL = ("config", "set", "maxmemory", "1")
LONELY = ("config", "set", "min-replicas-to-write", "1")
REPLICA = ("replicaof", "127.0.0.1", "1")


@pytest.fixture
async def client() -> AsyncIterator[Redis]:
    with EmbeddedValkey(config={"busy-reply-threshold": "50"}) as server:
        async with Redis(unix_socket_path=server.socket_path) as client:
            yield client


async def answer(client: Redis, form: str) -> Exception:
    """How the server refuses a write."""
    try:
        if form == "command":
            await client.set("name", DATA)
        else:
            async with client.pipeline(transaction=form == "transaction") as pipe:
                pipe.set("name", DATA)
                await pipe.execute()
    except Exception as error:
        return error
    raise AssertionError("the server has taken a write")


@pytest.mark.parametrize("form", ["command", "pipeline", "transaction"])
@pytest.mark.parametrize("state", [FULL, LONELY, REPLICA], ids=lambda state: state[0] + state[-2])
async def test_a_server_that_takes_no_writes_is_away(
    client: Redis, state: tuple[str, ...], form: str
) -> None:
    """However the command went; and what is logged says neither what it was nor what it bore."""
    await cast(Any, client).execute_command(*state)
    error = await answer(client, form)
    assert is_outage(error)
    assert not is_refusal(error)
    for text in (shown(error, ()), "".join(traceback.format_exception(traced(error, ())))):
        assert DATA not in text
        assert type(error).__name__ in text


@pytest.mark.parametrize("form", ["command", "pipeline", "transaction"])
async def test_a_server_that_runs_a_script_is_away(client: Redis, form: str) -> None:
    """It answers nothing but that it is busy, until the script has ended or is killed."""
    hanging = asyncio.ensure_future(cast(Any, client).eval("while true do end", 0))
    error: Exception | None = None
    while error is None or "BUSY" not in str(error):
        try:
            error = await answer(client, form)
        except AssertionError:
            await asyncio.sleep(0.01)
    await client.script_kill()
    with pytest.raises(ResponseError):
        await hanging
    assert is_outage(error)


@pytest.mark.parametrize(
    "said",
    ["EXECABORT Transaction discarded because of: BUSY x", "ERR no such thing", "WRONGTYPE NOREPLICAS"],
)
def test_the_first_word_of_the_answer_decides(said: str) -> None:
    """A server that refuses EXEC itself says why behind words of its own."""
    error = ExecAbortError(said.removeprefix("EXECABORT ")) if "EXEC" in said else ResponseError(said)
    assert is_outage(error) == ("BUSY" in said)


def test_data_that_look_like_an_answer_are_none() -> None:
    """A command's arguments are repeated before what the server says."""
    said = "Command # 1 (SET a x of pipeline caused error: ('BUSY x',)) of pipeline caused error: ('ERR no',)"
    assert not is_outage(ResponseError(said))
    assert shown(ResponseError(said), ()).startswith("ResponseError: ERR no")


def test_a_forbidden_command_in_a_transaction_is_a_refusal() -> None:
    """redis-py raises it from the transaction's own error."""
    error = NoPermissionError("Command # 1 (SET a) of pipeline caused error: ('no permissions',)")
    error.__cause__ = ExecAbortError("Transaction discarded because of previous errors.")
    assert is_refusal(error)
    assert not is_outage(error)


def test_no_password_is_shown() -> None:
    """A server may repeat what it was told at the login; the user's own errors keep their chain."""
    error = RedisError("unknown user with password s3cret")
    assert "s3cret" not in shown(error, ("s3cret",))
    own = RuntimeError("mine")
    assert traced(own, ()) is own
    own.__cause__ = error
    assert "s3cret" not in "".join(traceback.format_exception(traced(own, ("s3cret",))))


async def test_work_that_swallows_its_cancellation_is_given_up() -> None:
    """It goes on by itself, and whoever waited for it goes on too."""
    enough = False

    async def stubborn() -> None:
        while not enough:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                continue

    with pytest.raises(TimeoutError):
        await within(0.01, stubborn())
    (task,) = (each for each in asyncio.all_tasks() if "stubborn" in repr(each))
    enough = True
    task.cancel()
    await asyncio.wait({task})


async def test_an_end_is_waited_for_no_longer_than_its_mark_lasts() -> None:
    """Patience for the server may be much longer: what comes after the mark's end is another run's to say."""

    async def hang() -> None:
        await asyncio.sleep(600)

    def no_pool() -> None:
        raise AssertionError("nothing is asked")

    loop = asyncio.get_running_loop()
    running.set(Run("one", 1, outages=0, marked_until=loop.time() + 0.05))
    incoming.set(Incoming(b"", "task", None, 0))
    with pytest.raises(TimeoutError):
        await EndWriter(no_pool, "queue", patience=600).write(hang, done=True, lasting=True)  # type: ignore[arg-type]
