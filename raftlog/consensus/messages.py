"""The messages of Raft, with the paper's field names (Figure 2; pre-vote: dissertation §9.6; reads: §6.4).

Frozen values. `sender` and `recipient` are node ids; `incarnation` is the sender's (rule 4 of the
design: a vote or an acknowledgement of another incarnation than the configuration records never
counts). Indices are 1-based and inclusive.
"""

from __future__ import annotations

import msgspec

from raftlog.consensus.entries import EntryBatch


class Message(msgspec.Struct, array_like=True, frozen=True, tag=True):
    term: int
    sender: str
    recipient: str


class RequestVote(Message, frozen=True, tag="rv"):
    """§5.2; with `pre_vote` a question that changes nothing (dissertation §9.6)."""

    last_log_index: int
    last_log_term: int
    pre_vote: bool
    # The candidate was told by the leader to take over (TimeoutNow): do not ignore it for a live leader's sake.
    leadership_transfer: bool
    # What the candidate's configuration records of the recipient; "" while the cluster is being formed.
    recipient_incarnation: str
    # The candidate's own incarnation.
    incarnation: str


class RequestVoteResponse(Message, frozen=True, tag="rvr"):
    vote_granted: bool
    pre_vote: bool
    incarnation: str
    # The voter's log has no entry: the first election counts only such votes (rule 4).
    log_is_empty: bool
    # Why it was refused, in words, for the log; "" when granted.
    reason: str
    # Index of the committed configuration which the candidate is not in: it was removed. 0: it is in it.
    removed_index: int = 0


class AppendEntries(Message, frozen=True, tag="ae"):
    """§5.3. Without entries it is a heartbeat. `round` counts the leader's heartbeat rounds in this term;
    the answer carries it back, and a round answered by a majority proves leadership at the time it began
    (check-quorum, ReadIndex)."""

    prev_log_index: int
    prev_log_term: int
    entries: EntryBatch
    leader_commit: int
    round: int
    recipient_incarnation: str
    # The recovery of the recipient that the leader knows of, and the index of its barrier (recovery.py); 0: none.
    recovery_id: int = 0
    recovery_index: int = 0


class AppendEntriesResponse(Message, frozen=True, tag="aer"):
    success: bool
    # On success: the last index known to agree with the leader's log *and* durable on the follower.
    # On failure: the prev_log_index that was refused, by which the leader tells a stale refusal from a fresh one.
    match_index: int
    # On failure: where the follower's log disagrees (its term there, and the first index of that term).
    conflict_index: int
    conflict_term: int
    round: int
    incarnation: str
    last_log_index: int
    # For display (lag), and so that the leader knows what a follower has applied.
    applied_index: int
    # False: leadership is not to be handed to it just now (timing.may_lead).
    may_lead: bool = True
    # Not 0: this server's disk has lost what it had promised, and it counts for nothing yet (recovery.py).
    recovery_id: int = 0
    # For how many seconds from when the message arrived it lets nobody else be elected (leases.py).
    vote_hold: float = 0.0


class InstallSnapshot(Message, frozen=True, tag="is"):
    """§7, as an offer: the peer needs entries that the leader no longer holds, and is to pull an image instead.

    A heartbeat too: it carries the leader's round. The image itself travels outside of Raft's messages."""

    # The last entry before those that the leader holds: a log that has it needs no image after all.
    base_index: int
    base_term: int
    # The image must hold at least so much: the leader keeps its log from there on, as long as the pulling gets on.
    snapshot_index: int
    round: int
    recipient_incarnation: str


class InstallSnapshotResponse(Message, frozen=True, tag="isr"):
    round: int
    incarnation: str
    # base_index where the follower's log has that entry durably, so that AppendEntries can go on from there; else 0.
    match_index: int
    last_log_index: int
    # For display, as in AppendEntriesResponse.
    applied_index: int
    # How far the pulling is: the image's index (0: none is being pulled), bytes received, its size (0: not known).
    # That any of it changes is what keeps the leader's log for this follower.
    snapshot_index: int = 0
    received_bytes: int = 0
    total_bytes: int = 0
    # As in AppendEntriesResponse.
    may_lead: bool = True
    recovery_id: int = 0


class ReadIndexRequest(Message, frozen=True, tag="ri"):
    """A follower asks the leader for an index that is safe to read at (dissertation §6.4)."""

    request_id: int


class ReadIndexResponse(Message, frozen=True, tag="rir"):
    request_id: int
    # 0: refused (not the leader, or leadership lost before a majority confirmed it).
    read_index: int


class TimeoutNow(Message, frozen=True, tag="tn"):
    """Leadership transfer: start an election at once (dissertation §3.10)."""


RaftMessage = (
    RequestVote
    | RequestVoteResponse
    | AppendEntries
    | AppendEntriesResponse
    | InstallSnapshot
    | InstallSnapshotResponse
    | ReadIndexRequest
    | ReadIndexResponse
    | TimeoutNow
)
