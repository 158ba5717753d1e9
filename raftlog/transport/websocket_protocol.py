"""Daphne's WebSocket protocol with a shorter way for frames: it halves what a message and its answer cost the loop.

Import it after daphne.server, which decides on the reactor (server.py). What is shorter (`python -m benchmarks.frames`
shows what it buys):
- a frame is written to the socket at once, where nothing waits before it, instead of by the next turn of the loop;
- payloads are unmasked by one call of a C function (websockets'), not by a native object made for each frame;
- no texts for debugging are made where nobody reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import autobahn.websocket.protocol as autobahn_protocol
from daphne.ws_protocol import WebSocketProtocol
from websockets import frames

from twisted.internet import reactor, tcp  # isort: skip - after Daphne has installed its reactor

MASK_BYTES: Final = 4
the_reactor: Any = reactor  # Twisted's own type is wider than the reactor that runs

mask_of_frames: Callable[[bytes, bytes], bytes] = vars(frames)["apply_mask"]  # the C function where there is one


class Masker:
    """What autobahn.websocket.xormasker makes for each frame: XOR with a mask of four bytes that goes round."""

    __slots__ = ("_mask", "_offset")

    def __init__(self, mask: bytes, length: int | None = None) -> None:
        self._mask = bytes(mask)
        self._offset = 0

    def pointer(self) -> int:
        """How many bytes were processed."""
        return self._offset

    def reset(self) -> None:
        self._offset = 0

    def process(self, data: bytes) -> bytes:
        turn = self._offset % MASK_BYTES
        self._offset += len(data)
        mask = self._mask[turn:] + self._mask[:turn] if turn else self._mask
        return mask_of_frames(bytes(data), mask)


class DirectWebSocketProtocol(WebSocketProtocol):  # type: ignore[misc]
    """One inbound connection. The event loop's thread only."""

    def dataReceived(self, data: bytes) -> None:
        """As autobahn's, without the text for its debugging log."""
        self._dataReceived(data)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write what the socket takes now, and let Twisted write the rest.

        Where something waits to be written already (the transport is among the reactor's writers), behind it. Over TLS
        as autobahn does it: what is written must be encrypted first.
        """
        transport: Any = self.transport
        if sync or chopsize or self.send_queue or self.state != self.STATE_OPEN or not is_plain(transport):
            super().sendData(data, sync, chopsize)
            return
        if transport.connected and not transport.disconnecting and transport not in the_reactor.getWriters():
            written = transport.writeSomeData(data)
            if isinstance(written, int):  # else the connection is lost, which write() finds too
                data = data[written:]
        if data:
            transport.write(data)


def is_plain(transport: Any) -> bool:
    """Whether what is written to the transport's socket is what the other side reads: a TCP or Unix socket, no TLS.

    TLS wraps the socket's transport and passes on every attribute that it has not got itself: ask for the class.
    """
    return isinstance(transport, tcp.Connection) and not transport.TLS


def use_direct_protocol(factory: Any) -> None:
    """Have Daphne's factory of WebSocket protocols make these."""
    factory.protocol = DirectWebSocketProtocol
    vars(autobahn_protocol)["create_xor_masker"] = Masker  # looked up there for each frame
