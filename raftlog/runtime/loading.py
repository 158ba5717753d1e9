"""From the log on disk to the core's view of it, when a node starts."""

from __future__ import annotations

from raftlog.consensus.configuration import decode_configuration
from raftlog.consensus.log import RaftLog
from raftlog.storage.interface import LogStore


def load_log(store: LogStore) -> RaftLog:
    """Base, term runs and configurations of the whole log, and no payloads. Raises LogDamaged."""
    indices = store.configuration_indices()
    has_entries = store.last_index > store.base.index
    return RaftLog(
        base=store.base,
        last_index=store.last_index,
        term_runs=store.term_runs(),
        configurations=[(i, decode_configuration(store.read(i, i, 1).payloads[0])) for i in indices],
        last_log_time=store.read(store.last_index, store.last_index, 1).runs[-1].log_time if has_entries else 0,
    )
