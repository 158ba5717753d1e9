"""Whole elections and replications through the public methods of Raft."""

from raftlog.consensus.state import Role
from tests.consensus.cluster import Cluster, command


def test_three_empty_servers_form_a_cluster_and_commit():
    cluster = Cluster("a", "b", "c")
    cluster.campaign("a")
    leader = cluster.leader
    assert (leader.node_id, leader.current_term, leader.commit_index) == ("a", 1, 1)
    assert leader.configuration.cluster_id == "c" * 32
    assert leader.configuration.servers["b"].incarnation == "folder-b"
    entry = cluster.propose("a", "one", "two")
    assert entry == (2, 1)
    cluster.settle()
    assert [raft.commit_index for raft in cluster.rafts.values()] == [3, 3, 3]
    assert cluster.disks["c"].payloads()[1:] == [command("one"), command("two")]


def test_a_single_voter_leads_and_commits_at_once():
    cluster = Cluster("a")
    cluster.do("a", lambda raft: raft.tick(cluster.now))
    assert cluster.leader.commit_index == 1
    cluster.propose("a", "one")
    assert cluster.leader.commit_index == 2
    assert cluster.leader.quorum_deadline == float("inf")


def test_a_follower_takes_over_when_the_leader_falls_silent():
    cluster = Cluster("a", "b", "c")
    cluster.campaign("a")
    cluster.crash("a")
    cluster.run(2.5)
    assert cluster.leader.current_term >= 2
    assert cluster.leader.role is Role.LEADER
    cluster.propose(cluster.leader.node_id, "later")
    cluster.settle()
    assert cluster.leader.commit_index == 3
    cluster.restart("a")
    cluster.run(0.5)
    assert cluster.rafts["a"].commit_index == 3
