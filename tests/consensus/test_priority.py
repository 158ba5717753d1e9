"""Who should lead: priorities, and servers that should not lead just now."""

import random

import msgspec
import pytest

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.events import TransferAbandoned, TransferStarted
from raftlog.consensus.invariants import InvariantViolated, check_state
from raftlog.consensus.messages import TimeoutNow
from raftlog.consensus.state import Role
from raftlog.exceptions import NotNow
from tests.consensus.cluster import SETTINGS, Cluster

CALM = SETTINGS.priority_calm
T = SETTINGS.election_timeout


def with_priorities(priorities, **others):
    cluster = Cluster(*priorities, formed=True, **others)
    configuration = cluster.rafts["a"].configuration
    servers = {
        node_id: msgspec.structs.replace(server, priority=priorities.get(node_id, 0))
        for node_id, server in configuration.servers.items()
    }
    for disk in cluster.disks.values():
        disk.batches.clear()
    cluster.form(msgspec.structs.replace(configuration, servers=servers))
    for node_id in cluster.disks:
        cluster.restart(node_id)
    return cluster


def leads(cluster, node_id):
    return cluster.leader.node_id == node_id


def transfers(cluster, node_id):
    return [event for event in cluster.events[node_id] if isinstance(event, TransferStarted)]


def apply_all(cluster):
    for raft in cluster.rafts.values():
        raft.applied_to(raft.commit_index)


def run(cluster, seconds):
    """Time passes, and every database is up to date."""
    for _ in range(round(seconds / 0.1)):
        cluster.run(0.1)
        apply_all(cluster)


@pytest.fixture
def three():
    cluster = with_priorities({"a": 0, "b": 5, "c": 1})
    cluster.elect("a")
    return cluster


def test_a_leader_hands_over_to_the_highest_priority_after_a_calm_while(three):
    run(three, CALM - 0.2)
    assert leads(three, "a")
    run(three, 1.0)
    assert leads(three, "b")
    [event] = transfers(three, "a")
    assert str(event) == "hands leadership over to b in term 2: its priority is 5, that of a 0"


def test_it_does_not_come_back(three):
    run(three, 3 * CALM)
    assert leads(three, "b")
    assert len([event for node_id in three.rafts for event in transfers(three, node_id)]) == 1


def test_equal_priorities_decide_nothing():
    cluster = with_priorities({"a": 2, "b": 2, "c": 2})
    cluster.elect("a")
    run(cluster, 3 * CALM)
    assert leads(cluster, "a")
    assert not transfers(cluster, "a")


def test_a_server_that_was_away_is_waited_for(three):
    three.partition(["a", "c"], ["b"])
    run(three, CALM)
    three.heal()
    three.run(0.05)
    run(three, CALM - 1.0)
    assert leads(three, "a") or leads(three, "c")
    run(three, 2 * CALM)
    assert leads(three, "b")


def test_the_next_best_leads_while_the_best_is_down(three):
    three.crash("b")
    run(three, CALM + 1.0)
    assert leads(three, "c")
    three.restart("b")
    run(three, CALM + 1.5)
    assert leads(three, "b")


def test_a_server_whose_database_is_behind_is_waited_for(three):
    for _ in range(round(2 * CALM / 0.1)):
        three.run(0.1)
        three.propose(three.leader.node_id, "one")
        for node_id in ("a", "c"):
            three.rafts[node_id].applied_to(three.rafts[node_id].commit_index)
        assert leads(three, "a") or leads(three, "c")
    run(three, CALM + 1.5)
    assert leads(three, "b")


def test_not_to_one_that_says_it_should_not_lead(three):
    three.do("b", lambda raft: raft.set_unfit("its disk is full", three.now))
    run(three, 2 * CALM)
    assert leads(three, "c")
    three.do("b", lambda raft: raft.set_unfit("", three.now))
    run(three, CALM - 0.5)
    assert leads(three, "c")
    run(three, 1.5)
    assert leads(three, "b")


def test_not_to_one_that_has_withdrawn(three):
    three.do("b", lambda raft: raft.withdraw(three.now))
    run(three, 2 * CALM)
    assert leads(three, "c")


def test_not_while_the_members_change():
    cluster = with_priorities({"a": 0, "b": 5}, learners=["d"])
    leader = cluster.elect("a")
    cluster.run(0.1)
    cluster.cut("a", "d")
    target = leader.configuration.with_server("d", Server("d:1", "folder-d"), voter=True)
    cluster.do("a", lambda raft: raft.change_configuration(target, raft.configuration_index, cluster.now))
    run(cluster, 2 * CALM)
    assert leads(cluster, "a")
    cluster.heal()
    run(cluster, CALM + 1.0)
    assert cluster.leader.configuration.voters == ("a", "b", "d")
    assert leads(cluster, "b")


def test_an_attempt_that_fails_doubles_the_calm(three):
    three.crash("c")
    original = three.deliver
    three.deliver = lambda message: None if isinstance(message, TimeoutNow) else original(message)
    run(three, CALM * 7.5)
    started = transfers(three, "a")
    assert [event.to for event in started] == ["b"] * 3, "after 1, 2 and 4 calm whiles"
    assert len([event for event in three.events["a"] if isinstance(event, TransferAbandoned)]) == 3


def test_lower_priority_waits_longer_to_campaign():
    for seed in range(20):
        cluster = with_priorities({"a": 9, "b": 5, "c": 1}, seed=seed)
        cluster.elect("a")
        cluster.run(0.05)
        waits = {n: cluster.rafts[n].election_deadline - cluster.rafts[n].last_heard_at for n in ("b", "c")}
        assert T <= waits["b"] < 2 * T, "the leader that is lost does not count"
        assert 1.25 * T <= waits["c"] < 2.25 * T
        for node_id in ("b", "c"):
            cluster.do(node_id, lambda raft, now=cluster.now: raft.suspect_leader("a", now))
        assert cluster.rafts["b"].election_deadline < cluster.rafts["c"].election_deadline


def test_with_the_best_down_the_others_still_elect(three):
    three.crash("b")
    three.crash("a")
    three.restart("a")
    three.run(3 * T)
    assert three.leader.node_id in ("a", "c")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_in_the_end_the_best_leads(seed):
    """Servers become unfit and fit, are cut off and come back, in any order; every step keeps the invariants."""
    chance = random.Random(seed)
    cluster = with_priorities({"a": 1, "b": 3, "c": 2}, seed=seed)
    for _ in range(25):
        node_id = chance.choice("abc")
        reason = chance.choice(["", "", "its disk is full"])
        cluster.do(node_id, lambda raft, reason=reason: raft.set_unfit(reason, cluster.now))
        if chance.random() < 0.3:
            cluster.partition([node_id], [other for other in "abc" if other != node_id])
        else:
            cluster.heal()
        run(cluster, chance.choice([0.2, 1.0]))
    cluster.heal()
    for node_id in "abc":
        cluster.do(node_id, lambda raft: raft.set_unfit("", cluster.now))
    for _ in range(200):
        run(cluster, 1.0)
        if leads(cluster, "b"):
            break
    assert leads(cluster, "b")
    before = len([event for node_id in "abc" for event in transfers(cluster, node_id)])
    run(cluster, 2 * CALM)
    assert leads(cluster, "b"), "and goes on leading"
    assert len([event for node_id in "abc" for event in transfers(cluster, node_id)]) == before


# Unfit leaders


@pytest.fixture
def plain():
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    cluster.run(0.15)
    return cluster


def test_an_unfit_leader_takes_nothing_and_hands_over_at_once(plain):
    plain.do("a", lambda raft: raft.set_unfit("its disk is full", plain.now))
    with pytest.raises(NotNow, match="a leads, but takes nothing: its disk is full"):
        plain.propose("a", "one")
    assert plain.rafts["a"].change_deadline <= plain.now
    plain.run(0.02)
    assert plain.leader.node_id in ("b", "c")
    assert transfers(plain, "a")[0].reason == "its disk is full"


def test_entries_that_its_disk_has_not_go_along(plain):
    plain.full_disks.add("a")
    entry = plain.propose("a", "one")
    plain.do("a", lambda raft: raft.set_unfit("its disk is full", plain.now))
    plain.run(0.2)
    assert plain.leader.node_id != "a"
    assert plain.leader.commit_index > entry.index
    assert plain.rafts["a"].log.stable_index < entry.index


def test_where_all_are_unfit_it_stays_and_goes_on_when_it_can(plain):
    for node_id in plain.rafts:
        plain.do(node_id, lambda raft: raft.set_unfit("its disk is full", plain.now))
    plain.run(2.0)
    assert leads(plain, "a")
    for node_id in plain.rafts:
        plain.do(node_id, lambda raft: raft.set_unfit("", plain.now))
    plain.propose("a", "one")
    plain.run(0.1)
    assert leads(plain, "a")


def test_where_nobody_answers_nothing_is_tried():
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    cluster.partition(["a"], ["b", "c"])
    cluster.run(0.3)
    cluster.do("a", lambda raft: raft.set_unfit("its disk is full", cluster.now))
    raft = cluster.rafts["a"]
    for progress in raft.progress.values():
        progress.acked_at = cluster.now - T
    cluster.run(0.15)
    assert not transfers(cluster, "a")


def test_who_did_not_take_over_is_asked_last(plain):
    for peer in ("b", "c"):
        assert plain.rafts["a"].best_successor(plain.now, [peer]) == peer
    first = plain.rafts["a"].best_successor(plain.now, ["b", "c"])
    plain.rafts["a"].progress[first].transfers_given_up = 1
    assert plain.rafts["a"].best_successor(plain.now, ["b", "c"]) != first
    assert plain.rafts["a"].best_successor(plain.now, []) == ""


def test_a_target_that_becomes_unfit_is_let_off_at_once(plain):
    plain.cut("a", "b")
    plain.do("a", lambda raft: raft.transfer_leadership("b", plain.now))
    plain.heal()
    plain.rafts["b"].set_unfit("its disk is full", plain.now)
    plain.run(0.12)
    assert leads(plain, "a")
    events = [event for event in plain.events["a"] if isinstance(event, TransferAbandoned)]
    assert [str(event) for event in events] == ["b says that it should not lead just now; still leads in term 2"]
    with pytest.raises(ValueError, match="b says that it should not lead just now"):
        plain.do("a", lambda raft: raft.transfer_leadership("b", plain.now))


def test_an_unfit_server_campaigns_last_but_does(plain):
    for node_id in ("b", "c"):
        plain.rafts[node_id].set_unfit("its disk is full", plain.now)
    plain.run(0.15)
    deadlines = [plain.rafts[n].election_deadline - plain.rafts[n].last_heard_at for n in ("b", "c")]
    assert all(deadline >= 1.5 * T for deadline in deadlines)
    plain.crash("a")
    plain.run(4 * T)
    assert plain.leader.node_id in ("b", "c")


def test_the_invariant_sees_a_handover_to_a_lower_priority(three):
    leader = three.rafts["a"]
    leader.leadership.transfer_to, leader.leadership.transfer_for_priority = "b", True
    check_state(leader)
    lower = {n: Server(s.address, s.incarnation, 0) for n, s in leader.configuration.servers.items()}
    leader.configuration = Configuration(leader.configuration.cluster_id, lower, leader.configuration.voters)
    with pytest.raises(InvariantViolated, match="for priority's sake leadership is handed only to a voter of higher"):
        check_state(leader)
    assert leader.role is Role.LEADER
