"""ReadIndex (dissertation §6.4)."""

import pytest

from raftlog.consensus.messages import AppendEntries, ReadIndexRequest, ReadIndexResponse
from raftlog.consensus.state import Role
from tests.consensus.cluster import Cluster


@pytest.fixture
def three():
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    cluster.propose("a", "one")
    cluster.settle()
    cluster.sent.clear()
    return cluster


def read(cluster, node_id, request_id):
    cluster.do(node_id, lambda raft: raft.request_read(request_id, cluster.now))


def test_a_read_waits_for_a_majority_and_gets_the_commit_index(three):
    read(three, "a", 1)
    assert three.reads["a"] == []
    three.settle()
    assert three.reads["a"] == [(1, 3)]


def test_a_read_waits_for_a_round_that_began_after_it(three):
    """Answers to what was sent before prove nothing."""
    three.propose("a", "two")
    answers = []
    for message in [each for each in three.sent if isinstance(each, AppendEntries) and each.recipient == "b"]:
        three.rafts["b"].step(message, three.now)
        work = three.rafts["b"].take_unstable(three.now)
        three.disks["b"].append(work.entries)
        three.rafts["b"].stable_to(work.entries.last_index, work.entries.last_term)
        answers += three.rafts["b"].take_replies()
    three.wire.clear()
    read(three, "a", 1)
    for answer in answers:
        three.do("a", lambda raft, answer=answer: raft.step(answer, three.now))
    assert three.rafts["a"].commit_index == 4
    assert three.reads["a"] == []
    three.settle()
    assert three.reads["a"] == [(1, 3)]


def test_reads_are_batched_in_rounds(three):
    for request_id in range(1, 51):
        read(three, "a", request_id)
    three.settle()
    assert [request_id for request_id, _ in three.reads["a"]] == list(range(1, 51))
    assert len([each for each in three.sent if isinstance(each, AppendEntries) and each.recipient == "b"]) <= 2


def test_a_follower_asks_the_leader_once_for_all_its_reads(three):
    three.cut("b", "a")
    three.rafts["b"].request_read(1, three.now)
    three.rafts["b"].request_read(2, three.now)
    three.heal()
    three.do("b", lambda raft: None)
    three.settle()
    assert three.reads["b"] == [(1, 3), (2, 3)]
    assert len([each for each in three.sent if isinstance(each, ReadIndexRequest)]) == 1


def test_a_read_without_a_leader_is_refused_at_once():
    cluster = Cluster("a", "b", "c", formed=True)
    read(cluster, "a", 1)
    assert cluster.reads["a"] == [(1, 0)]


def test_reads_are_refused_when_leadership_is_lost(three):
    three.partition(["a"], ["b", "c"])
    read(three, "a", 1)
    three.deliver_anyway(ReadIndexRequest(2, "b", "a", 77))
    three.run(0.6)
    assert three.rafts["a"].role is not Role.LEADER
    assert three.reads["a"] == [(1, 0)]
    assert [(each.request_id, each.read_index) for each in three.sent if isinstance(each, ReadIndexResponse)] == [
        (77, 0)
    ]


def test_a_followers_reads_are_refused_when_the_leader_changes(three):
    three.cut("b", "a")
    read(three, "b", 1)
    three.heal()
    three.elect("c")
    assert three.reads["b"] == [(1, 0)]


def test_a_followers_reads_are_refused_when_its_connection_to_the_leader_is_lost(three):
    three.cut("b", "a")
    read(three, "b", 1)
    three.do("b", lambda raft: raft.peer_reset("a"))
    assert three.reads["b"] == [(1, 0)]


def test_an_answer_meant_for_the_process_before_a_restart_matches_nothing(three):
    three.cut("a", "b")
    read(three, "b", 1)
    (request,) = [each for each in three.sent if isinstance(each, ReadIndexRequest)]
    three.heal()
    three.restart("b")
    three.run(0.2)
    three.cut("a", "b")
    read(three, "b", 2)
    three.deliver_anyway(ReadIndexResponse(2, "a", "b", request.request_id, 1))
    assert three.reads["b"] == []


def test_a_new_leader_answers_only_once_an_entry_of_its_term_is_committed():
    """§6.4, step 1: else it may not know what is committed."""
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.full_disks |= {"a", "b", "c"}
    cluster.elect("a")
    read(cluster, "a", 1)
    cluster.settle()
    assert cluster.reads["a"] == []
    cluster.full_disks.clear()
    for node_id in "abc":
        cluster.do(node_id, lambda raft: None)
    cluster.settle()
    assert cluster.reads["a"] == [(1, 2)]


def test_a_new_leader_does_not_answer_with_what_it_knew_to_be_committed_before(three):
    """c holds entry 4, which is committed, but has not heard so when it takes over."""
    three.cut("a", "b")
    three.propose("a", "two")
    three.deliver(three.wire.pop(0))
    three.cut("a", "c")
    three.settle()
    assert (three.rafts["a"].commit_index, three.rafts["c"].commit_index) == (4, 3)
    three.crash("a")
    three.full_disks |= {"b", "c"}
    three.elect("c")
    read(three, "c", 1)
    three.settle()
    assert three.reads["c"] == []
    three.full_disks.clear()
    for node_id in "bc":
        three.do(node_id, lambda raft: None)
    three.settle()
    assert three.reads["c"] == [(1, 5)]


def test_a_single_voter_answers_at_once():
    cluster = Cluster("a", formed=True)
    cluster.do("a", lambda raft: raft.tick(cluster.now))
    read(cluster, "a", 1)
    read(cluster, "a", 2)
    assert cluster.reads["a"] == [(1, 2), (2, 2)]


def test_who_does_not_lead_answers_with_a_refusal(three):
    three.deliver(ReadIndexRequest(2, "c", "b", 5))
    (found,) = [each for each in three.sent if isinstance(each, ReadIndexResponse)]
    assert (found.request_id, found.read_index) == (5, 0)


def test_the_next_round_of_reads_shows_in_read_round(three):
    raft = three.rafts["a"]
    read(three, "a", 1)
    first = raft.read_round
    read(three, "a", 2)
    assert raft.read_round == first, "a round is under way"
    three.settle()
    assert raft.read_round == first + 1
    assert three.reads["a"] == [(1, 3), (2, 3)]
    assert three.rafts["b"].read_round == 0


def test_reads_survive_lost_rounds(three):
    three.cut("a", "b")
    three.cut("a", "c")
    read(three, "a", 1)
    three.settle()
    three.heal()
    three.propose("a", "two")
    three.run(0.15)
    assert [request_id for request_id, _ in three.reads["a"]] == [1]
