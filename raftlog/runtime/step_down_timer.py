"""The step-down timer thread.

Waits for: the leader's quorum deadline (an election timeout without a heartbeat round answered by a majority), and
the nearest deadline of a waiting caller.
Does, inside the monitor: turns the leader into a follower; collects the callers whose time is over.
Outside: answers them.
"""

from __future__ import annotations

from collections.abc import Callable

from raftlog.runtime.consensus_state import ConsensusState, _calls, _read_calls, run


def step_down_timer_main(state: ConsensusState, now_doing: Callable[[str], None]) -> None:
    """Step down when the quorum deadline passes; end what waits for too long. Monitor: takes it."""
    while True:
        with state.monitor:
            if state.stopping:
                return
            now = state.monitor.monotonic()
            if now < state.step_down_deadline:
                now_doing("waiting for the quorum deadline")
                state.wait_for_step_down_deadline()
                continue
            now_doing("checking deadlines")
            if now >= min(state.raft.quorum_deadline, state.raft.change_deadline):
                state.raft.tick(now)
            afterwards = state.settle(now)
            afterwards += _calls(state.proposals.expire(now)) + _read_calls(state.reads.expire(now))
            afterwards += state.settle(now, wake=state.peer_work)
        run(afterwards)
