"""Requests with JSON bodies over one connection that is kept alive. One thread uses one connection."""

from __future__ import annotations

import http.client
import json
from typing import Any


class Refused(Exception):
    """An answer other than 200; the message has its status and body."""


class JsonConnection:
    """Raises Refused, OSError or http.client.HTTPException; the next request connects anew."""

    def __init__(self, address: str, timeout: float = 20.0) -> None:
        host, port = address.rsplit(":", 1)
        self._connection = http.client.HTTPConnection(host, int(port), timeout=timeout)

    def post(self, path: str, body: Any) -> Any:
        return self._request("POST", path, json.dumps(body))

    def get(self, path: str) -> Any:
        return self._request("GET", path, None)

    def close(self) -> None:
        self._connection.close()

    def _request(self, method: str, path: str, body: str | None) -> Any:
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if response.status != 200:
            raise Refused(f"{response.status} {text[:200].decode(errors='replace')}")
        return json.loads(text)
