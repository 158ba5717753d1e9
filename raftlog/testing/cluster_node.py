"""One node of a cluster in the test's process: storage in memory, its own database, and how it dies."""

from __future__ import annotations

import random
import threading
from typing import Final

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.entries import EntryBatch
from raftlog.consensus.raft import Raft
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.state import Role
from raftlog.exceptions import ApplyStopped
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.position import check_position
from raftlog.runtime import clock
from raftlog.runtime.loading import load_log
from raftlog.runtime.ports import NoCare, Outcome
from raftlog.runtime.server import RaftServer
from raftlog.storage.memory import MemoryHardState, MemoryLog
from raftlog.transport.memory import MemoryNetwork

MAX_WAITING_PROPOSALS: Final = 65_536
MAX_PAYLOAD_BYTES: Final = 64 << 20
COMMIT_DELAY: Final = 0.005  # seconds: see RaftSettings.commit_delay


class GatedMachine(DatabaseStateMachine):
    """Applies nothing while its gate is shut."""

    gate: threading.Event

    def apply(self, batch: EntryBatch) -> list[Outcome]:
        while not self.gate.wait(0.02):
            if self._stopping.is_set():
                raise ApplyStopped("stopped while it was paused")
        return super().apply(batch)


class Care(NoCare):
    """Tells the machine when applications may use its database."""

    def __init__(self, machine: DatabaseStateMachine) -> None:
        self._machine = machine

    def caught_up(self) -> None:
        self._machine.caught_up()


class ClusterNode:
    """make() and start() it, any number of times; kill() or stop() it in between."""

    def __init__(
        self, name: str, names: list[str], alias: str, network: MemoryNetwork, election_timeout: float
    ) -> None:
        self.name = name
        self._names = names
        self._alias = alias
        self._network = network
        self._election_timeout = election_timeout
        self._log = MemoryLog()
        self._hard_state = MemoryHardState()
        # Shut while the node is paused.
        self.gate = threading.Event()
        self.gate.set()
        self.is_running = False
        self.server: RaftServer
        self._machine: GatedMachine

    @property
    def failure(self) -> str:
        """Which thread died by itself, and why; "": none."""
        return self.server.failure if self.is_running else ""

    @property
    def leads(self) -> bool:
        """Whether it has committed an entry of its term as the leader."""
        if not self.is_running:
            return False
        raft = self.server.state.raft
        return raft.role is Role.LEADER and raft.log.term_at(raft.commit_index) == raft.current_term

    @property
    def commit_index(self) -> int:
        return self.server.state.raft.commit_index

    @property
    def last_applied(self) -> int:
        return self._machine.last_applied

    def make(self) -> None:
        """In a thread of the node: connections belong to threads, and this one's to another database.

        Raises what the making raises.
        """
        problems: list[BaseException] = []

        def main() -> None:
            try:
                self._make()
            except BaseException as error:  # noqa: BLE001  (raised again in the calling thread)
                problems.append(error)

        thread = threading.Thread(target=main, name=f"raftlog-{self.name}-start")
        thread.start()
        thread.join()
        if problems:
            raise problems[0]

    def _make(self) -> None:
        self.gate.set()
        self._machine = machine = GatedMachine(self._alias, is_leader=lambda: self.leads)
        machine.gate = self.gate
        log = load_log(self._log)
        check_position(machine, log, "")
        raft = Raft(
            node_id=self.name,
            incarnation=self.name * 32,
            settings=RaftSettings(
                election_timeout=self._election_timeout,
                heartbeat_interval=self._election_timeout / 5,
                commit_delay=min(COMMIT_DELAY, self._election_timeout / 5),
            ),
            log=log,
            hard_state=self._hard_state.load(),
            rng=random.Random(),
            now=clock.monotonic(),
            first_members=Configuration("", {name: Server("") for name in self._names}, tuple(self._names)),
            new_cluster_id="c" * 32,
            last_applied=machine.last_applied,
        )
        self.server = RaftServer(
            raft,
            self._log,
            self._hard_state,
            machine,
            self._network.channel_factory(self.name),
            election_timeout=self._election_timeout,
            max_waiting_proposals=MAX_WAITING_PROPOSALS,
            max_payload_bytes=MAX_PAYLOAD_BYTES,
            peers=[name for name in self._names if name != self.name],
            rng=random.Random(),
        )
        self.server.care = Care(machine)

    def start(self) -> None:
        self.server.start()
        self._network.register(self.name, self.server)
        self.is_running = True

    def kill(self, timeout: float) -> None:
        """Cut off first, so that nobody hears its farewell; then what it has not synced is forgotten."""
        if not self.is_running:
            return
        self._network.crash(self.name)
        unfinished = self.stop(timeout)
        if unfinished:
            raise AssertionError(f"these threads did not end within {timeout:g} s: {', '.join(unfinished)}")
        self._log.crash()
        self._hard_state.crash()

    def stop(self, timeout: float) -> list[str]:
        """Returns the names of threads that did not end in time."""
        if not self.is_running:
            return []
        self.is_running = False
        return self.server.stop(timeout)
