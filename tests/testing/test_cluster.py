"""raft_cluster: nodes in the test's process, with databases of their own and faults on call."""

import sqlite3
import threading

import pytest
from django.db import connections

import raftlog
from raftlog.runtime import clock
from tests.replication.warehouse.commands import OutOfStock, add_item, take
from tests.replication.warehouse.models import Item

REPLICATED = "raftlog.backends.sqlite3"


def names() -> list[str]:
    return sorted(Item.objects.values_list("name", flat=True))


def test_commands_and_transactions_reach_every_database(raft_cluster):
    cluster = raft_cluster(nodes=3, engine=REPLICATED)
    add_item.propose(name="tea", stock=5)
    Item.objects.create(name="milk")
    with cluster.on("b"):
        Item.objects.create(name="salt")
        assert take.propose(name="tea", quantity=2) == 3
        with pytest.raises(OutOfStock):
            take.propose(name="tea", quantity=9)
    cluster.assert_equal()
    for node in cluster.names:
        with cluster.on(node):
            assert names() == ["milk", "salt", "tea"]
    assert Item.objects.get(name="tea").stock == 3


def test_a_killed_leader_is_replaced_and_catches_up_when_it_is_restarted(raft_cluster):
    cluster = raft_cluster(nodes=3, engine=REPLICATED)
    add_item.propose(name="tea")
    killed = cluster.kill_leader()
    assert killed not in cluster.running
    assert cluster.leader() != killed
    add_item.propose(name="milk")
    Item.objects.create(name="salt")
    with cluster.on(killed), pytest.raises(raftlog.NodeUnavailable, match=f"node {killed} is down"):
        add_item.propose(name="pepper")
    cluster.restart(killed)
    cluster.assert_equal()
    with cluster.on(killed):
        assert names() == ["milk", "salt", "tea"]


def test_a_minority_commits_nothing_and_holds_what_the_majority_did_once_it_heals(raft_cluster):
    cluster = raft_cluster(nodes=3, engine=REPLICATED)
    add_item.propose(name="tea")
    leader, *others = [cluster.leader(), *cluster.followers()]
    cluster.partition([leader], others)
    with cluster.on(others[0]):
        cluster.leader(*others)
        add_item.propose(name="milk")
    with cluster.on(leader):
        with pytest.raises((raftlog.OutcomeUnknown, raftlog.NotProposed)):
            add_item.with_options(timeout=0.5).propose(name="salt")
        assert names() == ["tea"]
        with pytest.raises(raftlog.ReadNotConfirmed), raftlog.linearizable(timeout=0.3):
            pass
    with cluster.on(others[1]), raftlog.linearizable():
        assert names() == ["milk", "tea"]
    cluster.assert_equal(*others)
    with pytest.raises(AssertionError, match=r"warehouse_item, key .*: the row is there on"):
        cluster._compare([leader, others[0]])
    cluster.heal()
    cluster.assert_equal()


def test_a_paused_node_applies_nothing_until_it_is_resumed(raft_cluster):
    cluster = raft_cluster(nodes=3, engine=REPLICATED)
    follower = cluster.followers()[0]
    cluster.pause(follower)
    with cluster.on(cluster.leader()):
        add_item.propose(name="tea")
    with cluster.on(follower):
        assert names() == []
    cluster.assert_equal()  # of the others
    cluster.resume(follower)
    cluster.assert_equal()
    with cluster.on(follower):
        assert names() == ["tea"]


def test_what_was_changed_behind_the_clusters_back_is_named(raft_cluster):
    cluster = raft_cluster(nodes=3)
    add_item.propose(name="tea", stock=5)
    cluster.assert_equal()
    with sqlite3.connect(cluster.path("c")) as connection:
        connection.execute("UPDATE warehouse_item SET stock = 7")
    connection.close()
    with pytest.raises(AssertionError) as raised:
        cluster.assert_equal()
    (key,) = Item.objects.values_list("pk", flat=True)
    assert f"warehouse_item, key {key}, column stock: 5 on a, 7 on c" in str(raised.value)


def test_stock_databases_take_commands(raft_cluster):
    cluster = raft_cluster(nodes=3)
    assert connections["default"].settings_dict["ENGINE"] == "django.db.backends.sqlite3"
    add_item.propose(name="tea")
    cluster.kill_leader()
    add_item.propose(name="milk")
    cluster.assert_equal()


@pytest.mark.raft_cluster(1)
def test_one_node_keeps_what_it_answered_when_it_is_killed(raft_cluster):
    cluster = raft_cluster(engine=REPLICATED)
    assert cluster.names == ["a"]
    for number in range(5):
        add_item.propose(name=f"item {number}")
    cluster.kill("a")
    with pytest.raises(raftlog.NodeUnavailable):
        add_item.propose(name="tea")
    cluster.restart("a")
    add_item.propose(name="tea")
    assert len(names()) == 6


def test_it_starts_within_a_second_and_leaves_no_thread_and_no_database(raft_cluster):
    from raftlog.testing.cluster import Cluster

    before, threads = connections["default"], set(threading.enumerate())
    with Cluster(3, engine=REPLICATED):
        add_item.propose(name="before")  # the template is made
    began = clock.process_cpu()
    with Cluster(3, engine=REPLICATED) as cluster:
        assert clock.process_cpu() - began < 1.0  # of CPU: the machine may be busy
        assert names() == []
        folder = cluster.path("a").parent
    assert connections["default"] is before
    assert {thread for thread in set(threading.enumerate()) - threads if "raftlog-" in thread.name} == set()
    assert not folder.exists()


def test_a_name_that_is_no_node_is_refused(raft_cluster):
    cluster = raft_cluster(nodes=3)
    with pytest.raises(ValueError, match="there is no node 'x'; the nodes are a, b, c"):
        cluster.kill("x")
    with pytest.raises(ValueError, match="nodes is 0"):
        raft_cluster(nodes=0)
