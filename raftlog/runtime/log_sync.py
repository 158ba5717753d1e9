"""The log-sync thread: the leader's disk.

Waits for: entries of the log that are not synced, and are not a follower's service thread's to write.
Holds while it writes: nothing but `log_writer_busy`; replication to the peers goes on in parallel.
Does outside the monitor: one write and one sync for all entries there are (group commit).
Then, inside: tells the core what is stable, which may commit it.
"""

from __future__ import annotations

from collections.abc import Callable

from raftlog.runtime.consensus_state import ConsensusState, run

DISK_FULL_RETRY = 0.25  # seconds


def log_sync_main(state: ConsensusState, now_doing: Callable[[str], None]) -> None:
    """Write what is unsynced until the node stops. Monitor: takes it. Raises StorageFailed, which ends the node."""
    while True:
        with state.monitor:
            if state.log_writer_busy or state.log_writer_wanted:  # the log is being compacted, or is about to be
                state.log_writer_idle.wait_until(float("inf"))
                continue
            now = state.monitor.monotonic()
            work = state.begin_log_write(now)
            if work is None:
                if state.stopping:
                    return
                now_doing("waiting for entries to sync")
                state.log_sync_work.wait_until(float("inf"))
                continue
        now_doing("writing and syncing")
        succeeded = state.write(work)  # where this raises, the thread dies and the node stops: nobody writes any more
        with state.monitor:
            state.end_log_write(work, succeeded)
            now = state.monitor.monotonic()
            afterwards = state.settle(now)
            if not succeeded and not state.stopping:
                now_doing("waiting for room on the disk")
                state.log_sync_work.wait_until(now + DISK_FULL_RETRY)
            elif not succeeded:
                return
        run(afterwards)
