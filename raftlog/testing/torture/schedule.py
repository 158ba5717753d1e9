"""Which faults come when: drawn from a seed before anything starts, so that a seed is a schedule.

Who is struck is drawn too, as a number; which node that is, is decided when it happens (nodes that are whole
come first; "the leader" is whoever leads then). With real processes no two runs are alike beyond that.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `cost`: how many nodes it takes from the majority (-1: a minority of them, -2: more)."""

    name: str
    cost: int
    title: str
    at_leader: bool = False
    longest: float = 6.0  # seconds


KINDS: Final = (
    Kind("kill", 1, "SIGKILL of a node, then a restart"),
    Kind("kill_leader", 1, "SIGKILL of the leader, then a restart", at_leader=True),
    Kind("kill_minority", -1, "SIGKILL of a minority at once"),
    Kind("kill_majority", -2, "SIGKILL of a majority at once", longest=4.0),
    Kind("kill_all", -2, "SIGKILL of all nodes at once", longest=1.0),
    Kind("crash_loop", 1, "SIGKILL of a node, again and again while it starts"),
    Kind("pause", 1, "SIGSTOP of a node, then SIGCONT"),
    Kind("pause_leader", 1, "SIGSTOP of the leader, then SIGCONT", at_leader=True),
    Kind("pause_majority", -2, "SIGSTOP of a majority", longest=4.0),
    Kind("stutter", 1, "SIGSTOP and SIGCONT of a node, several times a second"),
    Kind("isolate", 1, "a node cut off from all others"),
    Kind("isolate_leader", 1, "the leader cut off from all others", at_leader=True),
    Kind("split", -1, "a minority cut off from the rest, together"),
    Kind("no_majority", -2, "every node cut off from every other", longest=4.0),
    Kind("deaf", 1, "a node that sends and does not hear"),
    Kind("mute_leader", 1, "a leader that hears and cannot send", at_leader=True),
    Kind("bridge", -1, "two halves that meet in one node only"),
    Kind("flapping", 1, "a node cut off and back, several times a second"),
    Kind("flapping_leader", 1, "the leader cut off and back, several times a second", at_leader=True),
    Kind("one_way", 0, "one direction between two nodes cut"),
    Kind("disk_full", 1, "a full disk"),
    Kind("disk_full_leader", 1, "a full disk under the leader", at_leader=True),
    Kind("disk_slow", 0, "a slow disk"),
    Kind("disk_slow_leader", 0, "a slow disk under the leader", at_leader=True),
    Kind("disk_stall", 1, "a disk that hangs"),
    Kind("disk_stall_leader", 1, "a disk that hangs under the leader", at_leader=True),
    Kind("fsync_fails", 1, "an fsync that fails: the node must stop"),
    Kind("fsync_fails_leader", 1, "an fsync of the leader that fails: it must stop", at_leader=True),
    Kind("kill_client", 0, "SIGKILL of a client process"),
    Kind("pause_client", 0, "SIGSTOP of a client process, then SIGCONT"),
)
BY_NAME: Final = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Fault:
    """`starts` and `lasts` in seconds, from the beginning of its round; `draw` decides who is struck."""

    kind: str
    starts: float
    lasts: float
    draw: int


@dataclass(frozen=True, slots=True)
class Round:
    """Faults that may overlap; then all is healed, and `calm` seconds go by after the cluster has recovered."""

    number: int
    faults: tuple[Fault, ...]
    calm: float


class Schedule:
    """An endless iterator of rounds. Every kind has its turn once before any has its second."""

    def __init__(self, seed: int, nodes: int, kinds: tuple[str, ...] = tuple(BY_NAME)) -> None:
        self._rng = random.Random(f"torture/{seed}/{nodes}")
        self._minority = (nodes - 1) // 2
        self._kinds = kinds
        self._deck: list[str] = []
        self._number = 0

    def __iter__(self) -> Schedule:
        return self

    def __next__(self) -> Round:
        rng = self._rng
        self._number += 1
        faults = [self._fault(self._next_kind())]
        left = self._minority - self._cost(faults[0].kind)
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            kind = rng.choice(self._kinds)
            if self._cost(kind) <= left:
                left -= self._cost(kind)
                faults.append(self._fault(kind))
        return Round(self._number, tuple(sorted(faults, key=lambda fault: fault.starts)), rng.uniform(0.5, 2.5))

    def _next_kind(self) -> str:
        if not self._deck:
            self._deck = list(self._kinds)
            self._rng.shuffle(self._deck)
        return self._deck.pop()

    def _fault(self, name: str) -> Fault:
        lasts = self._rng.uniform(0.3, BY_NAME[name].longest)
        return Fault(name, self._rng.uniform(0.0, 1.5), lasts, self._rng.randrange(1 << 30))

    def _cost(self, name: str) -> int:
        """Nodes of the majority that it may take; more than there are to spare where it breaks the majority."""
        cost = BY_NAME[name].cost
        return {-1: self._minority, -2: self._minority + 1}.get(cost, cost)
