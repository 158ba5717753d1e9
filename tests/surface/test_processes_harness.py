"""The harness starts, kills, pauses and ends real processes, whatever ends the one that started them."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock
from raftlog.testing import processes
from raftlog.testing.processes import PORTS, ProcessCluster, ProcessTimeout, free_ports, leader_of

pytestmark = pytest.mark.processes

# Stands for `manage.py raft run`: says that it is ready, and ends on SIGTERM with 0.
NODE = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", sys.argv[1:], os.environ["RAFTLOG_NODE_ID"], flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def cluster(tmp_path):
    script = tmp_path / "node.py"
    script.write_text(NODE)
    with ProcessCluster(2, tmp_path / "nodes", command=[sys.executable, str(script)]) as cluster:
        yield cluster


def eventually(reached, timeout=20):
    deadline = clock.monotonic() + timeout
    while not reached():
        assert clock.monotonic() < deadline
        clock.sleep(0.01)


def state_of(pid):
    """R, S, T (stopped), Z …; "" where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def test_nodes_are_started_paused_killed_and_started_again(cluster):
    cluster.start()
    node = cluster["a"]
    eventually(lambda: node.output().endswith("ready ['raft', 'run'] a"))
    node.pause()
    eventually(lambda: state_of(node.pid) == "T")
    node.resume()
    eventually(lambda: state_of(node.pid) != "T")
    node.kill()
    assert not node.is_running
    assert cluster["b"].is_running
    first = node.pid
    node.start()
    assert node.pid != first
    eventually(lambda: node.output().count("ready") == 2)
    assert node.stop() == 0


def test_a_node_that_runs_is_not_started_twice(cluster):
    cluster["a"].start()
    with pytest.raises(RaftlogError, match="running already"):
        cluster["a"].start()


def test_closing_ends_even_a_paused_node(cluster):
    cluster.start()
    cluster["a"].pause()
    cluster.close()
    assert cluster.running == []


def test_a_state_that_is_not_reached_says_what_each_node_did(cluster):
    cluster["a"].start()
    eventually(lambda: "ready" in cluster["a"].output())
    cluster["a"].kill()
    with pytest.raises(ProcessTimeout, match=r"a leader.*(?s:.*)a: is not running; it printed last:\nready"):
        cluster.wait_for_leader(timeout=0.05)


def test_nodes_die_with_a_parent_that_is_killed(tmp_path):
    """Not even SIGKILL of a test or a demo leaves nodes behind."""
    script = tmp_path / "node.py"
    script.write_text(NODE)
    parent = textwrap.dedent(f"""
        import signal, sys
        from pathlib import Path
        from django.conf import settings
        settings.configure(SECRET_KEY="tests only")
        from raftlog.testing.processes import ProcessCluster
        cluster = ProcessCluster(1, Path({str(tmp_path / "nodes")!r}), command=[sys.executable, {str(script)!r}])
        cluster.start()
        print(cluster["a"].pid, flush=True)
        signal.pause()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        pid = int(process.stdout.readline())
        eventually(lambda: "ready" in (tmp_path / "nodes" / "a" / "node.log").read_text())
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: state_of(pid) in ("", "Z"))


def test_free_ports_are_distinct_not_in_use_and_outside_the_ephemeral_range(monkeypatch):
    with socket.socket() as listener:
        taken = free_ports(1)[0]
        listener.bind(("127.0.0.1", taken))
        listener.listen()
        monkeypatch.setattr(processes, "PORTS", range(taken, taken + 50))
        found = free_ports(5)
    assert len(set(found)) == 5
    assert taken not in found
    assert PORTS.stop <= 32_768


def test_the_leader_is_the_one_of_the_newest_term():
    statuses = {
        "a": {"role": "leader", "current_term": 2},
        "b": {"role": "leader", "current_term": 3},
        "c": {"role": "follower", "current_term": 3},
        "d": None,
    }
    assert leader_of(statuses) == "b"
    assert leader_of(statuses, other_than=["b"]) == "a"
    assert leader_of({"c": statuses["c"]}) is None
