"""What is done to a simulated cluster with leases besides: a leader is cut off, with its clients, just when others may
be elected soon."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from raftlog.testing.faults import _successor, operation

if TYPE_CHECKING:
    from raftlog.testing.simulated_node import SimulatedNode
    from raftlog.testing.simulation import Simulation


def _cut_off(simulation: Simulation, node: SimulatedNode, seconds: float) -> None:
    """Its clients stay with it."""
    simulation.network.partition([[node.node_id], node.peers])
    simulation.after(seconds, simulation.network.heal)


@operation("cut-off-leader", 3, feature="leases")
def cut_off_leader(simulation: Simulation, rng: random.Random) -> str:
    """The leader is cut off, and its followers notice at once that the connections are gone; some are told late."""
    leader = simulation.leader()
    if leader is None:
        return ""
    _cut_off(simulation, leader, rng.uniform(0.3, 1.0))
    for peer in leader.peers:
        if rng.random() < 0.8:
            simulation.nodes[peer].connection_lost(leader.node_id)
    return leader.node_id


@operation("hand-over-cut-off", 3, feature="leases")
def hand_over_cut_off(simulation: Simulation, rng: random.Random) -> str:
    """The leader hands over, and is cut off before it hears what came of it."""
    leader = simulation.leader()
    if leader is None:
        return ""
    to = _successor(leader, rng)
    leader.transfer_leadership(to)
    simulation.after(rng.uniform(0.001, 0.05), lambda: _cut_off(simulation, leader, rng.uniform(0.3, 1.0)))
    return f"{leader.node_id} to {to}"


@operation("followers-start-anew", 2, feature="leases")
def followers_start_anew(simulation: Simulation, rng: random.Random) -> str:
    """The leader is cut off, and all others are started anew, at once."""
    leader = simulation.leader()
    if leader is None:
        return ""
    _cut_off(simulation, leader, rng.uniform(0.3, 1.0))
    for peer in leader.peers:
        node = simulation.nodes[peer]
        if node.is_up:
            node.crash(power=False)
            simulation.after(rng.uniform(0.0, 0.05), lambda node=node: simulation.restart(node))  # type: ignore[misc]
    return leader.node_id
