"""What operators do to the members of a simulated cluster: they add, remove, replace, promote, move, give up.

An operator looks at some node's configuration, makes another one of it, and asks the leader for that a while later.
He may be too late: then he is refused, by the index that he began from. He is careful in one thing only: he asks for
no configuration whose voters have lost a majority of their disks. Hosts come, and go when they learn that they were
removed; one that comes back has an empty disk, or, where it did not learn yet, its old one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from raftlog.consensus.configuration import Configuration, Server
from raftlog.testing.faults import operation

if TYPE_CHECKING:
    from raftlog.testing.simulated_node import SimulatedNode
    from raftlog.testing.simulation import Simulation

MAX_MEMBERS: Final = 7
MAX_HOSTS: Final = 12  # of a run, those that left included

# What is to become of a configuration; it may raise KeyError: a server is not in it.
Make = Callable[[Configuration], Configuration]


class Operator:
    """One who wants one change. Refused, he looks again, a few times."""

    def __init__(self, simulation: Simulation, rng: random.Random, make: Make) -> None:
        self.simulation = simulation
        self.rng = rng
        self.make = make
        self.attempts_left = 6
        self._later((0.02, 0.1, 0.5), self._look)

    def _later(self, delays: tuple[float, ...], action: Callable[[], None]) -> None:
        self.simulation.after(self.rng.choice(delays) * self.rng.uniform(0.5, 1.5), action)

    def _look(self) -> None:
        """Look at a configuration; after a while, ask the leader for a change of it."""
        simulation, rng = self.simulation, self.rng
        self.attempts_left -= 1
        if simulation.is_ending or self.attempts_left < 0:
            return
        seen = rng.choice(simulation.nodes_in_order) if rng.random() < 0.2 else simulation.leader()
        if seen is None or not seen.is_up or not seen.raft.configuration_index:
            self._later((0.1, 0.3), self._look)
            return
        based_on = seen.raft.configuration_index
        try:
            target = self.make(seen.raft.configuration)
        except KeyError:
            return
        if rng.choice((3, 3, 3, 2, 1)) <= len(target.voters) <= MAX_MEMBERS:
            self._later((0.0, 0.0, 0.05, 0.3), lambda: self._request(target, based_on))

    def _request(self, target: Configuration, based_on: int) -> None:
        simulation, rng = self.simulation, self.rng
        node = rng.choice(simulation.nodes_in_order) if rng.random() < 0.1 else simulation.leader()
        if node is None or not node.is_up or simulation.is_ending:
            self._later((0.1, 0.3), self._look)
            return

        def done(refusal: str) -> None:
            simulation.count("changes refused" if refusal else "changes begun")
            wanted = f"{','.join(target.voters)} + {','.join(target.learners)}"
            simulation.trace("change", node.node_id, wanted, refusal or "begun")
            if refusal:
                self._later((0.05, 0.2, 0.5), self._look)

        node.change_members(target, based_on, done)


# Hosts


def _spare(simulation: Simulation, rng: random.Random) -> SimulatedNode | None:
    """A host that is in no configuration that may be in force, new or known, and runs to be taken in."""
    known = {node_id for configuration in simulation.safety.possible() for node_id in configuration.servers}
    spares = [node for node in simulation.nodes_in_order if node.node_id not in known]
    if not spares or (len(simulation.nodes) < MAX_HOSTS and rng.random() < 0.3):
        if len(simulation.nodes) >= MAX_HOSTS:
            return None
        node = simulation.add_node()
        simulation.restart(node)
        return node
    node = rng.choice(spares)
    if node.is_out or node.is_wiped or rng.random() < 0.7:
        if node.lives:
            node.fail(power=True)
            node.wipe()
        node.is_wiped, node.joins = False, True
        simulation.restart(node)
    return node


def _server(node: SimulatedNode) -> Server:
    """Raises KeyError where it has not started yet."""
    if not node.incarnation:
        raise KeyError(node.node_id)
    return Server(f"sim://{node.node_id}", node.incarnation)


def _member(simulation: Simulation, rng: random.Random) -> SimulatedNode:
    """One that is to go: the leader often, one whose disk was lost gladly."""
    leader = simulation.leader()
    if leader is not None and rng.random() < 0.35:
        return leader
    members = [simulation.nodes[node_id] for node_id in simulation.safety.configuration.servers]
    lost = [node for node in members if not simulation.is_member(node)]
    return rng.choice(lost if lost and rng.random() < 0.7 else members)


# What they do


@operation("add-servers", 3, feature="members")
def add_servers(simulation: Simulation, rng: random.Random) -> str:
    """One or two, as learners that are to vote, or to stay learners."""
    if not simulation.is_formed():
        return ""
    nodes = [node for _ in range(rng.choice((1, 1, 2))) if (node := _spare(simulation, rng)) is not None]
    votes = rng.random() < 0.8

    def make(configuration: Configuration) -> Configuration:
        for node in nodes:
            configuration = configuration.with_server(node.node_id, _server(node), voter=votes)
        return configuration

    Operator(simulation, rng, make)
    return ", ".join(node.node_id for node in nodes)


@operation("remove-servers", 3, feature="members")
def remove_servers(simulation: Simulation, rng: random.Random) -> str:
    if not simulation.is_formed():
        return ""
    names = {_member(simulation, rng).node_id for _ in range(rng.choice((1, 1, 2)))}

    def make(configuration: Configuration) -> Configuration:
        for name in sorted(names):
            configuration = configuration.without(name)
        return configuration

    Operator(simulation, rng, make)
    return ", ".join(sorted(names))


@operation("replace-server", 3, feature="members")
def replace_server(simulation: Simulation, rng: random.Random) -> str:
    """One goes and another comes, in one step."""
    node = _spare(simulation, rng) if simulation.is_formed() else None
    if node is None:
        return ""
    name = _member(simulation, rng).node_id
    Operator(simulation, rng, lambda each: each.without(name).with_server(node.node_id, _server(node), voter=True))
    return f"{name} by {node.node_id}"


@operation("change-role", 2, feature="members")
def change_role(simulation: Simulation, rng: random.Random) -> str:
    """A learner is to vote, or a voter is not to."""
    if not simulation.is_formed():
        return ""
    name = _member(simulation, rng).node_id

    def make(configuration: Configuration) -> Configuration:
        return configuration.with_server(name, configuration.servers[name], voter=name in configuration.learners)

    Operator(simulation, rng, make)
    return name


@operation("change-address", 1, feature="members")
def change_address(simulation: Simulation, rng: random.Random) -> str:
    if not simulation.is_formed():
        return ""
    name = _member(simulation, rng).node_id
    address = f"sim://{name}:{rng.randrange(1000)}"

    def make(configuration: Configuration) -> Configuration:
        server = Server(address, configuration.servers[name].incarnation)
        return configuration.with_server(name, server, voter=configuration.is_voter(name))

    Operator(simulation, rng, make)
    return address


@operation("abandon-change", 1, feature="members")
def abandon_change(simulation: Simulation, rng: random.Random) -> str:
    leader = simulation.leader()
    if leader is None or not leader.raft.configuration.goal_voters:
        return ""
    leader.abandon_change(lambda refusal: simulation.trace("abandon", leader.node_id, refusal or "begun"))
    return leader.node_id
