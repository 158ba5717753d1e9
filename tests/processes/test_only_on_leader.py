"""Three hosts, `raft only-on-leader` on each: one runs the command, and another once that one is gone."""

import itertools
import signal
import subprocess
import sys

import pytest

from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster

pytestmark = pytest.mark.processes

WORK = """
import os, sys, time
while True:
    at = time.clock_gettime(time.CLOCK_BOOTTIME)
    os.write(1, f"{sys.argv[1]} {os.environ['RAFTLOG_FENCE']} {at:.6f}\\n".encode())
    time.sleep(0.02)
"""


@pytest.fixture
def cluster(tmp_path):
    with ProcessCluster(3, tmp_path, settings_module="tests.processes.locks_settings") as made:
        made.start()
        made.wait_for_leader(timeout=60)
        made["a"].manage("migrate", "raftlog_locks", timeout=120)
        made.wait_all_applied(timeout=60)
        yield made


def test_one_host_runs_the_command_though_it_is_stopped_and_the_leader_killed(cluster, tmp_path):
    log = tmp_path / "log"
    supervisors = {}
    with log.open("ab") as output:
        for node in cluster:
            command = [*node.command, "raft", "only-on-leader", "--ttl", "3", "--", sys.executable, "-c", WORK]
            supervisors[node.node_id] = subprocess.Popen(
                [*command, node.node_id], env=node.environment, stdin=subprocess.DEVNULL, stdout=output
            )

    def lines():
        return [line.split() for line in log.read_text().split("\n")[:-1]]

    def runs_on(other_than=()):
        deadline = clock.monotonic() + 60
        while not (found := [line for line in lines() if line[0] not in other_than]):
            assert clock.monotonic() < deadline, f"nobody but {other_than} runs the command"
            clock.sleep(0.02)
        return found[-1][0]

    try:
        first = runs_on()
        cluster[cluster.wait_for_leader(30)].kill()
        supervisors[first].send_signal(signal.SIGSTOP)  # and not the command: it must be ended all the same
        second = runs_on(other_than=[first])
        assert second != first
    finally:
        for supervisor in supervisors.values():
            supervisor.send_signal(signal.SIGCONT)
            supervisor.terminate()
            supervisor.wait(30)
    spans = {}
    for _, token, at in lines():
        first_at, _ = spans.get(int(token), (float(at), 0.0))
        spans[int(token)] = (first_at, float(at))
    ordered = [spans[token] for token in sorted(spans)]
    assert len(ordered) >= 2
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ordered)), ordered
