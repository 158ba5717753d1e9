"""The cache and rate limits on three real nodes, with the leader killed while processes of all hosts use them."""

import json
import pickle
import sqlite3
import subprocess
import sys

import pytest

from raftlog.testing.processes import ProcessCluster
from tests.processes.cache_app import KEYS, RATE

pytestmark = pytest.mark.processes
TIMES = 60


def cached(node):
    """What the database of a node that is stopped holds: {key: value}."""
    raw = sqlite3.connect(f"file:{node.database}?mode=ro", uri=True)
    try:
        rows = raw.execute("SELECT name, number, data FROM raftlog_cache_entry").fetchall()
    finally:
        raw.close()
    return {
        name.removeprefix("default::1:"): pickle.loads(data) if number is None else number
        for name, number, data in rows
    }


def start_application(node):
    command = [sys.executable, "-m", "tests.processes.cache_app", node.node_id, str(TIMES)]
    return subprocess.Popen(command, env=node.environment, stdout=subprocess.PIPE, text=True)


def test_counts_winners_and_limits_are_exact_though_the_leader_is_killed(tmp_path):
    with ProcessCluster(3, tmp_path, settings_module="tests.processes.cache_settings") as cluster:
        cluster.start()
        leader = cluster.wait_for_leader(timeout=30)
        cluster[leader].manage("migrate", timeout=120)
        applications = [start_application(node) for node in cluster]
        try:
            assert [application.stdout.readline() for application in applications] == ["underway\n"] * 3
            cluster[leader].kill()
            cluster.wait_for_leader(timeout=30, other_than=[leader])
            cluster[leader].start()
            told = [json.loads(application.communicate(timeout=90)[0]) for application in applications]
        finally:
            for application in applications:
                application.kill()
                application.wait()
                application.stdout.close()
        cluster.wait_all_applied(60)
    found, *others = [cached(node) for node in cluster]
    assert others == [found, found]
    assert sorted(count for one in told for count in one["incr"]) == list(range(1, 3 * TIMES + 1))
    winners = {key: node for node, one in zip("abc", told, strict=True) for key in one["add"]}
    assert sum(len(one["add"]) for one in told) == len(winners) == KEYS
    assert found == {"hits": 3 * TIMES, **winners}
    assert sum(one["allowed"] for one in told) == int(RATE.partition("/")[0])
