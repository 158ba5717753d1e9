"""Compaction by policy: each node gives up the beginning of its log by itself, when it is large or old enough.

Never what the database would not have after a power cut (make_durable), nor what Raft still needs (a follower that
pulls an image), nor the newest entries, which spare a follower that was briefly away an image.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from raftlog.exceptions import ImageError, LogCompacted, LogTruncated
from raftlog.log_fields import log_fields
from raftlog.runtime import clock, snapshots
from raftlog.runtime.consensus_state import ConsensusState

logger = logging.getLogger("raftlog.snapshots")

INTERVAL: Final = 1.0  # seconds between two looks at the log


@dataclass(frozen=True, slots=True)
class Policy:
    """RAFTLOG's COMPACT_LOG_… and KEEP_LOG_…: bytes, entries, seconds."""

    max_bytes: int
    max_entries: int
    max_age: float
    keep_bytes: int
    keep_entries: int


class LogFile(NamedTuple):
    """One file of the log."""

    first_index: int
    bytes: int


def why_compact(policy: Policy, files: list[LogFile], last_index: int, age: float) -> str:
    """Which limit is passed; "": none. `age`: of the oldest entry, in seconds."""
    size, entries = sum(file.bytes for file in files), last_index - files[0].first_index + 1 if files else 0
    if size > policy.max_bytes:
        return f"{size} bytes"
    if entries > policy.max_entries:
        return f"{entries} entries"
    return f"entries {age:.0f} s old" if entries and age > policy.max_age else ""


def keep_from(policy: Policy, files: list[LogFile], last_index: int) -> int:
    """The first index to be kept for followers that were briefly away: whole files, and so many entries."""
    kept, size = last_index + 1, 0
    for file in reversed(files):
        if size >= policy.keep_bytes:
            break
        kept, size = file.first_index, size + file.bytes
    return max(1, min(kept, last_index + 1 - policy.keep_entries))


class Compactor:
    """Of one node. main() is the body of its thread.

    Args:
        files: the files of the log, in order; any thread.
        make_durable: see DatabaseStateMachine.
    """

    def __init__(
        self,
        state: ConsensusState,
        policy: Policy,
        files: Callable[[], list[LogFile]],
        make_durable: Callable[[], int],
    ) -> None:
        # What else keeps the log (an archive, say): each gives the index after which it must stay; None: it need not.
        self.floors: list[Callable[[], int | None]] = []
        self._state = state
        self._policy = policy
        self._files = files
        self._make_durable = make_durable
        self._stopping = threading.Event()
        self._problem = ""

    def stop(self) -> None:
        self._stopping.set()

    def status(self) -> dict[str, Any]:
        files = self._files()
        return {"log_bytes": sum(file.bytes for file in files), "files": len(files), "problem": self._problem}

    def main(self, now_doing: Callable[[str], None]) -> None:
        """Monitor: takes it. Raises StorageFailed."""
        while True:
            now_doing("looking at the size of the log")
            try:
                self.look()
                self._problem = ""
            except (ImageError, OSError) as error:
                if str(error) != self._problem:
                    logger.warning(
                        "%s: the log is not compacted: %s",
                        *(self._state.raft.node_id, error),
                        extra=log_fields("compaction_failed", node=self._state.raft.node_id, reason=str(error)),
                    )
                self._problem = str(error)
            now_doing("waiting for the log to grow")
            if self._stopping.wait(INTERVAL):
                return

    def look(self) -> int:
        """Compact the log if it is time to. Returns the new base's index; 0: nothing was done."""
        files = self._files()
        with self._state.monitor:
            last_index = self._state.raft.log.stable_index
            floor = self._state.raft.compaction_floor(self._state.monitor.monotonic())
        reason = why_compact(self._policy, files, last_index, self._age())
        if not reason:
            return 0
        kept_after = [after for after in (floor() for floor in self.floors) if after is not None]
        index = min(floor, keep_from(self._policy, files, last_index) - 1, *kept_after)
        index = self._state.log_store.compactable_to(index)
        if index <= self._state.raft.log.base.index:
            return 0
        # The disk's work, and only where something comes of it.
        base = snapshots.compact(self._state, min(index, self._make_durable()))
        if base:
            logger.info(
                "%s: the log (%s) begins after entry %d now",
                *(self._state.raft.node_id, reason, base),
                extra=log_fields("log_compacted", node=self._state.raft.node_id, index=base, reason=reason),
            )
        return base

    def _age(self) -> float:
        """Of the oldest entry held, in seconds; 0 where there is none."""
        store = self._state.log_store
        first_index = store.first_index
        if first_index > store.last_index:
            return 0.0
        try:
            log_time = store.read(first_index, first_index, 1).runs[0].log_time
        except (LogCompacted, LogTruncated):
            return 0.0
        return (clock.wall_microseconds() - log_time) / 1e6
