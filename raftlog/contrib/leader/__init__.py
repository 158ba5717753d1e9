"""Run exactly one of something in a cluster: docs/howto/leader.md. Needs raftlog.contrib.locks, and nothing else.

The one that runs is chosen by an election of its own, a lock that is kept; it need not be the node that leads the log.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = ("Election", "election", "only_on_leader", "run")

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module("raftlog.contrib.leader.elections"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
