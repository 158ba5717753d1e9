"""Strikes nodes, networks, disks and clients, and heals them again.

Used by the main thread only: nodes die with the thread that started them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from raftlog.runtime import clock
from raftlog.testing.processes import NodeProcess, ProcessCluster, leader_of
from raftlog.testing.torture.clients import Clients
from raftlog.testing.torture.disks import Disks
from raftlog.testing.torture.network import Network, Pair
from raftlog.testing.torture.schedule import BY_NAME, Fault

# Faults that come and go: shortest and longest seconds between two turns.
TURNING: Final = {
    "crash_loop": (0.2, 3.0),
    "stutter": (0.05, 0.7),
    "flapping": (0.05, 0.9),
    "flapping_leader": (0.05, 0.9),
}
# What happens to client processes, not to nodes.
CLIENT_FAULTS: Final = ("kill_client", "pause_client")
# How long a node may go on with an fsync that fails, while the cluster takes writes. Seconds.
MUST_STOP_WITHIN: Final = 20.0


@dataclass(eq=False)
class Strike:
    """A fault as it happened. Moments are those of raftlog.runtime.clock."""

    kind: str
    victims: tuple[str, ...]
    started_at: float
    ends_at: float
    ended_at: float = 0.0
    pairs: frozenset[Pair] = field(default_factory=frozenset)
    # Faults that come and go within their time: when next, and whether it is there.
    turns_at: float = math.inf
    is_off: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {','.join(self.victims)}".rstrip()


class Nemesis:
    """`strikes` lists all that happened, `found` what nodes did wrong by themselves."""

    def __init__(self, cluster: ProcessCluster, network: Network, disks: Disks, clients: Clients, seed: int) -> None:
        self._rng = random.Random(f"nemesis/{seed}")
        self._cluster = cluster
        self._network = network
        self._disks = disks
        self._clients = clients
        self._names = list(cluster.nodes)
        self._minority = (len(self._names) - 1) // 2
        self.strikes: list[Strike] = []
        self.active: list[Strike] = []
        self.found: list[str] = []
        self.restarts = 0
        # Nodes that are down because they were killed or had to stop.
        self._down: set[str] = set()
        # Nodes that must stop by themselves, because their fsync fails.
        self._must_stop: set[str] = set()

    # Striking

    def strike(self, fault: Fault) -> Strike:
        now = clock.monotonic()
        rng = random.Random(fault.draw)
        victims = self._choose(fault, rng)
        strike = Strike(fault.kind, victims, now, now + fault.lasts)
        getattr(self, f"_start_{self._family(fault.kind)}")(strike, rng)
        if fault.kind in TURNING:
            strike.turns_at = now
        self.strikes.append(strike)
        self.active.append(strike)
        return strike

    def _family(self, kind: str) -> str:
        """What is done, apart from to whom."""
        if kind in CLIENT_FAULTS:
            return kind
        if kind == "crash_loop" or kind.startswith("kill"):
            return "kill"
        if kind == "stutter":
            return "pause"
        for family in ("pause", "disk_full", "disk_slow", "disk_stall", "fsync_fails"):
            if kind.startswith(family):
                return family
        return "cut"

    def _choose(self, fault: Fault, rng: random.Random) -> tuple[str, ...]:
        names = self._whole_first(rng)
        kind = fault.kind
        if kind in CLIENT_FAULTS:
            return ()
        if BY_NAME[kind].at_leader:
            leader = leader_of(self._cluster.statuses())
            return (leader or names[0],)
        if kind in ("kill_majority", "pause_majority"):
            return tuple(names[: self._minority + 1])
        if kind in ("kill_all", "no_majority"):
            return tuple(self._names)
        if kind in ("kill_minority", "split"):
            return tuple(names[: max(1, self._minority)])
        if kind == "one_way":
            return tuple(names[:2])
        if kind == "bridge":
            return tuple(names)
        return (names[0],)

    def _whole_first(self, rng: random.Random) -> list[str]:
        """All nodes in random order, those that nothing ails before the others."""
        ailing = {victim for strike in self.active for victim in strike.victims}
        names = rng.sample(self._names, len(self._names))
        return sorted(names, key=lambda name: name in ailing)

    def _start_kill(self, strike: Strike, rng: random.Random) -> None:
        self._down.update(strike.victims)
        self._cluster.kill(strike.victims)

    def _start_kill_client(self, strike: Strike, rng: random.Random) -> None:
        strike.victims = (self._clients.kill_one(rng),)

    def _start_pause_client(self, strike: Strike, rng: random.Random) -> None:
        strike.victims = (self._clients.pause_one(rng),)

    def _start_pause(self, strike: Strike, rng: random.Random) -> None:
        for name in strike.victims:
            self._cluster[name].pause()

    def _start_disk_full(self, strike: Strike, rng: random.Random) -> None:
        self._disks.fill(strike.victims[0], also_reserved=rng.random() < 0.5)

    def _start_disk_slow(self, strike: Strike, rng: random.Random) -> None:
        self._disks.slow(strike.victims[0], rng.choice((0.02, 0.1, 0.4, 1.5)))

    def _start_disk_stall(self, strike: Strike, rng: random.Random) -> None:
        self._disks.stall(strike.victims[0])

    def _start_fsync_fails(self, strike: Strike, rng: random.Random) -> None:
        if strike.victims[0] not in self._down:
            self._must_stop.add(strike.victims[0])
            self._disks.fail_sync(strike.victims[0])

    def _start_cut(self, strike: Strike, rng: random.Random) -> None:
        strike.pairs = frozenset(self._pairs(strike.kind, strike.victims))
        self._cut(extra=strike.pairs)

    def _pairs(self, kind: str, victims: tuple[str, ...]) -> Iterable[Pair]:
        first = victims[0]
        others = [name for name in self._names if name not in victims]
        if kind == "no_majority":
            return [(a, b) for a in self._names for b in self._names if a != b]
        if kind == "one_way":
            return [(victims[0], victims[1])] if len(victims) > 1 else []
        if kind == "bridge":  # the first meets both halves, which do not meet each other
            half = 1 + len(victims[1:]) // 2
            return _both_ways(victims[1:half], victims[half:])
        if kind == "deaf":
            return [(other, first) for other in others]
        if kind == "mute_leader":
            return [(first, other) for other in others]
        return _both_ways(victims, others)

    def _cut(self, extra: frozenset[Pair] = frozenset()) -> None:
        self._network.cut(extra.union(*(strike.pairs for strike in self.active if not strike.is_off)))

    # Healing

    def tick(self) -> None:
        """Heal what is over; find nodes and clients that ended by themselves. Often."""
        now = clock.monotonic()
        self._look_for_the_dead()
        for strike in list(self.active):
            if strike.ends_at <= now:
                self._heal(strike)
            elif strike.turns_at <= now:
                self._turn(strike, now)

    def _turn(self, strike: Strike, now: float) -> None:
        """A fault that comes and goes does either."""
        name = strike.victims[0]
        shortest, longest = TURNING[strike.kind]
        strike.turns_at = now + self._rng.uniform(shortest, longest)
        strike.is_off = not strike.is_off
        if strike.kind == "crash_loop":
            self._cluster.kill([name])
            if not self._has(name, "kill", besides=strike):
                self._restart(name)
                self._down.add(name)
        elif strike.kind != "stutter":
            self._cut()
        elif not strike.is_off:
            self._cluster[name].pause()
        elif not self._has(name, "pause", besides=strike):
            self._cluster[name].resume()

    def heal_all(self) -> None:
        """Faults end; nodes that must stop still do so, in await_stops()."""
        for strike in list(self.active):
            self._heal(strike)

    def _heal(self, strike: Strike) -> None:
        self.active.remove(strike)
        strike.ended_at = clock.monotonic()
        family = self._family(strike.kind)
        if family == "cut":
            self._cut()
            return
        for name in strike.victims:
            if self._has(name, family):
                continue  # another fault of the kind still has it
            if family == "pause_client":
                self._clients.resume(name)
            elif family == "pause":
                self._cluster[name].resume()
            elif family == "kill":
                self._restart(name)
            elif family.startswith("disk"):
                self._disks.mend(name, family)
                if name in self._down and not self._has(name, "kill"):
                    self._restart(name)

    def _has(self, name: str, family: str, besides: Strike | None = None) -> bool:
        """Whether a fault of this family still has the node."""
        strikes = [strike for strike in self.active if strike is not besides and name in strike.victims]
        return any(self._family(strike.kind) == family for strike in strikes)

    def _restart(self, name: str) -> None:
        self._down.discard(name)
        node = self._cluster[name]
        if not node.is_running:
            self._disks.mend(name, "fsync_fails")
            self._must_stop.discard(name)
            self.restarts += 1
            node.start()

    def _look_for_the_dead(self) -> None:
        for node in self._cluster:
            if node.is_running or node.node_id in self._down:
                continue
            code = node.process.returncode if node.process else None
            if self._has(node.node_id, "disk_full") and "DiskFull" in node.output(3):
                self._down.add(node.node_id)  # it was started on a full disk, and said so: once there is room
                continue
            if node.node_id not in self._must_stop:
                self.found.append(_ended_by_itself(node, code))
            elif code == 0:
                self.found.append(f"node {node.node_id} ended with exit code 0 though its fsync failed")
            self._restart(node.node_id)
        self.found.extend(self._clients.look_for_the_dead())

    def await_stops(self, proceed: Callable[[], None], is_progress_since: Callable[[float], bool]) -> None:
        """Wait for nodes whose fsync fails to stop, as they must once they write, and start them again."""
        began = clock.monotonic()
        while self._must_stop and (clock.monotonic() - began < MUST_STOP_WITHIN):
            proceed()
        for name in sorted(self._must_stop):
            self._must_stop.discard(name)
            if is_progress_since(began):
                self.found.append(
                    f"node {name} still runs after {MUST_STOP_WITHIN:g} s in which its fsync failed and commands were "
                    f"applied; it printed last:\n{self._cluster[name].output(15)}"
                )
            self._disks.mend(name, "fsync_fails")


def _ended_by_itself(node: NodeProcess, code: int | None) -> str:
    return f"node {node.node_id} ended by itself with exit code {code}; it printed last:\n{node.output(25)}"


def _both_ways(some: Iterable[str], others: Iterable[str]) -> list[Pair]:
    others = list(others)
    return [pair for a in some for b in others for pair in ((a, b), (b, a))]
