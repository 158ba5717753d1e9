"""Elections: pre-vote, a live leader's protection, suspicion, incarnations, the first election of a cluster."""

import pytest

from raftlog.consensus.events import ElectionLost, IncarnationMismatch, SteppedDown
from raftlog.consensus.messages import RequestVote, RequestVoteResponse
from raftlog.consensus.state import HardState, Role
from tests.consensus.cluster import Cluster, members


@pytest.fixture
def three():
    """a leads b and c."""
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    return cluster


def request(recipient, *, sender="c", term=9, pre_vote=True, transfer=False, incarnation=None, last_log=(9, 9)):
    recorded = f"folder-{recipient}" if incarnation is None else incarnation
    return RequestVote(term, sender, recipient, *last_log, pre_vote, transfer, recorded, f"folder-{sender}")


def answer(cluster, message):
    cluster.sent.clear()
    cluster.do(message.recipient, lambda raft: raft.step(message, cluster.now))
    (found,) = [each for each in cluster.sent if isinstance(each, RequestVoteResponse)]
    return found


# Pre-vote (dissertation §9.6)


def test_a_pre_vote_changes_neither_term_nor_vote(three):
    three.now += 0.6
    hard_state = three.disks["b"].hard_state
    found = answer(three, request("b"))
    assert (found.vote_granted, found.term) == (True, 9)
    assert three.disks["b"].hard_state == hard_state
    assert three.rafts["b"].current_term == 2


def test_a_server_cut_off_does_not_raise_its_term(three):
    three.partition(["a", "b"], ["c"])
    three.run(10)
    assert three.rafts["c"].current_term == 2
    three.heal()
    three.run(1)
    assert three.leader.node_id == "a"
    assert three.leader.current_term == 2
    assert three.rafts["c"].leader_id == "a"


@pytest.mark.parametrize("pre_vote", [True, False])
def test_votes_are_refused_while_the_leader_is_heard(three, pre_vote):
    """Dissertation §4.2.3: the term is not adopted either."""
    found = answer(three, request("b", pre_vote=pre_vote))
    assert (found.vote_granted, found.term, found.reason) == (False, 2, "hears the leader a of term 2")
    assert three.rafts["b"].current_term == 2
    assert not answer(three, request("a", pre_vote=pre_vote)).vote_granted, "a leader hears itself"
    three.now += 0.6
    assert answer(three, request("b", pre_vote=pre_vote)).vote_granted


def test_a_transfer_overrides_the_protection_of_a_live_leader(three):
    assert answer(three, request("b", pre_vote=False, transfer=True)).vote_granted


def test_a_server_that_hears_the_leader_neither_disturbs_it_nor_helps_who_does_not(three):
    """Partial partition: c loses only its link to the leader."""
    three.cut("a", "c")
    three.cut("c", "a")
    three.run(5)
    assert three.leader.node_id == "a"
    assert three.leader.current_term == 2
    assert three.rafts["b"].leader_id == "a"


def test_a_leader_that_is_heard_but_hears_nobody_gives_way(three):
    """One-way partition: its heartbeats hold the others back only until check-quorum ends its leadership."""
    three.cut("b", "a")
    three.cut("c", "a")
    three.run(3)
    assert three.leader.node_id in ("b", "c")
    assert three.rafts["a"].role is not Role.LEADER
    term = three.leader.current_term
    three.run(5)
    assert three.leader.current_term == term, "it does not disturb the new one"


def test_a_leader_in_the_middle_of_a_chain_stays(three):
    """b and c reach only the leader a."""
    three.cut("b", "c")
    three.cut("c", "b")
    three.run(3)
    assert (three.leader.node_id, three.leader.current_term) == ("a", 2)
    three.propose("a", "one")
    three.settle()
    assert three.rafts["c"].commit_index == 3


# Suspicion


def test_a_lost_connection_to_the_leader_brings_an_election_within_milliseconds(three):
    three.crash("a")
    for node_id in "bc":
        three.do(node_id, lambda raft: raft.suspect_leader("a", three.now))
    three.run(0.2, step=0.001)
    assert three.leader.current_term > 2


def test_a_split_vote_is_tried_again_though_the_dead_leader_never_answers(three):
    three.crash("a")
    for node_id in "bc":
        three.do(node_id, lambda raft: raft.suspect_leader("a", three.now))
    three.run(0.03, step=0.03)  # both begin at the same moment
    assert all(raft.role is Role.CANDIDATE for raft in three.rafts.values())
    three.run(0.3, step=0.001)
    assert three.leader.current_term > 3


def test_a_false_suspicion_changes_nothing(three):
    """The leader lives: its other followers refuse, its next heartbeat clears the suspicion."""
    three.do("c", lambda raft: raft.suspect_leader("a", three.now))
    three.run(1)
    assert any(isinstance(event, ElectionLost) and event.pre_vote for event in three.events["c"])
    assert (three.leader.node_id, three.leader.current_term, three.rafts["c"].leader_id) == ("a", 2, "a")


def test_left_overs_of_the_lost_connection_do_not_clear_a_suspicion(three):
    three.crash("a")
    heartbeat = next(each for each in reversed(three.sent) if each.sender == "a" and each.recipient == "b")
    three.do("b", lambda raft: raft.suspect_leader("a", three.now))
    three.now += 0.002
    three.do("b", lambda raft: raft.step(heartbeat, three.now))
    assert three.rafts["b"].election_deadline < three.now + 0.1
    assert answer(three, request("b")).vote_granted


# Incarnations (rule 4 of the design)


def test_a_voter_refuses_who_means_another_incarnation(three):
    three.now += 0.6
    found = answer(three, request("b", pre_vote=False, incarnation="an older folder"))
    assert (found.vote_granted, found.term) == (False, 2)
    assert "asked incarnation an older folder, this is folder-b" in found.reason


def test_votes_of_another_incarnation_never_count():
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.partition(["a"], ["b", "c"])
    raft = cluster.campaign("a")
    for voter in "bc":
        cluster.deliver_anyway(RequestVoteResponse(2, voter, "a", True, True, "emptied", False, ""))
        cluster.deliver_anyway(RequestVoteResponse(7, voter, "a", False, True, "emptied", True, "no"))
    assert (raft.role, raft.current_term) == (Role.PRE_CANDIDATE, 1)
    mismatches = [event for event in cluster.events["a"] if isinstance(event, IncarnationMismatch)]
    assert [event.peer for event in mismatches] == ["b", "c"], "told once for each"


def test_an_emptied_member_neither_votes_nor_campaigns_again(three):
    three.crash("a")
    three.disks["c"].batches.clear()
    three.disks["c"].hard_state = HardState()
    three.disks["c"].incarnation = "a new folder"
    three.restart("c")
    three.run(5)
    assert all(raft.role is not Role.LEADER for raft in three.rafts.values())
    assert three.rafts["c"].log.is_empty


def test_an_empty_server_that_the_configuration_records_may_vote(three):
    """Its hard state is intact: it lost an unsynced entry 1, or never got it."""
    three.crash("a")
    three.disks["c"].batches.clear()
    three.restart("c")
    three.now += 1
    assert three.campaign("b").role is Role.LEADER
    assert three.rafts["c"].log.last_index == three.rafts["b"].log.last_index


# The first election (rule 4 of the design)


def test_the_first_election_needs_every_first_member():
    cluster = Cluster("a", "b", "c")
    cluster.crash("c")
    cluster.run(5)
    assert all(raft.log.is_empty and raft.current_term == 0 for raft in cluster.rafts.values())
    cluster.restart("c")
    cluster.run(3)
    configuration = cluster.leader.configuration
    assert {server.incarnation for server in configuration.servers.values()} == {"folder-a", "folder-b", "folder-c"}
    assert all(raft.configuration == configuration for raft in cluster.rafts.values())


def test_a_vote_in_the_first_election_counts_only_with_an_empty_log():
    cluster = Cluster("a", "b", "c")
    cluster.partition(["a"], ["b", "c"])
    raft = cluster.campaign("a")
    cluster.deliver_anyway(RequestVoteResponse(1, "b", "a", True, True, "folder-b", True, ""))
    cluster.deliver_anyway(RequestVoteResponse(1, "c", "a", True, True, "folder-c", False, ""))
    assert raft.role is Role.FOLLOWER
    assert any(isinstance(event, ElectionLost) for event in cluster.events["a"])


def test_a_formed_server_refuses_a_first_election(three):
    three.now += 0.6
    found = answer(three, request("b", incarnation="", last_log=(0, 0)))
    assert not found.vote_granted
    assert not found.log_is_empty
    assert "formed already" in found.reason


def test_a_first_election_is_among_members_of_one_cluster():
    cluster = Cluster("a", "b")
    found = answer(cluster, request("b", sender="stranger", term=1, incarnation="", last_log=(0, 0)))
    assert not found.vote_granted
    assert "waits to be taken in" in found.reason


def test_an_empty_server_without_first_members_waits():
    cluster = Cluster("a", "b", learners=["c"])
    assert cluster.rafts["c"].election_deadline == float("inf")
    cluster.run(3)
    assert cluster.rafts["c"].role is Role.FOLLOWER


def test_a_lost_entry_1_leaves_one_cluster_possible():
    """The winner of the first election crashed before entry 1 was durable; who has it is the only one that can lead."""
    cluster = Cluster("a", "b", "c")
    cluster.full_disks.add("a")
    cluster.campaign("a")
    cluster_id = cluster.leader.configuration.cluster_id
    cluster.crash("a")
    cluster.full_disks.clear()
    cluster.restart("a")
    assert cluster.rafts["a"].log.is_empty
    cluster.run(4)
    assert cluster.leader.configuration.cluster_id == cluster_id
    assert all(raft.commit_index == cluster.leader.commit_index for raft in cluster.rafts.values())


# Candidates


def test_a_candidate_asks_again_who_did_not_answer():
    """§5.1: "Servers retry RPCs if they do not receive a response in a timely manner"."""
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.partition(["a"], ["b", "c"])
    cluster.campaign("a")
    assert cluster.rafts["a"].next_deadline("b") == pytest.approx(cluster.now + 0.1)
    cluster.heal()
    cluster.now = cluster.rafts["a"].next_deadline("b")
    cluster.do("a", lambda raft: None)
    cluster.settle()
    assert cluster.leader.node_id == "a"


def test_a_split_vote_is_tried_again_soon():
    cluster = Cluster("a", "b", formed=True)
    cluster.partition(["a"], ["b"])
    raft = cluster.campaign("a")
    cluster.deliver_anyway(RequestVoteResponse(2, "b", "a", True, True, "folder-b", False, ""))
    assert raft.role is Role.CANDIDATE
    cluster.deliver_anyway(RequestVoteResponse(2, "b", "a", False, False, "folder-b", False, "voted for b"))
    assert raft.role is Role.FOLLOWER
    assert raft.election_deadline <= cluster.now + 0.1


def test_learners_are_not_asked_and_do_not_campaign():
    cluster = Cluster("a", "b", learners=["c"], formed=True)
    assert cluster.rafts["c"].election_deadline == float("inf")
    cluster.elect("a")
    assert not [each for each in cluster.sent if isinstance(each, RequestVote) and each.recipient == "c"]
    cluster.propose("a", "one")
    cluster.settle()
    assert cluster.rafts["c"].commit_index == 3, "but they get entries"


def test_a_joint_configuration_needs_both_majorities():
    configuration = members("a", "b", "c", "d", "e", incarnations=True)
    joint = type(configuration)(
        "c" * 32, configuration.servers, ("a", "b", "c"), ("a", "d", "e"), (), ("a", "b", "c"), tuple("abcde")
    )
    cluster = Cluster("a", "b", "c", "d", "e")
    cluster.form(joint)
    for node_id in "abcde":
        cluster.restart(node_id)
    cluster.partition(["a", "b", "c"], ["d", "e"])
    assert cluster.campaign("a").role is Role.PRE_CANDIDATE
    cluster.partition(["a", "b", "d"], ["c", "e"])
    assert cluster.campaign("a").role is Role.LEADER
    assert cluster.leader.commit_index == 3, "the no-op, then the new configuration"


def test_a_leader_that_no_majority_answers_steps_down_after_an_election_timeout(three):
    three.partition(["a"], ["b", "c"])
    deadline = three.leader.quorum_deadline
    assert deadline <= three.now + 0.5
    three.run(deadline - three.now - 0.02)
    assert three.rafts["a"].role is Role.LEADER
    three.run(0.04)
    assert three.rafts["a"].role is Role.FOLLOWER
    (event,) = [event for event in three.events["a"] if isinstance(event, SteppedDown)]
    assert event.reason == "no majority answered for an election timeout"
