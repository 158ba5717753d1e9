"""As test_orm, on three PostgreSQL databases."""

import json
import os

import pytest

from raftlog.testing.processes import ProcessCluster
from tests import services
from tests.backends.postgresql import Replica, connect, contents
from tests.processes.test_orm import WRITES
from tests.processes.test_snapshots import SMALL

pytestmark = pytest.mark.processes


@pytest.fixture
def server():
    """Settings of the server, and the prefix under which the nodes' databases are made and dropped."""
    found = services.postgresql("public")
    prefix = f"raftlog_test_{os.getpid()}_node"
    names = [f"{prefix}_{node}" for node in "abc"]
    with connect({**found, "NAME": "postgres"}) as admin:
        for name in names:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            admin.execute(f"CREATE DATABASE {name}")
        yield found, prefix
        for name in names:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def cluster_of(server, path, **options) -> ProcessCluster:
    found, prefix = server
    return ProcessCluster(
        3,
        path,
        settings_module="tests.processes.orm_postgresql_settings",
        environment={"TEST_POSTGRESQL": json.dumps(found), "TEST_POSTGRESQL_PREFIX": prefix},
        **options,
    )


def make_anew(server, name):
    with connect({**server[0], "NAME": "postgres"}) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name}")


def assert_equal(cluster, server):
    found = []
    for node in cluster:
        replica = Replica({**server[0], "NAME": f"{server[1]}_{node.node_id}"})
        replica.assert_fingerprints()
        found.append(contents(replica.connection))
        replica.close()
    assert found[0] == found[1] == found[2]


def test_an_unmodified_project_survives_the_loss_of_its_leader(tmp_path, server):
    with cluster_of(server, tmp_path, options=SMALL) as cluster:
        cluster.start()
        leader = cluster.wait_for_leader(timeout=60)
        cluster["a"].manage("migrate", timeout=240)
        others = [node for node in cluster if node.node_id != leader]
        run = lambda node, number: node.manage(  # noqa: E731
            "shell", "-v", "0", "-c", WRITES.format(node=node.node_id, round=number), timeout=120
        )
        assert "total 2000 10" in run(cluster[leader], 1)
        assert "total 2000 20" in run(others[0], 1)
        cluster[leader].kill()
        cluster.wait_for_leader(timeout=60, other_than=[leader])
        assert "total 2000 30" in run(others[1], 2)
        cluster[leader].start()
        cluster.wait_all_applied(timeout=90)
        assert_equal(cluster, server)
        # A database that is dropped under a running node is filled again.
        make_anew(server, f"{server[1]}_{leader}")
        cluster.wait_for(
            lambda said: "it is brought up to date" in cluster[leader].log_file.read_text(), 60, "it is noticed"
        )
        cluster.wait_all_applied(timeout=90)
        assert_equal(cluster, server)
        assert "total 2000 40" in run(cluster[leader], 3)
        statuses = cluster.statuses().values()
        assert [(status["divergence"], status["warnings"]) for status in statuses] == [(None, [])] * 3
        # A superuser who switches the triggers off is found all the same.
        victim = cluster.wait_for_leader(timeout=60)
        with connect({**server[0], "NAME": f"{server[1]}_{victim}"}) as raw:
            raw.execute("SET session_replication_role = replica")
            raw.execute("UPDATE bank_account SET balance = balance + 1 WHERE name = 'x'")
        cluster.wait_for(lambda said: bool(said[victim] and said[victim]["divergence"]), 60, "it says that it differs")
        found = cluster[victim].status(timeout=10)["divergence"]
        assert (found["cause"], found["tables"]) == ("not by an entry", ["bank_account"])
        (row,) = found["rows"]
        assert int(row["here"]["balance"]) == int(row["there"]["balance"]) + 1
        cluster.wait_for_leader(timeout=60, other_than=[victim])
