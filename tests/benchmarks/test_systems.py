"""The systems beside ours, as real processes: what is put can be got, also with one of three killed."""

import pytest

from benchmarks import loops, systems
from benchmarks.systems import Pipelines
from benchmarks.systems.etcd import _fields, put_request
from benchmarks.systems.json_http import Refused
from benchmarks.systems.rqlite import _results
from benchmarks.systems.servers import (
    ServerFailed,
    Servers,
    addresses,
    leader_first,
    port_of,
    version_installed,
    version_said,
    wait_until,
    what_is_missing,
)

REPLICATED = ["etcd", "etcd-http", "nats", "nats-default", "pysyncobj", "pysyncobj-unbatched", "rqlite"]


def installed(name):
    """The system, or a skip with its reason: none of them is needed to use or develop raftlog."""
    system = systems.find()[name]
    if why := system.missing():
        pytest.skip(why)
    return system


@pytest.mark.processes
@pytest.mark.parametrize("name", REPLICATED)
def test_three_servers_take_puts_and_answer_gets_and_two_of_them_still_do(name, tmp_path):
    """A majority is enough for each of them, and a value may be any bytes."""
    with installed(name).launch(tmp_path, 3) as running:
        assert len(running.servers.processes) == 3
        client = running.target.connect()
        client.put("key", bytes(range(256)))
        assert client.get("key") == bytes(range(256))
        assert client.get("none") is None
        running.servers.kill(running.followers[-1])
        client.put("key", b"two are a majority")
        assert client.get("key") == b"two are a majority"
        if isinstance(running.target, Pipelines):
            assert running.target.pipeline(0.05, 100, "many") > 0
            assert client.get("many-0") == b"x" * 100
        client.close()
    assert all(process.poll() is not None for process in running.servers.processes.values())


def test_stock_django_takes_puts_of_worker_processes(tmp_path):
    """Django is set up in the workers, which have no other settings."""
    with systems.find()["stock"].start(tmp_path, 3) as target:
        measured = loops.closed_loop(target, 2, 0.1)
        assert measured.count > 0
        assert not measured.errors
        assert loops.closed_loop(target, 1, 0.1, operation="get").count > 0
        assert loops.pipelined(target, 0.1).count > 0


def test_every_system_has_a_name_and_says_what_an_acknowledgement_means():
    """A figure without its durability would compare a disk with a memory."""
    found = systems.find()
    assert {*REPLICATED, "stock"} <= set(found)
    assert all(name == system.name and system.durability for name, system in found.items())


def test_a_server_that_ends_is_told_with_its_last_words(tmp_path):
    """Waiting for it to be ready ends at once."""
    with Servers(tmp_path) as servers:
        servers.start("a", ["/bin/sh", "-c", "echo no room; exit 3"])
        with pytest.raises(ServerFailed, match="a ended with 3; it said: no room"):
            wait_until(lambda: False, servers)


def test_a_message_for_etcd_has_its_fields_by_number():
    """Also where a length takes more than one byte."""
    assert dict(_fields(put_request("key", b"v" * 1000))) == {1: b"key", 2: b"v" * 1000}
    assert put_request("k", b"v") == b"\x0a\x01k\x12\x01v"


def test_rqlite_answers_200_to_a_statement_that_failed():
    """The error stands in its result."""
    assert _results({"results": [{"rows_affected": 1}]}) == [{"rows_affected": 1}]
    with pytest.raises(Refused, match="no such table"):
        _results({"results": [{"error": "no such table: bench"}]})


def test_every_server_has_two_addresses_of_its_own_and_the_leader_stands_first():
    """Clients of every system ask the first."""
    clients, peers = addresses(3)
    assert list(clients) == list(peers) == ["a", "b", "c"]
    assert len({port_of(address) for address in [*clients.values(), *peers.values()]}) == 6
    assert leader_first({"a": "1", "b": "2", "c": "3"}, "b") == (("2", "1", "3"), ["a", "c"])


@pytest.mark.parametrize(
    ("said", "version"),
    [("etcd Version: 3.4.23\nGo Version: go1.19.8", "3.4.23"), ("nats-server: v2.15.1", "2.15.1"), ("no", "")],
)
def test_a_version_is_the_first_number_with_dots_that_a_program_prints(said, version):
    """Also where it is printed as an error."""
    assert version_said(["/bin/sh", "-c", f"echo '{said}' >&2"]) == version


def test_what_is_not_installed_has_no_version():
    """Its row says that it is not installed."""
    assert version_said(["/no/such/program"]) == ""
    assert version_installed("no-such-package") == ""
    assert what_is_missing(["sh", "no-such-program"]) == "no-such-program is not installed"
    assert what_is_missing(["sh"], ["no-such-package"]) == "no-such-package is not installed"
    assert what_is_missing(["sh"], ["Django"]) == ""
    assert all(isinstance(version, str) for each in systems.find().values() for version in each.versions().values())
