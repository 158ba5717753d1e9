"""Damage of a simulated node's disk, and `raft repair`: what was lost is fetched again, and meanwhile the node
neither votes nor counts (consensus/recovery.py)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from raftlog.exceptions import DiskFull, LogDamaged
from raftlog.storage.repair import carry_out, plan_repair
from raftlog.testing.disk import Crashed
from raftlog.testing.faults import may_lose_disk, operation

if TYPE_CHECKING:
    from raftlog.testing.simulated_node import SimulatedNode
    from raftlog.testing.simulation import Simulation

FOLDER: Final = "/node"  # simulated_node.DIRECTORY


@operation("damage-and-repair", 3, feature="repair")
def damage_and_repair(simulation: Simulation, rng: random.Random) -> str:
    """A bit of any file flips, on any node, as long as a majority is whole; when that is found, it is repaired."""
    node = rng.choice(simulation.nodes_in_order)
    if not simulation.is_member(node) or not may_lose_disk(simulation, node):
        return ""
    node.fail(power=True)
    where = node.disk.damage(rng)
    node.is_damaged = bool(where)
    return where and f"{node.node_id}: {where}"


def repair(node: SimulatedNode) -> bool:
    """Returns whether it can be repaired; what did not work out for the moment is tried again at the next start."""
    simulation = node.simulation
    node.disk.fail_syncs = False
    try:
        plan = plan_repair(node.disk, FOLDER)
        if plan.impossible or not plan.is_needed:
            return False
        aside = f"damaged-{simulation.counters['repairs']}"
        carry_out(node.disk, plan, recovery_id=node.rng.getrandbits(60) + 1, since="", aside=aside)
    except Crashed:
        node.disk.crash()
        simulation.count("repairs cut off")
        return True
    except (OSError, LogDamaged) as error:
        simulation.trace("repair", node.node_id, error)
        return not isinstance(error, LogDamaged)
    simulation.count("repairs")
    simulation.trace("repair", node.node_id, f"cut from {plan.cut_from}, promised {plan.promised_index}")
    simulation.safety.repaired(node.node_id)
    return True


def finish(node: SimulatedNode) -> None:
    """After every step: is what was lost there again?"""
    if not node.raft.recovery_finished:
        return
    try:
        node.storage.finish_repair()
    except DiskFull:
        return
    node.state.recovery_saved()
    node.is_damaged = False
    node.simulation.count("repaired nodes that vote again")
