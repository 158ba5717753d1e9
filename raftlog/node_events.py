"""What a node's event thread makes of Raft's events: who leads now."""

from __future__ import annotations

from raftlog.consensus.events import (
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    BecamePreCandidate,
    Event,
    LeaderFound,
    SteppedDown,
)


def leader_after(event: Event, node_id: str) -> tuple[str, int] | None:
    """(leader id, term) that this server knows after `event`; None where the event does not say."""
    if isinstance(event, BecameLeader):
        return node_id, event.term
    if isinstance(event, LeaderFound | BecameFollower):
        return event.leader_id, event.term
    if isinstance(event, SteppedDown | BecamePreCandidate | BecameCandidate):
        return "", event.term
    return None
