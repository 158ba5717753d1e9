"""Durability: the log and the hard state on disk. No Django, no threads (design section 4).

`open_storage()` is the way in; `interface.py` says what is promised, `layout.py` what lies where,
`record.py` and `segment.py` describe the format byte by byte, `recovery.py` what happens after a crash.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from raftlog.consensus.state import HardState
from raftlog.exceptions import DiskFull, IdentityMismatch, StorageError, StorageFailed
from raftlog.storage.base import create_base
from raftlog.storage.faults import default_filesystem
from raftlog.storage.filesystem import SECTOR_BYTES, FileSystem, Lock
from raftlog.storage.hard_state import DurableHardState, create_hard_state, open_hard_state
from raftlog.storage.layout import (
    BASE,
    FORMAT,
    HARD_STATE,
    LOCK,
    METADATA,
    TEMPORARY,
    Metadata,
    check_identity,
    damaged,
    load_metadata,
    save_metadata,
    segment_name,
)
from raftlog.storage.recovery import RecoveryReport, list_segments, load_log
from raftlog.storage.segment import create_segment, publish_segment
from raftlog.storage.segmented_log import SEGMENT_BYTES, SegmentedLog

__all__ = ["SEGMENT_BYTES", "Metadata", "RecoveryReport", "Storage", "open_storage"]

_Result = TypeVar("_Result")


@dataclass(slots=True)
class Storage:
    """An open directory, owned by this process. `log` and `hard_state` each have one writer at a time."""

    directory: str
    log: SegmentedLog
    hard_state: DurableHardState
    metadata: Metadata
    report: RecoveryReport
    filesystem: FileSystem
    _lock: Lock

    @property
    def torn_tail(self) -> str | None:
        """What recovery cut off the end of the log, for the operator; None where nothing was."""
        return self.report.torn

    def set_cluster_id(self, cluster_id: str) -> None:
        """Write the cluster's id into the directory, once, durably.

        Raises IdentityMismatch where it holds another one, StorageFailed.
        """
        if self.metadata.cluster_id == cluster_id:
            return
        if self.metadata.cluster_id:
            raise IdentityMismatch(
                f"{self.directory}/{METADATA} belongs to cluster_id {self.metadata.cluster_id!r}, not {cluster_id!r}"
            )
        self.replace_cluster_id(cluster_id)

    def replace_cluster_id(self, cluster_id: str) -> None:
        """As set_cluster_id(), whatever the folder holds: for a cluster that goes on with the log of another.

        What a repaired folder had promised it had promised to that one.
        """
        metadata = msgspec.structs.replace(self.metadata, cluster_id=cluster_id, repairing=None)
        _guarded(self.directory, lambda: save_metadata(self.filesystem, self.directory, metadata))
        self.metadata = metadata

    @property
    def recovery_id(self) -> int:
        """Not 0: the folder was repaired, and the node must neither vote nor count (consensus/recovery.py)."""
        return self.metadata.repairing.recovery_id if self.metadata.repairing is not None else 0

    def finish_repair(self) -> None:
        """What was lost is there again: the node votes from now on, durably. Raises DiskFull, StorageFailed."""
        metadata = msgspec.structs.replace(self.metadata, repairing=None)
        _guarded(self.directory, lambda: save_metadata(self.filesystem, self.directory, metadata))
        self.metadata = metadata

    def close(self) -> None:
        """Give the directory back. Idempotent; nothing may be written any more."""
        self.log.close()
        self.hard_state.close()
        self._lock.release()


def open_storage(
    directory: str | os.PathLike[str],
    *,
    node_id: str,
    cluster: str = "",
    cluster_id: str = "",
    new_incarnation: str = "",
    filesystem: FileSystem | None = None,
    segment_bytes: int = SEGMENT_BYTES,
) -> Storage:
    """Take a node's directory, making it where it is new, and bring it to a state that is known to be durable.

    Args:
        directory: made, with its parents, where it does not exist.
        node_id, cluster, cluster_id: whose it must be; "" for a cluster or cluster_id that is not known yet.
        new_incarnation: 32 hex digits (a new uuid4), used only where the directory is made now.
        filesystem: the operating system's by default.
        segment_bytes: size of new segment files, at least 4096.

    Raises:
        DirectoryInUse: another process has it.
        IdentityMismatch: it belongs to another node or cluster.
        LogDamaged: something in it is not what was written; nothing was changed.
        DiskFull, StorageFailed: it could not be made or read.
    """
    disk = filesystem or default_filesystem()
    path = os.fspath(directory)

    def take() -> Storage:
        if not disk.exists(path):
            disk.make_directory(path)
            disk.sync_directory(os.path.dirname(path) or ".")
        lock = disk.lock(f"{path}/{LOCK}")
        try:
            if not disk.exists(f"{path}/{METADATA}"):
                _create(disk, path, Metadata(FORMAT, cluster, cluster_id, node_id, new_incarnation), segment_bytes)
            return _open(disk, path, lock, node_id, cluster, cluster_id, segment_bytes)
        except BaseException:
            lock.release()
            raise

    return _guarded(path, take)


def _open(
    disk: FileSystem, path: str, lock: Lock, node_id: str, cluster: str, cluster_id: str, segment_bytes: int
) -> Storage:
    metadata = load_metadata(disk, path)
    check_identity(f"{path}/{METADATA}", metadata, node_id=node_id, cluster=cluster, cluster_id=cluster_id)
    hard_state = open_hard_state(disk, path)
    try:
        loaded = load_log(disk, path, writable=True)
        log = SegmentedLog(disk, path, loaded, segment_bytes)
    except BaseException:
        hard_state.close()
        raise
    storage = Storage(path, log, hard_state, metadata, loaded.report, disk, lock)
    if cluster_id:
        storage.set_cluster_id(cluster_id)
    return storage


def _create(disk: FileSystem, path: str, metadata: Metadata, segment_bytes: int) -> None:
    """Make a node's files, the metadata last. What an earlier, unfinished making left is removed first."""
    for name in _leftovers(disk, path):
        disk.remove(f"{path}/{name}")
    create_hard_state(disk, path)
    create_base(disk, path)
    create_segment(disk, path, 1, 1, 1, max(segment_bytes, 4096) // SECTOR_BYTES).close()
    publish_segment(disk, path, 1, 1)
    save_metadata(disk, path, metadata)


def _leftovers(disk: FileSystem, path: str) -> list[str]:
    """Files of an unfinished making. Raises LogDamaged where they hold anything, and so are not that."""
    names = disk.list_directory(path)
    segments = list_segments(disk, path)
    blank = True
    if HARD_STATE in names:
        hard_state = open_hard_state(disk, path)
        blank = hard_state.load() == HardState()
        hard_state.close()
    if segments and blank:
        loaded = load_log(disk, path, writable=False)
        blank = segments == [(1, 1)] and loaded.open_segment.position == 1
        loaded.open_segment.file.close()
    if not blank:
        raise damaged(f"{path}/{METADATA}", "the file is missing, though the directory holds a log or a vote")
    wanted = {HARD_STATE, BASE, *(segment_name(*segment) for segment in segments)}
    return [name for name in names if name in wanted or name.endswith(TEMPORARY)]


def _guarded(path: str, work: Callable[[], _Result]) -> _Result:
    """Run `work`; an OSError comes out as one of storage's errors."""
    try:
        return work()
    except OSError as error:
        kind: type[StorageError] = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
        raise kind(f"{path} could not be opened or written: {error}") from error
