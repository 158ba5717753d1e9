"""Read leases (dissertation §6.4.1; rule 18 of the design)."""

from dataclasses import replace

import pytest

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.entries import EntryBatch
from raftlog.consensus.leases import CLOCK_DRIFT, holds_votes
from raftlog.consensus.messages import AppendEntries, AppendEntriesResponse, TimeoutNow
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.state import HardState, Role
from tests.consensus.cluster import SETTINGS, Cluster, members

LEASES = replace(SETTINGS, read_lease=True)
TIMEOUT = LEASES.election_timeout
LEASE = TIMEOUT * (1 - CLOCK_DRIFT)


def make(settings=LEASES, nodes="abc"):
    cluster = Cluster(*nodes, formed=True, settings=settings)
    cluster.elect("a")
    cluster.propose("a", "one")
    cluster.settle()
    cluster.run(0.2)
    cluster.sent.clear()
    return cluster


@pytest.fixture
def three():
    return make()


def read(cluster, node_id, request_id, later=0.0):
    """`later`: what the clock shows when it is looked at again, after the read came."""

    def ask(raft):
        raft.request_read(request_id, cluster.now)
        raft.confirm_leases(cluster.now + later)

    cluster.do(node_id, ask)


def lose_connections_to_a(cluster):
    for node_id in cluster.rafts.keys() - {"a"}:
        cluster.do(node_id, lambda raft: raft.suspect_leader("a", cluster.now))


def test_a_leader_with_a_lease_answers_without_asking_anybody(three):
    three.partition(["a"], ["b", "c"])
    read(three, "a", 1)
    assert three.reads["a"] == [(1, three.rafts["a"].commit_index)]
    assert not [each for each in three.sent if isinstance(each, AppendEntries)]


def test_the_lease_counts_from_the_start_of_the_round_and_is_shorter_than_the_promise(three):
    began_at = three.rafts["a"].leadership.quorum_acked_at
    three.partition(["a"], ["b", "c"])
    three.now = began_at + LEASE - 0.001
    read(three, "a", 1)
    assert len(three.reads["a"]) == 1
    three.now = began_at + LEASE
    read(three, "a", 2)
    assert len(three.reads["a"]) == 1  # it waits for a round that nobody answers


def test_a_lease_that_ends_between_two_looks_at_the_clock_answers_nothing(three):
    three.partition(["a"], ["b", "c"])
    read(three, "a", 1, later=LEASE)
    assert three.reads["a"] == []
    three.heal()
    three.run(0.2)
    assert three.reads["a"] == [(1, three.rafts["a"].commit_index)]


def test_a_followers_read_costs_one_question(three):
    def ask(raft):
        raft.request_read(7, three.now)

    three.do("b", ask)
    three.settle()  # the leader has the question
    three.do("a", lambda raft: raft.confirm_leases(three.now))
    three.settle()
    assert three.reads["b"] == [(7, three.rafts["a"].commit_index)]
    assert not [each for each in three.sent if isinstance(each, AppendEntries)]


def test_without_leases_a_leader_asks(three):
    three = make(SETTINGS)
    three.partition(["a"], ["b", "c"])
    read(three, "a", 1)
    assert three.reads["a"] == []


def test_who_promises_nothing_does_not_count():
    """A member without leases, or of an older version: the others' leases do not depend on its settings."""
    cluster = make()
    for node_id in "bc":
        cluster.settings = SETTINGS
        cluster.restart(node_id)
    cluster.run(TIMEOUT + 0.2)
    assert cluster.rafts["a"].role is Role.LEADER
    read(cluster, "a", 1)
    assert cluster.reads["a"] == []
    cluster.settle()
    assert len(cluster.reads["a"]) == 1


def test_a_lost_connection_never_shortens_the_refusal_of_votes(three):
    heard_at = max(three.rafts[node_id].last_heard_at for node_id in "bc")
    three.partition(["a"], ["b", "c"])
    lose_connections_to_a(three)
    while three.now < heard_at + TIMEOUT - 0.02:
        three.run(0.01)
        assert three.rafts["b"].current_term == three.rafts["c"].current_term == 2
    read(three, "a", 1)
    assert three.reads["a"] == []  # and by then the lease is over
    three.run(2 * TIMEOUT)
    assert three.leader.node_id in "bc"


def test_without_leases_it_does():
    cluster = make(SETTINGS)
    cluster.partition(["a"], ["b", "c"])
    lose_connections_to_a(cluster)
    cluster.run(0.2)
    assert max(cluster.rafts[node_id].current_term for node_id in "bc") == 3


def test_timeout_now_ends_the_lease_for_the_rest_of_the_term(three):
    three.partition(["a"], ["b", "c"])
    three.do("a", lambda raft: raft.transfer_leadership("b", three.now))
    (message,) = [each for each in three.sent if isinstance(each, TimeoutNow)]
    read(three, "a", 1)
    assert three.reads["a"] == []
    three.heal()
    three.run(TIMEOUT + 0.1)  # it is given up, and everybody hears the leader again
    assert three.rafts["a"].role is Role.LEADER
    assert three.reads["a"]
    three.reads["a"].clear()
    three.partition(["a"], ["b", "c"])
    three.deliver_anyway(message)  # late, and yet it is taken
    three.settle()
    assert three.rafts["b"].role is Role.LEADER
    read(three, "a", 2)
    assert three.reads["a"] == []


def test_a_planned_hand_over_waits_for_no_promise(three):
    three.do("a", lambda raft: raft.transfer_leadership("b", three.now))
    three.settle()
    assert three.leader.node_id == "b"


def test_a_server_that_was_started_anew_keeps_its_promise(three):
    three.partition(["a"], ["b", "c"])
    began_at = three.now
    for node_id in "bc":
        three.restart(node_id)
        three.do(node_id, lambda raft: None)
        three.rafts[node_id].election_deadline = three.now  # as if somebody had made it hurry
    while three.now < began_at + TIMEOUT - 0.02:
        three.run(0.01)
        assert three.rafts["b"].current_term == three.rafts["c"].current_term == 2
    three.run(2 * TIMEOUT)
    assert three.leader.node_id in "bc"


def test_a_new_leader_has_no_lease_before_an_entry_of_its_term_is_committed():
    cluster = make()
    cluster.full_disks |= {"b", "c"}
    cluster.now += TIMEOUT
    cluster.partition(["a"], ["b", "c"])
    cluster.run(3 * TIMEOUT)
    leader = cluster.leader.node_id
    assert leader != "a"
    read(cluster, leader, 1)
    assert cluster.reads[leader] == []


def test_a_single_voter_leads_and_reads_at_once_however_often_it_starts():
    """In a cluster of one without a node process each process that writes is the node for a moment."""
    cluster = Cluster("a", formed=True, settings=LEASES)
    cluster.run(TIMEOUT + 0.1)  # it has voted for nobody yet
    cluster.restart("a")
    for request_id in (1, 2, 3):
        began_at = cluster.now
        cluster.run(0.01)
        read(cluster, "a", request_id)
        assert cluster.reads["a"][-1] == (request_id, cluster.rafts["a"].commit_index)
        assert cluster.now - began_at < TIMEOUT / 2
        cluster.restart("a")


@pytest.mark.parametrize(
    ("voted_for", "waits"), [("a", False), ("", True), ("b", True)], ids=["itself", "nobody", "another"]
)
def test_a_single_voter_by_its_log_waits_where_it_may_have_voted_for_another(voted_for, waits):
    """The entry that added the other may be lost: it had not been synced here, and had come there."""
    cluster = Cluster("a", formed=True, settings=LEASES)
    cluster.disks["a"].hard_state = HardState(2, voted_for)
    cluster.restart("a")
    cluster.run(TIMEOUT / 2)
    assert (cluster.rafts["a"].role is not Role.LEADER) is waits
    cluster.run(TIMEOUT)
    assert cluster.leader.node_id == "a"


def test_the_only_voter_that_is_left_waits_until_no_earlier_leader_can_count_on_its_promise(three):
    """The leader that removed itself may not have heard that this is committed, and read by the promise of c."""
    target = three.rafts["a"].configuration.without("a").without("b")
    three.do("a", lambda raft: raft.change_configuration(target, raft.configuration_index, three.now))
    three.run(3 * TIMEOUT)
    assert three.leader.node_id == "c"
    three.restart("c")
    began_at = three.now
    while three.rafts["c"].role is not Role.LEADER:
        three.run(0.01)
    assert three.now - began_at >= TIMEOUT
    three.propose("c", "two")
    three.settle()
    three.apply("c")
    three.compact("c")
    three.restart("c")
    three.run(0.01)
    assert three.rafts["c"].role is Role.LEADER


def test_merged_acknowledgements_keep_the_promise(three):
    three.propose("a", "two", "three")
    three.settle()
    answers = [each for each in three.sent if isinstance(each, AppendEntriesResponse)]
    assert answers
    assert {each.vote_hold for each in answers} == {TIMEOUT}
    assert RaftSettings().read_lease is False


def test_what_was_meant_for_a_folder_that_is_gone_is_answered_without_a_promise(three):
    """The leader may record this folder by the time that the answer comes."""
    three.partition(["a"], ["b", "c"])
    raft = three.rafts["b"]
    raft.election_deadline = float("inf")
    three.now += 2 * TIMEOUT
    three.sent.clear()
    three.deliver_anyway(AppendEntries(raft.current_term, "a", "b", 0, 0, EntryBatch(1, [], []), 0, 1, "an older one"))
    (answer,) = [each for each in three.sent if isinstance(each, AppendEntriesResponse)]
    assert not holds_votes(raft, three.now)
    assert (answer.term, answer.incarnation, answer.vote_hold) == (raft.current_term, raft.incarnation, 0)


def test_when_promises_end_the_voter_of_higher_priority_goes_first():
    winners = []
    for seed in range(10):
        cluster = Cluster("a", "b", "c", settings=LEASES, seed=seed)
        made = members("a", "b", "c", incarnations=True)
        servers = {
            name: Server(server.address, server.incarnation, 0 if name == "c" else 10)
            for name, server in made.servers.items()
        }
        cluster.form(Configuration(made.cluster_id, servers, made.voters, (), ()))
        for node_id in "abc":
            cluster.restart(node_id)
        cluster.now += TIMEOUT
        cluster.elect("a")
        cluster.run(0.2)
        cluster.partition(["a"], ["b", "c"])
        lose_connections_to_a(cluster)
        cluster.run(2 * TIMEOUT)
        winners.append(cluster.leader.node_id)
    assert winners.count("b") >= 8
