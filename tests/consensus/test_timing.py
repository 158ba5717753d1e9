import random

import pytest

from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.state import Role
from tests.consensus.cluster import Cluster


@pytest.fixture
def three():
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    return cluster


def test_election_timeouts_are_random_between_one_and_two():
    """§5.2."""
    timeouts = []
    for seed in range(50):
        cluster = Cluster("a", "b", "c", seed=seed, formed=True)
        timeouts += [raft.election_deadline - cluster.now for raft in cluster.rafts.values()]
    assert 0.5 <= min(timeouts) < 0.55
    assert 0.95 < max(timeouts) < 1.0


def test_a_frame_of_the_leader_counts_from_its_arrival(three):
    """Rule 6 of the design: a slow disk in between is no lost leader."""
    raft = three.rafts["b"]
    arrived_at = three.now + 0.4
    raft.heard_from_leader("a", arrived_at)
    assert arrived_at + 0.5 <= raft.election_deadline < arrived_at + 1.0
    deadline = raft.election_deadline
    raft.heard_from_leader("a", arrived_at - 0.1)
    raft.heard_from_leader("c", arrived_at + 0.1)
    assert raft.election_deadline == deadline


def test_an_older_frame_does_not_clear_a_suspicion(three):
    raft = three.rafts["b"]
    three.now += 0.2
    raft.suspect_leader("a", three.now)
    deadline = raft.election_deadline
    assert deadline <= three.now + 0.025
    raft.heard_from_leader("a", three.now - 0.1)
    assert raft.election_deadline == deadline
    raft.heard_from_leader("a", three.now + 0.06)
    assert raft.election_deadline >= three.now + 0.5


def test_only_the_present_leader_is_suspected(three):
    deadline = three.rafts["b"].election_deadline
    three.rafts["b"].suspect_leader("c", three.now)
    assert three.rafts["b"].election_deadline == deadline


def test_the_quorum_deadline_counts_from_when_the_answered_round_began(three):
    raft = three.rafts["a"]
    three.partition(["a"], ["b", "c"])
    three.now += 0.1
    heartbeat = raft.next_message("b", three.now)
    sent_at = three.now
    three.now += 0.3
    three.heal()
    three.deliver(heartbeat)
    (answer,) = three.wire
    three.deliver(answer)
    assert raft.quorum_deadline == pytest.approx(sent_at + 0.5)


def test_a_leader_has_no_election_deadline_and_a_follower_no_quorum_deadline(three):
    assert three.rafts["a"].election_deadline == float("inf")
    assert three.rafts["b"].quorum_deadline == float("inf")
    assert three.rafts["b"].next_deadline("c") == float("inf")


def test_when_next_deadline_comes_next_message_has_something(three):
    """Else a peer's thread would spin."""
    chance = random.Random(3)
    for _ in range(200):
        node_id = chance.choice("abc")
        raft = three.rafts[node_id]
        for peer in "abc":
            if peer != node_id and raft.next_deadline(peer) < float("inf"):
                three.now = max(three.now, raft.next_deadline(peer))
                message = raft.next_message(peer, three.now)
                assert message is not None
                three.post([message])
        if chance.random() < 0.8:
            three.settle()
        three.wire.clear()
        three.do(node_id, lambda raft: raft.tick(three.now))
    assert any(raft.role is Role.LEADER for raft in three.rafts.values())


def test_rounds_that_nobody_answers_are_forgotten_in_time():
    """A single voter reads by rounds of its own, and need not hear of its learners."""
    cluster = Cluster("a", learners=["b"], formed=True)
    cluster.run(1.0)
    cluster.partition(["a"], ["b"])
    leadership = cluster.rafts["a"].leadership
    for request_id in range(500):
        cluster.do("a", lambda raft, request_id=request_id: raft.request_read(request_id, cluster.now))
        cluster.run(0.01)
    assert len(cluster.reads["a"]) == 500
    assert 0 < len(leadership.rounds) < 150
    assert leadership.round in leadership.rounds


@pytest.mark.parametrize(
    "arguments",
    [{"heartbeat_interval": 0.3}, {"heartbeat_interval": 0}, {"max_append_bytes": 0}, {"max_inflight_messages": 0}],
)
def test_settings_that_cannot_work_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        RaftSettings(**arguments)
