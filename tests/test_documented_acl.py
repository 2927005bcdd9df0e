"""The ACL users that the security guide gives: each may do all that it needs, and nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job, serialize_job
from arq.worker import create_worker
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from arq import cron
from chaos.redis7 import find_redis7
from jobguard import Filter, JobGuard, Snooze, constant, dead_letter, deduplicated, retrying
from jobguard.adapters.arq import ArqQueue, create_pool, protect
from jobguard.cli.app import run
from jobguard.keys import compile_key
from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey
from tests.arq.harness import wait_until
from tests.cli.conftest import arq_letter

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "security.md"
RULES = dict(re.findall(r"^user (\w+) on >password (.*)$", PAGE.read_text("utf-8"), re.MULTILINE))
"""The rule of each user, as the guide has it."""
IGNORED = {"client|setinfo"}
"""What redis-py says of itself, whether it is allowed to or not."""


def listed(user: str) -> set[str]:
    """The commands that a rule allows."""
    return set(re.findall(r"\+(\S+)", RULES[user]))


def in_scripts(*packages: str) -> set[str]:
    """The commands that scripts call, on paths that no one scenario goes all of."""
    found = set()
    for package in packages:
        for file in files(package).joinpath("lua").iterdir():
            found |= set(re.findall(r"redis\.call\(\s*'(\w+)'", file.read_text("utf-8")))
    return {name.lower() for name in found}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    """A server on which only the administrator may do anything, until a test lets users in."""
    with EmbeddedValkey(password="admin") as server:
        yield server


@pytest.fixture
async def admin(server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """The administrator, on an empty server where the guide's users are as the guide says."""
    async with Redis.from_url(server.url) as client:
        for name in RULES:
            await allow(client, name)
        yield client


async def test_the_rules_are_understood_by_redis_7() -> None:
    """A command that a server does not know is an error in a rule."""
    with EmbeddedValkey(password="admin", binary=find_redis7()) as server:
        async with Redis.from_url(server.url) as client:
            for name in RULES:
                await allow(client, name)
            assert len(await client.acl_users()) == 1 + len(RULES)


async def allow(admin: Redis, user: str, *changes: str) -> None:
    """Empty the server, and give a user its rule with some changes."""
    send: Any = admin.execute_command  # redis-py has types for it in some releases only
    await send("FLUSHALL")
    await send("SCRIPT", "FLUSH")
    await send("ACL", "SETUSER", user, "reset", "on", ">password", *RULES[user].split(), *changes)
    await send("ACL", "LOG", "RESET")


async def denied(admin: Redis) -> set[str]:
    """Commands and keys that were refused to somebody since."""
    entries: Any = await admin.acl_log()
    return {str(entry["object"]) for entry in entries} - IGNORED


class Place(NamedTuple):
    """Where the server is."""

    socket_path: str

    @property
    def url(self) -> str:
        return f"unix://:admin@{self.socket_path}"


def settings(server: Place, user: str | None) -> RedisSettings:
    """How ARQ connects; None = as the administrator."""
    if user is None:
        return RedisSettings(unix_socket_path=server.socket_path, password="admin")
    return RedisSettings(unix_socket_path=server.socket_path, username=user, password="password")


def url(server: Place, user: str) -> str:
    return f"unix://{user}:password@{server.socket_path}"


# --- what each user does ---------------------------------------------------------------------


@deduplicated(key="{order}")
@retrying(attempts=2, backoff=constant(0.01))
@dead_letter(retention=86_400, max_entries=100)
async def pay(ctx: dict[Any, Any], order: str) -> str:
    if order == "bad":
        raise ValueError(order)
    if order == "slow" and ctx["job_try"] == 1:
        raise Snooze(after=0.01)
    return f"{order} paid"


@deduplicated(key="{order}", running="defer")
async def pay_later(ctx: dict[Any, Any], order: str) -> str:
    await asyncio.sleep(0.3)
    return f"{order} paid"


async def tick(ctx: dict[Any, Any]) -> None: ...


async def work(server: Place, user: str) -> None:
    """A worker: jobs of every end, duplicates, cron, an aborted and an expired job, a replay, a sweep."""
    pool = await create_pool(settings(server, None))
    for order in ("good", "bad", "slow"):
        await pool.enqueue_job("pay", order)
    for _ in range(2):
        await pool.enqueue_job("pay_later", "later")
    await pool.enqueue_job("nobody knows", "x")
    await pool.enqueue_job("pay", "gone", _job_id="gone")
    await pool.delete("arq:job:gone")
    await pool.enqueue_job("pay", "tried", _job_try=2)
    yesterday = int(time.time() * 1000) - 86_400_000  # what runs out now was not given an end of its own
    await pool.set("arq:job:waning", serialize_job("pay", ("waning",), {}, None, yesterday), px=500)
    await pool.zadd("arq:queue", {"waning": time.time() * 1000 + 1000})
    foreign = compile_key(pay, key="{order}", scope=None)(({}, "odd"), {}).digest
    await pool.set(f"jobguard:{foreign}", "somebody else's", px=500)
    await pool.enqueue_job("pay", "odd")
    aborted = await pool.enqueue_job("pay", "aborted", _job_id="aborted", _defer_by=0.5)
    assert aborted is not None
    await pool.zadd("arq:abort", {"aborted": 2e12})
    worker = create_worker(
        protect(
            {
                "functions": [pay, pay_later],
                "cron_jobs": [cron(tick, run_at_startup=True)],
                "redis_settings": settings(server, user),
                "burst": True,
                "poll_delay": 0.02,
                "handle_signals": False,
                "allow_abort_jobs": True,
            },
            lease=1,
            sweep=0.2,
        )
    )
    try:
        await worker.async_run()
        letters = JobGuard(RedisStore(pool)).dead_letters()
        report = await letters.requeue(Filter(error="ValueError"), via=ArqQueue(pool))
        assert [outcome.status for outcome in report.outcomes] == ["requeued"]
        await worker.async_run()
        found = [(letter.reason, letter.job_id) async for letter in letters.each()]
        assert sorted(reason for reason, _ in found) == ["exhausted", "expired", "unknown_task"]
        assert ("expired", "gone") in found
        assert await Job("waning", pool).result() == "waning paid"
    finally:
        await worker.close()
        await pool.aclose()


async def enqueue(server: Place, user: str) -> None:
    """An application: puts jobs into the queue, asks after them, aborts one, reads a result."""
    pool = await create_pool(settings(server, user))
    try:
        job = await pool.enqueue_job("pay", "good", _job_id="one", _defer_by=1)
        assert job is not None
        assert await pool.enqueue_job("pay", "good", _job_id="one") is None
        assert (await job.status()).value == "deferred"
        assert await job.info() is not None
        assert [each.function for each in await pool.queued_jobs()] == ["pay"]
        async with Redis.from_url(server.url) as admin:
            await wait_until(lambda: admin.exists("arq:job:one"))
        with pytest.raises(TimeoutError):
            await job.abort(timeout=0.1)
        assert await job.result_info() is None
    finally:
        await pool.aclose()


async def operate(server: Place, user: str) -> None:
    """An operator: every command, a requeue into ARQ and the doctor included."""
    guard = JobGuard(RedisStore.from_url(server.url))

    @dead_letter
    async def broken(number: int) -> None:
        raise ValueError(number)

    async with guard:
        for number in range(3):
            with pytest.raises(ValueError, match=str(number)):
                await broken(number)
        await guard.dead_letters().take_in(arq_letter(1), 1_000_000)
    ids = [letter.id for letter in (await guard.dead_letters().list()).entries]
    store = guard.store
    assert isinstance(store, RedisStore)
    await store.aclose()

    def command(*words: str) -> int:
        return run([*words, "--url", url(server, user)])

    def all_commands() -> None:
        for words in (("count",), ("list",), ("get", ids[0]), ("groups",), ("stats",), ("queues",)):
            assert command("dlq", *words) == 0
        assert command("dlq", "requeue", ids[-1], "--yes", "--unserved") == 0
        assert command("dlq", "remove", ids[0], "--yes") == 0
        with tempfile.TemporaryDirectory() as directory:
            assert command("dlq", "export", "-o", f"{directory}/letters") == 0
            assert command("dlq", "clear", "--yes") == 0
            assert command("dlq", "import", f"{directory}/letters") == 0
        assert command("job", "get", "k") == 3
        assert command("doctor") in (0, 6)

    await asyncio.get_running_loop().run_in_executor(None, all_commands)


SCENARIOS: dict[str, Callable[[Place, str], Awaitable[None]]] = {
    "worker": work,
    "enqueuer": enqueue,
    "operator": operate,
}


@pytest.mark.parametrize("user", SCENARIOS)
async def test_a_user_needs_no_more(server: EmbeddedValkey, admin: Redis, user: str) -> None:
    """All that it does works, and nothing that it asked for was refused."""
    await SCENARIOS[user](Place(server.socket_path), user)
    assert await denied(admin) == set()


def test_every_command_of_the_scripts_is_listed_for_those_that_run_them() -> None:
    """A script stops in its middle where one is missing, so all are allowed, on whatever path they are."""
    scripts = in_scripts("jobguard.stores", "jobguard.adapters.arq")
    assert scripts <= listed("worker")
    assert scripts <= listed("operator")


NEEDED = [
    (user, command)
    for user in SCENARIOS
    for command in sorted(listed(user))
    if user == "enqueuer" or command not in in_scripts("jobguard.stores", "jobguard.adapters.arq")
]


def started(socket: str, user: str) -> subprocess.Popen[bytes]:
    """What a user does, in a process of its own."""
    root = PAGE.parents[2]
    program = (
        "import asyncio; from tests.test_documented_acl import SCENARIOS, Place; "
        f"asyncio.run(SCENARIOS[{user!r}](Place({socket!r}), {user!r}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(("user", "command"), NEEDED)
async def test_a_user_needs_no_less(server: EmbeddedValkey, admin: Redis, user: str, command: str) -> None:
    """Without any of the commands that its rule lists beside those of the scripts, something is refused."""
    await allow(admin, user, f"-{command}")
    doing = started(server.socket_path, user)  # killed as soon as there is something to be seen
    try:
        await wait_until(lambda: denied(admin), f"{command} refused to {user}")
    finally:
        doing.kill()
        doing.wait()
    assert command.partition("|")[0] in {each.partition("|")[0] for each in await denied(admin)}


@pytest.mark.parametrize("user", SCENARIOS)
@pytest.mark.parametrize(
    "command",
    [("GET", "other"), ("SET", "{other}:k", "v"), ("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "SET", "save", ""),
     ("ACL", "LIST"), ("MONITOR",), ("SHUTDOWN",), ("REPLICAOF", "NO", "ONE"), ("RANDOMKEY",),
     ("SCRIPT", "FLUSH"), ("SUBSCRIBE", "c"), ("PUBLISH", "c", "m"), ("CLIENT", "KILL", "ID", "1"),
     ("EVAL", "return redis.call('GET', 'other')", "0")],
)  # fmt: skip
async def test_other_keys_and_the_server_itself_are_out_of_reach(
    server: EmbeddedValkey, admin: Redis, user: str, command: tuple[str, ...]
) -> None:
    """Neither another application's data nor commands that administer the server, from a script neither."""
    async with Redis.from_url(url(Place(server.socket_path), user)) as client:
        with pytest.raises((NoPermissionError, ResponseError), match=r"(?i)permission|ACL"):
            await client.execute_command(*command)


async def test_an_application_that_enqueues_reads_no_letters(server: EmbeddedValkey, admin: Redis) -> None:
    """Nor claims, nor results of deduplicated work."""
    async with Redis.from_url(url(Place(server.socket_path), "enqueuer")) as client:
        for key in ("jobguard:k", "{jobguard:dlq:default}:entries"):
            with pytest.raises(NoPermissionError):
                await client.get(key)
