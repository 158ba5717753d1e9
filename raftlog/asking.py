"""Asking a node something by name: the one of this host, or a member at its address. For whoever is no node itself."""

from __future__ import annotations

import ssl
from typing import Any

from raftlog.conf import Settings
from raftlog.transport.client import NodeClient


def client_tls(settings: Settings) -> ssl.SSLContext:
    """For outgoing wss connections: verify the other side, show our certificate."""
    context = ssl.create_default_context(cafile=str(settings.tls_ca) if settings.tls_ca else None)
    if settings.tls_certificate:
        context.load_cert_chain(str(settings.tls_certificate), str(settings.tls_key) if settings.tls_key else None)
    return context


def ask(
    settings: Settings, name: str, arguments: dict[str, Any] | None = None, *, target: str | None = None, timeout: float
) -> Any:
    """What this host's node, or the member at `target` (ws://host:port), answers to the request `name`.

    Over a connection of its own. Raises NodeUnavailable, RequestFailed, OSError; `timeout` in seconds.
    """
    context = client_tls(settings) if target and target.startswith("wss://") else None
    client = NodeClient(
        target or f"unix:{settings.socket_path}",
        settings.secret_keys,
        settings.cluster,
        ssl_context=context,
        connect_timeout=timeout,
    )
    try:
        return client.request(name, arguments, timeout=timeout)
    finally:
        client.close()


def fetch_status(settings: Settings, target: str | None = None, timeout: float = 2.0) -> dict[str, Any]:
    """Status of this host's node, or of the member at `target` (ws://host:port). Raises as ask()."""
    status: dict[str, Any] = ask(settings, "status", target=target, timeout=timeout)
    return status
