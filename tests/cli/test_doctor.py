"""`jobguard doctor`: what it says of servers, and what facts mean."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from jobguard.cli.app import run
from jobguard.cli.diagnosis import Diagnosis, Finding, Guarantee, Holds, Status, diagnose
from jobguard.stores.inspection import Facts, KeyFacts, ServerFacts
from jobguard.testing import EmbeddedValkey
from tests.cli.conftest import Desk, Ended

SOUND: dict[str, Any] = {
    "kind": "Valkey",
    "version": "9.0.0",
    "mode": "standalone",
    "role": "master",
    "replicas": 0,
    "replicas_needed": 0,
    "replica_lag": 10,
    "appends": True,
    "fsync": "always",
    "fsync_pauses": False,
    "save": "",
    "snapshot_status": "ok",
    "rewrite_status": "ok",
    "append_status": "ok",
    "snapshot_time": 1000,
    "policy": "noeviction",
    "memory_limit": 1000,
    "memory_used": 100,
    "evicted": 0,
    "time": 2000.0,
    "offset": 0.0,
    "step": 0.0,
}
"""What is known of a server on which everything holds."""
PAGE = Path(__file__).parent.parent.parent / "docs" / "guides" / "doctor.md"
KEYS = KeyFacts(3, True, 0, (), 0)

CRASH, FAILOVER, MEMORY, ONCE = "over a crash", "over a failover", "thrown away", "No two runs"
WRITES = "can be written"


def sound(**different: Any) -> ServerFacts:
    return ServerFacts(**(SOUND | different))


def diagnosed(*servers: ServerFacts, keys: KeyFacts | None = KEYS) -> Diagnosis:
    return diagnose(Facts(servers, keys))


def the_finding(diagnosis: Diagnosis, name: str) -> Finding:
    [finding] = [each for each in diagnosis.findings if each.name == name]
    return finding


def the_guarantee(diagnosis: Diagnosis, part: str) -> Guarantee:
    [guarantee] = [each for each in diagnosis.guarantees if part in each.promise]
    return guarantee


def cures(diagnosis: Diagnosis) -> list[str]:
    return [each.cure for each in diagnosis.findings] + [each.cure for each in diagnosis.guarantees]


# What facts mean


def test_all_is_well_on_a_sound_server() -> None:
    """Every finding is ok, every guarantee holds, and nothing wants a cure."""
    diagnosis = diagnosed(sound())
    assert {finding.status for finding in diagnosis.findings} == {Status.OK}
    assert {guarantee.holds for guarantee in diagnosis.guarantees} == {Holds.YES}
    assert cures(diagnosis) == [""] * 11


def test_what_is_not_known_is_called_unknown() -> None:
    """Without any fact, nothing is called well and nothing broken, and each says what would help."""
    diagnosis = diagnosed(ServerFacts(), keys=None)
    assert {finding.status for finding in diagnosis.findings} == {Status.UNKNOWN}
    assert {guarantee.holds for guarantee in diagnosis.guarantees} == {Holds.UNKNOWN}
    assert all(cures(diagnosis))


@pytest.mark.parametrize(
    ("name", "different", "status", "found"),
    [
        ("server", {"kind": "Redis", "version": "7.2.4"}, Status.OK, "Redis 7.2.4"),
        ("server", {"kind": "Redis", "version": "6.0.16"}, Status.WARN, "Redis 6.0.16"),
        ("server", {"kind": "Redis", "version": "x"}, Status.WARN, "Redis x"),
        ("server", {"mode": "sentinel"}, Status.FAIL, "sentinel"),
        ("server", {"mode": "cluster"}, Status.FAIL, "cluster"),
        ("server", {"mode": "cluster", "address": "a:1"}, Status.OK, "cluster"),
        ("server", {"failure": "it is away"}, Status.FAIL, "it is away"),
        ("persistence", {"fsync": "everysec"}, Status.OK, "appendfsync everysec"),
        ("persistence", {"fsync": "no"}, Status.FAIL, "appendfsync no"),
        ("persistence", {"fsync": None}, Status.UNKNOWN, "appendfsync unknown"),
        ("persistence", {"fsync_pauses": True}, Status.WARN, "no-appendfsync-on-rewrite yes"),
        ("persistence", {"append_status": "err"}, Status.FAIL, "last write to the log: err"),
        ("persistence", {"rewrite_status": "err"}, Status.WARN, "last rewrite of the log: err"),
        ("persistence", {"snapshot_status": "err"}, Status.WARN, "last snapshot: err"),
        ("persistence", {"appends": False}, Status.FAIL, "appendonly no, no snapshots"),
        ("persistence", {"appends": False, "save": None}, Status.FAIL, "snapshots unknown"),
        ("persistence", {"appends": False, "save": "60 1"}, Status.FAIL, "the last 1000 s ago"),
        ("memory", {"policy": "allkeys-lru"}, Status.FAIL, "allkeys-lru"),
        ("memory", {"policy": "volatile-lru", "memory_limit": 0}, Status.WARN, "without limit"),
        (
            "memory",
            {"policy": "volatile-lru", "memory_limit": 0, "evicted": 3},
            Status.FAIL,
            "3 keys evicted",
        ),
        ("memory", {"policy": "volatile-lru", "memory_limit": None}, Status.FAIL, "maxmemory unknown"),
        ("memory", {"evicted": 3}, Status.WARN, "3 keys evicted"),
        ("memory", {"memory_used": 950}, Status.WARN, "950 B used"),
        ("memory", {"memory_used": None}, Status.OK, "maxmemory 1000 B"),
        ("replication", {"role": "slave"}, Status.FAIL, "role replica"),
        ("replication", {"role": "odd"}, Status.FAIL, "role odd"),
        ("replication", {"replicas": 1}, Status.WARN, "1 replica, min-replicas-to-write 0"),
        ("replication", {"replicas": 2, "replicas_needed": 1}, Status.OK, "min-replicas-max-lag 10"),
        ("replication", {"replicas": 2, "replicas_needed": None}, Status.UNKNOWN, "unknown"),
        ("replication", {"replicas": 1, "replicas_needed": 2}, Status.FAIL, "1 replica,"),
        ("replication", {"replicas": None}, Status.OK, "replicas unknown"),
        ("clock", {"offset": -5.0}, Status.WARN, "5.0 s behind this machine"),
        ("clock", {"offset": 5.0}, Status.WARN, "5.0 s ahead of this machine"),
        ("clock", {"offset": 5.0, "offset_error": 4.5}, Status.OK, "5.0 s ahead"),
        ("clock", {"step": -3.0}, Status.FAIL, "stepped by -3.000 s"),
        ("clock", {"step": 3.0}, Status.FAIL, "stepped by +3.000 s"),
        ("clock", {"went_back": True}, Status.FAIL, "stepped"),
    ],
)
def test_what_a_fact_is_called(name: str, different: dict[str, Any], status: Status, found: str) -> None:
    """A fact that differs from a sound server's, and the finding that it makes; what is amiss has a cure."""
    finding = the_finding(diagnosed(sound(**different)), name)
    assert finding.status is status
    assert found in finding.found
    assert finding.meaning
    assert bool(finding.cure) is (status is not Status.OK)


@pytest.mark.parametrize(
    ("keys", "status", "found"),
    [
        (KeyFacts(10_000, False, 0, (), 0), Status.OK, "10000 looked at, not all that there are"),
        (KeyFacts(5, True, 2, ("ns:a", "ns:b"), 0), Status.WARN, "an owner: ns:a, ns:b"),
        (KeyFacts(5, True, 4, ("ns:a", "ns:b"), 0), Status.WARN, "ns:b and 2 more"),
        (KeyFacts(5, True, 0, (), 2), Status.UNKNOWN, "2 could not be asked after"),
    ],
)
def test_what_keys_are_called(keys: KeyFacts, status: Status, found: str) -> None:
    """Keys that stay for ever are a warning, and no guarantee depends on them."""
    diagnosis = diagnosed(sound(), keys=keys)
    finding = the_finding(diagnosis, "keys")
    assert finding.status is status
    assert found in finding.found
    assert {guarantee.holds for guarantee in diagnosis.guarantees} == {Holds.YES}


@pytest.mark.parametrize(
    ("promise", "different", "holds", "because"),
    [
        (WRITES, {"role": "slave"}, Holds.NO, "role replica"),
        (WRITES, {"mode": "sentinel"}, Holds.NO, "sentinel"),
        (WRITES, {"append_status": "err"}, Holds.NO, "cannot write its log"),
        (WRITES, {"replicas": 1}, Holds.YES, "primary"),
        (WRITES, {"replicas": 1, "replicas_needed": 2}, Holds.NO, "1 replica"),
        (WRITES, {"failure": "gone"}, Holds.NO, "does not answer"),
        (CRASH, {"appends": False}, Holds.NO, "appendonly is no"),
        (CRASH, {"fsync": "no"}, Holds.NO, "appendfsync is no"),
        (CRASH, {"fsync": "everysec"}, Holds.BOUNDED, "the last second"),
        (CRASH, {"fsync_pauses": True}, Holds.BOUNDED, "no-appendfsync-on-rewrite"),
        (CRASH, {"fsync": None}, Holds.UNKNOWN, "appendfsync is not known"),
        (FAILOVER, {"role": "slave"}, Holds.UNKNOWN, "only a primary"),
        (FAILOVER, {"replicas": 1}, Holds.NO, "min-replicas-to-write is 0"),
        (FAILOVER, {"replicas": 1, "replicas_needed": None}, Holds.UNKNOWN, "not known"),
        (FAILOVER, {"replicas": 1, "replicas_needed": 1}, Holds.BOUNDED, "the last 10 s"),
        (FAILOVER, {"replicas": 1, "replicas_needed": 1, "replica_lag": None}, Holds.BOUNDED, "max-lag"),
        (MEMORY, {"policy": "allkeys-lfu"}, Holds.NO, "allkeys-lfu"),
        (MEMORY, {"policy": "allkeys-lfu", "memory_limit": 0}, Holds.YES, "no limit"),
        (ONCE, {"step": -3.0}, Holds.NO, "clock stepped"),
        (ONCE, {"offset": None}, Holds.UNKNOWN, "cannot be read"),
        (ONCE, {"appends": False}, Holds.NO, "records being kept, and appendonly is no"),
        (ONCE, {"policy": "allkeys-lfu"}, Holds.NO, "records being kept, and maxmemory-policy"),
        (ONCE, {"fsync": "everysec"}, Holds.BOUNDED, "the last second"),
    ],
)
def test_which_guarantee_holds(promise: str, different: dict[str, Any], holds: Holds, because: str) -> None:
    """One fact that differs from a sound server's, and what becomes of a promise, and why."""
    guarantee = the_guarantee(diagnosed(sound(**different)), promise)
    assert guarantee.holds is holds
    assert because in guarantee.because


def test_a_cluster_is_as_good_as_its_worst_server() -> None:
    """One node that forgets breaks the promise, and both finding and guarantee name it."""
    nodes = [sound(address=f"h:{port}", mode="cluster") for port in (1, 2)]
    diagnosis = diagnosed(*nodes, sound(address="h:3", mode="cluster", appends=False))
    finding, guarantee = the_finding(diagnosis, "persistence"), the_guarantee(diagnosis, CRASH)
    assert (finding.status, finding.found) == (Status.FAIL, "h:3: appendonly no, no snapshots")
    assert (guarantee.holds, guarantee.because) == (Holds.NO, "on h:3, appendonly is no")


def test_not_every_server_of_a_cluster_is_named() -> None:
    """A finding that many servers share names some, and counts the rest."""
    nodes = [sound(address=f"h:{port}", mode="cluster") for port in range(5)]
    assert the_finding(diagnosed(*nodes), "memory").found.endswith("; and 2 more servers")


# The command


@pytest.fixture
def appending() -> Iterator[EmbeddedValkey]:
    """A server as the deployment guide wants it."""
    with EmbeddedValkey(config={"appendonly": "yes"}) as server:
        yield server


def found_by(ended: Ended, name: str) -> tuple[str, str]:
    [finding] = [each for each in ended.json["findings"] if each["name"] == name]
    return finding["status"], finding["found"]


def holds_by(ended: Ended, part: str) -> str:
    [guarantee] = [each for each in ended.json["guarantees"] if part in each["promise"]]
    return str(guarantee["holds"])


def test_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` shows a line that can be typed."""
    assert run(["doctor", "--help"]) == 0
    assert "Example: jobguard doctor --url" in capsys.readouterr().out


def test_a_server_that_forgets_ends_with_6(desk: Desk) -> None:
    """Valkey's defaults lose jobs in a crash: the line says so, with what to do, and the code is 6."""
    ended = desk("doctor")
    assert ended.code == 6
    assert "persistence: fail: appendonly no" in ended.out
    assert "No accepted job is lost over a crash of the server: no: appendonly is no\n" in ended.out
    assert ended.out.count("cure: CONFIG SET appendonly yes") == 1
    assert ended.err == "jobguard: 2 of 5 guarantees do not hold on this server\n"


def test_a_server_as_the_guide_wants_it_ends_with_0(desk: Desk, appending: EmbeddedValkey) -> None:
    """With `appendonly yes` all holds, but for the second that `everysec` may lose."""
    ended = desk("doctor", url=appending.url)
    assert (ended.code, ended.err) == (0, "all 5 guarantees hold\n")
    assert "over a crash of the server: yes, but: appendfsync is everysec" in ended.out
    assert desk("doctor", "--quiet", url=appending.url).err == ""


def test_has_a_form_for_programs(desk: Desk, appending: EmbeddedValkey) -> None:
    """`--json` is one object: the server, each finding and each guarantee."""
    ended = desk("doctor", "--json", url=appending.url)
    assert set(ended.json) == {"server", "findings", "guarantees"}
    assert (ended.json["server"]["kind"], ended.json["server"]["role"]) == ("Valkey", "master")
    assert {frozenset(each) for each in ended.json["findings"]} == {
        frozenset({"name", "status", "found", "meaning", "cure"})
    }
    assert {frozenset(each) for each in ended.json["guarantees"]} == {
        frozenset({"promise", "holds", "because", "cure"})
    }
    assert holds_by(ended, "over a crash") == "bounded"


def test_an_evicting_server_ends_with_6(desk: Desk) -> None:
    """A policy that throws keys away breaks the promise that nothing is."""
    config = {"appendonly": "yes", "maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}
    with EmbeddedValkey(config=config) as server:
        ended = desk("doctor", "--json", url=server.url)
    assert (ended.code, found_by(ended, "memory")[0]) == (6, "fail")
    assert (holds_by(ended, "thrown away"), holds_by(ended, "over a crash")) == ("no", "bounded")


def test_a_replica_ends_with_6(desk: Desk) -> None:
    """A replica takes no jobs; the cure names the form of URL that finds a primary."""
    with EmbeddedValkey(tcp=True, password="p") as primary:
        config = {"replicaof": f"127.0.0.1 {primary.port}", "primaryauth": "p"}
        with EmbeddedValkey(config=config) as replica:
            ended = desk("doctor", url=replica.url)
    assert ended.code == 6
    assert "replication: fail: role replica" in ended.out
    assert "dead letters can be written: no: role replica\n" in ended.out
    assert "redis+sentinel://" in ended.out


def test_a_user_of_few_rights_gets_what_can_be_known(desk: Desk) -> None:
    """What is refused is unknown, says which right would help, and ends with 0."""
    rule = f"default on nopass ~{desk.namespace}:* ~{{{desk.namespace}:* +@all -@admin -@dangerous"
    with EmbeddedValkey(config={"user": rule}) as server:
        ended = desk("doctor", url=server.url)
    assert ended.code == 0
    assert "persistence: unknown:" in ended.out
    assert "clock: ok:" in ended.out
    assert "+info" in ended.out
    assert ended.err == "5 of 5 guarantees could not be looked into\n"


def test_the_user_of_the_guide_may_ask_all(desk: Desk) -> None:
    """Nothing is unknown to the user that the guide gives the doctor, and it can do nothing but read."""
    [rule] = re.findall(r"^user (doctor on >password .*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    config = {"appendonly": "yes", "user": rule.replace("jobguard", desk.namespace)}
    with EmbeddedValkey(password="admin", config=config) as server:
        with Redis(unix_socket_path=server.socket_path, password="admin") as client:
            client.sadd(f"{desk.namespace}:dlq", "q")
            client.hset(f"{{{desk.namespace}:dlq:q}}:entries", "id", "x")
            client.set(f"{desk.namespace}:left", "x", px=100_000)
        ended = desk("doctor", "--json", url=f"unix://doctor:password@{server.socket_path}")
    assert {finding["status"] for finding in ended.json["findings"]} == {"ok"}
    assert ended.code == 0


def test_what_jobguard_writes_is_in_order(desk: Desk) -> None:
    """Dead letters and all that belongs to them have an owner."""
    desk.fill("a", "b")
    assert found_by(desk("doctor", "--json"), "keys")[0] == "ok"


def test_a_stray_key_is_named(desk: Desk) -> None:
    """A key without an end or an owner is a warning, and shown such that it cannot steer a terminal."""
    with Redis(unix_socket_path=desk.url.removeprefix("unix://")) as client:
        client.set(f"{desk.namespace}:left\x1b[2J", "x")
        ended = desk("doctor")
        client.delete(f"{desk.namespace}:left\x1b[2J")
    assert (
        f"keys: warn: 1 looked at, 1 without an end or an owner: {desk.namespace}:left\\u001b[2J" in ended.out
    )
    assert "\x1b" not in ended.out


def test_a_server_that_is_down_is_one_line(desk: Desk) -> None:
    """As for every command: exit code 1, what to try, and no password."""
    ended = desk("doctor", url="redis://me:s3cret@127.0.0.1:1/0")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "JOBGUARD_URL" in ended.err
    assert "s3cret" not in ended.err


def test_what_is_no_redis_is_one_line(desk: Desk) -> None:
    """A web server is an error in a line."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        ended = desk("doctor", url=f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        thread.join()
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)


def test_a_namespace_that_cannot_be_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything is asked."""
    assert run(["doctor", "--url", "redis://127.0.0.1:1", "--namespace", "n n"]) == 2
    assert "n n" in capsys.readouterr().err
