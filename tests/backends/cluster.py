"""Several hosts in one process: each has its database, its connection and its own pace of applying one shared log."""

from __future__ import annotations

import sqlite3
from contextlib import nullcontext

from django.db import connections
from django.db.backends.sqlite3._functions import register

from raftlog.backends.log import use_log
from raftlog.replication.certify import Verdict
from raftlog.replication.key_blocks import KeyBlocks
from raftlog.replication.transactions import TransactionApplier
from raftlog.replication.write_set import reservation
from tests.backends.conftest import contents


class Host:
    """One node and its application: `holds_turn` False, as with a real node, which applies on its own connection."""

    holds_turn = False

    def __init__(self, cluster: Cluster, name: str, path, **options) -> None:
        self.cluster = cluster
        self.name = name
        self.key_blocks = KeyBlocks()
        use_log(name, self)
        options = {"init_command": "PRAGMA synchronous = OFF", **options}
        connections.databases[name] = {**connections.databases["default"], "NAME": str(path), "OPTIONS": options}
        connections.databases[name] |= {"ENGINE": "raftlog.backends.sqlite3"}
        self.connection = connections[name]
        self.raw = sqlite3.connect(path, isolation_level=None)
        register(self.raw)
        self.raw.execute("PRAGMA journal_mode = WAL")
        self.applier = TransactionApplier(self.raw)
        self.applier.marks.make_tables()
        self.verdicts: list[Verdict] = []

    def commit(self, write_set, body, applier) -> Verdict:
        self.cluster.entries.append(body)
        return self.catch_up()

    def cluster_turn(self, timeout, *, is_fence=False):
        """Never granted: these tests are about conflicts."""
        return nullcontext(False)

    @property
    def holds_locks(self) -> bool:
        """Applying here would wait for the transaction that is open."""
        return self.connection.connection.control.turn.held

    def reserve(self, table, count) -> Verdict:
        self.cluster.entries.append(reservation(table, count))
        return self.catch_up()

    def connected(self, cluster_id) -> None:
        """The hosts of a test belong to one cluster."""

    def catch_up(self, upto: int | None = None) -> Verdict:
        for index in range(len(self.verdicts) + 1, (len(self.cluster.entries) if upto is None else upto) + 1):
            self.verdicts.append(self.applier.apply_alone(index, self.cluster.entries[index - 1]))
        return self.verdicts[-1]

    def run(self, sql, *params):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    def close(self) -> None:
        self.connection.close()
        self.raw.close()
        del connections[self.name]
        del connections.databases[self.name]


class Cluster:
    def __init__(self, folder, count: int, **options) -> None:
        self.entries: list[bytes] = []
        self.hosts = [Host(self, f"host{number}", folder / f"{number}.sqlite3", **options) for number in range(count)]

    def assert_equal(self) -> None:
        first, *others = self.hosts
        first.catch_up()
        for host in others:
            host.catch_up()
            assert host.verdicts == first.verdicts
            assert contents(host.raw) == contents(first.raw)

    def close(self) -> None:
        for host in self.hosts:
            host.close()
