"""The members change while a writer writes: one to three to five to three, each step one command, on real processes."""

import pytest

from raftlog.testing.processes import ProcessCluster
from raftlog.testing.writer import Writer

pytestmark = pytest.mark.processes

TIMEOUT = 30


def configuration(node):
    return node.status(TIMEOUT)["configuration"]


def start_new(cluster, *names):
    for name in names:
        cluster.new_node(name).start()
    cluster.wait_for(lambda found: all(found[name] for name in names), TIMEOUT, "the new nodes are up")


def test_from_one_to_three_to_five_to_three_under_load(tmp_path):
    with ProcessCluster(1, tmp_path, settings_module="raftlog.testing.bench_site.settings") as cluster:
        a = cluster["a"]
        cluster.start()
        cluster.wait_for_leader(TIMEOUT)
        a.manage("migrate", "--run-syncdb", "--verbosity=0")
        writer = Writer(a.client(), pause=0.005)
        writer.start()

        def step(*arguments):
            writer.step = " ".join(arguments[:2])
            return a.manage("raft", *arguments, timeout=90)

        start_new(cluster, "b", "c")
        step("add", "b", cluster["b"].address, "c", cluster["c"].address)
        assert configuration(a)["voters"] == ["a", "b", "c"]
        start_new(cluster, "d", "e")
        assert "d: added, and learns" in step("add", "d", cluster["d"].address, "--learner")
        step("add", "e", cluster["e"].address)
        step("promote", "d")
        assert configuration(cluster["e"])["voters"] == ["a", "b", "c", "d", "e"]
        if cluster.wait_for_leader(TIMEOUT) == "b":  # on a busy machine it may lead already
            step("transfer", "a")
        assert "leads in term" in step("transfer", "b")
        assert "left the cluster" in step("remove", "b", "e", "--noinput")  # the leader is one of them
        assert configuration(a)["voters"] == ["a", "c", "d"]
        removed = [cluster.nodes.pop(name) for name in ("b", "e")]
        step("transfer", "d")
        writer.step = "the leader stops"
        seen = len(writer.acknowledged)
        assert cluster["d"].stop() == 0
        cluster.wait_for(lambda found: len(writer.acknowledged) > seen + 20, TIMEOUT, "writes go on")
        writer.stop()
        for node in removed:
            assert node.wait(TIMEOUT) == 3, "a removed node ends by itself"
            node.close()
        cluster.wait_all_applied(TIMEOUT)
        print(writer.shown())
        writer.check(node.database for node in cluster.running)
        assert not writer.refused
        assert not writer.unknown
