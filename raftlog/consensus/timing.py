"""Election, suspicion and check-quorum deadlines (paper §5.2; dissertation §4.2.3, §6.2)."""

from __future__ import annotations

from raftlog.consensus.leases import hold_votes, holds_votes
from raftlog.consensus.quorum import majority_value
from raftlog.consensus.server_state import INFINITY, Leadership, ServerState
from raftlog.consensus.state import Role


def may_campaign(state: ServerState) -> bool:
    """Whether this server may stand for election: a voter, in the incarnation that the configuration records, with a
    database that its log can bring up to date.

    With an empty log only a first member of a new cluster may (rule 4 of the design).
    """
    if state.is_removed or state.is_withdrawn or state.recovery_id or state.lacks_database:
        return False
    if state.log.is_empty:
        return state.first_members is not None and state.node_id in state.first_members.voters
    configuration = state.configuration
    return (
        configuration.is_voter(state.node_id) and configuration.servers[state.node_id].incarnation == state.incarnation
    )


def may_lead(state: ServerState) -> bool:
    """Whether it should, as this server tells its leader (priority.py)."""
    return not state.unfit and may_campaign(state)


def steps_back(state: ServerState) -> int:
    """How many others should go first in an election: the voters of higher priority, but for the leader that was lost;
    all, where the host says that this server should not lead just now."""
    if state.unfit:
        return max(len(state.configuration.voters) - 1, 0)
    own = state.configuration.priority_of(state.node_id)
    others = [peer for peer in state.configuration.voters if peer not in (state.node_id, state.leader_id)]
    return sum(state.configuration.priority_of(peer) > own for peer in others)


def recheck_candidature(state: ServerState, now: float) -> None:
    """Something that decides whether this server may stand for election has changed."""
    if state.role is not Role.LEADER and may_campaign(state) != (state.election_deadline < INFINITY):
        reset_election_deadline(state, now)


def reset_election_deadline(state: ServerState, now: float) -> None:
    """§5.2: "Raft uses randomized election timeouts to ensure that split votes are rare".

    Who is not to lead rather than others waits for a quarter of one longer, for each of them.
    """
    if state.role is Role.LEADER or not may_campaign(state):
        state.election_deadline = INFINITY
        return
    timeout = state.settings.election_timeout
    state.election_deadline = now + timeout + timeout * state.rng.random() + timeout / 4 * steps_back(state)


def retry_election_soon(state: ServerState, now: float) -> None:
    """A vote was refused, so there is a rival. If it wins it will be heard from; if the votes were split, try again
    sooner than an election timeout, which pre-vote makes harmless, and at a random time."""
    if may_campaign(state):
        soon = now + state.settings.heartbeat_interval * state.rng.random()
        state.election_deadline = min(state.election_deadline, soon)


def hear_leader(state: ServerState, at: float) -> None:
    """Something of the current leader arrived at `at`: the election deadline moves away from there."""
    if at <= state.last_heard_at:
        return
    state.last_heard_at = at
    hold_votes(state, at)
    grace_ends = state.suspected_at + state.settings.suspicion_grace
    if at < grace_ends:
        # Probably a left-over of the lost connection. The leader, if it lives, will be heard from again soon.
        if may_campaign(state):
            soon = grace_ends + state.settings.suspicion_jitter * state.rng.random()
            state.election_deadline = min(state.election_deadline, soon)
        return
    state.suspected_at = float("-inf")
    reset_election_deadline(state, at)


def suspect_leader(state: ServerState, now: float) -> None:
    """The connection to the leader was lost: ask for a pre-vote soon.

    That is safe because pre-vote changes nothing where a majority still hears the leader (dissertation §9.6).
    """
    state.suspected_at = now
    if may_campaign(state):
        soon = now + state.settings.suspicion_jitter * (state.rng.random() + steps_back(state))
        state.election_deadline = min(state.election_deadline, soon)


def hears_leader(state: ServerState, now: float) -> bool:
    """Whether votes are refused for a live leader's sake (dissertation §4.2.3); a leader hears itself."""
    if state.role is Role.LEADER or holds_votes(state, now):
        return True
    is_suspected = state.suspected_at > float("-inf")
    return bool(state.leader_id) and not is_suspected and now - state.last_heard_at < state.settings.election_timeout


def begin_round(state: ServerState, now: float) -> None:
    """A leader begins the next heartbeat round: what is sent from here on proves leadership at `now`."""
    leadership = state.leadership
    assert leadership is not None
    leadership.round += 1
    leadership.round_began_at = now
    leadership.rounds[leadership.round] = now
    # Where nobody answers and nobody need (a single voter, with learners that are down or without), nothing else does.
    _forget_rounds_begun_before(leadership, now - 2 * state.settings.election_timeout)


def _forget_rounds_begun_before(leadership: Leadership, at: float) -> None:
    """An answer to a round that began so long ago is worth nothing."""
    rounds = leadership.rounds
    while (oldest := next(iter(rounds))) < leadership.round and rounds[oldest] < at:
        del rounds[oldest]


def count_acknowledged_round(state: ServerState, peer: str, round_: int) -> bool:
    """`peer` answered round `round_`. Returns whether a majority's newest round may have changed."""
    leadership, progress = state.leadership, state.progress[peer]
    assert leadership is not None
    if round_ <= progress.acked_round or round_ > leadership.round:
        return False
    progress.acked_round = round_
    progress.acked_at = max(progress.acked_at, leadership.rounds.get(round_, progress.acked_at))
    recount_quorum(state)
    return True


def recount_quorum(state: ServerState) -> None:
    """An acknowledgement or the configuration is new: since when is a majority known to follow?"""
    assert state.leadership is not None
    times = {other: each.acked_at for other, each in state.progress.items() if not each.recovery_id}
    times[state.node_id] = INFINITY
    state.leadership.quorum_acked_at = majority_value(state.configuration, times, float("-inf"))


def quorum_round(state: ServerState) -> int:
    """The newest round that a majority answered."""
    leadership = state.leadership
    assert leadership is not None
    rounds = {peer: each.acked_round for peer, each in state.progress.items() if not each.recovery_id}
    rounds[state.node_id] = leadership.round
    return majority_value(state.configuration, rounds, 0)


def forget_rounds_before(state: ServerState, round_: int) -> None:
    """Rounds older than the one a majority answered say nothing new."""
    leadership = state.leadership
    assert leadership is not None
    while leadership.rounds:
        oldest = next(iter(leadership.rounds))
        if oldest >= round_:
            return
        del leadership.rounds[oldest]
