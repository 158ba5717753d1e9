"""One node of a simulated cluster: the real core, ConsensusState and storage, driven by events instead of threads.

What the runtime's threads do, in the same order and under the same rules, as calls that return:

| thread | here |
| --- | --- |
| service | `deliver()` of a request; an AppendEntries waits while the log's writer is busy (rule 6) |
| reader of a peer's connection | `deliver()` of an answer |
| peer | `_pump()`: next_message() until there is none, entries not in memory read from disk |
| log-sync | `_begin_log_write()` takes; `_end_log_write()` writes and syncs, a while later |
| state machine | `_apply()`, a while after its condition was notified |
| election timer, step-down timer | `_wake()` |

A crash may come between any two of these, and inside any call of the disk.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from raftlog.consensus.events import Event, RemovedFromCluster
from raftlog.consensus.log import FetchEntries, UnstableEntries
from raftlog.consensus.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    ReadIndexRequest,
    RequestVote,
    TimeoutNow,
)
from raftlog.consensus.raft import Raft
from raftlog.exceptions import DiskFull, LogCompacted, LogDamaged, LogTruncated, StorageError, StorageFailed
from raftlog.runtime.consensus_state import _calls, _read_calls, run
from raftlog.runtime.election_timer import count_arrivals
from raftlog.runtime.loading import load_log
from raftlog.runtime.ports import ForwardProposals, PeerMessage, TurnReleased, TurnRequest
from raftlog.storage import Storage, open_storage
from raftlog.testing import repairing
from raftlog.testing.disk import Crashed, Killed, SimulatedDisk
from raftlog.testing.node_clock import NodeClock
from raftlog.testing.pulling import ImageChunk, ImageRequest, Images
from raftlog.testing.safety import Violation
from raftlog.testing.simulated_calls import NodeCalls
from raftlog.testing.simulated_state import SimulatedMonitor, SimulatedState

if TYPE_CHECKING:
    from raftlog.testing.simulation import Simulation
    from raftlog.testing.workload import Machine

INFINITY: Final = float("inf")
MAX_MESSAGES: Final = 16  # pulled for one peer at once
MAX_APPLY_BYTES: Final = 4096
DISK_FULL_RETRY: Final = 0.25  # seconds
REQUESTS: Final = (
    AppendEntries,
    InstallSnapshot,
    RequestVote,
    ReadIndexRequest,
    TimeoutNow,
    ForwardProposals,
    TurnRequest,
    TurnReleased,
)
DIRECTORY: Final = "/node"


class SimulatedNode(NodeCalls):
    """One server. It is down, or up; up, it may be paused or busy with its disk."""

    # What mutations exchange (raftlog.testing.mutations).
    raft_class: type[Raft] = Raft
    state_class: type[SimulatedState] = SimulatedState

    def __init__(self, simulation: Simulation, node_id: str, rng: random.Random) -> None:
        self.simulation = simulation
        self.node_id = node_id
        self.rng = rng
        self.disk = SimulatedDisk(rng)
        self.machine: Machine = simulation.workload.machine(self)
        self.clock = NodeClock(rng.uniform(1, 1000), 1.0)
        self.wall_error = 0.0  # seconds by which this node's wall clock is wrong
        self.is_up = False
        self.images = Images(self)
        # The database was lost, or set back, when this was applied; 0: it was not, or is there again.
        self.database_lost_at = 0
        self.is_wiped = False
        self.joins = node_id not in simulation.first_members.servers  # it was started to be taken in
        self.is_out = False  # it was told that it was removed, and stopped
        self.incarnation = ""
        self.is_damaged = False  # a bit on its disk was flipped: it may find out, at once or later, and must then stop
        self.lives = 0  # raised by each start and each crash: events of an earlier life are void
        self.paused_until = 0.0
        self.busy_until = 0.0
        # Everybody there is: whom it talks with is up to its configuration.
        self.peers = [other for other in simulation.node_ids if other != node_id]
        self.raft: Raft
        self.state: SimulatedState
        self.storage: Storage
        self._inbox: deque[Callable[[], None]] = deque()
        self._inbox_scheduled = False
        self._waiting_for_writer: deque[PeerMessage] = deque()
        self._wake_at = INFINITY
        self._wake_number = 0
        self._apply_scheduled = False

    # Life

    def start(self) -> None:
        """Start the process on what the disk holds."""
        if not self.machine.when_free(lambda: self.simulation.after(0.0, self._start_again)):
            return
        self.lives += 1
        simulation = self.simulation
        try:
            self._open()
        except Crashed as error:
            self._end(f"at start-up, {error}", power=not isinstance(error, Killed))
            return
        except (StorageFailed, DiskFull) as error:
            self._end(f"storage failed at start-up: {error}")
            return
        except StorageError as error:
            self._refuse_disk(error)
            return
        self.is_up, self.is_out = True, False
        simulation.trace("start", self.node_id, self.raft.log.last_index)
        simulation.safety.check_restart(self.raft, self.machine.last_applied, self.machine.last_applied_term)
        self.act(lambda: run(self._settle()))

    def _start_again(self) -> None:
        if not self.is_up:
            self.start()

    def _open(self) -> None:
        simulation = self.simulation
        profile = simulation.profile
        self.disk.waited = 0.0
        self.storage = open_storage(
            DIRECTORY,
            node_id=self.node_id,
            new_incarnation=self.rng.randbytes(16).hex(),
            segment_bytes=profile.segment_bytes,
            filesystem=self.disk,
        )
        self.incarnation = self.storage.metadata.incarnation
        self.machine.start()
        now = self.local_now()
        log, recovery_id = load_log(self.storage.log), self.storage.recovery_id
        self.raft = self.raft_class(
            node_id=self.node_id,
            incarnation=self.incarnation,
            settings=profile.settings,
            log=log,
            hard_state=self.storage.hard_state.load(),
            rng=random.Random(self.rng.getrandbits(64)),
            now=now,
            first_members=None if self.joins else simulation.first_members,
            new_cluster_id=self.rng.randbytes(16).hex(),
            last_applied=min(self.machine.last_applied, log.last_index) if recovery_id else self.machine.last_applied,
            recovery_id=recovery_id,
        )
        self.state = self.state_class(
            self.raft,
            self.storage.log,
            self.storage.hard_state,
            SimulatedMonitor(self.local_now),
            max_waiting_proposals=64,
            election_timeout=profile.settings.election_timeout,
            on_event=self._on_event,
        )
        self.state.wall_microseconds = self._wall_microseconds
        self.state.peer_work = {peer: self.state.monitor.condition() for peer in self.peers}
        self.machine.on_entry = self._on_entry
        if simulation.has_images:
            self.images.opened()
        self._inbox.clear()
        self._waiting_for_writer.clear()
        self._inbox_scheduled = self._apply_scheduled = False
        self._wake_at = INFINITY
        self.paused_until = self.busy_until = 0.0

    def crash(self, *, power: bool) -> None:
        """End the process at once; with `power`, the disk loses what was not synced, the database its last commits."""
        if self.is_up:
            self.simulation.safety.crashed(self.raft)
        self._end("power lost" if power else "killed", power=power)

    def fail(self, *, power: bool) -> None:
        """crash(), where it is up."""
        if self.is_up:
            self.crash(power=power)

    def _end(self, reason: str, *, power: bool = True) -> None:
        self.simulation.trace("down", self.node_id, reason)
        self.is_up = False
        self.lives += 1
        if power:
            self.disk.crash()
            self.machine.lose_power(self.rng)
        else:
            self.disk.kill()
            self.machine.kill()
        self.simulation.node_ended(self, power)

    def _refuse_disk(self, error: StorageError) -> None:
        """Storage says that its files are damaged. Where they are, its operator gives it an empty disk."""
        if not self.is_damaged:
            raise Violation("a disk that only lost unsynced data is accepted", f"{self.node_id}: {error}") from error
        self.simulation.count("damage found")
        if self.is_up:
            self.crash(power=True)
        else:
            self._end(f"damaged: {error}")
        if not (self.simulation.has_repair and repairing.repair(self)):
            self.wipe()

    def meet(self, peer: str) -> None:
        """There is another node in the world."""
        self.peers.append(peer)
        if self.is_up:
            self.state.peer_work[peer] = self.state.monitor.condition()

    def wipe(self) -> None:
        """The machine came back with an empty disk, under its old name (rule 4 of the design)."""
        self.disk = SimulatedDisk(self.rng)
        self.machine = self.simulation.workload.machine(self)
        self.is_wiped, self.is_damaged, self.database_lost_at = True, False, 0
        self.incarnation = ""
        self.simulation.safety.forget(self.node_id)

    def act(self, action: Callable[[], None]) -> None:
        """Do something in this node's process, and what follows from it; power may be lost on the way."""
        try:
            action()
            self._after()
        except Crashed as error:
            self.crash(power=not isinstance(error, Killed))
        except StorageFailed as error:
            # The process stops, as it must; its machine may go on.
            self.simulation.trace("storage failed", self.node_id, str(error))
            self.crash(power=self.rng.random() < 0.5)
        except LogDamaged as error:
            self._refuse_disk(error)

    # Time

    def local_now(self) -> float:
        return self.clock.local(self.simulation.now)

    def _wall_microseconds(self) -> int:
        return int((1_700_000_000 + self.simulation.now + self.wall_error) * 1_000_000)

    @property
    def is_blocked(self) -> bool:
        return max(self.paused_until, self.busy_until) > self.simulation.now

    def pause(self, seconds: float) -> None:
        self.paused_until = max(self.paused_until, self.simulation.now + seconds)
        self.simulation.trace("pause", self.node_id, round(seconds, 3))

    def _when_free(self, action: Callable[[], None]) -> None:
        """Do it now, or once the process runs again and is out of the monitor."""
        if self.is_blocked or self._inbox:
            self._inbox.append(action)
            self._schedule_inbox()
        else:
            self.act(action)

    def _schedule_inbox(self) -> None:
        if not self._inbox_scheduled:
            self._inbox_scheduled = True
            free_at = max(self.paused_until, self.busy_until)
            self._later(free_at - self.simulation.now, self._run_inbox)

    def _run_inbox(self) -> None:
        self._inbox_scheduled = False
        while self._inbox and not self.is_blocked and self.is_up:
            self.act(self._inbox.popleft())
        if self._inbox and self.is_up:
            self._schedule_inbox()

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        """In this life of the process only."""
        self.simulation.schedule(max(delay, 0.0), self._in_this_life, (self.lives, action))

    def _in_this_life(self, what: tuple[int, Callable[[], None]]) -> None:
        life, action = what
        if life == self.lives and self.is_up:
            action()

    # Inbound

    def knows(self, peer: str) -> bool:
        """As RaftServer.knows()."""
        return self.raft.sends_to(peer) or self.raft.knows(peer, self.local_now())

    def deliver(self, message: PeerMessage | ImageRequest | ImageChunk) -> None:
        """A frame of a peer arrived."""
        if not self.is_up:
            return
        if isinstance(message, ImageRequest | ImageChunk):
            self._when_free(lambda: self.images.receive(message))
            return
        if not self.knows(message.sender):
            return
        if self.simulation.now >= self.paused_until:
            self.state.arrived(message, self.local_now())
        self._when_free(lambda: self._receive(message))

    def _receive(self, message: PeerMessage) -> None:
        state = self.state
        is_request = isinstance(message, REQUESTS)
        if state.must_wait([message]) or (is_request and state.log_writer_busy and self._waits(message.sender)):
            self._waiting_for_writer.append(message)
        elif is_request:
            state.handle_requests(message.sender, [message], self._reply)
        else:
            state.handle_answers(message.sender, (message,))

    def _waits(self, sender: str) -> bool:
        return any(message.sender == sender for message in self._waiting_for_writer)

    def _reply(self, message: PeerMessage) -> None:
        if isinstance(message, AppendEntriesResponse | InstallSnapshotResponse):
            self.simulation.safety.sent(message)
        self.simulation.network.send(message, self.disk.waited)

    # After every step: what the notified threads do

    def _settle(self) -> list[Callable[[], None]]:
        with self.state.monitor:
            return self.state.settle(self.state.monitor.monotonic(), wake=self.peers)

    def _after(self) -> None:
        state = self.state
        repairing.finish(self)
        self.simulation.safety.check_node(self.raft)
        if self.simulation.has_images:
            self.images.look()
        if state.log_sync_work.notified and not state.log_writer_busy:  # type: ignore[attr-defined]
            self._begin_log_write()
        if state.apply_work.take() and not self._apply_scheduled:  # type: ignore[attr-defined]
            self._apply_scheduled = True
            self._later(self.simulation.profile.apply_delay * self.rng.random(), lambda: self._when_free(self._apply))
        for peer, condition in state.peer_work.items():
            if condition.take():  # type: ignore[attr-defined]
                self._pump(peer)
        if self.disk.waited:
            self.busy_until = max(self.busy_until, self.simulation.now + self.disk.waited)
            self.disk.waited = 0.0
        self._set_wake()

    def _pump(self, peer: str) -> None:
        """A peer thread: everything there is for `peer`."""
        raft, send, waited = self.raft, self.simulation.network.send, self.disk.waited
        now = self.local_now()
        for _ in range(MAX_MESSAGES):
            message = raft.next_message(peer, now)
            if isinstance(message, FetchEntries):
                message = self._fetch(message)
                if message is None:
                    return
            if message is None:
                break
            send(message, waited)
        forward = self.state.proposals.take_forward(peer)
        if forward is not None:
            send(forward, waited)
        for request in self.state.turns.take_messages(peer):
            send(request, waited)

    def _fetch(self, fetch: FetchEntries) -> AppendEntries | None:
        try:
            batch = self.state.log_store.read(fetch.first_index, fetch.last_index, fetch.max_bytes)
        except (LogCompacted, LogTruncated):
            return None
        self.simulation.count("fetched from disk")
        return self.raft.fetched(fetch, batch, self.local_now())

    # The log-sync thread

    def _begin_log_write(self) -> None:
        """Take what is unsynced; it is written and synced after a while, and until then the log has no other writer."""
        state = self.state
        state.log_sync_work.take()  # type: ignore[attr-defined]
        work = state.begin_log_write(self.local_now())
        if work is not None:
            delay = self.simulation.profile.sync_delay * self.rng.random() + self.disk.latency
            self._later(delay, lambda: self._when_free(lambda: self._end_log_write(work)))

    def _end_log_write(self, work: UnstableEntries) -> None:
        state = self.state
        waited = self.disk.waited
        succeeded = state.write(work)
        self.disk.waited = waited  # it has passed already, outside the monitor
        with state.monitor:
            state.end_log_write(work, succeeded)
            afterwards = state.settle(state.monitor.monotonic())
        if not succeeded:
            state.log_sync_work.take()  # type: ignore[attr-defined]
            self.simulation.count("disk full")
            self._later(DISK_FULL_RETRY, lambda: self._when_free(state.log_sync_work.notify))
        run(afterwards)
        while self._waiting_for_writer and not state.log_writer_busy:
            self._receive(self._waiting_for_writer.popleft())

    # The state-machine thread

    def _apply(self) -> None:
        self._apply_scheduled = False
        raft, machine = self.raft, self.machine
        first_index = raft.last_applied + 1
        last_index = min(raft.commit_index, raft.log.stable_index)
        if last_index < first_index or raft.lacks_database or self.images.restoring is not None:
            return
        if not machine.when_free(self._apply_later):
            return
        batch = raft.log.slice(first_index, last_index, MAX_APPLY_BYTES)
        if batch is None:
            batch = self.state.log_store.read(first_index, last_index, MAX_APPLY_BYTES)
        # After a repair of the log, the database may be ahead of it.
        outcomes = []
        if batch.last_index > machine.last_applied:
            outcomes = machine.apply(batch.slice(max(batch.first_index, machine.last_applied + 1), batch.last_index))
        for outcome in outcomes:
            if not outcome.index:
                continue  # a repeat that is refused: its sequence is forgotten
            self.simulation.safety.answered(self.node_id, outcome.index, outcome.status, outcome.result)
        self.state.applied(batch.last_index, outcomes)
        if batch.last_index < last_index:
            self.state.apply_work.notify()
        if self.database_lost_at and batch.last_index >= self.database_lost_at:
            self.database_lost_at = 0
        if self.simulation.has_images:
            self.images.compact()

    def _apply_later(self) -> None:
        self._later(0.0, lambda: self._when_free(self._apply))

    def _on_entry(self, index: int, term: int, payload: bytes) -> None:
        self.simulation.safety.entry_applied(self.node_id, index, term, payload)

    def _on_event(self, event: Event) -> None:
        self.simulation.trace("event", self.node_id, event)
        self.simulation.count(type(event).__name__)
        if isinstance(event, RemovedFromCluster):
            self._later(0.0, self._leave)

    def _leave(self) -> None:
        """It was removed, and knows it: its process ends (exit code 3 of `raft run`)."""
        self.is_out = True
        self.crash(power=False)

    # The timers

    def _set_wake(self) -> None:
        raft, state = self.raft, self.state
        deadline = min(raft.election_deadline, state.step_down_deadline)
        for peer in self.peers:
            deadline = min(deadline, raft.next_deadline(peer))
        if deadline == INFINITY:
            return
        at = self.simulation.now + self.clock.delay_until(deadline, self.simulation.now)
        if at < self._wake_at - 1e-9 or self._wake_at < self.simulation.now:
            self._wake_at = at
            self._wake_number += 1
            number = self._wake_number
            self._later(at - self.simulation.now + 1e-7, lambda: self._woken(number))

    def _woken(self, number: int) -> None:
        if number == self._wake_number:
            self._wake_at = INFINITY
            self._when_free(self._wake)

    def _wake(self) -> None:
        state, raft = self.state, self.raft
        afterwards: list[Callable[[], None]] = []
        with state.monitor:
            count_arrivals(state)
            now = state.monitor.monotonic()
            if now >= min(raft.election_deadline, raft.quorum_deadline, raft.change_deadline):
                raft.tick(now)
                afterwards = state.settle(now, wake=state.peer_work)
            if now >= state.step_down_deadline:
                self.simulation.counters["disks stalled"] += now >= state.stall_deadline
                afterwards += _calls(state.proposals.expire(now)) + _read_calls(state.reads.expire(now))
                afterwards += state.settle(now, wake=state.peer_work)
        run(afterwards)
        for peer in self.peers:
            if raft.next_deadline(peer) <= now:
                state.peer_work[peer].notify()
