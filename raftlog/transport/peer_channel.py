"""The outgoing connection of one peer thread (runtime.ports.PeerChannel).

The peer's thread connects and sends; a reader thread of the channel, one for each connection, hands the answers on.
"""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Final

from raftlog.exceptions import FrameRefused, TransportError
from raftlog.runtime.ports import ChannelFactory, OnClose, OnMessage, PeerChannel, PeerMessage
from raftlog.transport.close_codes import WRONG_NODE
from raftlog.transport.connection import SEND_TIMEOUT, Connection
from raftlog.transport.frames import MAX_MESSAGE_BYTES, PEER_CODEC
from raftlog.transport.handshake import PEER, PEER_PATH, ClientHandshake, Identity, RemoteHello

CONNECT_TIMEOUT: Final = 2.0  # seconds, for connecting and the handshake together

OnHello = Callable[[RemoteHello], None]
OnRefused = Callable[[int, str, str], None]


class Backoff:
    """How long to wait before connecting again: doubles from `first` to `limit` seconds, with jitter."""

    def __init__(self, rng: random.Random, first: float = 0.02, limit: float = 1.0) -> None:
        self._rng = rng
        self._first = first
        self._limit = limit
        self._next = first

    def next(self) -> float:
        """Seconds to wait now: between a half and the whole of the step, so that nodes don't march in step."""
        step, self._next = self._next, min(self._next * 2, self._limit)
        return step * (0.5 + self._rng.random() / 2)

    def reset(self) -> None:
        """It worked."""
        self._next = self._first


class WebSocketPeerChannel:
    """See PeerChannel. `address()` is asked at each connect(), since members move."""

    def __init__(
        self,
        peer_id: str,
        address: Callable[[], str],
        identity: Identity,
        on_message: OnMessage,
        on_close: OnClose,
        *,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        send_timeout: float = SEND_TIMEOUT,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        on_hello: OnHello = lambda remote: None,
        on_refused: OnRefused = lambda code, reason, peer: None,
    ) -> None:
        self._on_hello = on_hello
        self._on_refused = on_refused
        self._peer_id = peer_id
        self._address = address
        self._identity = identity
        self._on_message = on_message
        self._on_close = on_close
        self._ssl_context = ssl_context
        self._connect_timeout = connect_timeout
        self._send_timeout = send_timeout
        self._max_message_bytes = max_message_bytes
        self._connection: Connection[PeerMessage] | None = None
        self._reader: threading.Thread | None = None
        self.is_connected = False
        # What the peer said of itself when the connection was made: incarnation, commands, vendor.
        self.remote_hello: RemoteHello | None = None

    def connect(self) -> None:
        """Raises TransportError (HandshakeRefused among them), OSError."""
        reader = self._reader
        if reader is not None:
            # Until it ended, the last connection's on_close may still be under way and would be taken for this one's.
            self.close()
            reader.join(self._connect_timeout)
            if reader.is_alive():
                raise TransportError(f"the reader of the last connection to {self._peer_id} has not ended yet")
            self._reader = None
        handshake = ClientHandshake(
            self._identity, PEER, PEER_CODEC, recipient=self._peer_id, max_message_bytes=self._max_message_bytes
        )
        try:
            connection: Connection[PeerMessage] = Connection(
                self._address(), PEER_PATH, ssl_context=self._ssl_context, send_timeout=self._send_timeout
            )
        except ValueError as error:
            raise TransportError(f"address of {self._peer_id}: {error}") from error
        self._connection = connection
        connection.open(handshake, self._connect_timeout)
        self.remote_hello = connection.remote
        self._on_hello(connection.remote)
        self.is_connected = True
        name = f"raftlog-{self._identity.node_id}-reader-{self._peer_id}"
        self._reader = threading.Thread(target=self._read, args=(connection,), name=name, daemon=True)
        self._reader.start()

    def send(self, messages: Sequence[PeerMessage], urgent: Callable[[], Sequence[PeerMessage]] = tuple) -> None:
        connection = self._connection
        if connection is None or not self.is_connected:
            raise TransportError(f"not connected to {self._peer_id}")
        try:
            connection.send(messages, urgent)
        except (OSError, TransportError):
            connection.close()  # the reader wakes and tells on_close
            raise

    def close(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.close()

    def _read(self, connection: Connection[PeerMessage]) -> None:
        """Body of the reader thread. Whatever ends it, on_close is called, once."""
        reason = "the reader thread failed"
        try:
            while True:
                messages = connection.receive()
                for message in messages:
                    self._check(message)
                if messages:
                    self._on_message(messages)
        except (OSError, TransportError) as error:
            reason = str(error)
            if isinstance(error, FrameRefused):
                self._on_refused(error.code, reason, self._peer_id)
        finally:
            self.is_connected = False
            connection.release()
            self._on_close(reason)

    def _check(self, message: PeerMessage) -> None:
        if message.sender != self._peer_id or message.recipient != self._identity.node_id:
            raise FrameRefused(
                f"a message from {message.sender[:40]!r} to {message.recipient[:40]!r} "
                f"on the connection of {self._identity.node_id!r} to {self._peer_id!r}",
                WRONG_NODE,
            )


def channel_factory(
    identity: Identity,
    address_of: Callable[[str], str],
    *,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    send_timeout: float = SEND_TIMEOUT,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    on_hello: OnHello = lambda remote: None,
    on_refused: OnRefused = lambda code, reason, peer: None,
) -> ChannelFactory:
    """`address_of(peer_id)` is asked at each connect(); let it raise TransportError where it knows none.

    `on_hello` is called with what a peer says of itself, before anything is sent to it; `on_refused` with close code,
    reason and peer where a frame of its is refused, by the connection's reader thread.
    """

    def channel(peer_id: str, on_message: OnMessage, on_close: OnClose) -> PeerChannel:
        return WebSocketPeerChannel(
            peer_id,
            lambda: address_of(peer_id),
            identity,
            on_message,
            on_close,
            ssl_context=ssl_context,
            connect_timeout=connect_timeout,
            send_timeout=send_timeout,
            max_message_bytes=max_message_bytes,
            on_hello=on_hello,
            on_refused=on_refused,
        )

    return channel
