"""A node whose database has diverged serves no reads, takes no proposals and does not lead; the others go on."""

import threading

import msgspec

from raftlog.consensus.state import Role
from raftlog.exceptions import NodeCannotApply
from raftlog.runtime.ports import APPLIED, NOT_PROPOSED, UNKNOWN
from tests.runtime.cluster import Cluster

REASON = "its database has diverged"


def reads(server):
    return server.read_index(10)


def test_a_leader_that_withdraws_hands_leadership_over_and_refuses():
    with Cluster(3) as cluster:
        leader = cluster.leader()
        server = cluster.servers[leader]
        cluster.propose(leader, cluster.payloads(3))
        server.withdraw(REASON, NodeCannotApply)
        assert server.state.raft.role is not Role.LEADER
        assert reads(server) == (0, REASON)
        [outcome] = cluster.propose(leader, cluster.payloads())
        assert outcome.status == NOT_PROPOSED
        assert msgspec.msgpack.decode(outcome.result) == [NodeCannotApply.__name__, REASON]
        others = [node_id for node_id in cluster.ids if node_id != leader]
        for other in others:
            assert [outcome.status for outcome in cluster.propose(other, cluster.payloads())] == [APPLIED]
            assert reads(cluster.servers[other])[0] > 0
        assert server.status()["problems"] == [REASON]
        # It goes on as a follower, so that the others may lose one of them.
        one, other = others
        cluster.wait(
            lambda: (
                cluster.servers[other].state.raft.leader_id == one or cluster.servers[one].state.raft.leader_id == other
            ),
            "one of the others leads",
        )
        now_leads = next(node for node in others if cluster.servers[node].state.raft.role is Role.LEADER)
        survivor = next(node for node in others if node != now_leads)
        cluster.network.crash(now_leads)
        assert [outcome.status for outcome in cluster.propose(survivor, cluster.payloads())] == [APPLIED]


def test_a_follower_that_withdraws_never_campaigns():
    with Cluster(3) as cluster:
        leader = cluster.leader()
        withdrawn, other = cluster.followers()
        cluster.servers[withdrawn].withdraw(REASON)
        cluster.network.crash(leader)
        cluster.wait(lambda: cluster.servers[other].state.raft.role is Role.LEADER, "the other one leads")
        assert cluster.servers[withdrawn].state.raft.election_deadline == float("inf")


def test_who_waits_is_answered():
    with Cluster(3) as cluster:
        leader = cluster.leader()
        node = cluster.servers[leader]
        for follower in cluster.followers():
            cluster.network.crash(follower)
        answered, outcomes = threading.Event(), []

        def done(found):
            outcomes.extend(found)
            answered.set()

        node.propose(cluster.payloads(), 60, done)
        cluster.wait(lambda: len(node.state.proposals) == 1, "the proposal waits")
        node.withdraw(REASON)
        assert answered.wait(10)
        assert [outcome.status for outcome in outcomes] == [UNKNOWN]  # it may be in the log already
