"""`raft restore`: an image, and archived entries after it, become the first node of a new cluster.

The folder is made as if the log had been compacted to the image: its base is the image's, then follow the archived
entries up to the point that is wanted, then the configuration of the new cluster, whose only voter is this node. All of
it is committed by that one voter, so when the node starts it applies the entries as any node applies its log.

The folder has the new cluster's id from its first moment, which its log gets last: a node that finds them to differ
refuses to start, so what was interrupted is not taken for whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raftlog.conf import Settings
from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.entries import EntryBatch
from raftlog.disaster.pieces import check_follows, read_piece, slices_after
from raftlog.disaster.store import BackupError, BackupStore, StoredImage, StoredPiece
from raftlog.replication.images import ImageHeader, install_image, read_header
from raftlog.runtime import clock
from raftlog.storage import Storage, open_storage
from raftlog.storage.layout import METADATA
from raftlog.storage.new_cluster import begin_new_cluster

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Goal:
    """Up to where: the last entry at or before both, inclusive. `time` in microseconds since the epoch; None: any."""

    index: int | None = None
    time: int | None = None

    @property
    def is_set(self) -> bool:
        return self.index is not None or self.time is not None

    def cut(self, batch: EntryBatch) -> EntryBatch:
        """What of `batch` is not beyond it."""
        last_index = batch.last_index if self.index is None else min(batch.last_index, self.index)
        if self.time is not None:
            count = 0
            for run in batch.runs:
                if run.log_time > self.time:
                    break
                count += run.count
            last_index = min(last_index, batch.first_index + count - 1)
        return batch.slice(batch.first_index, last_index)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has made."""

    image: ImageHeader
    last_index: int  # of the archived entries that follow the image; the image's own where there are none
    last_log_time: int
    configuration: Configuration


def choose_image(store: BackupStore, goal: Goal, name: str = "") -> StoredImage:
    """The newest image that is not beyond the goal. Raises BackupError.

    By its time of making, which is that of the newest entry in it or later; the name has it cut to a second.
    """
    images = [image for image in store.images() if not name or image.name == name]
    if not images:
        raise BackupError(f"there is no backup {name or 'of this cluster'} in {store.folder}")
    usable = [
        image
        for image in images
        if (goal.index is None or image.index <= goal.index)
        and (goal.time is None or (image.made_at.timestamp() + 1) * 1e6 <= goal.time)
    ]
    if not usable:
        raise BackupError(f"the oldest backup, {images[0].name}, was made after the moment that is asked for")
    return usable[-1]


def choose_pieces(store: BackupStore, image_index: int, goal: Goal) -> list[StoredPiece]:
    """The pieces after an image, without a gap. Raises BackupError where one is missing before the goal."""
    chosen: list[StoredPiece] = []
    last_index = image_index
    for piece in store.pieces():
        if piece.last_index <= last_index or (goal.index is not None and last_index >= goal.index):
            continue
        if piece.first_index > last_index + 1:
            if chosen and _reaches(store, chosen[-1], goal):
                return chosen
            raise BackupError(
                f"entries {last_index + 1}-{piece.first_index - 1} are not in the archive {store.folder}, so nothing "
                f"after entry {last_index} can be restored from it; --to-index {last_index} can"
            )
        chosen.append(piece)
        last_index = piece.last_index
    if goal.index is not None and last_index < goal.index:
        raise BackupError(f"the archive {store.folder} ends at entry {last_index}, before entry {goal.index}")
    return chosen


def _reaches(store: BackupStore, piece: StoredPiece, goal: Goal) -> bool:
    """Whether the goal is a time before the end of this piece."""
    with store.opened(piece.name) as file:
        header, _ = read_piece(file, piece.name)
    return goal.time is not None and header.last_log_time > goal.time


def archived_entries(
    store: BackupStore, pieces: list[StoredPiece], image: ImageHeader, goal: Goal
) -> Iterator[EntryBatch]:
    """The entries after the image up to the goal. Raises BackupError, PieceDamaged."""
    last_index, last_term = image.index, image.term
    for piece in pieces:
        with store.opened(piece.name) as file:
            header, batches = read_piece(file, piece.name)
            check_follows(header, last_index, last_term, piece.name)
            for batch in slices_after(batches, last_index):
                if batch.runs[0].term < last_term:
                    raise BackupError(f"{piece.name}: its terms cannot follow term {last_term}")
                kept = goal.cut(batch)
                if kept.payloads:
                    yield kept
                if len(kept) < len(batch):
                    return
                last_index, last_term = batch.last_index, batch.last_term


def refuse_data(settings: Settings, has_rows: bool) -> None:
    """Raises BackupError where this host has a folder or a database already."""
    found = []
    if (settings.data_dir / METADATA).exists():
        found.append(f"a node's folder in {settings.data_dir}")
    if has_rows:
        found.append(f"tables in DATABASES[{settings.database!r}]")
    if found:
        raise BackupError(
            f"this host has {' and '.join(found)}: with --replace they are set aside first (PostgreSQL: dropped)"
        )


def restore(
    settings: Settings, path: Path, entries: Callable[[ImageHeader], Iterator[EntryBatch]], on_progress: Progress
) -> Restored:
    """Make folder and database of this host, which has none, out of the image at `path` and the entries after it.

    Raises BackupError, PieceDamaged, ImageError, StorageError, OSError, DirectoryInUse.
    """
    header = read_header(path)
    if header.cluster != settings.cluster:
        raise BackupError(
            f"{path.name} is of the cluster {header.cluster!r}, RAFTLOG['CLUSTER'] is {settings.cluster!r}"
        )
    storage = open_storage(
        settings.data_dir,
        node_id=settings.node_id,
        cluster=settings.cluster,
        cluster_id=uuid.uuid4().hex,
        new_incarnation=uuid.uuid4().hex,
        segment_bytes=settings.segment_bytes,
    )
    try:
        storage.log.reset_to(header.base)
        last_term, last_log_time = _append(storage, header, entries)
        last_index = storage.log.last_index
        install_image(settings.database, path, on_progress=on_progress)
        configuration = begin_new_cluster(
            storage,
            Configuration(header.cluster_id),
            Server(settings.address),
            last_term=max(last_term, header.base.committed_in),
            log_time=max(last_log_time, clock.wall_microseconds()),
            new_cluster_id=lambda: storage.metadata.cluster_id,
        )
    finally:
        storage.close()
    return Restored(header, last_index, last_log_time, configuration)


def _append(
    storage: Storage, header: ImageHeader, entries: Callable[[ImageHeader], Iterator[EntryBatch]]
) -> tuple[int, int]:
    """Term and log time of the last entry."""
    last_term, last_log_time = header.base.term, header.base.log_time
    for batch in entries(header):
        storage.log.append(batch)
        last_term, last_log_time = batch.last_term, batch.runs[-1].log_time
    storage.log.sync()
    return last_term, last_log_time
