"""A stock project on three real nodes: migrations, the ORM and atomic blocks, with the leader killed in between."""

import sqlite3

import pytest

from raftlog.replication.fingerprint import scan
from raftlog.replication.shapes import Schema
from raftlog.testing.processes import ProcessCluster

pytestmark = pytest.mark.processes

WRITES = """
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import F
from demo_site.bank.models import Account
from raftlog.backends.exceptions import TransactionConflict
for name in ("x", "y"):
    Account.objects.get_or_create(name=name, defaults={{"balance": 1000, "paid_in": 1000}})
done = 0
while done < 10:
    try:
        with transaction.atomic():
            source = Account.objects.select_for_update().get(name="x")
            Account.objects.filter(pk=source.pk).update(balance=F("balance") - 1)
            Account.objects.filter(name="y").update(balance=F("balance") + 1)
            User.objects.create_user("{node}-{round}-" + str(done)).groups.add(Group.objects.get_or_create(name="g")[0])
        done += 1
    except TransactionConflict:
        pass
print("total", sum(Account.objects.values_list("balance", flat=True)), User.objects.count())
"""


def contents(node):
    raw = sqlite3.connect(f"file:{node.database}?mode=ro", uri=True)
    try:
        schema = raw.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()
        return schema, scan(raw, Schema(raw)), raw.execute("SELECT * FROM sqlite_sequence ORDER BY 1").fetchall()
    finally:
        raw.close()


def all_alike(statuses, index):
    return all(
        status is not None and [at >= index for at in status["fingerprint"]["alike"].values()] == [True, True]
        for status in statuses.values()
    )


def test_an_unmodified_project_survives_the_loss_of_its_leader(tmp_path):
    with ProcessCluster(3, tmp_path, settings_module="tests.processes.orm_settings") as cluster:
        cluster.start()
        leader = cluster.wait_for_leader(timeout=30)
        cluster["a"].manage("migrate", timeout=120)
        others = [node for node in cluster if node.node_id != leader]
        run = lambda node, number: node.manage(  # noqa: E731
            "shell", "-v", "0", "-c", WRITES.format(node=node.node_id, round=number), timeout=90
        )
        assert "total 2000 10" in run(cluster[leader], 1)
        assert "total 2000 20" in run(others[0], 1)
        cluster[leader].kill()
        cluster.wait_for_leader(timeout=30, other_than=[leader])
        assert "total 2000 30" in run(others[1], 2)
        cluster[leader].start()
        cluster.wait_all_applied(timeout=60)
        found = [contents(node) for node in cluster]
        assert found[0] == found[1] == found[2]
        assert "total 2000 40" in run(cluster[leader], 3)
        index = cluster.wait_all_applied(timeout=60)
        # Nobody raised an alarm, and all have been compared since.
        for status in cluster.wait_for(
            lambda found: all_alike(found, index), 60, "all found each other alike"
        ).values():
            assert (status["divergence"], status["differing_peers"], status["warnings"]) == (None, {}, [])
