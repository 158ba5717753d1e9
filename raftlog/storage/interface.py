"""What storage promises: which call makes what durable (design section 4; rules 6 and 7).

One thread writes at a time; the caller sees to it. `read` may be called from any thread at any time.
"""

from __future__ import annotations

from typing import Protocol

from raftlog.consensus.entries import EntryBatch
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import HardState, TermRun


class LogStore(Protocol):
    """The log on disk.

    1. append() alone promises nothing; what was appended before a sync() that returned survives any crash.
    2. truncate_from(index) is durable when it returns: the entries from `index` on never come back.
    3. After a crash the log holds a prefix of what was appended, and at least what was synced.
    4. An OSError from append, sync or truncate_from leaves the store *failed*: every later write raises
       StorageFailed. ENOSPC during append is the exception: DiskFull is raised, the log is as it was
       before that append, and appends may be tried again later.
    5. compact_to() and reset_to() are durable when they return; after a crash in them the log is as before
       or as after.
    6. read() returns what append() was given, synced or not, or raises; never other bytes.
    """

    @property
    def base(self) -> LogBase:
        """The last entry before those held; all zero where nothing was compacted."""
        ...

    @property
    def first_index(self) -> int:
        """First index held: base.index + 1, also in an empty log."""
        ...

    @property
    def last_index(self) -> int:
        """Last index appended; first_index - 1 in an empty log."""
        ...

    def term_runs(self) -> list[TermRun]: ...

    def configuration_indices(self) -> list[int]:
        """Indices of the CONFIGURATION entries held, ascending (found by their kind byte, kept in footers)."""
        ...

    def append(self, batch: EntryBatch) -> None:
        """Write a batch whose first_index is last_index + 1. Raises DiskFull, StorageFailed."""
        ...

    def sync(self) -> None:
        """Make everything appended durable. Raises StorageFailed; then the process must stop."""
        ...

    def truncate_from(self, index: int) -> None:
        """Remove the entries from `index` (inclusive) on, durably. Raises StorageFailed.

        DiskFull where not even the room kept for this is left: the log is as it was, try again later.
        """
        ...

    def compactable_to(self, index: int) -> int:
        """Highest index at or below `index` to which compacting gives room; base.index where none does."""
        ...

    def compact_to(self, base: LogBase) -> None:
        """Give up the entries up to base.index, durably, and the files that hold nothing else.

        `base` describes an entry of this log, synced or not, that a durable snapshot covers (Raft.base_at()).
        Nothing happens where the log begins there or later. Raises ValueError, DiskFull, StorageFailed.
        """
        ...

    def reset_to(self, base: LogBase) -> None:
        """Replace the whole log by `base`, durably: it is empty and goes on at base.index + 1.

        Raises DiskFull (the log is as it was), StorageFailed.
        """
        ...

    def read(self, first_index: int, last_index: int, max_bytes: int) -> EntryBatch:
        """Entries from `first_index` to at most `last_index` (inclusive), at least one, else about max_bytes.

        Raises LogCompacted below first_index, LogTruncated where a truncation took them meanwhile,
        LogDamaged where the bytes on disk are not what was written. Thread-safe.
        """
        ...

    def close(self) -> None: ...


class HardStateStore(Protocol):
    def load(self) -> HardState: ...

    def save(self, hard_state: HardState) -> None:
        """Durable when it returns. Raises StorageFailed."""
        ...

    def close(self) -> None: ...
