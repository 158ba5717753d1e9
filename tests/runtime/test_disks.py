"""Full and stalled disks under nodes with real threads, in one process."""

import random
import threading

import pytest

from raftlog.consensus import roles
from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import CLIENT_KINDS, EntryBatch, Run
from raftlog.consensus.log import RaftLog, UnstableEntries
from raftlog.consensus.messages import AppendEntriesResponse
from raftlog.consensus.raft import Raft
from raftlog.consensus.server_state import Candidacy
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.state import HardState, Role
from raftlog.exceptions import DiskFull
from raftlog.runtime import clock
from raftlog.runtime.consensus_state import ConsensusState
from raftlog.runtime.ports import APPLIED, NOT_PROPOSED
from raftlog.storage.memory import MemoryHardState, MemoryLog
from tests.runtime.cluster import ELECTION_TIMEOUT, Cluster
from tests.runtime.scripted import ScriptedMonitor


class Disk(MemoryLog):
    """A disk that is full or hangs on command."""

    def __init__(self):
        super().__init__()
        self.full = False
        self.answers = threading.Event()
        self.answers.set()

    def append(self, batch):
        if self.full:
            raise DiskFull("no room")
        super().append(batch)

    def sync(self):
        assert self.answers.wait(60)
        super().sync()


@pytest.fixture
def cluster():
    with Cluster(3, log_store=Disk) as cluster:
        leader = cluster.leader()
        cluster.propose(leader, cluster.payloads(3))
        yield cluster
        for store in cluster.log_stores.values():
            store.answers.set()


def problems(cluster, node_id):
    return " ".join(cluster.servers[node_id].status()["problems"])


def test_a_leader_whose_disk_is_full_hands_over_and_follows_once_there_is_room(cluster):
    leader = cluster.leader()
    others = [node_id for node_id in cluster.ids if node_id != leader]
    cluster.log_stores[leader].full = True
    began = clock.monotonic()
    outcomes = cluster.propose(others[0], cluster.payloads(3), timeout=30.0)
    assert {outcome.status for outcome in outcomes} == {APPLIED}, "no caller fails"
    cluster.wait(lambda: leader not in cluster.leaders(), "leadership is handed over")
    print(f"full disk: writes went on and another leads after {(clock.monotonic() - began) * 1000:.0f} ms")
    new_leader = cluster.leader(among=others)
    assert {o.status for o in cluster.propose(new_leader, cluster.payloads(5), timeout=30.0)} == {APPLIED}
    assert "the disk is full" in problems(cluster, leader)
    stable = cluster.raft(leader).log.stable_index
    cluster.log_stores[leader].full = False
    last = cluster.raft(new_leader).last_applied
    cluster.wait(lambda: cluster.raft(leader).last_applied >= last, "it takes entries again by itself")
    cluster.wait(lambda: not problems(cluster, leader), "and says that all is well")
    assert cluster.raft(leader).log.stable_index > stable
    assert not cluster.raft(leader).unfit
    payloads = [[p for p in cluster.machines[n].applied if p[0] in CLIENT_KINDS] for n in (leader, new_leader)]
    assert payloads[0] == payloads[1]


def test_followers_with_full_disks_go_on_voting_and_come_back(cluster):
    """Nothing can be committed meanwhile; the leader has no better one to hand over to and stays."""
    leader = cluster.leader()
    others = [node_id for node_id in cluster.ids if node_id != leader]
    for node_id in others:
        cluster.log_stores[node_id].full = True
    answered = []
    cluster.servers[leader].propose(cluster.payloads(), 60.0, answered.extend)
    cluster.wait(lambda: all(cluster.raft(n).unfit for n in others), "both notice")
    assert not answered
    cluster.wait(lambda: cluster.servers[leader].best_successor() == "", "nobody is asked to lead")
    assert cluster.leaders() == [leader]
    for node_id in others:
        cluster.log_stores[node_id].full = False
    cluster.wait(lambda: bool(answered), "the write is committed")
    assert answered[0].status == APPLIED


def test_a_single_voter_with_a_full_disk_says_so_to_its_callers():
    with Cluster(1, log_store=Disk) as cluster:
        cluster.leader()
        cluster.log_stores["a"].full = True
        cluster.servers["a"].propose(cluster.payloads(), 60.0, lambda outcomes: None)
        cluster.wait(lambda: cluster.raft("a").unfit, "the disk is noticed to be full")
        [outcome] = cluster.propose("a", cluster.payloads(), timeout=0.3)
        assert outcome.status == NOT_PROPOSED
        assert b"a leads, but takes nothing: its disk is full" in outcome.result
        assert cluster.leaders() == ["a"]
        cluster.log_stores["a"].full = False
        cluster.wait(lambda: not cluster.raft("a").unfit, "there is room again")
        [outcome] = cluster.propose("a", cluster.payloads())
        assert outcome.status == APPLIED


def test_a_leader_whose_disk_stalls_hands_over_and_goes_on_as_a_follower(cluster):
    leader = cluster.leader()
    others = [node_id for node_id in cluster.ids if node_id != leader]
    cluster.log_stores[leader].answers.clear()
    began = clock.monotonic()
    outcomes = cluster.propose(others[0], cluster.payloads(3), timeout=30.0)
    assert {outcome.status for outcome in outcomes} == {APPLIED}, "the others' disks are enough"
    new_leader = cluster.leader(among=others)
    took = clock.monotonic() - began - ELECTION_TIMEOUT
    print(f"stalled disk: a new leader {took * 1000:.0f} ms after the stall threshold")
    assert "the disk does not answer" in problems(cluster, leader), "the monitor is free, though the disk hangs"
    assert {o.status for o in cluster.propose(new_leader, cluster.payloads(5), timeout=30.0)} == {APPLIED}
    cluster.log_stores[leader].answers.set()
    last = cluster.raft(new_leader).last_applied
    cluster.wait(lambda: cluster.raft(leader).last_applied >= last, "it catches up")
    cluster.wait(lambda: not problems(cluster, leader), "and says that all is well")


@pytest.fixture
def leader():
    """A leader of two, without threads, whose log-sync thread has just begun to write."""
    monitor = ScriptedMonitor()
    members = Configuration("c" * 32, {n: Server("", n * 32) for n in "ab"}, ("a", "b"))
    log = RaftLog()
    log.append(EntryBatch(1, [Run(1, 1, 0)], [encode_configuration(members)]))
    log.take_unstable(1 << 20)
    log.stable_to(1, 1)
    raft = Raft(
        node_id="a",
        incarnation="a" * 32,
        settings=RaftSettings(election_timeout=1.0),
        log=log,
        hard_state=HardState(1, ""),
        rng=random.Random(1),
        now=0.0,
    )
    state = ConsensusState(
        raft,
        MemoryLog(),
        MemoryHardState(),
        monitor,
        max_waiting_proposals=10,
        election_timeout=1.0,
        on_event=lambda event: None,
    )
    with monitor:
        raft.current_term, raft.voted_for, raft.role = 2, "a", Role.CANDIDATE
        raft.candidacy = Candidacy(is_first_election=False, leadership_transfer=False)
        roles.become_leader(raft, 0.0)
        state.settle(0.0)
        assert state.begin_log_write(0.0) is not None
    return state


def test_a_slow_disk_is_not_a_stalled_one(leader):
    """A sync that is outstanding for less than an election timeout changes nothing, however often it happens."""
    with leader.monitor:
        assert leader.step_down_deadline <= leader.stall_deadline == 1.0
        leader.settle(0.99)
        assert not leader.disk_stalled
        assert not leader.raft.unfit
        leader.settle(1.0)
        assert leader.disk_stalled == leader.raft.unfit == "the disk does not answer: a write has taken over 1 s"
        assert leader.stall_deadline == float("inf")
        assert leader.step_down_deadline <= 1.0, "the step-down timer hands leadership over"


def test_while_the_disk_stalls_nothing_may_need_it(leader):
    """A newer term would be synced inside the monitor; what does not change it goes on."""
    answer = AppendEntriesResponse(2, "b", "a", True, 1, 0, 0, 1, "b" * 32, 1, 0)
    newer = AppendEntriesResponse(3, "b", "a", False, 1, 0, 0, 1, "b" * 32, 1, 0)
    with leader.monitor:
        assert not leader.must_wait([answer, newer])
        leader.settle(1.0)
        assert not leader.must_wait([answer])
        assert leader.must_wait([answer, newer])
        leader.end_log_write(UnstableEntries(0, 0, EntryBatch(2, [], [])), succeeded=True)
        assert not leader.must_wait([newer])
        assert not leader.raft.unfit
