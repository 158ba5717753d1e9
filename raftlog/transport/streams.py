"""Where an outgoing connection leads, and the bytes over it: TCP or a Unix socket, with TLS or without.

TLS is done apart from the socket (memory BIOs), because an SSLSocket may not be read by one thread while
another writes it, and a connection has one thread for each.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from raftlog.exceptions import TransportError
from raftlog.runtime import clock

RECEIVE_BYTES: Final = 64 * 1024
# A blocked socket call returns this often, in seconds, to look at deadlines.
SLICE: Final = 0.5


@dataclass(frozen=True)
class Target:
    """A parsed address: "ws://host:port", "wss://host:port", "unix:/path" or a path."""

    scheme: str  # ws, wss or unix
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, address: str) -> Target:
        """Raises ValueError, saying what an address looks like."""
        if address.startswith(("unix:", "/")):
            return cls("unix", path=address.removeprefix("unix:"))
        parts = urlsplit(address)
        port = parts.port
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"address {address!r} is neither ws://host:port, wss://host:port nor unix:/path")
        return cls(parts.scheme, parts.hostname, port or (443 if parts.scheme == "wss" else 80))

    def url(self, path: str) -> str:
        if self.scheme == "unix":
            return f"ws://localhost{path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{path}"

    def sockets(self) -> list[tuple[int, object]]:
        """(family, address) in the order to try them. Raises OSError where the name cannot be resolved."""
        if self.scheme == "unix":
            return [(socket.AF_UNIX, self.path)]
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]


class Wire(Protocol):
    """Turns what is to be sent into what goes over the socket, and back. The caller sees to it that one thread
    at a time is in it."""

    def wrap(self, data: bytes) -> bytes: ...

    def unwrap(self, data: bytes) -> bytes:
        """Returns b"" where nothing is complete yet."""
        ...

    @property
    def pending(self) -> bool:
        """It has something to send by itself: call wrap(b"")."""
        ...


class PlainWire:
    pending = False

    def wrap(self, data: bytes) -> bytes:
        return data

    def unwrap(self, data: bytes) -> bytes:
        return data


class TlsWire:
    """A TLS session between two memory buffers."""

    def __init__(self, context: ssl.SSLContext, server_hostname: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)

    def handshake(self, sock: socket.socket, deadline: float) -> None:
        """Blocks. Raises OSError (ssl.SSLError among them)."""
        while True:
            done = False
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            if out := self._outgoing.read():
                sock.settimeout(_left(deadline))
                sock.sendall(out)
            if done:
                return
            sock.settimeout(_left(deadline))
            data = sock.recv(RECEIVE_BYTES)
            if not data:
                raise TransportError("the connection was closed during the TLS handshake")
            self._incoming.write(data)

    def wrap(self, data: bytes) -> bytes:
        if data:
            self._tls.write(data)
        return self._outgoing.read()

    def unwrap(self, data: bytes) -> bytes:
        self._incoming.write(data)
        parts = []
        try:
            while part := self._tls.read(RECEIVE_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # ended by the other side, which frames would notice
            pass
        return b"".join(parts)

    @property
    def pending(self) -> bool:
        return self._outgoing.pending > 0


def _left(deadline: float) -> float:
    left = deadline - clock.monotonic()
    if left <= 0:
        raise TransportError("no connection within the time limit")
    return left


def connect_socket(sock: socket.socket, address: object, deadline: float) -> None:
    """Raises OSError, TransportError."""
    sock.settimeout(_left(deadline))
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.connect(address)  # type: ignore[arg-type]


def client_ssl_context(ca: str | None = None, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """For wss. `ca` verifies the server (None: the system's roots), `certificate` and `key` show who this is."""
    context = ssl.create_default_context(cafile=ca)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
