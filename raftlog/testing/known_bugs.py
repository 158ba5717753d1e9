"""The bugs of `mutations.py`, one function each. A replacement repeats the original with one line missing or wrong."""

from __future__ import annotations

import random
from typing import Any
from zlib import crc32

import msgspec

from raftlog.consensus import append_entries, quorum, raft, reads, request_vote
from raftlog.consensus.configuration import Configuration
from raftlog.consensus.log import RaftLog
from raftlog.consensus.messages import AppendEntries, AppendEntriesResponse, RequestVote, RequestVoteResponse
from raftlog.consensus.server_state import LeaderRead, ServerState
from raftlog.consensus.state import Role
from raftlog.runtime import reads as runtime_reads
from raftlog.runtime.consensus_state import ConsensusState
from raftlog.storage import record, recovery, segment, segmented_log
from raftlog.storage.filesystem import FileSystem
from raftlog.storage.layout import TEMPORARY, segment_name
from raftlog.testing.disk import SimulatedFile
from raftlog.testing.kv_machine import KeyValueMachine
from raftlog.testing.mutations import Patch, mutation
from raftlog.testing.simulated_node import SimulatedNode
from raftlog.testing.simulated_state import SimulatedState

# Votes and terms


@mutation("vote-not-synced", "term and vote are not written before the answer leaves")
def _vote_not_synced() -> list[Patch]:
    def save_hard_state(self: ConsensusState) -> None:
        hard_state = self.raft.unsaved_hard_state
        if hard_state is not None:
            self.raft.hard_state_saved(hard_state)

    return [(SimulatedState, "save_hard_state", save_hard_state)]


@mutation("term-not-synced", "a newer term is written only together with a vote")
def _term_not_synced() -> list[Patch]:
    def save_hard_state(self: ConsensusState) -> None:
        hard_state = self.raft.unsaved_hard_state
        if hard_state is not None:
            if hard_state.voted_for:
                self._hard_state_store.save(hard_state)
            self.raft.hard_state_saved(hard_state)

    return [(SimulatedState, "save_hard_state", save_hard_state)]


@mutation("vote-twice", "a second candidate of the same term gets a vote too")
def _vote_twice() -> list[Patch]:
    def refusal(state: ServerState, message: RequestVote) -> str:
        if message.term < state.current_term:
            return "old term"
        is_up_to_date = state.log.is_up_to_date(message.last_log_index, message.last_log_term)
        return "" if is_up_to_date else "the log here is newer"

    return [(request_vote, "_refusal", refusal)]


@mutation("vote-for-older-log", "votes are given without comparing the logs (§5.4.1)")
def _vote_for_older_log() -> list[Patch]:
    return [(RaftLog, "is_up_to_date", lambda self, last_log_index, last_log_term: True)]


@mutation("vote-by-length-only", "the longer log wins, whatever its last term (§5.4.1)")
def _vote_by_length_only() -> list[Patch]:
    def is_up_to_date(self: RaftLog, last_log_index: int, last_log_term: int) -> bool:
        return last_log_index >= self.last_index

    return [(RaftLog, "is_up_to_date", is_up_to_date)]


@mutation("minority-elects", "one vote less than a majority wins")
def _minority_elects() -> list[Patch]:
    def vote_result(configuration: Configuration, votes: dict[str, bool]) -> quorum.VoteResult:
        if sum(votes.values()) >= len(configuration.voters) // 2:
            return quorum.VoteResult.WON
        return quorum.vote_result(configuration, votes)

    return [(request_vote, "vote_result", vote_result)]


@mutation("pre-vote-counts-as-vote", "who said that it would vote is taken to have voted")
def _pre_vote_counts_as_vote() -> list[Patch]:
    original = request_vote.start_election

    def start_election(state: ServerState, now: float, *, leadership_transfer: bool = False) -> None:
        before = dict(state.candidacy.votes) if state.candidacy is not None else {}
        is_first = state.candidacy is not None and state.candidacy.is_first_election
        original(state, now, leadership_transfer=leadership_transfer)
        if not is_first and state.candidacy is not None:
            before.pop(state.node_id, None)
            state.candidacy.votes.update({peer: granted for peer, granted in before.items() if granted})

    return [(request_vote, "start_election", start_election)]


@mutation("vote-of-another-term-counts", "an answer to an earlier candidacy counts for the present one")
def _vote_of_another_term_counts() -> list[Patch]:
    original = request_vote.on_request_vote_response

    def on_request_vote_response(state: ServerState, message: RequestVoteResponse, now: float) -> None:
        if message.vote_granted and not message.pre_vote and state.role is Role.CANDIDATE:
            message = msgspec.structs.replace(message, term=state.current_term)
        original(state, message, now)

    return [_receiver(RequestVoteResponse, on_request_vote_response)]


@mutation("wiped-node-votes", "a node that lost its disk votes and acknowledges as its former self (rule 4)")
def _wiped_node_votes() -> list[Patch]:
    refusal = request_vote._refusal_in_any_term
    receive = append_entries.receive_append_entries

    def ignore(state: ServerState, message: Any) -> Any:
        if message.recipient_incarnation:
            return msgspec.structs.replace(message, recipient_incarnation=state.incarnation)
        return message

    return [
        (request_vote, "_refusal_in_any_term", lambda s, message, now: refusal(s, ignore(s, message), now)),
        _receiver(AppendEntries, lambda state, message, now: receive(state, ignore(state, message), now)),
        (request_vote, "has_recorded_incarnation", lambda state, peer, incarnation: True),
        (append_entries, "has_recorded_incarnation", lambda state, peer, incarnation: True),
    ]


@mutation("first-election-by-majority", "a majority forms the cluster, without the others' incarnations (rule 4)")
def _first_election_by_majority() -> list[Patch]:
    return [(request_vote, "unanimous_result", quorum.vote_result)]


# The log


@mutation("commit-older-term", "entries of older terms are committed by counting replicas (§5.4.2, Figure 8)")
def _commit_older_term() -> list[Patch]:
    original = append_entries.advance_commit_index

    def advance_commit_index(state: ServerState, now: float) -> None:
        leadership = state.leadership
        assert leadership is not None
        kept, leadership.first_own_index = leadership.first_own_index, 0
        original(state, now)
        leadership.first_own_index = kept

    return [(append_entries, "advance_commit_index", advance_commit_index)]


@mutation("truncate-matching-entries", "whatever follows prevLogIndex is deleted, though it matches")
def _truncate_matching_entries() -> list[Patch]:
    original = append_entries._store

    def store(state: ServerState, entries: Any, message: AppendEntries, now: float) -> None:
        if len(entries) and entries.first_index <= state.log.last_index:
            first_index = max(entries.first_index, state.commit_index + 1)
            if first_index <= state.log.last_index:
                state.log.truncate_from(first_index)
                state.acks = [ack for ack in state.acks if ack[0] < first_index]
        original(state, entries, message, now)

    return [(append_entries, "_store", store)]


@mutation("conflict-not-truncated", "entries that conflict with the leader's are kept (§5.3)")
def _conflict_not_truncated() -> list[Patch]:
    return [(RaftLog, "conflict_with", lambda self, batch: self.last_index + 1)]


@mutation("previous-entry-not-checked", "entries are appended whatever the term at prevLogIndex (§5.3)")
def _previous_entry_not_checked() -> list[Patch]:
    return [(RaftLog, "matches", lambda self, index, term: index <= self.last_index)]


@mutation("match-index-of-another-term", "an acknowledgement given to the leader of another term counts")
def _match_index_of_another_term() -> list[Patch]:
    original = append_entries.on_append_entries_response

    def on_append_entries_response(state: ServerState, message: AppendEntriesResponse, now: float) -> None:
        if message.success and message.term < state.current_term:
            match_index = min(message.match_index, state.log.last_index)
            message = msgspec.structs.replace(message, term=state.current_term, match_index=match_index)
        original(state, message, now)

    return [_receiver(AppendEntriesResponse, on_append_entries_response)]


@mutation("match-index-from-last-index", "a follower's last index is taken for what it has in common with the leader")
def _match_index_from_last_index() -> list[Patch]:
    original = append_entries.on_append_entries_response

    def on_append_entries_response(state: ServerState, message: AppendEntriesResponse, now: float) -> None:
        match_index = min(message.last_log_index, state.log.last_index)
        original(state, msgspec.structs.replace(message, match_index=match_index) if message.success else message, now)

    return [_receiver(AppendEntriesResponse, on_append_entries_response)]


@mutation("heartbeat-commits-beyond-match", "a heartbeat commits what the follower holds, whether it matches or not")
def _heartbeat_commits_beyond_match() -> list[Patch]:
    build = append_entries._build
    receive = append_entries.receive_append_entries

    def build_unbounded(state: ServerState, *arguments: Any) -> AppendEntries:
        return msgspec.structs.replace(build(state, *arguments), leader_commit=state.commit_index)

    def receive_unbounded(state: ServerState, message: AppendEntries, now: float) -> None:
        receive(state, message, now)
        if message.term == state.current_term and state.leader_id == message.sender:
            state.commit_index = max(state.commit_index, min(message.leader_commit, state.log.last_index))

    return [(append_entries, "_build", build_unbounded), _receiver(AppendEntries, receive_unbounded)]


# Durability


@mutation("acknowledged-before-sync", "entries are acknowledged when written, before they are synced")
def _acknowledged_before_sync() -> list[Patch]:
    original = ConsensusState.write

    def write(self: ConsensusState, work: Any) -> bool:
        sync = self.log_store.sync
        self.log_store.sync = lambda: None  # type: ignore[method-assign]
        try:
            return original(self, work)
        finally:
            self.log_store.sync = sync  # type: ignore[method-assign]

    return [(SimulatedState, "write", write)]


@mutation("acknowledged-before-written", "a follower acknowledges entries that only its memory has")
def _acknowledged_before_written() -> list[Patch]:
    def acknowledge(state: ServerState, message: AppendEntries, match_index: int) -> None:
        state.acks.append((0, append_entries._response(state, message, success=True, match_index=match_index)))

    return [(append_entries, "_acknowledge", acknowledge)]


@mutation("leader-counts-unsynced", "a leader counts itself before its own disk has the entry")
def _leader_counts_unsynced() -> list[Patch]:
    original = append_entries.advance_commit_index

    def advance_commit_index(state: ServerState, now: float) -> None:
        stable, state.log.stable_index = state.log.stable_index, state.log.last_index
        original(state, now)
        state.log.stable_index = stable

    return [(append_entries, "advance_commit_index", advance_commit_index)]


@mutation(
    "stale-sync-accepted", "a sync of entries that were truncated meanwhile counts for those in their place (rule 6)"
)
def _stale_sync_accepted() -> list[Patch]:
    def receive(self: SimulatedNode, message: Any) -> None:
        handle = self.state.handle_answers if isinstance(message, AppendEntriesResponse) else None
        if handle is None and isinstance(message, AppendEntries):
            busy, self.state.log_writer_busy = self.state.log_writer_busy, False
            self.state.handle_requests(message.sender, [message], self._reply)
            self.state.log_writer_busy = busy
        else:
            original(self, message)

    def stable_to(self: RaftLog, index: int, term: int) -> bool:
        index = min(index, self.last_index)
        rose = index > self.stable_index
        self.stable_index = max(self.stable_index, index)
        return rose

    original = SimulatedNode._receive
    return [(SimulatedNode, "_receive", receive), (RaftLog, "stable_to", stable_to)]


@mutation("directory-not-synced", "a new segment's name is not synced before entries in it are acknowledged")
def _directory_not_synced() -> list[Patch]:
    def publish_segment(filesystem: FileSystem, directory: str, sequence: int, first_index: int) -> str:
        path = f"{directory}/{segment_name(sequence, first_index)}"
        filesystem.rename(path + TEMPORARY, path)
        return path

    return [(segmented_log, "publish_segment", publish_segment)]


@mutation("torn-tail-is-damage", "an unfinished last batch is taken for a damaged one (rule 7)")
def _torn_tail_is_damage() -> list[Patch]:
    return [(recovery, "is_whole", lambda image: True)]


@mutation("checksum-ignored", "what is read from the disk is taken for what was written (rule 7)")
def _checksum_ignored() -> list[Patch]:
    original = record.body_of

    def body_of(header: record.RecordHeader, image: bytes) -> bytes:
        return original(header._replace(body_crc=crc32(_body(header, image))), image)

    def _body(header: record.RecordHeader, image: bytes) -> bytes:
        data = bytearray(image)
        del data[record.MARKERS]
        return (
            bytes(data[record.HEADER_BYTES :])
            if header.sectors > 1
            else image[record.HEADER_BYTES : record.SECTOR_DATA]
        )

    return [(module, "body_of", body_of) for module in (record, recovery, segment) if hasattr(module, "body_of")]


@mutation("recovered-tail-not-synced", "what a killed process wrote is called durable at the next start, and is not")
def _recovered_tail_not_synced() -> list[Patch]:
    original = recovery._repair

    def repair(scan: Any, tail: Any) -> None:
        sync = SimulatedFile.sync
        SimulatedFile.sync = lambda self: None  # type: ignore[method-assign]
        try:
            original(scan, tail)
        finally:
            SimulatedFile.sync = sync  # type: ignore[method-assign]

    return [(recovery, "_repair", repair)]


# Reads


@mutation("stale-leader-read", "a leader answers reads without asking whether it still leads (dissertation §6.4)")
def _stale_leader_read() -> list[Patch]:
    def lead_read(state: ServerState, read: LeaderRead, now: float) -> None:
        reads._answer(state, read, state.commit_index)

    return [(reads, "_lead_read", lead_read)]


@mutation(
    "read-before-no-op", "a new leader answers reads before it committed an entry of its term (dissertation §6.4)"
)
def _read_before_no_op() -> list[Patch]:
    attach, confirm = reads.attach_to_round, reads.confirm_reads

    def without_no_op(original: Any) -> Any:
        def patched(state: ServerState, *arguments: Any) -> None:
            leadership = state.leadership
            assert leadership is not None
            kept, leadership.first_own_index = leadership.first_own_index, 0
            original(state, *arguments)
            leadership.first_own_index = kept

        return patched

    return [
        (reads, "attach_to_round", without_no_op(attach)),
        (reads, "confirm_reads", without_no_op(confirm)),
    ]


@mutation("read-joins-running-round", "a round that began before the read confirms it")
def _read_joins_running_round() -> list[Patch]:
    def lead_read(state: ServerState, read: LeaderRead, now: float) -> None:
        leadership = state.leadership
        assert leadership is not None
        read_index = state.commit_index if state.commit_index >= leadership.first_own_index else 0
        leadership.reads_in_round.append((leadership.round, [read._replace(read_index=read_index)]))
        reads.confirm_reads(state, now)

    return [(reads, "_lead_read", lead_read)]


@mutation("read-before-applied", "a read does not wait until its index is applied here")
def _read_before_applied() -> list[Patch]:
    original = runtime_reads.Reads.confirmed

    def confirmed(self: Any, answers: list[tuple[int, int]], now: float) -> Any:
        return original(self, [(request_id, min(index, 1)) for request_id, index in answers], now)

    return [(runtime_reads.Reads, "confirmed", confirmed)]


# Applying


@mutation("applied-index-outside-transaction", "the applied index is kept, the transaction that it speaks of is lost")
def _applied_index_outside_transaction() -> list[Patch]:
    original = KeyValueMachine.lose_power

    def lose_power(self: KeyValueMachine, rng: random.Random) -> None:
        applied, term = self.last_applied, self.last_applied_term
        original(self, rng)
        self.last_applied, self.last_applied_term = applied, term

    return [(KeyValueMachine, "lose_power", lose_power)]


@mutation("dedup-lost-over-restart", "recorded answers of sessions are only in memory")
def _dedup_lost_over_restart() -> list[Patch]:
    original = KeyValueMachine.lose_power

    def lose_power(self: KeyValueMachine, rng: random.Random) -> None:
        original(self, rng)
        self.sessions = {session: ({}, below) for session, (_, below) in self.sessions.items()}

    return [(KeyValueMachine, "lose_power", lose_power)]


@mutation("no-dedup", "a proposal that was retried is applied twice")
def _no_dedup() -> list[Patch]:
    original = KeyValueMachine._apply_client

    def apply_client(self: KeyValueMachine, index: int, payload: bytes) -> Any:
        for answers, _ in self.sessions.values():
            answers.clear()
        return original(self, index, payload)

    return [(KeyValueMachine, "_apply_client", apply_client)]


@mutation("applied-before-durable", "entries are applied that the node's own log does not hold durably (rule 5)")
def _applied_before_durable() -> list[Patch]:
    original = SimulatedNode._apply

    def apply(self: SimulatedNode) -> None:
        log = self.raft.log
        stable, log.stable_index = log.stable_index, log.last_index
        original(self)
        log.stable_index = stable

    return [(SimulatedNode, "_apply", apply)]


def _receiver(message_type: type, function: Any) -> Patch:
    """Exchange what Raft.step() calls for a type of message."""
    return (raft, "_RECEIVERS", {**raft._RECEIVERS, message_type: function})
