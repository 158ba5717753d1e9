"""The recipes of docs/operations.md that change the members or restart nodes, one after the other on one cluster, while
writers write."""

import json
import shutil

import pytest

from raftlog import conf
from raftlog.exceptions import RaftlogError
from raftlog.testing.processes import ProcessCluster, free_ports, leader_of
from raftlog.testing.writer import Writer
from raftlog.transport.client import NodeClient
from tests.processes.recipes import follow

pytestmark = pytest.mark.processes

TIMEOUT = 90
NEW_KEY = "the new secret, which is long enough for a key"


@pytest.fixture
def cluster(tmp_path):
    with ProcessCluster(3, tmp_path, settings_module="raftlog.testing.bench_site.settings") as cluster:
        yield cluster


def change_settings(node, **options):
    """What the operator writes into the settings of one host; it counts from the node's next start."""
    node.options |= options
    node.settings = conf.load_settings(node.options)
    node.address = node.settings.address
    node.environment["RAFTLOG_OPTIONS"] = json.dumps(node.options, default=str)
    node.close()


def client_with(node, *keys):
    """A process of that host that has all the keys, as one that is restarted in time would."""
    settings = conf.load_settings(node.options | {"SECRET_KEYS": list(keys)})
    return NodeClient(f"unix:{settings.socket_path}", settings.secret_keys, settings.cluster)


def voters(cluster):
    return cluster["b"].status(TIMEOUT)["configuration"]["voters"]


def test_members_addresses_priorities_restarts_and_secrets(cluster):
    old = cluster["a"].options["SECRET_KEYS"][0]
    printed = follow("bootstrap", cluster)
    assert "3 voters, of which 1 may be lost" in printed[3]
    assert "leads in term" in printed[-1]
    cluster["a"].manage("migrate", "--run-syncdb", "--verbosity=0")
    client = client_with(cluster["b"], old, NEW_KEY)
    writer = Writer(client, pause=0.02)
    writer.start()
    for step in (add, replace_under_the_old_name, replace, remove, move, say_who_leads, take_down):
        writer.step = step.__name__
        step(cluster)
    assert not writer.refused
    assert not writer.unknown
    writer.step = "rotate"
    for keys in ([NEW_KEY, old], [NEW_KEY]):
        for node in cluster:
            change_settings(node, SECRET_KEYS=keys)
        follow("rotate", cluster, hosts={"c": "e"})
    seen = len(writer.acknowledged)
    cluster.wait_for(lambda found: len(writer.acknowledged) > seen + 20, TIMEOUT, "writes go on")
    writer.stop()
    client.close()
    cluster.wait_all_applied(TIMEOUT)
    print(f"\n{writer.shown()}")
    writer.check(node.database for node in cluster)


def add(cluster):
    cluster.new_node("d")
    follow("add", cluster, {"ws://10.0.0.4:8000": cluster["d"].address})
    assert voters(cluster) == ["a", "b", "c", "d"]


def replace_under_the_old_name(cluster):
    """Its folder is gone, so it may not vote as what it was."""
    d = cluster["d"]
    d.kill()
    shutil.rmtree(d.directory)
    d.start()
    cluster.wait_for(lambda found: found["d"], TIMEOUT, "the emptied node is up")
    with pytest.raises(RaftlogError, match="d is a member with another folder"):
        cluster["a"].manage("raft", "add", "d", d.address)
    output = cluster["a"].manage("raft", "replace", "d", d.address, "--noinput", timeout=TIMEOUT)
    assert "d is in the place of d" in output
    assert voters(cluster) == ["a", "b", "c", "d"]


def replace(cluster):
    cluster["c"].kill()
    cluster.new_node("e")
    follow("replace", cluster, {"ws://10.0.0.5:8000": cluster["e"].address})
    cluster.nodes.pop("c").close()
    assert voters(cluster) == ["a", "b", "d", "e"]


def remove(cluster):
    follow("remove", cluster)
    removed = cluster.nodes.pop("d")
    assert removed.wait(TIMEOUT) == 3
    removed.close()


def move(cluster):
    address = f"ws://127.0.0.1:{free_ports(1)[0]}"
    change_settings(cluster["e"], ADDRESS=address)
    follow("move", cluster, {"ws://10.0.0.7:8000": address})

    def is_reached(found):
        leader = leader_of(found)
        return leader is not None and found[leader]["members"]["e"]["connected"]

    cluster.wait_for(is_reached, TIMEOUT, "e is reached where it is now")


def say_who_leads(cluster):
    assert "10" in follow("priority", cluster)[1]
    cluster.wait_for(lambda found: leader_of(found) == "a", TIMEOUT, "a leads")


def take_down(cluster):
    follow("take-down", cluster)
