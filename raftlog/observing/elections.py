"""What this node has seen of elections: terms, leaders, and why they changed. In memory, from its start on."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Final

from raftlog.consensus.events import (
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    BecamePreCandidate,
    ElectionLost,
    Event,
    LeaderFound,
    SteppedDown,
    TransferAbandoned,
    TransferStarted,
    VoteGranted,
)
from raftlog.runtime import clock

KEPT: Final = 1_000  # events

# Kind of each event that is kept, as pages and scripts name it.
KINDS: Final = {
    BecameFollower: "follower",
    LeaderFound: "follows",
    BecamePreCandidate: "pre-candidate",
    BecameCandidate: "candidate",
    ElectionLost: "lost",
    BecameLeader: "leader",
    SteppedDown: "stepped-down",
    VoteGranted: "voted",
    TransferStarted: "transfer",
    TransferAbandoned: "transfer-abandoned",
}


class Elections:
    """Thread-safe."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._lock = threading.Lock()
        self._events: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.changes = 0  # of the leader or its term, that this node has seen
        self._leader = ("", 0)

    def note(self, event: Event) -> None:
        kind = KINDS.get(type(event))
        if kind is None:
            return
        leader = getattr(event, "leader_id", "") or (self._node_id if isinstance(event, BecameLeader) else "")
        with self._lock:
            if leader and (leader, event.term) != self._leader:
                self._leader = (leader, event.term)
                self.changes += 1
            self._events.append(
                {
                    "at": clock.wall_microseconds() / 1_000_000,
                    "term": event.term,
                    "kind": kind,
                    "leader_id": leader,
                    "text": str(event),
                }
            )

    def newest(self, count: int) -> list[dict[str, Any]]:
        """The newest events, the last of them first."""
        with self._lock:
            events = list(self._events)
        return events[: -count - 1 : -1]
