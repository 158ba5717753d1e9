"""A cluster in the test's own process: real cores and threads, a database for each node, faults on call.

    with Cluster(3) as cluster:
        buy.propose(item_id=3)
        cluster.kill_leader()
        with cluster.on("b"):
            Item.objects.create(name="tea")
        cluster.assert_equal()

The log is in memory, the network too; the databases are SQLite files, and both commands and transactions work. What a
killed node had not synced is lost. It needs no Django test database, and must not stand inside a TestCase's
transaction: other threads, with other connections, apply what the test proposes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.test.utils import override_settings

from raftlog.backends.log import Applier, log_replaced
from raftlog.backends.node_log import NodeLog
from raftlog.exceptions import NodeUnavailable
from raftlog.replication.certify import Verdict
from raftlog.replication.key_blocks import KeyBlocks
from raftlog.replication.propose import limits, proposing_to
from raftlog.replication.write_set import WriteSet
from raftlog.runtime import clock
from raftlog.runtime.ports import Outcome
from raftlog.runtime.server import RaftServer
from raftlog.testing.cluster_databases import NodeDatabases, make_folder
from raftlog.testing.cluster_node import ClusterNode
from raftlog.testing.contents import MAX_SHOWN, differences, read_contents
from raftlog.transport.memory import MemoryNetwork

START_TIMEOUT = 30.0  # seconds: the machine may be busy
STOP_TIMEOUT = 10.0


class Cluster:
    """Enter it, once. Its methods are for the thread that entered it; other threads may propose and use the ORM.

    Args:
        nodes: how many; they are called a, b, c, …
        alias: of the replicated database; RAFTLOG["DATABASE"] where it is not given.
        timeout: seconds for a proposal or commit, in place of RAFTLOG["PROPOSAL_TIMEOUT"].
        election_timeout: seconds. A killed leader is replaced within two to three of them.
        engine: ENGINE of the databases, where the project's is not for SQLite.

    Raises ValueError.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        alias: str = "",
        timeout: float = 5.0,
        election_timeout: float = 0.25,
        engine: str = "",
    ) -> None:
        if not 1 <= nodes <= 9:
            raise ValueError(f"nodes is {nodes}; a cluster in one process has 1 to 9")
        self.names = [chr(ord("a") + number) for number in range(nodes)]
        self.alias = alias or limits().alias
        self.network = MemoryNetwork()
        self._folder = make_folder()
        self._databases = NodeDatabases(self.alias, self.names, self._folder, engine)
        self._nodes = {
            name: ClusterNode(name, self.names, self.alias, self.network, election_timeout) for name in self.names
        }
        self._timeout = timeout
        self._cut: list[tuple[set[str], set[str]]] = []
        self._paused: set[str] = set()
        self._entered = ExitStack()

    def __enter__(self) -> Cluster:
        with ExitStack() as entering:
            entering.callback(shutil.rmtree, self._folder, ignore_errors=True)
            own = {**getattr(django_settings, "RAFTLOG", {}), "DATABASE": self.alias, "PROPOSAL_TIMEOUT": self._timeout}
            entering.enter_context(override_settings(RAFTLOG=own))
            self._databases.open()
            entering.callback(self._databases.close)
            entering.enter_context(log_replaced(self.alias, LogHere(self)))
            entering.callback(self._stop)
            for node in self._nodes.values():
                node.make()
            for node in self._nodes.values():
                node.start()
            entering.enter_context(proposing_to(ProposerHere(self)))
            self.wait_applied(timeout=START_TIMEOUT)
            self._entered = entering.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failures = [f"node {node.name}: {node.failure}" for node in self._nodes.values() if node.failure]
        self._entered.close()
        if failures and kind is None:
            raise AssertionError("; ".join(failures))

    def _stop(self) -> None:
        try:
            unfinished = [name for node in self._nodes.values() for name in node.stop(STOP_TIMEOUT)]
        finally:
            self.network.close()
        if unfinished:
            raise AssertionError(f"these threads did not end within {STOP_TIMEOUT:g} s: {', '.join(unfinished)}")

    # Who is who

    @property
    def running(self) -> list[str]:
        return [name for name, node in self._nodes.items() if node.is_running]

    def leader(self, *among: str, timeout: float = 10.0) -> str:
        """The node that leads, once one does (one of `among`, if given). Raises TimeoutError."""
        found: str = self._wait(
            lambda: next((name for name in among or self.running if self._node(name).leads), ""), "a leader", timeout
        )
        return found

    def followers(self) -> list[str]:
        leader = self.leader()
        return [name for name in self.running if name != leader]

    def on(self, name: str) -> AbstractContextManager[None]:
        """Inside, this thread works on that node's host: the ORM on its database, proposals through it.

        Else it works on the first node that runs.
        """
        return self._databases.on(self._node(name).name)

    # Faults

    def kill(self, name: str) -> None:
        """The node's process is gone at once, with what it had not synced. Its database stays."""
        self._node(name).kill(STOP_TIMEOUT)
        self._paused.discard(name)
        if self.running:
            self._databases.leave(name, self.running[0])

    def kill_leader(self) -> str:
        """Returns whom it killed."""
        leader = self.leader()
        self.kill(leader)
        return leader

    def restart(self, name: str) -> None:
        """Start a node that was killed; one that runs is killed first."""
        if self._node(name).is_running:
            self.kill(name)
        node = self._node(name)
        node.make()
        node.start()
        self._connect()

    def partition(self, *groups: list[str]) -> None:
        """Nothing passes between these groups, until heal(): `cluster.partition(["a"], ["b", "c"])`."""
        for number, one in enumerate(groups):
            for name in one:
                self._node(name)
            self._cut += [(set(one), set(other)) for other in groups[number + 1 :]]
        self._connect()

    def heal(self) -> None:
        """All partitions are over; who is paused stays so."""
        self._cut.clear()
        self._connect()

    def pause(self, name: str) -> None:
        """The node hears and says nothing, and applies nothing, until resume(). Its election clock goes on."""
        self._node(name).gate.clear()
        self._paused.add(name)
        self._connect()

    def resume(self, name: str) -> None:
        self._node(name).gate.set()
        self._paused.discard(name)
        self._connect()

    def _connect(self) -> None:
        self.network.heal()
        paused = [({name}, set(self.names) - {name}) for name in self._paused]
        for ones, others in [*self._cut, *paused]:
            for one in ones:
                for other in others:
                    self.network.partition(one, other)

    # Comparing

    def wait_applied(self, *names: str, timeout: float = 10.0) -> int:
        """Wait until these nodes (all that run and are not paused) have applied what is committed; returns its index.

        Raises TimeoutError, naming how far each has come: in a partition, name the nodes of one side.
        """
        nodes = [self._node(name) for name in names or self.running if name not in self._paused]
        leader = self._node(self.leader(*(node.name for node in nodes), timeout=timeout))
        index = leader.commit_index

        def words() -> str:
            return f"entry {index} applied on " + ", ".join(f"{node.name} (at {node.last_applied})" for node in nodes)

        self._wait(lambda: all(node.last_applied >= index for node in nodes), words, timeout)
        return index

    def assert_equal(self, *names: str, timeout: float = 10.0) -> None:
        """The databases of these nodes (all that run and are not paused) hold the same, once all have applied the same.

        Raises AssertionError, which names table, key, column and both values.
        """
        self.wait_applied(*names, timeout=timeout)
        self._compare([name for name in names or self.running if name not in self._paused])

    def path(self, name: str) -> Path:
        """The SQLite file of a node."""
        return self._databases.paths[self._node(name).name]

    def _compare(self, names: list[str]) -> None:
        first, *others = names
        expected = read_contents(self.path(first))
        problems: list[str] = []
        for other in others:
            found = differences(expected, read_contents(self.path(other)))
            problems += [difference.words(f"on {first}", f"on {other}") for difference in found]
        if problems:
            more = [f"and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
            raise AssertionError("the databases differ:\n  " + "\n  ".join(problems[:MAX_SHOWN] + more))

    def _node(self, name: str) -> ClusterNode:
        if name not in self._nodes:
            raise ValueError(f"there is no node {name!r}; the nodes are {', '.join(self.names)}")
        return self._nodes[name]

    def _wait(self, condition: Callable[[], Any], what: str | Callable[[], str], timeout: float) -> Any:
        deadline = clock.monotonic() + timeout
        while not (result := condition()):
            if clock.monotonic() >= deadline:
                raise TimeoutError(f"not within {timeout:g} s: {what if isinstance(what, str) else what()}")
            clock.sleep(0.002)
        return result

    # For the proposer and the log of the calling thread

    def node_here(self) -> ClusterNode:
        """Raises NodeUnavailable where it is down."""
        node = self._nodes[self._databases.node_here()]
        if not node.is_running:
            others = ", ".join(self.running) or "none"
            raise NodeUnavailable(
                f"node {node.name} is down: cluster.restart({node.name!r}), or work on a host whose node runs "
                f"({others}): with cluster.on(…)"
            )
        return node


class ProposerHere:
    """Implements ports.Proposer: the node on whose host the calling thread works."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def of_this_thread(self) -> RaftServer:
        return self._cluster.node_here().server

    def propose(self, payloads: list[bytes], timeout: float, done: Callable[[list[Outcome]], None]) -> None:
        self.of_this_thread.propose(payloads, timeout, done)

    def read(self, timeout: float, done: Callable[[int, str], None]) -> None:
        self.of_this_thread.read(timeout, done)

    def take_turn(self, key: bytes, *, is_fence: bool, timeout: float) -> bool:
        return self.of_this_thread.take_turn(key, is_fence=is_fence, timeout=timeout)

    def renew_turn(self, key: bytes, *, is_fence: bool) -> None:
        self.of_this_thread.renew_turn(key, is_fence=is_fence)

    def release_turn(self, key: bytes) -> None:
        self.of_this_thread.release_turn(key)

    def status(self) -> dict[str, Any]:
        return self.of_this_thread.status()


class LogHere:
    """Implements backends.log.TransactionLog: that of the host on which the calling thread works."""

    holds_turn = False

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._logs = {name: NodeLog() for name in cluster.names}

    @property
    def _log(self) -> NodeLog:
        return self._logs[self._cluster._databases.node_here()]

    @property
    def key_blocks(self) -> KeyBlocks | None:
        return self._log.key_blocks

    @key_blocks.setter
    def key_blocks(self, blocks: KeyBlocks | None) -> None:
        self._log.key_blocks = blocks

    def commit(self, write_set: WriteSet, body: bytes, applier: Applier) -> Verdict:
        return self._log.commit(write_set, body, applier)

    def cluster_turn(self, timeout: float, *, is_fence: bool = False) -> AbstractContextManager[bool]:
        return self._log.cluster_turn(timeout, is_fence=is_fence)

    def reserve(self, table: str, count: int) -> Verdict:
        return self._log.reserve(table, count)

    def make_database(self, path: str) -> None:
        self._log.make_database(path)

    def connected(self, cluster_id: str) -> None:
        self._log.connected(cluster_id)
