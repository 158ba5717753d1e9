"""Triggers of the project's own: what they change is captured once, and they do not fire again where it is applied."""

import sqlite3

import pytest
from django.db import IntegrityError, transaction

from raftlog.backends.exceptions import NotReplicable
from raftlog.replication.shapes import can_switch_triggers_off
from raftlog.replication.transactions import TransactionApplier
from raftlog.replication.write_set import decode_write_set
from tests.backends.conftest import ALIAS, contents

CAN_SWITCH = can_switch_triggers_off()
needs_switch = pytest.mark.skipif(not CAN_SWITCH, reason="triggers can be switched off since Python 3.12")

TRIGGERS = """
CREATE TABLE history (id integer PRIMARY KEY AUTOINCREMENT, what text);
CREATE TRIGGER number_it AFTER INSERT ON parent WHEN NEW.rank IS NULL BEGIN
    UPDATE parent SET rank = NEW.id * 10 WHERE id = NEW.id;
    INSERT INTO history (what) VALUES ('new ' || NEW.name);
END;
CREATE TRIGGER no_zero BEFORE UPDATE ON parent WHEN NEW.rank = 0 BEGIN SELECT RAISE(ABORT, 'no zero'); END;
CREATE TRIGGER gone AFTER DELETE ON parent BEGIN INSERT INTO history (what) VALUES ('gone ' || OLD.name); END;
CREATE VIEW named AS SELECT id, name FROM parent;
CREATE TRIGGER through_view INSTEAD OF INSERT ON named BEGIN INSERT INTO parent (name) VALUES (NEW.name); END;
"""


def make(database):
    for statement in TRIGGERS.split(";\nCREATE"):
        database.run(("" if statement.lstrip().startswith("CREATE") else "CREATE") + statement.rstrip(";\n") + ";")


@needs_switch
def test_their_effects_are_captured_once(database):
    make(database)
    database.run("INSERT INTO parent (name) VALUES ('a')")
    database.run("INSERT INTO parent (name) VALUES ('b') ON CONFLICT (name) DO UPDATE SET name = 'c'")
    database.run("UPDATE parent SET rank = 5 WHERE name = 'a'")
    database.run("REPLACE INTO parent (id, name, rank) VALUES (1, 'z', 1)")
    database.run("DELETE FROM parent WHERE name = 'b'")
    assert database.run("SELECT name, rank FROM parent") == [("z", 1)]
    history = [what for (what,) in database.run("SELECT what FROM history ORDER BY id")]
    assert history == ["new a", "new b", "gone a", "gone b"]
    database.assert_equal()


@needs_switch
def test_a_view_is_written_through_them(database):
    make(database)
    database.run("INSERT INTO named (name) VALUES ('a')")
    with transaction.atomic(ALIAS):
        database.run("INSERT INTO named (name) VALUES ('b')")
        database.run("INSERT INTO named (name) VALUES ('c')")
    assert database.run("SELECT name, rank FROM parent ORDER BY id") == [("a", 10), ("b", 20), ("c", 30)]
    database.assert_equal()


@needs_switch
def test_what_they_raise_undoes_the_statement(database):
    make(database)
    database.run("INSERT INTO parent (name) VALUES ('a')")
    before = database.entries
    with pytest.raises(IntegrityError, match="no zero"):
        database.run("UPDATE parent SET rank = 0")
    assert database.entries == before
    database.assert_equal()


@needs_switch
def test_they_come_and_go_with_the_schema(database):
    """Made, used and dropped in one transaction with rows before and after, as a migration may."""
    make(database)
    with transaction.atomic(ALIAS):
        database.run("CREATE TABLE fresh (id integer PRIMARY KEY, t text)")
        database.run("CREATE TRIGGER shout AFTER INSERT ON fresh BEGIN UPDATE fresh SET t = upper(t); END")
        database.run("INSERT INTO fresh (t) VALUES ('x')")
        database.run("DROP TRIGGER shout")
        database.run("INSERT INTO fresh (t) VALUES ('y')")
    assert database.run("SELECT t FROM fresh ORDER BY id") == [("X",), ("y",)]
    database.assert_equal()


@needs_switch
def test_what_they_look_at_counts_as_read(make_database):
    database = make_database()
    database.run("INSERT INTO plain VALUES (1, 2)")
    database.run(
        "CREATE TRIGGER copy AFTER INSERT ON worded BEGIN "
        "UPDATE worded SET n = (SELECT max(b) FROM plain) WHERE word = NEW.word; END"
    )
    database.run("INSERT INTO worded (word) VALUES ('a')")
    write_set = decode_write_set(database.replica.entries[-1][1])
    assert "plain" in write_set.read_tables
    assert database.run("SELECT n FROM worded") == [(2,)]


@needs_switch
def test_a_replica_with_foreign_keys_on_is_equal_too(make_database):
    database = make_database()
    make(database)
    database.run("INSERT INTO parent (name) VALUES ('a')")
    database.run("INSERT INTO child (parent_id) VALUES (1)")
    other = sqlite3.connect(":memory:", isolation_level=None)
    applier = TransactionApplier(other)
    applier.marks.make_tables()
    other.execute("PRAGMA foreign_keys = ON")
    other.execute("PRAGMA recursive_triggers = ON")
    for index, body in database.replica.entries:
        applier.apply_alone(index, body)
    assert contents(other) == contents(database.replica.connection)
    other.close()


@pytest.mark.skipif(CAN_SWITCH, reason="this Python can switch them off")
def test_a_python_that_cannot_switch_them_off_refuses_them(database):
    with pytest.raises(NotReplicable, match="triggers would fire again"):
        database.run("CREATE TRIGGER t AFTER INSERT ON plain BEGIN DELETE FROM pair; END")
    assert database.run("SELECT name FROM sqlite_master WHERE type = 'trigger'") == []
