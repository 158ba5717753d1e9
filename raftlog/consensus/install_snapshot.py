"""Snapshots (paper §7): a server that needs entries which are gone gets the database instead, on both sides.

§7 has the leader send its snapshot in chunks. Here it only offers one, and the follower pulls an image of the database
(any server's that has the offered index will do): the puller sets the rate, goes on after a lost connection or a change
of leader, and Raft's messages stay small.

Rules about this file:
- An offer is a heartbeat: it carries term and round, and its answer counts for check-quorum and reads.
- While a follower pulls and then catches up, and gets on with it, the leader's log is held from the offered index on
  (compaction_floor), so that the image it will have is one that the log goes on from, and no second one is needed.
- A server whose database is behind its own log's base needs an image too, offer or not.
"""

from __future__ import annotations

import msgspec

from raftlog.consensus import append_entries, membership, recovery, roles
from raftlog.consensus.events import SnapshotNeeded, SnapshotOffered, SnapshotRestored
from raftlog.consensus.messages import InstallSnapshot, InstallSnapshotResponse
from raftlog.consensus.progress import Progress, ProgressState
from raftlog.consensus.server_state import ServerState
from raftlog.consensus.snapshot import LogBase, SnapshotWanted, Transfer
from raftlog.consensus.state import Role
from raftlog.consensus.timing import may_lead, recheck_candidature

# The leader


def needs_snapshot(state: ServerState, progress: Progress) -> bool:
    """Whether the peer can be sent no entries, because those that it needs next are gone."""
    return progress.state is ProgressState.SNAPSHOT or progress.next_index < state.log.first_index


def next_offer(state: ServerState, peer: str, progress: Progress, now: float) -> InstallSnapshot | None:
    """The offer that is due to `peer`: at once, then as often as heartbeats."""
    is_new = progress.state is not ProgressState.SNAPSHOT or progress.snapshot_index < state.log.base.index
    if is_new:
        # The first, or the log was not held for it: what it pulls, if anything, will not do any more.
        next_index = progress.next_index
        progress.become_snapshot(state.last_applied, now)
        state.events.append(
            SnapshotOffered(state.current_term, peer, next_index, state.log.first_index, progress.snapshot_index)
        )
    elif not append_entries.is_heartbeat_due(state, progress, now):
        return None
    append_entries.join_round(state, progress, now)
    return InstallSnapshot(
        term=state.current_term,
        sender=state.node_id,
        recipient=peer,
        base_index=state.log.base.index,
        base_term=state.log.base.term,
        snapshot_index=progress.snapshot_index,
        round=progress.sent_round,
        recipient_incarnation=append_entries.member(state, peer).incarnation,
    )


def on_install_snapshot_response(state: ServerState, message: InstallSnapshotResponse, now: float) -> None:
    """A follower says how far it is; once its log has the base, entries do it again."""
    progress = append_entries.progress_of_answer(state, message, now)
    if progress is None:
        return
    if progress.state is ProgressState.SNAPSHOT:
        progress.on_transfer(Transfer(message.snapshot_index, message.received_bytes, message.total_bytes), now)
        # An answer to an older offer may name an older base, which is no more held.
        if message.match_index >= state.log.base.index:
            progress.become_probe()
    if message.match_index and state.role is Role.LEADER:
        append_entries.acknowledge_match(state, progress, message.match_index, now)
    if state.leadership is not None:
        membership.after_response(state, message.sender, now)


def base_at(state: ServerState, index: int) -> LogBase:
    """LogBase of a log or an image that begins after `index`, which is committed."""
    if index > state.commit_index:
        raise ValueError(f"entry {index} is not committed (commit_index={state.commit_index})")
    return msgspec.structs.replace(state.log.base_at(index), committed_in=state.current_term)


def compaction_floor(state: ServerState, now: float) -> int:
    """The highest index up to which this server's log may be compacted now; base.index: not at all.

    Never past what its own database has; on a leader, nor past what a follower will need next that gets on with pulling
    an image, or with catching up after it.
    """
    floor = state.last_applied
    for progress in state.progress.values():
        if progress.snapshot_index and now - progress.moved_at < state.settings.catch_up_timeout:
            floor = min(floor, max(progress.snapshot_index, progress.match_index))
    return max(floor, state.log.base.index)


# The follower


def receive_install_snapshot(state: ServerState, message: InstallSnapshot, now: float) -> None:
    """An offer of a leader. Nothing changes by it, except that this server knows what it needs."""
    if append_entries.is_for_another_incarnation(state, message) or message.term < state.current_term:
        _answer(state, message, 0)
        return
    append_entries.follow(state, message, now)
    if state.log.matches(message.base_index, message.base_term):
        state.snapshot_offer = None
        _answer(state, message, message.base_index if message.base_index <= state.log.stable_index else 0)
        return
    offer = SnapshotWanted(message.sender, message.snapshot_index)
    if offer != state.snapshot_offer:
        state.events.append(SnapshotNeeded(state.current_term, message.sender, message.snapshot_index))
    state.snapshot_offer = offer
    _answer(state, message, 0)


def _answer(state: ServerState, message: InstallSnapshot, match_index: int) -> None:
    state.replies.append(
        InstallSnapshotResponse(
            term=state.current_term,
            sender=state.node_id,
            recipient=message.sender,
            round=message.round,
            incarnation=state.incarnation,
            match_index=match_index,
            last_log_index=state.log.last_index,
            applied_index=state.last_applied,
            snapshot_index=state.transfer.snapshot_index,
            received_bytes=state.transfer.received_bytes,
            total_bytes=state.transfer.total_bytes,
            may_lead=may_lead(state),
            recovery_id=state.recovery_id,
        )
    )


def snapshot_wanted(state: ServerState) -> SnapshotWanted | None:
    """Which image this server needs; None: none."""
    offer = state.snapshot_offer
    if not state.lacks_database:
        return offer
    peer = state.leader_id or (offer.peer if offer is not None else "")
    offered_index = offer.minimum_index if offer is not None else 0
    return SnapshotWanted(peer, max(offered_index, state.log.base.index))


def restore_snapshot(state: ServerState, base: LogBase, now: float) -> bool:
    """An image that ends with `base` is whole on this server's disk: let the log go on after it.

    §7: "If existing log entry has same index and term as snapshot's last included entry, retain log entries following
    it and reply. Discard the entire log" otherwise. Returns whether the log was kept.
    """
    _refuse_useless(state, base)
    log = state.log
    term = max(base.term, base.committed_in, state.current_term)
    if term > state.current_term or state.candidacy is not None:
        roles.become_follower(state, term, "", now)
    kept = log.matches(base.index, base.term)
    state.events.append(SnapshotRestored(state.current_term, base.index, kept))
    if not kept:
        state.acks.clear()  # they were to wait for entries that are gone
        log.reset_to(base)
        roles.refresh_configuration(state, now)
    state.commit_index = max(state.commit_index, base.index)
    state.installing_index = base.index
    state.snapshot_offer = None
    recheck_candidature(state, now)
    membership.notice_removal(state)
    recovery.notice_end(state)
    return kept


def _refuse_useless(state: ServerState, base: LogBase) -> None:
    """Raises ValueError."""
    log = state.log
    if state.role is Role.LEADER:
        raise ValueError(f"{state.node_id} leads term {state.current_term}: a leader's log is never replaced")
    if base.index < log.base.index:
        raise ValueError(f"a snapshot at index {base.index} is older than the log, which begins after {log.base.index}")
    if base.index <= state.last_applied:
        raise ValueError(f"the database has applied entry {state.last_applied}, the snapshot ends at {base.index}")
    if base.index <= state.commit_index and not log.matches(base.index, base.term):
        raise ValueError(
            f"a snapshot says term {base.term} of entry {base.index}, which is committed here "
            f"(commit_index={state.commit_index}) with term {log.term_at(base.index)}: it is another cluster's"
        )


def machine_is_at(state: ServerState, index: int, now: float) -> None:
    """The database has the entries up to `index`, and no more: it was deleted, or replaced by an older copy, or an
    image could not be installed.

    Where the log still has what follows, it is applied again. Where not, an image is needed, and a leader resigns.
    """
    if index > state.log.last_index:
        raise ValueError(f"index {index} was applied, but the log ends at {state.log.last_index}")
    state.commit_index = max(state.commit_index, index)
    state.last_applied = index
    state.installing_index = 0
    if state.lacks_database and state.role is not Role.FOLLOWER:
        roles.become_follower(state, state.current_term, "", now, "its database is behind its log")
    recheck_candidature(state, now)
