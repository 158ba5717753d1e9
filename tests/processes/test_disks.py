"""Disks of leaders that are full, stall or fail, with real processes: another leads on, and the node comes back.

The full disk is a real one: a small tmpfs under the log of one node.
"""

import json
import os
import subprocess

import pytest

from raftlog.runtime import clock
from raftlog.storage.faults import ENVIRONMENT_VARIABLE
from raftlog.testing.processes import ProcessCluster, leader_of
from raftlog.testing.writer import Writer
from tests.processes.recipes import follow
from tests.services import missing

pytestmark = pytest.mark.processes

TIMEOUT = 60
TMPFS_BYTES = 2 << 20
SEGMENT_BYTES = 64 << 10
ELECTION_TIMEOUT = 2.0  # long, so that a busy machine elects nobody on its own


@pytest.fixture
def tmpfs(tmp_path):
    """The folder of node a's log, on a file system of two megabytes."""
    folder = tmp_path / "a" / "raft"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"a small tmpfs cannot be mounted (uid {os.getuid()}): {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def cluster(tmp_path, tmpfs):
    options = {"SEGMENT_BYTES": SEGMENT_BYTES, "ELECTION_TIMEOUT": ELECTION_TIMEOUT}
    settings = "raftlog.testing.bench_site.settings"
    with ProcessCluster(3, tmp_path, settings_module=settings, options=options) as cluster:
        for node in cluster:
            node.environment[ENVIRONMENT_VARIABLE] = str(tmp_path / f"{node.node_id}.faults.json")
        cluster.start()
        cluster.wait_for_leader(TIMEOUT)
        cluster["b"].manage("migrate", "--run-syncdb", "--verbosity=0")
        yield cluster


def fault(cluster, node_id, what):
    path = cluster.directory / f"{node_id}.faults.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(what))
    fresh.replace(path)


def problems(found, node_id):
    return "; ".join(found[node_id]["problems"]) if found[node_id] else "no answer"


def wait_until_healthy(cluster, node_id):
    cluster.wait_for(lambda found: problems(found, node_id) == "", TIMEOUT, f"{node_id} says that all is well")


def fill(tmpfs):
    with (tmpfs / "filler").open("wb", buffering=0) as filler:
        while True:
            try:
                filler.write(bytes(4096))
            except OSError:
                return


class Load:
    """Writers on the two nodes whose disks are well."""

    def __init__(self, cluster):
        self.writers = {node_id: Writer(cluster[node_id].client(), node_id, pause=0.01) for node_id in ("b", "c")}
        for writer in self.writers.values():
            writer.start()

    def now_comes(self, step):
        for writer in self.writers.values():
            writer.step = step

    def stop(self):
        for node_id, writer in self.writers.items():
            writer.stop()
            print(f"through {node_id}: {writer.shown()}")
            assert not writer.refused
            assert not writer.unknown


def let_lead(cluster, node_id):
    cluster["b"].manage("raft", "transfer", node_id)


def test_full_stalled_and_failing_disks_of_leaders(cluster, tmpfs):
    load = Load(cluster)
    fill_the_disk(cluster, tmpfs, load)
    let_the_disk_hang(cluster, load)
    let_a_sync_fail(cluster, load)
    load.stop()
    cluster.wait_all_applied(TIMEOUT)
    for name, gap in load.writers["b"].gaps.items():
        assert gap < 20, f"{name}: at rest it is within two election timeouts"
    for writer in load.writers.values():
        writer.check(node.database for node in cluster)


def fill_the_disk(cluster, tmpfs, load):
    """At its next segment a can write nothing more."""
    let_lead(cluster, "a")
    load.now_comes("full disk")
    fill(tmpfs)
    found = cluster.wait_for(
        lambda found: leader_of(found) not in (None, "a") and "the disk is full" in problems(found, "a"),
        TIMEOUT,
        "leadership is handed over, and a says why",
    )
    assert found["a"]["unfit"] == "its disk is full"
    assert "the disk is full; this node takes no entries" in cluster["a"].log_file.read_text()
    status, members = follow("disk-full", cluster)
    assert "the disk is full" in status
    may_lead = {words[0]: words[4] for words in map(str.split, members.splitlines()[2:])}
    assert may_lead == {"a": "no", "b": "yes", "c": "yes"}, members
    writer = load.writers["c"]
    seen = len(writer.acknowledged)
    cluster.wait_for(lambda found: len(writer.acknowledged) > seen + 20, TIMEOUT, "writes go on")
    load.now_comes("room again")
    (tmpfs / "filler").unlink()
    wait_until_healthy(cluster, "a")


def let_the_disk_hang(cluster, load):
    """Its heartbeats go out all the while."""
    let_lead(cluster, "a")
    load.now_comes("stalled disk")
    began = clock.monotonic()
    fault(cluster, "a", {"sync": {"stall": True}})
    cluster.wait_for(lambda found: leader_of(found, ["a"]), TIMEOUT, "another leads")
    took = clock.monotonic() - began
    print(
        f"\nanother leads {took:.2f} s after the disk hung, {took - ELECTION_TIMEOUT:.2f} s after the stall threshold"
    )
    cluster.wait_for(lambda found: "the disk does not answer" in problems(found, "a"), TIMEOUT, "a says why")
    load.now_comes("disk answers")
    fault(cluster, "a", {})
    wait_until_healthy(cluster, "a")


def let_a_sync_fail(cluster, load):
    """That is final for the process, whose log says why."""
    let_lead(cluster, "a")
    load.now_comes("failed sync")
    fault(cluster, "a", {"sync": {"errno": "EIO", "match": ".segment"}})
    assert cluster["a"].wait(TIMEOUT) == 2
    assert "could not be synced" in cluster["a"].output()
    fault(cluster, "a", {})
    cluster["a"].start()
    cluster.wait_for(lambda found: found["a"] is not None, TIMEOUT, "a is up again")
