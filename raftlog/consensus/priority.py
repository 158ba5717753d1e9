"""Who should lead: priorities of servers, and servers that should not lead just now (dissertation §3.10, §6.2).

A leader hands over on its own account for two reasons: its host says that it is unfit (a full disk, one that does not
answer), then at once and to the best voter that there is; or a voter of higher priority has been fit for a calm while,
then to that one. Priorities decide nothing else: they are no part of a vote, so they can cost a cluster time, never an
entry.

Rules about this file:
- Never in circles: for priority's sake leadership moves only to a higher priority, and only after `priority_calm`
  seconds in which the other one could have led; each attempt that fails doubles the calm.
- Not for priority's sake while the members change, or towards a server that says that it should not lead, has not
  answered for an election timeout, or lacks what this log and this database held an election timeout ago.
- A server that is not the best waits a little longer before it campaigns, but it does campaign: the best may be down.
"""

from __future__ import annotations

from collections.abc import Collection

from raftlog.consensus.progress import Progress, ProgressState
from raftlog.consensus.server_state import INFINITY, ServerState
from raftlog.consensus.timeout_now import give_up_transfer, transfer_leadership

MAX_CALM_DOUBLINGS = 6


def set_unfit(state: ServerState, reason: str, now: float) -> None:
    """The host's word that this server should not lead just now; "": it may again."""
    was_fit = not state.unfit
    state.unfit = reason
    if state.leadership is None or bool(reason) != was_fit:
        return
    state.leadership.look_at = now if reason else now + state.settings.priority_calm


# The leader


def handover_deadline(state: ServerState) -> float:
    """When a leader is due a tick() to hand over, or to give that up; inf: there is nobody to hand over to."""
    leadership = state.leadership
    if leadership is None:
        return INFINITY
    if leadership.transfer_to:
        return leadership.transfer_deadline
    others = [peer for peer in state.configuration.voters if peer != state.node_id]
    own = state.configuration.priority_of(state.node_id)
    if others and (state.unfit or any(state.configuration.priority_of(peer) > own for peer in others)):
        return leadership.look_at
    return INFINITY


def hand_over_if_due(state: ServerState, now: float) -> None:
    """Begin a transfer, where this leader is unfit or another server is to lead rather than it."""
    leadership = state.leadership
    if leadership is None:
        return
    give_up_transfer(state, now)
    if leadership.transfer_to or now < handover_deadline(state):
        return
    if state.unfit:
        leadership.look_at = now + state.settings.heartbeat_interval
        to = best_successor(state, now)
        if to:
            transfer_leadership(state, to, now, state.unfit)
        return
    to = _better_leader(state, now)
    leadership.look_at = now + state.settings.election_timeout
    leadership.looked_index = state.log.last_index
    if to:
        doublings = min(state.progress[to].transfers_given_up, MAX_CALM_DOUBLINGS)
        leadership.look_at = now + state.settings.priority_calm * (1 << doublings)
        transfer_leadership(state, to, now, _reason(state, to), for_priority=True)


def _reason(state: ServerState, to: str) -> str:
    priority_of = state.configuration.priority_of
    return f"its priority is {priority_of(to)}, that of {state.node_id} {priority_of(state.node_id)}"


def _better_leader(state: ServerState, now: float) -> str:
    """The voter of the highest priority above this leader's that has been ready for a calm while; "": there is none."""
    if state.configuration.goal_voters or state.configuration_index > state.commit_index:
        return ""
    priority_of = state.configuration.priority_of
    own = priority_of(state.node_id)
    ready = []
    for peer in state.configuration.voters:
        progress = state.progress.get(peer)
        if progress is None or priority_of(peer) <= own:
            continue
        if not _is_ready(state, progress, now):
            progress.ready_since = now
        elif now - progress.ready_since >= state.settings.priority_calm:
            ready.append(peer)
    return max(ready, key=lambda peer: (priority_of(peer), state.progress[peer].match_index), default="")


def _is_ready(state: ServerState, progress: Progress, now: float) -> bool:
    """Whether it answers, says that it may lead, and has and has applied what this log held at the last look."""
    leadership = state.leadership
    assert leadership is not None
    return (
        _is_able(state, progress, now)
        and progress.match_index >= leadership.looked_index
        and progress.applied_index >= min(leadership.looked_index, state.last_applied)
    )


def _answers(state: ServerState, progress: Progress, now: float) -> bool:
    return progress.acked_round > 0 and now - progress.acked_at < state.settings.election_timeout


def best_successor(state: ServerState, now: float, among: Collection[str] | None = None) -> str:
    """Whom leadership is best handed to, of the voters in `among` (all); "": nobody could take it.

    Of those that answer and may lead: not one that has just failed to take over, rather one that has everything
    committed, of the highest priority, with the most of the log.
    """
    peers = set(state.configuration.voters) & state.progress.keys()
    if among is not None:
        peers &= set(among)

    def rank(peer: str) -> tuple[int, bool, int, int, str]:
        progress = state.progress[peer]
        has_committed = progress.match_index >= state.commit_index
        priority = state.configuration.priority_of(peer)
        return -progress.transfers_given_up, has_committed, priority, progress.match_index, peer

    return max((peer for peer in peers if _is_able(state, state.progress[peer], now)), key=rank, default="")


def _is_able(state: ServerState, progress: Progress, now: float) -> bool:
    return progress.may_lead and progress.state is not ProgressState.SNAPSHOT and _answers(state, progress, now)


def on_answer(state: ServerState, peer: str, may_lead: bool, now: float) -> None:
    """A follower says whether it should lead. The target of a transfer that should not is let off at once."""
    leadership, progress = state.leadership, state.progress[peer]
    assert leadership is not None
    if may_lead != progress.may_lead:
        progress.may_lead = may_lead
        progress.ready_since = now
    if not may_lead and leadership.transfer_to == peer:
        give_up_transfer(state, now, refused=True)
