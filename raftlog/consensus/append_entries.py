"""Replication and heartbeats: AppendEntries (paper §5.3) and the commit rule (§5.3, §5.4.2), on both sides.

Rules about this file:
- A heartbeat's prev_log_index is the peer's match_index, so it succeeds whatever is in flight.
- Every AppendEntries carries the number of the newest heartbeat round; its answer counts for check-quorum and
  reads, whether it is a success or a refusal.
- Only what is durable counts: a follower acknowledges no entry before its disk has it, and the leader's own
  match is its stable_index.
"""

from __future__ import annotations

from collections.abc import Sequence

from raftlog.consensus import install_snapshot, membership, priority, reads, recovery, roles
from raftlog.consensus.configuration import Server
from raftlog.consensus.entries import CLIENT_KINDS, EntryBatch, EntryId
from raftlog.consensus.events import IncarnationMismatch, LogTruncated
from raftlog.consensus.leases import count_promise, promised_hold
from raftlog.consensus.log import FetchEntries, kind_of
from raftlog.consensus.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
)
from raftlog.consensus.progress import Progress, ProgressState
from raftlog.consensus.quorum import majority_value
from raftlog.consensus.request_vote import has_recorded_incarnation
from raftlog.consensus.server_state import Leadership, ServerState
from raftlog.consensus.state import Role
from raftlog.consensus.timing import (
    begin_round,
    count_acknowledged_round,
    forget_rounds_before,
    hear_leader,
    may_lead,
    quorum_round,
)
from raftlog.exceptions import InvalidEntry, NotLeader, NotNow, Overloaded, ProtocolViolation

# The leader: what it sends


def append_proposals(state: ServerState, payloads: Sequence[bytes], log_time: int, now: float) -> EntryId:
    """§5.3: "The leader appends the command to its log as a new entry". Returns the id of the first."""
    leadership = state.leadership
    if leadership is None:
        raise NotLeader(state.leader_id)
    if not payloads:
        raise ValueError("propose() was given no payloads")
    if not all(payloads) or not CLIENT_KINDS.issuperset(map(kind_of, payloads)):
        raise InvalidEntry(f"only entries of the kinds {sorted(CLIENT_KINDS)} are proposed; none was appended")
    if leadership.transfer_to and now < leadership.transfer_deadline:
        raise NotNow(f"leadership is being transferred to {leadership.transfer_to}", leadership.transfer_deadline - now)
    if state.unfit and not state.unfit_takes_entries:
        raise NotNow(f"{state.node_id} leads, but takes nothing: {state.unfit}")
    size = sum(map(len, payloads))
    limit = state.settings.max_uncommitted_bytes
    if leadership.uncommitted_bytes and leadership.uncommitted_bytes + size > limit:
        raise Overloaded(
            f"{leadership.uncommitted_bytes} bytes wait to be committed and {size} were to be added; "
            f"max_uncommitted_bytes is {limit}"
        )
    first_index = state.log.last_index + 1
    state.log.append_new(state.current_term, payloads, log_time)
    leadership.uncommitted.append((state.log.last_index, size))
    leadership.uncommitted_bytes += size
    return EntryId(first_index, state.current_term)


def next_append_entries(
    state: ServerState, peer: str, now: float, *, urgent: bool
) -> AppendEntries | InstallSnapshot | FetchEntries | None:
    """What is due to `peer`: entries, else a newer commit index, else a heartbeat; `urgent`: no entries."""
    progress = state.progress.get(peer)
    if progress is None or membership.let_go(state, peer, now):
        return None
    if now >= progress.retry_at:
        progress.on_retry_deadline()
    if install_snapshot.needs_snapshot(state, progress):
        return install_snapshot.next_offer(state, peer, progress, now)
    if not urgent and progress.next_index <= membership.last_index_for(state, peer):
        settings = state.settings
        if progress.has_room(settings.max_inflight_messages, settings.max_inflight_bytes):
            return _next_entries(state, peer, progress, now)
    if is_heartbeat_due(state, progress, now):
        # A peer that is not known to have the base may have it all the same: entries that lead there are in flight.
        prev_log_index = max(progress.match_index, state.log.base.index)
        return _build(state, peer, progress, prev_log_index, None, now)
    return None


def may_be_due(state: ServerState, peer: str, now: float) -> bool:
    """Whether the leader may have something for `peer`; cheap. False: nothing is due, whatever is asked for."""
    leadership, progress = _leadership(state), state.progress.get(peer)
    if progress is None:
        return False
    if peer == leadership.transfer_to or peer in leadership.leaving or now >= progress.retry_at:
        return True
    if install_snapshot.needs_snapshot(state, progress):
        return progress.state is not ProgressState.SNAPSHOT or (
            progress.snapshot_index < state.log.base.index or is_heartbeat_due(state, progress, now)
        )
    settings = state.settings
    if progress.next_index <= state.log.last_index and progress.has_room(
        settings.max_inflight_messages, settings.max_inflight_bytes
    ):
        return True
    return is_heartbeat_due(state, progress, now)


def is_heartbeat_due(state: ServerState, progress: Progress, now: float) -> bool:
    """By the timer; for a read's round; or to tell a follower that has everything of a newer commit_index."""
    leadership = _leadership(state)
    if now >= progress.last_sent_at + state.settings.heartbeat_interval or progress.sent_round < leadership.read_round:
        return True
    return now >= commit_notice_deadline(state, progress)


def commit_notice_deadline(state: ServerState, progress: Progress) -> float:
    """When a follower that has everything is told of a newer commit_index; inf: it knows the newest.

    At once where callers wait on it; else after commit_delay, in which new entries may carry it along.
    """
    news = min(state.commit_index, progress.match_index)
    if progress.next_index <= state.log.last_index or progress.sent_commit >= news:
        return float("inf")
    if progress.sent_commit < progress.awaited_index:
        return float("-inf")
    return progress.last_sent_at + state.settings.commit_delay


def heartbeat_deadline(state: ServerState, peer: str, *, expecting: bool = False) -> float:
    """When next_append_entries() has something without further input.

    expecting: or once what is in flight is committed, so that whoever waits until then need not be woken by that.
    """
    progress = state.progress.get(peer)
    if progress is None:
        return float("inf")
    heartbeat = progress.last_sent_at + state.settings.heartbeat_interval
    if expecting and progress.inflight:
        heartbeat = progress.last_sent_at + state.settings.commit_delay
    return min(heartbeat, progress.retry_at, commit_notice_deadline(state, progress))


def _next_entries(state: ServerState, peer: str, progress: Progress, now: float) -> AppendEntries | FetchEntries | None:
    settings, log = state.settings, state.log
    first_index = progress.next_index
    last_index = min(membership.last_index_for(state, peer), first_index + settings.max_append_entries - 1)
    batch = log.slice(first_index, last_index, settings.max_append_bytes)
    if batch is None:
        last_index = min(last_index, log.window_first - 1)
        return FetchEntries(peer, state.current_term, first_index, last_index, settings.max_append_bytes)
    return _build(state, peer, progress, first_index - 1, batch, now)


def entries_fetched(state: ServerState, request: FetchEntries, batch: EntryBatch, now: float) -> AppendEntries | None:
    """Entries for `request.peer` that were read from disk meanwhile; None where they are not what is due any more."""
    progress = state.progress.get(request.peer)
    if progress is None or request.term != state.current_term or state.unsaved_hard_state is not None:
        return None
    settings = state.settings
    is_due = batch.payloads and batch.first_index == progress.next_index and batch.last_index <= state.log.last_index
    is_due = is_due and batch.first_index >= state.log.first_index  # compacted meanwhile
    if not is_due or not progress.has_room(settings.max_inflight_messages, settings.max_inflight_bytes):
        return None
    return _build(state, request.peer, progress, batch.first_index - 1, batch, now)


def _build(
    state: ServerState, peer: str, progress: Progress, prev_log_index: int, entries: EntryBatch | None, now: float
) -> AppendEntries:
    """The message, with everything that its being sent changes."""
    leadership = _leadership(state)
    join_round(state, progress, now)
    if entries is None:
        entries = EntryBatch(prev_log_index + 1, [], [])
    else:
        size = entries.payload_bytes
        progress.on_sent_entries(entries.last_index, size, leadership.round, now, state.settings.election_timeout)
    leader_commit = min(state.commit_index, entries.last_index)
    progress.sent_commit = max(progress.sent_commit, leader_commit)
    return AppendEntries(
        term=state.current_term,
        sender=state.node_id,
        recipient=peer,
        prev_log_index=prev_log_index,
        prev_log_term=state.log.term_at(prev_log_index),
        entries=entries,
        leader_commit=leader_commit,
        round=leadership.round,
        recipient_incarnation=member(state, peer).incarnation,
        recovery_id=progress.recovery_id,
        recovery_index=progress.recovery_index,
    )


def join_round(state: ServerState, progress: Progress, now: float) -> None:
    """A message is being made, which is one of the newest heartbeat round; where it is time, a new one begins."""
    leadership = _leadership(state)
    if now >= leadership.round_began_at + state.settings.heartbeat_interval:
        begin_round(state, now)
        reads.attach_to_round(state)
    progress.on_sent(leadership.round, now)


def member(state: ServerState, peer: str) -> Server:
    """A server that this leader sends the log to."""
    return state.configuration.servers.get(peer) or _leadership(state).leaving[peer]


# The leader: what comes back


def on_append_entries_response(state: ServerState, message: AppendEntriesResponse, now: float) -> None:
    """§5.3: "If successful: update nextIndex and matchIndex for follower. If AppendEntries fails because of log
    inconsistency: decrement nextIndex and retry" — by the follower's hint instead of by one."""
    progress = progress_of_answer(state, message, now)
    if progress is None:
        return
    if message.success:
        is_news = acknowledge_match(state, progress, message.match_index, now)
    else:
        next_index = _next_index_after_refusal(state, message)
        is_news = progress.on_refused(message.match_index, next_index, state.log.base.index)
    settings = state.settings
    if not is_news and progress.lost_what_was_in_flight(
        message.round, message.last_log_index, settings.max_append_bytes, now, settings.election_timeout
    ):
        progress.on_lost()
    if state.leadership is not None:
        membership.after_response(state, message.sender, now)


def progress_of_answer(
    state: ServerState, message: AppendEntriesResponse | InstallSnapshotResponse, now: float
) -> Progress | None:
    """What every answer of a follower says: its term, the round it answers, how far it is. None: not to be counted."""
    if not has_recorded_incarnation(state, message.sender, message.incarnation):
        return None
    if message.term > state.current_term:
        roles.become_follower(state, message.term, "", now, f"{message.sender} is in term {message.term}")
        return None
    progress = state.progress.get(message.sender)
    if message.term < state.current_term or progress is None or recovery.notice(state, progress, message, now):
        return None
    progress.last_log_index = message.last_log_index
    progress.applied_index = message.applied_index
    progress.time_answer(message.round, now)
    priority.on_answer(state, message.sender, message.may_lead, now)
    count_promise(state, message.sender, message.round, getattr(message, "vote_hold", 0.0))
    if count_acknowledged_round(state, message.sender, message.round):
        reads.confirm_reads(state, now)
        forget_rounds_before(state, quorum_round(state))
    return progress


def acknowledge_match(state: ServerState, progress: Progress, match_index: int, now: float) -> bool:
    """A follower has the log up to `match_index`, durably. Returns whether that is news."""
    if match_index > state.log.last_index:
        raise ProtocolViolation(
            f"a follower acknowledges index {match_index}; the log of its leader {state.node_id} ends at "
            f"{state.log.last_index}"
        )
    if progress.state is ProgressState.SNAPSHOT and match_index >= state.log.base.index:
        progress.become_probe()  # entries that were in flight have brought it there: it needs no image
    rose = progress.on_success(match_index, now, state.settings.election_timeout)
    if rose:
        advance_commit_index(state, now)
        if match_index >= state.commit_index:
            progress.snapshot_index = 0  # it has caught up: the log need not be held for it
    return rose


def _next_index_after_refusal(state: ServerState, message: AppendEntriesResponse) -> int:
    """§5.3: "the leader can use this information to decrement nextIndex to bypass all of the conflicting entries"."""
    if message.conflict_term:
        last_of_term = state.log.last_index_of_term(message.conflict_term)
        if last_of_term:
            return last_of_term + 1
    return message.conflict_index


def advance_commit_index(state: ServerState, now: float) -> None:
    """Figure 2, leaders: "If there exists an N such that N > commitIndex, a majority of matchIndex[i] ≥ N, and
    log[N].term == currentTerm: set commitIndex = N (§5.3, §5.4)"."""
    leadership = _leadership(state)
    matches = {peer: each.match_index for peer, each in state.progress.items() if recovery.counts(each)}
    matches[state.node_id] = state.log.stable_index
    index = majority_value(state.configuration, matches, 0)
    if index <= state.commit_index or index < leadership.first_own_index:
        return
    state.commit_index = index
    uncommitted = leadership.uncommitted
    while uncommitted and uncommitted[0][0] <= index:
        leadership.uncommitted_bytes -= uncommitted.popleft()[1]
    reads.confirm_reads(state, now)
    membership.advance(state, now)


def _leadership(state: ServerState) -> Leadership:
    assert state.leadership is not None, f"{state.node_id} is {state.role.value}, not the leader"
    return state.leadership


# The follower


def receive_append_entries(state: ServerState, message: AppendEntries, now: float) -> None:
    """Figure 2, "AppendEntries RPC: Receiver implementation"."""
    # 1. "Reply false if term < currentTerm (§5.1)"
    if is_for_another_incarnation(state, message) or message.term < state.current_term:
        _refuse(state, message)
        return
    follow(state, message, now)
    # 2. "Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm (§5.3)"
    entries = _entries_after_compaction(state, message)
    prev_log_index = entries.first_index - 1
    if prev_log_index == message.prev_log_index and not state.log.matches(prev_log_index, message.prev_log_term):
        _refuse(state, message, vote_hold=promised_hold(state))
        return
    _store(state, entries, message, now)
    # 5. "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new entry)"
    state.snapshot_offer = None  # the logs agree here, so entries are all that is needed
    # Only what the message covers is acknowledged: what was compacted here may reach beyond its leader's log.
    last_new_index = max(message.entries.last_index, message.prev_log_index)
    state.commit_index = max(state.commit_index, min(message.leader_commit, last_new_index))
    membership.notice_removal(state)
    recovery.learn_barrier(state, message)
    _acknowledge(state, message, last_new_index)


def is_for_another_incarnation(state: ServerState, message: AppendEntries | InstallSnapshot) -> bool:
    """Rule 4 of the design: meant for a folder that is gone. The answer tells the leader so."""
    if message.recipient_incarnation in ("", state.incarnation):
        return False
    if state.node_id not in state.mismatches:
        state.mismatches.add(state.node_id)
        state.events.append(
            IncarnationMismatch(state.current_term, state.node_id, message.recipient_incarnation, state.incarnation)
        )
    return True


def follow(state: ServerState, message: AppendEntries | InstallSnapshot, now: float) -> None:
    """A message of this term's leader, or of a newer term's."""
    if message.term == state.current_term and state.leader_id not in ("", message.sender):
        raise ProtocolViolation(
            f"{message.sender} sends {type(message).__name__} as the leader of term {message.term}, but "
            f"{state.leader_id} leads that term: a term has one leader (§5.2)"
        )
    # §5.2: "If the leader's term is at least as large as the candidate's current term, then the candidate recognizes
    # the leader as legitimate and returns to follower state."
    if message.term > state.current_term or state.role is not Role.FOLLOWER or not state.leader_id:
        roles.become_follower(
            state, message.term, message.sender, now, f"{message.sender} leads the newer term {message.term}"
        )
    hear_leader(state, now)


def _entries_after_compaction(state: ServerState, message: AppendEntries) -> EntryBatch:
    """Entries that were compacted here are committed, so they match (Leader Completeness)."""
    compacted = state.log.base.index
    if message.prev_log_index >= compacted:
        return message.entries
    if message.entries.last_index <= compacted:
        return EntryBatch(compacted + 1, [], [])
    return message.entries.slice(compacted + 1, message.entries.last_index)


def _store(state: ServerState, entries: EntryBatch, message: AppendEntries, now: float) -> None:
    log = state.log
    if not len(entries):
        return
    configurations = log.configuration
    # 3. "If an existing entry conflicts with a new one (same index but different terms), delete the existing entry and
    #    all that follow it (§5.3)"
    conflict_index = log.conflict_with(entries)
    if conflict_index <= log.last_index and conflict_index <= entries.last_index:
        if conflict_index <= state.commit_index:
            raise ProtocolViolation(
                f"{message.sender} wants to replace entry {conflict_index}, which is committed here "
                f"(commit_index={state.commit_index}): committed entries never change (§5.4)"
            )
        state.events.append(LogTruncated(state.current_term, conflict_index, log.last_index))
        log.truncate_from(conflict_index)
        # No acknowledgement waits for a removed entry: all are of this term, whose one leader sends one log.
    # 4. "Append any new entries not already in the log"
    if entries.last_index > log.last_index:
        log.append(entries.slice(log.last_index + 1, entries.last_index))
    if log.configuration != configurations:
        roles.refresh_configuration(state, now)


def _acknowledge(state: ServerState, message: AppendEntries, match_index: int) -> None:
    """Now, as far as the disk has it; and once more when it has the rest."""
    stable_match = min(match_index, state.log.stable_index)
    hold = promised_hold(state)
    state.acks.append((stable_match, _response(state, message, success=True, match_index=stable_match, vote_hold=hold)))
    if match_index > stable_match:
        response = _response(state, message, success=True, match_index=match_index, vote_hold=hold)
        state.acks.append((match_index, response))


def _refuse(state: ServerState, message: AppendEntries, *, vote_hold: float = 0.0) -> None:
    """With a hint where the logs disagree (§5.3, "the term of the conflicting entry and the first index it stores for
    that term"); with conflict_index = last_index + 1 where this log is too short."""
    log, prev_log_index = state.log, message.prev_log_index
    conflict_term = 0
    conflict_index = log.last_index + 1
    if log.first_index <= prev_log_index <= log.last_index:
        conflict_term = log.term_at(prev_log_index)
        conflict_index = max(log.first_index_of_term_at(prev_log_index), log.first_index)
    response = _response(
        state,
        message,
        success=False,
        match_index=prev_log_index,
        conflict_index=conflict_index,
        conflict_term=conflict_term,
        vote_hold=vote_hold,
    )
    state.replies.append(response)


def _response(
    state: ServerState,
    message: AppendEntries,
    *,
    success: bool,
    match_index: int,
    conflict_index: int = 0,
    conflict_term: int = 0,
    vote_hold: float = 0.0,
) -> AppendEntriesResponse:
    return AppendEntriesResponse(
        term=state.current_term,
        sender=state.node_id,
        recipient=message.sender,
        success=success,
        match_index=match_index,
        conflict_index=conflict_index,
        conflict_term=conflict_term,
        round=message.round,
        incarnation=state.incarnation,
        last_log_index=state.log.last_index,
        applied_index=state.last_applied,
        may_lead=may_lead(state),
        recovery_id=state.recovery_id,
        vote_hold=vote_hold,
    )


def take_durable_acknowledgements(state: ServerState) -> list[AppendEntriesResponse]:
    """Acknowledgements that the own disk bears out by now, those for one leader made into one."""
    stable_index = state.log.stable_index
    if not state.acks:
        return []
    newest: AppendEntriesResponse | None = None
    waiting = []
    for index, ack in state.acks:
        if index > stable_index:
            waiting.append((index, ack))
        elif newest is None or (ack.match_index, ack.round) >= (newest.match_index, newest.round):
            newest = _with_newest_round(ack, newest)
        else:
            newest = _with_newest_round(newest, ack)
    state.acks = waiting
    return [newest] if newest is not None else []


def _with_newest_round(ack: AppendEntriesResponse, other: AppendEntriesResponse | None) -> AppendEntriesResponse:
    """Copy of `ack` that answers the newer of two rounds."""
    if other is None or other.round <= ack.round:
        return ack
    return AppendEntriesResponse(
        term=ack.term,
        sender=ack.sender,
        recipient=ack.recipient,
        success=ack.success,
        match_index=ack.match_index,
        conflict_index=ack.conflict_index,
        conflict_term=ack.conflict_term,
        round=other.round,
        incarnation=ack.incarnation,
        last_log_index=ack.last_log_index,
        applied_index=ack.applied_index,
        may_lead=ack.may_lead,
        recovery_id=ack.recovery_id,
        vote_hold=ack.vote_hold,
    )
