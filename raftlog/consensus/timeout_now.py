"""Leadership transfer (dissertation §3.10).

The leader stops taking proposals, brings the target's log up to date and sends TimeoutNow; the target
stands for election at once. Where it does not take over within an election timeout, the leader goes on.
"""

from __future__ import annotations

from raftlog.consensus.events import TransferAbandoned, TransferStarted
from raftlog.consensus.leases import end_lease
from raftlog.consensus.messages import TimeoutNow
from raftlog.consensus.progress import ProgressState
from raftlog.consensus.request_vote import start_election
from raftlog.consensus.server_state import INFINITY, ServerState
from raftlog.consensus.state import Role
from raftlog.consensus.timing import may_lead
from raftlog.exceptions import NotLeader


def transfer_leadership(
    state: ServerState, to: str, now: float, reason: str = "", *, for_priority: bool = False
) -> None:
    """Raises NotLeader, ValueError where `to` is this server, no voter, needs a snapshot, or says that it should not
    lead."""
    leadership = state.leadership
    if leadership is None:
        raise NotLeader(state.leader_id)
    if to == state.node_id or not state.configuration.is_voter(to):
        others = sorted(state.configuration.all_voters - {state.node_id})
        raise ValueError(f"leadership cannot be handed to {to!r}; the other voters are {others}")
    if not state.progress[to].may_lead:
        raise ValueError(f"{to} says that it should not lead just now; its status tells why")
    if state.progress[to].state is ProgressState.SNAPSHOT:
        raise ValueError(f"{to} needs a snapshot before it can have the log; hand over to another server")
    leadership.transfer_to = to
    leadership.transfer_deadline = now + state.settings.election_timeout
    leadership.transfer_for_priority = for_priority
    leadership.timeout_now_sent = False
    state.events.append(TransferStarted(state.current_term, to, reason))


def build_timeout_now(state: ServerState, peer: str, now: float) -> TimeoutNow | None:
    """TimeoutNow, once, where `peer` is the target and has every entry."""
    leadership = state.leadership
    if leadership is None or leadership.transfer_to != peer:
        return None
    if give_up_transfer(state, now) or leadership.timeout_now_sent:
        return None
    if state.progress[peer].match_index < state.log.last_index:
        return None
    leadership.timeout_now_sent = True
    end_lease(state)
    return TimeoutNow(state.current_term, state.node_id, peer)


def give_up_transfer(state: ServerState, now: float, *, refused: bool = False) -> bool:
    """Dissertation §3.10: "If leadership transfer does not complete after about an election timeout, the prior leader
    aborts the transfer and resumes accepting client requests." Returns whether it did.

    refused: the target says that it should not lead.
    """
    leadership = state.leadership
    if leadership is None or not leadership.transfer_to or (now < leadership.transfer_deadline and not refused):
        return False
    why = TransferAbandoned.REFUSED if refused else TransferAbandoned.TOO_LATE
    state.events.append(TransferAbandoned(state.current_term, leadership.transfer_to, why))
    if leadership.transfer_to in state.progress:
        state.progress[leadership.transfer_to].transfers_given_up += 1
    leadership.transfer_to = ""
    leadership.transfer_deadline = INFINITY
    leadership.transfer_for_priority = False
    leadership.timeout_now_sent = False
    return True


def receive_timeout_now(state: ServerState, message: TimeoutNow, now: float) -> None:
    """The leader of this term wants this server to take over: an election without pre-vote."""
    is_from_leader = message.term == state.current_term and state.leader_id in ("", message.sender)
    if is_from_leader and state.role in (Role.FOLLOWER, Role.PRE_CANDIDATE) and may_lead(state):
        start_election(state, now, leadership_transfer=True)
