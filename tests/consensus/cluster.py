"""A small cluster of real cores: messages are values in a list, time is a number, disks are exact.

`settle()` delivers everything at once in order; `run(seconds)` lets time pass as well. Every step is followed
by the invariants.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import COMMAND, EntryBatch, EntryId, Run, client_payload
from raftlog.consensus.events import Event
from raftlog.consensus.invariants import ClusterHistory, check_state, check_step, observe
from raftlog.consensus.log import FetchEntries, RaftLog, UnstableEntries
from raftlog.consensus.messages import RaftMessage
from raftlog.consensus.raft import Raft
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.snapshot import NO_BASE, LogBase
from raftlog.consensus.state import HardState, Role

SETTINGS = RaftSettings()


def command(text: str = "x") -> bytes:
    return client_payload(COMMAND, b"s" * 16, 1, 0, text.encode())


def members(*node_ids: str, learners: Iterable[str] = (), incarnations: bool = False) -> Configuration:
    ids = [*node_ids, *learners]
    servers = {node_id: Server(f"{node_id}:1", f"folder-{node_id}" if incarnations else "") for node_id in ids}
    return Configuration(
        "c" * 32 if incarnations else "", servers, tuple(sorted(node_ids)), (), tuple(sorted(learners))
    )


class Disk:
    """What survives a restart: hard state, the entries that were synced, and how far the database is."""

    def __init__(self, node_id: str) -> None:
        self.incarnation = f"folder-{node_id}"
        self.hard_state = HardState()
        self.base = NO_BASE
        self.batches: list[EntryBatch] = []
        # Only Cluster.apply() and Cluster.pull() raise it: tests without a database begin at 0 after a restart.
        self.database = 0
        self.recovery_id = 0

    @property
    def last_index(self) -> int:
        return self.batches[-1].last_index if self.batches else self.base.index

    def compact_to(self, base: LogBase) -> None:
        assert self.base.index <= base.index <= self.last_index
        self.base = base
        kept = [batch.slice(base.index + 1, batch.last_index) for batch in self.batches]
        self.batches = [batch for batch in kept if len(batch)]

    def reset_to(self, base: LogBase) -> None:
        self.base, self.batches = base, []

    def truncate_from(self, index: int) -> None:
        while self.batches and self.batches[-1].first_index >= index:
            self.batches.pop()
        if self.batches and self.batches[-1].last_index >= index:
            last = self.batches.pop()
            self.batches.append(last.slice(last.first_index, index - 1))

    def append(self, batch: EntryBatch) -> None:
        assert batch.first_index == self.last_index + 1
        batch.check()
        self.batches.append(batch)

    def write(self, work: UnstableEntries) -> None:
        if work.reset_to is not None:
            self.reset_to(work.reset_to)
        if work.truncate_from:
            self.truncate_from(work.truncate_from)
        if len(work.entries):
            self.append(work.entries)

    def read(self, first_index: int, last_index: int) -> EntryBatch:
        for batch in self.batches:
            if batch.first_index <= first_index <= batch.last_index:
                return batch.slice(first_index, last_index)
        raise AssertionError(f"entry {first_index} is not on the disk, which ends at {self.last_index}")

    def payloads(self) -> list[bytes]:
        return [payload for batch in self.batches for payload in batch.payloads]

    def load_log(self, max_window_bytes: int = 1 << 25) -> RaftLog:
        scan = RaftLog(base=self.base)
        for batch in self.batches:
            scan.append(batch)
        return RaftLog(
            base=self.base,
            last_index=self.last_index,
            term_runs=scan.term_runs(),
            configurations=[each for each in scan.configurations if each[0] > self.base.index],
            last_log_time=scan.last_log_time,
            max_window_bytes=max_window_bytes,
        )


class Cluster:
    """Servers by id. `cut(a, b)` drops messages from a to b."""

    def __init__(
        self,
        *node_ids: str,
        settings: RaftSettings = SETTINGS,
        seed: int = 1,
        learners: Iterable[str] = (),
        first_members: Configuration | None = None,
        formed: bool = False,
    ) -> None:
        self.now = 100.0
        self.settings = settings
        self.rng = random.Random(seed)
        self.first_members = first_members or members(*node_ids, learners=learners)
        self.disks = {node_id: Disk(node_id) for node_id in self.first_members.servers}
        self.rafts: dict[str, Raft] = {}
        self.events: dict[str, list[Event]] = {node_id: [] for node_id in self.disks}
        self.reads: dict[str, list[tuple[int, int]]] = {node_id: [] for node_id in self.disks}
        self.wire: list[RaftMessage] = []
        self.sent: list[RaftMessage] = []
        self.cuts: set[tuple[str, str]] = set()
        self.full_disks: set[str] = set()
        self.history = ClusterHistory()
        if formed:
            self.form(members(*node_ids, learners=learners, incarnations=True))
        for node_id in self.disks:
            self.restart(node_id)

    def form(self, configuration: Configuration) -> None:
        """Every disk holds entry 1, committed in term 1, and nobody leads."""
        for disk in self.disks.values():
            disk.hard_state = HardState(1, "")
            disk.append(EntryBatch(1, [Run(1, 1, 0)], [encode_configuration(configuration)]))

    # Steps

    def restart(self, node_id: str) -> Raft:
        """Begin with what the disk holds; whatever was in memory is gone."""
        disk = self.disks[node_id]
        self.rafts[node_id] = Raft(
            node_id=node_id,
            incarnation=disk.incarnation,
            settings=self.settings,
            log=disk.load_log(),
            hard_state=disk.hard_state,
            rng=random.Random(self.rng.getrandbits(64)),
            now=self.now,
            first_members=self.first_members if node_id in self.first_members.voters else None,
            new_cluster_id="c" * 32,
            last_applied=min(disk.database, disk.last_index),  # a repaired log may end before the database
            recovery_id=disk.recovery_id,
        )
        self.check(node_id)
        return self.rafts[node_id]

    def crash(self, node_id: str) -> None:
        del self.rafts[node_id]

    def do(self, node_id: str, action: Callable[[Raft], object]) -> object:
        """One input to one server, followed by its duties (hard state, disk) and the invariants."""
        raft = self.rafts[node_id]
        before = observe(raft)
        result = action(raft)
        self.after(node_id)
        check_step(before, raft)
        self.check(node_id)
        return result

    def after(self, node_id: str) -> None:
        self.save(node_id)
        if node_id not in self.full_disks:
            self.sync(node_id)
        self.collect(node_id)

    def save(self, node_id: str) -> None:
        raft = self.rafts[node_id]
        if (hard_state := raft.unsaved_hard_state) is not None:
            assert raft.take_replies() == [], "nothing leaves before the hard state is saved"
            self.disks[node_id].hard_state = hard_state
            raft.hard_state_saved(hard_state)

    def sync(self, node_id: str) -> None:
        raft, disk = self.rafts[node_id], self.disks[node_id]
        while (work := raft.take_unstable(self.now)) is not None:
            disk.write(work)
            if work.last_id is not None:
                raft.stable_to(*work.last_id)

    def collect(self, node_id: str) -> None:
        """Put everything that may leave on the wire."""
        raft = self.rafts[node_id]
        self.post(raft.take_replies())
        for peer in self.disks:
            while peer != node_id and raft.has_message(peer, self.now):
                message = raft.next_message(peer, self.now)
                if message is None:
                    break
                if isinstance(message, FetchEntries):
                    batch = self.disks[node_id].read(message.first_index, message.last_index)
                    fetched = raft.fetched(message, batch, self.now)
                    assert fetched is not None
                    message = fetched
                self.post([message])
        self.events[node_id] += raft.take_events()
        self.reads[node_id] += raft.take_reads()

    def post(self, messages: Iterable[RaftMessage]) -> None:
        for message in messages:
            self.sent.append(message)
            if (message.sender, message.recipient) not in self.cuts:
                self.wire.append(message)

    def check(self, node_id: str) -> None:
        check_state(self.rafts[node_id])
        self.history.check(self.rafts.values())

    def deliver(self, message: RaftMessage) -> None:
        if message.recipient in self.rafts and (message.sender, message.recipient) not in self.cuts:
            self.do(message.recipient, lambda raft: raft.step(message, self.now))

    def deliver_anyway(self, message: RaftMessage) -> None:
        """Over a cut wire, as if it had been on its way before."""
        self.do(message.recipient, lambda raft: raft.step(message, self.now))

    def settle(self, limit: int = 10_000) -> None:
        """Deliver in order until nothing moves; time stands still."""
        for _ in range(limit):
            if not self.wire:
                return
            self.deliver(self.wire.pop(0))
        raise AssertionError(f"still busy after {limit} messages, the last is {self.wire[0]}")

    def run(self, seconds: float, step: float = 0.01) -> None:
        """Let time pass in small steps."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for node_id in list(self.rafts):
                self.do(node_id, lambda raft: raft.tick(self.now))
            self.settle()

    # Words for tests

    def campaign(self, node_id: str) -> Raft:
        """Let this server's election deadline pass and the election take its course."""
        raft = self.rafts[node_id]
        self.now = max(self.now, raft.election_deadline)
        self.do(node_id, lambda raft: raft.tick(self.now))
        self.settle()
        return raft

    def elect(self, node_id: str) -> Raft:
        """Make this server the leader; its peers are made to suspect theirs."""
        for raft in self.rafts.values():
            raft.suspect_leader(raft.leader_id, self.now)
        raft = self.campaign(node_id)
        assert raft.role is Role.LEADER, self.events[node_id][-3:]
        return raft

    def propose(self, node_id: str, *texts: str) -> EntryId:
        result = self.do(node_id, lambda raft: raft.propose([command(text) for text in texts], 0, self.now))
        assert isinstance(result, EntryId)
        return result

    # The database, as a number, and what stands in for images of it

    def apply(self, node_id: str) -> None:
        """Everything that is committed and durable in this server's own log (rule 5 of the design)."""
        raft = self.rafts[node_id]
        index = min(raft.commit_index, raft.log.stable_index)
        if not raft.lacks_database and index > raft.last_applied:
            self.disks[node_id].database = index
            self.do(node_id, lambda raft: raft.applied_to(index))

    def compact(self, node_id: str, index: int | None = None) -> int:
        """As far as the rules allow, at most to `index`. Returns the base's index."""
        raft = self.rafts[node_id]
        floor = raft.compaction_floor(self.now)
        base = raft.base_at(floor if index is None else max(min(index, floor), raft.log.base.index))
        if base.index == raft.log.base.index:
            return base.index  # no news; and where the log is just beginning anew, the disk may not know of it yet
        self.do(node_id, lambda raft: raft.compacted_to(base))
        self.disks[node_id].compact_to(base)
        return base.index

    def image(self, node_id: str) -> LogBase:
        """What an image of this server's database is described by."""
        raft = self.rafts[node_id]
        return raft.base_at(raft.last_applied)

    def restore(self, node_id: str, image: LogBase) -> None:
        """The image is on the disk: the log follows, then the database is the image."""
        self.do(node_id, lambda raft: raft.restore_snapshot(image, self.now))
        raft = self.rafts[node_id]
        assert raft.log.stable_index >= image.index, "the log is durable before the database is the image"
        self.disks[node_id].database = image.index
        self.do(node_id, lambda raft: raft.applied_to(image.index))

    def cut(self, sender: str, recipient: str) -> None:
        self.cuts.add((sender, recipient))

    def partition(self, *groups: Iterable[str]) -> None:
        """Only servers of one group reach each other."""
        place = {node_id: number for number, group in enumerate(map(list, groups)) for node_id in group}
        self.cuts = {(a, b) for a in self.disks for b in self.disks if a != b and place[a] != place[b]}

    def heal(self) -> None:
        self.cuts.clear()

    @property
    def leader(self) -> Raft:
        """The leader of the newest term."""
        leaders = [raft for raft in self.rafts.values() if raft.role is Role.LEADER]
        return max(leaders, key=lambda raft: raft.current_term)
