"""ConsensusState: the monitor that every thread of a node enters (LogCabin's RaftConsensus, made small).

It holds the lock, the conditions, the Raft core, the log's memory and the waiting callers; how the log comes to the
disk stands in log_writer.py.

Rules about this file:
- Nothing here does network I/O or runs a caller's code inside the monitor. Callbacks are collected
  as *afterwards* and called once the monitor was left.
- Only a follower's log, and the hard state of whoever changed it, is written inside the monitor
  (design section 5). A leader's log is written by the log-sync thread.
- Storage has one writer at a time (rule 6): while `log_writer_busy`, nobody else truncates or appends.
- Who is notified, and why: `peer_work[p]` something to send to p, or its connection changed;
  `log_sync_work` unsynced entries; `apply_work` what is committed and stable is due to be applied;
  `election_work` and `step_down_work` a deadline came nearer; `log_writer_idle` the log-sync thread has finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from raftlog.consensus.configuration import Configuration
from raftlog.consensus.entries import KEY, EntryId
from raftlog.consensus.events import Event
from raftlog.consensus.messages import AppendEntries, InstallSnapshot, RaftMessage
from raftlog.consensus.raft import Raft
from raftlog.consensus.state import Role
from raftlog.exceptions import InvalidEntry, NodeDiverged, NodeUnavailable, NotProposed, ProtocolViolation
from raftlog.log_fields import log_fields
from raftlog.runtime import clock
from raftlog.runtime.apply_pace import ApplyPace
from raftlog.runtime.log_clock import LogClock
from raftlog.runtime.log_writer import LogWriter
from raftlog.runtime.measures import Measures
from raftlog.runtime.monitor import Monitor, MonitorCondition
from raftlog.runtime.pins import Pins
from raftlog.runtime.ports import (
    ForwardProposals,
    ForwardResponse,
    Outcome,
    PeerMessage,
    TurnGranted,
    TurnReleased,
    TurnRequest,
)
from raftlog.runtime.proposals import Done, Proposals, refusal
from raftlog.runtime.reads import ReadDone, Reads
from raftlog.runtime.turns import TurnDone, Turns
from raftlog.storage.interface import HardStateStore, LogStore

logger = logging.getLogger("raftlog.consensus")

NO_LEADER_ELECTION_TIMEOUTS = 8  # callers get an answer when there was no leader for so many election timeouts

Afterwards = list[Callable[[], None]]


class ConsensusState(LogWriter):
    """See the module. Public methods say with their `Monitor:` line whether the caller is inside."""

    def __init__(
        self,
        raft: Raft,
        log_store: LogStore,
        hard_state_store: HardStateStore,
        monitor: Monitor,
        *,
        max_waiting_proposals: int,
        election_timeout: float,
        on_event: Callable[[Event], None],
    ) -> None:
        super().__init__(raft, log_store, monitor, election_timeout)
        self.stopping = False
        # Why this node serves no reads and no proposals and does not lead ("": it does). Changes once: withdraw().
        self.withdrawn = ""
        self._withdrawn_error = ""
        # Messages that were dropped because no correct server sends them.
        self.violations = 0
        # When a frame of each peer last arrived, stamped by its consumer (rule 6). Written without the monitor.
        self.arrivals: dict[str, float] = {}
        # The same for AppendEntries and offers of a snapshot only: what a leader sends as such. A deposed leader that
        # asks for votes, or answers reads, must not keep its followers' election timers waiting.
        self.leader_arrivals: dict[str, float] = {}
        self.peer_work: dict[str, MonitorCondition] = {}
        self.log_sync_work = monitor.condition()
        self.apply_work = monitor.condition()
        self.election_work = monitor.condition()
        self.step_down_work = monitor.condition()
        self.role_changed = monitor.condition()
        self.reply_routes: dict[str, Callable[[PeerMessage], None]] = {}
        self.proposals = Proposals(
            raft, self._log_time, max_waiting_proposals, NO_LEADER_ELECTION_TIMEOUTS * election_timeout
        )
        self.measures = Measures(raft)
        self.reads = Reads(raft, self.measures.reads)
        # Where the state-machine thread stops for a moment, and what it gathers.
        self.pins = Pins()
        self.apply_pace = ApplyPace()
        self.turns = Turns(raft, self.proposals.turns)
        self._log_clock = LogClock()
        self._hard_state_store = hard_state_store
        self._on_event = on_event
        self._seen_commit = raft.commit_index
        self._seen_read_round = raft.read_round
        self._seen_leadership = (raft.leader_id, raft.current_term, raft.role)
        self._step_down_at = float("inf")
        self._election_at = float("inf")

    def arrived(self, message: PeerMessage, at: float) -> None:
        """A consumer has received `message` (rule 6). Monitor: not needed."""
        self.arrivals[message.sender] = at
        if isinstance(message, AppendEntries | InstallSnapshot):
            self.leader_arrivals[message.sender] = at

    # Inbound, from service threads

    def handle_requests(self, peer: str, messages: list[PeerMessage], reply: Callable[[PeerMessage], None]) -> None:
        """Carry out a peer's RPCs, in order. On a follower the log is written and synced inside.

        Monitor: takes it. Raises StorageFailed.
        """
        with self.monitor:
            self.reply_routes[peer] = reply
            while self.must_wait(messages) and not self.stopping:
                self.log_writer_idle.wait_until(float("inf"))
            now = self.monitor.monotonic()
            replies: list[PeerMessage] = []
            for message in messages:
                answer = self._handle_request(message, now)
                if answer is not None:
                    replies.append(answer)
            self.save_hard_state()
            if self.raft.role is not Role.LEADER and not self.log_writer_busy:
                self.write_log(now)
            afterwards = self.settle(now, wake=self.peer_work)
        for answer in replies:
            reply(answer)
        run(afterwards)

    def _handle_request(self, message: PeerMessage, now: float) -> PeerMessage | None:
        """An answer that need not wait for the disk, if there is one. Monitor: held."""
        if isinstance(message, ForwardProposals):
            return self.proposals.propose_forwarded(message, now)
        if isinstance(message, TurnRequest | TurnReleased):
            return self.turns.receive(message, now)
        if not isinstance(message, ForwardResponse | TurnGranted):
            self.step(message, now)
        return None

    def step(self, message: RaftMessage, now: float) -> None:
        """Give a message to the core. One that no correct server sends is dropped and told. Monitor: held."""
        try:
            self.raft.step(message, now)
        except (ProtocolViolation, InvalidEntry) as error:
            self.violations += 1
            logger.error(
                "a %s of %s is dropped: %s",
                *(type(message).__name__, message.sender, error),
                extra=log_fields(
                    "message_dropped",
                    node=self.raft.node_id,
                    term=self.raft.current_term,
                    peer=message.sender,
                    reason=str(error),
                ),
            )

    # Inbound, from the reader threads of outgoing connections

    def handle_answers(self, peer: str, messages: Iterable[PeerMessage]) -> None:
        """Feed a peer's answers in. Monitor: takes it."""
        afterwards: Afterwards = []
        with self.monitor:
            messages = list(messages)
            while self.must_wait(messages) and not self.stopping:
                self.log_writer_idle.wait_until(float("inf"))
            now = self.monitor.monotonic()
            for message in messages:
                if isinstance(message, ForwardResponse):
                    answered = self.proposals.forward_answered(message, now)
                    afterwards += _calls(answered)
                elif isinstance(message, TurnGranted):
                    self.turns.granted(message.key, message.index)
                elif not isinstance(message, ForwardProposals | TurnRequest | TurnReleased):
                    self.step(message, now)
            self.save_hard_state()
            afterwards += self.settle(now, wake=(peer,))
        run(afterwards)

    # From callers

    def propose(self, batches: list[tuple[list[bytes], float, Done]]) -> None:
        """Place proposals: (payloads, deadline, done) each. Monitor: takes it."""
        afterwards: Afterwards = []
        with self.monitor:
            now = self.monitor.monotonic()
            for payloads, deadline, done in batches:
                if self.withdrawn:
                    refused = [refusal(payload[KEY], self._withdrawn_error, self.withdrawn) for payload in payloads]
                    afterwards.append(_call(done, refused))
                    continue
                afterwards += _calls(self.proposals.submit(payloads, deadline, done, now))
            afterwards += self.settle(now, wake=self.peer_work)
        run(afterwards)

    def change_configuration(self, target: Configuration, based_on: int) -> EntryId:
        """Begin to change the members. Raises what Raft.change_configuration() raises. Monitor: takes it."""
        with self.monitor:
            now = self.monitor.monotonic()
            entry = self.raft.change_configuration(target, based_on, now)
            afterwards = self.settle(now, wake=self.peer_work)
        run(afterwards)
        return entry

    def abandon_change(self) -> None:
        """Raises NotLeader, ConfigurationChangeRefused. Monitor: takes it."""
        with self.monitor:
            now = self.monitor.monotonic()
            self.raft.abandon_change(now)
            afterwards = self.settle(now, wake=self.peer_work)
        run(afterwards)

    def transfer_leadership(self, to: str) -> None:
        """Raises NotLeader, ValueError. Monitor: takes it."""
        with self.monitor:
            now = self.monitor.monotonic()
            self.raft.transfer_leadership(to, now)
            afterwards = self.settle(now, wake=self.peer_work)
        run(afterwards)

    def read(self, deadline: float, done: ReadDone) -> None:
        """Ask for an index that is safe to read at. Monitor: takes it."""
        with self.monitor:
            now = self.monitor.monotonic()
            if self.withdrawn:
                afterwards = _read_calls([(done, 0, self.withdrawn)])
            else:
                self.reads.request(deadline, done, now)
                afterwards = self.settle(now, wake=self.peer_work)
        run(afterwards)

    def take_turn(self, key: bytes, is_fence: bool, deadline: float, done: TurnDone) -> None:
        """Ask for the cluster's write turn; `done` hears whether it was granted. Monitor: takes it."""
        with self.monitor:
            now = self.monitor.monotonic()
            self.turns.take(key, is_fence, deadline, done, now)
            afterwards = self.settle(now)
        run(afterwards)

    def renew_turn(self, key: bytes, is_fence: bool) -> None:
        """Monitor: takes it."""
        with self.monitor:
            now = self.monitor.monotonic()
            self.turns.renew(key, is_fence, now)
            afterwards = self.settle(now)
        run(afterwards)

    def release_turn(self, key: bytes) -> None:
        """Monitor: takes it."""
        with self.monitor:
            self.turns.release(key)
            afterwards = self.settle(self.monitor.monotonic())
        run(afterwards)

    # After every entry into the monitor

    def save_hard_state(self) -> None:
        """Make a changed term or vote durable, before anything of that term leaves. Monitor: held."""
        hard_state = self.raft.unsaved_hard_state
        if hard_state is not None:
            self._hard_state_store.save(hard_state)
            self.raft.hard_state_saved(hard_state)

    def settle(self, now: float, wake: Iterable[str] = ()) -> Afterwards:
        """Hand over what the core put out, and notify whoever has work now; `wake` names the peers to look at.

        Returns what is to be called outside the monitor, with run(). Monitor: held.
        """
        raft = self.raft
        self.measures.follow(now)
        self.watch_disk(now)
        self.save_hard_state()
        self._look_at_leases()
        afterwards: Afterwards = []
        for message in raft.take_replies():
            self._route(message, afterwards)
        for event in raft.take_events():
            afterwards.append(_call(self._on_event, event))
        leadership = (raft.leader_id, raft.current_term, raft.role)
        if leadership != self._seen_leadership:
            self._seen_leadership = leadership
            self.proposals.leadership_changed(now)
            self.turns.leadership_changed(now)
            self.role_changed.notify()
            wake = self.peer_work
        if not (self.turns.is_idle and self.proposals.turns.is_idle):
            afterwards += self._move_turns(now)
        if refused := self.proposals.take_refused():
            afterwards += _calls(refused)
        reads = raft.take_reads()
        if reads:
            afterwards += _read_calls(self.reads.confirmed(reads, now))
        if raft.commit_index != self._seen_commit or raft.read_round != self._seen_read_round:
            self._seen_commit, self._seen_read_round = raft.commit_index, raft.read_round
            wake = self.peer_work
        if self.applies_at() <= now:
            self.apply_work.notify()
        if raft.log.stable_index < raft.log.last_index and not self.log_writer_busy:
            self.log_sync_work.notify()
        self._notify_peers(wake, now)
        self._wake_timers()
        return afterwards

    def applies_at(self) -> float:
        """When the state-machine thread has something to do; inf: there is nothing to apply. Monitor: held."""
        raft = self.raft
        count = min(raft.commit_index, raft.log.stable_index) - raft.last_applied
        if count <= 0:
            return float("inf")
        is_awaited = self.reads.await_apply or self.pins.are_waited_for or not self.turns.is_idle
        return self.apply_pace.due_at(count, len(self.proposals), is_awaited=is_awaited)

    def _look_at_leases(self) -> None:
        """Reads were taken under a lease: it must hold still, at a time read after they came. Monitor: held."""
        if self.raft.has_leased_reads:
            self.raft.confirm_leases(self.monitor.monotonic())

    def _move_turns(self, now: float) -> Afterwards:
        """Append what is held back no longer, give the write turn to the next one. Monitor: held."""
        last_index = self.raft.log.last_index
        responses, answered = self.proposals.move_turns(now)
        afterwards = _calls(answered)
        for response in responses:
            self._route(response, afterwards)
        holder = self.proposals.turns.grant(self.raft.log.last_index, now)
        if holder is not None and holder.node_id == self.raft.node_id:
            self.turns.granted(holder.key, holder.index)
        elif holder is not None:
            self._route(self.turns.grant_message(holder), afterwards)
        if self.raft.log.last_index != last_index or self.turns.has_messages:
            self._notify_peers(self.peer_work, now)
        return afterwards + [_call(done, granted) for done, granted in self.turns.take_ready(now)]

    def _notify_peers(self, peers: Iterable[str], now: float) -> None:
        """Those that have something to send now, or earlier than they wait for: to wake a thread costs 50 µs."""
        for peer in peers:
            condition = self.peer_work.get(peer)
            if condition is None or not condition.is_waited_for:  # it has left, or will look by itself
                continue
            if self._has_work_for(peer, now) or self.raft.next_deadline(peer) < condition.deadline:
                condition.notify()

    def _has_work_for(self, peer: str, now: float) -> bool:
        if self.raft.has_message(peer, now):
            return True
        return peer == self.raft.leader_id and (self.proposals.has_forwards or self.turns.has_messages)

    def _wake_timers(self) -> None:
        if self.raft.election_deadline < self._election_at:
            self.election_work.notify()
        if self.step_down_deadline < self._step_down_at:
            self.step_down_work.notify()

    @property
    def step_down_deadline(self) -> float:
        """When the step-down timer has something to do. Monitor: held."""
        deadline = min(self.raft.quorum_deadline, self.raft.change_deadline, self.stall_deadline)
        deadline = min(deadline, self.proposals.next_deadline)
        return min(deadline, self.reads.next_deadline, self.turns.next_deadline, self.proposals.turns.deadline)

    def wait_for_election_deadline(self) -> None:
        """Monitor: held."""
        self._election_at = self.raft.election_deadline
        self.election_work.wait_until(self._election_at)
        self._election_at = float("-inf")

    def wait_for_step_down_deadline(self) -> None:
        """Monitor: held."""
        self._step_down_at = self.step_down_deadline
        self.step_down_work.wait_until(self._step_down_at)
        self._step_down_at = float("-inf")

    # From the state-machine thread

    def applied(self, index: int, outcomes: list[Outcome], started_at: float = float("-inf")) -> None:
        """Entries up to `index` (inclusive) are in the database: answer their callers. Monitor: takes it.

        `started_at`: when their batch was begun (monotonic seconds), where batches have a pace.
        """
        with self.monitor:
            now = self.monitor.monotonic()
            if started_at > float("-inf"):
                self.apply_pace.ended(started_at, now)
            self.raft.applied_to(index)
            self.measures.applied(index, now)
            afterwards = _calls(self.proposals.resolve(outcomes, now, self.measures.total))
            afterwards += _read_calls(self.reads.applied())
            if not self.turns.is_idle:
                afterwards += self._move_turns(now)
            self.role_changed.notify()
        run(afterwards)

    def machine_is_at(self, index: int) -> None:
        """The database is another one, which stands at `index`: what follows is applied again. Monitor: takes it."""
        with self.monitor:
            self.raft.machine_is_at(index)
            afterwards = self.settle(self.monitor.monotonic())
        run(afterwards)

    # Withdrawing and stopping

    def withdraw(self, reason: str, error: type[NotProposed] = NodeDiverged) -> None:
        """This node's database is not what the log made it, or stands still: refuse reads and proposals, those that
        wait included, with `error`, and do not stand for election. Monitor: takes it."""
        with self.monitor:
            now = self.monitor.monotonic()
            self.withdrawn = reason
            self._withdrawn_error = error.__name__
            self.raft.withdraw(now)
            afterwards = _calls(self.proposals.end_all(self._withdrawn_error, reason))
            afterwards += _read_calls(self.reads.end_all(reason))
            afterwards += [_call(done, granted) for done, granted in self.turns.end_all()]
            afterwards += self.settle(now, wake=self.peer_work)
        run(afterwards)

    def note_damage(self, damage: str) -> None:
        """Something in this node's log is not as it was written: another voter is to lead. Monitor: takes it."""
        with self.monitor:
            now = self.monitor.monotonic()
            self.damaged = f"its log is damaged: {damage}"
            if not (self.disk_full or self.disk_stalled):
                self.raft.set_unfit(self.damaged, now, takes_entries=True)
            afterwards = self.settle(now, wake=self.peer_work)
        run(afterwards)

    def recovery_saved(self) -> None:
        """The folder says that its repair is over. Monitor: takes it."""
        with self.monitor:
            self.raft.recovery_saved()
            afterwards = self.settle(self.monitor.monotonic(), wake=self.peer_work)
        run(afterwards)

    def stop(self, text: str) -> None:
        """Tell every thread to end and answer every caller. Monitor: takes it."""
        with self.monitor:
            self.stopping = True
            afterwards = _calls(self.proposals.end_all(NodeUnavailable.__name__, text)) + _read_calls(
                self.reads.end_all(text)
            )
            afterwards += [_call(done, granted) for done, granted in self.turns.end_all()]
            conditions = [self.log_sync_work, self.apply_work, self.election_work, self.step_down_work]
            for condition in [*conditions, self.log_writer_idle, self.role_changed, *self.peer_work.values()]:
                condition.notify()
        run(afterwards)

    # Inside

    def _log_time(self, now: float) -> int:
        raft = self.raft
        return self._log_clock.read(raft.current_term, raft.log.last_log_time, now, clock.wall_microseconds())

    def _route(self, message: PeerMessage, afterwards: Afterwards) -> None:
        reply = self.reply_routes.get(message.recipient)
        if reply is not None:
            afterwards.append(_call(reply, message))


def run(afterwards: Afterwards) -> None:
    """Call what was collected inside the monitor. Monitor: must not be held."""
    for call in afterwards:
        call()


def _call(function: Callable[[Any], None], argument: Any) -> Callable[[], None]:
    return lambda: function(argument)


def _calls(answered: list[tuple[Done, list[Outcome]]]) -> Afterwards:
    return [_call(done, outcomes) for done, outcomes in answered]


def _read_calls(ready: list[tuple[ReadDone, int, str]]) -> Afterwards:
    return [lambda done=done, index=index, reason=reason: done(index, reason) for done, index, reason in ready]  # type: ignore[misc]
