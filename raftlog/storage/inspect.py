"""A read-only look at a node's directory, for `raft log` and its like: beside a running node, or at damage.

Nothing here takes the owner's lock, writes, or syncs. A running node may write while it is read, so
what looks like damage at the end of the log is looked at again before it is believed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from raftlog.consensus.snapshot import NO_BASE, LogBase
from raftlog.consensus.state import HardState, TermRun
from raftlog.exceptions import LogDamaged, StorageError
from raftlog.storage.filesystem import SECTOR_BYTES, FileSystem, RealFileSystem
from raftlog.storage.hard_state import read_hard_state
from raftlog.storage.layout import HARD_STATE, Metadata, load_metadata
from raftlog.storage.recovery import LoadedLog, load_log
from raftlog.storage.segmented_log import SEGMENT_BYTES, SegmentedLog

# How often a look at a directory in use is repeated before what it shows is believed.
_LOOKS: Final = 3

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One file of the log. `last_index` below `first_index`: it holds no live entry."""

    sequence: int
    path: str
    size_bytes: int
    first_index: int
    last_index: int
    is_open: bool


@dataclass(slots=True)
class DirectoryReport:
    """What a directory holds. `problems` are sentences, empty where all is well; what cannot be read is None."""

    directory: str
    metadata: Metadata | None = None
    hard_state: HardState | None = None
    first_index: int = 0
    last_index: int = 0
    base: LogBase = NO_BASE
    term_runs: list[TermRun] = field(default_factory=list)
    configuration_indices: list[int] = field(default_factory=list)
    segments: list[SegmentReport] = field(default_factory=list)
    torn: str | None = None
    problems: list[str] = field(default_factory=list)


def inspect_directory(directory: str | os.PathLike[str], filesystem: FileSystem | None = None) -> DirectoryReport:
    """Say what a node's directory holds, whatever state it is in. Raises nothing that the report can say."""
    disk = filesystem or RealFileSystem()
    report = DirectoryReport(os.fspath(directory))

    def noted(look: Callable[[], _Result]) -> _Result | None:
        try:
            return _believed(look)
        except (StorageError, OSError) as error:
            report.problems.append(str(error))
            return None

    report.metadata = noted(lambda: load_metadata(disk, report.directory))
    report.hard_state = noted(lambda: _load_hard_state(disk, report.directory))
    loaded = noted(lambda: load_log(disk, report.directory, writable=False))
    if loaded is not None:
        _describe(report, loaded)
        loaded.open_segment.file.close()
    return report


def _load_hard_state(disk: FileSystem, directory: str) -> HardState:
    path = f"{directory}/{HARD_STATE}"
    file = disk.open(path)
    try:
        return read_hard_state(path, file)[1]
    finally:
        file.close()


def _describe(report: DirectoryReport, loaded: LoadedLog) -> None:
    newest = loaded.open_segment
    report.torn = loaded.report.torn
    report.term_runs = loaded.contents.term_runs
    report.configuration_indices = loaded.contents.configurations
    report.segments = [
        SegmentReport(old.sequence, old.path, old.sectors * SECTOR_BYTES, old.first_index, old.last_index, False)
        for old in loaded.contents.sealed
    ]
    report.segments.append(
        SegmentReport(
            newest.sequence,
            newest.path,
            newest.sectors * SECTOR_BYTES,
            newest.first_index,
            newest.table.last_index,
            True,
        )
    )
    report.base = loaded.base.record.base
    report.first_index = report.base.index + 1
    report.last_index = newest.table.last_index


def open_for_reading(directory: str | os.PathLike[str], filesystem: FileSystem | None = None) -> SegmentedLog:
    """The log as it is now, to be read only; entries appended later do not show. The caller closes it.

    Raises LogDamaged, OSError; every write on it raises StorageFailed.
    """
    disk = filesystem or RealFileSystem()
    path = os.fspath(directory)
    loaded = _believed(lambda: load_log(disk, path, writable=False))
    return SegmentedLog(disk, path, loaded, SEGMENT_BYTES, read_only=True)


def _believed(look: Callable[[], _Result]) -> _Result:
    """Look, and look again where the answer may come from a write or a removal under way."""
    for _ in range(_LOOKS - 1):
        try:
            return look()
        except (LogDamaged, FileNotFoundError):
            continue
    return look()
