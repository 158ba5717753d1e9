"""A server whose disk lost some of what it had promised, until it may be counted again.

After "Protocol-Aware Recovery for Consensus-Based Storage" (FAST '18), with a barrier in place of a bound on what was
lost. Such a server has a `recovery_id`, drawn when its folder was repaired. It follows its leader and stores the log
like any other, but grants no vote, stands for no election, and counts for nothing: not for commits, not for a round
of heartbeats, not for a promotion.

The leader that first hears of a recovery_id appends a no-op, the *barrier*. Once the server has it durably and knows
it committed, in the term of that leader, the recovery is over. That is enough, whatever was lost:

- Entries that it had acknowledged to leaders of this or of older terms, and that were committed with its help, are in
  this leader's log (Leader Completeness) before the barrier.
- A vote, or an acknowledgement, that it had given in a newer term: a majority without this server has acknowledged
  the barrier in this term, after the repair. A majority that made, or completes, a leader of a newer term with the
  help of a forgotten vote has another server in common with it: one which had voted before would not have
  acknowledged the barrier, and one which votes afterwards has the barrier, and the forgotten candidate has not.

Rules about this file:
- Answers that were sent before the repair and arrive after the leader has heard of it are told by their round.
- The recovery ends durably before it ends (recovery_finished, then Raft.recovery_saved()).
"""

from __future__ import annotations

from raftlog.consensus.entries import NO_OP_PAYLOAD
from raftlog.consensus.events import RecoveryBegan, RecoveryEnded
from raftlog.consensus.messages import AppendEntries, AppendEntriesResponse, InstallSnapshotResponse
from raftlog.consensus.progress import Progress
from raftlog.consensus.server_state import ServerState
from raftlog.consensus.timing import begin_round, recount_quorum

# The leader


def notice(
    state: ServerState, progress: Progress, message: AppendEntriesResponse | InstallSnapshotResponse, now: float
) -> bool:
    """Look at what an answer says of its sender's recovery. Returns whether the answer is from before it."""
    if message.round < progress.recovery_round:
        return True
    if message.recovery_id != progress.recovery_id:
        progress.recovery_id = message.recovery_id
        if message.recovery_id:
            _begin(state, progress, message, now)
        recount_quorum(state)
    return False


def _begin(
    state: ServerState, progress: Progress, message: AppendEntriesResponse | InstallSnapshotResponse, now: float
) -> None:
    leadership = state.leadership
    assert leadership is not None
    progress.forget_match(min(message.last_log_index, state.log.last_index) + 1)
    progress.recovery_index = state.log.last_index + 1
    size = state.log.append_new(state.current_term, [NO_OP_PAYLOAD], 0)
    leadership.uncommitted.append((progress.recovery_index, size))
    leadership.uncommitted_bytes += size
    begin_round(state, now)
    progress.recovery_round = leadership.round
    state.events.append(RecoveryBegan(state.current_term, message.sender, progress.recovery_index))


def counts(progress: Progress) -> bool:
    """Whether what this peer acknowledges counts."""
    return not progress.recovery_id


# The server that recovers


def learn_barrier(state: ServerState, message: AppendEntries) -> None:
    """The leader of the current term says where its barrier is."""
    if state.recovery_id and message.recovery_id == state.recovery_id:
        state.recovery_index = message.recovery_index
        state.recovery_term = message.term
        notice_end(state)


def notice_end(state: ServerState) -> None:
    """Has this server the barrier, committed and durable, in the term of the leader that appended it?"""
    index = state.recovery_index
    if not state.recovery_id or state.recovery_finished or not index or state.recovery_term != state.current_term:
        return
    log = state.log
    if min(state.commit_index, log.stable_index) < index:
        return
    # Where a snapshot went over the barrier, its last entry stands for it.
    if log.term_at(max(index, log.base.index)) == state.recovery_term:
        state.recovery_finished = True
        state.events.append(RecoveryEnded(state.current_term, index))
