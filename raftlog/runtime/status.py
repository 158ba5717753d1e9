"""What a node knows of itself and its peers, as plain data for `raft status`, the admin and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.raft import Raft
from raftlog.consensus.state import Role
from raftlog.exceptions import InvalidEntry
from raftlog.runtime.consensus_state import ConsensusState
from raftlog.runtime.peer import PeerThread
from raftlog.runtime.ports import StateMachine
from raftlog.runtime.threads import NodeThread

_MEMBER_LISTS: Final = ("voters", "outgoing", "learners", "goal_voters", "goal_members")


def node_status(
    state: ConsensusState,
    machine: StateMachine,
    peers: Mapping[str, PeerThread],
    threads: Iterable[NodeThread],
) -> dict[str, Any]:
    """Indices are inclusive; times are seconds. Monitor: takes it."""
    with state.monitor:
        raft = state.raft
        now = state.monitor.monotonic()
        members = {node_id: _member(state, peers, node_id, now) for node_id in sorted(raft.configuration.servers)}
        status: dict[str, Any] = {
            "node_id": raft.node_id,
            "cluster_id": raft.configuration.cluster_id,
            "incarnation": raft.incarnation,
            "role": raft.role.name.lower(),
            "current_term": raft.current_term,
            "voted_for": raft.voted_for,
            "leader_id": raft.leader_id,
            "unfit": raft.unfit,
            "commit_index": raft.commit_index,
            "last_applied": raft.last_applied,
            "last_index": raft.log.last_index,
            "stable_index": raft.log.stable_index,
            "first_index": raft.log.first_index,
            "configuration_index": raft.configuration_index,
            "configuration": configuration_as_data(raft.configuration),
            "configuration_committed": raft.configuration_index <= raft.commit_index,
            "protocol_violations": state.violations,
            "waiting_proposals": len(state.proposals),
            "write_turn": _write_turn(state, now),
            "members": members,
        }
        problems = [f"the disk is full: {state.disk_full}"] if state.disk_full else []
        if state.disk_stalled:
            problems.append(state.disk_stalled)
        if state.damaged:
            problems.append(f"{state.damaged}. Stop this node, and run `manage.py raft repair`")
        if raft.recovery_id:
            problems.append(recovery_in_words(raft))
        if state.withdrawn:
            problems.append(state.withdrawn)
        if not raft.leader_id:
            problems.append("no leader is known")
        if raft.lacks_database:
            problems.append(
                f"the database has applied entry {raft.last_applied}, and the log begins after entry "
                f"{raft.log.base.index}: an image is needed"
            )
    last_error = getattr(machine, "last_error", "")
    if last_error:
        problems.append(f"apply: {last_error}")
    waits_for = getattr(machine, "waits_for", None)
    if waits_for is not None and (words := waits_for()):
        problems.append(f"apply: {words}")
    status["problems"] = problems
    status["warnings"] = [
        f"{node_id} does not know {', '.join(member['lacks'])}: refused until it does"
        for node_id, member in members.items()
        if member["voter"] and member["lacks"]
    ]
    status["healthy"] = not problems
    status["threads"] = {
        thread.name: {
            "doing": thread.doing,
            "seconds": round(max(0.0, now - thread.since), 3),
            "busy": round(thread.busy, 3),
        }
        for thread in threads
    }
    return status


def recovery_in_words(raft: Raft) -> str:
    """What a node says whose folder was repaired. Monitor: held."""
    barrier = raft.recovery_index if raft.recovery_term == raft.current_term else 0
    until = f"entry {barrier} is here and committed" if barrier else "a leader has said what it lacks"
    return f"repairing: does not vote or count until {until} (its log ends at {raft.log.last_index})"


def _write_turn(state: ConsensusState, now: float) -> dict[str, Any]:
    """The cluster's write turn, as the leader knows it; elsewhere nobody has it."""
    turns = state.proposals.turns
    holder = turns.holder
    return {
        "holder": holder.node_id if holder else "",
        "fence": holder.is_fence if holder else False,
        "seconds": round(now - holder.granted_at, 3) if holder else 0.0,
        "waiting": len(turns.waiting),
        "held_back": sum(len(held.payloads) for held in turns.held),
    }


def configuration_as_data(configuration: Configuration) -> dict[str, Any]:
    """For status; configuration_from_data() is its inverse."""
    data: dict[str, Any] = {name: list(getattr(configuration, name)) for name in _MEMBER_LISTS}
    data["cluster_id"] = configuration.cluster_id
    data["servers"] = {
        node_id: {"address": server.address, "incarnation": server.incarnation, "priority": server.priority}
        for node_id, server in configuration.servers.items()
    }
    return data


def configuration_from_data(data: Mapping[str, Any]) -> Configuration:
    """Raises InvalidEntry where it is none."""
    try:
        servers = {node_id: Server(**server) for node_id, server in data["servers"].items()}
        lists = {name: tuple(map(str, data[name])) for name in _MEMBER_LISTS}
        configuration = Configuration(cluster_id=str(data["cluster_id"]), servers=servers, recovered_from="", **lists)
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidEntry(f"a configuration of {sorted(data)}: {type(error).__name__} {error}") from error
    configuration.check()
    return configuration


def _member(state: ConsensusState, peers: Mapping[str, PeerThread], node_id: str, now: float) -> dict[str, Any]:
    raft = state.raft
    server = raft.configuration.servers[node_id]
    member: dict[str, Any] = {
        "address": server.address,
        "incarnation": server.incarnation,
        "priority": server.priority,
        # Whether leadership may be handed to it; None: this server does not know.
        "may_lead": None,
        "voter": raft.configuration.is_voter(node_id),
        "learner": node_id in raft.configuration.learners,
        # Commands of this node that its code had not when it was last heard.
        "lacks": state.proposals.abilities.lacking(node_id) if state.proposals.abilities is not None else [],
        "connected": node_id == raft.node_id or (node_id in peers and peers[node_id].connected),
        "last_error": peers[node_id].last_error if node_id in peers else "",
        "last_contact": None,
        # From a message of the leader to its answer, smoothed: the way, both hosts' threads, and where the message had
        # entries the peer's disk.
        "round_trip": None,
        "match_index": None,
        "next_index": None,
        "lag": None,
    }
    heard_at = state.arrivals.get(node_id, float("-inf"))
    progress = raft.progress.get(node_id)
    if raft.role is Role.LEADER and progress is not None:
        # Followers answer a leader; they send it nothing of their own.
        heard_at = max(heard_at, progress.acked_at)
        member["match_index"] = progress.match_index
        member["next_index"] = progress.next_index
        member["lag"] = raft.log.last_index - progress.match_index
        member["may_lead"] = progress.may_lead
        member["round_trip"] = None if progress.round_trip is None else round(progress.round_trip, 6)
    if node_id == raft.node_id:
        member["may_lead"] = raft.may_lead
    if heard_at != float("-inf") and node_id != raft.node_id:
        member["last_contact"] = round(now - heard_at, 3)
    return member
