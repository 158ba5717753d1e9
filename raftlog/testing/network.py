"""The wire between simulated nodes: it drops, delays, doubles and reorders messages; links are cut one way or both."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class NetworkProfile:
    """How bad the wire is. Probabilities a message, seconds."""

    drop: float = 0.0
    duplicate: float = 0.0
    min_delay: float = 0.0005
    max_delay: float = 0.005
    # Now and then a message takes up to this long.
    slow: float = 0.0
    slow_delay: float = 0.5
    # As one TCP connection would: no message overtakes another of the same link.
    ordered: bool = False


class SimulatedNetwork:
    """Carries messages between nodes. `schedule(delay, function, argument)`, `deliver(message)`: the simulation's."""

    def __init__(
        self,
        rng: random.Random,
        profile: NetworkProfile,
        schedule: Callable[[float, Callable[[Any], None], Any], None],
        deliver: Callable[[Any], None],
    ) -> None:
        self.profile = profile
        self.healthy = NetworkProfile()
        self.is_healed = False
        # Directed links that carry nothing: (from, to).
        self.cut: set[tuple[str, str]] = set()
        self.now = 0.0  # kept by the simulation
        self.sent = self.dropped = self.duplicated = 0
        self._rng = rng
        self._schedule = schedule
        self._deliver = deliver
        self._last_at: dict[tuple[str, str], float] = {}

    def send(self, message: Any, wait: float = 0.0) -> None:
        """Carry `message`, which leaves its sender in `wait` seconds."""
        self.sent += 1
        link = (message.sender, message.recipient)
        if link in self.cut:
            self.dropped += 1
            return
        rng, profile = self._rng, self.healthy if self.is_healed else self.profile
        if profile.drop and rng.random() < profile.drop:
            self.dropped += 1
            return
        copies = 1
        if profile.duplicate and rng.random() < profile.duplicate:
            copies = 2
            self.duplicated += 1
        for _ in range(copies):
            delay = wait + profile.min_delay + rng.random() * (profile.max_delay - profile.min_delay)
            if profile.slow and rng.random() < profile.slow:
                delay += rng.random() * profile.slow_delay
            if profile.ordered:
                at = max(self.now + delay, self._last_at.get(link, 0.0) + 1e-9)
                self._last_at[link] = at
                delay = at - self.now
            self._schedule(delay, self._deliver, message)

    def partition(self, sides: Iterable[Iterable[str]]) -> None:
        """Cut all links between different sides, both ways."""
        groups = [list(side) for side in sides]
        for number, side in enumerate(groups):
            for other in groups[number + 1 :]:
                for a in side:
                    for b in other:
                        self.cut |= {(a, b), (b, a)}

    def heal(self) -> None:
        """Every link works again, as well as the profile lets it."""
        self.cut.clear()
