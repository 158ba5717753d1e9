"""Three real nodes behind an alias, each with its own database: in this process, or in three of their own.

They are started by the first entry: by then the test runner has made the database that is node a's.
"""

from __future__ import annotations

import threading
from typing import Any

from django.db import connections
from django.db.utils import load_backend

from raftlog.backends.log import use_log
from raftlog.backends.node_log import NodeLog
from raftlog.conf import load_settings
from raftlog.host import local_proposer
from raftlog.node import Node
from raftlog.replication import propose
from raftlog.runtime import clock
from raftlog.runtime.ports import Proposer
from raftlog.testing.processes import ProcessCluster
from raftlog.transport.memory import MemoryNetwork
from suite_child.contents import SqliteFile, different
from suite_child.environment import FOLDER, NODES, RAFTLOG, VENDOR, node_database, node_folder
from suite_child.postgresql import PostgresqlDatabase, drop_databases, make_databases

PATIENCE = 120.0  # seconds for the slowest node to apply what the fastest has


class CountingLog(NodeLog):
    """The log of a running cluster, as in production, counted."""

    def __init__(self, copies: Copies) -> None:
        super().__init__()
        self._copies = copies

    def commit(self, write_set, body, applier):
        self._copies.entries += 1
        self._copies.rows += write_set.row_count
        return super().commit(write_set, body, applier)

    def reserve(self, table, count):
        self._copies.entries += 1
        return super().reserve(table, count)


class Copies:
    """The databases of three nodes."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.entries = self.rows = self.comparisons = 0
        self.unequal: list[str] = []
        self._is_started = False
        self._files: list[Any] = []
        self._compared = 0
        use_log(alias, CountingLog(self))
        propose.set_proposer_factory(self._proposer)

    def _proposer(self) -> Proposer:
        """Called once, under a lock, when the first entry is proposed."""
        if VENDOR == "postgresql":
            make_databases([node_database(name) for name in NODES[1:]])
        proposer = self.start()
        self._is_started = True
        return proposer

    def start(self) -> Proposer:
        """Start the nodes, and return the way to node a."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def failures(self) -> list[str]:
        raise NotImplementedError

    def compare(self, moment: str) -> None:
        """All that the three databases hold, once all have applied the same entries."""
        if not self._is_started:
            return
        if not self._files:
            look = PostgresqlDatabase if VENDOR == "postgresql" else SqliteFile
            self._files = [look(node_database(name)) for name in NODES]
        self.unequal += [f"{moment}: {words}" for words in self.failures()]
        deadline = clock.monotonic() + PATIENCE
        while clock.monotonic() < deadline and not self.failures():
            before = [file.applied_index() for file in self._files]
            if len(set(before)) > 1:
                clock.sleep(0.0005)
                continue
            if before[0] == self._compared:
                return
            first, *others = [file.contents() for file in self._files]
            if before != [file.applied_index() for file in self._files]:  # a new leader's first entry
                continue
            self._compared = before[0]
            self.comparisons += 1
            for name, found in zip(NODES[1:], others, strict=True):
                if names := different(first, found):
                    self.unequal.append(f"{moment}: node {name} differs in {names}")
            return
        self.unequal.append(f"{moment}: applied indices {[file.applied_index() for file in self._files]}")

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []
        if self._is_started:
            self._is_started = False
            propose.set_proposer_factory(None)
            self.stop()
            if VENDOR == "postgresql":
                drop_databases([node_database(name) for name in NODES[1:]])


class NodeCopies(Copies):
    """Three `Node`s in this process, with real folders, on a network in memory."""

    def start(self) -> Proposer:
        self._network = MemoryNetwork()
        self._nodes: dict[str, Node] = {}
        use_databases_by_thread(self.alias)
        for name in NODES:
            # In a thread of its own: the connections of this one may be in the middle of a commit.
            starting = threading.Thread(target=self._start, args=(name,), name=f"raftlog-{name}-start")
            starting.start()
            starting.join()
        return self._nodes["a"].service

    def _start(self, name: str) -> None:
        settings = load_settings({**RAFTLOG, "NODE_ID": name, "DATA_DIR": str(node_folder(name))})
        node = Node(settings, channel_factory=self._network.channel_factory(name))
        node.start()
        self._network.register(name, node.service)
        self._nodes[name] = node

    def stop(self) -> None:
        for node in self._nodes.values():
            node.stop()
        self._network.close()

    def failures(self) -> list[str]:
        return [node.failure for node in self._nodes.values() if node.failed.is_set()]


def use_databases_by_thread(alias: str) -> None:
    """In the threads of nodes b and c the alias is their own database, as the same settings elsewhere would have it."""
    create = connections.create_connection

    def create_connection(asked: str) -> Any:
        node = threading.current_thread().name.removeprefix("raftlog-")[:2]
        if asked != alias or node not in [f"{name}-" for name in NODES[1:]]:
            return create(asked)
        settings = {**connections.settings[alias], "NAME": node_database(node[0])}
        return load_backend(settings["ENGINE"]).DatabaseWrapper(settings, alias)

    connections.create_connection = create_connection


class ProcessCopies(Copies):
    """Three `manage.py raft run`; this process is an application's on the host of node a."""

    def start(self) -> Proposer:
        self._cluster = ProcessCluster(
            len(NODES),
            FOLDER,
            settings_module="suite_child.settings_node",
            options={key: RAFTLOG[key] for key in ("CLUSTER", "SECRET_KEYS", "PROPOSAL_TIMEOUT", "ELECTION_TIMEOUT")},
        )
        self._cluster.start()
        self._cluster.wait_for_leader(timeout=PATIENCE)
        return local_proposer()

    def stop(self) -> None:
        self._cluster.close()

    def failures(self) -> list[str]:
        return [f"node {node.node_id} ended:\n{node.output()}" for node in self._cluster if node.has_died]
