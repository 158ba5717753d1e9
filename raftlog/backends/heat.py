"""What has conflicted lately, in this process: for a while it takes the cluster's turn at its first try.

Where a row is hot, an optimistic first try is lost work, for its author and for the log. Thread-safe: a race loses at
most a note of one conflict.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from raftlog.runtime import clock

COOLED: Final = 1.0  # seconds after a conflict until a first try is optimistic again
MAX_NOTED: Final = 1024

_conflicted_at: dict[Hashable, float] = {}


def conflicted(what: Hashable) -> None:
    """`what`: a statement's text, a function, a request's method and path."""
    if len(_conflicted_at) >= MAX_NOTED:
        _conflicted_at.clear()
    _conflicted_at[what] = clock.monotonic()


def is_hot(what: Hashable) -> bool:
    at = _conflicted_at.get(what)
    return at is not None and clock.monotonic() - at < COOLED
