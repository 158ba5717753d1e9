"""Queue and schedule on three real nodes, with the leader and workers killed in the middle; the trials, small."""

import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from raftlog.contrib.schedule.models import Run
from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster
from raftlog.testing.trials.queue import Queue
from raftlog.testing.trials.schedule import Schedule


def rows(node, sql):
    with closing(sqlite3.connect(f"file:{node.database}?mode=ro", uri=True)) as raw:
        return raw.execute(sql).fetchall()


def wait_until(reached, timeout=40):
    deadline = clock.monotonic() + timeout
    while not reached():
        assert clock.monotonic() < deadline
        clock.sleep(0.05)


@pytest.mark.processes
def test_each_task_is_completed_once_though_workers_and_the_leader_are_killed(tmp_path):
    options = {"nodes": 3, "tasks": 150, "workers": 3, "threads": 2, "kill_leader": 0.5, "kill_worker": 0.5}
    report = Queue().run(options | {"longest": 90.0, "mutation": None}, tmp_path, random.Random(5), print)
    assert report["problems"] == []
    assert (report["completions"], report["effects"]) == (150, 15)
    assert report["leaders_killed"] >= 1


@pytest.mark.processes
def test_a_job_is_run_once_each_second_though_the_leader_is_killed_and_workers_end_when_asked(tmp_path):
    with ProcessCluster(3, tmp_path, settings_module="tests.contrib.clockwork_settings") as cluster:
        cluster.start()
        leader = cluster[cluster.wait_for_leader(timeout=30)]
        other = next(node for node in cluster if node is not leader)
        other.manage("migrate", "--verbosity=0", "--skip-checks", timeout=120)
        worker = subprocess.Popen(
            [*other.command, "raft", "worker", "--processes", "2", "--json"],
            env=other.environment,
            stdout=subprocess.PIPE,
        )
        try:
            count = "SELECT count(*) FROM raftlog_queue_queuedtask WHERE state = 'SUCCESSFUL' AND result = '\"tock\"'"
            wait_until(lambda: rows(other, count)[0][0] >= 2)
            leader.kill()
            cluster.wait_for_leader(30, other_than=[leader.node_id])
            before = rows(other, count)[0][0]
            wait_until(lambda: rows(other, count)[0][0] >= before + 3)
            leader.start()
            worker.send_signal(signal.SIGTERM)
            printed = worker.communicate(timeout=30)[0].decode()
            assert worker.returncode == 0
        finally:
            worker.kill()
            worker.wait()
        reports = [json.loads(line) for line in printed.splitlines()]
        assert len(reports) == 2
        assert sum(report["completed"] for report in reports) >= before + 3
        found = rows(other, "SELECT due, node FROM raftlog_schedule_run ORDER BY due")
        seconds = [int(due[17:19]) for due, _ in found]
        assert {(later - earlier) % 60 for earlier, later in itertools.pairwise(seconds)} == {1}
        assert len({node for _, node in found}) >= 2
        shown = json.loads(other.manage("raft", "schedule", "--json", timeout=60))
        assert [job["job"] for job in shown["jobs"]] == ["tests.contrib.clockwork.schedule.tick"]


SUPERVISOR = """
import os, signal, sys, threading, time, types
import django
django.setup()
from raftlog.management.raft import worker

def work(options, output):
    if os.path.exists(sys.argv[1]):
        os.unlink(sys.argv[1])
        return 3
    time.sleep(30)

worker.work = work
output = types.SimpleNamespace(stream=sys.stdout, line=lambda *args, **options: None)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
worker.supervise({"processes": 1, "burst": False}, output)
"""


def test_a_stop_while_a_worker_is_to_be_started_again_starts_none(tmp_path):
    (tmp_path / "first").touch()
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.contrib.clockwork_settings"}
    subprocess.run([sys.executable, "-c", SUPERVISOR, tmp_path / "first"], env=environment, timeout=20, check=True)


@pytest.fixture
def unblocked(django_db_blocker):
    with django_db_blocker.unblock():
        yield


def test_jobs_over_virtual_time_with_elections_are_run_once_each(unblocked, tmp_path):
    options = {"nodes": 3, "minutes": 2, "mutation": None}
    report = Schedule().run(options, tmp_path, random.Random(7), print)
    assert report["problems"] == []
    assert min(report["runs"].values()) >= 1
    assert report["elections"] >= 5


def test_the_trial_of_jobs_finds_a_firing_that_is_not_unique(unblocked, tmp_path):
    options = {"nodes": 3, "minutes": 2, "mutation": "fire-without-uniqueness"}
    report = Schedule().run(options, tmp_path, random.Random(7), print)
    assert any("more than once" in problem for problem in report["problems"])
    assert Run._meta.constraints
