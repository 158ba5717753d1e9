"""Asking a peer something by name, as an app process asks its node: for what is no part of Raft.

Thread-safe: requests to one peer share a connection, made at the first and again after it was lost.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from raftlog.transport.client import NodeClient

REQUEST_TIMEOUT: Final = 1.0  # seconds
CONNECT_TIMEOUT: Final = 0.5


class PeerRequests:
    """`address_of` a peer raises TransportError where none is known."""

    def __init__(
        self,
        address_of: Callable[[str], str],
        secret_keys: Sequence[bytes],
        cluster: str,
        ssl_context: Callable[[], ssl.SSLContext | None],
    ) -> None:
        self._address_of = address_of
        self._secret_keys = secret_keys
        self._cluster = cluster
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._clients: dict[str, NodeClient] = {}

    def ask(self, peer: str, name: str, arguments: dict[str, Any], timeout: float = REQUEST_TIMEOUT) -> Any:
        """Raises NodeUnavailable, RequestFailed, TransportError."""
        address = self._address_of(peer)
        with self._lock:
            client = self._clients.get(address)
            if client is None:
                client = self._clients[address] = NodeClient(
                    address,
                    self._secret_keys,
                    self._cluster,
                    ssl_context=self._ssl_context(),
                    connect_timeout=CONNECT_TIMEOUT,
                )
        return client.request(name, arguments, timeout=timeout)

    def close(self) -> None:
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()
