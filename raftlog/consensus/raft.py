"""Raft: one server's consensus state, driven by calls that carry the time (paper Figure 2).

Rules about this file:
- It only delegates: every rule stands in the file that is named after it.
- Nothing here waits, reads a clock or does I/O. The same calls give the same outputs.
- Inputs change the state; outputs are pulled. The caller's duties after any input:
  - save `unsaved_hard_state` and call hard_state_saved(): until then take_replies() and next_message() give nothing;
  - carry out take_unstable(), then call stable_to(): until then what depends on it is not acknowledged or counted;
  - once recovery_finished, make that durable and call recovery_saved();
  - send what take_replies() and next_message(peer) give; look at take_reads() and take_events().
- Not thread-safe: the caller has a lock (runtime/monitor.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any, Final

from raftlog.consensus import (
    append_entries,
    install_snapshot,
    leases,
    membership,
    priority,
    reads,
    recovery,
    request_vote,
    roles,
    timeout_now,
    timing,
)
from raftlog.consensus.configuration import Configuration
from raftlog.consensus.entries import EntryBatch, EntryId
from raftlog.consensus.events import Event
from raftlog.consensus.log import FetchEntries, RaftLog, UnstableEntries
from raftlog.consensus.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    RaftMessage,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from raftlog.consensus.server_state import INFINITY, ServerState
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.snapshot import LogBase, SnapshotWanted, Transfer
from raftlog.consensus.state import HardState, Role
from raftlog.exceptions import ProtocolViolation

# Why another pre-vote begins where the one before, or the election after it, came to nothing.
NOT_ELECTED: Final = {
    Role.PRE_CANDIDATE: "no majority for its pre-vote in time",
    Role.CANDIDATE: "no majority of votes in time",
}


class Raft(ServerState):
    """See the module. All times are monotonic seconds, indices 1-based, ranges inclusive.

    Args:
        incarnation: names the folder of this server's log; a vote counts only for the one that is recorded.
        log: as storage holds it; all of it is stable.
        hard_state: as storage holds it.
        first_members: members of a cluster that may not be formed yet; without it an empty server only waits.
        new_cluster_id: what entry 1 records if this server wins the first election.
        last_applied: index that the state machine has applied already, which is therefore committed. Below log.base
            where the database is gone or older than the log: then snapshot_wanted() says what is needed.
        recovery_id: not 0: the folder was repaired, and what was lost is not there again (recovery.py).

    Raises:
        ValueError: the log, the hard state and last_applied cannot belong together.
    """

    def __init__(
        self,
        *,
        node_id: str,
        incarnation: str,
        settings: RaftSettings,
        log: RaftLog,
        hard_state: HardState,
        rng: random.Random,
        now: float,
        first_members: Configuration | None = None,
        new_cluster_id: str = "",
        last_applied: int = 0,
        recovery_id: int = 0,
    ) -> None:
        if last_applied > log.last_index:
            raise ValueError(f"last_applied is {last_applied}, but the log of {node_id} ends at {log.last_index}")
        if hard_state.current_term < log.last_term:
            raise ValueError(
                f"the hard state of {node_id} is in term {hard_state.current_term}, but its log ends in term "
                f"{log.last_term}: the hard state is older than the log"
            )
        super().__init__(
            node_id=node_id,
            incarnation=incarnation,
            settings=settings,
            log=log,
            hard_state=hard_state,
            rng=rng,
            now=now,
            first_members=first_members,
            new_cluster_id=new_cluster_id,
            last_applied=last_applied,
            recovery_id=recovery_id,
        )
        log.max_window_bytes = settings.max_window_bytes
        roles.refresh_configuration(self, now)
        if leases.may_have_promised(self):
            leases.hold_votes(self, now)
        timing.reset_election_deadline(self, now)
        membership.notice_removal(self)
        if self.configuration.all_voters == {node_id} and timing.may_campaign(self):
            self.election_deadline = min(self.election_deadline, now)  # a single voter has nobody to wait for

    # Inputs

    def step(self, message: RaftMessage, now: float) -> None:
        """Take any inbound message. Raises ProtocolViolation where no correct server sends it."""
        if message.recipient != self.node_id or message.sender == self.node_id:
            raise ProtocolViolation(
                f"{self.node_id} was given a message from {message.sender!r} to {message.recipient!r}"
            )
        self.latest_now = now
        _RECEIVERS[type(message)](self, message, now)

    def propose(self, payloads: list[bytes], log_time: int, now: float) -> EntryId:
        """Append client entries as the leader; returns the id of the first.

        Raises NotLeader, Overloaded (NotNow where it is only a moment), InvalidEntry.

        log_time: microseconds since the epoch; raised where it is before that of the last entry.
        """
        self.latest_now = now
        return append_entries.append_proposals(self, payloads, log_time, now)

    def expect_commit(self, peer: str, index: int) -> None:
        """Callers on `peer` wait for the entries up to `index`: it is told at once when they are committed."""
        progress = self.progress.get(peer)
        if progress is not None:
            progress.awaited_index = max(progress.awaited_index, index)

    def tick(self, now: float) -> None:
        """Carry out whatever time-driven rule is due."""
        self.latest_now = now
        if self.role is Role.LEADER:
            priority.hand_over_if_due(self, now)
            membership.advance(self, now)
            if now >= self.quorum_deadline:
                reason = "no majority answered for an election timeout"
                roles.become_follower(self, self.current_term, "", now, reason)
        elif now >= self.election_deadline:
            request_vote.start_pre_vote(self, now, self._why_campaign())

    def _why_campaign(self) -> str:
        if self.suspected_at > float("-inf"):
            return "lost the connection to the leader"
        if self.role is not Role.FOLLOWER:
            return NOT_ELECTED[self.role]
        return "heard from no leader for an election timeout"

    def heard_from_leader(self, leader_id: str, at: float) -> None:
        """A frame from it arrived at `at` (rule 6 of the design). Moves the election deadline, nothing else."""
        if self.role is Role.FOLLOWER and leader_id and leader_id == self.leader_id:
            timing.hear_leader(self, at)

    def suspect_leader(self, leader_id: str, now: float) -> None:
        """The connection to it was lost: ask for a pre-vote soon, and help others who do."""
        if self.role is Role.FOLLOWER and leader_id and leader_id == self.leader_id:
            timing.suspect_leader(self, now)

    def peer_reset(self, peer: str) -> None:
        """This server's connection to `peer` was lost or made anew: nothing that was sent on it counts as sent."""
        progress = self.progress.get(peer)
        if progress is not None:
            progress.on_connection_reset()
        if self.candidacy is not None:
            self.candidacy.asked_at.pop(peer, None)
        if peer == self.leader_id and self.role is Role.FOLLOWER:
            reads.refuse_forwarded(self)

    def request_read(self, request_id: int, now: float) -> None:
        """Ask for an index that is safe to read at (dissertation §6.4). The answer comes out of take_reads()."""
        reads.request_read(self, request_id, now)

    def change_configuration(self, target: Configuration, based_on: int, now: float) -> EntryId:
        """Begin to change the members (§6), as the leader. Raises NotLeader, ConfigurationChangeRefused, InvalidEntry.

        based_on: index of the configuration in force from which `target` was made.
        """
        self.latest_now = now
        return membership.change_configuration(self, target, based_on, now)

    @property
    def change_deadline(self) -> float:
        """When a leader is due a tick() for a change of members or of the leader; inf: none is in sight."""
        return min(membership.change_deadline(self), priority.handover_deadline(self))

    def knows(self, node_id: str, now: float) -> bool:
        """Whether messages of `node_id` are to be taken at all."""
        return membership.knows(self, node_id, now)

    def sends_to(self, node_id: str) -> bool:
        """Whether there is, or may soon be, something to send to `node_id`."""
        return membership.sends_to(self, node_id)

    def abandon_change(self, now: float) -> None:
        """Give up a change whose new voters still learn. Raises NotLeader, ConfigurationChangeRefused."""
        self.latest_now = now
        membership.abandon_change(self, now)

    def transfer_leadership(self, to: str, now: float) -> None:
        """Hand leadership to the voter `to`. Raises NotLeader, ValueError."""
        timeout_now.transfer_leadership(self, to, now)

    def best_successor(self, now: float, among: Collection[str]) -> str:
        """Of the peers `among`, the one to whom leadership is best handed; "": none could take it."""
        return priority.best_successor(self, now, among)

    @property
    def may_lead(self) -> bool:
        """Whether leadership may be handed to this server."""
        return timing.may_lead(self)

    def set_unfit(self, reason: str, now: float, *, takes_entries: bool = False) -> None:
        """This server should not lead just now ("": it may again): a leader hands over, as soon as there is somebody,
        and takes nothing meanwhile, unless `takes_entries`; it goes on voting."""
        self.latest_now = now
        self.unfit_takes_entries = takes_entries
        priority.set_unfit(self, reason, now)

    def withdraw(self, now: float) -> None:
        """This server must not lead: it ends its candidacy and stands for no election any more. Where it leads, it goes
        on until it has handed leadership over, or resigns."""
        self.latest_now = now
        self.is_withdrawn = True
        if self.candidacy is not None:
            roles.become_follower(self, self.current_term, "", now)
        timing.reset_election_deadline(self, now)

    def resign(self, now: float, reason: str) -> None:
        """Stop leading without a successor."""
        self.latest_now = now
        if self.role is Role.LEADER:
            roles.become_follower(self, self.current_term, "", now, reason)

    def applied_to(self, index: int) -> None:
        """The state machine has the entries up to `index`, applied or out of an image. Raises ValueError beyond
        commit_index."""
        if index > self.commit_index:
            raise ValueError(f"index {index} was applied, but commit_index is {self.commit_index}")
        self.last_applied = max(self.last_applied, index)
        timing.recheck_candidature(self, self.latest_now)

    # Snapshots (§7)

    @property
    def wanted_snapshot(self) -> SnapshotWanted | None:
        """The image that this server needs; None: none. Look after every input."""
        return install_snapshot.snapshot_wanted(self)

    def report_transfer(self, transfer: Transfer) -> None:
        """How far the pulling of an image is: the leader is told with the next answer."""
        self.transfer = transfer

    def restore_snapshot(self, base: LogBase, now: float) -> bool:
        """An image whose last entry is `base` is whole, verified and durable on this server's disk.

        The log is kept where it has that entry, else begins anew after it (take_unstable). Then, in this order:
        - wait until log.stable_index >= base.index: the disk has the log that goes on after the image;
        - install the image: from there on the database is the image;
        - call applied_to(base.index), or machine_is_at(last_applied) where it could not be installed.
        In between nothing is to be applied (lacks_database).
        A crash in between leaves a server that lacks_database, and so wants a snapshot again: of the same file.

        Returns whether the log was kept. Raises ValueError where the image is of no use: this server leads, its log or
        its database is beyond the image, or it is committed here that the entry has another term.
        """
        self.latest_now = now
        return install_snapshot.restore_snapshot(self, base, now)

    def base_at(self, index: int) -> LogBase:
        """What describes an image that holds the entries up to `index`, and the log after them.

        log.base.index <= index <= commit_index. Raises IndexError, ValueError.
        """
        return install_snapshot.base_at(self, index)

    def compaction_floor(self, now: float) -> int:
        """The highest index up to which the log may be compacted now. The host may keep more, never less.

        At most log.base.index: nothing is to be compacted. Then leave the disk's log alone too, which may not know of a
        log that is just beginning anew.
        """
        return install_snapshot.compaction_floor(self, now)

    def compacted_to(self, base: LogBase) -> None:
        """The log on disk gives up the entries up to base.index, at most compaction_floor(); `base` is base_at().

        Call it before LogStore.compact_to(base): what the disk then still has is no longer asked for.
        """
        self.log.compact_to(base)

    def machine_is_at(self, index: int) -> None:
        """The state machine is another one now, which has applied the entries up to `index`: its database was lost or
        replaced. What it has applied is committed. Where the log begins later, an image is needed (wanted_snapshot).
        Raises ValueError beyond the log."""
        install_snapshot.machine_is_at(self, index, self.latest_now)

    # Durability

    def hard_state_saved(self, hard_state: HardState) -> None:
        """The disk has `hard_state`. The vote of a candidate for itself counts from here on."""
        self.saved_hard_state = hard_state
        if self.unsaved_hard_state is None:
            request_vote.count_own_vote(self, self.latest_now)

    def take_unstable(self, now: float) -> UnstableEntries | None:
        """What to write to the own disk next: each piece once, in this order. None: nothing (yet)."""
        del now
        if self.unsaved_hard_state is not None:
            return None  # the log on disk is never of a later term than the hard state there
        return self.log.take_unstable(self.settings.max_sync_bytes)

    def stable_to(self, index: int, term: int) -> None:
        """The own disk has the log up to `index`; ignored where the entry there has another term than `term`."""
        if self.log.stable_to(index, term):
            if self.leadership is not None:
                append_entries.advance_commit_index(self, self.latest_now)
            recovery.notice_end(self)

    def recovery_saved(self) -> None:
        """The disk says that the recovery is over: after recovery_finished, nothing else ends it."""
        if not self.recovery_finished:
            raise ValueError(f"{self.node_id} has not recovered: its barrier is {self.recovery_index}")
        self.recovery_id = self.recovery_index = 0
        self.recovery_finished = False
        timing.reset_election_deadline(self, self.latest_now)

    # Outputs

    def take_replies(self) -> list[RaftMessage]:
        """Answers that may leave now, in order for each recipient."""
        if not (self.replies or self.acks) or self.unsaved_hard_state is not None:
            return []
        replies, self.replies = self.replies, []
        replies += append_entries.take_durable_acknowledgements(self)
        return replies

    def next_message(self, peer: str, now: float, urgent: bool = False) -> RaftMessage | FetchEntries | None:
        """The next request for `peer`; what it returns counts as sent. None: nothing to send now.

        urgent: only what is small (heartbeats, votes, TimeoutNow), for between the chunks of something large.
        """
        if self.unsaved_hard_state is not None:
            return None
        self.latest_now = now
        if self.role is Role.LEADER:
            return timeout_now.build_timeout_now(self, peer, now) or append_entries.next_append_entries(
                self, peer, now, urgent=urgent
            )
        if self.candidacy is not None:
            return request_vote.build_request_vote(self, peer, now)
        if peer == self.leader_id:
            return reads.build_read_index_request(self)
        return None

    def has_message(self, peer: str, now: float) -> bool:
        """Whether next_message(peer, now) may have something. False: it has nothing, and would change nothing."""
        if self.unsaved_hard_state is not None:
            return False
        if self.role is Role.LEADER:
            return append_entries.may_be_due(self, peer, now)
        if self.candidacy is not None:
            return peer != self.node_id and now >= request_vote.request_vote_deadline(self, peer)
        return peer == self.leader_id and bool(self.reads_to_forward)

    def fetched(self, request: FetchEntries, batch: EntryBatch, now: float) -> AppendEntries | None:
        """Entries that next_message() asked for, read from disk; None where they are stale by now."""
        return append_entries.entries_fetched(self, request, batch, now)

    def next_deadline(self, peer: str, expecting: bool = False) -> float:
        """When next_message(peer) may have something without further input; inf: never.

        expecting: or with the input that is soon to be expected, the commit of what is in flight.
        """
        if self.role is Role.LEADER:
            return append_entries.heartbeat_deadline(self, peer, expecting=expecting)
        if self.candidacy is not None and peer != self.node_id:
            return request_vote.request_vote_deadline(self, peer)
        return INFINITY

    @property
    def read_round(self) -> int:
        """The newest heartbeat round that reads wait for (0: none). Where it rose, every peer is due a message."""
        return self.leadership.read_round if self.leadership is not None else 0

    @property
    def has_leased_reads(self) -> bool:
        """Whether reads were taken under a lease: read the clock again, and call confirm_leases()."""
        return self.leadership is not None and bool(self.leadership.reads_leased)

    def confirm_leases(self, now: float) -> None:
        """Answer the reads for which the lease still holds at `now`, a time read after they were taken."""
        reads.confirm_leases(self, now)

    def take_reads(self) -> list[tuple[int, int]]:
        """Reads that ended: (request_id, read_index), 0: refused, ask again."""
        finished, self.finished_reads = self.finished_reads, []
        return finished

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events


def _receive_read_index_request(raft: ServerState, message: ReadIndexRequest, now: float) -> None:
    _learn_term(raft, message, now)
    reads.receive_read_index_request(raft, message, now)


def _receive_read_index_response(raft: ServerState, message: ReadIndexResponse, now: float) -> None:
    reads.receive_read_index_response(raft, message)
    _learn_term(raft, message, now)


def _receive_timeout_now(raft: ServerState, message: TimeoutNow, now: float) -> None:
    _learn_term(raft, message, now)
    timeout_now.receive_timeout_now(raft, message, now)


def _learn_term(raft: ServerState, message: RaftMessage, now: float) -> None:
    # Figure 2: "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower".
    # The RPCs whose rules have exceptions (pre-vote, a live leader, another incarnation) do it in their own files.
    if message.term > raft.current_term:
        roles.become_follower(raft, message.term, "", now, f"{message.sender} is in term {message.term}")


_RECEIVERS: Final[dict[type, Callable[[ServerState, Any, float], None]]] = {
    RequestVote: request_vote.receive_request_vote,
    RequestVoteResponse: request_vote.on_request_vote_response,
    AppendEntries: append_entries.receive_append_entries,
    AppendEntriesResponse: append_entries.on_append_entries_response,
    InstallSnapshot: install_snapshot.receive_install_snapshot,
    InstallSnapshotResponse: install_snapshot.on_install_snapshot_response,
    ReadIndexRequest: _receive_read_index_request,
    ReadIndexResponse: _receive_read_index_response,
    TimeoutNow: _receive_timeout_now,
}
