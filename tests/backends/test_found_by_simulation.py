"""Bugs of the SQLite backend that the simulation found, each as small as it could be made.

The second host has not applied what the first one has just committed.
"""

import os
import sqlite3
from pathlib import Path

import pytest
from django.db import models, transaction

from raftlog.backends.exceptions import TransactionConflict, UniqueConflict
from raftlog.replication.certify import LastChanged
from tests.backends.cluster import Cluster
from tests.backends.conftest import SCHEMA


class Row(models.Model):
    id = models.AutoField(primary_key=True)
    name = models.CharField(max_length=50, null=True)  # noqa: DJ001 (as the table has it)

    class Meta:
        app_label = "tests_backends"
        db_table = "parent"
        managed = False

    def __str__(self):
        return f"row {self.pk}"


@pytest.fixture
def cluster(tmp_path, django_db_blocker):
    with django_db_blocker.unblock():
        made = Cluster(tmp_path, 2)
        with made.hosts[0].connection.cursor() as cursor:
            cursor.executescript(SCHEMA)
        made.hosts[0].run("INSERT INTO parent (id, name, rank) VALUES (1, 'a', 1)")
        made.assert_equal()
        yield made
        made.assert_equal()
        made.close()


def test_a_single_statement_returns_what_its_last_run_returned(cluster):
    """It kept the rows of the first run, which had met a conflict."""
    first, second = cluster.hosts
    first.run("UPDATE parent SET rank = 5 WHERE id = 1")
    assert second.run("UPDATE parent SET rank = rank + 1 WHERE id = 1 RETURNING rank") == [(6,)]


def test_a_single_statement_is_certified_by_what_it_read(cluster):
    """Its reads were noted only after its commit: it missed rows that another host had just added."""
    first, second = cluster.hosts
    first.run("INSERT INTO parent (id, name, rank) VALUES (2, 'b', 1)")
    second.run("UPDATE parent SET rank = 9 WHERE rank = 1")
    assert second.run("SELECT rank FROM parent ORDER BY id") == [(9,), (9,)]


def test_executemany_is_certified_by_what_it_read(cluster):
    first, second = cluster.hosts
    first.run("INSERT INTO parent (id, name, rank) VALUES (2, 'b', 1)")
    with second.connection.cursor() as cursor:
        cursor.executemany("UPDATE parent SET rank = %s WHERE rank = %s", [(8, 7), (9, 1)])
    assert second.run("SELECT rank FROM parent ORDER BY id") == [(9,), (9,)]


def test_a_key_that_is_taken_while_automatic_keys_are_reserved_is_a_conflict(cluster):
    """SQLite's own IntegrityError came out of an INSERT into another table."""
    first, second = cluster.hosts

    def write():
        with transaction.atomic(second.name):
            second.run("INSERT INTO plain (a) VALUES ('second')")
            first.run("INSERT INTO plain (a) VALUES ('first')")  # the same rowid
            Row.objects.using(second.name).create(name="new")

    with pytest.raises(UniqueConflict):
        write()
    assert second.run("SELECT a FROM plain") == [("first",)]


def test_a_schema_editor_whose_commit_conflicts_leaves_foreign_keys_on(cluster):
    """They stayed off for the connection's life, and what it wrote afterwards was checked by nobody."""
    first, second = cluster.hosts
    first.run("UPDATE parent SET rank = 5 WHERE id = 1")
    with pytest.raises(TransactionConflict), second.connection.schema_editor() as editor:
        editor.execute("CREATE INDEX child_note ON child (note)")
    assert second.run("PRAGMA foreign_keys") == [(1,)]


@pytest.mark.parametrize(
    ("undone", "other"),
    [
        ("INSERT INTO worded VALUES ('x', 1)", "INSERT INTO worded VALUES ('x', 2)"),
        ("INSERT INTO parent (id, name) VALUES (70, 'x')", "INSERT INTO parent (id, name) VALUES (80, 'x')"),
    ],
)
def test_a_savepoint_rolled_back_has_seen_that_a_value_was_free(cluster, undone, other):
    """Run after the other, the statement would have failed: what the transaction did on its word does not hold."""
    first, second = cluster.hosts
    first.run(other)

    def write():
        with transaction.atomic(second.name):
            sid = transaction.savepoint(using=second.name)
            second.run(undone)
            transaction.savepoint_rollback(sid, using=second.name)
            second.run("INSERT INTO pair VALUES (1, 'x was free', 1)")

    with pytest.raises(TransactionConflict):
        write()


def test_a_savepoint_rolled_back_is_certified_by_the_table_that_it_refers_to_in_another_spelling(cluster):
    """SQLite does not mind the case of a name; what certification keeps goes by the table's own."""
    first, second = cluster.hosts
    first.run("CREATE TABLE follower (id integer PRIMARY KEY, parent integer REFERENCES PARENT (ID))")
    second.catch_up()
    first.run("INSERT INTO parent (id, name, rank) VALUES (2, 'b', 1)")

    def write():
        with transaction.atomic(second.name):
            sid = transaction.savepoint(using=second.name)
            second.run("INSERT INTO follower VALUES (1, 1)")
            transaction.savepoint_rollback(sid, using=second.name)
            second.run("INSERT INTO pair VALUES (1, 'parent 1 was there', 1)")

    with pytest.raises(TransactionConflict):
        write()


def test_raftlogs_tables_are_made_all_or_none():
    """After a crash between two of them the node could apply nothing."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    marks = LastChanged(connection)

    def authorize(action, first, *_):
        is_slots = action == sqlite3.SQLITE_CREATE_TABLE and first == "raftlog_slots"
        return sqlite3.SQLITE_DENY if is_slots else sqlite3.SQLITE_OK

    connection.set_authorizer(authorize)
    with pytest.raises(sqlite3.DatabaseError):
        marks.make_tables()
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.set_authorizer(None)
    marks.make_tables()
    assert marks.positions() == (0, 0, 0)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc which files are open")
def test_a_closed_connection_has_closed_its_files(make_database):
    """A statement that was not at its end kept them open, and with them the shared memory of a replaced database."""
    database = make_database()
    port = database.connection.apply_port()
    with transaction.atomic("replicated"):
        port.set_applied(database.entries)
    path = database.connection.settings_dict["NAME"]
    database.connection.close()
    database.connection.close()
    assert not [link for link in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if link.startswith(path)]
