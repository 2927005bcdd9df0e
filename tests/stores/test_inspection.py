"""What is read of servers and keys: of real ones, of those that refuse, and of those that talk nonsense."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from jobguard.errors import StoreError, StoreUnavailable
from jobguard.stores import inspection
from jobguard.stores.connecting import connect
from jobguard.stores.inspection import Facts, KeyFacts, ServerFacts, inspect
from jobguard.testing import EmbeddedValkey
from jobguard.testing.valkey import free_port

pytestmark = pytest.mark.anyio

RECORD = "ns:0123456789abcdef0123456789abcdef"


async def inspected(url: str, namespace: str = "ns") -> Facts:
    clients = connect(url, {})
    try:
        return await inspect(clients[0], namespace)
    finally:
        for client in clients:
            await client.aclose()


async def the_server(url: str) -> ServerFacts:
    (facts,) = (await inspected(url)).servers
    return facts


# Servers


async def test_reads_a_servers_own_account(valkey: EmbeddedValkey) -> None:
    """Kind, persistence, memory, role and clock of a server that answers everything."""
    facts = await the_server(valkey.url)
    assert (facts.kind, facts.mode, facts.role, facts.replicas) == ("Valkey", "standalone", "master", 0)
    assert (facts.appends, facts.fsync, facts.fsync_pauses, facts.save) == (False, "everysec", False, "")
    assert (facts.policy, facts.memory_limit, facts.evicted) == ("noeviction", 0, 0)
    assert (facts.replicas_needed, facts.went_back) == (0, False)
    assert facts.offset is not None
    assert abs(facts.offset) < 60
    assert facts.step is not None


async def test_reads_settings() -> None:
    """What differs from the defaults is seen."""
    config = {
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "yes",
        "save": "3600 1 60 10000",
        "maxmemory": "64mb",
        "maxmemory-policy": "volatile-ttl",
        "min-replicas-to-write": "2",
        "min-replicas-max-lag": "7",
    }
    with EmbeddedValkey(config=config) as server:
        facts = await the_server(server.url)
    assert (facts.appends, facts.fsync, facts.fsync_pauses, facts.save) == (
        True,
        "always",
        True,
        "3600 1 60 10000",
    )
    assert (facts.policy, facts.memory_limit) == ("volatile-ttl", 64 << 20)
    assert (facts.replicas_needed, facts.replica_lag) == (2, 7)


async def test_no_lag_allowed_means_that_no_replica_is_needed() -> None:
    """`min-replicas-max-lag 0` switches the other setting off."""
    with EmbeddedValkey(config={"min-replicas-to-write": "2", "min-replicas-max-lag": "0"}) as server:
        assert (await the_server(server.url)).replicas_needed == 0


async def test_does_without_config() -> None:
    """A user who may run INFO, but not CONFIG, sees all that INFO has."""
    config = {
        "user": "default on nopass ~ns:* +@all -@admin -@dangerous +info",
        "appendonly": "yes",
        "min-replicas-to-write": "3",
    }
    with EmbeddedValkey(config=config) as server:
        facts = await the_server(server.url)
    assert (facts.appends, facts.policy, facts.role) == (True, "noeviction", "master")
    assert (facts.fsync, facts.save, facts.replica_lag) == (None, None, None)
    assert facts.replicas_needed == 1  # how many INFO does not say, only that there is a number


async def test_a_user_who_may_do_nothing_learns_nothing() -> None:
    """Where all is refused nothing is known, and that is no error."""
    with EmbeddedValkey(config={"user": "default on nopass -@all +ping"}) as server:
        assert await inspected(server.url) == Facts((ServerFacts(),), None)


async def test_tells_a_replica_from_its_primary() -> None:
    """The one knows that it is a replica, the other how many it has."""
    with EmbeddedValkey(tcp=True, password="p") as primary:
        config = {"replicaof": f"127.0.0.1 {primary.port}", "primaryauth": "p"}
        with EmbeddedValkey(config=config) as replica:
            assert (await the_server(replica.url)).role == "slave"
            async with asyncio.timeout(60):
                while (await the_server(primary.url)).replicas != 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


async def test_knows_a_sentinel_that_was_asked_itself() -> None:
    """A Sentinel is no store, and its INFO says so; it refuses the rest."""
    with EmbeddedValkey(sentinel=True) as sentinel:
        facts = await inspected(sentinel.url)
    assert (facts.servers[0].mode, facts.keys) == ("sentinel", None)


async def test_asks_the_primary_that_a_sentinel_names() -> None:
    """A URL of Sentinels is one server: the primary."""
    with EmbeddedValkey(tcp=True, password="p") as primary:
        config = {
            "requirepass": "p",
            "sentinel monitor": f"prime 127.0.0.1 {primary.port} 1",
            "sentinel auth-pass": "prime p",
        }
        with EmbeddedValkey(tcp=True, password="p", sentinel=True, config=config) as sentinel:
            clients = connect(
                f"redis+sentinel://:p@127.0.0.1:{sentinel.port}/prime", {"sentinel_kwargs": {"password": "p"}}
            )
            facts = await inspect(clients[0], "ns")
            for client in clients:
                await client.aclose()
    assert [(each.role, each.mode) for each in facts.servers] == [("master", "standalone")]


@pytest.fixture
def cluster() -> Iterator[list[EmbeddedValkey]]:
    """Two nodes, each with half of the slots."""
    config = {"cluster-enabled": "yes", "cluster-require-full-coverage": "no", "primaryauth": "p"}
    with (
        EmbeddedValkey(tcp=True, password="p", config={**config, "cluster-port": str(free_port())}) as one,
        EmbeddedValkey(tcp=True, password="p", config={**config, "cluster-port": str(free_port())}) as two,
    ):
        yield [one, two]


async def covers_all_slots(node: Any) -> bool:
    state: dict[str, str] = await node.execute_command("CLUSTER INFO")
    return (state["cluster_state"], state["cluster_slots_assigned"]) == ("ok", "16384")


async def joined(servers: list[EmbeddedValkey]) -> Any:
    """A client of these nodes, once they agree on who has which slots."""
    one, two = servers
    async with Redis.from_url(one.url) as first, Redis.from_url(two.url) as second:
        await first.execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
        await second.execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
        await second.execute_command("CLUSTER SET-CONFIG-EPOCH", 2)
        bus = (await second.config_get("cluster-port"))["cluster-port"]
        await first.execute_command("CLUSTER MEET", "127.0.0.1", two.port, bus)
        async with asyncio.timeout(60):
            for node in (first, second):
                while not await covers_all_slots(node):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
    client: Any = connect(f"redis+cluster://:p@127.0.0.1:{one.port}", {})[0]
    return client


async def test_asks_every_primary_of_a_cluster(cluster: list[EmbeddedValkey]) -> None:
    """Each node tells of itself, and keys of all are looked at."""
    client = await joined(cluster)
    for number in range(20):
        await client.set(f"ns:{number}", "x", px=None if number == 7 else 100_000)
    facts = await inspect(client, "ns")
    assert {each.address for each in facts.servers} == {f"127.0.0.1:{node.port}" for node in cluster}
    assert {each.mode for each in facts.servers} == {"cluster"}
    assert facts.keys == KeyFacts(20, True, 1, ("ns:7",), 0)
    await client.aclose()


async def test_a_node_that_is_away_does_not_hide_the_others(cluster: list[EmbeddedValkey]) -> None:
    """What does not answer is told as that, beside the facts of those that do; keys are left alone then."""
    client = await joined(cluster)
    cluster[1].stop()
    found = await inspect(client, "ns")
    facts = {each.address: each for each in found.servers}
    assert facts[f"127.0.0.1:{cluster[0].port}"].failure is None
    assert "did not answer" in (facts[f"127.0.0.1:{cluster[1].port}"].failure or "")
    assert found.keys is None
    await client.aclose()


async def test_no_server_is_an_outage() -> None:
    """Where nobody listens, the store is out of reach."""
    for url in ("redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1"):
        with pytest.raises(StoreUnavailable):
            await inspected(url)


async def test_a_refused_login_is_a_refusal() -> None:
    """A wrong password is not taken for an outage, and not shown."""
    with EmbeddedValkey(password="right") as server, pytest.raises(StoreError) as refused:
        await inspected(server.url.replace("right", "s3cret"))
    assert not isinstance(refused.value, StoreUnavailable)
    assert "s3cret" not in str(refused.value)


# Keys


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, Any]]:
    """A server of its own, for keys that are not in order, and a client that decodes."""
    with EmbeddedValkey() as server:
        async with Redis.from_url(server.url, decode_responses=True) as client:
            yield server.url, client


async def test_every_key_with_an_end_or_an_owner_is_in_order(server: tuple[str, Any]) -> None:
    """Records and marks that expire, an index, and what it owns; other namespaces do not count."""
    url, client = server
    await client.set(RECORD, "x", px=100_000)
    await client.set("ns:served", "x", px=100_000)
    await client.sadd("ns:dlq", "default")
    await client.hset("{ns:dlq:default}:entries", "id", "x")
    await client.sadd("ns:below:dlq", "q")
    await client.zadd("{ns:below:dlq:q}:by_time", {"id": 1})
    for other in ("nsx:1", "xns:1", "{nsx:dlq:q}:entries", "nsns:1"):
        await client.set(other, "x")
    keys = (await inspected(url)).keys
    assert keys == KeyFacts(6, True, 0, (), 0)


async def test_names_keys_without_end_or_owner(server: tuple[str, Any]) -> None:
    """Some of these are named, in order, and cannot steer a terminal; the others are counted."""
    url, client = server
    await client.sadd("ns:dlq", "known")
    await client.hset("{ns:dlq:unknown}:entries", "id", "x")
    await client.set("ns:\x1b[2J\n", "x")
    for number in range(inspection.NAMES_SHOWN):
        await client.set(f"ns:{number}", "x")
    keys = (await inspected(url)).keys
    assert keys is not None
    assert (keys.looked_at, keys.unowned, len(keys.names)) == (13, 12, inspection.NAMES_SHOWN)
    assert keys.names[:2] == ("ns:\\u001b[2J\\n", "ns:0")
    assert (await inspect(client, "ns")).keys == keys


async def test_the_name_of_a_namespace_is_no_pattern(server: tuple[str, Any]) -> None:
    """Stars and brackets in it stand for themselves."""
    url, client = server
    await client.set("n*[s]:left", "x")
    await client.set("nanything s:left", "x")
    assert (await inspected(url, "n*[s]")).keys == KeyFacts(1, True, 1, ("n*[s]:left",), 0)


async def test_an_index_that_is_none_leaves_owners_unknown(server: tuple[str, Any]) -> None:
    """Where something else has the index's name, nobody can say whether letters are owned."""
    url, client = server
    await client.set("ns:dlq", "no set")
    await client.hset("{ns:dlq:q}:entries", "id", "x")
    assert (await inspected(url)).keys == KeyFacts(2, True, 0, (), 2)


async def test_keys_that_a_user_may_not_read_are_counted(server: tuple[str, Any]) -> None:
    """SCAN shows the names of keys that are out of a user's reach; nothing is said of these."""
    url, client = server
    await client.set("ns:mine", "x", px=100_000)
    await client.set("ns:theirs", "x")
    await client.execute_command("ACL SETUSER", "few", "on", "nopass", "~ns:mine", "+@all")
    assert (await inspected(url.replace("unix://", "unix://few:x@"))).keys == KeyFacts(2, True, 0, (), 1)


async def test_no_more_keys_than_the_limit_are_looked_at(
    server: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it, the rest is left alone, and told as that."""
    url, client = server
    monkeypatch.setattr(inspection, "KEY_LIMIT", 5)
    monkeypatch.setattr(inspection, "STRIDE", 10)
    for number in range(5):
        await client.set(f"ns:{number}", "x", px=100_000)
    assert (await inspected(url)).keys == KeyFacts(5, True, 0, (), 0)
    for number in range(5, 200):
        await client.set(f"ns:{number}", "x", px=100_000)
        if number in (5, 199):
            assert (await inspected(url)).keys == KeyFacts(5, False, 0, (), 0)


# Servers that talk nonsense

Reply = bytes | Callable[[], bytes]


@asynccontextmanager
async def scripted(path: Path, replies: Mapping[str, Reply], otherwise: bytes) -> AsyncIterator[str]:
    """The URL of a server that has one answer per command."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while header := await reader.readline():
                words: list[bytes] = []
                for _ in range(int(header[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                reply = replies.get(words[0].decode().upper(), otherwise)
                writer.write(reply if isinstance(reply, bytes) else reply())
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_unix_server(serve, str(path / "s"))
    try:
        yield f"unix://{path / 's'}?protocol=2"
    finally:
        listener.close()


@pytest.fixture
def path(valkey: EmbeddedValkey) -> Path:
    """A directory whose name is short enough for a socket."""
    path = valkey.directory / "nonsense"
    path.mkdir(exist_ok=True)
    return path


@pytest.mark.parametrize(
    "reply",
    [
        b":1\r\n",
        b"*0\r\n",
        b"$-1\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b"$3\r\nyes\r\n",
        b"$7\r\na:b=c,d\r\n",
        b"-NO\r\n",
    ],
)
async def test_replies_of_a_wrong_shape_are_no_facts(path: Path, reply: bytes) -> None:
    """Whatever a server says to everything, it is no crash, and nothing is taken for known."""
    async with scripted(path, {"CLIENT": b"+OK\r\n"}, reply) as url:
        facts = await inspected(url)
    (told,) = facts.servers
    unread_clock: dict[str, Any] = {"time": None, "offset": None, "offset_error": 0.0, "step": None}
    assert replace(told, **unread_clock) == ServerFacts()  # two numbers are a time, a text is two numbers
    assert facts.keys is None


def told_clock(*seconds: int) -> Callable[[], bytes]:
    readings = itertools.chain(seconds, itertools.repeat(seconds[-1]))
    return lambda: b"*2\r\n$10\r\n%d\r\n$1\r\n0\r\n" % next(readings)


@pytest.mark.parametrize(
    ("readings", "step", "back"),
    [((1_800_000_000, 1_799_999_000), -1000, True), ((10**9, 10**9 + 50), 50, False)],
)
async def test_sees_a_clock_that_steps(path: Path, readings: tuple[int, ...], step: int, back: bool) -> None:
    """Two reads tell by how much the server's clock moved more than ours."""
    async with scripted(path, {"TIME": told_clock(*readings)}, b"-NO\r\n") as url:
        facts = await the_server(url)
    assert facts.step == pytest.approx(step, abs=30)
    assert facts.went_back is back


async def test_a_clock_beyond_all_measure_is_none(path: Path) -> None:
    """A time that no clock shows is not calculated with."""
    async with scripted(path, {"TIME": b"*2\r\n$30\r\n%s\r\n$1\r\n0\r\n" % (b"9" * 30)}, b"-NO\r\n") as url:
        assert (await the_server(url)).time is None


async def test_texts_of_a_server_are_cut_and_escaped(path: Path) -> None:
    """What a server calls its settings steers no terminal and floods none."""
    text = b"\x1b]0;x\x07\n" + b"y" * 100_000
    setting = b"*2\r\n$11\r\nappendfsync\r\n$%d\r\n%s\r\n" % (len(text), text)
    async with scripted(path, {"CONFIG": setting}, b"-NO\r\n") as url:
        fsync = (await the_server(url)).fsync
    assert fsync is not None
    assert fsync.startswith("\\u001b]0;x\\u0007\\n")
    assert len(fsync) < 300


async def test_a_scan_without_end_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose cursor never comes back to 0 does not keep the caller."""
    monkeypatch.setattr(inspection, "STRIDES", 30)
    async with scripted(path, {"SCAN": b"*2\r\n$1\r\n1\r\n*0\r\n"}, b"-NO\r\n") as url:
        assert (await inspected(url)).keys == KeyFacts(0, False, 0, (), 0)


async def test_a_connection_that_is_lost_midway_is_an_outage(path: Path) -> None:
    """Where the only server goes away, half of the facts are none."""

    def hang_up() -> bytes:
        raise ConnectionError

    async with scripted(path, {"SCAN": hang_up}, b"-NO\r\n") as url:
        with pytest.raises(StoreUnavailable):
            await inspected(url)


async def test_what_is_no_redis_is_refused(path: Path) -> None:
    """A server that speaks HTTP is told as that, in the words of redis-py."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_unix_server(serve, str(path / "http")):
        with pytest.raises(StoreError) as refused:
            await inspected(f"unix://{path / 'http'}")
    assert "protocol" in str(refused.value).lower()
