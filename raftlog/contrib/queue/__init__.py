"""A durable task queue in the replicated database: docs/howto/queue.md.

Public names are loaded on first use, since models cannot be imported before Django's apps are ready.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    **dict.fromkeys(("Task", "enqueue_described", "get_task", "task"), "raftlog.contrib.queue.tasks"),
    **dict.fromkeys(("Attempt", "current_attempt", "task_transaction"), "raftlog.contrib.queue.running"),
    **dict.fromkeys(("Worker", "run_all"), "raftlog.contrib.queue.worker"),
    **dict.fromkeys(("ClaimLost", "NoSuchTask"), "raftlog.contrib.queue.exceptions"),
    "QueuedTask": "raftlog.contrib.queue.models",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
