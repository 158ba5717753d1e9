"""Snapshots and compaction as the monitor sees them: what the threads of raftlog/snapshots/ do inside it.

The log has one writer at a time (rule 6): compacting it counts as writing, and so does replacing it, which the
log-sync thread does like any other write.
"""

from __future__ import annotations

import logging
from typing import Final

from raftlog.consensus.snapshot import LogBase, SnapshotWanted, Transfer
from raftlog.exceptions import DiskFull
from raftlog.log_fields import log_fields
from raftlog.runtime.consensus_state import ConsensusState, run
from raftlog.runtime.ports import Outcome

logger = logging.getLogger("raftlog.snapshots")

LOOK: Final = 0.1  # seconds between two looks at what another thread does


def describe(state: ConsensusState, index: int, term: int) -> LogBase:
    """What an image that ends with this entry says of the log. Raises ValueError, IndexError. Monitor: takes it."""
    with state.monitor:
        base = state.raft.base_at(index)
    if base.term != term:
        raise ValueError(f"the database says term {term} of entry {index}, the log {base.term}")
    return base


def wanted(state: ConsensusState) -> SnapshotWanted | None:
    """Monitor: takes it."""
    with state.monitor:
        return state.raft.wanted_snapshot


def report(state: ConsensusState, transfer: Transfer) -> None:
    """Monitor: takes it."""
    with state.monitor:
        state.raft.report_transfer(transfer)


def restore(state: ConsensusState, base: LogBase) -> bool:
    """An image that ends with `base` is durable here: return once this disk's log goes on after it.

    False: the node stops. Raises ValueError where the image is of no use (any more). Monitor: takes it.
    """
    with state.monitor:
        now = state.monitor.monotonic()
        state.raft.restore_snapshot(base, now)
        afterwards = state.settle(now, wake=state.peer_work)
    run(afterwards)
    with state.monitor:
        while state.raft.log.stable_index < base.index and not state.stopping:
            state.log_writer_idle.wait_until(state.monitor.monotonic() + LOOK)
        return not state.stopping


def installed(state: ConsensusState, index: int, outcomes: list[Outcome]) -> None:
    """The database is an image that ends at `index`; `outcomes` are those of waiting callers. Monitor: takes it."""
    state.applied(index, outcomes)
    with state.monitor:
        state.raft.report_transfer(Transfer())
        afterwards = state.settle(state.monitor.monotonic(), wake=state.peer_work)
    run(afterwards)


def not_installed(state: ConsensusState) -> None:
    """The database is what it was: what the log still has may be applied to it. Monitor: takes it."""
    with state.monitor:
        state.raft.machine_is_at(state.raft.last_applied)
        afterwards = state.settle(state.monitor.monotonic())
    run(afterwards)


def compact(state: ConsensusState, index: int) -> int:
    """Give up the log up to `index`, or as far as may be now. Returns the new base's index; 0: nothing was done.

    Monitor: takes it; the disk's part is done outside. Raises StorageFailed.
    """
    with state.monitor:
        state.log_writer_wanted = True
        while state.log_writer_busy and not state.stopping:
            state.log_writer_idle.wait_until(float("inf"))
        state.log_writer_wanted = False
        raft = state.raft
        index = min(index, raft.compaction_floor(state.monitor.monotonic()), raft.log.stable_index)
        index = state.log_store.compactable_to(index)
        if index <= raft.log.base.index or state.stopping:
            state.log_writer_idle.notify()
            return 0
        base = raft.base_at(index)
        state.log_writer_busy = True
        raft.compacted_to(base)
    try:
        state.log_store.compact_to(base)
    except DiskFull as error:
        logger.warning(
            "the log could not be compacted, which is tried again: %s",
            error,
            extra=log_fields("compaction_failed", node=state.raft.node_id, reason=str(error)),
        )
        index = 0
    with state.monitor:
        state.log_writer_busy = False
        state.log_writer_idle.notify()
        afterwards = state.settle(state.monitor.monotonic())
    run(afterwards)
    return index
