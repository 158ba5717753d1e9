"""raftlog itself: the log alone (as `manage.py raft bench` measures it), and rows through the ORM."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.systems import Client, System
from raftlog.consensus.entries import COMMAND, client_payload
from raftlog.runtime.ports import Outcome, Proposer
from raftlog.testing.bench.client import TIMEOUT, BenchmarkFailed, Load, check_applied, run_pipelined
from raftlog.testing.bench.figures import StartedCluster
from raftlog.testing.processes import NodeProcess

BATCH_BYTES = 256 << 10  # of proposals that are handed over in one call, where pipelined
WINDOW_BYTES = 16 << 20  # outstanding, where pipelined
WINDOW = 8192  # proposals outstanding, where their values are small

_setting_up = threading.Lock()


@dataclasses.dataclass(frozen=True)
class RaftlogTarget:
    """The node of one host, as an application process of that host reaches it. `environment` is the node's."""

    environment: Mapping[str, str]

    def connect(self) -> Client:
        return LogClient(self.proposer())

    def pipeline(self, seconds: float, size: int, key: str) -> int:
        batch = max(1, min(256, BATCH_BYTES // size))
        window = max(batch, min(WINDOW, WINDOW_BYTES // size))
        load = Load("pipelined", seconds, value_bytes=size, window=window, batch=batch)
        return run_pipelined(self.proposer(), load).count

    def proposer(self) -> Proposer:
        self.set_up()
        from raftlog.host import local_proposer

        return local_proposer()

    def set_up(self) -> None:
        """Make this process an application of that host. Raises RuntimeError where it is one of another."""
        import django
        from django.conf import settings

        with _setting_up:
            os.environ.update(self.environment)
            if json.loads(self.environment["RAFTLOG_OPTIONS"]) != settings.RAFTLOG:
                raise RuntimeError("this process has its settings already: connect in a process of its own")
            django.setup()


@dataclasses.dataclass(frozen=True)
class OrmTarget(RaftlogTarget):
    def connect(self) -> Client:
        self.set_up()
        return OrmClient()


class LogClient:
    """Puts are entries of a log that no database applies. A get asks for a safe index; there is no value to give."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer
        self._session = os.urandom(16)
        self._sequence = 0
        self._answers: queue.SimpleQueue[list[Outcome]] = queue.SimpleQueue()
        self._indexes: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()

    def put(self, key: str, value: bytes) -> None:
        self._sequence += 1
        payload = client_payload(COMMAND, self._session, self._sequence, 0, key.encode() + value)
        self._proposer.propose([payload], TIMEOUT, self._answers.put)
        check_applied(self._answers.get())

    def get(self, key: str) -> bytes | None:
        self._proposer.read(TIMEOUT, lambda index, reason: self._indexes.put((index, reason)))
        index, reason = self._indexes.get()
        if not index:
            raise BenchmarkFailed(f"no linearizable read: {reason}")
        return None

    def close(self) -> None: ...  # the connection to the node is the process's, shared by its threads


class OrmClient:
    """A key is a row; a put is one upsert in a transaction of its own."""

    def __init__(self) -> None:
        from raftlog.testing.bench_site.models import Row

        self._rows: Any = Row.objects
        self._make: Any = Row

    def put(self, key: str, value: bytes) -> None:
        row = self._make(id=row_id(key), value=value.decode("latin-1"))
        self._rows.bulk_create([row], update_conflicts=True, unique_fields=["id"], update_fields=["value"])

    def get(self, key: str) -> bytes | None:
        from raftlog import linearizable

        with linearizable():
            found = self._rows.filter(pk=row_id(key)).values_list("value", flat=True).first()
        return None if found is None else found.encode("latin-1")

    def close(self) -> None:
        from django.db import connection

        connection.close()


def row_id(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest(), "big")


@dataclasses.dataclass(frozen=True)
class Raftlog:
    """`machine` is "log" or "database"."""

    name: str
    machine: str
    durability: str

    def versions(self) -> dict[str, str]:
        return {}

    def missing(self) -> str:
        return ""

    @contextlib.contextmanager
    def start(self, folder: Path, nodes: int) -> Iterator[RaftlogTarget]:
        with self.cluster(folder, nodes) as cluster:
            yield self.target(cluster[cluster.wait_for_leader(60)])

    def cluster(self, folder: Path, nodes: int) -> StartedCluster:
        return StartedCluster(nodes, folder, self.machine)

    def target(self, node: NodeProcess) -> RaftlogTarget:
        """An application process on the host of `node`."""
        return (RaftlogTarget if self.machine == "log" else OrmTarget)(node.environment)


LOG = Raftlog("raftlog", "log", "fsync on a majority")
ORM = Raftlog("raftlog, through the ORM", "database", "fsync on a majority, and applied to the local database")
SYSTEMS: list[System] = [LOG, ORM]
