"""In-memory twins of the log and the hard state, with crash(): it forgets what was not synced.

For tests and simulations of the layers above. They keep the promises of `interface.py` and nothing
more: what was appended and not synced is gone after a crash, all of it or, where the caller says so,
all but a prefix.
"""

from __future__ import annotations

from raftlog.consensus.entries import CONFIGURATION, EntryBatch, Run
from raftlog.consensus.snapshot import NO_BASE, LogBase
from raftlog.consensus.state import HardState, TermRun
from raftlog.exceptions import DiskFull, LogCompacted, LogTruncated, StorageFailed


class MemoryLog:
    """LogStore in memory. Safe to read from any thread while one writes."""

    def __init__(self) -> None:
        self.base = NO_BASE
        # One item for each entry held: term, log time, payload. Replaced, not changed, by a truncation.
        self._entries: list[tuple[int, int, bytes]] = []
        # Invariant: what a crash leaves is _entries[:_synced], or more.
        self._synced = 0
        # Set by tests: the next appends find no room; the next sync fails.
        self.is_full = False
        self.fails = False
        self._failure = ""

    @property
    def first_index(self) -> int:
        return self.base.index + 1

    @property
    def last_index(self) -> int:
        return self.base.index + len(self._entries)

    def term_runs(self) -> list[TermRun]:
        runs: list[TermRun] = []
        for index, (term, _, _) in enumerate(self._entries, self.first_index):
            if not runs or runs[-1].term != term:
                runs.append(TermRun(index, term))
        return runs

    def configuration_indices(self) -> list[int]:
        entries = enumerate(self._entries, self.first_index)
        return [index for index, (_, _, payload) in entries if payload[0] == CONFIGURATION]

    def append(self, batch: EntryBatch) -> None:
        self._check_writable()
        if batch.first_index != self.last_index + 1:
            raise ValueError(f"a batch from {batch.first_index} does not follow entry {self.last_index}")
        batch.check()
        if self.is_full:
            raise DiskFull("the log in memory was told to be full")
        stamps = [(run.term, run.log_time) for run in batch.runs for _ in range(run.count)]
        last_term = self._entries[-1][0] if self._entries else self.base.term
        if stamps and stamps[0][0] < last_term:
            raise ValueError(f"entry {batch.first_index} of term {stamps[0][0]} follows a later term")
        self._entries.extend(
            (term, log_time, payload) for (term, log_time), payload in zip(stamps, batch.payloads, strict=True)
        )

    def sync(self) -> None:
        self._check_writable()
        if self.fails:
            self._failure = "the log in memory was told to fail"
            raise StorageFailed(self._failure)
        self._synced = len(self._entries)

    def truncate_from(self, index: int) -> None:
        self._check_writable()
        if index < self.first_index:
            raise ValueError(f"entries from {index} on cannot be removed: the log begins at {self.first_index}")
        if index > self.last_index:
            return
        self._entries = self._entries[: index - self.first_index]
        self.sync()

    def compactable_to(self, index: int) -> int:
        return max(min(index, self.last_index), self.base.index)

    def compact_to(self, base: LogBase) -> None:
        self._check_writable()
        count = base.index - self.base.index
        if count <= 0:
            return
        if count > len(self._entries) or self._entries[count - 1][0] != base.term:
            raise ValueError(f"entry {base.term}:{base.index} is not in the log, which ends at {self.last_index}")
        self.sync()
        # In this order, for readers: what they take for entries from first_index on is never what was before it.
        self._entries, self.base, self._synced = self._entries[count:], base, self._synced - count

    def reset_to(self, base: LogBase) -> None:
        self._check_writable()
        self._entries, self.base, self._synced = [], base, 0

    def read(self, first_index: int, last_index: int, max_bytes: int) -> EntryBatch:
        entries, start = self._entries, self.first_index
        if first_index < start:
            raise LogCompacted(f"entry {first_index} is no more held: the log begins at {start}")
        wanted = entries[first_index - start : last_index - start + 1]
        if not wanted:
            raise LogTruncated(f"entries {first_index}-{last_index} are not in the log")
        runs: list[Run] = []
        payloads: list[bytes] = []
        for term, log_time, payload in wanted:
            max_bytes -= len(payload)
            if payloads and max_bytes < 0:
                break
            if runs and runs[-1][1:] == (term, log_time):
                runs[-1] = Run(runs[-1].count + 1, term, log_time)
            else:
                runs.append(Run(1, term, log_time))
            payloads.append(payload)
        return EntryBatch(first_index, runs, payloads)

    def crash(self, surviving: int = 0) -> None:
        """Forget what was not synced, but for its first `surviving` entries; a failed log works again."""
        self._entries = self._entries[: self._synced + surviving]
        self._synced = len(self._entries)
        self._failure = ""
        self.is_full = self.fails = False

    def close(self) -> None:
        self._failure = self._failure or "the log in memory is closed"

    def _check_writable(self) -> None:
        if self._failure:
            raise StorageFailed(self._failure)


class MemoryHardState:
    """HardStateStore in memory: a save that returned survives a crash."""

    def __init__(self) -> None:
        self._saved = HardState()
        self.fails = False
        self._failure = ""

    def load(self) -> HardState:
        return self._saved

    def save(self, hard_state: HardState) -> None:
        if self.fails:
            self._failure = "the hard state in memory was told to fail"
        if self._failure:
            raise StorageFailed(self._failure)
        self._saved = hard_state

    def crash(self) -> None:
        self._failure = ""
        self.fails = False

    def close(self) -> None:
        self._failure = self._failure or "the hard state in memory is closed"
