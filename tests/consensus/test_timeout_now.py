"""Leadership transfer (dissertation §3.10)."""

import pytest

from raftlog.consensus.events import TransferAbandoned
from raftlog.consensus.messages import RequestVote, TimeoutNow
from raftlog.consensus.state import Role
from raftlog.exceptions import NotLeader, Overloaded
from tests.consensus.cluster import Cluster


@pytest.fixture
def three():
    cluster = Cluster("a", "b", "c", learners=["d"], formed=True)
    cluster.elect("a")
    cluster.sent.clear()
    return cluster


def transfer(cluster, to):
    cluster.do("a", lambda raft: raft.transfer_leadership(to, cluster.now))


def test_leadership_moves_in_no_time(three):
    transfer(three, "b")
    three.settle()
    assert (three.leader.node_id, three.leader.current_term) == ("b", 3)
    assert three.rafts["a"].role is Role.FOLLOWER
    votes = [each for each in three.sent if isinstance(each, RequestVote)]
    assert all(each.leadership_transfer and not each.pre_vote for each in votes)


def test_the_target_first_gets_every_entry(three):
    three.cut("a", "b")
    three.propose("a", "one")
    three.settle()
    transfer(three, "b")
    assert not [each for each in three.sent if isinstance(each, TimeoutNow)]
    three.heal()
    three.run(0.2)
    assert three.leader.node_id == "b"
    assert three.leader.log.term_at(3) == 2


def test_proposals_wait_meanwhile(three):
    three.cut("a", "b")
    transfer(three, "b")
    with pytest.raises(Overloaded, match="leadership is being transferred to b") as caught:
        three.propose("a", "one")
    assert caught.value.retry_after == 0.5


def test_a_transfer_that_does_not_complete_is_given_up(three):
    """ "If leadership transfer does not complete after about an election timeout, the prior leader aborts"."""
    three.cut("a", "b")
    transfer(three, "b")
    three.run(0.55)
    assert three.leader.node_id == "a"
    assert any(isinstance(event, TransferAbandoned) for event in three.events["a"])
    three.propose("a", "one")


def test_timeout_now_is_sent_once(three):
    three.cut("b", "a")
    transfer(three, "b")
    three.run(0.3)
    assert len([each for each in three.sent if isinstance(each, TimeoutNow)]) == 1


@pytest.mark.parametrize("to", ["a", "d", "x"])
def test_only_another_voter_can_take_over(three, to):
    with pytest.raises(ValueError, match=r"the other voters are \['b', 'c'\]"):
        transfer(three, to)


def test_only_the_leader_hands_over(three):
    with pytest.raises(NotLeader):
        three.rafts["b"].transfer_leadership("c", three.now)


@pytest.mark.parametrize(("term", "sender"), [(1, "a"), (2, "c")])
def test_timeout_now_counts_only_from_the_leader_of_the_term(three, term, sender):
    three.deliver(TimeoutNow(term, sender, "b"))
    assert three.rafts["b"].role is Role.FOLLOWER
