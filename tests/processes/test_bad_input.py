"""A real node that strangers and broken peers talk to keeps running, bounded, and loses nothing."""

import os
import random
import socket
import sys
from pathlib import Path

import pytest

from raftlog.consensus.entries import EntryBatch, Run
from raftlog.consensus.messages import AppendEntries, AppendEntriesResponse, TimeoutNow
from raftlog.exceptions import HandshakeRefused, NodeUnavailable, RaftlogError, TransportError
from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster
from raftlog.transport.client import NodeClient
from raftlog.transport.handshake import Identity
from raftlog.transport.peer_channel import channel_factory

pytestmark = pytest.mark.processes

MANAGE = [sys.executable, str(Path(__file__).parents[2] / "manage.py")]
PEERS = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Node a of three: b and c are played by the tests, c is never there, so that a does not lead."""
    with ProcessCluster(PEERS, tmp_path_factory.mktemp("nodes"), command=MANAGE) as cluster:
        cluster["a"].start()
        cluster.wait_for(lambda found: found["a"] is not None, 30, "a answers")
        yield cluster


@pytest.fixture
def node(cluster):
    return cluster["a"]


def resident_bytes(node):
    pages = int(Path(f"/proc/{node.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def is_alive_and_well(node):
    deadline = clock.monotonic() + 10
    while (status := node.status()) is None:
        assert clock.monotonic() < deadline, node.output()
    return node.is_running and status["node_id"] == "a"


def peer(node, **changes):
    """A channel to `node` as its peer b, by default with everything right."""
    settings = node.settings
    identity = {
        "node_id": "b",
        "cluster": settings.cluster,
        "secret_keys": settings.secret_keys,
        "incarnation": "b" * 32,
    }
    factory = channel_factory(Identity(**(identity | changes)), lambda peer_id: node.address)
    return factory("a", lambda message: None, lambda reason: None)


def test_random_bytes_on_the_port_are_refused_and_leave_nothing_behind(node):
    rng = random.Random(7)
    before = resident_bytes(node)
    upgrade = (
        b"GET /raft/peer/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    for number in range(60):
        with socket.create_connection(node.settings.bind, timeout=5) as connection:
            try:
                if number % 2:
                    connection.sendall(upgrade)
                    connection.recv(4096)
                connection.sendall(rng.randbytes(rng.choice((1, 100, 5_000, 200_000))))
            except ConnectionError:
                continue  # refused while it was being sent
    assert is_alive_and_well(node)
    assert resident_bytes(node) - before < 64 << 20


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"secret_keys": [b"another secret, of another cluster"]}, "secret"),
        ({"cluster": "elsewhere"}, "cluster"),
        ({"node_id": "stranger"}, "stranger"),
    ],
)
def test_a_peer_that_does_not_belong_is_refused_with_the_reason(node, changes, word):
    with pytest.raises(HandshakeRefused, match=word):
        peer(node, **changes).connect()
    assert is_alive_and_well(node)


def test_a_client_with_a_wrong_secret_is_refused(node):
    client = NodeClient(f"unix:{node.settings.socket_path}", [b"not the secret of this node"], node.settings.cluster)
    try:
        with pytest.raises((NodeUnavailable, RaftlogError), match="secret"):
            client.request("status")
    finally:
        client.close()
    assert is_alive_and_well(node)


MESSAGES = {
    "entries with a gap of terms": AppendEntries(
        3, "b", "a", 0, 0, EntryBatch(1, [Run(1, 2, 1), Run(1, 1, 1)], [b"\x00", b"\x00"]), 0, 1, ""
    ),
    "a batch whose counts do not add up": AppendEntries(
        3, "b", "a", 0, 0, EntryBatch(1, [Run(5, 1, 1)], [b"\x00"]), 0, 1, ""
    ),
    "an entry of unknown kind": AppendEntries(3, "b", "a", 0, 0, EntryBatch(1, [Run(1, 1, 1)], [b"\xff"]), 0, 1, ""),
    "a configuration that is none": AppendEntries(
        3, "b", "a", 0, 0, EntryBatch(1, [Run(1, 1, 1)], [b"\x01\xc1"]), 0, 1, ""
    ),
    "an answer to nothing": AppendEntriesResponse(3, "b", "a", True, 99, 0, 0, 7, "b" * 32, 99, 0),
    "in the name of another": TimeoutNow(3, "c", "a"),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=list(MESSAGES))
def test_a_peer_with_the_secret_that_sends_nonsense_is_dropped_and_the_node_goes_on(node, message):
    channel = peer(node)
    channel.connect()
    try:
        for _ in range(3):
            channel.send([message], tuple)
            clock.sleep(0.05)
    except (OSError, TransportError):
        pass  # the node has closed the connection
    finally:
        channel.close()
    assert is_alive_and_well(node)
    assert node.status()["last_index"] == 0


def test_a_second_process_on_the_same_folder_is_refused_and_names_the_first(node):
    with pytest.raises(RaftlogError, match=f"is locked by process {node.pid}, which is the node"):
        node.manage("raft", "run", "--bind", "127.0.0.1:1")
    assert is_alive_and_well(node)
