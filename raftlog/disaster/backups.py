"""A backup: an image of the database, made while it is in use, in a file or in a storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from raftlog.conf import Settings
from raftlog.consensus.snapshot import LogBase
from raftlog.disaster.store import BackupError, BackupStore, image_name
from raftlog.exceptions import RaftlogError, StorageError
from raftlog.replication.images import ImageHeader, make_image, verify_image
from raftlog.runtime.consensus_state import ConsensusState
from raftlog.runtime.loading import load_log
from raftlog.storage.inspect import open_for_reading
from raftlog.storage.interface import LogStore

# Of a node, for those who make an image in another process: {"index"} -> LogBase as plain data.
DESCRIBE_ENTRY = "describe_entry"
OUTGOING = "outgoing"  # folder in DATA_DIR of images on their way to a storage

Describe = Callable[[int, int], LogBase]
Progress = Callable[[int, int], None]


def describer(state: ConsensusState, store: LogStore) -> Callable[[int], LogBase]:
    """What this node's log knows of an applied entry, with the log time of that very entry.

    Raises BackupError where it has been compacted meanwhile.
    """

    def describe(index: int) -> LogBase:
        try:
            with state.monitor:
                base = state.raft.base_at(index)
        except (IndexError, ValueError) as error:
            raise BackupError(f"the log does not hold entry {index}, at which the database stands: {error}") from error
        return with_log_time(store, base)

    return describe


def with_log_time(store: LogStore, base: LogBase) -> LogBase:
    if base.index < store.first_index:
        return base
    run = store.read(base.index, base.index, 1).runs[0]
    return msgspec.structs.replace(base, log_time=run.log_time)


def describe_from_folder(settings: Settings) -> Describe:
    """For a host whose node does not run. Raises BackupError."""

    def describe(index: int, term: int) -> LogBase:
        try:
            store = open_for_reading(settings.data_dir)
            try:
                log = load_log(store)
                if log.term_at(index) != term:
                    raise BackupError(f"the log in {settings.data_dir} is not that of the database")
                return with_log_time(store, msgspec.structs.replace(log.base_at(index), committed_in=term))
            finally:
                store.close()
        except (StorageError, OSError, IndexError) as error:
            raise BackupError(
                f"no node runs here, and the log in {settings.data_dir} cannot be read: {error}"
            ) from error

    return describe


def back_up_to_file(alias: str, path: Path, describe: Describe, on_progress: Progress) -> ImageHeader:
    """Raises BackupError, ImageError, OSError."""
    if path.exists():
        raise BackupError(f"{path} exists already: choose another name, or delete it")
    return make_image(alias, path, describe, on_progress=on_progress)


def back_up_to_storage(
    settings: Settings, store_of: Callable[[str], BackupStore], describe: Describe, on_progress: Progress
) -> tuple[ImageHeader, str]:
    """Make an image in DATA_DIR, bring it to the storage, and remove it here. `store_of` a cluster id.

    Returns the header and the name in the storage. Raises BackupError, ImageError, OSError.
    """
    folder = settings.data_dir / OUTGOING
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("image-*"):
        left.unlink(missing_ok=True)
    path = folder / "image-new"
    try:
        header = make_image(settings.database, path, describe, on_progress=on_progress)
        if not header.cluster_id:
            raise BackupError("the database belongs to no cluster yet: start the node first")
        name = image_name(header)
        store_of(header.cluster_id).save(name, path)
    finally:
        path.unlink(missing_ok=True)
    return header, name


def verify_file(path: Path, on_progress: Progress) -> ImageHeader:
    """Raises BackupError, OSError."""
    try:
        return verify_image(path, on_progress)
    except RaftlogError as error:
        raise BackupError(str(error)) from error
