"""Read leases (dissertation §6.4.1): for a while a leader knows, without asking, that nobody else leads.

A follower says with each answer for how long, from when it took the message, it will let nobody but the leader be
elected: `vote_hold`, an election timeout, 0 where it has no leases. So nothing depends on settings being alike: who
promises nothing does not count. Until then

- it votes for nobody, not for itself either, whatever becomes of its connection to the leader;
- except in an election that the leader itself asked for (TimeoutNow), which ends the leader's lease first, and for the
  rest of the term, since that message may arrive whenever it likes;
- a server that was started anew keeps what it may have promised before, where there may have been anybody else to
  promise it to (may_have_promised): it promises no more than from its start on.

The leader's lease counts from when the round *began* that a follower answered, and is shorter than the promise, since
the two measure it with different clocks: clocks must not differ in speed by more than CLOCK_DRIFT, and go on while the
machine sleeps. It lasts as long as a majority's promises do, by the configuration that is in the leader's log by now.
"""

from __future__ import annotations

from typing import Final

from raftlog.consensus.quorum import majority_value
from raftlog.consensus.server_state import INFINITY, ServerState
from raftlog.consensus.state import Role

# By how much the speeds of two clocks may differ. The worst quartz is a thousand times better.
CLOCK_DRIFT: Final = 0.1

# The follower


def promised_hold(state: ServerState) -> float:
    """What an answer to the leader promises, in seconds from when its message arrived, of which hold_votes() knows."""
    return state.settings.election_timeout if state.settings.read_lease else 0.0


def hold_votes(state: ServerState, at: float) -> None:
    """A message of the leader arrived at `at`, or the server started then and may have promised something before."""
    if state.settings.read_lease:
        state.votes_held_until = max(state.votes_held_until, at + state.settings.election_timeout)


def may_have_promised(state: ServerState) -> bool:
    """Whether this server, when it starts, may have promised something to another one before.

    Not where its log has never known another voter and its last vote was its own: nobody else can have led. The log
    alone does not tell, since an entry that added a voter may have been lost with the disk's last writes after that
    voter had it; but to lead it needs the vote of this one, which no crash takes back.

    As long as the log holds the entry that made it the only one, together with what was before, a leader that does not
    know yet that it is none may count on the promise; once that entry is given up, it was applied here, by then as that
    leader knows, or under one of later.
    """
    configurations = state.log.configurations
    is_alone = configurations and all(each.all_voters == {state.node_id} for _, each in configurations)
    return state.current_term > 0 and not (is_alone and state.voted_for == state.node_id)


def holds_votes(state: ServerState, now: float) -> bool:
    """Whether this server lets nobody be elected whom the leader did not ask to take over."""
    return now < state.votes_held_until


# The leader


def count_promise(state: ServerState, peer: str, round_: int, seconds: float) -> None:
    """`peer` answered round `round_`, and promises to hold its votes for so many seconds."""
    leadership = state.leadership
    assert leadership is not None
    began_at = leadership.rounds.get(round_)
    if seconds > 0 and began_at is not None:
        progress = state.progress[peer]
        progress.lease_until = max(progress.lease_until, began_at + seconds * (1 - CLOCK_DRIFT))


def end_lease(state: ServerState) -> None:
    """TimeoutNow is about to be sent: from here on another server may be elected at any time."""
    assert state.leadership is not None
    state.leadership.lease_is_over = True


def has_lease(state: ServerState, now: float) -> bool:
    """Whether nobody else can have become leader by `now`, and everything committed before is known to this server."""
    leadership = state.leadership
    if state.role is not Role.LEADER or leadership is None or not state.settings.read_lease:
        return False
    if leadership.lease_is_over or state.commit_index < leadership.first_own_index:
        return False
    until = {peer: each.lease_until for peer, each in state.progress.items() if not each.recovery_id}
    until[state.node_id] = INFINITY
    return now < majority_value(state.configuration, until, float("-inf"))
