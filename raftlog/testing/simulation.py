"""Deterministic simulation of whole clusters, in virtual time, from one seed.

The real core, the real ConsensusState with its proposals and reads, the real storage code over a
simulated disk; in place of threads, sockets and a database: events, a simulated wire and a key-value machine.
The same seed and options give the same run, event by event (`Report.trace_hash`).

    report = simulate(Options(seed=7))
    assert report.violation is None, report.violation

A run has two parts. While faults happen, the invariants of `safety.py` are checked after every step. Then
everything is healed, and within a bound there has to be a leader, every node has to have caught up, every
client has to be answered; and the recorded history has to be linearizable.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.state import Role
from raftlog.testing import lease_faults, members, repairing  # noqa: F401  they fill the registry
from raftlog.testing.disk import UNLIMITED
from raftlog.testing.faults import OPERATIONS, PlannedFault, names_of, plan_faults
from raftlog.testing.network import SimulatedNetwork
from raftlog.testing.profile import INFINITY, Profile, draw_features, draw_profile, keep_to_leases
from raftlog.testing.safety import Safety, Violation
from raftlog.testing.simulated_node import SimulatedNode
from raftlog.testing.workload import make_workload

LIVENESS_BOUND: Final = 20.0  # virtual seconds after everything was healed
TRACE_TAIL: Final = 40
MAX_STEPS_AT_ONCE: Final = 20_000


@dataclass(frozen=True, slots=True)
class Options:
    """What a run depends on, together with the code. `without` leaves out planned faults by number."""

    seed: int
    nodes: int = 5
    events: int = 2000
    without: frozenset[int] = frozenset()
    workload: str = "kv"  # or "sql"
    leases: bool = False  # reads go by leases, and clocks keep to what those assume

    def command(self, mutation: str = "") -> str:
        """The command that replays the run."""
        parts = ["python -m raftlog.testing.simulate", f"--seeds {self.seed}", f"--nodes {self.nodes}"]
        parts.append(f"--events {self.events}")
        if self.workload != "kv":
            parts.append(f"--workload {self.workload}")
        if self.leases:
            parts.append("--leases")
        if self.without:
            parts.append(f"--without {','.join(map(str, sorted(self.without)))}")
        if mutation:
            parts.append(f"--mutation {mutation}")
        return " ".join(parts)


@dataclass(slots=True)
class Report:
    """What came of a run."""

    options: Options
    steps: int = 0
    virtual_seconds: float = 0.0
    trace_hash: str = ""
    violation: str = ""
    invariant: str = ""
    operations: int = 0
    unknown: int = 0
    entries: int = 0
    undecided: bool = False
    counters: Counter[str] = field(default_factory=Counter)
    faults: list[PlannedFault] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    profile: str = ""
    counterexample_html: str = ""


class Simulation:
    """One run. See the module."""

    node_class: type[SimulatedNode] = SimulatedNode

    def __init__(self, options: Options, *, keep_trace: bool = False) -> None:
        self.options = options
        self.now = 0.0
        self.step = 0
        self.is_ending = False
        seed = options.seed
        self.profile: Profile = draw_profile(self.rng("profile"), names_of(""))
        if options.workload == "kv":
            draw_features(self.rng("features"), self.profile)
        if options.leases:
            keep_to_leases(self.rng("leases"), self.profile)
        self.has_images = "images" in self.profile.features
        self.has_repair = "repair" in self.profile.features
        self.node_ids = [f"n{number}" for number in range(1, options.nodes + 1)]
        self.first_members = Configuration(
            "", {node_id: Server(f"sim://{node_id}") for node_id in self.node_ids}, tuple(self.node_ids)
        )
        self.safety = Safety()
        self.counters: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._event_number = 0
        self._moments = 0
        # When, and in which step, time had last gone on by a hundredth of a second.
        self._moved_at, self._moved_step = 0.0, 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._tail: deque[str] = deque(maxlen=None if keep_trace else TRACE_TAIL)
        self.network = SimulatedNetwork(self.rng("network"), self.profile.network, self.schedule, self._deliver)
        self.workload = make_workload(options.workload, self)
        self.history = self.workload.history
        self.nodes = {node_id: self.node_class(self, node_id, self.rng(node_id)) for node_id in self.node_ids}
        self.nodes_in_order = list(self.nodes.values())
        self.clients = self.workload.clients()
        self._clients_at_work = len(self.clients)
        self.faults = [fault for fault in self._plan() if fault.number not in options.without]
        self.trace("seed", str(seed))

    def _plan(self) -> list[PlannedFault]:
        """Faults, and what operators do besides."""
        profile, events = self.profile, self.options.events
        plan = plan_faults(self.rng("faults"), profile.faults, profile.events_per_fault, events)
        actions = names_of(*profile.features)
        plan += plan_faults(self.rng("actions"), actions, profile.events_per_action, events, len(plan))
        return sorted(plan, key=lambda fault: (fault.at, fault.number))

    def rng(self, purpose: str) -> random.Random:
        """A source of its own for each purpose, so that one draw more here changes nothing there."""
        return random.Random(f"{self.options.seed} {purpose}")

    # Events

    def schedule(self, delay: float, function: Callable[[Any], None], argument: Any) -> None:
        """Call function(argument) in `delay` virtual seconds."""
        self._event_number += 1
        heapq.heappush(self._events, (self.now + delay, self._event_number, function, argument))

    def after(self, delay: float, function: Callable[[], object]) -> None:
        self.schedule(delay, _call, function)

    def _deliver(self, message: Any) -> None:
        self.trace(type(message).__name__, message.sender, message.recipient, message.term)
        self.nodes[message.recipient].deliver(message)

    def _next(self) -> None:
        self.now, _, function, argument = heapq.heappop(self._events)
        self.network.now = self.now
        self.step += 1
        if self.now >= self._moved_at + 0.01:
            self._moved_at, self._moved_step = self.now, self.step
        elif self.step > self._moved_step + MAX_STEPS_AT_ONCE:
            raise Violation("time goes on", f"{MAX_STEPS_AT_ONCE} events without 0.01 s: somebody never rests")
        function(argument)

    def moment(self) -> float:
        """Time for the history: strictly growing, so that what happened in order is in order."""
        self._moments += 1
        return self.now + self._moments * 1e-9

    def trace(self, kind: str, *parts: object) -> None:
        line = f"{self.step} {self.now:.6f} {kind} {' '.join(map(str, parts))}"
        self._hash.update(line.encode())
        self._tail.append(line)

    def count(self, what: str) -> None:
        self.counters[what] += 1

    # The cluster

    def leader(self) -> SimulatedNode | None:
        """The leader of the newest term, where one is up."""
        leaders = [node for node in self.nodes_in_order if node.is_up and node.raft.role is Role.LEADER]
        return max(leaders, key=lambda node: node.raft.current_term, default=None)

    def is_formed(self) -> bool:
        """The cluster's first configuration is committed."""
        return bool(self.safety.committed)

    def add_node(self) -> SimulatedNode:
        """A host that was not there before, with an empty disk. It waits to be taken in."""
        node_id = f"n{len(self.node_ids) + 1}"
        for other in self.nodes_in_order:
            other.meet(node_id)
        self.node_ids.append(node_id)
        node = self.nodes[node_id] = self.node_class(self, node_id, self.rng(node_id))
        self.nodes_in_order.append(node)
        self.set_clocks(node, self.rng(f"start {node_id}"))
        return node

    def is_member(self, node: SimulatedNode) -> bool:
        """As the newest committed configuration says: in this incarnation, and it has not heard otherwise."""
        if not self.is_formed():
            return not node.is_wiped
        server = self.safety.configuration.servers.get(node.node_id)
        return server is not None and server.incarnation == node.incarnation and not node.is_out

    def tolerates(self, configuration: Configuration, without: SimulatedNode | None = None) -> bool:
        """Whether, even `without` a node, a majority of each part of `configuration` still has what it had."""
        servers = configuration.servers
        for part in (configuration.voters, configuration.outgoing, configuration.goal_voters):
            lost = 0
            for node_id in part:
                node = self.nodes[node_id]
                is_whole = servers[node_id].incarnation == node.incarnation and not (
                    node.is_damaged or node.is_out or node.database_lost_at
                )
                lost += not is_whole or node is without
            if lost * 2 >= len(part) > 0:
                return False
        return True

    def node_ended(self, node: SimulatedNode, power: bool) -> None:
        """It is started again after a while; its peers' connections break if its machine still says so."""
        self.count("power failures" if power else "kills")
        rng = node.rng
        if not power or rng.random() < 0.3:
            for peer in node.peers:
                self.after(rng.uniform(0.0, 0.01), partial(self.nodes[peer].connection_lost, node.node_id))
        if node.is_out and rng.random() < 0.7:
            return
        delay = 0.1 if self.is_ending else rng.choice((0.05, 0.5, 2.0)) * rng.uniform(0.5, 1.5)
        self.after(delay, lambda: self.restart(node))

    def restart(self, node: SimulatedNode) -> None:
        if node.is_up:
            return
        node.disk.fail_syncs = False
        if node.rng.random() < 0.1 and not self.is_ending:
            node.disk.crash_at_call(node.rng.randrange(1, 20))  # at start-up, or soon after
        node.start()

    def client_finished(self) -> None:
        self._clients_at_work -= 1

    # A run

    def run(self) -> None:
        """Raises Violation."""
        self.begin()
        faults = deque(self.faults)
        while self.step < self.options.events:
            while faults and faults[0].at <= self.step:
                self._inject(faults.popleft())
            self._next()
        self.heal()
        self._converge()
        self.workload.check_end()

    def begin(self) -> None:
        rng = self.rng("start")
        for node in self.nodes_in_order:
            self.set_clocks(node, rng)
            self.after(rng.choice((0.0, 0.0, 0.3, 1.0)) * rng.random(), partial(self.restart, node))
        for client in self.clients:
            client.start()

    def set_clocks(self, node: SimulatedNode, rng: random.Random) -> None:
        skew = self.profile.clock_skew
        node.clock.change(self.now, rate=rng.uniform(1 - skew, 1 + skew))
        node.wall_error = rng.uniform(-2, 2)

    def _inject(self, fault: PlannedFault) -> None:
        rng = self.rng(f"fault {fault.number}")
        what = OPERATIONS[fault.name].function(self, rng)
        if what:
            self.count(f"fault: {fault.name}")
            self.trace("fault", fault.number, fault.name, what)

    def heal(self) -> None:
        """End every fault."""
        self.trace("heal")
        self.is_ending = True
        self.network.heal()
        self.network.is_healed = True
        for node in self.nodes_in_order:
            disk = node.disk
            disk.fail_syncs, disk.latency, disk.free_bytes = False, 0.0, UNLIMITED
            disk.crash_at_call(0)
            disk.tear_next_write = False
            node.clock.change(self.now, rate=1.0)
            node.paused_until = min(node.paused_until, self.now)
            if not (node.is_up or node.is_out):
                self.after(0.05, partial(self.restart, node))

    def _converge(self) -> None:
        deadline = self.now + LIVENESS_BOUND
        check_at = self.now
        while not (self.now >= check_at and self._is_settled()):
            if self.now >= check_at:
                check_at = self.now + 0.05
            if self.now > deadline:
                raise Violation("liveness", self._why_unsettled())
            self._next()

    def _is_settled(self) -> bool:
        leader = self.leader()
        if leader is None or self._clients_at_work:
            return False
        configuration, last_index = leader.raft.configuration, leader.raft.log.last_index
        if configuration.goal_voters or leader.raft.commit_index < leader.raft.configuration_index:
            return False  # a change is under way: it ends by itself
        return all(self._has_caught_up(node, leader, last_index) for node in self.nodes_in_order)

    def _has_caught_up(self, node: SimulatedNode, leader: SimulatedNode, last_index: int) -> bool:
        if self.is_member(node):
            is_whole = node.is_up and not node.raft.recovery_id
            return is_whole and node.raft.last_applied == last_index and node.raft.leader_id == leader.node_id
        # Others wait to be taken in, have stopped, or learn that they are out once they ask a member for its vote.
        return not node.is_up or node.raft.is_removed or not self._would_learn(node)

    def _would_learn(self, node: SimulatedNode) -> bool:
        raft = node.raft
        if raft.log.is_empty or raft.election_deadline == INFINITY:
            return False
        others = (self.nodes[peer] for peer in raft.configuration.all_voters - {node.node_id})
        return any(self.is_member(other) and other.is_up and other.knows(node.node_id) for other in others)

    def _why_unsettled(self) -> str:
        nodes = []
        for node in self.nodes_in_order:
            if not node.is_up:
                nodes.append(f"{node.node_id} down")
                continue
            raft = node.raft
            nodes.append(
                f"{node.node_id} {raft.role.value} of term {raft.current_term}, leader {raft.leader_id or 'none'}, "
                f"last {raft.log.last_index}, committed {raft.commit_index}, applied {raft.last_applied}"
            )
        return f"{LIVENESS_BOUND} s after the last fault, {self._clients_at_work} clients wait; {'; '.join(nodes)}"

    def report(self) -> Report:
        operations, unknown = self.workload.operations()
        return Report(
            options=self.options,
            steps=self.step,
            virtual_seconds=round(self.now, 3),
            trace_hash=self._hash.hexdigest(),
            operations=operations,
            unknown=unknown,
            entries=len(self.safety.committed),
            undecided=bool(self.counters["histories undecided"]),
            counters=self.counters,
            faults=self.faults,
            trace=list(self._tail),
            profile=self.profile.describe(),
        )


def _call(function: Callable[[], object]) -> None:
    function()


def simulate(options: Options, *, keep_trace: bool = False) -> Report:
    """Run one seed. A violation, or any exception of the code under test, is in the report."""
    simulation = Simulation(options, keep_trace=keep_trace)
    violation = invariant = page = ""
    try:
        simulation.run()
    except Violation as error:
        violation, invariant, page = error.text, error.invariant, error.html
    except Exception as error:  # noqa: BLE001  whatever the code under test raises is a finding, reported with its seed
        violation, invariant = _describe(error), f"no exception ({type(error).__name__})"
    finally:
        simulation.workload.close()
    report = simulation.report()
    report.violation, report.invariant, report.counterexample_html = violation, invariant, page
    return report


def _describe(error: Exception) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames)
    )
    return f"{error} (at {places})"
