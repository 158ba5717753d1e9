"""The parts of the torture run: its schedule, its networks, its records, its clients and its windows."""

import itertools
import os
import random
import socket
import subprocess
import sys
import threading

import msgspec
import pytest

from raftlog.consensus.entries import client_header
from raftlog.exceptions import NodeUnavailable
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, NOT_PROPOSED, REFUSED, UNKNOWN, Outcome
from raftlog.storage.faults import FaultControl
from raftlog.testing.processes import free_ports
from raftlog.testing.torture import __main__ as command_line
from raftlog.testing.torture import asking, records
from raftlog.testing.torture.asking import Nodes, RawAsker, Session, Work
from raftlog.testing.torture.disks import Disks
from raftlog.testing.torture.nemesis import Nemesis, Strike
from raftlog.testing.torture.network import NamespaceNetwork, NetworkUnavailable
from raftlog.testing.torture.proxy import ProxyNetwork
from raftlog.testing.torture.records import Broken, Called, Ended, Recorder, Records
from raftlog.testing.torture.report import Report, Window, unavailability
from raftlog.testing.torture.schedule import BY_NAME, KINDS, Schedule
from raftlog.transport.handshake import Hello

# Schedule


def test_a_seed_is_a_schedule():
    first, again, other = (list(itertools.islice(Schedule(seed, 5), 30)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_every_kind_of_fault_has_its_turn_once_before_any_has_its_second():
    struck = [fault.kind for round in itertools.islice(Schedule(1, 5), len(KINDS)) for fault in round.faults]
    assert set(struck) == set(BY_NAME)


@pytest.mark.parametrize("nodes", [3, 5, 7])
def test_faults_together_leave_a_majority_or_are_one_fault_that_does_not(nodes):
    minority = (nodes - 1) // 2
    for round in itertools.islice(Schedule(3, nodes), 300):
        costs = [BY_NAME[fault.kind].cost for fault in round.faults]
        taken = sum({-1: minority, -2: minority + 1}.get(cost, cost) for cost in costs)
        assert taken <= minority or (taken == minority + 1 and -2 in costs) or (minority == 0 and taken == 1)


# Who is struck


def test_cuts_are_ordered_pairs():
    nemesis = Nemesis.__new__(Nemesis)
    nemesis._names = list("abcde")
    struck = {
        "isolate": ("b",),
        "deaf": ("b",),
        "mute_leader": ("b",),
        "one_way": ("a", "c"),
        "bridge": tuple("cabde"),
        "no_majority": tuple("abcde"),
        "split": ("a", "b"),
    }
    pairs = {kind: set(nemesis._pairs(kind, victims)) for kind, victims in struck.items()}
    others = "acde"
    assert pairs["deaf"] == {(other, "b") for other in others}
    assert pairs["mute_leader"] == {("b", other) for other in others}
    assert pairs["isolate"] == pairs["deaf"] | pairs["mute_leader"]
    assert pairs["one_way"] == {("a", "c")}
    assert len(pairs["no_majority"]) == 20
    assert ("a", "b") not in pairs["split"]
    assert len(pairs["split"]) == 2 * 2 * 3
    # c meets both halves, ab and de
    assert pairs["bridge"] == {pair for x in "ab" for y in "de" for pair in ((x, y), (y, x))}


def test_a_disk_is_slow_full_failing_or_hanging_as_the_node_reads_it(tmp_path):
    disks = Disks(tmp_path, ["a"])
    control = FaultControl(next(iter(disks.environment("a").values())))
    control.meet("sync", "x.segment")
    disks.slow("a", 0.03)
    disks.fail_sync("a")
    before = clock.monotonic()
    with pytest.raises(OSError, match="Input/output"):
        control.meet("sync", "x.segment")
    assert clock.monotonic() - before >= 0.03
    disks.mend("a", "fsync_fails")
    control.meet("sync", "x.segment")
    disks.fill("a", also_reserved=True)
    with pytest.raises(OSError, match="No space"):
        control.meet("write", "x.segment")
    control.meet("write", "hard_state")
    disks.fill("a", also_reserved=False)
    control.meet("write", "x.segment")
    with pytest.raises(OSError, match="No space"):
        control.meet("create", "x.segment")
    disks.mend("a", "disk_full")
    disks.mend("a", "disk_slow")
    control.meet("create", "x.segment")
    disks.stall("a")
    hanging = threading.Thread(target=control.meet, args=("sync", "x.segment"))
    hanging.start()
    hanging.join(0.1)
    assert hanging.is_alive()
    disks.mend("a", "disk_stall")
    hanging.join(10)
    assert not hanging.is_alive()


# Networks

ECHO = """
import socket
listener = socket.create_server(("0.0.0.0", 8000))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(100):
        connection.sendall(data)
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 8000), timeout=float(sys.argv[2])) as connection:
    connection.sendall(b"hello")
    assert connection.recv(100) == b"hello"
"""


def test_namespaces_lose_what_is_cut_and_leave_nothing_behind():
    try:
        network = NamespaceNetwork(["a", "b", "c"])
    except NetworkUnavailable as error:
        pytest.skip(str(error))
    before = os.listdir("/sys/class/net")

    def asks(timeout):
        address = network.members["b"].split("/")[2].split(":")[0]
        asker = [*network.command_prefix("a"), sys.executable, "-c", ASK, address, str(timeout)]
        return subprocess.run(asker, stderr=subprocess.DEVNULL, check=False).returncode == 0

    server = subprocess.Popen([*network.command_prefix("b"), sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    try:
        assert server.stdout.readline() == b"ready\n"
        assert asks(20)
        for pairs in ([("a", "b")], [("b", "a")], [("a", "b"), ("b", "a")]):
            network.cut(pairs)
            assert not asks(0.3)
        network.cut([("a", "c"), ("c", "b")])
        assert asks(20)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        network.close()
    assert os.listdir("/sys/class/net") == before
    assert subprocess.run(["ip", "netns", "list"], capture_output=True, check=True).stdout == b""


class Wire:
    """A peer's connection to a proxy, as far as the proxy looks at it: upgrade, hello, then bytes."""

    def __init__(self, source, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert self.receive(4) == b"\r\n\r\n"
        hello = msgspec.msgpack.encode(Hello(1, 1, "peer", "c", "", source, "", "b", b"n", []))
        mask = b"mask"
        masked = bytes(byte ^ mask[position % 4] for position, byte in enumerate(hello))
        self.hello = bytes([0x82, 0x80 | len(hello)]) + mask + masked
        assert len(hello) < 126
        self.socket.sendall(self.hello)

    def receive(self, size):
        return b"".join(self.socket.recv(1) for _ in range(size))


def test_proxies_hold_back_what_is_cut_in_one_direction_and_keep_the_connection():
    network = ProxyNetwork(["a", "b"], free_ports(4))
    (host, port), options = ("127.0.0.1", int(network.members["b"].rpartition(":")[2])), network.node_options()
    listener = socket.create_server((host, int(options["b"]["BIND"].rpartition(":")[2])))
    held = []

    def serve():
        held.append(listener.accept()[0])
        held[0].settimeout(20)
        held[0].recv(100)
        held[0].sendall(b"\r\n\r\n")

    server = threading.Thread(target=serve)
    server.start()
    try:
        wire = Wire("a", port)
        server.join(20)
        node = held[0]
        assert node.recv(200) == wire.hello
        network.cut([("b", "a")])
        wire.socket.sendall(b"there")
        assert node.recv(5) == b"there"
        node.sendall(b"back")
        wire.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            wire.socket.recv(4)
        network.cut([])
        wire.socket.settimeout(20)
        assert wire.receive(4) == b"back"
        node.close()
        assert wire.socket.recv(1) == b""
        wire.socket.close()
    finally:
        listener.close()
        network.close()


# Records


def test_records_of_a_client_that_was_killed_leave_its_last_calls_unknown(tmp_path):
    recorder = Recorder(tmp_path / "c1.jsonl")
    read = Records(tmp_path)
    recorder.write(Called(recorder.number(), 1.0, 0, "put", "k", "v", "c1-1"))
    recorder.write(Called(recorder.number(), 2.0, 1, "append", "k", "w", "c1-2"))
    recorder.write(Called(recorder.number(), 2.0, 2, "read", "k"))
    read.poll()
    assert read.unanswered == 3
    recorder.write(Ended(1, 3.0, records.APPLIED, None, 5, "a"))
    recorder.write(Broken(4.0, "it said so"))
    os.write(recorder._descriptor, b'{"type":"end","num')
    read.poll()
    os.close(recorder._descriptor)
    assert [call.end for call in read.calls] == ["applied", "unknown", "unknown"]
    assert (read.unanswered, read.acknowledged) == (2, [3.0])
    assert read.broken == ["client c1 at 4.000: it said so"]
    put, append = records.operations(read.calls)
    assert (put.output, put.returned_at, put.client) == (None, 3.0, "c1.0")
    assert append.is_unknown


# Clients


class Scripted:
    """A node that gives the next of some outcomes, or raises it."""

    def __init__(self, *script):
        self.script = list(script)
        self.payloads = []

    def propose(self, payloads, timeout, done):
        self.payloads += payloads
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        status, result = step
        done([Outcome(payloads[0][1:25], status, 9, msgspec.msgpack.encode(result))])


def make_asker(monkeypatch, *nodes, give_up=0.3):
    monkeypatch.setattr(asking, "command_of", lambda action: Body())
    addresses = {name: asking.NodeAddress("", "") for name in "ab"[: len(nodes)]}
    work = Work("c1", 1, "torture", [], addresses, "a", "", give_up=give_up)
    connections = Nodes(work)
    connections._clients = dict(zip(addresses, nodes, strict=True))
    return RawAsker(connections, work, random.Random(1), Session(b"s" * 16))


class Body:
    def encode(self, arguments, limit):
        return b"body"


def test_a_retry_at_another_node_hands_over_the_same_bytes(monkeypatch):
    first, second = Scripted((UNKNOWN, ("", ""))), Scripted((APPLIED, "answer"))
    answer = make_asker(monkeypatch, first, second).ask("put", {}, lambda: None)
    assert (answer.end, answer.output, answer.index, answer.node, answer.attempts) == ("applied", "answer", 9, "b", 2)
    assert first.payloads == second.payloads


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ([NodeUnavailable("down"), (NOT_PROPOSED, ("NoLeader", ""))], "nothing"),
        ([(UNKNOWN, ("", "")), NodeUnavailable("down")], "unknown"),
        ([NodeUnavailable("down"), (UNKNOWN, ("", ""))], "unknown"),
    ],
)
def test_one_unknown_attempt_makes_the_whole_unknown(monkeypatch, script, end):
    node = Scripted(*script, *[NodeUnavailable("down")] * 1000)
    assert make_asker(monkeypatch, node).ask("put", {}, lambda: None).end == end


def test_failures_that_a_command_cannot_have_are_problems(monkeypatch):
    node = Scripted(
        (2 - 1, ("builtins.OSError", "no")), (REFUSED, ("SessionExpired", "who")), (1, (asking.INTEGRITY, ""))
    )
    asker = make_asker(monkeypatch, node)
    assert "put ended with builtins.OSError: no" in asker.ask("put", {}, lambda: None).problem
    assert "refused for its session" in asker.ask("put", {}, lambda: None).problem
    answer = asker.ask("claim", {}, lambda: None)
    assert (answer.end, answer.problem) == ("refused", "")


def test_a_sequence_is_acknowledged_once_it_and_all_before_it_have_ended():
    session = Session(b"s" * 16)
    with session.payload(b"") as first:
        with session.payload(b"") as second:
            assert client_header(second).acknowledged_below == client_header(first).sequence == 1
        with session.payload(b"") as third:
            assert client_header(third).acknowledged_below == 1
    with session.payload(b"") as fourth:
        assert client_header(fourth).acknowledged_below == client_header(fourth).sequence == 4


# Report


def test_windows_are_gaps_between_acknowledged_commands_with_the_faults_of_the_time():
    strikes = [Strike("kill", ("a",), 11.0, 12.0, ended_at=12.0), Strike("split", ("b", "c"), 30.0, 31.0)]
    windows = unavailability([10.2, 10.9, 13.9, 14.5, 16.0], 10.0, 17.0, strikes)
    assert windows == [Window(0.9, 3.0, ["kill a"]), Window(4.5, 1.5, []), Window(6.0, 1.0, [])]


def test_the_report_says_what_was_violated():
    report = Report("python -m …", 5, 5, "netns", 1.0, faults={"kill": 2}, violations=["a lost command"], lost=1)
    text = report.text()
    assert "2  kill " in text
    assert "verdict: VIOLATED" in text
    assert "violation 1: a lost command" in text
    assert report.as_json()["verdict"] == "violated"


def test_the_command_names_its_faults_and_refuses_others(capsys):
    assert command_line.main(["--list-faults"]) == 0
    assert "fsync_fails_leader" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command_line.main(["--faults", "kill,earthquake"])
    assert "earthquake not known" in capsys.readouterr().err
