"""Random histories: messages lost, doubled and reordered, partitions, slow disks, crashes.

A failing seed replays with `pytest "tests/consensus/test_random.py::test_…[seed]"`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.events import SnapshotNeeded, SnapshotOffered, SnapshotRestored
from raftlog.consensus.invariants import last_agreement
from raftlog.consensus.log import FetchEntries, UnstableEntries
from raftlog.consensus.messages import RaftMessage
from raftlog.consensus.progress import ProgressState
from raftlog.consensus.raft import Raft
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.snapshot import LogBase, SnapshotWanted, Transfer
from raftlog.consensus.state import HardState, Role
from raftlog.exceptions import ConfigurationChangeRefused, NotLeader, Overloaded
from tests.consensus.cluster import Cluster, command

SMALL = RaftSettings(
    max_append_bytes=120,
    max_append_entries=3,
    max_inflight_messages=3,
    max_inflight_bytes=400,
    max_uncommitted_bytes=2000,
    max_window_bytes=400,
    max_sync_bytes=150,
)


class Chaos(Cluster):
    """A cluster whose disks and wires do their work when chance says so."""

    def __init__(self, *node_ids: str, seed: int) -> None:
        self.writing: dict[str, deque[UnstableEntries]] = {node_id: deque() for node_id in node_ids}
        self.saving: dict[str, HardState] = {}
        self.chance = random.Random(seed)
        self.proposed = 0
        self.next_read = 1
        # What was committed anywhere when a read was asked for: its index must not be below.
        self.read_floor: dict[tuple[str, int], int] = {}
        self.confirmed_reads = 0
        # Each history has a character of its own: slow disks, much loss, many crashes, much time between steps.
        self.pace = self.chance.choice([0.002, 0.005, 0.01])
        self.disturbed_every = self.chance.choice([0.3, 1.0, 3.0])
        self.loss = self.chance.choice([0.0, 0.0, 0.1, 0.3])
        self.disorder = self.chance.choice([0.0, 0.3])
        self.steps = {
            self.send: 30.0,
            self.move_wire: 30.0,
            self.save_some: 5.0,
            self.begin_write: self.chance.choice([1.0, 10.0, 10.0]),
            self.end_write: self.chance.choice([1.0, 10.0, 10.0]),
            self.propose_some: 4.0,
            self.read: 3.0,
            self.apply_some: 3.0,
        }
        super().__init__(*node_ids, settings=SMALL, seed=seed)

    def after(self, node_id: str) -> None:
        """Nothing by itself: saving, syncing and sending are steps of their own."""
        raft = self.rafts[node_id]
        self.events[node_id] += raft.take_events()
        self.count_reads(node_id)

    def count_reads(self, node_id: str) -> None:
        for request_id, read_index in self.rafts[node_id].take_reads():
            floor = self.read_floor.pop((node_id, request_id))
            if read_index:
                self.confirmed_reads += 1
                assert read_index >= floor, f"a read at {read_index} misses entry {floor}, committed before it began"

    def any_node(self) -> str:
        return self.chance.choice(sorted(self.rafts))

    # Steps

    def step(self) -> None:
        self.now += self.pace * self.chance.random()
        for node_id, raft in self.rafts.items():
            if self.now >= min(raft.election_deadline, raft.quorum_deadline):
                self.do(node_id, lambda raft: raft.tick(self.now))
        if self.chance.random() < self.pace / 2 / self.disturbed_every:
            self.disturb()
        self.chance.choices(list(self.steps), list(self.steps.values()))[0]()

    def send(self) -> None:
        """What one server may send now: some of its requests, all of its answers."""
        node_id = self.any_node()
        if self.chance.random() < 0.7:
            self.save(node_id)
        raft = self.rafts[node_id]
        for peer in self.chance.sample(sorted(self.disks), self.chance.randint(1, len(self.disks))):
            if peer != node_id:
                self.post(self.next_messages(raft, peer, urgent=self.chance.random() < 0.1))
        self.post(raft.take_replies())
        self.after(node_id)

    def next_messages(self, raft: Raft, peer: str, urgent: bool = False) -> list[RaftMessage]:
        messages: list[RaftMessage] = []
        has_message = raft.has_message(peer, self.now)
        while (message := raft.next_message(peer, self.now, urgent=urgent)) is not None:
            assert has_message, "who looks only where has_message() says so would not send this"
            has_message = raft.has_message(peer, self.now)
            if isinstance(message, FetchEntries):
                batch = self.disks[raft.node_id].read(message.first_index, message.last_index)
                message = raft.fetched(message, batch, self.now)
                assert message is not None
            messages.append(message)
        return messages

    def move_wire(self) -> None:
        for _ in range(self.chance.randint(1, 8)):
            if self.wire:
                self.move_one()

    def move_one(self) -> None:
        position = 0 if self.chance.random() > self.disorder else self.chance.randrange(len(self.wire))
        is_doubled = self.chance.random() < self.disorder / 3
        message = self.wire[position] if is_doubled else self.wire.pop(position)
        if self.chance.random() > self.loss:
            self.deliver(message)

    def save_some(self) -> None:
        self.save(self.any_node())

    def begin_write(self) -> None:
        node_id = self.any_node()
        work = self.rafts[node_id].take_unstable(self.now)
        if work is not None:
            self.writing[node_id].append(work)

    def end_write(self) -> None:
        node_id = self.any_node()
        if self.writing[node_id]:
            self.write_one(node_id)

    def write_one(self, node_id: str) -> None:
        work, disk = self.writing[node_id].popleft(), self.disks[node_id]
        disk.write(work)
        if (last_id := work.last_id) is not None:
            self.do(node_id, lambda raft: raft.stable_to(*last_id))

    def propose_some(self) -> None:
        node_id = self.any_node()
        payloads = [
            command(f"{self.proposed + i}" * self.chance.randint(1, 20)) for i in range(self.chance.randint(1, 4))
        ]
        try:
            self.do(node_id, lambda raft: raft.propose(payloads, self.proposed, self.now))
        except (NotLeader, Overloaded):
            return
        self.proposed += len(payloads)

    def read(self) -> None:
        node_id = self.any_node()
        self.read_floor[node_id, self.next_read] = len(self.history.committed_terms)
        request_id = self.next_read
        self.next_read += 1
        self.do(node_id, lambda raft: raft.request_read(request_id, self.now))

    def apply_some(self) -> None:
        self.do(self.any_node(), lambda raft: raft.applied_to(min(raft.commit_index, raft.log.stable_index)))

    def disturb(self) -> None:
        self.chance.choice(self.disturbances())()

    def disturbances(self) -> list[Callable[[], None]]:
        return [
            self.part,
            self.part,
            self.cut_one_way,
            self.heal,
            self.crash_one,
            self.crash_all,
            self.blip,
            self.transfer,
        ]

    def part(self) -> None:
        ids = self.chance.sample(sorted(self.disks), len(self.disks))
        split = self.chance.randint(1, len(ids) - 1)
        self.partition(ids[:split], ids[split:])

    def cut_one_way(self) -> None:
        self.cut(*self.chance.sample(sorted(self.disks), 2))

    def crash_one(self, node_id: str = "") -> None:
        """What was not synced is gone."""
        node_id = node_id or self.any_node()
        self.writing[node_id].clear()
        self.read_floor = {key: floor for key, floor in self.read_floor.items() if key[0] != node_id}
        self.restart(node_id)

    def crash_all(self) -> None:
        for _ in range(len(self.disks)):
            self.crash_one()

    def blip(self) -> None:
        """A connection is lost and made again."""
        node_id, peer = self.any_node(), self.any_node()
        self.do(node_id, lambda raft: raft.peer_reset(peer))
        self.do(node_id, lambda raft: raft.suspect_leader(peer, self.now))
        other = self.any_node()
        self.do(other, lambda raft: raft.heard_from_leader(raft.leader_id, self.now))

    def transfer(self) -> None:
        for node_id, raft in self.rafts.items():
            if raft.role is Role.LEADER:
                others = [
                    peer
                    for peer in sorted(raft.configuration.all_voters - {node_id})
                    if raft.progress[peer].may_lead and raft.progress[peer].state is not ProgressState.SNAPSHOT
                ]
                if others:
                    to = self.chance.choice(others)
                    self.do(node_id, lambda raft, to=to: raft.transfer_leadership(to, self.now))
                return

    # Before and afterwards

    def form(self) -> None:
        """Without faults, up to the first leader."""
        while not any(raft.commit_index for raft in self.rafts.values()):
            self.recover(rounds=1)

    def recover(self, rounds: int = 120) -> None:
        """No more faults: everything gets done, in order."""
        self.heal()
        for _ in range(rounds):
            self.now += 0.05
            for node_id in self.rafts:
                self.do(node_id, lambda raft: raft.tick(self.now))
                self.work_off(node_id)
            for _ in range(len(self.wire)):
                message = self.wire.pop(0)
                self.deliver(message)
                self.work_off(message.recipient)

    def work_off(self, node_id: str) -> None:
        self.save(node_id)
        while self.writing[node_id]:
            self.write_one(node_id)
        self.sync(node_id)
        raft = self.rafts[node_id]
        self.post(raft.take_replies())
        for peer in self.disks:
            if peer != node_id:
                self.post(self.next_messages(raft, peer))
        self.after(node_id)


class Moving(Chaos):
    """Its members change, too: any of them may vote, learn, or not belong to it."""

    def __init__(self, *node_ids: str, seed: int) -> None:
        super().__init__(*node_ids, seed=seed)
        self.changes = 0

    def disturbances(self) -> list[Callable[[], None]]:
        return [*super().disturbances(), *[self.change_members] * 8]

    def change_members(self) -> None:
        ids = self.chance.sample(sorted(self.disks), len(self.disks))
        split = self.chance.randint(1, len(ids))
        self.change_to(ids[:split], ids[split:])

    def change_to(self, voters: list[str], learners: list[str]) -> None:
        for node_id, raft in self.rafts.items():
            if raft.role is Role.LEADER:
                try:
                    self.do(node_id, lambda raft: self._change(raft, voters, learners))
                    self.changes += 1
                except (ConfigurationChangeRefused, NotLeader):
                    pass

    def _change(self, raft: Raft, voters: list[str], learners: list[str]) -> None:
        servers = {each: Server(f"{each}:1", self.disks[each].incarnation) for each in (*voters, *learners)}
        target = Configuration(
            raft.configuration.cluster_id, servers, tuple(sorted(voters)), (), tuple(sorted(learners))
        )
        raft.change_configuration(target, raft.configuration_index, self.now)


class Damaged(Chaos):
    """Disks of a minority lose what they had: the end of the log, the newest terms and votes, or both."""

    def __init__(self, *node_ids: str, seed: int) -> None:
        self.saved: dict[str, list[HardState]] = {node_id: [HardState()] for node_id in node_ids}
        self.repairs = self.repaired = 0
        super().__init__(*node_ids, seed=seed)
        self.steps[self.end_repair] = self.chance.choice([1.0, 10.0])
        self.disturbed_every = self.chance.choice([0.1, 0.2, 0.4])
        self.loss = self.chance.choice([0.0, 0.05, 0.2])

    def save(self, node_id: str) -> None:
        super().save(node_id)
        self.saved[node_id].append(self.disks[node_id].hard_state)

    def disturbances(self) -> list[Callable[[], None]]:
        ordinary = [self.part, self.part, self.heal, self.heal, self.cut_one_way, self.transfer, self.crash_one]
        return [*ordinary, *[self.damage_one] * 4]

    def damage_one(self) -> None:
        node_id = self.any_node()
        lost = {each for each, disk in self.disks.items() if disk.recovery_id} | {node_id}
        if 2 * len(lost) >= len(self.disks) or not self.rafts[node_id].configuration.cluster_id:
            return
        self.repairs += 1
        disk, what = self.disks[node_id], self.chance.choice(["log", "hard state", "both"])
        log_term = disk.load_log().last_term
        if what != "hard state" and disk.last_index:
            disk.truncate_from(self.chance.randint(1, disk.last_index))
        if what != "log":
            older = self.chance.choice(self.saved[node_id])
            disk.hard_state = older if older.current_term >= log_term else HardState(log_term, "")
        disk.recovery_id = self.repairs
        self.crash_one(node_id)

    def end_repair(self) -> None:
        self.try_to_end_repair(self.any_node())

    def try_to_end_repair(self, node_id: str) -> None:
        if self.rafts[node_id].recovery_finished:
            self.disks[node_id].recovery_id = 0
            self.repaired += 1
            self.do(node_id, lambda raft: raft.recovery_saved())

    def work_off(self, node_id: str) -> None:
        super().work_off(node_id)
        self.try_to_end_repair(node_id)


class Shrinking(Moving):
    """Its logs are compacted, its servers pull images of each other's databases, and some lose theirs."""

    def __init__(self, *node_ids: str, seed: int) -> None:
        # What each server pulls: the image, and how far it has got.
        self.pulling: dict[str, tuple[LogBase, int]] = {}
        self.restored = 0
        super().__init__(*node_ids, seed=seed)
        self.steps |= {self.compact_some: 4.0, self.pull_some: 12.0, self.propose_some: 8.0, self.apply_some: 8.0}

    def apply_some(self) -> None:
        self.apply(self.any_node())

    def compact_some(self) -> None:
        node_id = self.any_node()
        # A policy of its own: anything up to the floor, most often all of it.
        floor = self.rafts[node_id].compaction_floor(self.now)
        self.compact(node_id, floor - self.chance.choice([0, 0, 1, 5]))

    def compact(self, node_id: str, index: int | None = None) -> int:
        if self.writing[node_id]:
            return 0  # one writer at a time (rule 6 of the design)
        return super().compact(node_id, index)

    def pull_some(self) -> None:
        self.pull(self.any_node())

    def pull(self, node_id: str) -> None:
        """Begin to pull what is wanted, get on with it, or restore it once the log's writer has nothing else to do."""
        raft = self.rafts[node_id]
        wanted = raft.wanted_snapshot
        image, received = self.pulling.get(node_id, (None, 0))
        if received == 4:
            if raft.log.stable_index >= image.index:
                del self.pulling[node_id]
                raft.report_transfer(Transfer())
                self.disks[node_id].database = image.index
                self.do(node_id, lambda raft: raft.applied_to(image.index))
                self.restored += 1
        elif wanted is None or (image is not None and image.index < max(wanted.minimum_index, raft.last_applied + 1)):
            self.pulling.pop(node_id, None)
            raft.report_transfer(Transfer())
        elif image is None:
            self.begin_pull(node_id, wanted)
        elif received < 3:
            self.pulling[node_id] = image, received + 1
            raft.report_transfer(Transfer(image.index, received + 1, 3))
        elif raft.role is not Role.LEADER:
            self.pulling[node_id] = image, 4
            self.do(node_id, lambda raft: raft.restore_snapshot(image, self.now))

    def begin_pull(self, node_id: str, wanted: SnapshotWanted) -> None:
        sources = [wanted.peer] if wanted.peer in self.rafts else []
        sources += self.chance.sample(sorted(self.rafts), len(self.rafts))
        for source in sources:
            other = self.rafts[source]
            if source != node_id and not other.lacks_database and other.last_applied >= wanted.minimum_index:
                self.pulling[node_id] = self.image(source), 0
                return

    def lose_database(self) -> None:
        """A restart, with an older copy of the database or none."""
        node_id = self.any_node()
        self.disks[node_id].database = self.chance.choice([0, self.disks[node_id].database // 2])
        self.crash_one(node_id)

    def crash_one(self, node_id: str = "") -> None:
        node_id = node_id or self.any_node()
        self.pulling.pop(node_id, None)
        super().crash_one(node_id)

    def disturbances(self) -> list[Callable[[], None]]:
        return [*super().disturbances(), self.lose_database, *[self.isolate, self.heal] * 6]

    def isolate(self) -> None:
        """One server alone, so that the others go on and compact what it will need."""
        one = self.any_node()
        self.partition([one], [other for other in sorted(self.disks) if other != one])

    def work_off(self, node_id: str) -> None:
        super().work_off(node_id)
        self.apply(node_id)
        self.pull(node_id)


def check_recovery(cluster: Chaos) -> None:
    committed_before = len(cluster.history.committed_terms)
    cluster.recover()
    leader = cluster.leader
    assert leader.commit_index == leader.log.last_index >= committed_before
    for node_id, raft in cluster.rafts.items():
        assert last_agreement(raft.log, leader.log) == raft.log.last_index == leader.log.last_index
        assert raft.commit_index == leader.commit_index, f"{node_id} does not know what is committed"
        held = min(leader.log.last_index - max(raft.log.base.index, leader.log.base.index), leader.log.last_index)
        disks = cluster.disks
        assert held == 0 or disks[node_id].payloads()[-held:] == disks[leader.node_id].payloads()[-held:]
    cluster.do(leader.node_id, lambda raft: raft.propose([command("last")], 0, cluster.now))
    cluster.recover()
    assert {raft.commit_index for raft in cluster.rafts.values()} == {leader.log.last_index}


def run_chaos(*node_ids: str, seed: int, steps: int) -> Chaos:
    """Every fourth history begins before the cluster is formed."""
    cluster = Chaos(*node_ids, seed=seed)
    if seed % 4:
        cluster.form()
    for _ in range(steps):
        cluster.step()
    return cluster


@pytest.mark.parametrize("seed", range(40))
def test_members_that_change_keep_every_promise_and_recover(seed):
    """A change that is under way at the end is completed or given up, and another one brings everybody back."""
    cluster = Moving("a", "b", "c", "d", seed=seed)
    cluster.form()
    for _ in range(3000):
        cluster.step()
    for _ in range(20):
        cluster.recover()
        if cluster.leader.configuration.all_voters == set("abcd") and not cluster.leader.configuration.is_joint:
            break
        cluster.change_to(list("abcd"), [])
    check_recovery(cluster)
    assert cluster.leader.configuration.voters == tuple("abcd")
    assert cluster.leader.configuration.goal_voters == ()


@pytest.mark.parametrize("seed", range(14))
def test_logs_that_are_compacted_keep_every_promise_and_recover(seed):
    """Whoever was left behind, or lost its database, has it all in the end, by a snapshot where it must be."""
    cluster = Shrinking("a", "b", "c", "d", seed=seed)
    cluster.form()
    for _ in range(2500):
        cluster.step()
    for _ in range(20):
        cluster.recover()
        if cluster.leader.configuration.all_voters == set("abcd") and not cluster.leader.configuration.is_joint:
            break
        cluster.change_to(list("abcd"), [])
    check_recovery(cluster)
    assert {raft.last_applied for raft in cluster.rafts.values()} == {cluster.leader.last_applied}
    assert all(raft.wanted_snapshot is None for raft in cluster.rafts.values())


def test_compacted_histories_reach_what_they_are_meant_to_reach():
    clusters = []
    for seed in range(12):
        cluster = Shrinking("a", "b", "c", seed=seed)
        cluster.form()
        for _ in range(2500):
            cluster.step()
        clusters.append(cluster)
    assert sum(cluster.restored for cluster in clusters) > 5
    events = [event for cluster in clusters for told in cluster.events.values() for event in told]
    restored = [event for event in events if isinstance(event, SnapshotRestored)]
    assert {SnapshotOffered, SnapshotNeeded} <= {type(event) for event in events}
    assert {event.kept_log for event in restored} == {True, False}


@pytest.mark.parametrize("seed", range(16))
def test_three_servers_keep_every_promise_and_recover(seed):
    check_recovery(run_chaos("a", "b", "c", seed=seed, steps=2000))


@pytest.mark.parametrize("seed", range(100, 106))
def test_five_servers_keep_every_promise_and_recover(seed):
    check_recovery(run_chaos("a", "b", "c", "d", "e", seed=seed, steps=1200))


@pytest.mark.parametrize("seed", range(200, 210))
def test_damaged_disks_of_a_minority_lose_nothing_that_was_committed(seed):
    cluster = Damaged(*"abcde"[: 3 + 2 * (seed % 2)], seed=seed)
    cluster.form()
    for _ in range(2000):
        cluster.step()
    check_recovery(cluster)
    assert not any(disk.recovery_id for disk in cluster.disks.values())


def test_random_histories_reach_what_they_are_meant_to_reach():
    """Commits, elections, truncations, confirmed reads happen: else the tests above would say little."""
    clusters = [run_chaos("a", "b", "c", seed=seed, steps=2500) for seed in range(12)]
    kinds = {type(event).__name__ for cluster in clusters for events in cluster.events.values() for event in events}
    expected = {"BecameLeader", "SteppedDown", "LogTruncated", "VoteGranted", "TransferStarted", "ElectionLost"}
    assert expected <= kinds
    assert sum(len(cluster.history.committed_terms) for cluster in clusters) > 50
    assert sum(cluster.confirmed_reads for cluster in clusters) > 20
