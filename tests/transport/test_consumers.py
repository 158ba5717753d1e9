"""Consumers in a real Daphne: what they take, and how they refuse the rest."""

from __future__ import annotations

import http.client
import itertools
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from raftlog.consensus.messages import RequestVoteResponse
from raftlog.transport.client import NodeClient
from raftlog.transport.client_messages import CLIENT_CODEC, Propose
from raftlog.transport.close_codes import (
    BAD_FRAME,
    BAD_TAG,
    FRAME_TOO_LARGE,
    OVERLOADED,
    TIMEOUT,
    UNKNOWN_NODE,
    WRONG_NODE,
    WRONG_SECRET,
)
from raftlog.transport.frames import MAX_FRAME_BYTES, PEER_CODEC
from raftlog.transport.handshake import CLIENT, CLIENT_PATH, PEER, PEER_PATH, ClientHandshake, Proof, Session
from tests.transport.conftest import SECRET, WAIT, Answers, EchoNode, channel_to, identity, proposal, vote


def open_socket(node: EchoNode, path: str = "/raft/peer/", **options: Any) -> ClientConnection:
    return connect(f"{node.address()}{path}", compression=None, proxy=None, max_size=None, **options)


def authenticated(socket: ClientConnection, node_id: str = "a") -> Session[Any]:
    handshake = ClientHandshake(identity(node_id), PEER, PEER_CODEC, recipient="b")
    socket.send(handshake.hello())
    while handshake.session is None:
        data = socket.recv(WAIT)
        assert isinstance(data, bytes)
        for answer in handshake.receive(data):
            socket.send(answer)
    return handshake.session


def closed_with(socket: ClientConnection) -> tuple[int, str]:
    try:
        while True:
            socket.recv(WAIT)
    except ConnectionClosed as closed:
        if closed.rcvd is None:
            raise
        return closed.rcvd.code, closed.rcvd.reason


def ask(node: EchoNode, name: str) -> Any:
    client = NodeClient(node.address(), [SECRET], "c")
    try:
        return client.request(name)
    finally:
        client.close()


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (b"", BAD_FRAME, "hello cannot be decoded"),
        (b"\x00\xff garbage", BAD_FRAME, "hello cannot be decoded"),
        ("text", BAD_FRAME, "a text frame"),
        (b"\x91" * 8193, FRAME_TOO_LARGE, "the limit is MAX_HANDSHAKE_BYTES 8192"),
        (b"\x91" * 2_000_000, 1009, ""),
    ],
)
def test_garbage_before_the_proof_closes_with_a_reason(
    echo_node: EchoNode, data: bytes | str, code: int, reason: str
) -> None:
    """Nothing that a stranger sends does anything but end his connection, with a word why."""
    with open_socket(echo_node) as socket:
        socket.send(data)
        closed = closed_with(socket)
    assert closed[0] == code
    assert reason in closed[1]


def test_a_false_proof_closes_with_wrong_secret(echo_node: EchoNode) -> None:
    """Who does not hold the key is out at the second step."""
    handshake = ClientHandshake(identity("a"), PEER, PEER_CODEC, recipient="b")
    with open_socket(echo_node) as socket:
        socket.send(handshake.hello())
        socket.recv(WAIT)
        socket.send(msgspec.msgpack.encode(Proof(b"?" * 32)))
        assert closed_with(socket)[0] == WRONG_SECRET


def test_a_browser_is_refused(echo_node: EchoNode) -> None:
    """A page in a browser sends its Origin; it does not even get a WebSocket."""
    with pytest.raises(InvalidStatus) as caught:
        open_socket(echo_node, origin="http://127.0.0.1")
    assert caught.value.response.status_code == 403


def test_refusals_are_counted(start_echo_node: Callable[..., EchoNode]) -> None:
    """Each reason has a counter."""
    node = start_echo_node()
    for _ in range(3):
        with open_socket(node) as socket:
            socket.send(b"?")
            closed_with(socket)
    assert ask(node, "refusals") == {"bad frame": 3}
    frames = ask(node, "refused_frames")
    assert frames.pop("bad frame") == 3
    assert set(frames.values()) == {0}


def test_everything_else_goes_to_the_project(echo_node: EchoNode) -> None:
    """HTTP and other WebSockets reach the fallback application; raft paths over HTTP too."""
    with open_socket(echo_node, "/elsewhere/") as socket:
        assert socket.recv(WAIT) == "fallback"
    for path in ("/", "/raft/peer/"):
        connection = http.client.HTTPConnection("127.0.0.1", echo_node.port, timeout=WAIT)
        connection.request("GET", path)
        assert connection.getresponse().read() == b"fallback"
        connection.close()


def large(session: Session[Any]) -> bytes:
    return bytes(MAX_FRAME_BYTES + 1)


def flipped(session: Session[Any]) -> bytes:
    frame = next(session.writer.frames([vote(1)]))
    frame[-1] ^= 1
    return bytes(frame)


def skipped(session: Session[Any]) -> bytes:
    next(session.writer.frames([vote(1)]))
    return bytes(next(session.writer.frames([vote(2)])))


def of_another(session: Session[Any]) -> bytes:
    return bytes(next(session.writer.frames([vote(1, sender="c")])))


def to_another(session: Session[Any]) -> bytes:
    return bytes(next(session.writer.frames([vote(1, sender="m", recipient="c")])))


def unwelcome(session: Session[Any]) -> bytes:
    """The service refuses it: its queue is full."""
    return bytes(next(session.writer.frames([vote(1, last_log_index=666, sender="m")])))


@pytest.mark.parametrize(
    ("make", "code", "reason"),
    [
        (large, FRAME_TOO_LARGE, f"frame is {MAX_FRAME_BYTES + 1} bytes, the limit is MAX_FRAME_BYTES"),
        (flipped, BAD_TAG, "tag of a frame"),
        (skipped, BAD_TAG, "sequence is 2 where 1 follows"),
        (of_another, WRONG_NODE, "a message from 'c' to 'b' on the connection from 'm' to 'b'"),
        (to_another, WRONG_NODE, "a message from 'm' to 'c'"),
        (unwelcome, OVERLOADED, "too many messages"),
    ],
)
def test_a_bad_frame_ends_its_connection_and_no_other(
    echo_node: EchoNode, make: Callable[[Session[Any]], bytes], code: int, reason: str
) -> None:
    """After the proof too, a frame that is not right ends the connection with a reason; others live on."""
    answers = Answers()
    other = channel_to(echo_node.address(), answers)
    other.connect()
    with open_socket(echo_node) as socket:
        socket.send(make(authenticated(socket, "m")))
        closed = closed_with(socket)
    assert closed[0] == code
    assert reason in closed[1]
    other.send([vote(5)])
    answers.wait(lambda: len(answers.messages) == 1)
    other.close()
    answers.wait(lambda: len(answers.closed) == 1)


def test_a_stranger_is_no_peer(echo_node: EchoNode) -> None:
    """A node outside the configuration is refused once it has proved to hold the secret."""
    with open_socket(echo_node) as socket:
        handshake = ClientHandshake(identity("stranger"), PEER, PEER_CODEC, recipient="b")
        socket.send(handshake.hello())
        data = socket.recv(WAIT)
        assert isinstance(data, bytes)
        for answer in handshake.receive(data):
            socket.send(answer)
        assert closed_with(socket) == (UNKNOWN_NODE, "'stranger' is no member of this cluster")


def test_the_unix_socket_is_for_this_user_only(echo_node: EchoNode) -> None:
    """Its mode lets nobody else connect."""
    assert stat.S_IMODE(os.stat(echo_node.unix_socket).st_mode) == 0o600


def test_answers_are_coalesced(echo_node: EchoNode) -> None:
    """A frame of many requests is answered in few frames."""
    with open_socket(echo_node) as socket:
        session = authenticated(socket, "m")
        socket.send(bytes(next(session.writer.frames([vote(term, sender="m") for term in range(500)]))))
        received: list[Any] = []
        frames = 0
        while len(received) < 500:
            data = socket.recv(WAIT)
            assert isinstance(data, bytes)
            received += session.reader.messages(data)
            frames += 1
    assert [answer.term for answer in received] == list(range(500))
    assert all(type(answer) is RequestVoteResponse for answer in received)
    assert frames <= 5


def test_a_stranger_who_says_nothing_is_dropped(start_echo_node: Callable[..., EchoNode]) -> None:
    """The handshake has a time limit."""
    with open_socket(start_echo_node(handshake_timeout=0.1)) as socket:
        assert closed_with(socket) == (TIMEOUT, "the handshake took more than 0.1 s")


def test_a_client_that_does_not_read_is_dropped(start_echo_node: Callable[..., EchoNode]) -> None:
    """Nothing waits without bound: outcomes that are not read count as waiting proposals, and then it ends."""
    node = start_echo_node(max_waiting_proposals=8)
    with raw_socket(node) as (sock, protocol, session):
        sock.settimeout(WAIT)
        body = bytes(200 * 1024)
        deadline = time.monotonic() + WAIT
        for number in itertools.count():
            assert time.monotonic() < deadline, "the node never ended the connection"
            message = Propose(number, 5.0, [proposal(number + 1, body)])
            for frame in session.writer.frames([message]):
                protocol.send_binary(frame)
            try:
                sock.sendall(b"".join(protocol.data_to_send()))
            except OSError:
                break
    assert ask(node, "refusals") == {"overloaded": 1}
    assert ask(node, "status")["proposed"]


def test_a_peer_that_does_not_read_is_dropped(start_echo_node: Callable[..., EchoNode]) -> None:
    """Answers to a peer wait in a bounded outbox; when it is full the connection ends."""
    node = start_echo_node()
    with raw_socket(node, PEER) as (sock, protocol, session):
        sock.settimeout(WAIT)
        requests = [vote(term, sender="m") for term in range(2000)]
        deadline = time.monotonic() + WAIT
        while True:
            assert time.monotonic() < deadline, "the node never ended the connection"
            for frame in session.writer.frames(requests):
                protocol.send_binary(frame)
            try:
                sock.sendall(b"".join(protocol.data_to_send()))
            except OSError:
                break
    assert ask(node, "refusals") == {"overloaded": 1}


@contextmanager
def raw_socket(node: EchoNode, role: str = CLIENT) -> Iterator[tuple[socket.socket, ClientProtocol, Session[Any]]]:
    """An authenticated connection without a thread that reads."""
    path, codec = (PEER_PATH, PEER_CODEC) if role == PEER else (CLIENT_PATH, CLIENT_CODEC)
    protocol = ClientProtocol(parse_uri(f"{node.address()}{path}"))
    handshake: ClientHandshake[Any] = ClientHandshake(identity("m"), role, codec)
    with socket.create_connection(("127.0.0.1", node.port)) as sock:
        protocol.send_request(protocol.connect())
        outgoing: list[bytes] = []
        while handshake.session is None:
            for data in outgoing:
                protocol.send_binary(data)
            sock.sendall(b"".join(protocol.data_to_send()))
            protocol.receive_data(sock.recv(65536))
            outgoing = []
            for event in protocol.events_received():
                if isinstance(event, Frame):
                    outgoing += handshake.receive(bytes(event.data))
                else:
                    outgoing.append(handshake.hello())
        yield sock, protocol, handshake.session
