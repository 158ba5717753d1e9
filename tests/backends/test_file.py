"""Rule 17: only the node makes the database file, and whoever has it open notices when it is another one."""

import os
import shutil
import sqlite3

import pytest
from django.db import OperationalError, connections, transaction

from raftlog import exceptions
from raftlog.backends.exceptions import DatabaseMissing, DatabaseReplaced
from raftlog.backends.log import use_log
from raftlog.backends.node_log import NodeLog
from raftlog.exceptions import NodeUnavailable
from raftlog.replication import propose
from raftlog.replication.apply import DatabaseStateMachine
from tests.backends.cluster import Cluster
from tests.backends.conftest import SCHEMA
from tests.replication.conftest import default_database
from tests.replication.log import batch, configuration


@pytest.fixture
def path(tmp_path):
    return tmp_path / "db.sqlite3"


@pytest.fixture
def machine(path, django_db_blocker):
    with django_db_blocker.unblock(), default_database({"ENGINE": "raftlog.backends.sqlite3", "NAME": str(path)}):
        use_log("default", NodeLog())
        machine = DatabaseStateMachine("default")
        yield machine
        machine.close()
        connections["default"].close()


@pytest.fixture
def host(tmp_path, django_db_blocker):
    with django_db_blocker.unblock():
        cluster = Cluster(tmp_path, 1)
        host = cluster.hosts[0]
        with host.connection.cursor() as cursor:
            cursor.executescript(SCHEMA)
        host.run("INSERT INTO worded VALUES ('old', 1)")
        host.path = tmp_path / "0.sqlite3"
        yield host
        cluster.close()


def replace(path):
    """Another database takes the path: a copy whose row says so, as a restored backup would."""
    copy = path.with_suffix(".copy")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as source, sqlite3.connect(copy) as target:
        source.backup(target)
        target.execute("UPDATE worded SET word = 'new'")
        target.commit()
    source.close()
    target.close()
    for suffix in ("-wal", "-shm"):
        os.unlink(f"{path}{suffix}")
    os.replace(copy, path)


def delete(path):
    os.unlink(path)


def rename(path):
    shutil.move(path, path.with_suffix(".moved"))


def test_an_idle_connection_goes_over_to_the_file_that_replaced_its_own(host):
    assert host.run("SELECT word FROM worded") == [("old",)]
    replace(host.path)
    assert host.run("SELECT word FROM worded") == [("new",)]
    with transaction.atomic(using=host.name):
        assert host.run("SELECT word FROM worded") == [("new",)]


@pytest.mark.parametrize("change", [replace, delete, rename])
@pytest.mark.parametrize("moment", ["before its first statement", "after reading", "before its commit"])
def test_a_transaction_over_a_file_that_changed_is_refused(host, change, moment):
    entries = len(host.cluster.entries)
    told = r"0\.sqlite3 (is gone|was replaced)"
    with pytest.raises(DatabaseReplaced, match=told), transaction.atomic(host.name):  # noqa: PT012 (one block)
        if moment == "after reading":
            host.run("SELECT word FROM worded")
        if moment == "before its commit":
            host.run("INSERT INTO worded VALUES ('more', 2)")
        change(host.path)
        if moment != "before its commit":
            host.run("INSERT INTO worded VALUES ('more', 2)")
    assert len(host.cluster.entries) == entries


@pytest.mark.parametrize("change", [delete, rename])
def test_a_missing_file_is_not_made_anew_by_an_application(host, change, monkeypatch):
    def refuse(path):
        raise DatabaseMissing(f"{path}: start the node")

    monkeypatch.setattr(host, "make_database", refuse, raising=False)
    change(host.path)
    for statement in ("SELECT 1", "INSERT INTO worded VALUES ('more', 2)"):
        with pytest.raises(DatabaseMissing, match="start the node"):
            host.run(statement)
    assert not host.path.exists()


def test_the_node_is_asked_for_a_missing_file(host, monkeypatch):
    def make(path):
        shutil.copy(saved, path)

    saved = host.path.with_suffix(".saved")
    with sqlite3.connect(saved) as target:
        host.raw.backup(target)
    target.close()
    monkeypatch.setattr(host, "make_database", make, raising=False)
    delete(host.path)
    assert host.run("SELECT word FROM worded") == [("old",)]


def test_without_a_node_the_error_says_how_to_start_it(tmp_path, monkeypatch):
    class Nowhere:
        def propose(self, payloads, timeout, done):
            raise NodeUnavailable("no node runs on this host: manage.py raft run")

    propose.set_proposer_factory(Nowhere)
    try:
        with pytest.raises(OperationalError, match=r"the\.sqlite3 is missing.*raft run"):
            NodeLog().make_database("the.sqlite3")
    finally:
        propose.set_proposer_factory(None)


@pytest.mark.parametrize("change", [delete, rename])
@pytest.mark.parametrize("is_noticed", ["at an entry", "in passing"])
def test_a_node_whose_file_is_gone_makes_it_anew_and_goes_on_from_there(machine, path, change, is_noticed):
    machine.apply(batch([configuration()], 1))
    change(path)
    with pytest.raises(DatabaseReplaced, match="is gone"):
        machine.apply(batch([configuration()], 2)) if is_noticed == "at an entry" else machine.look_around()
    assert not path.exists()
    machine.reopen()
    assert machine.last_applied == 0
    machine.apply(batch([configuration()], 1))
    machine.apply(batch([configuration()], 2))
    assert machine.last_applied == 2
    assert machine.healthy


def test_a_node_whose_file_was_set_back_goes_on_from_there(machine, path):
    machine.apply(batch([configuration()], 1))
    older = path.with_suffix(".older")
    shutil.copy(path, older)
    machine.close()  # all of it is in the file now
    shutil.copy(path, older)
    machine.apply(batch([configuration()], 2))
    machine.close()
    os.replace(older, path)
    with pytest.raises(exceptions.DatabaseReplaced, match=r"stands at entry 1 .* this node had applied 2"):
        machine.apply(batch([configuration()], 3))
    machine.reopen()
    machine.apply(batch([configuration()], 2))
    assert machine.last_applied == 2


def test_a_database_without_raftlog_s_tables_is_another_one(machine, path):
    machine.apply(batch([configuration()], 1))
    machine.close()
    path.unlink()
    sqlite3.connect(path).close()
    with pytest.raises(exceptions.DatabaseReplaced, match="lost the tables"):
        machine.apply(batch([configuration()], 2))
    machine.reopen()
    assert machine.last_applied == 0


def test_a_file_that_is_being_filled_is_opened_by_no_application(machine, path, monkeypatch):
    """The node is asked for it, as for a missing one; so the application waits until it is filled."""
    asked = []
    monkeypatch.setattr(NodeLog, "make_database", lambda log, missing: asked.append(missing))

    def connect():
        connections["default"].close()
        connections["default"]._makes_file = False
        connections["default"].ensure_connection()

    connect()
    machine.caught_up()
    connect()
    assert asked == [str(path)]
    path.unlink()
    machine.reopen()
    connect()
    assert asked == [str(path)] * 2


def test_reserved_keys_are_forgotten_when_the_cluster_is_another():
    log = NodeLog()
    for cluster_id, left in (("", 64), ("a", 64), ("a", 64), ("", 64), ("b", 0)):
        if left:
            log.key_blocks.drop_all()
            log.key_blocks.add("item", 1, 64, 0)
        log.connected(cluster_id)
        assert bool(log.key_blocks.take("item", 1, 0)) == bool(left), cluster_id


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_reserved_keys_stay_with_the_parent_of_a_fork():
    blocks = NodeLog().key_blocks
    blocks.add("item", 1, 64, 0)
    child = os.fork()
    if child == 0:
        os._exit(0 if blocks.take("item", 1, 0) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert blocks.take("item", 1, 0) == [1]
