"""Locks and semaphores in the replicated log, with fencing tokens: docs/howto/locks.md.

Public names are loaded on first use, since models cannot be imported before Django's apps are ready.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    **dict.fromkeys(("Fence",), "raftlog.contrib.locks.fence"),
    **dict.fromkeys(("alock", "asemaphore", "lock", "semaphore"), "raftlog.contrib.locks.api"),
    **dict.fromkeys(("force_release", "guard", "listing"), "raftlog.contrib.locks.tables"),
    **dict.fromkeys(
        ("AlreadyHeld", "LockError", "LockLost", "LockNotAcquired", "StaleToken"), "raftlog.contrib.locks.exceptions"
    ),
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
