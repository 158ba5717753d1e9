"""What a node's folder says for `raft recover`: read from the folder itself, or from a report made where it lies."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from raftlog.consensus.configuration import Configuration
from raftlog.exceptions import RaftlogError, StorageError
from raftlog.runtime.loading import load_log
from raftlog.storage.filesystem import RealFileSystem
from raftlog.storage.hard_state import read_hard_state
from raftlog.storage.inspect import open_for_reading
from raftlog.storage.layout import HARD_STATE, load_metadata


class SurvivorError(RaftlogError):
    """A folder or report cannot be used for a recovery; the text says why."""


class Survivor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node that is left, as its folder says. Times are microseconds since the epoch."""

    node_id: str
    cluster: str  # name
    # Of the newest configuration in its log, and of `metadata`: they differ where a recovery was interrupted.
    cluster_id: str
    folder_cluster_id: str
    incarnation: str
    current_term: int
    last_index: int
    last_term: int
    last_log_time: int
    configuration_index: int
    configuration: Configuration
    # From which entry on its log was cut by `raft repair`, until what was lost is there again; 0: it was not.
    cut_from: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """§5.4.1: the higher, the more up-to-date its log."""
        return self.last_term, self.last_index


def read_folder(directory: str | os.PathLike[str]) -> Survivor:
    """Read a folder whose node does not run; changes nothing. Raises SurvivorError."""
    disk, path = RealFileSystem(), os.fspath(directory)
    try:
        metadata = load_metadata(disk, path)
        file = disk.open(f"{path}/{HARD_STATE}")
        try:
            _, hard_state = read_hard_state(f"{path}/{HARD_STATE}", file)
        finally:
            file.close()
        store = open_for_reading(path)
        try:
            log = load_log(store)
        finally:
            store.close()
    except FileNotFoundError as error:
        raise SurvivorError(f"{path} is no folder of a node: {error.filename} is missing") from error
    except (StorageError, OSError) as error:
        raise SurvivorError(f"{path} cannot be used: {error}") from error
    index, configuration = log.configuration
    return Survivor(
        metadata.node_id,
        metadata.cluster,
        configuration.cluster_id,
        metadata.cluster_id,
        metadata.incarnation,
        hard_state.current_term,
        log.last_index,
        log.last_term,
        log.last_log_time,
        index,
        configuration,
        metadata.repairing.cut_from if metadata.repairing is not None else 0,
    )


def encode_report(survivor: Survivor) -> str:
    return msgspec.json.encode(survivor).decode()


def read(path: str | os.PathLike[str]) -> Survivor:
    """Read a folder, or the file of a report. Raises SurvivorError."""
    where = Path(path)
    if where.is_dir():
        return read_folder(where)
    try:
        survivor = msgspec.json.decode(where.read_bytes(), type=Survivor)
        survivor.configuration.check()
    except OSError as error:
        raise SurvivorError(f"{where} cannot be read: {error}") from error
    except (msgspec.DecodeError, RaftlogError) as error:
        raise SurvivorError(f"{where} is no report of `raft recover --report`: {error}") from error
    return survivor
