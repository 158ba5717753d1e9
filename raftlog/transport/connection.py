"""One outgoing, authenticated connection: websockets' Sans-I/O protocol over a socket of our own.

Any number of threads may send, one at a time; one thread receives. Locks, in the order in which they are taken:
`_send_lock` (held while a frame goes out, which may block), `_state_lock` (the protocol's and TLS's
state; never held over I/O).
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from raftlog.exceptions import FrameRefused, HandshakeRefused, TransportError
from raftlog.runtime import clock
from raftlog.transport.close_codes import TIMEOUT, close_reason, with_hint
from raftlog.transport.frames import MAX_FRAME_BYTES
from raftlog.transport.handshake import ClientHandshake, RemoteHello, Session
from raftlog.transport.streams import RECEIVE_BYTES, SLICE, PlainWire, Target, TlsWire, Wire, connect_socket

SEND_TIMEOUT: Final = 5.0  # seconds without the socket taking a byte

CLOSED_HERE: Final = "closed by this side"

# The protocol's own logger would tell each frame at debug level; failures come out as exceptions.
_protocol_logger = logging.getLogger("raftlog.transport.websockets")
_protocol_logger.setLevel(logging.CRITICAL)

T = TypeVar("T")


class Connection(Generic[T]):
    """open() once, by one thread; then send() and receive(); close() from any thread, at any time."""

    def __init__(
        self,
        address: str,
        path: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        send_timeout: float = SEND_TIMEOUT,
    ) -> None:
        self._target = Target.parse(address)
        self._url = self._target.url(path)
        self._ssl_context = ssl_context
        self._send_timeout = send_timeout
        self._send_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._protocol = ClientProtocol(parse_uri(self._url), max_size=MAX_FRAME_BYTES, logger=_protocol_logger)
        self._wire: Wire = PlainWire()
        self._socket: socket.socket | None = None
        self._closed = False
        self._fragments: list[bytes] = []
        self._binary: list[bytes] = []
        self._session: Session[T] | None = None

    @property
    def remote(self) -> RemoteHello:
        assert self._session is not None
        return self._session.remote

    # Opening

    def open(self, handshake: ClientHandshake[T], timeout: float) -> None:
        """Connect, upgrade to a WebSocket and authenticate. Raises TransportError, OSError; it is closed then."""
        deadline = clock.monotonic() + timeout
        try:
            self._socket = self._connect(deadline)
            if self._target.scheme == "wss":
                wire = TlsWire(self._ssl_context or ssl.create_default_context(), self._target.host)
                wire.handshake(self._socket, deadline)
                self._wire = wire
            self._socket.settimeout(SLICE)
            self._upgrade(deadline)
            self._authenticate(handshake, deadline)
        except HandshakeRefused as error:
            self._say_why(error.code, error.reason)
            self.release()
            raise
        except BaseException:
            self.release()
            raise

    def _connect(self, deadline: float) -> socket.socket:
        error: OSError | None = None
        for family, address in self._target.sockets():
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._socket = sock  # close() may shut it down from now on
                if self._closed:
                    raise TransportError("closed while connecting")
                connect_socket(sock, address, deadline)
            except OSError as failure:
                sock.close()
                error = failure
                continue
            except BaseException:
                sock.close()
                raise
            return sock
        raise error or TransportError(f"{self._url} has no address")

    def _upgrade(self, deadline: float) -> None:
        protocol = self._protocol
        protocol.send_request(protocol.connect())
        with self._send_lock:
            self._flush()
        while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
            self._read_socket(deadline)
        if protocol.handshake_exc is not None:
            raise TransportError(f"{self._url} did not take the WebSocket: {protocol.handshake_exc}")

    def _authenticate(self, handshake: ClientHandshake[T], deadline: float) -> None:
        outgoing = [handshake.hello()]
        while True:
            for data in outgoing:
                self._send_binary(data)
            if handshake.session is not None:
                break
            while not self._binary:
                self._read_socket(deadline)
            outgoing = handshake.receive(self._binary.pop(0))
        self._session = handshake.session

    # Sending

    def send(self, messages: Sequence[T], urgent: Callable[[], Sequence[T]] = tuple) -> None:
        """Send in order, see PeerChannel.send. Raises TransportError, OSError: the connection is of no use then."""
        session = self._session
        if session is None:
            raise TransportError("the connection is not open")
        with self._send_lock:
            for frame in session.writer.frames(messages, urgent):
                self._transmit(frame)

    def _send_binary(self, data: bytes) -> None:
        with self._send_lock:
            self._transmit(data)

    def _transmit(self, data: bytes | bytearray) -> None:
        """Send lock: held."""
        with self._state_lock:
            if self._protocol.state is not State.OPEN:
                raise TransportError(self._why_closed())
            self._protocol.send_binary(data)
            out = self._take()
        self._write(out)

    def _flush(self) -> None:
        """Send what the protocol wants to say by itself. Send lock: held."""
        with self._state_lock:
            out = self._take()
        if out:
            self._write(out)

    def _take(self) -> bytes:
        """State lock: held."""
        parts = self._protocol.data_to_send()
        return self._wire.wrap(parts[0] if len(parts) == 1 else b"".join(parts))

    def _write(self, data: bytes) -> None:
        """Send lock: held."""
        sock = self._socket
        assert sock is not None
        view = memoryview(data)
        waiting_since = clock.monotonic()
        while view:
            try:
                sent = sock.send(view)
            except TimeoutError:
                if clock.monotonic() - waiting_since >= self._send_timeout:
                    raise TransportError(f"the other side took nothing for {self._send_timeout:g} s") from None
                continue
            view = view[sent:]
            if view:
                waiting_since = clock.monotonic()

    # Receiving

    def receive(self) -> list[T]:
        """The next messages; none where SLICE seconds went by. Raises TransportError, OSError when it ended."""
        session = self._session
        if session is None:
            raise TransportError("the connection is not open")
        if not self._binary:
            self._read_socket(None)
        messages: list[T] = []
        frames, self._binary = self._binary, []
        try:
            for frame in frames:
                messages.extend(session.reader.messages(frame))
        except FrameRefused as error:
            self._say_why(error.code, str(error))
            raise
        return messages

    def _read_socket(self, deadline: float | None) -> None:
        """Read once; frames that are complete go to `_binary`. Raises where the connection has ended."""
        sock = self._socket
        assert sock is not None
        if deadline is not None and clock.monotonic() >= deadline:
            raise HandshakeRefused(TIMEOUT, "no answer within the time limit")
        try:
            data = sock.recv(RECEIVE_BYTES)
        except TimeoutError:
            return
        except OSError as error:
            raise TransportError(f"{self._why_closed()} ({error})" if not self._closed else CLOSED_HERE) from error
        with self._state_lock:
            data = self._wire.unwrap(data) if data else self._at_end()
            if data:
                self._protocol.receive_data(data)
            events = self._protocol.events_received()
            ended = self._protocol.state in (State.CLOSING, State.CLOSED) or self._protocol.parser_exc is not None
        answer = self._wire.pending
        for event in events:
            if not isinstance(event, Frame):  # the response to the upgrade
                continue
            if event.opcode in (Opcode.BINARY, Opcode.CONT):
                self._collect(event)
            else:
                answer = True
        if answer or ended:
            self._answer()
        if ended and not self._binary:
            raise self._ended()

    def _at_end(self) -> bytes:
        """State lock: held."""
        self._protocol.receive_eof()
        return b""

    def _collect(self, frame: Frame) -> None:
        data = bytes(frame.data)
        if frame.fin and not self._fragments:
            self._binary.append(data)
            return
        self._fragments.append(data)
        if frame.fin:
            self._binary.append(b"".join(self._fragments))
            self._fragments = []

    def _answer(self) -> None:
        """Pongs and close frames; where a send is going on, the next send takes them along."""
        if self._send_lock.acquire(blocking=False):
            try:
                self._flush()
            except OSError:
                pass  # the reader is about to see the same
            finally:
                self._send_lock.release()

    def _ended(self) -> TransportError:
        close = self._protocol.close_rcvd
        if close is not None and 4400 <= close.code < 4500:
            reason = close.reason or close_reason(close.code, "")
            return HandshakeRefused(close.code, with_hint(close.code, reason))
        return TransportError(self._why_closed())

    def _why_closed(self) -> str:
        close = self._protocol.close_rcvd
        if close is not None:
            return f"closed by the other side: {close.reason or close_reason(close.code, '')} (close code {close.code})"
        if self._closed:
            return CLOSED_HERE
        error = self._protocol.parser_exc
        return f"the connection was lost ({error})" if error else "the connection was lost"

    # Closing

    def close(self) -> None:
        """Thread-safe, idempotent: what blocks in open(), send() or receive() is woken and raises.

        The thread that receives calls release() when it is done.
        """
        if self._closed:
            return
        self._closed = True
        self._say_why(1000, "")
        sock = self._socket
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected, or gone already

    def release(self) -> None:
        """Give the socket back, once nobody receives any more. Blocks until a send() has noticed."""
        self.close()
        with self._send_lock:
            if self._socket is not None:
                self._socket.close()

    def abandon(self) -> None:
        """In the child of a fork: give up this process's copy of the socket and leave the parent's alone."""
        self._closed = True
        if self._socket is not None:
            self._socket.close()

    def _say_why(self, code: int, reason: str) -> None:
        """Send a close frame if that can be done at once."""
        sock = self._socket
        if sock is None or sock.fileno() < 0 or not self._send_lock.acquire(blocking=False):
            return
        try:
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            with self._state_lock:
                if self._protocol.state is not State.OPEN:
                    return
                self._protocol.send_close(code, close_reason(code, reason) if code != 1000 else "")
            if poll.poll(0):
                self._flush()
        except (OSError, WebSocketException, InvalidHandshake):
            pass  # politeness only: the connection ends in any case
        finally:
            self._send_lock.release()
