"""raftlog: a replicated, durable, linearizable command log inside Django.

Public names are loaded on first use (PEP 562), so that importing `raftlog.consensus`,
`raftlog.storage` or `raftlog.runtime` imports no Django.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    **dict.fromkeys(("command", "find_command"), "raftlog.replication.registry"),
    "aoutcome": "raftlog.backends.outcome",
    "idempotent": "raftlog.backends.idempotent",
    "node_service": "raftlog.node_services",
    "outcome": "raftlog.backends.outcome",
    **dict.fromkeys(
        ("Change", "ChangedRow", "Progress", "Reset", "achanges", "changes", "follow_changes"),
        "raftlog.feed",
    ),
    "is_applying": "raftlog.replication.apply",
    "last_index": "raftlog.replication.written",
    "retry_on_conflict": "raftlog.backends.retry",
    **dict.fromkeys(
        ("acatch_up", "alinearizable", "amax_staleness", "catch_up", "linearizable", "max_staleness"),
        "raftlog.backends.reads",
    ),
    "TransactionConflict": "raftlog.backends.exceptions",
    "TurnExpired": "raftlog.backends.exceptions",
    "UniqueConflict": "raftlog.backends.exceptions",
    **dict.fromkeys(("alock", "asemaphore", "lock", "semaphore"), "raftlog.contrib.locks.api"),
    "ratelimit": "raftlog.contrib.ratelimit.api",
    "only_on_leader": "raftlog.contrib.leader.elections",
    **dict.fromkeys(
        (
            "ApplyStopped",
            "ChangeFeedOff",
            "CommandFailed",
            "IdempotencyKeyReused",
            "InsideTransaction",
            "InvalidArguments",
            "NoLeader",
            "NodeUnavailable",
            "NotLeader",
            "NotMigrated",
            "NotProposed",
            "OutcomeUnknown",
            "Overloaded",
            "PayloadTooLarge",
            "ProposalError",
            "RaftlogError",
            "ReadNotConfirmed",
            "SessionExpired",
            "TooStale",
        ),
        "raftlog.exceptions",
    ),
}

# Modules that are public under a shorter name.
_MODULES = {
    "clock": "raftlog.runtime.clock",
    "leader": "raftlog.contrib.leader",
    "locks": "raftlog.contrib.locks",
}

__all__ = ["__version__", *sorted([*_PUBLIC, *_MODULES])]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'raftlog' has no attribute {name!r}")
