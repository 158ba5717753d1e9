"""A leader that hears nothing any more, while every connection stays open: its followers' processes are paused."""

import sys
from pathlib import Path

import pytest

from raftlog.consensus.entries import OPEN_SESSION, client_payload
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, UNKNOWN
from raftlog.testing.processes import ProcessCluster, leader_of

pytestmark = pytest.mark.processes

MANAGE = [sys.executable, str(Path(__file__).parents[2] / "manage.py")]


@pytest.fixture
def cluster(tmp_path):
    with ProcessCluster(3, tmp_path, command=MANAGE) as cluster:
        cluster.start()
        cluster.migrate()
        yield cluster


def test_a_leader_without_answers_steps_down_and_its_callers_get_one(cluster):
    leader = cluster.wait_for_leader(40)
    others = [node for node in cluster if node.node_id != leader]
    answered = []
    client = cluster[leader].client()
    try:
        for node in others:
            node.pause()
        paused_at = clock.monotonic()
        client.propose([client_payload(OPEN_SESSION, b"waiting caller 1", 0, 0, b"")], 60.0, answered.extend)
        cluster.wait_for(lambda found: leader_of(found) is None, 20, "the leader steps down")
        # An election timeout (0.5 s), and what a busy machine needs to run the timer and this test.
        assert clock.monotonic() - paused_at < 5
        deadline = clock.monotonic() + 20
        while not answered:
            assert clock.monotonic() < deadline, "the caller was not answered although nobody leads"
            clock.sleep(0.05)
        assert answered[0].status == UNKNOWN
        for node in others:
            node.resume()
        cluster.wait_for_leader(40)
        later = []
        client.propose([client_payload(OPEN_SESSION, b"waiting caller 2", 0, 0, b"")], 30.0, later.extend)
        cluster.wait_for(lambda found: bool(later), 40, "writes go on")
        assert later[0].status == APPLIED
        cluster.wait_all_applied(30)
    finally:
        client.close()
