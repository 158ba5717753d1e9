"""Looking into a running cluster: its log, its threads, the rows of all nodes; and healing the one that differs."""

import contextlib
import json
import sqlite3

import pytest

from raftlog.exceptions import RaftlogError
from raftlog.testing.processes import ProcessCluster
from tests.processes.test_upgrade import BOUND, install, shell

pytestmark = pytest.mark.processes

TABLE = "upgraded_shop_item"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    with ProcessCluster(3, folder, settings_module="tests.processes.upgrade.settings") as made:
        for node in made:
            install(node, "v2")
        made.start()
        made.wait_for_leader(timeout=BOUND)
        made["a"].manage("migrate", "--verbosity=0", timeout=BOUND)
        code = "[Item.objects.create(name=f'item {n}', stock=n) for n in range(3)]; add.propose(name='screw', stock=9)"
        shell(made["a"], code)
        made.wait_all_applied(timeout=BOUND)
        yield made


def raft(node, *arguments):
    """(whether it ended with 0, what it printed as JSON, a list of objects)"""
    try:
        output, succeeded = node.manage("raft", *arguments, timeout=BOUND), True
    except RaftlogError as error:
        output, succeeded = str(error), False
    return succeeded, [json.loads(line) for line in output.splitlines() if line.startswith(("{", "["))]


def edit(node, sql):
    with contextlib.closing(sqlite3.connect(node.database, timeout=60)) as raw:
        raw.execute(sql)
        raw.commit()


def test_the_log_of_any_node_decoded(cluster):
    ok, entries = raft(cluster["b"], "log", "--json", "--grep", "screw|item 2")
    assert ok
    transaction, command = entries
    assert command["command"] == "upgraded_shop.add"
    assert (command["version"], command["arguments"]) == (2, {"name": "screw", "stock": 9})
    [change] = transaction["changes"]
    assert (change["operation"], change["table"], transaction["committed"]) == ("insert", TABLE, True)
    assert {key: change["values"][key] for key in ("name", "stock", "note")} == {
        "name": "item 2",
        "stock": 2,
        "note": "",
    }
    assert raft(cluster["b"], "log", "--json", "--node", "c", "--grep", "screw|item 2") == (True, entries)


def test_the_threads_of_a_node(cluster):
    ok, [threads] = raft(cluster["a"], "threads", "--json", "--stacks")
    assert ok
    found = {thread["name"]: thread for thread in threads}
    assert found["raftlog-a-apply"]["doing"] == "waiting for committed entries"
    assert any("state_machine_main" in frame for frame in found["raftlog-a-apply"]["stack"])
    assert {"raftlog-a-peer-b", "raftlog-a-peer-c", "raftlog-a-log-sync", "MainThread"} <= found.keys()


def test_a_row_edited_by_hand_is_found_by_digest_and_healed_by_repair(cluster):
    ok, [alike] = raft(cluster["a"], "digest", "--json")
    assert ok
    assert (alike["alike"], alike["differences"], alike["incomplete"]) == (["a", "b", "c"], [], [])
    assert alike["tables"][TABLE]["rows"] == 4
    assert len({node["index"] for node in alike["nodes"].values()}) == 1

    leader = cluster.wait_for_leader(timeout=BOUND)
    victim = next(node for node in cluster if node.node_id != leader)
    edit(victim, f"UPDATE {TABLE} SET stock = 77 WHERE name = 'screw'")
    ok, [differs] = raft(cluster[leader], "digest", "--json")
    assert not ok
    assert (differs["exit_code"], differs["majority"]) == (1, True)
    [difference] = differs["differences"]
    assert (difference["node"], difference["table"], difference["cause"]) == (victim.node_id, TABLE, "not by the log")
    [row] = difference["rows"]
    assert (row["reference"]["stock"], row["node"]["stock"]) == (9, 77)
    with pytest.raises(RaftlogError) as ended:
        cluster[leader].manage("raft", "digest", timeout=BOUND)
    shown = str(ended.value)
    assert f"stock: 9 on {differs['reference']}, 77 on {victim.node_id}" in shown
    assert "manage.py raft repair --database" in shown

    assert not raft(victim, "repair", "--database", "--noinput")[0]  # while its node runs
    cluster.wait_for(
        lambda found: bool(found[victim.node_id] and found[victim.node_id]["divergence"]), BOUND, "it knows by itself"
    )
    assert victim.stop(timeout=60) == 0
    ok, [repaired] = raft(victim, "repair", "--database", "--from-peers", "--noinput", "--json")
    assert ok
    assert "an image of" in repaired["source"]
    victim.start()
    # Not from its own log: that begins later.
    statuses = cluster.wait_for(
        lambda found: bool((found[victim.node_id] or {}).get("last_applied")), BOUND, "it has installed an image"
    )
    assert statuses[victim.node_id]["first_index"] > 1
    cluster.wait_all_applied(timeout=BOUND)
    ok, [healed] = raft(victim, "digest", "--json")
    assert ok, healed
    assert (healed["alike"], healed["tables"][TABLE]) == (["a", "b", "c"], alike["tables"][TABLE])
    with contextlib.closing(sqlite3.connect(repaired["kept"].removeprefix("the old database is "))) as raw:
        assert raw.execute(f"SELECT stock FROM {TABLE} WHERE name = 'screw'").fetchone() == (77,)
