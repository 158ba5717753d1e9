"""Addresses of nodes, as settings and commands write them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit


def parse_address(address: str) -> tuple[str, str, int]:
    """ws://host:port -> (scheme, host, port). Raises ValueError, which says what is wrong."""
    parts = urlsplit(address)
    if parts.scheme not in ("ws", "wss"):
        raise ValueError(f"the scheme must be ws or wss, not {parts.scheme or 'missing'}")
    if not parts.hostname:
        raise ValueError("the host is missing")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port must be a number from 1 to 65535") from None
    if not port:
        raise ValueError("the port is missing")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise ValueError("nothing may follow the port, nor a user stand before the host")
    return parts.scheme, parts.hostname, port


def parse_bind(value: str | tuple[str, int] | list[Any]) -> tuple[str, int]:
    """'host:port', '[::1]:port', ':port' or (host, port) -> (host, port). Raises ValueError."""
    if not isinstance(value, str):
        if len(value) != 2 or not isinstance(value[0], str):
            raise ValueError("it must be a host and a port")
        value = f"{value[0]}:{value[1]}"
    host, _, port = value.rpartition(":")
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError("the port must be a number from 1 to 65535")
    return host.strip("[]") or "0.0.0.0", int(port)
