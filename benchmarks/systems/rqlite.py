"""rqlite: SQLite under Raft, asked through its documented HTTP API. No package of it is in Debian."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.systems import Client
from benchmarks.systems.json_http import JsonConnection, Refused
from benchmarks.systems.servers import (
    Launched,
    Running,
    Servers,
    addresses,
    leader_first,
    version_said,
    wait_until,
    what_is_missing,
)

TIMEOUT = 20.0  # seconds for one request
STATEMENTS = 500  # in one request of a pipeline: its Bulk API, one Raft entry for all of them
SCHEMA = "CREATE TABLE IF NOT EXISTS bench (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
PUT = "INSERT INTO bench (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


@dataclasses.dataclass(frozen=True)
class RqliteTarget:
    """Addresses of the HTTP API, the leader's first: a follower would pass each request on."""

    addresses: tuple[str, ...]

    def connect(self) -> Client:
        return RqliteClient(self.addresses[0])

    def pipeline(self, seconds: float, size: int, key: str) -> int:
        client = RqliteClient(self.addresses[0])
        try:
            value = base64.b64encode(b"x" * size).decode()
            statements = [[PUT, f"{key}-{number}", value] for number in range(STATEMENTS)]
            count = 0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                client.execute(statements)
                count += STATEMENTS
            return count
        finally:
            client.close()


class RqliteClient:
    def __init__(self, address: str) -> None:
        self._connection = JsonConnection(address, TIMEOUT)

    def put(self, key: str, value: bytes) -> None:
        self.execute([[PUT, key, base64.b64encode(value).decode()]])

    def get(self, key: str) -> bytes | None:
        question = [["SELECT value FROM bench WHERE key = ?", key]]
        rows = _results(self._connection.post("/db/query?level=linearizable", question))[0].get("values")
        return base64.b64decode(rows[0][0]) if rows else None

    def close(self) -> None:
        self._connection.close()

    def execute(self, statements: list[Any]) -> None:
        _results(self._connection.post("/db/execute", statements))


def _results(answer: Any) -> list[dict[str, Any]]:
    """Raises Refused with what SQLite said: rqlite answers 200 to a statement that failed."""
    results: list[dict[str, Any]] = answer["results"]
    for result in results:
        if "error" in result:
            raise Refused(str(result["error"]))
    return results


@dataclasses.dataclass(frozen=True)
class Rqlite(Launched):
    name: str = "rqlite"
    durability: str = "fsync of the Raft log on a majority; applied to the leader's SQLite"

    def versions(self) -> dict[str, str]:
        return {"rqlited": version_said(["rqlited", "-version"])}

    def missing(self) -> str:
        return what_is_missing(["rqlited"])

    @contextmanager
    def launch(self, folder: Path, nodes: int) -> Iterator[Running]:
        """Nodes that find each other as the clustering guide says: -bootstrap-expect and -join. Raises ServerFailed."""
        clients, rafts = addresses(nodes)
        with Servers(folder) as servers:
            for name, raft in rafts.items():
                options = [f"-node-id={name}", f"-http-addr={clients[name]}", f"-raft-addr={raft}"]
                joins = [f"-bootstrap-expect={nodes}", f"-join={','.join(rafts.values())}"]
                servers.start(name, [str(shutil.which("rqlited")), *options, *joins, str(folder / name)])
            found: list[str] = []
            wait_until(
                lambda: bool(found or _leader(next(iter(clients.values())), nodes, found)),
                servers,
                OSError,
                Refused,
                http.client.HTTPException,
                ValueError,
            )
            places, followers = leader_first(clients, found[0])
            client = RqliteClient(places[0])
            try:
                client.execute([SCHEMA])
            finally:
                client.close()
            yield Running(RqliteTarget(places), servers, followers)


def _leader(address: str, nodes: int, found: list[str]) -> bool:
    """Put the name of the leader into `found`, once all nodes can be reached."""
    connection = JsonConnection(address, 2.0)
    try:
        seen = connection.get("/nodes?ver=2")["nodes"]
    finally:
        connection.close()
    if len(seen) == nodes and all(node.get("reachable") for node in seen):
        found += [str(node["id"]) for node in seen if node.get("leader")][:1]
    return bool(found)


SYSTEMS = [Rqlite()]
