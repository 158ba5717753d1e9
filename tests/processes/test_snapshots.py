"""A compacted log: images bring up a new member, a deleted database and an old copy of one, on real processes."""

import shutil
import sqlite3

import pytest
from prometheus_client.parser import text_string_to_metric_families

from raftlog.testing.processes import ProcessCluster
from tests.processes.test_orm import contents

pytestmark = pytest.mark.processes

BOUND = 90
SHELL = ("shell", "-v", "0", "-c")
# Every few hundred rows a file of the log is full.
SMALL = {
    "SEGMENT_BYTES": 65_536,
    "COMPACT_LOG_BYTES": 131_072,
    "KEEP_LOG_BYTES": 65_536,
    "KEEP_LOG_ENTRIES": 1,
    "SNAPSHOT_BYTES_PER_SECOND": 4 << 20,
}
WRITE = """
from demo_site.bank.models import Account
for number in range(60):
    names = [f"{name} {{number}} {{n}} " + "x" * 200 for n in range(50)]
    Account.objects.bulk_create(Account(name=text[:50], balance=1, paid_in=1) for text in names)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with ProcessCluster(
        3, tmp_path_factory.mktemp("snapshots"), settings_module="tests.processes.orm_settings", options=SMALL
    ) as made:
        made.start()
        made.migrate()
        yield made


def write(cluster, name):
    """Rows enough that every node gives up the beginning of its log; returns where it begins then."""
    before = max(status["first_index"] for status in cluster.statuses().values() if status)
    cluster.running[0].manage(*SHELL, WRITE.format(name=name), timeout=BOUND)
    cluster.wait_for(
        lambda found: all(
            found[node.node_id] is not None and found[node.node_id]["first_index"] > before for node in cluster.running
        ),
        BOUND,
        f"every node has compacted its log beyond entry {before}",
    )


def remove_database(node):
    for file in node.directory.glob("db.sqlite3*"):
        file.unlink()


def metrics(node):
    """(name, label values …) -> value, of what Prometheus is told."""
    families = text_string_to_metric_families(node.manage("raft", "metrics"))
    return {(s.name, *(s.labels[key] for key in ("step", "outcome") if key in s.labels)): s.value
            for family in families for s in family.samples}  # fmt: skip


def assert_equal(cluster):
    cluster.wait_all_applied(timeout=BOUND)
    found = [contents(node) for node in cluster.running]
    assert all(other == found[0] for other in found[1:])


def test_who_needs_entries_that_are_gone_gets_an_image(cluster):
    copy = cluster.directory / "copy"
    with sqlite3.connect(cluster["a"].database) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    write(cluster, "first")
    leader = cluster.wait_for_leader(BOUND)
    follower = next(node for node in cluster if node.node_id != leader)

    # A running follower's database is deleted.
    remove_database(follower)
    cluster.wait_for(
        lambda found: "the database is now an image" in follower.log_file.read_text(), BOUND, "an image was installed"
    )
    assert_equal(cluster)
    counts = metrics(follower)
    assert (
        counts["raftlog_image_steps_total", "pull", "done"]
        == counts["raftlog_image_steps_total", "install", "done"]
        == 1
    )
    size = counts["raftlog_image_step_bytes_total", "install"]
    assert 0 < size <= counts["raftlog_image_step_bytes_total", "pull"]
    assert counts["raftlog_image_step_seconds_total", "pull"] > 0
    made = [metrics(node)["raftlog_image_steps_total", "make", "done"] for node in cluster if node is not follower]
    assert sum(made) >= 1

    # A stopped leader's database is replaced by a copy that is older than its own log.
    assert cluster[leader].stop() == 0
    write(cluster, "second")
    remove_database(cluster[leader])
    shutil.move(copy, cluster[leader].database)
    cluster[leader].start()
    assert_equal(cluster)

    # A new node joins.
    cluster.new_node("d").start()
    cluster.wait_for(lambda found: found["d"] is not None, BOUND, "d is up")
    cluster.running[0].manage("raft", "add", "d", cluster["d"].address, timeout=BOUND)
    cluster.wait_for(
        lambda found: found["d"] is not None and "d" in found["d"]["configuration"]["voters"], BOUND, "d is a voter"
    )
    assert_equal(cluster)
