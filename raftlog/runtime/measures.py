"""How long the stages of a proposal take: histograms, filled a batch at a time, never an entry at a time.

A stage is measured by watching the indices move: when an index was appended is remembered once for each time the log
grew, and taken when the index becomes stable, replicated, committed and applied. Seconds throughout.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from raftlog.consensus.raft import Raft
from raftlog.consensus.state import Role

BUCKETS: Final = (*(round(m * 10.0**e, 6) for e in range(-5, 1) for m in (1, 2, 5)), 10.0)  # 10 µs … 10 s
MAX_MARKS: Final = 65_536  # moments remembered: a leader that commits nothing for long forgets the oldest


class Histogram:
    """Counts of seconds by bucket. One writer at a time; a reader may be a moment behind."""

    __slots__ = ("count", "counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.count = 0
        self.total = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += count
        self.count += count
        self.total += seconds * count

    def as_data(self) -> dict[str, Any]:
        return {"counts": list(self.counts), "count": self.count, "total": self.total}


class Marks:
    """When indices were reached by one stage, until they are by the next."""

    __slots__ = ("_marks", "_taken", "histogram")

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._marks: deque[tuple[int, float]] = deque(maxlen=MAX_MARKS)
        self._taken = 0  # index up to which entries were counted

    def reached(self, after: int, index: int, now: float) -> None:
        """The stage begins for the entries after `after` up to `index` (inclusive)."""
        if not self._marks:
            self._taken = max(self._taken, after)
        self._marks.append((index, now))

    def passed(self, index: int, now: float) -> None:
        """The stage is over for entries up to `index` (inclusive)."""
        marks = self._marks
        while marks and marks[0][0] <= index:
            last, began = marks.popleft()
            self.histogram.observe(now - began, max(last - self._taken, 1))
            self._taken = max(self._taken, last)

    def forget(self) -> None:
        """What was marked may be removed from the log, and its indices given to other entries."""
        self._marks.clear()
        self._taken = 0

    def __bool__(self) -> bool:
        return bool(self._marks)


class Measures:
    """Of one node. Monitor: held, in every method but as_data(). `queue` is filled under the inboxes' lock."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        # From a caller's proposal to a service thread that takes it; written by whichever thread that is.
        self.queue = Histogram()
        # From append on this leader: to its own disk, to the disks of enough others, to commit.
        self.sync = Marks()
        self.replicate = Marks()
        self.commit = Marks()
        # From commit, as this node learned of it, to its own database.
        self.apply = Marks()
        # From a caller's proposal to its outcome, on the node that it was made on.
        self.total = Histogram()
        # From a linearizable read to its confirmation, by this leader or another; filled by reads.Reads.
        self.reads = Histogram()
        self._last_index = raft.log.last_index
        self._commit_index = raft.commit_index
        self._term = 0

    def follow(self, now: float) -> None:
        """After every entry into the monitor: whichever index has moved."""
        raft = self._raft
        if raft.commit_index > self._commit_index:
            self.apply.reached(self._commit_index, raft.commit_index, now)
            self._commit_index = raft.commit_index
            self.commit.passed(raft.commit_index, now)
        if raft.role is not Role.LEADER:
            if self._term:
                self._term = 0
                for marks in (self.sync, self.replicate, self.commit):
                    marks.forget()
            return
        last_index = raft.log.last_index
        if raft.current_term != self._term:
            self._term, self._last_index = raft.current_term, last_index
        elif last_index > self._last_index:
            for marks in (self.sync, self.replicate, self.commit):
                marks.reached(self._last_index, last_index, now)
            self._last_index = last_index
        if self.sync:
            self.sync.passed(raft.log.stable_index, now)
        if self.replicate:
            self.replicate.passed(self._replicated(), now)

    def _replicated(self) -> int:
        """The index that so many others have that they need only this leader's disk for a majority."""
        raft = self._raft
        voters = raft.configuration.voters
        matches = sorted(
            (raft.progress[voter].match_index for voter in voters if voter in raft.progress and voter != raft.node_id),
            reverse=True,
        )
        needed = len(voters) // 2
        return matches[needed - 1] if 0 < needed <= len(matches) else raft.log.last_index

    def applied(self, index: int, now: float) -> None:
        self.apply.passed(index, now)

    def as_data(self) -> Mapping[str, Any]:
        """Stage -> its histogram, as plain data."""
        stages = {"queue": self.queue, "total": self.total, "read": self.reads}
        stages |= {name: getattr(self, name).histogram for name in ("sync", "replicate", "commit", "apply")}
        return {name: histogram.as_data() for name, histogram in stages.items()}
