"""What is done to a simulated cluster while it works: one function for each operation, in a registry.

To add one (a membership change, a snapshot, a compaction), write a function of (simulation, rng), mark it
with @operation, and let it return in words what it did, or "" where it could not. Anything that is
to end again schedules its end itself. Everything ends at the latest with `Simulation.heal()`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from raftlog.testing.disk import UNLIMITED

if TYPE_CHECKING:
    from raftlog.testing.simulated_node import SimulatedNode
    from raftlog.testing.simulation import Simulation

Function = Callable[["Simulation", random.Random], str]


@dataclass(frozen=True, slots=True)
class Operation:
    """`weight`: how often it is drawn among those that a run has; `feature`: only runs with that have it."""

    name: str
    weight: float
    function: Function
    feature: str = ""


OPERATIONS: Final[dict[str, Operation]] = {}


def operation(name: str, weight: float = 1.0, *, feature: str = "") -> Callable[[Function], Function]:
    """Put a function into the registry."""

    def register(function: Function) -> Function:
        OPERATIONS[name] = Operation(name, weight, function, feature)
        return function

    return register


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """The `number`-th fault of a run, after `at` events; with a random source of its own: it can be left out."""

    number: int
    at: int
    name: str


def names_of(*features: str) -> list[str]:
    """Operations of these features, sorted; "" is a feature: what every run may have."""
    return sorted(name for name, each in OPERATIONS.items() if each.feature in features)


def plan_faults(
    rng: random.Random, names: list[str], events_per_fault: float, events: int, first_number: int = 0
) -> list[PlannedFault]:
    """All faults of a run, in order, numbered from `first_number`."""
    plan: list[PlannedFault] = []
    if not names:
        return plan
    at = rng.expovariate(1 / events_per_fault)
    weights = [OPERATIONS[name].weight for name in names]
    while at < events:
        plan.append(PlannedFault(first_number + len(plan), int(at), rng.choices(names, weights)[0]))
        at += rng.expovariate(1 / events_per_fault)
    return plan


# Whom


def _some_node(simulation: Simulation, rng: random.Random) -> SimulatedNode:
    """Any node; the leader half of the time."""
    leader = simulation.leader()
    if leader is not None and rng.random() < 0.5:
        return leader
    return rng.choice(simulation.nodes_in_order)


def _duration(rng: random.Random) -> float:
    """Seconds: shorter and longer than election timeouts."""
    return rng.choice((0.05, 0.3, 1.0, 2.5)) * rng.uniform(0.5, 1.5)


# The network


@operation("partition", 3)
def partition(simulation: Simulation, rng: random.Random) -> str:
    names = rng.sample(simulation.node_ids, len(simulation.node_ids))
    split = rng.randrange(1, len(names))
    sides = [sorted(names[:split]), sorted(names[split:])]
    simulation.network.partition(sides)
    simulation.after(_duration(rng), simulation.network.heal)
    return f"{' '.join(sides[0])} | {' '.join(sides[1])}"


@operation("isolate", 2)
def isolate(simulation: Simulation, rng: random.Random) -> str:
    node = _some_node(simulation, rng)
    simulation.network.partition([[node.node_id], node.peers])
    simulation.after(_duration(rng), simulation.network.heal)
    return node.node_id


@operation("one-way", 3)
def one_way(simulation: Simulation, rng: random.Random) -> str:
    """Some nodes hear a node that does not hear them, or are heard by one that they do not hear."""
    node = _some_node(simulation, rng)
    others = rng.sample(node.peers, rng.randrange(1, len(node.peers) + 1))
    if rng.random() < 0.5:
        cut = {(node.node_id, other) for other in others}
    else:
        cut = {(other, node.node_id) for other in others}
    simulation.network.cut |= cut
    simulation.after(_duration(rng), lambda: simulation.network.cut.difference_update(cut))
    return ", ".join(f"{a} -/-> {b}" for a, b in sorted(cut))


@operation("bridge", 2)
def bridge(simulation: Simulation, rng: random.Random) -> str:
    """Two sides that do not talk, and one node that talks with both."""
    names = rng.sample(simulation.node_ids, len(simulation.node_ids))
    middle, rest = names[0], names[1:]
    half = max(1, len(rest) // 2)
    simulation.network.partition([rest[:half], rest[half:]])
    simulation.after(_duration(rng), simulation.network.heal)
    return f"{' '.join(rest[:half])} | {middle} | {' '.join(rest[half:])}"


@operation("burst", 1)
def burst(simulation: Simulation, rng: random.Random) -> str:
    """Half of all messages get lost for a while."""
    profile = simulation.network.profile
    before, profile.drop = profile.drop, 0.5

    def end() -> None:
        profile.drop = before

    if before == 0.5:
        return ""
    simulation.after(_duration(rng), end)
    return "half of the messages are lost"


@operation("connection", 2)
def connection(simulation: Simulation, rng: random.Random) -> str:
    """The connections between two nodes break, and both notice."""
    node = _some_node(simulation, rng)
    peer = rng.choice(node.peers)
    node.connection_lost(peer)
    simulation.nodes[peer].connection_lost(node.node_id)
    return f"{node.node_id} - {peer}"


@operation("half-open", 2)
def half_open(simulation: Simulation, rng: random.Random) -> str:
    """A node is cut off, its peers notice at once that the connections are gone, and it does not."""
    node = _some_node(simulation, rng)
    simulation.network.partition([[node.node_id], node.peers])
    simulation.after(_duration(rng), simulation.network.heal)
    for peer in node.peers:
        simulation.nodes[peer].connection_lost(node.node_id)
    return node.node_id


# Processes and machines


@operation("power", 3)
def power(simulation: Simulation, rng: random.Random) -> str:
    node = _some_node(simulation, rng)
    if not node.is_up:
        return ""
    node.crash(power=True)
    return node.node_id


@operation("kill", 2)
def kill(simulation: Simulation, rng: random.Random) -> str:
    """The process ends, the machine does not. Now and then power is lost before it starts again."""
    node = _some_node(simulation, rng)
    if not node.is_up:
        return ""
    node.crash(power=False)
    if rng.random() < 0.2:
        node.disk.crash()
        return f"{node.node_id}, then power"
    return node.node_id


@operation("power-in-call", 4)
def power_in_call(simulation: Simulation, rng: random.Random) -> str:
    """Power is lost in one of the next calls that write."""
    node = _some_node(simulation, rng)
    calls = rng.randrange(1, 12)
    node.disk.crash_at_call(calls)
    return f"{node.node_id}, in its disk call {calls} from now"


@operation("torn-write", 2)
def torn_write(simulation: Simulation, rng: random.Random) -> str:
    """Power is lost in the middle of the next write of several sectors."""
    node = _some_node(simulation, rng)
    node.disk.tear_next_write = True
    return node.node_id


@operation("kill-in-call", 3)
def kill_in_call(simulation: Simulation, rng: random.Random) -> str:
    """The process is killed in one of the next calls that write; power is lost some time after it started again."""
    node = _some_node(simulation, rng)
    calls = rng.randrange(1, 12)
    node.disk.crash_at_call(calls, power=False)
    if rng.random() < 0.5:
        simulation.after(rng.uniform(0.1, 3.0), lambda: node.fail(power=True))
    return f"{node.node_id}, in its disk call {calls} from now"


@operation("blackout", 1)
def blackout(simulation: Simulation, rng: random.Random) -> str:
    """Power fails everywhere, or on a majority."""
    count = rng.choice((len(simulation.node_ids), len(simulation.node_ids) // 2 + 1))
    names = sorted(rng.sample(simulation.node_ids, count))
    for name in names:
        if simulation.nodes[name].is_up:
            simulation.nodes[name].crash(power=True)
    return " ".join(names)


@operation("pause", 2)
def pause(simulation: Simulation, rng: random.Random) -> str:
    node = _some_node(simulation, rng)
    seconds = _duration(rng)
    node.pause(seconds)
    return f"{node.node_id} for {seconds:.2f} s"


@operation("wipe", 0.3)
def wipe(simulation: Simulation, rng: random.Random) -> str:
    """A node comes back with an empty disk; of a minority only, since nothing survives the loss of a majority."""
    node = rng.choice(simulation.nodes_in_order)
    if not may_lose_disk(simulation, node):
        return ""
    node.fail(power=True)
    node.wipe()
    return node.node_id


def may_lose_disk(simulation: Simulation, node: SimulatedNode) -> bool:
    """Whatever configuration is in force, or may come to be, keeps a majority that has lost nothing."""
    if node.is_wiped or node.is_damaged or not simulation.is_formed():
        return False
    return all(simulation.tolerates(configuration, node) for configuration in simulation.safety.possible())


@operation("damage", 0.5)
def damage(simulation: Simulation, rng: random.Random) -> str:
    """A bit on the disk of a node that is down flips; of a minority only. It must be found before it harms (rule 7)."""
    node = rng.choice(simulation.nodes_in_order)
    if not may_lose_disk(simulation, node):
        return ""
    node.fail(power=True)
    where = node.disk.damage(rng)
    node.is_damaged = bool(where)
    return where and f"{node.node_id}: {where}"


@operation("lose-database", 2, feature="images")
def lose_database(simulation: Simulation, rng: random.Random) -> str:
    """The database of a node is deleted while that is down, or an older copy put in its place; of a minority only."""
    node = _some_node(simulation, rng)
    applied = node.machine.last_applied
    if node.database_lost_at or not applied or not may_lose_disk(simulation, node):
        return ""
    node.fail(power=rng.random() < 0.5)
    machine: Any = node.machine
    if rng.random() < 0.5:
        machine.lose()
    else:
        machine.go_back(rng)
    node.database_lost_at = applied
    return f"{node.node_id} had applied {applied}, its database has {machine.last_applied}"


# Disks


@operation("slow-disk", 2)
def slow_disk(simulation: Simulation, rng: random.Random) -> str:
    """Slow, or, in runs with what was added later, stalled: a sync takes longer than an election timeout."""
    node = _some_node(simulation, rng)
    disk = node.disk
    disk.latency = rng.choice((0.01, 0.1, 0.4, 1.5) if simulation.profile.features else (0.01, 0.1, 0.4))

    def end() -> None:
        disk.latency = 0.0

    simulation.after(_duration(rng), end)
    return f"{node.node_id}: each sync takes {disk.latency} s"


@operation("fsync-fails", 1)
def fsync_fails(simulation: Simulation, rng: random.Random) -> str:
    node = _some_node(simulation, rng)
    node.disk.fail_syncs = True
    return node.node_id


@operation("disk-full", 1)
def disk_full(simulation: Simulation, rng: random.Random) -> str:
    node = _some_node(simulation, rng)
    disk = node.disk
    disk.free_bytes = 0

    def end() -> None:
        disk.free_bytes = UNLIMITED

    simulation.after(_duration(rng), end)
    return node.node_id


# Clocks


@operation("clock-rate", 1)
def clock_rate(simulation: Simulation, rng: random.Random) -> str:
    node = _some_node(simulation, rng)
    rate = rng.uniform(0.7, 1.4)
    node.clock.change(simulation.now, rate=rate)
    return f"{node.node_id} runs at {rate:.2f}"


@operation("clock-jump", 1)
def clock_jump(simulation: Simulation, rng: random.Random) -> str:
    node = _some_node(simulation, rng)
    seconds = rng.uniform(0.1, 5.0)
    node.clock.change(simulation.now, jump=seconds)
    return f"{node.node_id} by {seconds:.2f} s"


@operation("wall-clock-jump", 1)
def wall_clock_jump(simulation: Simulation, rng: random.Random) -> str:
    node = _some_node(simulation, rng)
    node.wall_error = rng.uniform(-100, 100)
    return f"{node.node_id} is wrong by {node.wall_error:.1f} s"


# What operators do


def _successor(node: SimulatedNode, rng: random.Random) -> str:
    """Mostly one that can be: a node asks the real one for no other."""
    voters = [peer for peer in node.peers if node.raft.configuration.is_voter(peer)]
    return rng.choice(voters or node.peers)


@operation("transfer", 2)
def transfer(simulation: Simulation, rng: random.Random) -> str:
    leader = simulation.leader()
    if leader is None:
        return ""
    to = _successor(leader, rng)
    leader.transfer_leadership(to)
    return f"{leader.node_id} to {to}"


@operation("restart", 1)
def restart(simulation: Simulation, rng: random.Random) -> str:
    """A planned restart: the leader hands over first, then the process is stopped."""
    node = _some_node(simulation, rng)
    if not node.is_up:
        return ""
    node.transfer_leadership(_successor(node, rng))
    simulation.after(rng.uniform(0.01, 0.2), lambda: node.fail(power=False))
    return node.node_id
