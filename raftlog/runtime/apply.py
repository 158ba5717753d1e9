"""The state-machine thread.

Waits for: entries that are committed and durable in this node's own log (rule 5), and not applied.
Does outside the monitor: reads them (from memory, else from disk) and applies them to the state machine.
Then, inside: moves last_applied and collects the callers to answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftlog.exceptions import ApplyStopped
from raftlog.runtime.consensus_state import ConsensusState
from raftlog.runtime.ports import StateMachine

MAX_APPLY_BYTES: Final = 1 << 20  # payload bytes of one batch, and so about the size of one database transaction


def state_machine_main(
    state: ConsensusState,
    machine: StateMachine,
    on_applied: Callable[[int], None],
    now_doing: Callable[[str], None],
) -> None:
    """Apply committed entries, in order, until the node stops. Monitor: takes it. Raises ApplyStopped, StorageError.

    `on_applied` is called outside the monitor with the last index of each batch, before its callers are answered.
    """
    try:
        while True:
            with state.monitor:
                first_index = state.raft.last_applied + 1
                last_index = min(state.raft.commit_index, state.raft.log.stable_index)
                if state.stopping:
                    return
                if last_index < first_index:
                    now_doing("waiting for committed entries")
                    state.apply_work.wait_until(float("inf"))
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
