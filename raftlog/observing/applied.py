"""When the newest entries were applied on this node, and how they ended. In memory, bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from raftlog.runtime import clock
from raftlog.runtime.ports import Outcome

KEPT_ENTRIES: Final = 20_000
KEPT_BYTES: Final = 8 << 20  # of results


class Batch(NamedTuple):
    last_index: int
    at: float  # seconds since the epoch
    outcomes: Sequence[Outcome]
    size: int


class RecentlyApplied:
    """Written by the state-machine thread, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: deque[Batch] = deque()
        self._entries = self._bytes = 0
        # Since the node's start, of entries that had an outcome.
        self.applied = self.failed = 0

    def note(self, last_index: int, outcomes: Sequence[Outcome]) -> None:
        size = sum([len(outcome.result) for outcome in outcomes])
        failed = sum([1 for outcome in outcomes if outcome.status])
        with self._lock:
            self._batches.append(Batch(last_index, clock.wall_microseconds() / 1_000_000, outcomes, size))
            self._entries += len(outcomes) + 1
            self._bytes += size
            self.applied += len(outcomes)
            self.failed += failed
            while self._entries > KEPT_ENTRIES or self._bytes > KEPT_BYTES:
                gone = self._batches.popleft()
                self._entries -= len(gone.outcomes) + 1
                self._bytes -= gone.size

    def between(self, first: int, last: int) -> dict[str, Any]:
        """{"moments": [[last index of a batch, when it was applied]], "outcomes": [[index, status, result]]}."""
        with self._lock:
            batches = list(self._batches)
        moments, outcomes = [], []
        for batch in batches:
            if batch.last_index < first:
                continue
            moments.append([batch.last_index, batch.at])
            outcomes += [[o.index, o.status, o.result] for o in batch.outcomes if first <= o.index <= last]
            if batch.last_index >= last:
                break
        return {"moments": moments, "outcomes": outcomes}
