"""Conversions of role (paper §5.1, §5.2; Figure 4) with the table of legal moves. The only file that sets a role."""

from __future__ import annotations

from typing import Final

from raftlog.consensus import reads
from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import NO_OP_PAYLOAD
from raftlog.consensus.events import (
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    BecamePreCandidate,
    ConfigurationChanged,
    LeaderFound,
    SteppedDown,
)
from raftlog.consensus.progress import Progress
from raftlog.consensus.server_state import INFINITY, Candidacy, Leadership, ServerState
from raftlog.consensus.state import Role
from raftlog.consensus.timing import recheck_candidature, recount_quorum, reset_election_deadline

# Figure 4, with pre-candidates. A candidate without pre-vote is one whom the leader told to take over (TimeoutNow).
LEGAL_MOVES: Final = {
    Role.FOLLOWER: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    Role.PRE_CANDIDATE: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    Role.CANDIDATE: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.LEADER}),
    Role.LEADER: frozenset({Role.FOLLOWER}),
}


class IllegalMove(AssertionError):
    """A role was to change in a way that Figure 4 does not have: a bug of raftlog."""


def set_role(state: ServerState, role: Role) -> None:
    if role not in LEGAL_MOVES[state.role]:
        raise IllegalMove(
            f"{state.node_id} cannot become {role.value} from {state.role.value} in term {state.current_term}"
        )
    state.role = role


def set_term(state: ServerState, term: int) -> None:
    """A newer term: no vote is given in it yet, and acknowledgements of the older one are worth nothing."""
    state.current_term = term
    state.voted_for = ""
    state.acks.clear()
    state.suspected_at = float("-inf")


def set_leader(state: ServerState, leader_id: str) -> None:
    """What was asked of another leader, or in an older term, is refused."""
    reads.refuse_forwarded(state)
    state.leader_id = leader_id
    state.last_heard_at = float("-inf")


def become_follower(state: ServerState, term: int, leader_id: str, now: float, reason: str = "") -> None:
    """§5.1: "If a server's current term is smaller than the other's, it updates its current term to the larger
    value", and candidates and leaders revert to followers. `reason` says why, where it led."""
    was_leader, was_follower = state.role is Role.LEADER, state.role is Role.FOLLOWER
    is_new = term > state.current_term or state.role is not Role.FOLLOWER
    if was_leader:
        reads.refuse_all(state)
        state.leadership = None
        state.progress = {}
    if term > state.current_term:
        set_term(state, term)
    set_role(state, Role.FOLLOWER)
    state.candidacy = None
    if is_new or leader_id != state.leader_id:
        set_leader(state, leader_id)
    if was_leader:
        state.events.append(SteppedDown(term, reason))
    if is_new:
        state.events.append(BecameFollower(term, leader_id))
    elif leader_id:
        state.events.append(LeaderFound(term, leader_id))
    # A follower that only learns of a newer term keeps its deadline, so that candidates who cannot win do not move it:
    # §5.2 moves it for a leader's message and for a vote granted.
    if leader_id or not was_follower:
        reset_election_deadline(state, now)


def become_pre_candidate(state: ServerState, now: float, reason: str) -> None:
    """Dissertation §9.6: ask first whether an election could be won; term and vote stay as they are."""
    set_role(state, Role.PRE_CANDIDATE)
    set_leader(state, "")
    state.candidacy = Candidacy(is_first_election=state.log.is_empty, leadership_transfer=False)
    state.events.append(BecamePreCandidate(state.current_term, reason))
    reset_election_deadline(state, now)


def become_candidate(state: ServerState, now: float, *, leadership_transfer: bool) -> None:
    """§5.2: "To begin an election, a follower increments its current term and transitions to candidate state. It then
    votes for itself". The own vote counts once it is durable (count_own_vote)."""
    set_role(state, Role.CANDIDATE)
    set_leader(state, "")
    set_term(state, state.current_term + 1)
    state.voted_for = state.node_id
    state.candidacy = Candidacy(is_first_election=state.log.is_empty, leadership_transfer=leadership_transfer)
    state.events.append(BecameCandidate(state.current_term, state.log.last_index, state.log.last_term))
    reset_election_deadline(state, now)


def become_leader(state: ServerState, now: float) -> None:
    """§5.2, and dissertation §6.4: a new leader appends a no-op of its term at once.

    In the first election of a cluster, entry 1 is the configuration with the cluster's new id and the
    incarnations that the voters stated; it serves as the no-op.
    """
    candidacy = state.candidacy
    assert candidacy is not None
    set_role(state, Role.LEADER)
    first_own_index = state.log.last_index + 1
    state.events.append(BecameLeader(state.current_term, state.log.last_index, state.commit_index))
    payload = NO_OP_PAYLOAD
    if candidacy.is_first_election:
        payload = encode_configuration(first_configuration(state, candidacy))
    state.candidacy = None
    state.leader_id = state.node_id
    state.leadership = Leadership(first_own_index, now)
    state.snapshot_offer = None
    state.election_deadline = INFINITY
    size = state.log.append_new(state.current_term, [payload], 0)
    state.leadership.uncommitted.append((first_own_index, size))
    state.leadership.uncommitted_bytes += size
    refresh_configuration(state, now)


def first_configuration(state: ServerState, candidacy: Candidacy) -> Configuration:
    """Entry 1 of a new cluster (rule 4 of the design)."""
    members = state.first_members
    assert members is not None
    servers = {
        node_id: Server(server.address, candidacy.incarnations.get(node_id, server.incarnation), server.priority)
        for node_id, server in members.servers.items()
    }
    return Configuration(state.new_cluster_id, servers, members.voters, members.outgoing, members.learners)


def refresh_configuration(state: ServerState, now: float) -> None:
    """§6: "a server always uses the latest configuration in its log, regardless of whether the entry is committed"."""
    index, configuration = state.log.configuration
    if index == 0 and state.log.is_empty and state.first_members is not None:
        configuration = state.first_members
    before = state.configuration
    if index != state.configuration_index or configuration != before:
        state.configuration_index = index
        state.configuration = configuration
        if index:
            state.events.append(ConfigurationChanged(state.current_term, index, configuration))
    if state.role is Role.LEADER:
        _refresh_progress(state, before, now)
        recount_quorum(state)
    else:
        recheck_candidature(state, now)


def _refresh_progress(state: ServerState, before: Configuration, now: float) -> None:
    leadership = state.leadership
    assert leadership is not None
    servers, leaving = state.configuration.servers, leadership.leaving
    leaving.update({node_id: server for node_id, server in before.servers.items() if node_id in state.progress})
    for node_id in servers.keys() & leaving.keys():
        if leaving.pop(node_id).incarnation != servers[node_id].incarnation:
            del state.progress[node_id]  # another folder: what the old one had acknowledged is not in it
    leadership.leaving_until = now + 2 * state.settings.election_timeout
    peers = [node_id for node_id in sorted(servers.keys() | leaving.keys()) if node_id != state.node_id]
    # The newest entry, the no-op or the configuration itself, is what a peer without progress is probed with.
    state.progress = {peer: state.progress.get(peer) or Progress(state.log.last_index, now) for peer in peers}
    if not state.configuration.is_joint:
        for peer in set(state.configuration.goal_voters) - set(state.configuration.voters):
            state.progress[peer].begin_catching_up(now)
