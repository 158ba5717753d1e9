"""Sequences, counters and flags on three real nodes, with the leader killed while they are used."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster

pytestmark = pytest.mark.processes

EACH = 40  # invoices of each application


def rows(node, sql):
    with closing(sqlite3.connect(f"file:{node.database}?mode=ro", uri=True)) as raw:
        return raw.execute(sql).fetchall()


def start_worker(node):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.contrib.desk.worker", node.node_id, str(EACH)],
        env=node.environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until_issued(node, count):
    deadline = clock.monotonic() + 30
    while rows(node, "SELECT count(*) FROM desk_invoice")[0][0] < count:
        assert clock.monotonic() < deadline
        clock.sleep(0.05)


def test_numbers_have_no_gap_counters_are_exact_and_flags_arrive_though_the_leader_is_killed(tmp_path):
    with ProcessCluster(3, tmp_path, settings_module="tests.contrib.desk_settings") as cluster:
        cluster.start()
        leader = cluster[cluster.wait_for_leader(timeout=30)]
        other = next(node for node in cluster if node is not leader)
        leader.manage("migrate", "--run-syncdb", "--verbosity=0", timeout=120)
        cluster.wait_all_applied(60)
        workers = [start_worker(node) for node in cluster]
        try:
            wait_until_issued(other, EACH)
            leader.kill()
            cluster.wait_for_leader(30, other_than=[leader.node_id])
            other.manage("raft", "flags", "set", "greeting", "goodbye", timeout=60)
            leader.start()
            reports = [json.loads(worker.communicate(timeout=90)[0]) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        cluster.wait_all_applied(60)
        acknowledged = {token: number for each in reports for token, number in each["acknowledged"].items()}
        assert len(acknowledged) == 3 * EACH
        for node in cluster:
            issued = dict(rows(node, "SELECT token, number FROM desk_invoice"))
            # No number is missing, none stands twice; what was acknowledged is there, what was not is known as such.
            assert sorted(issued.values()) == list(range(1, len(issued) + 1))
            assert issued.items() >= acknowledged.items()
            assert len(issued) <= len(acknowledged) + sum(each["unsure"] for each in reports)
            assert rows(node, "SELECT last FROM raftlog_sequences_sequence") == [(len(issued),)]
            assert rows(node, "SELECT value FROM raftlog_counters_counter") == [(3 * EACH,)]
        assert [(each["greeting"], each["told"]) for each in reports] == [("goodbye", ["goodbye"])] * 3
