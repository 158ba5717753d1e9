"""RaftServer: the monitor and all six kinds of thread of one node, started and stopped together.

No Django and no sockets here: the wire comes as a ChannelFactory, the database as a StateMachine.
It implements ports.ServicePort for the consumers and ports.Proposer for callers in this process.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from raftlog.consensus.entries import CLIENT_KINDS, HEADER_BYTES
from raftlog.consensus.events import ConfigurationChanged, Event, MemberLeft
from raftlog.consensus.raft import Raft
from raftlog.consensus.state import Role
from raftlog.exceptions import LogCompacted, LogTruncated, NodeDiverged, NotProposed, PayloadTooLarge
from raftlog.runtime.apply import OnApplied, state_machine_main
from raftlog.runtime.consensus_state import ConsensusState, run
from raftlog.runtime.election_timer import election_timer_main
from raftlog.runtime.event_fields import event_fields
from raftlog.runtime.log_sync import log_sync_main
from raftlog.runtime.monitor import Monitor
from raftlog.runtime.peer import PeerThread
from raftlog.runtime.ports import ChannelFactory, MachineCare, NoCare, PeerMessage, StateMachine
from raftlog.runtime.proposals import Done, refusal
from raftlog.runtime.reads import ReadDone
from raftlog.runtime.service import Service
from raftlog.runtime.status import node_status
from raftlog.runtime.step_down_timer import step_down_timer_main
from raftlog.runtime.threads import NodeThread
from raftlog.runtime.turns import TurnDone
from raftlog.storage.interface import HardStateStore, LogStore

logger = logging.getLogger("raftlog.runtime")

SERVICE_THREADS: Final = 3


class RaftServer:
    """One node's threads. start() once, stop() once; the other methods from any thread."""

    def __init__(
        self,
        raft: Raft,
        log_store: LogStore,
        hard_state_store: HardStateStore,
        machine: StateMachine,
        channel_factory: ChannelFactory,
        *,
        election_timeout: float,
        max_waiting_proposals: int,
        max_payload_bytes: int,
        peers: list[str],
        rng: random.Random,
        on_event: Callable[[Event], None] = lambda event: None,
        on_applied: OnApplied = lambda index, outcomes: None,
    ) -> None:
        self.state = ConsensusState(
            raft,
            log_store,
            hard_state_store,
            Monitor(),
            max_waiting_proposals=max_waiting_proposals,
            election_timeout=election_timeout,
            on_event=self._on_event,
        )
        self._tell_event = on_event
        # Set once, with `failure`, when a thread died: the process must end.
        self.failed = threading.Event()
        self.failure = ""
        self.failed_by: BaseException | None = None
        self._machine = machine
        self._on_applied = on_applied
        # Another one may be put in its place before start().
        self.care: MachineCare = NoCare()
        self._election_timeout = election_timeout
        self._max_payload_bytes = max_payload_bytes
        self._service = Service(self.state)
        self.peers: dict[str, PeerThread] = {}
        self._channel_factory = channel_factory
        self._jitter = rng.random
        self._is_started = False
        self.threads = self._make_threads()
        for peer in peers:
            self._add_peer(peer)

    def _make_threads(self) -> list[NodeThread]:
        threads: list[NodeThread] = []

        def add(name: str, main: Callable[[Callable[[str], None]], None]) -> None:
            thread = NodeThread(f"raftlog-{self.state.raft.node_id}-{name}", lambda: main(thread.now_doing), self.died)
            threads.append(thread)

        add("log-sync", partial(log_sync_main, self.state))
        add("apply", self._apply_main)
        add("election-timer", partial(election_timer_main, self.state))
        add("step-down-timer", partial(step_down_timer_main, self.state))
        for number in range(SERVICE_THREADS):
            add(f"service-{number}", self._service.main)
        return threads

    def _apply_main(self, now_doing: Callable[[str], None]) -> None:
        state_machine_main(self.state, self._machine, self._on_applied, self.care, now_doing)

    def start(self) -> None:
        for thread in self.threads:
            thread.start()
        self._is_started = True
        self._follow_members()

    # Peers come and go with the configuration

    def _add_peer(self, peer: str) -> None:
        self.state.peer_work[peer] = self.state.monitor.condition()
        made = self.peers[peer] = PeerThread(self.state, peer, self._channel_factory, self._jitter)
        thread = NodeThread(
            f"raftlog-{self.state.raft.node_id}-peer-{peer}", lambda: made.main(thread.now_doing), self.died
        )
        self.threads.append(thread)
        if self._is_started:
            thread.start()

    def _follow_members(self) -> None:
        """Begin a thread for each new member, and let those end whose peer is none any more. Monitor: takes it."""
        ending = []
        with self.state.monitor:
            raft = self.state.raft
            if self.state.stopping or (raft.log.is_empty and raft.first_members is not None):
                return
            for peer in [peer for peer in self.peers if not raft.sends_to(peer)]:
                self.state.peer_work.pop(peer).notify()
                ending.append(self.peers.pop(peer))
            for peer in sorted(raft.configuration.servers.keys() - self.peers.keys() - {raft.node_id}):
                self._add_peer(peer)
            self.threads[:] = [thread for thread in self.threads if thread.doing != "ended"]
        for peer_thread in ending:
            peer_thread.close()

    def _on_event(self, event: Event) -> None:
        """Called outside the monitor, by the thread that left it."""
        logger.log(
            logging.WARNING if event.is_warning else logging.INFO,
            "%s %s",
            self.state.raft.node_id,
            event,
            extra=event_fields(self.state.raft.node_id, event),
        )
        if isinstance(event, ConfigurationChanged | MemberLeft) and self._is_started:
            self._follow_members()
        self._tell_event(event)

    def stop(self, timeout: float) -> list[str]:
        """Hand leadership over, answer the waiting callers, end all threads within `timeout` seconds.

        Returns the names of threads that did not end in time. Monitor: must not be held.
        """
        deadline = self.state.monitor.monotonic() + timeout
        if not self.failed.is_set():
            self._hand_over(min(deadline, self.state.monitor.monotonic() + 2 * self._election_timeout))
        self._service.stop()
        self.state.stop("the node is stopping")
        for peer_thread in list(self.peers.values()):
            peer_thread.close()
        self._machine.stop()
        return [t.name for t in self.threads if not t.join(deadline - self.state.monitor.monotonic())]

    def _hand_over(self, deadline: float) -> None:
        """Transfer leadership to the best voter that answers, and wait until this node does not lead."""
        state = self.state
        with state.monitor:
            raft = state.raft
            if raft.role is not Role.LEADER:
                return
            to = self._best_successor()
            if not to:
                return
            now = state.monitor.monotonic()
            raft.transfer_leadership(to, now)
            afterwards = state.settle(now, wake=state.peer_work)
        run(afterwards)
        logger.info("%s hands leadership over to %s", raft.node_id, to)
        with state.monitor:
            while raft.role is Role.LEADER and state.monitor.monotonic() < deadline:
                state.role_changed.wait_until(deadline)

    def best_successor(self) -> str:
        """The connected voter that is to lead rather than others; "" where there is none. Monitor: takes it."""
        with self.state.monitor:
            return self._best_successor()

    def _best_successor(self) -> str:
        """Monitor: held."""
        connected = [peer for peer, thread in self.peers.items() if thread.connected]
        return self.state.raft.best_successor(self.state.monitor.monotonic(), connected)

    def withdraw(self, reason: str, error: type[NotProposed] = NodeDiverged) -> None:
        """Serve no reads and no proposals and lead no more: another voter is asked to, else this one resigns.

        Monitor: must not be held. Blocks for up to two election timeouts.
        """
        state = self.state
        state.withdraw(reason, error)
        self._hand_over(state.monitor.monotonic() + 2 * self._election_timeout)
        with state.monitor:
            now = state.monitor.monotonic()
            state.raft.resign(now, reason)
            afterwards = state.settle(now, wake=state.peer_work)
        run(afterwards)

    def read_entry(self, index: int) -> bytes | None:
        """Payload of an entry of this node's log; None where it is not there (any more). Monitor: takes it."""
        state = self.state
        with state.monitor:
            if not state.raft.log.first_index <= index <= state.raft.log.stable_index:
                return None
            batch = state.raft.log.slice(index, index, 1)
        try:
            batch = batch or state.log_store.read(index, index, 1)
        except (LogCompacted, LogTruncated):
            return None
        return batch.payloads[0]

    def died(self, name: str, error: BaseException) -> None:
        """A thread of this node has ended by an exception: the process must end. Any thread."""
        if not self.failed.is_set():
            self.failed_by = error
            self.failure = f"thread {name} died: {type(error).__name__}: {error}"
            self.failed.set()

    # ports.ServicePort and ports.Proposer

    def submit(self, message: PeerMessage, arrived_at: float, reply: Callable[[PeerMessage], None]) -> bool:
        if not self.knows(message.sender):
            return False
        return self._service.submit(message, arrived_at, reply)

    def knows(self, node_id: str) -> bool:
        """Whether messages of `node_id` are taken (Raft.knows). Monitor: takes it."""
        if node_id in self.peers:
            return True
        with self.state.monitor:
            return self.state.raft.knows(node_id, self.state.monitor.monotonic())

    def peer_connected(self, peer_id: str) -> None:
        logger.info("%s: %s has connected", self.state.raft.node_id, peer_id)
        if peer_id in self.peers:
            self.peers[peer_id].retry_now()

    def peer_disconnected(self, peer_id: str) -> None:
        self._service.peer_disconnected(peer_id)

    def propose(self, payloads: list[bytes], timeout: float, done: Done) -> None:
        good: list[bytes] = []
        bad = []
        for payload in payloads:
            if len(payload) < HEADER_BYTES or payload[0] not in CLIENT_KINDS:
                bad.append(refusal(payload[1:25], "InvalidEntry", "a payload without a client's header"))
            elif len(payload) > self._max_payload_bytes:
                text = f"a payload of {len(payload)} bytes; the limit is {self._max_payload_bytes}"
                bad.append(refusal(payload[1:25], PayloadTooLarge.__name__, text))
            else:
                good.append(payload)
        if bad:
            self._service.call(lambda: done(bad))
        if good:
            self._service.propose(good, timeout, done)

    def read(self, timeout: float, done: ReadDone) -> None:
        """Ask for an applied index that is safe to read at; does not block. `done(0, reason)`: there is none."""
        deadline = self.state.monitor.monotonic() + timeout
        self._service.call(lambda: self.state.read(deadline, done))

    def read_index(self, timeout: float) -> tuple[int, str]:
        """Wait until this node has applied all that was committed before this call: (applied index, "").

        (0, reason) where no leader confirmed that within `timeout` seconds. Monitor: takes it.
        """
        answered = threading.Event()
        answer: list[tuple[int, str]] = []

        def done(index: int, reason: str) -> None:
            answer.append((index, reason))
            answered.set()

        self.read(timeout, done)
        if not answered.wait(timeout + 1.0):
            return 0, "no answer within the time limit"
        return answer[0]

    # The cluster's write turn

    def ask_turn(self, key: bytes, is_fence: bool, timeout: float, done: TurnDone) -> None:
        """Ask for it; does not block. `done` hears whether it was granted and its base is applied here."""
        deadline = self.state.monitor.monotonic() + timeout
        self._service.call(lambda: self.state.take_turn(key, is_fence, deadline, done))

    def take_turn(self, key: bytes, *, is_fence: bool, timeout: float) -> bool:
        """See ports.Proposer. Monitor: takes it."""
        answered = threading.Event()
        answers: list[bool] = []

        def done(granted: bool) -> None:
            answers.append(granted)
            answered.set()

        self.ask_turn(key, is_fence, timeout, done)
        return answered.wait(timeout + 1.0) and answers[0]

    def renew_turn(self, key: bytes, *, is_fence: bool) -> None:
        self._service.call(lambda: self.state.renew_turn(key, is_fence))

    def release_turn(self, key: bytes) -> None:
        self._service.call(lambda: self.state.release_turn(key))

    def status(self) -> dict[str, Any]:
        return node_status(self.state, self._machine, self.peers, self.threads)
