"""Migrations on three real nodes while writers go on: run once, on one of them; another is down meanwhile (rule 13)."""

import contextlib
import os
import signal
import sqlite3
import subprocess

import pytest

from raftlog.runtime import clock
from raftlog.runtime.turn_queue import LEASE
from raftlog.testing.processes import ProcessCluster
from tests.processes.test_orm import contents
from tests.processes.test_turns import finish, shell, start_load

pytestmark = pytest.mark.processes

WRITERS = 3  # of each app process
WAITING = 0.02  # seconds between two looks


@contextlib.contextmanager
def load_on(nodes):
    """Writers on these nodes, each thread with a row of its own, until the block ends; yields what they report then."""
    reports = []
    processes = [start_load(node, "through_migrations", WRITERS, 0) for node in nodes]
    try:
        for process in processes:
            assert process.stdout.readline() == "started\n"
        yield reports
    finally:
        for process in processes:
            report = finish(process)
            print(report)
            reports.append(report)


def hits(node):
    """What the writers have done, as this node's database knows."""
    with contextlib.closing(sqlite3.connect(f"file:{node.database}?mode=ro", uri=True)) as raw:
        table = "shelf_volume" if "shelf_volume" in tables(raw) else "shelf_book"
        return raw.execute(f"SELECT sum(hits) FROM {table}").fetchone()[0]


def tables(raw):
    return {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def schema(node):
    with contextlib.closing(sqlite3.connect(f"file:{node.database}?mode=ro", uri=True)) as raw:
        return {sql for (sql,) in raw.execute("SELECT sql FROM sqlite_master WHERE name LIKE 'shelf%'")}


def wait_until(condition, what, timeout=60.0):
    deadline = clock.monotonic() + timeout
    while not condition():
        assert clock.monotonic() < deadline, f"not within {timeout} s: {what}"
        clock.sleep(WAITING)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("migrations")
    with ProcessCluster(3, folder, settings_module="tests.processes.shelf_settings") as made:
        made.start()
        made.wait_for_leader(timeout=60)
        made["a"].manage("migrate", "shelf", "0001", timeout=120)
        create = "from tests.processes.shelf.models import Book; [Book.objects.create(title=f'w{n}') for n in range(9)]"
        shell(made["a"], create)
        yield made


def assert_alike(cluster):
    cluster.wait_all_applied(timeout=120)
    found = [contents(node) for node in cluster]
    assert found[0] == found[1] == found[2]


def test_column_data_index_and_rename_while_writers_go_on_and_a_node_is_down(cluster):
    leader = cluster.wait_for_leader(timeout=60)
    down, up = [node for node in cluster if node.node_id != leader]
    down.stop()
    before = hits(up)
    with load_on([cluster[leader], up]) as reports:
        for name in ("0002", "0003", "0004", "0005"):
            at = hits(up)
            began = clock.monotonic()
            up.manage("migrate", "shelf", name, timeout=120)
            print(f"{name}: {clock.monotonic() - began:.2f} s, {hits(up) - at} writes meanwhile")
            at = hits(up)
            wait_until(lambda at=at: hits(up) > at, f"writers go on after {name}")
    assert all(report["errors"] == [] for report in reports)
    down.start()
    assert_alike(cluster)
    assert hits(down) - before == sum(report["done"] for report in reports)
    with contextlib.closing(sqlite3.connect(f"file:{down.database}?mode=ro", uri=True)) as raw:
        assert "shelf_volume" in tables(raw)
        notes = raw.execute("SELECT count(*) FROM shelf_volume WHERE note LIKE 'was %'").fetchone()[0]
        assert notes == 9
        indexes = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
        assert {"book_hits", "book_note"} <= indexes


def test_a_command_before_its_migration_fails_alike_and_holds_nobody_up(cluster):
    """The bank's tables come after it in the log: three nodes record it, go on, migrate, and run it then."""
    node = cluster["b"]
    propose = "from demo_site.bank.commands import open_account; print(open_account.propose(name='early', balance=1))"
    report = f"""
from raftlog.exceptions import NotMigrated
try:
    {propose}
except NotMigrated as error:
    print(f"refused: {{error}}")
"""
    assert "refused: the command 'bank.open_account' uses what the replicated database lacks" in shell(node, report)
    assert_alike(cluster)
    node.manage("migrate", "bank", timeout=120)
    assert shell(node, propose) == "1"
    assert_alike(cluster)
    assert all(status["healthy"] for status in cluster.statuses().values())


@contextlib.contextmanager
def endless_migration(node):
    """A migration that has changed schema and rows, and waits; killed at the end of the block."""
    migrating = subprocess.Popen(
        [*node.command, "migrate", "shelf", "0006"],
        env=node.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while "half-way" not in (line := migrating.stderr.readline()):
            assert line, "the migration ended by itself"
        yield migrating
    finally:
        migrating.kill()
        migrating.wait()
        migrating.stderr.close()


def fence_of(cluster, leader):
    turn = (cluster[leader].status() or {"write_turn": {"fence": False, "holder": ""}})["write_turn"]
    return turn["holder"] if turn["fence"] else ""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_migration_that_is_killed_half_way_leaves_nothing_and_holds_nobody_up(cluster, end):
    node, other = cluster["b"], cluster["c"]
    cluster.wait_all_applied(timeout=60)
    before = schema(other)
    with load_on([cluster["a"], other]) as reports, endless_migration(node) as migrating:
        at = hits(other)
        assert fence_of(cluster, cluster.wait_for_leader(timeout=60)) == "b"
        os.kill(migrating.pid, end)
        ended_at = clock.monotonic()
        wait_until(lambda: hits(other) > at, "writers go on")
        waited = clock.monotonic() - ended_at
        print(f"writers went on {waited:.2f} s after the migration's end, writes behind the fence: {at}")
        assert waited < LEASE + 15  # at any load
    assert all(report["errors"] == [] for report in reports)
    assert_alike(cluster)
    assert_nothing_of_it(other, before)


def assert_nothing_of_it(other, before):
    assert schema(other) == before
    with contextlib.closing(sqlite3.connect(f"file:{other.database}?mode=ro", uri=True)) as raw:
        assert raw.execute("SELECT count(*) FROM shelf_volume WHERE note = 'half-way'").fetchone() == (0,)
        assert raw.execute("SELECT count(*) FROM django_migrations WHERE name LIKE '0006%'").fetchone() == (0,)


def test_a_new_leader_takes_the_fence_up_again(cluster):
    leader = cluster.wait_for_leader(timeout=60)
    node, other = [node for node in cluster if node.node_id != leader]
    cluster.wait_all_applied(timeout=60)
    before = schema(other)
    with endless_migration(node):
        assert fence_of(cluster, leader) == node.node_id
        cluster[leader].kill()
        new_leader = cluster.wait_for_leader(timeout=60, other_than=[leader])
        wait_until(lambda: fence_of(cluster, new_leader) == node.node_id, "the fence stands again")
    wait_until(lambda: fence_of(cluster, new_leader) == "", "the fence is gone with its process")
    cluster[leader].start()
    assert_alike(cluster)
    assert_nothing_of_it(other, before)
