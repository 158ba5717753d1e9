"""Jobs at set times, proposed by the leader's node and run once: docs/howto/schedule.md.

Public names are loaded on first use, since models cannot be imported before Django's apps are ready.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    **dict.fromkeys(("Job", "all_jobs", "scheduled"), "raftlog.contrib.schedule.jobs"),
    **dict.fromkeys(("Cron", "Every"), "raftlog.contrib.schedule.times"),
    "CronError": "raftlog.contrib.schedule.cron",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
