"""The state-machine thread.

Waits for: entries that are committed and durable in this node's own log (rule 5), and not applied.
Does outside the monitor: reads them (from memory, else from disk) and applies them to the state machine.
Every quarter of a second it looks whether anybody else has written the database.
Then, inside: moves last_applied and collects the callers to answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftlog.exceptions import ApplyStopped
from raftlog.runtime.consensus_state import ConsensusState
from raftlog.runtime.ports import StateMachine

LOOK_INTERVAL: Final = 0.25  # seconds between two looks around the database
MAX_APPLY_BYTES: Final = 1 << 20  # payload bytes of one batch, and so about the size of one database transaction


def state_machine_main(
    state: ConsensusState,
    machine: StateMachine,
    on_applied: Callable[[int], None],
    look_around: Callable[[], None],
    now_doing: Callable[[str], None],
) -> None:
    """Apply committed entries, in order, until the node stops. Monitor: takes it. Raises ApplyStopped, StorageError.

    Both are called outside the monitor: `on_applied` with the last index of each batch, before its callers are
    answered; `look_around` every LOOK_INTERVAL, between batches and where there are none.
    """
    look_at = float("-inf")
    try:
        while True:
            if state.monitor.monotonic() >= look_at:
                look_around()
                look_at = state.monitor.monotonic() + LOOK_INTERVAL
            with state.monitor:
                first_index = state.raft.last_applied + 1
                last_index = min(state.raft.commit_index, state.raft.log.stable_index)
                if state.stopping:
                    return
                if last_index < first_index:
                    now_doing("waiting for committed entries")
                    state.apply_work.wait_until(look_at)
                    continue
                # A bound on time: callers of the first entries wait for the whole batch.
                last_index = min(last_index, first_index + machine.max_entries - 1)
                batch = state.raft.log.slice(first_index, last_index, MAX_APPLY_BYTES)
            if batch is None:
                now_doing("reading entries from disk")
                batch = state.log_store.read(first_index, last_index, MAX_APPLY_BYTES)
            now_doing(f"applying entries {batch.first_index}-{batch.last_index}")
            try:
                outcomes = machine.apply(batch)
            except ApplyStopped:
                if state.stopping:
                    return
                raise
            on_applied(batch.last_index)
            state.applied(batch.last_index, outcomes)
    finally:
        machine.close()
