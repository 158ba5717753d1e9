"""Three nodes are upgraded one by one under load, and downgraded: a new command, a changed one, a migration."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from raftlog.exceptions import RaftlogError
from raftlog.testing.processes import ProcessCluster

pytestmark = pytest.mark.processes

CODE = Path(__file__).parent / "upgrade"
BOUND = 120.0  # seconds for anything
IMPORTS = "from upgraded_shop.commands import *; from upgraded_shop.models import Item"


def install(node, version):
    """The host's code is `version` from its next start on."""
    node.environment["PYTHONPATH"] = os.pathsep.join([str(CODE / version), str(Path.cwd())])


def shell(node, code):
    return node.manage("shell", "-v", "0", "-c", f"{IMPORTS}\n{code}", timeout=BOUND).strip()


def committed(cluster):
    """The highest index that a node knows to be committed now."""
    found = cluster.wait_for(lambda found: any(found.values()), BOUND, "any node answers")
    return max(status["commit_index"] for status in found.values() if status)


def change_code(cluster, node, version):
    """The recipe: stop, install, start, wait until it has caught up and the others know."""
    assert node.stop(timeout=60) == 0
    install(node, version)
    node.start()
    applied = committed(cluster)
    cluster.wait_for(
        lambda found: all(found.values()) and found[node.node_id]["last_applied"] >= applied,
        BOUND,
        f"{node.node_id} has caught up",
    )


@contextlib.contextmanager
def load_on(nodes):
    """App processes with the old code, one a host; yields what they report at the end of the block."""
    reports = []
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.processes.upgrade.load", node.node_id],
            env=node.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in nodes
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "started\n"
        yield reports
    finally:
        for process in processes:
            output, _ = process.communicate(timeout=BOUND)
            reports.append(json.loads(output.splitlines()[-1]))


def rows(node):
    with contextlib.closing(sqlite3.connect(f"file:{node.database}?mode=ro", uri=True)) as raw:
        return raw.execute("SELECT * FROM upgraded_shop_item ORDER BY id").fetchall()


@pytest.fixture
def cluster(tmp_path):
    with ProcessCluster(3, tmp_path, settings_module="tests.processes.upgrade.settings") as made:
        for node in made:
            install(node, "v1")
        made.start()
        made.wait_for_leader(timeout=BOUND)
        made["a"].manage("migrate", "--verbosity=0", timeout=BOUND)
        yield made


def lacks(status):
    """Member -> commands that it lacks, as a node that answers knows it; None: it does not answer."""
    if status is None:
        return None
    return {node_id: member["lacks"] for node_id, member in status["members"].items() if member["lacks"]}


def assert_waits_for_newer_code(cluster, node):
    """Taken back too early, a node stands still before an entry that it does not know, and skips nothing."""
    assert node.stop(timeout=60) == 0
    other = next(each for each in cluster if each.is_running)
    shell(other, "describe.propose(name='new', note='told again')")
    install(node, "v1")
    node.start()
    statuses = cluster.wait_for(
        lambda found: "which this node does not know" in str((found[node.node_id] or {}).get("problems")),
        BOUND,
        f"{node.node_id} says which entry it cannot apply",
    )
    assert "'upgraded_shop.describe' version 1" in str(statuses[node.node_id]["problems"])
    assert statuses[node.node_id]["role"] == "follower"
    change_code(cluster, node, "v2")


def test_three_nodes_are_upgraded_and_downgraded_under_load_and_nothing_is_lost(cluster):
    a, b, c = cluster
    with load_on([a, b]) as reports:
        # The new code is installed on one host, whose node runs the old one still: the schema comes first, everywhere.
        install(c, "v2")
        c.manage("migrate", "--verbosity=0", timeout=BOUND)
        migrated = committed(cluster)
        cluster.wait_for(
            lambda found: all(status and status["last_applied"] >= migrated for status in found.values()),
            BOUND,
            "every node has applied the migration",
        )
        change_code(cluster, c, "v2")
        # The leader, whichever it is, refuses what a voter does not know; the migration is for all versions.
        with pytest.raises(RaftlogError, match=r"CommandNotSupported.*'upgraded_shop.describe' version 1 is not known"):
            shell(c, "describe.propose(name='x', note='y')")
        lacking = ["upgraded_shop.add version 2", "upgraded_shop.describe version 1"]
        cluster.wait_for(lambda found: lacks(found["c"]) == {"a": lacking, "b": lacking}, BOUND, "c has heard both")
        change_code(cluster, a, "v2")
        change_code(cluster, b, "v2")
        cluster.wait_for(lambda found: set(map(str, map(lacks, found.values()))) == {"{}"}, BOUND, "all know of all")
        assert shell(c, "add.propose(name='new', stock=7); print(describe.propose(name='new', note='told'))") == "1"
        assert_waits_for_newer_code(cluster, c)
        # Back again: first nobody proposes the new commands any more, and all have applied them.
        for node in cluster:
            change_code(cluster, node, "v1")
    print([len(report["acknowledged"]) for report in reports], [report["retries"] for report in reports])
    assert [report["errors"] for report in reports] == [[], []]
    cluster.wait_all_applied(timeout=BOUND)
    found = [rows(node) for node in cluster]
    assert found[0] == found[1] == found[2]
    names = [row[1] for row in found[0]]
    assert len(names) == len(set(names))
    for report in reports:
        assert len(report["acknowledged"]) > 20
        assert set(report["acknowledged"]) <= set(names)
    assert [row[1:] for row in found[0] if row[1] == "new"] == [("new", 7, "told again")]
