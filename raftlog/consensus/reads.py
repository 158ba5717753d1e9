"""Linearizable reads without the log: ReadIndex (dissertation §6.4).

1. "If the leader has not yet marked an entry from its current term committed, it waits until it has done so."
2. The leader notes its commit_index as the read's index.
3. A heartbeat round that began after the read was asked for, answered by a majority, proves that it led then.
4. Whoever asked reads once it has applied that index.

With leases (leases.py), a leader that has one skips 3.

Reads are batched: while one round with reads is under way, later reads wait for the next.
A follower asks its leader (ReadIndexRequest), again with one request for all reads there are.
"""

from __future__ import annotations

from collections.abc import Iterable

from raftlog.consensus.leases import has_lease
from raftlog.consensus.messages import ReadIndexRequest, ReadIndexResponse
from raftlog.consensus.server_state import LeaderRead, ServerState
from raftlog.consensus.state import Role
from raftlog.consensus.timing import begin_round, quorum_round


def request_read(state: ServerState, request_id: int, now: float) -> None:
    """A caller on this server wants to read. The answer comes out of take_reads()."""
    if state.role is Role.LEADER:
        _lead_read(state, LeaderRead(state.node_id, request_id), now)
    elif state.leader_id:
        state.reads_to_forward.append(request_id)
    else:
        state.finished_reads.append((request_id, 0))


# On the leader


def receive_read_index_request(state: ServerState, message: ReadIndexRequest, now: float) -> None:
    """A follower's reads."""
    if state.role is Role.LEADER:
        _lead_read(state, LeaderRead(message.sender, message.request_id), now)
    else:
        _answer(state, LeaderRead(message.sender, message.request_id), 0)


def _lead_read(state: ServerState, read: LeaderRead, now: float) -> None:
    leadership = state.leadership
    assert leadership is not None
    if has_lease(state, now):
        leadership.reads_leased.append(read)
        return
    leadership.reads_waiting.append(read)
    _begin_round_for_reads(state, now)


def confirm_leases(state: ServerState, now: float) -> None:
    """The clock was read again, at `now`, after the reads came (rule 18 of the design): where the lease still holds
    they are answered, else they wait for a round."""
    leadership = state.leadership
    if leadership is None or not leadership.reads_leased:
        return
    reads, leadership.reads_leased = leadership.reads_leased, []
    if has_lease(state, now):
        for read in reads:
            _answer(state, read, state.commit_index)
        return
    leadership.reads_waiting += reads
    _begin_round_for_reads(state, now)


def _begin_round_for_reads(state: ServerState, now: float) -> None:
    leadership = state.leadership
    assert leadership is not None
    if not leadership.reads_in_round:
        begin_round(state, now)
        attach_to_round(state)
        confirm_reads(state, now)  # a single voter needs no answer


def attach_to_round(state: ServerState) -> None:
    """A round has just begun: it will do for every read that waits."""
    leadership = state.leadership
    assert leadership is not None
    if leadership.reads_waiting:
        read_index = state.commit_index if state.commit_index >= leadership.first_own_index else 0
        reads = [read._replace(read_index=read_index) for read in leadership.reads_waiting]
        leadership.reads_waiting.clear()
        leadership.reads_in_round.append((leadership.round, reads))
        leadership.read_round = leadership.round


def confirm_reads(state: ServerState, now: float) -> None:
    """A majority's newest round, or the commit index, may have changed: answer the reads that became safe."""
    leadership = state.leadership
    assert leadership is not None
    if leadership.reads_in_round:
        confirmed = quorum_round(state)
        while leadership.reads_in_round and leadership.reads_in_round[0][0] <= confirmed:
            leadership.reads_confirmed += leadership.reads_in_round.popleft()[1]
        if leadership.reads_waiting and not leadership.reads_in_round:
            begin_round(state, now)
            attach_to_round(state)
    if leadership.reads_confirmed and state.commit_index >= leadership.first_own_index:
        for read in leadership.reads_confirmed:
            _answer(state, read, read.read_index or state.commit_index)
        leadership.reads_confirmed.clear()


def refuse_all(state: ServerState) -> None:
    """Leadership is lost: nothing vouches for the reads that were not confirmed."""
    leadership = state.leadership
    assert leadership is not None
    for _, reads in leadership.reads_in_round:
        _refuse(state, reads)
    _refuse(state, leadership.reads_waiting)
    _refuse(state, leadership.reads_leased)
    _refuse(state, leadership.reads_confirmed)


def _refuse(state: ServerState, reads: Iterable[LeaderRead]) -> None:
    for read in reads:
        _answer(state, read, 0)


def _answer(state: ServerState, read: LeaderRead, read_index: int) -> None:
    if read.origin == state.node_id:
        state.finished_reads.append((read.request_id, read_index))
    else:
        state.replies.append(
            ReadIndexResponse(state.current_term, state.node_id, read.origin, read.request_id, read_index)
        )


# On a follower


def build_read_index_request(state: ServerState) -> ReadIndexRequest | None:
    """One request to the leader for all reads that were not asked yet."""
    if not state.reads_to_forward:
        return None
    request_id = state.next_read_request
    state.next_read_request += 1
    state.forwarded_reads[request_id] = state.reads_to_forward
    state.reads_to_forward = []
    return ReadIndexRequest(state.current_term, state.node_id, state.leader_id, request_id)


def receive_read_index_response(state: ServerState, message: ReadIndexResponse) -> None:
    """The leader's answer; one that was refused meanwhile finds nothing."""
    for request_id in state.forwarded_reads.pop(message.request_id, ()):
        state.finished_reads.append((request_id, message.read_index))


def refuse_forwarded(state: ServerState) -> None:
    """The leader changed, or the connection to it was lost: its answers may never come."""
    for request_ids in [*state.forwarded_reads.values(), state.reads_to_forward]:
        state.finished_reads += [(request_id, 0) for request_id in request_ids]
    state.forwarded_reads.clear()
    state.reads_to_forward = []
