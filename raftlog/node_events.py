"""What a node's event thread makes of Raft's events: who leads now, and signals."""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

from raftlog.consensus.events import (
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    BecamePreCandidate,
    Event,
    LeaderFound,
    SteppedDown,
)
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.node")


def leader_after(event: Event, node_id: str) -> tuple[str, int] | None:
    """(leader id, term) that this server knows after `event`; None where the event does not say."""
    if isinstance(event, BecameLeader):
        return node_id, event.term
    if isinstance(event, LeaderFound | BecameFollower):
        return event.leader_id, event.term
    if isinstance(event, SteppedDown | BecamePreCandidate | BecameCandidate):
        return "", event.term
    return None


def send(signal: Signal, **arguments: Any) -> None:
    """What a receiver raises is logged and harms nobody else."""
    for receiver, answer in signal.send_robust(**arguments):
        if isinstance(answer, Exception):
            logger.error(
                "receiver %r of a signal failed: %s",
                *(receiver, answer),
                exc_info=answer,
                extra=log_fields("receiver_failed", about=repr(receiver), reason=str(answer)),
            )
