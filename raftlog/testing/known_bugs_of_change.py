"""The bugs of `mutations.py` in what changes a running cluster: members, compaction, images, repair.

A replacement repeats the original with one line missing or wrong.
"""

from __future__ import annotations

from typing import Any

import msgspec

from raftlog.consensus import append_entries, install_snapshot, membership, quorum, request_vote, timing
from raftlog.consensus.configuration import Configuration
from raftlog.consensus.log import RaftLog
from raftlog.consensus.messages import RequestVote
from raftlog.consensus.server_state import Leadership, ServerState
from raftlog.consensus.snapshot import LogBase
from raftlog.storage import Storage
from raftlog.testing.mutations import Patch, mutation, patched
from raftlog.testing.pulling import Images

# Members


@mutation("change-before-own-entry", "members are changed before an entry of the leader's own term is committed")
def _change_before_own_entry() -> list[Patch]:
    def can_append(state: ServerState) -> bool:
        return state.leadership is not None and state.commit_index >= state.configuration_index

    return [(membership, "can_append", can_append)]


@mutation("change-on-uncommitted-change", "members are changed while the change before is not committed")
def _change_on_uncommitted_change() -> list[Patch]:
    def can_append(state: ServerState) -> bool:
        return state.leadership is not None and state.commit_index >= state.leadership.first_own_index

    return [(membership, "can_append", can_append)]


@mutation("change-in-one-step", "the new voters follow the old ones without a joint configuration (§6)")
def _change_in_one_step() -> list[Patch]:
    def joint(current: Configuration, target: Configuration) -> Configuration:
        return target

    return [(membership, "_joint", joint)]


@mutation("joint-needs-new-majority-only", "in a joint configuration the majority of the new voters decides alone (§6)")
def _joint_needs_new_majority_only() -> list[Patch]:
    def majority_value(configuration: Configuration, values: Any, missing: Any) -> Any:
        return quorum.majority_value(_without_outgoing(configuration), values, missing)

    def vote_result(configuration: Configuration, votes: Any) -> quorum.VoteResult:
        return quorum.vote_result(_without_outgoing(configuration), votes)

    return [(append_entries, "majority_value", majority_value), (request_vote, "vote_result", vote_result)]


def _without_outgoing(configuration: Configuration) -> Configuration:
    return msgspec.structs.replace(configuration, outgoing=())


@mutation("learner-counts-as-voter", "what a learner has counts for a commit as if it were a voter")
def _learner_counts_as_voter() -> list[Patch]:
    def majority_value(configuration: Configuration, values: Any, missing: Any) -> Any:
        voters = tuple(sorted({*configuration.voters, *configuration.learners}))
        return quorum.majority_value(msgspec.structs.replace(configuration, voters=voters), values, missing)

    return [(append_entries, "majority_value", majority_value)]


@mutation("removed-server-counts", "commits are counted by the configuration before the newest one (§6)")
def _removed_server_counts() -> list[Patch]:
    original = append_entries.advance_commit_index

    def advance_commit_index(state: ServerState, now: float) -> None:
        older = [configuration for _, configuration in state.log.configurations[:-1]]

        def majority_value(configuration: Configuration, values: Any, missing: Any) -> Any:
            return quorum.majority_value(older[-1] if older else configuration, values, missing)

        with patched(append_entries, "majority_value", majority_value):
            original(state, now)

    return [(append_entries, "advance_commit_index", advance_commit_index)]


@mutation("based-on-ignored", "a change is taken that was made from an older configuration")
def _based_on_ignored() -> list[Patch]:
    original = membership._refusal

    def refusal(state: ServerState, target: Configuration, based_on: int, leadership: Leadership) -> str:
        return original(state, target, state.configuration_index, leadership)

    return [(membership, "_refusal", refusal)]


@mutation("removed-server-is-not-told", "who asks for a vote is not told that he was removed")
def _removed_server_is_not_told() -> list[Patch]:
    return [(membership, "removed_index", lambda state, node_id: 0)]


@mutation("unknown-leader-is-ignored", "a member that fell behind hears no leader that it does not know yet")
def _unknown_leader_is_ignored() -> list[Patch]:
    def knows(state: ServerState, node_id: str, now: float) -> bool:
        if not state.log.configurations:
            return True
        return any(node_id in configuration.servers for _, configuration in state.log.configurations)

    return [(membership, "knows", knows)]


# Compaction and images


@mutation("compacted-past-applied", "the log is compacted to what is committed, applied here or not")
def _compacted_past_applied() -> list[Patch]:
    return [
        (install_snapshot, "compaction_floor", lambda state, now: state.commit_index),
        (Images, "durable_index", lambda self: self.node.raft.commit_index),
    ]


@mutation("compacted-before-durable", "the log is compacted to what the database has applied and may lose again")
def _compacted_before_durable() -> list[Patch]:
    return [(Images, "durable_index", lambda self: self.machine.last_applied)]


@mutation("configuration-lost-at-compaction", "a log's base does not keep the configuration in force there (§7)")
def _configuration_lost_at_compaction() -> list[Patch]:
    original = RaftLog.base_at

    def base_at(self: RaftLog, index: int) -> LogBase:
        return msgspec.structs.replace(original(self, index), configuration_index=0, configuration=Configuration())

    return [(RaftLog, "base_at", base_at)]


@mutation(
    "image-says-commit-index", "an image is said to hold what was committed, not what was applied, when it was made"
)
def _image_says_commit_index() -> list[Patch]:
    return [(Images, "describe_index", lambda self: self.node.raft.commit_index)]


@mutation("installed-before-log", "the database becomes the image before the log that goes on after it is durable")
def _installed_before_log() -> list[Patch]:
    original = Images._restore_file

    def restore_file(self: Images) -> None:
        original(self)
        if self.restoring is not None:
            self.machine.install(self._content, self.restoring.index, self.restoring.term)

    return [(Images, "_restore_file", restore_file)]


@mutation("leads-without-database", "a server whose database is behind its log stands for election")
def _leads_without_database() -> list[Patch]:
    def may_campaign(state: ServerState) -> bool:
        base, state.log.base = state.log.base, LogBase()
        try:
            return original(state)
        finally:
            state.log.base = base

    original = timing.may_campaign
    return [(module, "may_campaign", may_campaign) for module in (timing, request_vote)]


# Repair


@mutation("repair-is-forgotten", "a node whose damaged log was cut goes on as if it had never had more")
def _repair_is_forgotten() -> list[Patch]:
    return [(Storage, "recovery_id", property(lambda self: 0))]


@mutation("votes-before-recovered", "a node gives votes before it has again what its disk lost")
def _votes_before_recovered() -> list[Patch]:
    original = request_vote._refusal_in_any_term

    def refusal(state: ServerState, message: RequestVote, now: float) -> str:
        recovery_id, state.recovery_id = state.recovery_id, 0
        try:
            return original(state, message, now)
        finally:
            state.recovery_id = recovery_id

    return [(request_vote, "_refusal_in_any_term", refusal)]
