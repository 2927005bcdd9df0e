"""Commands that are killed: nothing is lost, nothing is done twice, and to run them again completes them."""

from __future__ import annotations

import random
import select
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from jobguard.stores import RedisStore
from jobguard.testing import EmbeddedValkey
from tests.cli.conftest import Desk, arq_letter

FEW, MANY = 3, 300
"""Letters that are dealt with where each call is cut off, and where any moment is."""
Work = tuple[Callable[[int], tuple[str, ...]], Callable[[Desk, int], None]]
"""Makes ready for a command on so many letters, and gives it; and looks at what it has come to."""
PATIENCE = 60.0
"""Seconds after which what should have happened long ago is taken not to happen."""


class Valve:
    """Passes bytes between clients and a server, and is shut once a client has spoken so often.

    What was said last still reaches the server, which carries it out; no answer comes back.

    Attributes:
        url: where clients connect.
        shut: set once nothing passes any more.
    """

    def __init__(self, server: EmbeddedValkey, speeches: int) -> None:
        path = server.directory / f"valve-{uuid.uuid4().hex[:12]}"
        self.url = f"unix://{path}"
        self.shut = threading.Event()
        self._path = path
        self._server_path = server.socket_path
        self._left = speeches
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for it
            each.close()
        for thread in self._threads:
            thread.join()
        self._path.unlink()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server_path)
            self._open += (client, server)
            passing = threading.Thread(target=self._pass, args=(client, server))
            self._threads.append(passing)
            passing.start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            try:
                ready, _, _ = select.select([client, server], [], [], 0.1)
                for source in ready:
                    data = source.recv(1 << 20)
                    if not data:
                        client.close()
                        server.close()
                        return
                    if source is server:
                        if not self.shut.is_set():
                            client.sendall(data)
                        continue
                    with self._lock:
                        if self.shut.is_set():
                            continue
                        self._left -= 1
                        server.sendall(data)
                        if self._left == 0:
                            self.shut.set()
            except (OSError, ValueError):  # the test is over
                return


def killed_after(desk: Desk, valkey: EmbeddedValkey, speeches: int, *command: str) -> bool:
    """Run a command, and kill it once it has spoken so often; False = it has ended before."""
    valve = Valve(valkey, speeches)
    through = Desk(valve.url, lambda: None)
    through.namespace = desk.namespace
    with through.started(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE
        while not valve.shut.is_set() and process.poll() is None:
            assert time.monotonic() < deadline
            valve.shut.wait(0.01)
        process.send_signal(signal.SIGKILL)
        ended = process.wait(timeout=PATIENCE)
    valve.close()
    return ended == -signal.SIGKILL


@pytest.fixture
def clean(desk: Desk) -> Iterator[Desk]:
    """A desk on a server that knows no job of another test."""
    flush(desk)
    yield desk
    flush(desk)


def flush(desk: Desk) -> None:
    async def work(store: RedisStore) -> None:
        await store.client.flushall()

    desk.ask(work)


def jobs_in(desk: Desk, queue: str) -> list[str]:
    async def work(store: RedisStore) -> list[str]:
        assert isinstance(store.client, Redis)
        return sorted(id.decode() for id in await store.client.zrange(queue, 0, -1))

    return desk.ask(work)


def keep(desk: Desk, number: int) -> None:
    desk.keep(*(arq_letter(each) for each in range(number)))


def states_of(desk: Desk) -> dict[str, int]:
    (found,) = desk("dlq", "queues", "--json").json
    return {name: number for name, number in found.items() if number and name != "queue"}


def dead(desk: Desk) -> int:
    return states_of(desk).get("dead", 0)


def check_requeued(desk: Desk, number: int) -> None:
    """Each letter is requeued once, and its job is in the queue once."""
    assert states_of(desk) == {"requeued": number}
    assert jobs_in(desk, "arq:queue") == [
        f"replay:{desk.namespace}:default:{each:024x}:1" for each in range(number)
    ]
    entries = desk("dlq", "list", "state=all", "--limit", "500", "--json").json["entries"]
    assert [(entry["requeues"], len(entry["replays"])) for entry in entries] == [(1, 1)] * number


def check_cleared(desk: Desk, number: int) -> None:
    assert states_of(desk) == {}
    assert desk("dlq", "list", "state=all", "--json").json["entries"] == []


def check_imported(desk: Desk, number: int) -> None:
    assert states_of(desk) == {"dead": number}
    entries = desk("dlq", "list", "--limit", "500", "--json").json["entries"]
    assert sorted(entry["id"] for entry in entries) == [f"{each:024x}" for each in range(number)]


@pytest.fixture(params=["requeue", "clear", "import"])
def work(request: pytest.FixtureRequest, clean: Desk, tmp_path: Path) -> Work:
    """A command that is killed."""
    file = tmp_path / "letters.jsonl"

    def prepare(number: int) -> tuple[str, ...]:
        flush(clean)
        keep(clean, number)
        if request.param == "import":
            assert clean("dlq", "export", "-o", str(file)).code == 0
            assert clean("dlq", "clear", "--yes").code == 0
            return ("dlq", "import", str(file))
        return ("dlq", "clear", "--yes") if request.param == "clear" else ("dlq", "requeue", "--all", "--yes")

    check = {"requeue": check_requeued, "clear": check_cleared, "import": check_imported}
    return prepare, check[request.param]


def test_killed_at_each_call_it_can_be_completed(clean: Desk, valkey: EmbeddedValkey, work: Work) -> None:
    """Whichever call the server carries out last: the command, run again, does the rest."""
    prepare, check = work
    for speeches in range(1, 100):
        command = prepare(FEW)
        killed = killed_after(clean, valkey, speeches, *command)
        if not killed:
            check(clean, FEW)
            break
        assert clean(*command).code == 0
        check(clean, FEW)
    assert speeches > 3


def test_killed_at_any_moment_it_can_be_completed(clean: Desk, work: Work) -> None:
    """However far it has come: the command, run again and again, does the rest."""
    prepare, check = work
    command = prepare(MANY)
    before = dead(clean)
    for _ in range(4):
        with clean.started(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + PATIENCE
            most = random.randint(1, 60)
            while abs(dead(clean) - before) < most and process.poll() is None:
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGKILL)
        before = dead(clean)
        if command[1] == "requeue":
            assert sum(states_of(clean).values()) == MANY
    assert clean(*command).code == 0
    check(clean, MANY)


@pytest.mark.parametrize(
    "command", [("clear",), ("remove", "error=TimeoutError"), ("prune", "--keep", "0")], ids=" ".join
)
def test_interrupted_it_says_how_far_it_has_come(
    clean: Desk, valkey: EmbeddedValkey, command: tuple[str, ...]
) -> None:
    """Ctrl-C while a server hangs ends the command, with the number of letters that it knows to be gone."""
    keep(clean, MANY)
    for speeches in range(2, 100):
        valve = Valve(valkey, speeches)
        through = Desk(valve.url, lambda: None)
        through.namespace = clean.namespace
        with through.started("dlq", *command, "--yes") as process:
            while not valve.shut.is_set() and process.poll() is None:
                valve.shut.wait(0.01)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        valve.close()
        if "so far: " in err:
            break
    assert process.returncode == 130
    assert "so far: removed " in err
    assert err.endswith("jobguard: interrupted\n")
