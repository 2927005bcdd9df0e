"""Clusters, Sentinels, TLS, users, and the URLs that lead to them."""

from __future__ import annotations

import asyncio
import gc
import ssl
import traceback
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import trustme
from arq.connections import RedisSettings
from arq.worker import create_worker
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from jobguard import JobGuard, dead_letter, deduplicated
from jobguard.adapters.arq import create_pool, protect
from jobguard.cli.app import run
from jobguard.errors import InvalidType, InvalidValue, StoreUnavailable
from jobguard.stores import RedisStore
from jobguard.stores.base import Claim, Verdict
from jobguard.stores.letters import Dimension, Entry, LetterQuery, LetterQueue, LetterState
from jobguard.testing import EmbeddedValkey, StoreContract
from jobguard.testing.valkey import free_port
from tests.stores.conftest import Wire

pytestmark = pytest.mark.anyio

LETTER = Entry("a", LetterState.DEAD, "send", "E", "f", "key", "text")
NODES = 3
SLOTS = 16384


async def cluster_is_up(server: EmbeddedValkey) -> bool:
    async with Redis.from_url(server.url) as client:
        state: dict[str, str] = await client.execute_command("CLUSTER INFO")
        return state["cluster_state"] == "ok" and state["cluster_known_nodes"] == str(NODES)


@pytest.fixture(scope="session")
def cluster() -> Iterator[list[EmbeddedValkey]]:
    """Three nodes that share the slots."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                EmbeddedValkey(
                    tcp=True,
                    password="cluster",
                    config={
                        "cluster-enabled": "yes",
                        "cluster-port": str(free_port()),
                        "cluster-announce-ip": "127.0.0.1",
                        "primaryauth": "cluster",
                    },
                )
            )
            for _ in range(NODES)
        ]
        asyncio.run(join(servers))
        yield servers


async def join(servers: list[EmbeddedValkey]) -> None:
    bounds = [SLOTS * number // NODES for number in range(NODES + 1)]
    for number, server in enumerate(servers):
        async with Redis.from_url(server.url) as client:
            await client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            await client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
    async with Redis.from_url(servers[0].url) as client:
        for server in servers[1:]:
            async with Redis.from_url(server.url) as other:
                bus = (await other.config_get("cluster-port"))["cluster-port"]
            await client.execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus)
    async with asyncio.timeout(60):
        while not all([await cluster_is_up(server) for server in servers]):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def cluster_url(servers: list[EmbeddedValkey]) -> str:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"redis+cluster://:cluster@{hosts}"


class TestCluster(StoreContract):
    """The whole contract on a Cluster, through a URL."""

    @pytest.fixture
    async def store(self, cluster: list[EmbeddedValkey]) -> AsyncIterator[RedisStore]:
        store = RedisStore.from_url(cluster_url(cluster))
        yield store
        await store.aclose()

    async def test_routes_a_batch_by_slot(self, store: RedisStore, cluster: list[EmbeddedValkey]) -> None:
        """Operations of one tick reach the node of their key, each node some of them."""
        keys = [f"spread:{number}" for number in range(300)]
        replies = await asyncio.gather(*(store.claim(Claim(key, "one", key, 60.0, 60.0)) for key in keys))
        assert {reply.verdict for reply in replies} == {Verdict.GRANTED}
        for server in cluster:
            async with Redis.from_url(server.url) as client:
                assert await client.dbsize() > 50

    def test_goes_on_after_every_task_was_cancelled(self, cluster: list[EmbeddedValkey]) -> None:
        """Somebody cancels all tasks of the event loop, at any tick: the store answers again."""

        async def cancelled_after(ticks: int) -> None:
            store = RedisStore.from_url(cluster_url(cluster))
            keys = [f"cancelled:{ticks}:{number}" for number in range(3)]
            tasks = [asyncio.ensure_future(store.look_up(key)) for key in keys]
            for _ in range(ticks):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.wait(tasks)
            async with asyncio.timeout(20):
                assert await store.look_up(keys[0]) is None
                await store.aclose()

        for ticks in range(12):
            asyncio.run(cancelled_after(ticks))

    async def test_relearns_scripts_on_every_node(
        self, store: RedisStore, cluster: list[EmbeddedValkey]
    ) -> None:
        """Nodes that have lost their scripts learn them again."""
        for server in cluster:
            async with Redis.from_url(server.url) as client:
                await client.script_flush()
        keys = [f"relearn:{number}" for number in range(60)]
        replies = await asyncio.gather(*(store.claim(Claim(key, "one", key, 60.0, 60.0)) for key in keys))
        assert {reply.verdict for reply in replies} == {Verdict.GRANTED}

    async def test_takes_a_cluster_client(self, cluster: list[EmbeddedValkey]) -> None:
        """A client that was handed in works like a URL, and stays open."""
        nodes = [ClusterNode("127.0.0.1", server.port or 0) for server in cluster]
        async with RedisCluster(startup_nodes=nodes, password="cluster", decode_responses=True) as client:
            store = RedisStore(client)
            assert (await store.letters.put(LetterQueue("handed-in", "q"), LETTER)).new is True
            assert await store.letters.queues("handed-in") == ["q"]
            await store.aclose()
            assert await client.ping()


@pytest.fixture
def sentinel() -> Iterator[EmbeddedValkey]:
    """A Sentinel that watches one primary, with a password."""
    with EmbeddedValkey(tcp=True, password="primary") as primary:
        config = {
            "requirepass": "sentinel",
            "sentinel monitor": f"prime 127.0.0.1 {primary.port} 1",
            "sentinel auth-pass": "prime primary",
        }
        with EmbeddedValkey(tcp=True, password="sentinel", sentinel=True, config=config) as server:
            yield server


async def test_finds_the_primary_through_a_sentinel(sentinel: EmbeddedValkey) -> None:
    """A URL of Sentinels leads to the primary that they name."""
    store = RedisStore.from_url(
        f"redis+sentinel://:primary@127.0.0.1:{sentinel.port}/prime/0",
        sentinel_kwargs={"password": "sentinel"},
    )
    assert (await store.claim(Claim("k", "one", "t", 60.0, 60.0))).verdict is Verdict.GRANTED
    await store.aclose()


async def test_takes_a_sentinels_client(sentinel: EmbeddedValkey) -> None:
    """A client made by redis-py's Sentinel works like any other."""
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        [("127.0.0.1", sentinel.port)], sentinel_kwargs={"password": "sentinel"}, password="primary"
    )
    async with sentinels.master_for("prime") as client:
        reply = await RedisStore(client).claim(Claim("k", "one", "t", 60.0, 60.0))
        assert reply.verdict is Verdict.GRANTED
    for each in sentinels.sentinels:
        await each.aclose()


async def test_speaks_tls_with_a_user_of_few_rights(tmp_path: Path) -> None:
    """`rediss://` with a certificate and a user that may do no more than the store does."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    config = {
        "user": "worker on >p%ss/w@rd ~jobguard:* ~{jobguard:* -@all +evalsha +eval +get +set +pttl +time "
        "+pexpire +del +hget +hset +hmget +hdel +hincrby +sadd +smembers +zadd +zincrby +zrem +zcard +zcount "
        "+zscore +zrangebyscore +zrevrange +zrevrangebyscore",
    }
    with EmbeddedValkey(password="admin", config=config) as server:
        # The embedded server is built without TLS, so something before it speaks it.
        wire = Wire(server.socket_path, tmp_path)
        port = await wire.open_tls(context)
        store = RedisStore.from_url(
            f"rediss://worker:p%25ss%2Fw%40rd@127.0.0.1:{port}/0", ssl_ca_certs=str(tmp_path / "ca.pem")
        )
        await use_everything(store)
        await store.aclose()
        await wire.close()


async def use_everything(store: RedisStore) -> None:
    queue = LetterQueue("jobguard", "default")
    assert (await store.claim(Claim("jobguard:k", "one", "t", 60.0, 60.0))).verdict is Verdict.GRANTED
    assert await store.look_up("jobguard:k") is not None
    assert await store.forget("jobguard:k") is True
    letters = store.letters
    assert (await letters.put(queue, LETTER)).new is True
    assert (await letters.put(queue, LETTER._replace(id="b"), 1000)).new is True
    entry = await letters.get(queue, "a")
    assert entry is not None
    assert await letters.replace(queue, entry, arrive=True) is not None
    assert await letters.find(queue, "key") == await letters.get(queue, "a")
    for oldest_first in (False, True):
        page = await letters.page(
            queue, LetterQuery(None, task="send", error="E"), 5, oldest_first=oldest_first
        )
        assert len(page.entries) == 2
    assert await letters.count(queue, LetterQuery()) == 2
    assert len(await letters.tally(queue, Dimension.FINGERPRINT, since=0) or ()) == 1
    assert await letters.remove(queue, [("a", None)], evicted=True) == [True]
    assert (await letters.totals(queue)).evicted == 1
    assert await letters.queues("jobguard") == ["default"]
    await store.announce("jobguard", ["send"], 60.0)
    assert await store.served("jobguard", "send") is True


# --- a worker and the command there ----------------------------------------------------------


@deduplicated(key="{order}")
@dead_letter
async def pay(ctx: dict[Any, Any], order: str) -> str:
    if order == "bad":
        raise ValueError(order)
    return f"{order} paid"


async def work_there(redis_settings: RedisSettings) -> None:
    """Enqueue two jobs and let a protected worker of stock ARQ end them, one as a dead letter."""
    pool = await create_pool(redis_settings)
    good, bad = [await pool.enqueue_job("pay", order) for order in ("good", "bad")]
    assert good is not None
    assert bad is not None
    settings = {
        "functions": [pay],
        "redis_settings": redis_settings,
        "burst": True,
        "poll_delay": 0.02,
        "handle_signals": False,
    }
    worker = create_worker(protect(settings))
    async with asyncio.timeout(30):
        await worker.async_run()
    used = worker.pool
    await worker.close()
    await close_sentinels(used)
    assert await good.result(timeout=20) == "good paid"
    with pytest.raises(ValueError, match="bad"):
        await bad.result(timeout=20)
    await pool.aclose()
    await close_sentinels(pool)


async def close_sentinels(pool: Redis) -> None:
    """Close the connections to Sentinels that ARQ made and keeps no hold of."""
    manager = getattr(pool.connection_pool, "sentinel_manager", None)
    for each in [] if manager is None else manager.sentinels:
        await each.aclose()


async def command(*words: str) -> int:
    """The exit code of the command, which runs an event loop of its own."""

    def run_and_end() -> int:
        # A TLS connection takes a few ticks to close, for which the loop of a command that has failed does
        # not stay; the end of its process would do that.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            code = run(words)
            gc.collect()
        return code

    return await asyncio.get_running_loop().run_in_executor(None, run_and_end)


class Tls(NamedTuple):
    """A server behind TLS: where, who signed its certificate, and for whom."""

    port: int
    authority: str
    other_authority: str

    @property
    def url(self) -> str:
        return f"rediss://:s3cr3t@127.0.0.1:{self.port}/0?ssl_ca_certs={self.authority}"

    def settings(self, **changes: Any) -> RedisSettings:
        values: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "password": "s3cr3t",
            "ssl": True,
            "ssl_ca_certs": self.authority,
            "ssl_check_hostname": True,
            "conn_retries": 0,
        }
        return RedisSettings(**(values | changes))


@pytest.fixture
async def tls(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Tls]:
    """A server with a password behind TLS; its certificate is for 127.0.0.1, or what a test names."""
    paths = [tmp_path / name for name in ("ca.pem", "other.pem")]
    authorities = [trustme.CA() for _ in paths]
    for path, authority in zip(paths, authorities, strict=True):
        authority.cert_pem.write_to_path(str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authorities[0].issue_cert(getattr(request, "param", "127.0.0.1")).configure_cert(context)
    with EmbeddedValkey(password="s3cr3t") as server:
        wire = Wire(server.socket_path, tmp_path)
        port = await wire.open_tls(context)
        yield Tls(port, *map(str, paths))
        await wire.close()


async def test_a_worker_and_the_command_work_through_tls(
    tls: Tls, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs, claims and dead letters over `ssl=True` and `rediss://`."""
    await work_there(tls.settings())
    assert await command("dlq", "count", "--url", tls.url) == 0
    out, err = capsys.readouterr()
    assert out == "1\n"
    assert "s3cr3t" not in err
    assert await command("doctor", "--url", tls.url) in (0, 6)
    assert "s3cr3t" not in "".join(capsys.readouterr())


async def refused_by_all(tls: Tls, url: str, capsys: pytest.CaptureFixture[str], **changes: Any) -> None:
    """A store, the command and ARQ refuse the server, say why, and show no password."""
    store = RedisStore.from_url(url)
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate") as refused:
        await store.look_up("k")
    await store.aclose()
    assert "s3cr3t" not in "".join(traceback.format_exception(refused.value))
    assert await command("dlq", "count", "--url", url) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "certificate" in err.lower()
    assert "s3cr3t" not in err
    with pytest.raises((OSError, RedisError), match=r"(?i)certificate"):
        await create_pool(tls.settings(**changes))


async def test_a_server_of_another_authority_is_refused(tls: Tls, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever signs certificates of their own is no server of ours."""
    url = tls.url.replace(tls.authority, tls.other_authority)
    await refused_by_all(tls, url, capsys, ssl_ca_certs=tls.other_authority)


@pytest.mark.parametrize("tls", ["elsewhere.example"], indirect=True)
async def test_a_server_of_another_name_is_refused(tls: Tls, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate of a trusted authority is not enough: it must be this server's."""
    await refused_by_all(tls, tls.url, capsys)


@pytest.mark.parametrize("tls", ["elsewhere.example"], indirect=True)
@pytest.mark.parametrize("setting", ["ssl_cert_reqs=none", "ssl_check_hostname=false"])
async def test_a_name_can_be_left_unchecked(tls: Tls, setting: str) -> None:
    """Where a URL says so."""
    store = RedisStore.from_url(f"{tls.url}&{setting}")
    assert await store.look_up("k") is None
    await store.aclose()


@pytest.fixture
async def open_sentinel(sentinel: EmbeddedValkey) -> EmbeddedValkey:
    """A Sentinel that asks for no password: ARQ has none to give it."""
    async with Redis.from_url(sentinel.url) as client:
        await client.execute_command("ACL", "SETUSER", "default", "nopass")
    return sentinel


async def test_a_worker_and_the_command_work_through_a_sentinel(
    open_sentinel: EmbeddedValkey, capsys: pytest.CaptureFixture[str]
) -> None:
    """`RedisSettings(sentinel=True)`, and a URL of Sentinels."""
    port = open_sentinel.port
    assert port is not None
    where: dict[str, Any] = {"host": [("127.0.0.1", port)], "sentinel": True, "sentinel_master": "prime"}
    await work_there(RedisSettings(**where, password="primary", conn_retries=0))
    url = f"redis+sentinel://:primary@127.0.0.1:{port}/prime/0"
    assert await command("dlq", "count", "--url", url) == 0
    out, err = capsys.readouterr()
    assert out == "1\n"
    assert "primary@" not in err
    assert await command("doctor", "--url", url) in (0, 6)


async def test_the_command_works_on_a_cluster(
    cluster: list[EmbeddedValkey], capsys: pytest.CaptureFixture[str]
) -> None:
    """Letters are put, counted, moved to another queue and removed there, and all servers looked at."""
    url = cluster_url(cluster)
    namespace = f"command-{uuid.uuid4().hex}"
    store = RedisStore.from_url(url)
    guard = JobGuard(store, namespace=namespace)
    async with guard:
        for order in ("bad", "bad"):
            with pytest.raises(ValueError, match="bad"):
                await pay({}, order)
    await store.aclose()
    where = ("--url", url, "--namespace", namespace)
    assert await command("dlq", "count", *where) == 0
    out, err = capsys.readouterr()
    assert out == "2\n"
    for words in (("list",), ("stats",), ("groups",), ("queues",), ("clear", "--yes")):
        assert await command("dlq", *words, *where) == 0
    assert await command("doctor", *where) in (0, 6)
    out, err = capsys.readouterr()
    assert ":cluster@" not in out + err


@pytest.mark.parametrize("scheme", ["redis+sentinel", "redis+cluster", "rediss", "redis"])
async def test_a_wrong_password_is_told_and_not_shown(
    scheme: str, open_sentinel: EmbeddedValkey, cluster: list[EmbeddedValkey], tls: Tls,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """In a line, with no traceback."""
    url = {
        "redis+sentinel": f"redis+sentinel://:wr0ng@127.0.0.1:{open_sentinel.port}/prime/0",
        "redis+cluster": cluster_url(cluster).replace(":cluster@", ":wr0ng@"),
        "rediss": tls.url.replace("s3cr3t", "wr0ng"),
        "redis": f"redis://:wr0ng@127.0.0.1:{cluster[0].port}/0",
    }[scheme]
    assert await command("dlq", "count", "--url", url) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jobguard: ")
    assert "wr0ng" not in err


async def test_closes_a_client_of_its_own(valkey: EmbeddedValkey) -> None:
    """What `from_url` opened, `aclose` closes."""
    store = RedisStore.from_url(valkey.url, client_name="closing")
    await store.look_up("closing")
    await store.aclose()
    async with Redis.from_url(valkey.url) as client:
        async with asyncio.timeout(20):
            while "closing" in {each["name"] for each in await client.client_list()}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", "no scheme"),
        ("http://localhost", "scheme 'http'"),
        ("redis://", "needs a host"),
        ("redis://host:port", "needs a host"),
        ("redis://host:70000", "70000 is not a port"),
        ("redis://host/database", "a database that is a number"),
        ("redis://host?socket_timeout=soon", "socket_timeout"),
        ("unix://", "no socket"),
        ("redis+sentinel://host:1", "no master"),
        ("redis+sentinel:///master", "'' is not host:port"),
        ("redis+sentinel://host/master/first", "'first' is not a number"),
        ("redis+cluster://host/3", "no database but 0"),
        ("redis+cluster://host:1,host:x", "'host:x' is not host:port"),
        ("redis+cluster://host?ssl=1", "options of from_url"),
    ],
)
def test_refuses_a_url_that_cannot_work(url: str, reason: str) -> None:
    """Each bad URL is refused with what is wrong and what would be right."""
    with pytest.raises(InvalidValue) as caught:
        RedisStore.from_url(url)
    assert reason in str(caught.value)
    assert "redis://host:6379/0" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:s3cr3t@host:port",
        "http://user:s3cr3t@host",
        "redis://user:s3cr3t/x@y@host:port",
        "redis+sentinel://user:s3cr3t@host",
        "redis+cluster://:s3cr3t@host/3",
        "ftp://host?password=s3cr3t",
        "user:s3cr3t@host",
    ],
)
def test_hides_the_password_of_a_url(url: str) -> None:
    """No error shows a password, however odd the URL around it is."""
    with pytest.raises(InvalidValue) as caught:
        RedisStore.from_url(url)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_refuses_a_url_that_is_no_text() -> None:
    """A client or bytes handed to from_url is a type error."""
    with pytest.raises(InvalidType, match="url must be text"):
        RedisStore.from_url(b"redis://host")  # type: ignore[arg-type]


def test_shows_no_credentials_of_itself() -> None:
    """A store's repr names its kind of client only."""
    store = RedisStore.from_url("redis://user:s3cr3t@localhost:1/0")
    assert repr(store) == "RedisStore(Redis)"


@pytest.mark.parametrize("client", ["redis://:secret@localhost", redis.Redis()])
def test_what_is_no_asyncio_client_is_refused(client: object) -> None:
    """A URL, or redis-py's blocking client, is an error that names the cure and no password."""
    with pytest.raises(InvalidType, match="from_url") as refused:
        RedisStore(client)  # type: ignore[arg-type]
    assert "secret" not in str(refused.value)
