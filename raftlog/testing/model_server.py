"""One server of the explored model: the real core, made a value.

A server's state is copied before each step, brought to a canonical form after it, and named by a digest, so
that equal states are one. Time is taken out: whatever waits for a deadline is an action that may happen
at any moment, which covers every clock; hence no vote is ever refused because a leader was heard from
lately, and heartbeat rounds carry no number. (Reads and check-quorum need both; the simulation covers them.)
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import COMMAND, NO_OP_PAYLOAD, EntryBatch, Run, client_payload
from raftlog.consensus.invariants import check_state, check_step, observe
from raftlog.consensus.log import RaftLog
from raftlog.consensus.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    Message,
    RaftMessage,
    RequestVoteResponse,
    TimeoutNow,
)
from raftlog.consensus.progress import Inflight
from raftlog.consensus.raft import Raft
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.snapshot import NO_BASE, LogBase
from raftlog.consensus.state import HardState, Role

NODES: Final = ("a", "b", "c")
LATER: Final = 1000.0  # any deadline has passed by then
SETTINGS: Final = RaftSettings(max_inflight_messages=1, max_append_entries=2)
CONFIGURATION: Final = Configuration("c" * 32, {node: Server(f"model://{node}", node * 32) for node in NODES}, NODES)
FIRST_ENTRY: Final = encode_configuration(CONFIGURATION)
INFINITY: Final = float("inf")

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Image(Message, frozen=True, tag="image"):
    """An image of the sender's database that the recipient may come to have, at any moment or never."""

    base: LogBase


ModelMessage = RaftMessage | Image


class NoRandomness(random.Random):
    """Random timeouts do not matter where time does not."""

    def random(self) -> float:
        return 0.0

    def getrandbits(self, k: int, /) -> int:
        return 0


_RNG: Final = NoRandomness()


def first_server(node_id: str) -> Raft:
    """A follower of a cluster that was just formed: entry 1, the configuration, is in its log and committed."""
    return _restarted(node_id, HardState(1, ""), NO_BASE, EntryBatch(1, [Run(1, 1, 0)], [FIRST_ENTRY]), 1)


def diverged_server(node_id: str) -> Raft:
    """After c led term 2, whose no-op went to nobody, and a led term 3, whose no-op was committed with b's help and
    applied on both: what a snapshot is to bring c."""
    if node_id == "c":
        return _restarted(node_id, HardState(2, "c"), NO_BASE, _two_entries(2), 1)
    return _restarted(node_id, HardState(3, "a"), NO_BASE, _two_entries(3), 2)


def _two_entries(second_term: int) -> EntryBatch:
    return EntryBatch(1, [Run(1, 1, 0), Run(1, second_term, 0)], [FIRST_ENTRY, NO_OP_PAYLOAD])


def _restarted(node_id: str, hard_state: HardState, base: LogBase, entries: EntryBatch, last_applied: int) -> Raft:
    # The log begins empty and takes its entries in, so that all of them are in memory: nothing is read from disk here.
    log = RaftLog(base=base)
    if len(entries):
        log.append(entries)
        log.take_unstable(1 << 60)
        log.stable_to(entries.last_index, entries.last_term)
    return Raft(
        node_id=node_id,
        incarnation=node_id * 32,
        settings=SETTINGS,
        log=log,
        hard_state=hard_state,
        rng=_RNG,
        now=0.0,
        last_applied=last_applied,
    )


# Actions


@dataclass(frozen=True, slots=True)
class Step:
    """What an action does to one server: the new state (canonical), and what it sends."""

    raft: Raft
    sent: tuple[ModelMessage, ...]


def take_step(before: Raft, action: str, message: ModelMessage | None) -> Step | None:
    """Carry out `action` on a copy of `before`; None where it changes nothing. Raises InvariantViolated.

    deliver: a message arrives. timeout: the election timer. campaign: an election without pre-vote. retry: a leader's
    heartbeats, and what it takes for lost. quorum: no majority answered. propose: one entry. sync: the leader's log
    writer. compact: apply what is committed, give up the log before it, and let the others have the image. crash: and
    start again.
    """
    raft = copy(before)
    seen = observe(raft)
    if action == "crash":
        raft = _crash(raft)
    else:
        _act(raft, action, message)
    now = LATER if action == "retry" else 0.0
    sent = _settle(raft, now)
    if action == "compact":
        sent += [Image(raft.current_term, raft.node_id, peer, raft.log.base) for peer in NODES if peer != raft.node_id]
    if action != "crash":
        check_step(seen, raft)
    check_state(raft)
    normalise(raft)
    return Step(raft, tuple(sent))


def _act(raft: Raft, action: str, message: ModelMessage | None) -> None:
    if action == "deliver":
        assert message is not None
        if isinstance(message, Image):
            _restore(raft, message.base)
        else:
            raft.step(message, 0.0)
    elif action == "campaign":
        leader = raft.leader_id or next(node for node in NODES if node != raft.node_id)
        raft.step(TimeoutNow(raft.current_term, leader, raft.node_id), 0.0)
    elif action in ("timeout", "quorum"):
        raft.tick(LATER)
    elif action == "propose":
        raft.propose([client_payload(COMMAND, b"s" * 16, raft.log.last_index, 1, b"")], 0, 0.0)
    elif action == "sync":
        work = raft.take_unstable(0.0)
        if work is not None and work.last_id is not None:
            raft.stable_to(*work.last_id)
    elif action == "compact":
        raft.applied_to(min(raft.commit_index, raft.log.stable_index))
        # Later, so that the log is held for nobody: it may always happen that a follower makes no progress.
        raft.compacted_to(raft.base_at(raft.compaction_floor(LATER)))


def _restore(raft: Raft, base: LogBase) -> None:
    """The image is there, wanted or not; of no use to a leader, or where the log begins later."""
    if raft.role is Role.LEADER or base.index <= max(raft.last_applied, raft.log.base.index - 1):
        return
    raft.restore_snapshot(base, 0.0)
    _write(raft, 0.0)
    raft.applied_to(base.index)


def _write(raft: Raft, now: float) -> None:
    if (hard_state := raft.unsaved_hard_state) is not None:
        raft.hard_state_saved(hard_state)
    if raft.role is not Role.LEADER:
        while (work := raft.take_unstable(now)) is not None:
            if work.last_id is not None:
                raft.stable_to(*work.last_id)


def _crash(raft: Raft) -> Raft:
    """What is durable comes back: the saved hard state, and the log up to stable_index."""
    log = raft.log
    entries: EntryBatch | None = EntryBatch(log.first_index, [], [])
    if log.stable_index >= log.first_index:
        entries = log.slice(log.first_index, log.stable_index, 1 << 60)
    assert entries is not None
    return _restarted(raft.node_id, raft.saved_hard_state, log.base, entries, raft.last_applied)


def _settle(raft: Raft, now: float) -> list[ModelMessage]:
    """What the runtime does after each entry into the monitor; a follower's log is written and synced there."""
    sent: list[RaftMessage] = []
    for _ in range(2):  # a saved vote may make a leader at once
        _write(raft, now)
        sent += raft.take_replies()
    for peer in NODES:
        if peer == raft.node_id:
            continue
        while (message := raft.next_message(peer, now)) is not None:
            assert not isinstance(message, tuple), "entries are all in memory"
            sent.append(message)
    return [canonical_message(message) for message in sent]


def canonical_message(message: RaftMessage) -> RaftMessage:
    if isinstance(message, AppendEntries | AppendEntriesResponse | InstallSnapshot | InstallSnapshotResponse):
        return msgspec.structs.replace(message, round=0)
    if isinstance(message, RequestVoteResponse):
        return msgspec.structs.replace(message, reason="")
    return message


def normalise(raft: Raft) -> None:
    """Take out what depends on time, on the order of equal events, and on nothing but display."""
    raft.take_events()
    raft.take_reads()
    raft.latest_now = 0.0
    raft.last_heard_at = raft.suspected_at = -INFINITY
    raft.election_deadline = INFINITY if raft.role is Role.LEADER else 1.0
    raft.log.generation = 0
    if raft.candidacy is not None:
        raft.candidacy.asked_at = dict.fromkeys(sorted(raft.candidacy.asked_at), 0.0)
        raft.candidacy.votes = dict(sorted(raft.candidacy.votes.items()))
        raft.candidacy.reasons = []
    leadership = raft.leadership
    if leadership is not None:
        leadership.round = 0
        leadership.rounds = {}
        leadership.round_began_at = leadership.quorum_acked_at = 0.0
    for progress in raft.progress.values():
        progress.last_sent_at = progress.acked_at = progress.moved_at = 0.0
        progress.sent_round = progress.acked_round = progress.timed_round = 0
        progress.round_trip, progress.timed_at = None, 0.0
        progress.retry_doublings = 0
        progress.retry_at = min(progress.retry_at, 1.0) if progress.inflight else INFINITY
        progress.inflight = deque(Inflight(each.last_index, each.size, 0) for each in progress.inflight)


# States as values

_IMMUTABLE: Final = (int, float, str, bytes, type(None), msgspec.Struct, random.Random, RaftSettings, Role)


def copy(value: Any) -> Any:
    """A deep copy of a server, for less than copy.deepcopy: what is immutable is shared."""
    if isinstance(value, _IMMUTABLE):
        return value
    if isinstance(value, list):
        return [copy(item) for item in value]
    if isinstance(value, dict):
        return {key: copy(item) for key, item in value.items()}
    if isinstance(value, deque):
        return deque(copy(item) for item in value)
    if isinstance(value, tuple | set | frozenset):
        return value if isinstance(value, tuple) else set(value)
    if isinstance(value, type) or callable(value):
        return value
    return _copy_object(value)


def _copy_object(value: Any) -> Any:
    made = object.__new__(type(value))
    for name in _fields(value):
        object.__setattr__(made, name, copy(getattr(value, name)))
    return made


def _fields(value: Any) -> list[str]:
    names = list(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        names += [slots] if isinstance(slots, str) else [name for name in slots if hasattr(value, name)]
    return names


def digest(raft: Raft) -> bytes:
    """Names a canonical state: equal states have equal digests (128 bits)."""
    return hashlib.blake2b(_encode(_plain(raft)), digest_size=16).digest()


def _plain(value: Any) -> Any:
    """`value` as plain data; the log by what it holds, not by how."""
    if isinstance(value, RaftLog):
        return _plain_log(value)
    if isinstance(value, random.Random | RaftSettings):
        return None
    if isinstance(value, bool | int | float | str | bytes | type(None) | msgspec.Struct):
        return value
    if isinstance(value, Role):
        return value.value
    if isinstance(value, dict):
        return [[key, _plain(item)] for key, item in sorted(value.items())]
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple | deque):
        return [_plain(item) for item in value]
    if hasattr(value, "value") and not hasattr(value, "__slots__"):
        return value.value
    return [[name, _plain(getattr(value, name))] for name in sorted(_fields(value))]


def _plain_log(log: RaftLog) -> Any:
    entries = log.slice(log.window_first, log.last_index, 1 << 60) if log.last_index >= log.window_first else None
    return [log.base, log.last_index, log.stable_index, log.taken_index, log.truncate_pending, entries]
