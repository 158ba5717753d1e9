"""Changes of the cluster's members (paper §6; dissertation §4.2.1, §4.2.2, §4.3).

One change is a goal, the configuration that is to be, and takes up to three entries, each appended once the one
before it is committed:

    Cold ──> Cold + learners, with the goal ──> Cold,new (joint) ──> Cnew
             whoever is to vote catches up      majorities of both

The goal stands in the entries, so that a new leader goes on where the old one was lost. A change without new
voters skips the first step, one that leaves the voters as they are is a single entry.

Rules about this file:
- Nothing is appended before an entry of the leader's own term is committed, nor while the newest configuration
  is not: single-step changes under those conditions are what went wrong in the dissertation's first version.
- A learner counts for nothing until it is caught up, so adding a server never costs the cluster its majority.
- A leader that is not to vote any more hands over before Cnew, so that Cnew is appended by one of its voters.
"""

from __future__ import annotations

from raftlog.consensus import roles
from raftlog.consensus.configuration import Configuration, encode_configuration
from raftlog.consensus.entries import EntryId
from raftlog.consensus.events import ChangeAbandoned, MemberLeft, RemovedFromCluster
from raftlog.consensus.priority import best_successor
from raftlog.consensus.progress import Progress
from raftlog.consensus.server_state import INFINITY, Leadership, ServerState
from raftlog.consensus.timeout_now import transfer_leadership
from raftlog.consensus.timing import hears_leader
from raftlog.exceptions import ConfigurationChangeRefused, NotLeader


def change_configuration(state: ServerState, target: Configuration, based_on: int, now: float) -> EntryId:
    """Begin to change the members to those of `target`; returns the id of the first entry that does it.

    Args:
        target: not joint, without a goal, of this cluster; every new server states its incarnation.
        based_on: index of the configuration that the change was made from (compare and set).

    Raises:
        NotLeader, ConfigurationChangeRefused, InvalidEntry.
    """
    if state.leadership is None:
        raise NotLeader(state.leader_id)
    if reason := _refusal(state, target, based_on, state.leadership):
        raise ConfigurationChangeRefused(reason)
    target.check()
    current = state.configuration
    joining = set(target.voters) - set(current.voters)
    if joining:
        return _append(state, _with_learners(current, target), now)
    if set(target.voters) == set(current.voters):
        return _append(state, target, now)
    return _append(state, _joint(current, target), now)


def _refusal(state: ServerState, target: Configuration, based_on: int, leadership: Leadership) -> str:
    current = state.configuration
    if based_on != state.configuration_index:
        return (
            f"it was made from the configuration at index {based_on}, but the one at {state.configuration_index} is in "
            "force: look at the members again"
        )
    if leadership.transfer_to:
        return f"leadership is being transferred to {leadership.transfer_to}"
    if not can_append(state):
        return "the configuration in force, or the leader's first entry, is not committed yet"
    if current.is_joint or current.goal_voters:
        return f"another change is under way, to the voters {', '.join(current.goal_voters or current.voters)}"
    if target.is_joint or target.goal_voters or not target.voters:
        return "its target must name voters, and neither outgoing voters nor a goal"
    if target.cluster_id != current.cluster_id:
        return f"its target is of cluster {target.cluster_id!r}, this is {current.cluster_id}"
    return _refusal_of_servers(current, target)


def _refusal_of_servers(current: Configuration, target: Configuration) -> str:
    for node_id, server in sorted(target.servers.items()):
        known = current.servers.get(node_id)
        if not server.incarnation:
            return f"the incarnation of {node_id} is not stated"
        if known is not None and known.incarnation != server.incarnation and current.is_voter(node_id):
            return (
                f"{node_id} votes as incarnation {known.incarnation} and is to be {server.incarnation}: "
                "remove it first, then add it"
            )
    return ""


def can_append(state: ServerState) -> bool:
    """Whether another configuration entry may follow: everything up to the newest, and of this term one, is committed.

    The bug in the dissertation's single-server changes (raft-dev, 10 July 2015) was to go without the second part.
    """
    leadership = state.leadership
    return (
        leadership is not None
        and state.commit_index >= state.configuration_index
        and state.commit_index >= leadership.first_own_index
    )


def _with_learners(current: Configuration, target: Configuration) -> Configuration:
    """Cold with every server of the target; whoever is to vote, and does not yet, learns."""
    servers = {**current.servers, **target.servers}
    learners = sorted(set(servers) - set(current.voters))
    return Configuration(
        current.cluster_id, servers, current.voters, (), tuple(learners), target.voters, tuple(sorted(target.servers))
    )


def _joint(current: Configuration, target: Configuration) -> Configuration:
    """Cold,new (§6). Servers that leave stay in it until Cnew."""
    servers = {**current.servers, **target.servers}
    voters = set(target.voters) | set(current.voters)
    learners = sorted(set(servers) - voters)
    members = tuple(sorted(target.servers))
    return Configuration(
        current.cluster_id, servers, target.voters, current.voters, tuple(learners), target.voters, members
    )


def goal_of(configuration: Configuration) -> Configuration:
    """Cnew of a configuration on its way."""
    servers = {node_id: configuration.servers[node_id] for node_id in configuration.goal_members}
    learners = sorted(set(servers) - set(configuration.goal_voters))
    return Configuration(configuration.cluster_id, servers, configuration.goal_voters, (), tuple(learners))


def _append(state: ServerState, configuration: Configuration, now: float) -> EntryId:
    configuration.check()
    leadership = state.leadership
    assert leadership is not None
    size = state.log.append_new(state.current_term, [encode_configuration(configuration)], 0)
    index = state.log.last_index
    leadership.uncommitted.append((index, size))
    leadership.uncommitted_bytes += size
    roles.refresh_configuration(state, now)
    return EntryId(index, state.current_term)


# The leader's next step


def advance(state: ServerState, now: float) -> None:
    """Take the next step of the change that the configuration in force is on, if it is time for it."""
    if not _may_advance(state):
        return
    configuration = state.configuration
    goal = goal_of(configuration)
    if not configuration.is_joint:
        _promote_or_abandon(state, goal, now)
    elif state.node_id in configuration.voters:
        _append(state, goal, now)
    else:
        _hand_over_to(state, configuration.voters, now)


def _may_advance(state: ServerState) -> bool:
    """Whether a change is on its way, and nothing has to end before its next step: an entry, or a transfer."""
    leadership = state.leadership
    if leadership is None or not state.configuration.goal_voters or leadership.transfer_to:
        return False
    return can_append(state)


def _hand_over_to(state: ServerState, voters: tuple[str, ...], now: float) -> None:
    """To one of the voters to be; where none can take over just now, the next answer of one asks again."""
    best = best_successor(state, now, voters)
    if best:
        transfer_leadership(state, best, now)


def _promote_or_abandon(state: ServerState, goal: Configuration, now: float) -> None:
    joining = [node_id for node_id in goal.voters if not state.configuration.is_voter(node_id)]
    caught_up = [_is_caught_up(state, state.progress[peer], now) for peer in joining]
    if all(caught_up):
        _append(state, _joint(state.configuration, goal), now)
        return
    for peer in joining:
        progress = state.progress[peer]
        if now >= progress.moved_at + state.settings.catch_up_timeout:
            reason = (
                f"{peer} made no progress for {state.settings.catch_up_timeout:g} s "
                f"(it has the log up to {progress.match_index} of {state.log.last_index})"
            )
            _abandon(state, reason, now)
            return


def _is_caught_up(state: ServerState, progress: Progress, now: float) -> bool:
    """Dissertation §4.2.1: "replication of entries to the new server is split into rounds … if the last round lasts
    less than an election timeout, then the leader adds the new server to the cluster"."""
    if progress.recovery_id:
        return False
    if progress.match_index < progress.catch_up_index or not progress.catch_up_index:
        if not progress.catch_up_index:
            progress.begin_catch_up_round(state.log.last_index, now)
        return progress.is_caught_up
    progress.is_caught_up = now - progress.catch_up_began_at <= state.settings.election_timeout
    progress.begin_catch_up_round(state.log.last_index, now)
    return progress.is_caught_up


def abandon_change(state: ServerState, now: float) -> None:
    """Give a change up, while its new voters only learn. Raises NotLeader, ConfigurationChangeRefused."""
    if state.leadership is None:
        raise NotLeader(state.leader_id)
    if not state.configuration.goal_voters:
        raise ConfigurationChangeRefused("no change is under way")
    if state.configuration.is_joint:
        raise ConfigurationChangeRefused("its joint configuration is in the log: it will be completed")
    if not can_append(state):
        raise ConfigurationChangeRefused("its first step is not committed yet: ask again")
    _abandon(state, "it was asked to", now)


def _abandon(state: ServerState, reason: str, now: float) -> None:
    """Back to the voters that there are. Servers that came for the change leave, those of before stay."""
    current = state.configuration
    joining = set(current.goal_voters) - set(current.voters)
    servers = {node_id: server for node_id, server in current.servers.items() if node_id not in joining}
    learners = tuple(node_id for node_id in current.learners if node_id in servers)
    state.events.append(ChangeAbandoned(state.current_term, tuple(sorted(joining)), reason))
    _append(state, Configuration(current.cluster_id, servers, current.voters, (), learners), now)


def change_deadline(state: ServerState) -> float:
    """When a change is given up unless a server makes progress; inf: none is waited for."""
    configuration = state.configuration
    if configuration.is_joint or not _may_advance(state):
        return INFINITY  # advance() is called when it may go on: on answers, and on the tick that gives a transfer up
    joining = set(configuration.goal_voters) - set(configuration.voters)
    moved_at = min((state.progress[peer].moved_at for peer in joining), default=INFINITY)
    return moved_at + state.settings.catch_up_timeout


# Servers that leave


def after_response(state: ServerState, peer: str, now: float) -> None:
    """A follower answered: may a change go on, or has one that leaves learned so?"""
    let_go(state, peer, now)
    if state.configuration.goal_voters:
        advance(state, now)


def let_go(state: ServerState, peer: str, now: float) -> bool:
    """Whether `peer` has left, and nothing is sent to it any more."""
    leadership, progress = state.leadership, state.progress[peer]
    assert leadership is not None
    if peer not in leadership.leaving:
        return False
    knows = min(progress.match_index, progress.sent_commit) >= state.configuration_index
    if not knows and now < leadership.leaving_until:
        return False
    del leadership.leaving[peer], state.progress[peer]
    state.events.append(MemberLeft(state.current_term, peer))
    return True


def last_index_for(state: ServerState, peer: str) -> int:
    """The last entry that may be sent to `peer`: who has no vote any more learns so once that is committed.

    With Cnew in its log, uncommitted, it would stand for no election, and vote for nobody who has not got Cnew. Were
    those who have got it lost, a majority of Cold, which is needed to go on from Cold,new, might be of such servers.
    """
    if state.configuration_index <= state.commit_index or state.configuration.is_voter(peer):
        return state.log.last_index
    return state.configuration_index - 1


def removed_index(state: ServerState, node_id: str) -> int:
    """Index of the committed configuration without `node_id`, by which it learns that it was removed; 0: it was not."""
    is_committed = 0 < state.configuration_index <= state.commit_index
    return state.configuration_index if is_committed and node_id not in state.configuration.servers else 0


def knows(state: ServerState, node_id: str, now: float) -> bool:
    """Whether this server takes messages of `node_id`, which has shown that it is of this cluster.

    An empty first member: of the other first members only, while it cannot be in the log of a cluster: with a term, it
    may have voted for one that was formed; with a repaired folder, have been of one. Its leader may have come later. A
    member that hears its leader, and one that was removed: of whoever is, or was, in a configuration of its log (one
    that was removed is told so). Anybody else: of everybody, since the leader may have come with a configuration that
    is not here yet (dissertation §4.1: "a server accepts AppendEntries requests from a leader that is not part of the
    server's latest configuration").
    """
    has_promised = state.current_term or state.recovery_id
    if state.log.is_empty and state.first_members is not None and not has_promised:
        return node_id in state.first_members.servers
    is_known = any(node_id in configuration.servers for _, configuration in state.log.configurations)
    # Where the log gave earlier configurations up, anybody of this cluster may have been in one.
    if is_known or node_id == state.leader_id or state.log.base.configuration_index > 1:
        return True
    is_settled = _is_member(state, state.configuration) and hears_leader(state, now)
    return not (is_settled or state.is_removed)


def sends_to(state: ServerState, node_id: str) -> bool:
    """Whether this server has, or may soon have, something to send to `node_id`."""
    return node_id in state.configuration.servers or node_id in state.progress


def notice_removal(state: ServerState) -> None:
    """The newest configuration is committed: is this server still in it, in this incarnation?

    A new server's log holds configurations of before it came, so only one that was a member can be removed.
    """
    index = state.configuration_index
    if state.is_removed or not 0 < index <= state.commit_index or _is_member(state, state.configuration):
        return
    if any(_is_member(state, configuration) for _, configuration in state.log.configurations):
        _removed(state, index)


def learn_removal(state: ServerState, index: int, now: float) -> None:
    """A voter says that a configuration without this server was committed at `index`, beyond what this server has."""
    if index > state.configuration_index and not state.is_removed and not state.log.is_empty:
        _removed(state, index)
        if state.candidacy is not None:
            roles.become_follower(state, state.current_term, "", now)


def _is_member(state: ServerState, configuration: Configuration) -> bool:
    server = configuration.servers.get(state.node_id)
    return server is not None and server.incarnation == state.incarnation


def _removed(state: ServerState, index: int) -> None:
    state.is_removed = True
    state.election_deadline = INFINITY
    state.events.append(RemovedFromCluster(state.current_term, index))
