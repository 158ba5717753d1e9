"""The election timer thread.

Waits for: the election deadline of a follower or candidate.
Does: starts a (pre-)election when it passes. Everything inside the monitor; the changed term and vote are synced
there, by this thread, before any message of that term leaves (rule 6).
"""

from __future__ import annotations

from collections.abc import Callable

from raftlog.runtime.consensus_state import Afterwards, ConsensusState, run


def election_timer_main(state: ConsensusState, now_doing: Callable[[str], None]) -> None:
    """Start an election whenever the election deadline passes. Monitor: takes it."""
    afterwards: Afterwards = []
    while True:
        with state.monitor:
            if state.stopping:
                return
            count_arrivals(state)
            now = state.monitor.monotonic()
            if now >= state.raft.election_deadline:
                now_doing("starting an election")
                state.raft.tick(now)
                afterwards = state.settle(now, wake=state.peer_work)
            if not afterwards:
                now_doing("waiting for the election deadline")
                state.wait_for_election_deadline()
        run(afterwards)
        afterwards = []


def count_arrivals(state: ConsensusState) -> None:
    """Let the newest AppendEntries of the present leader count, also while it still waits to be processed (rule 6).

    Monitor: held.
    """
    leader_id = state.raft.leader_id
    arrived_at = state.leader_arrivals.get(leader_id)
    if arrived_at is not None:
        state.raft.heard_from_leader(leader_id, arrived_at)
