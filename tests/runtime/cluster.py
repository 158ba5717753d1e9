"""Whole nodes in one process: real cores, real threads, storage in memory, the in-process network."""

import random
import threading
from collections.abc import Callable

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.entries import COMMAND, client_payload
from raftlog.consensus.raft import Raft
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.state import Role
from raftlog.runtime import clock
from raftlog.runtime.loading import load_log
from raftlog.runtime.log_only import LogOnlyStateMachine
from raftlog.runtime.server import RaftServer
from raftlog.storage.memory import MemoryHardState, MemoryLog
from raftlog.transport.memory import MemoryNetwork

SESSION = b"session-of-tests"
ELECTION_TIMEOUT = 0.25


class RecordingMachine(LogOnlyStateMachine):
    """Keeps every payload that it is given, and so shows what is applied, where, in which order."""

    def __init__(self):
        super().__init__()
        self.applied = []

    def apply(self, batch):
        self.applied.extend(batch.payloads)
        return super().apply(batch)


class Cluster:
    """`with Cluster(3) as cluster:` - nodes a, b, c, started. Fails at its end where a thread has died."""

    def __init__(self, count, log_store: Callable[[], MemoryLog] = MemoryLog, *, may_die: bool = False):
        self.may_die = may_die
        self.network = MemoryNetwork()
        self.ids = [chr(ord("a") + number) for number in range(count)]
        self.log_stores = {node_id: log_store() for node_id in self.ids}
        self.hard_states = {node_id: MemoryHardState() for node_id in self.ids}
        self.machines = {}
        self.servers = {}
        self.sequence = 0

    def __enter__(self):
        for node_id in self.ids:
            self.make(node_id)
        for server in self.servers.values():
            server.start()
        return self

    def __exit__(self, *exc_info):
        for server in self.servers.values():
            server.stop(0.01 if exc_info[0] else 5)
        self.network.close()
        if exc_info[0] is None and not self.may_die:
            died = [server.failure for server in self.servers.values() if server.failure]
            assert not died, died

    def make_machine(self, node_id):
        return RecordingMachine()

    def make(self, node_id):
        self.machines[node_id] = self.make_machine(node_id)
        members = Configuration("", {name: Server("") for name in self.ids}, tuple(self.ids))
        raft = Raft(
            node_id=node_id,
            incarnation=node_id * 32,
            settings=RaftSettings(
                election_timeout=ELECTION_TIMEOUT, heartbeat_interval=ELECTION_TIMEOUT / 5, commit_delay=0.005
            ),
            log=load_log(self.log_stores[node_id]),
            hard_state=self.hard_states[node_id].load(),
            rng=random.Random(node_id),
            now=clock.monotonic(),
            first_members=members,
            new_cluster_id="c" * 32,
            last_applied=self.machines[node_id].last_applied,
        )
        self.servers[node_id] = RaftServer(
            raft,
            self.log_stores[node_id],
            self.hard_states[node_id],
            self.machines[node_id],
            self.network.channel_factory(node_id),
            election_timeout=ELECTION_TIMEOUT,
            max_waiting_proposals=100_000,
            max_payload_bytes=1 << 20,
            peers=[name for name in self.ids if name != node_id],
            rng=random.Random(node_id),
        )
        self.network.register(node_id, self.servers[node_id])

    def raft(self, node_id):
        return self.servers[node_id].state.raft

    def leaders(self):
        return [node_id for node_id in self.servers if self.raft(node_id).role is Role.LEADER]

    def wait(self, condition, what, timeout=20.0):
        deadline = clock.monotonic() + timeout
        while not (result := condition()):
            assert clock.monotonic() < deadline, f"not within {timeout} s: {what}"
            clock.sleep(0.005)
        return result

    def leader(self, among=None):
        """A leader whose term has begun: it has committed its first entry."""

        def found():
            for node_id in self.leaders():
                raft = self.raft(node_id)
                if (among is None or node_id in among) and raft.log.term_at(raft.commit_index) == raft.current_term:
                    return node_id
            return None

        return self.wait(found, "a leader")

    def followers(self):
        leader = self.leader()
        return [node_id for node_id in self.ids if node_id != leader]

    def payloads(self, count=1):
        self.sequence += count
        numbers = range(self.sequence - count + 1, self.sequence + 1)
        return [client_payload(COMMAND, SESSION, number, 0, b"x") for number in numbers]

    def propose(self, node_id, payloads, timeout=10.0):
        """Propose and wait; returns the outcomes in the order of the payloads."""
        everything = threading.Event()
        outcomes = {}

        def done(answered):
            for outcome in answered:
                assert outcome.key not in outcomes, "answered twice"
                outcomes[outcome.key] = outcome
            if len(outcomes) == len(payloads):
                everything.set()

        self.servers[node_id].propose(payloads, timeout, done)
        assert everything.wait(timeout + 10), f"{len(outcomes)} of {len(payloads)} callers were answered"
        return [outcomes[payload[1:25]] for payload in payloads]
