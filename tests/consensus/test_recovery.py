"""A server whose disk lost what it had promised neither votes nor counts until it is there again (FAST '18)."""

from __future__ import annotations

import random

import pytest

from raftlog.consensus.messages import AppendEntriesResponse, RequestVoteResponse, TimeoutNow
from raftlog.consensus.raft import Raft
from raftlog.consensus.state import HardState, Role
from tests.consensus.cluster import Cluster


def damage(cluster: Cluster, node_id: str, *, keep: int, recovery_id: int = 7, term: int | None = None) -> Raft:
    """The server restarts from a folder that was cut after `keep` and, with `term`, has lost its hard state."""
    disk = cluster.disks[node_id]
    disk.truncate_from(keep + 1)
    if term is not None:
        disk.hard_state = HardState(term, "")
    raft = cluster.rafts[node_id] = Raft(
        node_id=node_id,
        incarnation=disk.incarnation,
        settings=cluster.settings,
        log=disk.load_log(),
        hard_state=disk.hard_state,
        rng=random.Random(3),
        now=cluster.now,
        recovery_id=recovery_id,
    )
    for other in cluster.rafts.values():
        other.peer_reset(node_id)
    return raft


@pytest.fixture
def cluster():
    """a leads b and c; all have the same six entries."""
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    cluster.propose("a", "one", "two", "three", "four")
    cluster.run(0.5)
    assert {raft.commit_index for raft in cluster.rafts.values()} == {6}
    return cluster


def finish(cluster, node_id):
    cluster.do(node_id, lambda raft: raft.recovery_saved())


def test_it_is_over_once_the_barrier_of_the_leader_is_there(cluster):
    raft = damage(cluster, "b", keep=2)
    cluster.run(0.5)
    assert raft.recovery_finished
    assert raft.recovery_index == 7  # a no-op after all that the leader had
    assert cluster.disks["b"].payloads() == cluster.disks["a"].payloads()
    assert raft.recovery_id == 7  # not before the disk says so
    finish(cluster, "b")
    cluster.run(0.5)
    assert cluster.leader.progress["b"].recovery_id == 0
    cluster.crash("c")
    cluster.propose("a", "five")
    cluster.run(0.5)
    assert raft.commit_index == 8  # it counts again


def test_it_counts_for_nothing_meanwhile(cluster):
    """Two of three are up and one of them recovers: no commit, and no leader for longer than an election timeout."""
    cluster.crash("c")
    raft = damage(cluster, "b", keep=2)
    cluster.propose("a", "five")
    cluster.run(0.3)
    assert cluster.disks["b"].payloads() == cluster.disks["a"].payloads()
    assert cluster.rafts["a"].commit_index == 6
    assert not raft.recovery_finished
    cluster.run(3)
    assert cluster.rafts["a"].role is not Role.LEADER
    cluster.restart("c")
    cluster.run(3)
    assert raft.recovery_finished
    assert cluster.leader.commit_index >= 8


def test_it_does_not_vote_or_stand_for_election(cluster):
    """The only one who has the last entries is down: nobody may be elected without them."""
    cluster.partition(["a", "b"], ["c"])
    cluster.propose("a", "five")
    cluster.run(0.3)
    assert cluster.rafts["a"].commit_index == 7  # by a and b
    cluster.crash("a")
    damage(cluster, "b", keep=6)
    cluster.heal()
    cluster.run(5)
    assert {raft.role for raft in cluster.rafts.values()} <= {Role.FOLLOWER, Role.PRE_CANDIDATE}
    refusals = [m for m in cluster.sent if isinstance(m, RequestVoteResponse) and m.sender == "b" and m.reason]
    assert any("had lost what it promised" in refusal.reason for refusal in refusals)
    cluster.do("b", lambda raft: raft.step(TimeoutNow(raft.current_term, "c", "b"), cluster.now))
    assert cluster.rafts["b"].role is Role.FOLLOWER
    cluster.restart("a")
    cluster.run(5)
    assert cluster.rafts["b"].recovery_finished
    assert cluster.leader.log.term_at(7) == 2  # "five" has survived


def test_a_forgotten_vote_does_no_harm():
    """b voted for c in term 3, of which c's election is not over, and forgets it. It follows a in term 2 again, and
    counts only once a majority without it has an entry that c cannot have."""
    cluster = Cluster("a", "b", "c", "d", "e", formed=True)
    cluster.elect("a")
    cluster.run(0.3)
    cluster.partition(["a", "d", "e"], ["b"], ["c"])
    cluster.cuts -= {("c", "b")}
    cluster.rafts["b"].suspect_leader("a", cluster.now)
    cluster.rafts["c"].suspect_leader("a", cluster.now)
    cluster.do("c", lambda raft: raft.step(TimeoutNow(2, "a", "c"), cluster.now))
    cluster.settle()
    assert cluster.disks["b"].hard_state == HardState(3, "c")
    raft = damage(cluster, "b", keep=2, term=2)
    cluster.partition(["a", "b"], ["d", "e"], ["c"])
    cluster.propose("a", "five")
    cluster.run(0.2)
    assert raft.log.last_index >= 3
    assert cluster.rafts["a"].commit_index == 2
    cluster.partition(["a", "b", "d", "e"], ["c"])
    cluster.run(0.3)
    assert raft.recovery_finished
    finish(cluster, "b")
    # c's request reaches d and e only now: they have the barrier, c has not.
    cluster.crash("a")
    cluster.heal()
    cluster.run(5)
    assert cluster.leader.node_id != "c"
    assert cluster.leader.commit_index >= 4


def test_answers_from_before_the_repair_are_told_by_their_round(cluster):
    old = next(m for m in reversed(cluster.sent) if isinstance(m, AppendEntriesResponse) and m.sender == "b")
    assert old.match_index == 6
    damage(cluster, "b", keep=2)
    cluster.cut("a", "b")
    heard = AppendEntriesResponse(2, "b", "a", False, 6, 3, 0, old.round, "folder-b", 2, 0, recovery_id=7)
    cluster.deliver_anyway(heard)
    progress = cluster.rafts["a"].progress["b"]
    assert (progress.recovery_id, progress.match_index, progress.next_index) == (7, 0, 3)
    cluster.deliver_anyway(old)
    assert (progress.recovery_id, progress.match_index) == (7, 0)


def test_another_repair_of_the_same_server_needs_another_barrier(cluster):
    raft = damage(cluster, "b", keep=2)
    cluster.run(0.5)
    assert raft.recovery_finished
    raft = damage(cluster, "b", keep=3, recovery_id=8)  # its first recovery ended, and the leader was not told
    cluster.run(0.5)
    assert raft.recovery_finished
    assert raft.recovery_index == 8


def test_a_barrier_of_an_older_leader_ends_nothing(cluster):
    cluster.cut("b", "c")
    raft = damage(cluster, "b", keep=2)
    cluster.partition(["a", "b"], ["c"])
    cluster.run(0.2)
    assert raft.recovery_index == 7
    assert raft.log.last_index == 7
    cluster.partition(["c"], ["b"], ["a"])
    cluster.run(2)
    cluster.heal()
    cluster.run(3)
    assert raft.recovery_finished
    assert raft.recovery_term == cluster.leader.current_term > 2


def test_a_learner_that_recovers_is_not_promoted():
    cluster = Cluster("a", "b", "c", learners=["d"], formed=True)
    cluster.elect("a")
    cluster.run(0.3)
    raft = damage(cluster, "d", keep=1)
    current = cluster.rafts["a"].configuration
    target = current.with_server("d", current.servers["d"], voter=True)
    cluster.do("a", lambda leader: leader.change_configuration(target, leader.configuration_index, cluster.now))
    cluster.run(1)
    assert raft.recovery_finished
    assert not cluster.rafts["a"].configuration.is_voter("d")
    finish(cluster, "d")
    cluster.run(1)
    assert cluster.rafts["a"].configuration.is_voter("d")


def test_only_a_recovery_that_is_finished_ends(cluster):
    raft = damage(cluster, "b", keep=2)
    with pytest.raises(ValueError, match="has not recovered"):
        raft.recovery_saved()
