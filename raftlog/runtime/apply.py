"""The state-machine thread.

Waits for: entries that are committed and durable in this node's own log (rule 5), and not applied.
Does outside the monitor: reads them (from memory, else from disk) and applies them to the state machine.
What nobody waits for is gathered for a moment (apply_pace.py).
Every quarter of a second it looks whether anybody else has written the database.
Then, inside: moves last_applied and collects the callers to answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftlog.consensus.entries import EntryBatch
from raftlog.exceptions import ApplyStopped, DatabaseReplaced
from raftlog.runtime import snapshots
from raftlog.runtime.consensus_state import ConsensusState
from raftlog.runtime.ports import MachineCare, Outcome, StateMachine

LOOK_INTERVAL: Final = 0.25  # seconds between two looks around the database
MAX_APPLY_BYTES: Final = 1 << 20  # payload bytes of one batch, and so about the size of one database transaction

OnApplied = Callable[[int, list[Outcome]], None]


def state_machine_main(
    state: ConsensusState,
    machine: StateMachine,
    on_applied: OnApplied,
    care: MachineCare,
    now_doing: Callable[[str], None],
) -> None:
    """Apply committed entries, in order, until the node stops. Monitor: takes it. Raises ApplyStopped, StorageError.

    `on_applied` is called outside the monitor with the last index and the outcomes of each batch, before its callers
    are answered.
    """
    applying = _Applying(state, machine, on_applied, care, now_doing)
    try:
        while applying.goes_on:
            try:
                applying.round()
            except DatabaseReplaced as replaced:
                applying.recover(replaced)
            except ApplyStopped:
                if not state.stopping:
                    raise
    finally:
        machine.close()


def apply_new(machine: StateMachine, batch: EntryBatch) -> list[Outcome]:
    """Apply what the machine has not applied already: after a repair of the log it may be ahead of it.

    Nobody waits for the others: they were applied before this process began.
    """
    if batch.last_index <= machine.last_applied:
        return []
    return machine.apply(batch.slice(max(batch.first_index, machine.last_applied + 1), batch.last_index))


class _Applying:
    """What the state-machine thread knows."""

    def __init__(
        self,
        state: ConsensusState,
        machine: StateMachine,
        on_applied: OnApplied,
        care: MachineCare,
        now_doing: Callable[[str], None],
    ) -> None:
        self.goes_on = True
        self._state = state
        self._machine = machine
        self._on_applied = on_applied
        self._care = care
        self._now_doing = now_doing
        self._look_at = float("-inf")
        # What was known to be committed when a leader was first known, since the start or the last recovery; 0: none
        # was yet.
        self._catch_up_to = 0
        self._is_behind = True
        if machine.gathers:
            with state.monitor:
                state.apply_pace.max_entries = machine.max_entries

    def round(self) -> None:
        """Look around where that is due; apply a batch, or wait for one. Monitor: takes it."""
        state, now_doing = self._state, self._now_doing
        if state.monitor.monotonic() >= self._look_at:
            self._care.look_around()
            self._look_at = state.monitor.monotonic() + LOOK_INTERVAL
        if self._is_behind and self._has_caught_up():
            self._is_behind = False
            self._care.caught_up()
        if self._care.has_image:
            self._install()
        with state.monitor:
            first_index = state.raft.last_applied + 1
            last_index = min(state.raft.commit_index, state.raft.log.stable_index)
            if state.stopping:
                self.goes_on = False
                return
            if self._care.has_image:
                return
            if last_index < first_index or state.raft.lacks_database:
                now_doing("waiting for an image" if state.raft.lacks_database else "waiting for committed entries")
                state.apply_work.wait_until(min(self._look_at, state.apply_pace.next_look(state.monitor.monotonic())))
                return
            due_at = state.applies_at()
            started_at = state.monitor.monotonic()
            if due_at > started_at:
                now_doing("gathering committed entries")
                state.apply_work.wait_until(min(self._look_at, due_at))
                return
            # A bound on time: callers of the first entries wait for the whole batch.
            last_index = min(last_index, first_index + self._machine.max_entries - 1)
            batch = state.raft.log.slice(first_index, last_index, MAX_APPLY_BYTES)
        if batch is None:
            now_doing("reading entries from disk")
            batch = state.log_store.read(first_index, last_index, MAX_APPLY_BYTES)
        now_doing(f"applying entries {batch.first_index}-{batch.last_index}")
        batch = state.pins.cut(batch)
        outcomes = apply_new(self._machine, batch)
        self._on_applied(batch.last_index, outcomes)
        state.applied(batch.last_index, outcomes, started_at)
        state.pins.applied(batch)

    def _install(self) -> None:
        """Monitor: takes it."""
        self._now_doing("installing an image")
        with self._state.monitor:
            keys = self._state.proposals.waiting_keys()
        index, outcomes = self._care.install(keys)
        if index:
            self._on_applied(index, outcomes)
            snapshots.installed(self._state, index, outcomes)
        else:
            snapshots.not_installed(self._state)

    def _has_caught_up(self) -> bool:
        with self._state.monitor:
            raft = self._state.raft
            if not self._catch_up_to and raft.leader_id:
                self._catch_up_to = raft.commit_index
            return 0 < self._catch_up_to <= raft.last_applied

    def recover(self, replaced: DatabaseReplaced) -> None:
        """The database is not the one that it was: go on from the one that is there now. Monitor: takes it."""
        self._now_doing("opening the database again")
        self._is_behind, self._catch_up_to = True, 0
        self._state.machine_is_at(self._care.recover(replaced))
