"""A majority is gone for good, on real processes: the recipe of docs/operations.md, and an old member that returns."""

import json
import sqlite3
import time
from datetime import UTC, datetime, timedelta

import pytest

from raftlog.replication import codec
from raftlog.replication.client_session import BlockingAnswers, ClientSession
from raftlog.runtime.ports import APPLIED
from raftlog.testing.processes import ProcessCluster
from tests.processes.recipes import follow

pytestmark = pytest.mark.processes

TIMEOUT = 120
DELETE = "from raftlog.testing.bench_site.models import Row; Row.objects.all().delete()"
CREATE = "Row.objects.create(id=1, value='stock')"


class Writer:
    """Rows through a node, one entry each."""

    def __init__(self, node):
        self.session = ClientSession(node.client())
        self.session.open(TIMEOUT)

    def write(self, *values):
        for value in values:
            answers = BlockingAnswers(1)
            body = codec.encode_command("bench.write_row", 1, {"value": value})
            self.session.submit([body], answers, TIMEOUT)
            answers.wait(TIMEOUT + 1)
            assert answers.outcomes[0].status == APPLIED


def status(node):
    """Once it answers, however busy the machine is."""
    found = []
    wait_until(lambda: found.append(node.status()) or found[-1], f"{node.node_id} answers")
    return found[-1]


def leads_alone(cluster, node):
    cluster.wait_for(
        lambda found: (found[node.node_id] or {}).get("role") == "leader", TIMEOUT, f"{node.node_id} leads alone"
    )


def rows(node):
    raw = sqlite3.connect(f"file:{node.database}?mode=ro", uri=True)
    try:
        return sorted(value for (value,) in raw.execute("SELECT value FROM bench_row"))
    finally:
        raw.close()


def wait_until(holds, what):
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path):
    options = {"BACKUP_STORAGE": "backups", "ARCHIVE_INTERVAL": 0.2}
    environment = {"TEST_BACKUPS": str(tmp_path / "backups")}
    with ProcessCluster(
        3, tmp_path, settings_module="tests.processes.backup_settings", options=options, environment=environment
    ) as cluster:
        yield cluster


def test_a_lost_majority_and_a_mistaken_delete(cluster):
    a, _, c = cluster
    cluster.start()
    cluster.wait_for_leader(TIMEOUT)
    a.manage("migrate", "--run-syncdb", "--verbosity=0", "--skip-checks")
    Writer(a).write("one", "two")
    cluster.wait_all_applied(TIMEOUT)
    two_of_three_hosts_are_gone_for_good(cluster, a, c)
    restored_to_the_second_before_a_delete(cluster, a, c)
    c.kill()
    out_of_the_cluster_and_into_another(cluster, a)


def two_of_three_hosts_are_gone_for_good(cluster, a, c):
    former = status(a)["cluster_id"]
    cluster.kill("bc")
    a.kill()
    shown, done = follow("recover", cluster)
    assert "lost for good: b, c" in shown
    assert "May be lost: whatever was acknowledged after entry" in shown
    assert "Nothing was changed" in shown
    assert "Done: the new cluster's id is" in done
    a.start()
    leads_alone(cluster, a)
    assert status(a)["cluster_id"] != former
    Writer(a).write("three")
    assert rows(a) == ["one", "three", "two"]
    an_old_member_is_refused(cluster, a, c)
    follow("rejoin", cluster, {"ws://10.0.0.3:8000": c.address})
    Writer(c).write("four")
    cluster.wait_all_applied(TIMEOUT)
    assert rows(c) == rows(a) == ["four", "one", "three", "two"]
    c.stop()
    c.start()
    cluster.wait_all_applied(TIMEOUT)
    assert status(c)["cluster_id"] == status(a)["cluster_id"]


def restored_to_the_second_before_a_delete(cluster, a, c):
    made, listed, verified = follow("backup", cluster)
    assert "rows in" in made
    assert "image-0000" in listed
    assert "whole:" in verified
    made, shown = follow("snapshot", cluster, {"/backup/now.image": str(a.database.with_name("now.image"))})
    assert "rows/s)" in made
    assert "bench_row" in shown
    writer = Writer(a)
    writer.write("five", "six")
    before = datetime.now(UTC) + timedelta(seconds=1)
    time.sleep(2)  # log time is the leader's clock, which is near this one
    a.manage("shell", "-v", "0", "-c", DELETE)
    writer.write("too late")
    written = cluster.wait_all_applied(TIMEOUT)
    assert rows(a) == ["too late"]

    def is_archived(statuses):
        return any(found["backup"]["archived_index"] >= written for found in statuses.values() if found)

    cluster.wait_for(is_archived, TIMEOUT, "all is archived")
    former = status(a)["cluster_id"]
    cluster.kill("abc")
    (told,) = follow("restore", cluster, {"2026-03-01 14:59:59": f"{before:%Y-%m-%dT%H:%M:%S.%fZ}"})
    assert "entries after it, up to entry" in told
    a.start()
    leads_alone(cluster, a)
    assert status(a)["cluster_id"] != former
    wait_until(lambda: rows(a) == ["five", "four", "one", "six", "three", "two"], "a has what was there before")
    follow("rejoin", cluster, {"ws://10.0.0.3:8000": c.address})  # it gets an image: the log begins after the backup
    Writer(c).write("seven")
    cluster.wait_all_applied(TIMEOUT)
    assert rows(a) == rows(c) == ["five", "four", "one", "seven", "six", "three", "two"]


def out_of_the_cluster_and_into_another(cluster, a):
    """Its database becomes a stock one, and that the first state of a new cluster."""
    known, former = rows(a), status(a)["cluster_id"]
    a.stop()
    (told,) = follow("leave", cluster)
    assert "django.db.backends.sqlite3" in told
    assert rows(a) == known
    a.environment["RAFTLOG_BENCH_ENGINE"] = "django.db.backends.sqlite3"
    a.manage("shell", "-v", "0", "-c", f"{DELETE}; {CREATE}")
    del a.environment["RAFTLOG_BENCH_ENGINE"]
    adopted, _ = follow("adopt", cluster)
    assert "a is the cluster" in adopted
    leads_alone(cluster, a)
    Writer(a).write("replicated")
    assert rows(a) == ["replicated", "stock"]
    assert status(a)["cluster_id"] != former


def an_old_member_is_refused(cluster, a, c):
    """It comes back as it was, and is told why nobody talks with it and what to do."""
    c.start()
    cluster.wait_for(lambda found: found["c"], TIMEOUT, "c answers")
    wait_until(lambda: "wrong cluster" in a.output(200), "a refuses c")
    wait_until(lambda: "raft recover --rejoin" in json.dumps(status(c)), "c says why it is refused")
    assert status(c)["role"] != "leader"
    assert list(status(a)["members"]) == ["a"]
    c.stop()
