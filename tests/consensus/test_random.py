"""Random histories: messages lost, doubled and reordered, partitions, slow disks, crashes.

A failing seed replays with `pytest "tests/consensus/test_random.py::test_…[seed]"`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.log import FetchEntries, UnstableEntries
from raftlog.consensus.messages import RaftMessage
from raftlog.consensus.raft import Raft
from raftlog.consensus.settings import RaftSettings
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
            self.apply: 3.0,
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
        while (message := raft.next_message(peer, self.now, urgent=urgent)) is not None:
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
        if work.truncate_from:
            disk.truncate_from(work.truncate_from)
        if len(work.entries):
            disk.append(work.entries)
            self.do(node_id, lambda raft: raft.stable_to(work.entries.last_index, work.entries.last_term))

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

    def apply(self) -> None:
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

    def crash_one(self) -> None:
        """What was not synced is gone."""
        node_id = self.any_node()
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
                others = sorted(raft.configuration.all_voters - {node_id})
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


def check_recovery(cluster: Chaos) -> None:
    committed_before = len(cluster.history.committed_terms)
    cluster.recover()
    leader = cluster.leader
    assert leader.commit_index == leader.log.last_index >= committed_before
    for node_id, raft in cluster.rafts.items():
        assert raft.log.term_runs() == leader.log.term_runs()
        assert raft.commit_index == leader.commit_index, f"{node_id} does not know what is committed"
        assert cluster.disks[node_id].payloads() == cluster.disks[leader.node_id].payloads()
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


@pytest.mark.parametrize("seed", range(16))
def test_three_servers_keep_every_promise_and_recover(seed):
    check_recovery(run_chaos("a", "b", "c", seed=seed, steps=2000))


@pytest.mark.parametrize("seed", range(100, 106))
def test_five_servers_keep_every_promise_and_recover(seed):
    check_recovery(run_chaos("a", "b", "c", "d", "e", seed=seed, steps=1200))


def test_random_histories_reach_what_they_are_meant_to_reach():
    """Commits, elections, truncations, confirmed reads happen: else the tests above would say little."""
    clusters = [run_chaos("a", "b", "c", seed=seed, steps=2500) for seed in range(12)]
    kinds = {type(event).__name__ for cluster in clusters for events in cluster.events.values() for event in events}
    expected = {"BecameLeader", "SteppedDown", "LogTruncated", "VoteGranted", "TransferStarted", "ElectionLost"}
    assert expected <= kinds
    assert sum(len(cluster.history.committed_terms) for cluster in clusters) > 50
    assert sum(cluster.confirmed_reads for cluster in clusters) > 20
