"""The change feed: what is applied on this host, entry by entry, without gaps, in any of its processes."""

from __future__ import annotations

from raftlog.feed.following import Follower, follow_changes
from raftlog.feed.reading import ChangeFeed, achanges, changes
from raftlog.feed.values import Change, ChangedRow, Progress, Reset

__all__ = [
    "Change",
    "ChangeFeed",
    "ChangedRow",
    "Follower",
    "Progress",
    "Reset",
    "achanges",
    "changes",
    "follow_changes",
]
