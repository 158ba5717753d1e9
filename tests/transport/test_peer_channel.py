"""The outgoing connection of a peer thread, against a real Daphne."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable

import pytest

from raftlog.consensus.entries import EntryBatch, Run
from raftlog.consensus.messages import AppendEntries, AppendEntriesResponse, RequestVoteResponse
from raftlog.exceptions import HandshakeRefused, TransportError
from raftlog.transport.close_codes import TIMEOUT, WRONG_CLUSTER, WRONG_NODE, WRONG_SECRET
from raftlog.transport.peer_channel import Backoff
from raftlog.transport.streams import Target, client_ssl_context
from tests.transport.conftest import WAIT, Answers, EchoNode, channel_to, identity, vote


def append(size: int) -> AppendEntries:
    batch = EntryBatch(1, [Run(1, 1, 0)], [b"\3" + bytes(size - 1)])
    return AppendEntries(1, "a", "b", 0, 0, batch, 0, 0, "")


@pytest.mark.parametrize("scheme", ["ws", "unix"])
def test_requests_are_answered_in_order(echo_node: EchoNode, scheme: str) -> None:
    """Over TCP and over a Unix socket: connect, authenticate, send, get the answers."""
    answers = Answers()
    channel = channel_to(echo_node.address(scheme), answers)
    channel.connect()
    assert channel.is_connected
    assert channel.remote_hello is not None
    assert channel.remote_hello.incarnation == "incarnation-b"
    assert channel.remote_hello.commands == {"buy": [1, 2]}
    for term in range(100):
        channel.send([vote(term)])
    answers.wait(lambda: len(answers.messages) == 100)
    assert [message.term for message in answers.messages] == list(range(100))
    channel.close()
    # The other side's answer to the close may be read before this side's own end is noticed.
    answers.wait(lambda: len(answers.closed) == 1)
    assert answers.closed[0].startswith("closed by")
    assert not channel.is_connected


@pytest.mark.parametrize("mebibytes", [1, 8])
def test_large_messages_let_urgent_ones_through(echo_node: EchoNode, mebibytes: int) -> None:
    """An entry of several MiB travels in chunks, and what is urgent is answered before it is through."""
    answers = Answers()
    channel = channel_to(echo_node.address(), answers)
    channel.connect()
    urgent = iter(range(1, 1000))
    channel.send([append(mebibytes << 20), vote(1000)], lambda: [vote(next(urgent))])
    answers.wait(lambda: len(answers.messages) > mebibytes * 4)
    channel.close()
    answers.wait(lambda: bool(answers.closed))
    *early, large, last = answers.messages
    assert [type(message) for message in early] == [RequestVoteResponse] * (mebibytes * 4)
    assert type(large) is AppendEntriesResponse
    assert large.match_index == mebibytes << 20
    assert last.term == 1000


@pytest.mark.parametrize(
    ("who", "peer_id", "code"),
    [
        (identity("a", secret_keys=[b"another secret key"]), "b", WRONG_SECRET),
        (identity("a", cluster="other"), "b", WRONG_CLUSTER),
        (identity("a"), "c", WRONG_NODE),
    ],
)
def test_a_refusal_tells_code_and_reason(echo_node: EchoNode, who: object, peer_id: str, code: int) -> None:
    """The peer thread logs what the other side says."""
    channel = channel_to(echo_node.address(), Answers(), who, peer_id=peer_id)  # type: ignore[arg-type]
    with pytest.raises(HandshakeRefused) as caught:
        channel.connect()
    assert caught.value.code == code
    assert not channel.is_connected


def test_a_frame_that_is_refused_is_told(echo_node: EchoNode) -> None:
    """The node that made the connection counts what it refuses, as the other one does."""
    answers, refused = Answers(), []
    channel = channel_to(
        echo_node.address(), answers, on_refused=lambda code, reason, peer: refused.append((code, peer))
    )
    channel.connect()
    channel._peer_id = "c"
    channel.send([vote(1)])
    answers.wait(lambda: bool(answers.closed))
    assert refused == [(WRONG_NODE, "c")]


def test_a_channel_connects_again_after_its_connection_was_lost(start_echo_node: Callable[..., EchoNode]) -> None:
    """One on_close for each connection, before the next one begins; the new one works."""
    node = start_echo_node()
    answers = Answers()
    channel = channel_to(node.address(), answers)
    channel.connect()
    node.stop()
    answers.wait(lambda: len(answers.closed) == 1)
    with pytest.raises(TransportError):
        channel.send([vote(1)])
    with pytest.raises(OSError, match="refused"):
        channel.connect()
    start_echo_node(port=node.port)
    channel.connect()
    channel.send([vote(2)])
    answers.wait(lambda: len(answers.messages) == 1)
    channel.close()
    answers.wait(lambda: len(answers.closed) == 2)


def test_a_newer_connection_of_a_peer_replaces_the_older(start_echo_node: Callable[..., EchoNode]) -> None:
    """A peer that comes back over a new connection is not taken for lost when the old one ends."""
    node = start_echo_node()
    old, new = Answers(), Answers()
    first, second = channel_to(node.address(), old), channel_to(node.address(), new)
    first.connect()
    second.connect()
    old.wait(lambda: len(old.closed) == 1)
    assert "replaced by a newer connection" in old.closed[0]
    second.send([vote(1)])
    new.wait(lambda: len(new.messages) == 1)
    from raftlog.transport.client import NodeClient
    from tests.transport.conftest import SECRET

    client = NodeClient(node.address(), [SECRET], "c")
    assert client.status()["connected"] == ["a", "a"]
    assert client.status()["disconnected"] == []
    second.close()
    new.wait(lambda: len(new.closed) == 1)
    deadline = time.monotonic() + WAIT
    while client.status()["disconnected"] != ["a"]:
        assert time.monotonic() < deadline
    client.close()


def test_tls_without_and_with_client_certificates(
    start_echo_node: Callable[..., EchoNode], certificates: dict[str, str]
) -> None:
    """wss: the server is verified; where a CA is given the client must show a certificate too."""
    ca = certificates["ca_certificate"]
    server = [certificates["server_certificate"], certificates["server_key"]]
    plain = client_ssl_context(ca)
    named = client_ssl_context(ca, certificates["client_certificate"], certificates["client_key"])
    open_node, closed_node = start_echo_node(tls=server), start_echo_node(tls=[*server, ca])
    for node, context in ((open_node, plain), (closed_node, named)):
        answers = Answers()
        channel = channel_to(node.address("wss"), answers, ssl_context=context)
        channel.connect()
        channel.send([vote(1), append(1 << 20), vote(2)])
        answers.wait(lambda answers=answers: len(answers.messages) == 3)  # type: ignore[misc]
        channel.close()
        answers.wait(lambda answers=answers: len(answers.closed) == 1)  # type: ignore[misc]
    for node, context in ((closed_node, plain), (open_node, None)):
        with pytest.raises((OSError, TransportError)):
            channel_to(node.address("wss"), Answers(), ssl_context=context).connect()


class Silent:
    """Takes connections and never says a word."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"ws://127.0.0.1:{self.socket.getsockname()[1]}"


def test_connecting_to_a_silent_server_times_out() -> None:
    """connect() is bounded by its timeout."""
    server = Silent()
    with server.socket, pytest.raises(HandshakeRefused, match="no answer") as caught:
        channel_to(server.address, Answers(), connect_timeout=0.1).connect()
    assert caught.value.code == TIMEOUT


def test_close_wakes_a_blocked_connect() -> None:
    """Another thread's close() ends connect() long before its timeout."""
    server = Silent()
    failed: list[Exception] = []
    channel = channel_to(server.address, Answers(), connect_timeout=60.0)

    def connect() -> None:
        try:
            channel.connect()
        except (OSError, TransportError) as error:
            failed.append(error)

    thread = threading.Thread(target=connect)
    with server.socket:
        thread.start()
        accepted, _ = server.socket.accept()
        accepted.recv(1)
        channel.close()
        thread.join(WAIT)
        accepted.close()
    assert failed


@pytest.mark.parametrize("closed_by", ["timeout", "close"])
def test_a_send_to_a_stopped_node_ends(start_echo_node: Callable[..., EchoNode], closed_by: str) -> None:
    """Where the other side takes nothing, send() ends by its timeout, or at once by close()."""
    import os
    import signal

    node = start_echo_node()
    answers = Answers()
    channel = channel_to(node.address(), answers, send_timeout=0.5 if closed_by == "timeout" else 60.0)
    channel.connect()
    os.kill(node.process.pid, signal.SIGSTOP)
    begun = threading.Event()
    if closed_by == "close":
        threading.Thread(target=lambda: begun.wait(WAIT) and (time.sleep(0.2), channel.close())).start()
    try:
        begun.set()
        with pytest.raises((OSError, TransportError)):
            channel.send([append(64 << 20)])
    finally:
        os.kill(node.process.pid, signal.SIGCONT)
    answers.wait(lambda: len(answers.closed) == 1)


def test_backoff_doubles_with_jitter_and_starts_over() -> None:
    """Each pause lies between a half and the whole of its step."""
    backoff = Backoff(random.Random(1), first=1.0, limit=8.0)
    for step in (1, 2, 4, 8, 8):
        assert step / 2 <= backoff.next() <= step
    backoff.reset()
    assert backoff.next() <= 1


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("ws://h:1", Target("ws", "h", 1)),
        ("wss://h", Target("wss", "h", 443)),
        ("ws://[::1]:2/", Target("ws", "::1", 2)),
        ("unix:/x/y", Target("unix", path="/x/y")),
        ("/x/y", Target("unix", path="/x/y")),
    ],
)
def test_addresses(address: str, target: Target) -> None:
    """What an address may look like."""
    assert Target.parse(address) == target


@pytest.mark.parametrize("address", ["http://h:1", "h:1", "", "ws://", "ws://h/path", "ws://h:99999"])
def test_wrong_addresses_are_transport_errors(address: str) -> None:
    """The peer thread meets a TransportError, and backs off, rather than dying of a setting."""
    with pytest.raises(TransportError, match="address of b"):
        channel_to(address, Answers()).connect()
