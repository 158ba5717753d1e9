"""Elections: RequestVote (paper §5.2, §5.4.1) and pre-vote (dissertation §9.6), on both sides.

The first election of a cluster (rule 4 of the design) is told by an empty recipient_incarnation: it
needs the vote of every first member, each stating an empty log and its incarnation. An empty server
otherwise never campaigns, and votes only where the candidate's configuration records its incarnation.
"""

from __future__ import annotations

from raftlog.consensus import membership, roles
from raftlog.consensus.events import ElectionLost, IncarnationMismatch, VoteGranted
from raftlog.consensus.leases import holds_votes
from raftlog.consensus.messages import RequestVote, RequestVoteResponse
from raftlog.consensus.quorum import VoteResult, unanimous_result, vote_result
from raftlog.consensus.server_state import INFINITY, Candidacy, ServerState
from raftlog.consensus.state import Role
from raftlog.consensus.timing import (
    hears_leader,
    may_campaign,
    reset_election_deadline,
    retry_election_soon,
    steps_back,
)

# The candidate


def start_pre_vote(state: ServerState, now: float, reason: str) -> None:
    """The election deadline passed (dissertation §9.6): ask whether an election could be won."""
    if not may_campaign(state):
        reset_election_deadline(state, now)
        return
    if holds_votes(state, now):
        # As timing.suspect_leader() does, from where the promise ends.
        jitter = state.settings.suspicion_jitter * (state.rng.random() + steps_back(state))
        state.election_deadline = state.votes_held_until + jitter
        return
    roles.become_pre_candidate(state, now, reason)
    _candidacy(state).votes[state.node_id] = True
    _decide(state, now)


def start_election(state: ServerState, now: float, *, leadership_transfer: bool = False) -> None:
    """§5.2. The requests leave once term and own vote are saved; so long next_message() gives nothing."""
    roles.become_candidate(state, now, leadership_transfer=leadership_transfer)
    if state.candidacy is not None and state.candidacy.is_first_election:
        state.candidacy.incarnations[state.node_id] = state.incarnation


def count_own_vote(state: ServerState, now: float) -> None:
    """The hard state is saved: the vote for oneself counts now."""
    if state.role is Role.CANDIDATE and state.voted_for == state.node_id:
        votes = _candidacy(state).votes
        if state.node_id not in votes:
            votes[state.node_id] = True
            _decide(state, now)


def build_request_vote(state: ServerState, peer: str, now: float) -> RequestVote | None:
    """The request for `peer`, where it is a voter that has not answered and was not asked just now."""
    candidacy = _candidacy(state)
    if peer in candidacy.votes or not state.configuration.is_voter(peer) or peer == state.node_id:
        return None
    if now < request_vote_deadline(state, peer):
        return None
    candidacy.asked_at[peer] = now
    pre_vote = state.role is Role.PRE_CANDIDATE
    return RequestVote(
        term=state.current_term + 1 if pre_vote else state.current_term,
        sender=state.node_id,
        recipient=peer,
        last_log_index=state.log.last_index,
        last_log_term=state.log.last_term,
        pre_vote=pre_vote,
        leadership_transfer=candidacy.leadership_transfer,
        recipient_incarnation="" if candidacy.is_first_election else state.configuration.servers[peer].incarnation,
        incarnation=state.incarnation,
    )


def request_vote_deadline(state: ServerState, peer: str) -> float:
    """When `peer` is to be asked (again); inf where it need not be."""
    candidacy = _candidacy(state)
    if peer in candidacy.votes or not state.configuration.is_voter(peer):
        return INFINITY
    return candidacy.asked_at.get(peer, float("-inf")) + state.settings.heartbeat_interval


def on_request_vote_response(state: ServerState, message: RequestVoteResponse, now: float) -> None:
    """§5.2: count the vote; §5.1: a higher term ends the candidacy."""
    membership.learn_removal(state, message.removed_index, now)
    is_first_election = state.candidacy.is_first_election if state.candidacy is not None else state.log.is_empty
    if not is_first_election and not has_recorded_incarnation(state, message.sender, message.incarnation):
        return
    proposed_term = state.current_term + 1 if message.pre_vote else state.current_term
    if message.vote_granted:
        if message.term != proposed_term:
            return
    elif message.term > state.current_term:
        roles.become_follower(state, message.term, "", now, f"{message.sender} is in term {message.term}")
        return
    if state.role is not (Role.PRE_CANDIDATE if message.pre_vote else Role.CANDIDATE):
        return
    if message.pre_vote or message.term == state.current_term:
        _count_vote(state, message, now)
        _decide(state, now)


def _count_vote(state: ServerState, message: RequestVoteResponse, now: float) -> None:
    candidacy = _candidacy(state)
    granted = message.vote_granted
    if candidacy.is_first_election:
        granted = granted and message.log_is_empty
        if granted:
            candidacy.incarnations[message.sender] = message.incarnation
    candidacy.votes[message.sender] = granted or candidacy.votes.get(message.sender, False)
    if not granted:
        candidacy.reasons.append(f"{message.sender}: {message.reason or 'its log is not empty'}")
        if not message.pre_vote:
            retry_election_soon(state, now)  # whoever has not answered may be down, the old leader for one


def _decide(state: ServerState, now: float) -> None:
    """§5.2: "A candidate wins an election if it receives votes from a majority of the servers"."""
    candidacy = _candidacy(state)
    pre_vote = state.role is Role.PRE_CANDIDATE
    count = unanimous_result if candidacy.is_first_election else vote_result
    result = count(state.configuration, candidacy.votes)
    if result is VoteResult.PENDING:
        return
    if result is VoteResult.LOST:
        state.events.append(ElectionLost(state.current_term, pre_vote, tuple(candidacy.reasons)))
        roles.become_follower(state, state.current_term, "", now)
        if not pre_vote:
            retry_election_soon(state, now)
    elif pre_vote:
        start_election(state, now)
    else:
        roles.become_leader(state, now)


def _candidacy(state: ServerState) -> Candidacy:
    assert state.candidacy is not None, f"{state.node_id} is {state.role.value}, no candidate"
    return state.candidacy


def has_recorded_incarnation(state: ServerState, peer: str, incarnation: str) -> bool:
    """Rule 4 of the design: another incarnation than the configuration records counts for nothing. Told once."""
    server = state.configuration.servers.get(peer)
    if server is None and state.leadership is not None:
        server = state.leadership.leaving.get(peer)
    if server is None:
        return False
    if server.incarnation == incarnation:
        state.mismatches.discard(peer)
        return True
    if server.incarnation and peer not in state.mismatches:
        state.mismatches.add(peer)
        state.events.append(IncarnationMismatch(state.current_term, peer, server.incarnation, incarnation))
    return False


# The voter


def receive_request_vote(state: ServerState, message: RequestVote, now: float) -> None:
    """Figure 2, "RequestVote RPC: Receiver implementation", and what guards it against servers that should not ask."""
    reason = _refusal_in_any_term(state, message, now)
    if not reason:
        if message.term > state.current_term and not message.pre_vote:
            roles.become_follower(state, message.term, "", now, f"{message.sender} stands in term {message.term}")
        reason = _refusal(state, message)
    if not reason and not message.pre_vote:
        _grant_vote(state, message, now)
    granted = not reason
    state.replies.append(
        RequestVoteResponse(
            term=message.term if granted else state.current_term,
            sender=state.node_id,
            recipient=message.sender,
            vote_granted=granted,
            pre_vote=message.pre_vote,
            incarnation=state.incarnation,
            log_is_empty=state.log.is_empty,
            reason=reason,
            removed_index=membership.removed_index(state, message.sender),
        )
    )


def _grant_vote(state: ServerState, message: RequestVote, now: float) -> None:
    if state.voted_for != message.sender:
        state.voted_for = message.sender
        state.events.append(VoteGranted(state.current_term, message.sender))
    reset_election_deadline(state, now)


def _refusal_in_any_term(state: ServerState, message: RequestVote, now: float) -> str:
    """Why the request is refused without so much as looking at its term; "": it is not."""
    if state.recovery_id:
        return "its disk had lost what it promised; it does not vote until that is there again"
    if message.recipient_incarnation:
        if message.recipient_incarnation != state.incarnation:
            return f"asked incarnation {message.recipient_incarnation}, this is {state.incarnation}"
    elif reason := _refusal_of_first_election(state, message):
        return reason
    # Dissertation §4.2.3: "if a server receives a RequestVote request within the minimum election timeout of hearing
    # from a current leader, it does not update its term or grant its vote".
    if not message.leadership_transfer and hears_leader(state, now):
        if not state.leader_id:
            return f"may have promised its vote to the leader of term {state.current_term} until a moment from now"
        return f"hears the leader {state.leader_id} of term {state.current_term}"
    return ""


def _refusal_of_first_election(state: ServerState, message: RequestVote) -> str:
    if not state.log.is_empty:
        return f"the cluster is formed already, the log here ends at {state.log.last_index}"
    members = state.first_members
    if members is None or not (members.is_voter(state.node_id) and members.is_voter(message.sender)):
        return "an empty log, and the two are not first members of one cluster here: waits to be taken in"
    if message.last_log_index != 0:
        return f"the candidate's log ends at {message.last_log_index}, a first election is held with empty logs"
    return ""


def _refusal(state: ServerState, message: RequestVote) -> str:
    """Why Figure 2 refuses the vote; "": it grants it."""
    # 1. "Reply false if term < currentTerm (§5.1)"
    if message.term < state.current_term:
        return f"term {message.term} is over, this is term {state.current_term}"
    # 2. "If votedFor is null or candidateId, and candidate's log is at least as up-to-date as receiver's log,
    #    grant vote (§5.2, §5.4)"
    if message.term == state.current_term:
        if state.voted_for not in ("", message.sender):
            return f"voted for {state.voted_for} in term {state.current_term}"
        if state.leader_id not in ("", message.sender):
            return f"{state.leader_id} leads term {state.current_term}"
    if not state.log.is_up_to_date(message.last_log_index, message.last_log_term):
        return f"the log here is newer: it ends at {state.log.last_term}:{state.log.last_index}"
    return ""
