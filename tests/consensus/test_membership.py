"""Changes of the members (paper §6; dissertation §4.2): learners, joint consensus, removal."""

import pytest

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.entries import EntryBatch
from raftlog.consensus.events import ChangeAbandoned, RemovedFromCluster
from raftlog.consensus.messages import AppendEntries
from raftlog.consensus.state import HardState, Role
from raftlog.exceptions import ConfigurationChangeRefused, NotLeader
from tests.consensus.cluster import Cluster, Disk


def target(*voters, learners=(), address="{}:1"):
    servers = {each: Server(address.format(each), f"folder-{each}") for each in (*voters, *learners)}
    return Configuration("c" * 32, servers, tuple(sorted(voters)), (), tuple(sorted(learners)))


def cluster_of(*node_ids, leader="a", learners=()):
    cluster = Cluster(*node_ids, formed=True, learners=learners)
    cluster.elect(leader)
    return cluster


def add_host(cluster, node_id):
    """A server with an empty folder comes up."""
    cluster.disks[node_id] = Disk(node_id)
    cluster.events[node_id], cluster.reads[node_id] = [], []
    cluster.restart(node_id)


def change(cluster, wanted, based_on=None):
    leader = cluster.leader
    index = leader.configuration_index if based_on is None else based_on
    return cluster.do(leader.node_id, lambda raft: raft.change_configuration(wanted, index, cluster.now))


def steps(cluster, node_id="a"):
    """The configurations in a log, as (voters, outgoing, learners)."""
    return [
        ("".join(each.voters), "".join(each.outgoing), "".join(each.learners))
        for _, each in cluster.rafts[node_id].log.configurations
    ]


CHANGES = [
    # from, to, the configurations in between
    ("a", "ab", [("a", "", ""), ("a", "", "b"), ("ab", "a", ""), ("ab", "", "")]),
    ("abc", "abcd", [("abc", "", ""), ("abc", "", "d"), ("abcd", "abc", ""), ("abcd", "", "")]),
    ("abc", "abcde", [("abc", "", ""), ("abc", "", "de"), ("abcde", "abc", ""), ("abcde", "", "")]),
    ("abcd", "abc", [("abcd", "", ""), ("abc", "abcd", ""), ("abc", "", "")]),
    ("abcde", "abc", [("abcde", "", ""), ("abc", "abcde", ""), ("abc", "", "")]),
    ("abc", "ade", [("abc", "", ""), ("abc", "", "de"), ("ade", "abc", ""), ("ade", "", "")]),
    ("ab", "a", [("ab", "", ""), ("a", "ab", ""), ("a", "", "")]),
]


@pytest.mark.parametrize(("before", "after", "expected"), CHANGES)
def test_every_change_goes_through_a_joint_configuration(before, after, expected):
    cluster = cluster_of(*before)
    for node_id in set(after) - set(before):
        add_host(cluster, node_id)
    change(cluster, target(*after))
    cluster.run(1)
    assert steps(cluster) == expected
    cluster.propose("a", "one")
    cluster.run(0.3)
    for node_id in after:
        assert cluster.rafts[node_id].commit_index == cluster.leader.log.last_index
        assert cluster.rafts[node_id].configuration == target(*after)
    for node_id in set(before) - set(after):
        assert any(isinstance(event, RemovedFromCluster) for event in cluster.events[node_id])


def test_servers_that_leave_learn_so_only_when_it_is_committed():
    """Found by the simulation: a, left alone, lost power before its own disk had Cnew; b and c had it, stood for no
    election and gave a no vote, because their logs were newer."""
    cluster = cluster_of(*"abc")
    change(cluster, target("a"))
    cluster.run(1)
    assert cluster.leader.configuration == target("a")
    index = cluster.leader.configuration_index
    carriers = [
        message
        for message in cluster.sent
        if isinstance(message, AppendEntries) and message.entries.first_index <= index <= message.entries.last_index
    ]
    assert {message.recipient for message in carriers} == {"b", "c"}
    assert all(message.leader_commit >= index for message in carriers)


def test_a_leader_that_removes_itself_hands_over_first():
    cluster = cluster_of(*"abc")
    change(cluster, target("b", "c"))
    cluster.run(1)
    assert cluster.leader.node_id in "bc"
    assert cluster.leader.configuration == target("b", "c")
    assert cluster.rafts["a"].role is Role.FOLLOWER
    cluster.run(3)
    assert cluster.rafts["a"].is_removed
    term = cluster.leader.current_term
    cluster.run(3)
    assert cluster.leader.current_term == term, "a removed server disturbs nobody"


def test_learners_and_addresses_change_in_one_step():
    cluster = cluster_of(*"abc")
    add_host(cluster, "d")
    change(cluster, target(*"abc", learners="d"))
    cluster.run(0.5)
    assert steps(cluster)[-1] == ("abc", "", "d")
    assert cluster.rafts["d"].commit_index == cluster.leader.commit_index
    moved = target(*"abc", learners="d", address="{}:2")
    change(cluster, moved)
    cluster.run(0.5)
    assert all(raft.configuration == moved for raft in cluster.rafts.values())
    assert len(steps(cluster)) == 3


def test_a_voter_becomes_a_learner_and_a_voter_again():
    cluster = cluster_of(*"abc")
    change(cluster, target("a", "b", learners="c"))
    cluster.run(0.5)
    assert steps(cluster)[1:] == [("ab", "abc", ""), ("ab", "", "c")]
    assert not cluster.rafts["c"].is_removed
    change(cluster, target(*"abc"))
    cluster.run(0.5)
    assert steps(cluster)[-1] == ("abc", "", "")


def test_a_new_server_that_is_down_costs_nothing_and_is_given_up():
    cluster = cluster_of("a")
    cluster.disks["b"] = Disk("b")
    change(cluster, target("a", "b"))
    cluster.propose("a", "one")
    assert cluster.leader.commit_index == cluster.leader.log.last_index, "a learner is no part of the majority"
    cluster.run(31)
    assert steps(cluster) == [("a", "", ""), ("a", "", "b"), ("a", "", "")]
    (event,) = [event for event in cluster.events["a"] if isinstance(event, ChangeAbandoned)]
    assert "b made no progress for 30 s" in event.reason


def test_a_learner_of_long_standing_is_promoted_at_once():
    cluster = cluster_of(*"abc", learners="d")
    cluster.run(60)
    change(cluster, target(*"abcd"))
    cluster.run(0.5)
    assert steps(cluster)[-1] == ("abcd", "", "")


def test_what_an_older_folder_acknowledged_does_not_count_for_the_new_one():
    """A server leaves and comes back under its name with an empty folder, while its leader still knows the old one."""
    cluster = cluster_of(*"abc")
    cluster.propose("a", "one", "two")
    cluster.settle()
    cluster.crash("c")
    change(cluster, target(*"ab"))
    cluster.settle()
    assert "c" in cluster.rafts["a"].progress
    assert cluster.rafts["a"].progress["c"].match_index
    cluster.disks["c"] = Disk("c")
    cluster.disks["c"].incarnation = "another folder"
    wanted = target(*"ab").with_server("c", Server("c:1", "another folder"), voter=True)
    change(cluster, wanted)
    assert cluster.rafts["a"].progress["c"].match_index == 0
    cluster.restart("c")
    cluster.run(1)
    assert cluster.leader.configuration == wanted
    assert cluster.rafts["c"].log.last_index == cluster.leader.log.last_index


def test_a_change_can_be_given_up_while_its_servers_learn():
    cluster = cluster_of(*"abc", learners="e")
    cluster.disks["d"] = Disk("d")
    change(cluster, target(*"abcd", learners="e"))
    cluster.settle()
    cluster.do("a", lambda raft: raft.abandon_change(cluster.now))
    cluster.settle()
    assert steps(cluster)[-1] == ("abc", "", "e")
    with pytest.raises(ConfigurationChangeRefused, match="no change is under way"):
        cluster.rafts["a"].abandon_change(cluster.now)


def test_a_slow_server_is_promoted_only_after_a_short_round():
    """Dissertation §4.2.1: a round that lasts longer than an election timeout does not count."""
    cluster = cluster_of(*"abc")
    add_host(cluster, "d")
    cluster.cut("a", "d")
    change(cluster, target(*"abcd"))
    cluster.run(0.8)
    cluster.heal()
    while not cluster.rafts["a"].progress["d"].match_index:
        cluster.run(0.01)
    assert not cluster.leader.configuration.is_joint, "the first round took 0.8 s"
    cluster.run(0.5)
    assert steps(cluster)[-1] == ("abcd", "", "")


@pytest.mark.parametrize("lost_after", ["learners", "joint"])
def test_a_new_leader_completes_the_change(lost_after):
    cluster = cluster_of(*"abc")
    add_host(cluster, "d")
    if lost_after == "learners":
        cluster.cut("a", "d")
    change(cluster, target(*"abd"))
    while not cluster.rafts["b"].configuration.goal_voters or (
        lost_after == "joint" and not cluster.rafts["b"].configuration.is_joint
    ):
        cluster.deliver(cluster.wire.pop(0)) if cluster.wire else cluster.run(0.01)
    cluster.wire.clear()
    cluster.crash("a")
    cluster.run(2)
    assert cluster.leader.node_id in "bcd"
    cluster.run(2)
    assert cluster.leader.configuration == target(*"abd")
    assert steps(cluster, cluster.leader.node_id)[-2:] == [("abd", "abc", ""), ("abd", "", "")]


def test_while_joint_both_majorities_are_needed():
    cluster = cluster_of(*"abc")
    for node_id in "de":
        add_host(cluster, node_id)
    cluster.run(0.2)
    change(cluster, target(*"ade"))
    while not cluster.leader.configuration.is_joint:
        cluster.deliver(cluster.wire.pop(0)) if cluster.wire else cluster.run(0.01)
    cluster.partition("ade", "bc")
    cluster.wire.clear()
    committed = cluster.leader.commit_index
    cluster.propose("a", "one")
    cluster.settle()
    assert cluster.rafts["a"].commit_index == committed, "a, d and e are no majority of a, b and c"
    cluster.heal()
    cluster.run(2)
    assert cluster.leader.configuration == target(*"ade")


REFUSED = [
    (target("a", "b"), 0, "made from the configuration at index 0, but the one at 1 is in force"),
    (Configuration("d" * 32, target("a").servers, ("a",)), 1, "of cluster 'dddd"),
    (Configuration("c" * 32, {"a": Server("a:1")}, ("a",)), 1, "incarnation of a is not stated"),
    (Configuration("c" * 32, {"a": Server("a:1", "folder-new")}, ("a",)), 1, "remove it first, then add it"),
    (Configuration("c" * 32, target("a").servers, (), (), ("a",)), 1, "must name voters"),
]


@pytest.mark.parametrize(("wanted", "based_on", "words"), REFUSED)
def test_a_change_that_cannot_be_is_refused(wanted, based_on, words):
    cluster = cluster_of(*"abc")
    with pytest.raises(ConfigurationChangeRefused, match=words):
        change(cluster, wanted, based_on)
    assert cluster.leader.configuration_index == 1


def test_one_change_at_a_time():
    cluster = cluster_of(*"abc")
    cluster.disks["d"] = Disk("d")
    change(cluster, target(*"abcd"))
    with pytest.raises(ConfigurationChangeRefused, match="not committed yet"):
        change(cluster, target(*"ab"))
    cluster.settle()
    with pytest.raises(ConfigurationChangeRefused, match="another change is under way, to the voters a, b, c, d"):
        change(cluster, target(*"ab"))
    with pytest.raises(NotLeader):
        cluster.rafts["b"].change_configuration(target("a"), 1, cluster.now)


def test_nothing_changes_before_an_entry_of_the_own_term_is_committed():
    """The bug of the dissertation's single-server changes: without it, two majorities may not meet."""
    cluster = Cluster("a", "b", "c", formed=True)
    raft = cluster.rafts["a"]
    cluster.now = raft.election_deadline
    cluster.do("a", lambda raft: raft.tick(cluster.now))
    while raft.role is not Role.LEADER:
        cluster.deliver(cluster.wire.pop(0))
    with pytest.raises(ConfigurationChangeRefused, match="first entry, is not committed yet"):
        change(cluster, target(*"ab"))
    cluster.settle()
    change(cluster, target(*"ab"))


def test_a_server_that_was_away_learns_from_a_voter_that_it_was_removed():
    cluster = cluster_of(*"abcd")
    cluster.crash("d")
    change(cluster, target(*"abc"))
    cluster.run(3)
    cluster.restart("d")
    cluster.run(3)
    assert cluster.rafts["d"].is_removed
    assert cluster.leader.current_term == 2


def test_a_new_server_is_not_fooled_by_configurations_of_before_it_came():
    cluster = cluster_of(*"abc")
    change(cluster, target(*"ab"))
    cluster.run(0.5)
    add_host(cluster, "d")
    change(cluster, target(*"abd"))
    cluster.run(1)
    assert not cluster.rafts["d"].is_removed
    assert cluster.leader.configuration == target(*"abd")


def test_heartbeats_name_the_incarnation_of_a_server_that_leaves():
    cluster = cluster_of(*"abcd")
    cluster.sent.clear()
    change(cluster, target(*"abc"))
    cluster.run(0.2)
    sent = [each for each in cluster.sent if isinstance(each, AppendEntries) and each.recipient == "d"]
    assert {each.recipient_incarnation for each in sent} == {"folder-d"}


def test_a_server_that_fell_behind_takes_entries_of_a_leader_that_it_has_never_heard_of():
    """Dissertation §4.1. Found by the simulation (seed 52 of five nodes): such a member never came back."""
    cluster = cluster_of(*"abc")
    cluster.crash("c")
    add_host(cluster, "d")
    change(cluster, target(*"abcd"))
    cluster.run(1)
    cluster.do("a", lambda raft: raft.transfer_leadership("d", cluster.now))
    cluster.run(1)
    assert cluster.leader.node_id == "d"
    behind = cluster.restart("c")
    assert "d" not in behind.configuration.servers
    assert behind.knows("d", cluster.now)
    heartbeat = AppendEntries(cluster.leader.current_term, "d", "c", 99, 1, EntryBatch(100, [], []), 0, 1, "folder-c")
    cluster.deliver(heartbeat)
    assert "d" not in behind.configuration.servers
    assert behind.knows("d", cluster.now), "it hears that d leads, and has still not got its entries"
    assert not behind.knows("stranger", cluster.now), "it hears its leader: nobody else is needed"
    cluster.run(1)
    assert behind.log.last_index == cluster.leader.log.last_index


@pytest.mark.parametrize(("term", "recovery_id"), [(0, 7), (1, 0)], ids=["repaired", "voted"])
def test_a_first_member_without_a_log_takes_entries_of_a_leader_that_came_later(term, recovery_id):
    """Seeds 2635 and 8107 of the simulation: with its log cut away by a repair, it waited for a first member to lead.

    So it was for one that had voted in the first election and then never heard of its result.
    """
    cluster = cluster_of(*"abc")
    cluster.crash("c")
    add_host(cluster, "d")
    change(cluster, target(*"abcd"))
    cluster.run(1)
    cluster.do("a", lambda raft: raft.transfer_leadership("d", cluster.now))
    cluster.run(1)
    assert cluster.leader.node_id == "d"
    disk = cluster.disks["c"] = Disk("c")
    disk.hard_state, disk.recovery_id = HardState(term, ""), recovery_id
    behind = cluster.restart("c")
    assert behind.first_members is not None
    assert behind.log.is_empty
    assert behind.knows("d", cluster.now)
    cluster.run(1)
    assert behind.log.last_index == cluster.leader.log.last_index
    assert behind.recovery_finished == bool(recovery_id)


def test_a_first_member_that_has_promised_nothing_hears_first_members_only():
    """The cluster is not formed, so nobody else can have business with it."""
    cluster = Cluster("a", "b", "c")
    assert cluster.rafts["c"].knows("b", cluster.now)
    assert not cluster.rafts["c"].knows("d", cluster.now)


def test_a_server_that_was_removed_learns_so_though_the_log_no_longer_says_that_it_was_a_member():
    """It was away, and the configurations with it in them are compacted."""
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    cluster.settle()
    cluster.partition("ab", "c")
    target = cluster.rafts["a"].configuration.without("c")
    cluster.do("a", lambda raft: raft.change_configuration(target, raft.configuration_index, cluster.now))
    cluster.run(2.0)
    for node_id in "ab":
        cluster.apply(node_id)
        cluster.compact(node_id)
    assert [set(each.servers) for _, each in cluster.rafts["b"].log.configurations] == [{"a", "b"}]
    assert cluster.rafts["b"].knows("c", cluster.now)
    cluster.heal()
    cluster.run(3.0)
    assert cluster.rafts["c"].is_removed
    assert not cluster.rafts["a"].is_removed
    assert cluster.leader.current_term == cluster.rafts["b"].current_term


def test_nothing_is_due_for_a_change_whose_first_step_is_not_committed():
    """Seed 621 of the simulation: its deadline passed meanwhile, and the timer's thread was woken without end."""
    cluster = cluster_of(*"abc")
    cluster.partition("a", "bc")
    change(cluster, target(*"abcd"))
    leader = cluster.rafts["a"]
    assert leader.configuration.goal_voters
    assert leader.change_deadline == float("inf")
    cluster.heal()
    cluster.run(0.5)
    assert leader.commit_index >= leader.configuration_index
    assert cluster.now < leader.change_deadline < float("inf")


def test_nothing_is_due_for_a_change_while_leadership_is_being_transferred():
    """Seeds 261 and 382 of the simulation: the change's deadline passed while the leader waited for its successor, and
    the timer's thread was woken without end until the transfer was over."""
    cluster = cluster_of(*"abc")
    change(cluster, target(*"abcd"))
    leader = cluster.rafts["a"]
    cluster.run(0.1)
    change_deadline = leader.change_deadline
    cluster.run(change_deadline - cluster.now - 0.1)
    cluster.partition("ac", "b")
    cluster.do("a", lambda raft: raft.transfer_leadership("b", cluster.now))
    transfer_deadline = leader.leadership.transfer_deadline
    cluster.run(0.2)
    assert change_deadline < cluster.now < transfer_deadline
    assert leader.change_deadline == transfer_deadline
    assert not any(isinstance(event, ChangeAbandoned) for event in cluster.events["a"])
    cluster.run(transfer_deadline - cluster.now + 0.02)
    assert [event.servers for event in cluster.events["a"] if isinstance(event, ChangeAbandoned)] == [("d",)]
    assert leader.change_deadline == float("inf")
