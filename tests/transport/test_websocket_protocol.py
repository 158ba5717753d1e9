"""The shorter way of frames through Daphne: what is written at once, and the masker."""

import pytest
from daphne.ws_protocol import WebSocketProtocol
from hypothesis import given
from hypothesis import strategies as st

from raftlog.transport import websocket_protocol
from raftlog.transport.websocket_protocol import DirectWebSocketProtocol, Masker


@given(st.binary(min_size=4, max_size=4), st.lists(st.binary(max_size=40), max_size=6))
def test_a_payload_that_comes_in_pieces_is_unmasked_as_one(mask, pieces):
    masker = Masker(mask)
    unmasked = b"".join(masker.process(piece) for piece in pieces)
    whole = b"".join(pieces)
    assert unmasked == bytes(byte ^ mask[number % 4] for number, byte in enumerate(whole))
    assert masker.pointer() == len(whole)


class Transport:
    """A socket that takes `room` bytes; what it does not take waits, as with Twisted."""

    is_plain = True
    connected = True
    disconnecting = False

    def __init__(self, room):
        self.room = room
        self.sent, self.waiting = b"", b""

    def writeSomeData(self, data):
        if self.room is None:
            return OSError("connection lost")
        taken = data[: self.room]
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def write(self, data):
        self.waiting += data


@pytest.fixture
def protocol(monkeypatch):
    from twisted.internet import reactor

    made = DirectWebSocketProtocol()
    made.state, made.send_queue = made.STATE_OPEN, []
    writers = []
    monkeypatch.setattr(reactor, "getWriters", lambda: writers)
    monkeypatch.setattr(websocket_protocol, "is_plain", lambda transport: transport.is_plain)
    made.writers = writers
    return made


@pytest.mark.parametrize(
    ("room", "sent", "waiting"), [(10, b"abcdef", b""), (4, b"abcd", b"ef"), (None, b"", b"abcdef")]
)
def test_what_the_socket_takes_is_written_at_once(protocol, room, sent, waiting):
    protocol.transport = Transport(room)
    protocol.sendData(b"abcdef")
    assert (protocol.transport.sent, protocol.transport.waiting) == (sent, waiting)


def test_nothing_overtakes_what_waits(protocol):
    protocol.transport = Transport(10)
    protocol.writers.append(protocol.transport)
    protocol.sendData(b"abc")
    assert (protocol.transport.sent, protocol.transport.waiting) == (b"", b"abc")


def test_over_tls_nothing_goes_past_the_encryption(protocol, monkeypatch):
    protocol.transport = Transport(10)
    protocol.transport.is_plain = False
    taken = []
    monkeypatch.setattr(WebSocketProtocol, "sendData", lambda self, *arguments: taken.append(arguments))
    protocol.sendData(b"abc")
    assert (protocol.transport.sent, taken) == (b"", [(b"abc", False, None)])
