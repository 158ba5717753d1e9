"""Certification: what a transaction finds at its place in the log, against what it saw when it ran (rules 2, 9, 10).

`held` runs a transaction to its commit and keeps its entry; the test then lets others commit, and applies it.
"""

from contextlib import contextmanager

import pytest
from django.db import IntegrityError, transaction

from raftlog.backends.exceptions import TransactionConflict, UniqueConflict
from raftlog.replication.certify import VerdictKind

ALIAS = "replicated"
UPDATE_BY_ID = 'UPDATE "parent" SET "rank" = %s WHERE "parent"."id" = %s'
UPDATE_BY_RANK = 'UPDATE "parent" SET "rank" = %s WHERE "parent"."rank" = %s'
DELETE_BY_ID = 'DELETE FROM "parent" WHERE "parent"."id" IN (%s, %s)'
ANOTHER_ROW = "INSERT INTO plain VALUES (1, 2)"
APPLIED, CONFLICT, UNIQUE = VerdictKind.APPLIED, VerdictKind.CONFLICT, VerdictKind.UNIQUE_CONFLICT


class Held(Exception):
    pass


class HoldingLog:
    """Takes an entry and does not apply it."""

    holds_turn = True
    key_blocks = None

    def __init__(self):
        self.bodies = []

    def commit(self, write_set, body, applier):
        self.bodies.append(body)
        raise Held


@pytest.fixture
def database(make_database):
    made = make_database()
    made.run("INSERT INTO parent (id, name, rank) VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)")
    made.run("INSERT INTO worded VALUES ('one', 1), ('two', 2)")
    return made


@contextmanager
def held(database):
    log = HoldingLog()
    control = database.control
    control.log = log
    try:
        with transaction.atomic(ALIAS):
            yield log.bodies
    except Held:
        pass
    finally:
        control.log = database.log


def run_held(database, *statements):
    with held(database) as bodies:
        for sql in statements:
            database.run(sql)
    return bodies[0]


def apply(database, body):
    """At the next index, here and on the replica, which must agree."""
    with database.control._internal():
        database.control.capture.sink.muted = True
        verdict = database.log.commit(None, body, database.control.applier)
        database.control.capture.sink.muted = False
    database.assert_equal()
    return verdict.kind


def test_a_single_statement_is_certified_by_what_it_read_too(database):
    log = HoldingLog()
    database.control.log = log
    try:
        with pytest.raises(Held):
            database.run("INSERT INTO worded SELECT 'total', sum(rank) FROM parent")
    finally:
        database.control.log = database.log
    database.run("UPDATE parent SET rank = 100")
    assert apply(database, log.bodies[0]) == CONFLICT


@pytest.mark.parametrize(
    ("undone", "meanwhile"),
    [
        ("INSERT INTO leaf (id, folder_id) VALUES (9, 1)", "DELETE FROM folder WHERE id = 1"),
        ("DELETE FROM folder WHERE id = 1", "INSERT INTO leaf (id, folder_id) VALUES (9, 1)"),
    ],
)
def test_what_a_savepoint_takes_back_has_looked_at_its_foreign_keys(database, undone, meanwhile):
    """Found by the simulation: the statement would have failed after what came first."""
    database.run("CREATE TABLE folder (id integer PRIMARY KEY)")
    database.run("CREATE TABLE leaf (id integer PRIMARY KEY, folder_id integer REFERENCES folder (id))")
    database.run("INSERT INTO folder VALUES (1)")
    body = run_held(database, "SAVEPOINT s", undone, "ROLLBACK TO s", "RELEASE s", ANOTHER_ROW)
    database.run(meanwhile)
    assert apply(database, body) == CONFLICT


def test_an_insert_of_nothing_is_certified_by_its_table(database):
    """Found by the simulation: after the rename it would have failed."""
    body = run_held(database, "INSERT INTO worded SELECT name, rank FROM parent WHERE rank > 9", ANOTHER_ROW)
    database.run("ALTER TABLE worded RENAME TO renamed")
    assert apply(database, body) == CONFLICT


@pytest.mark.parametrize(
    ("transaction_", "meanwhile", "expected"),
    [
        # rows that were changed, by key
        ("UPDATE parent SET rank = 9 WHERE id = 1", "UPDATE parent SET rank = 8 WHERE id = 1", CONFLICT),
        ('UPDATE "parent" SET "rank" = 9 WHERE "parent"."id" = 1', "DELETE FROM parent WHERE id = 1", CONFLICT),
        ("DELETE FROM parent WHERE id = 1", "UPDATE parent SET rank = 8 WHERE id = 1", CONFLICT),
        # what changes nothing makes no entry
        ("UPDATE parent SET rank = 9 WHERE id = 1", "UPDATE parent SET rank = 1 WHERE id = 1", APPLIED),
        # a table that was scanned
        ("UPDATE parent SET rank = 9 WHERE rank = 1", "UPDATE parent SET rank = 8 WHERE id = 2", CONFLICT),
        ("DELETE FROM parent", "INSERT INTO parent (name) VALUES ('new')", CONFLICT),
        ("INSERT INTO plain SELECT count(*), 0 FROM parent", "INSERT INTO parent (name) VALUES ('n')", CONFLICT),
        ("INSERT INTO plain SELECT count(*), 0 FROM parent", "INSERT INTO worded VALUES ('n', 1)", APPLIED),
        # unique values and keys
        ("INSERT INTO parent (id, name) VALUES (8, 'x')", "INSERT INTO parent (id, name) VALUES (9, 'x')", UNIQUE),
        ("INSERT INTO parent (id, name) VALUES (8, 'x')", "INSERT INTO parent (id, name) VALUES (8, 'y')", UNIQUE),
        ("INSERT INTO parent (id, name) VALUES (8, 'x')", "INSERT INTO parent (id, name) VALUES (9, 'y')", APPLIED),
        ("INSERT INTO worded VALUES ('x', 1)", "INSERT INTO worded VALUES ('x', 2)", UNIQUE),
        ("INSERT OR IGNORE INTO worded VALUES ('x', 1), ('one', 1)", "INSERT INTO worded VALUES ('z', 1)", CONFLICT),
        # foreign keys, both directions
        ("INSERT INTO child (parent_id) VALUES (3)", "DELETE FROM parent WHERE id = 3", CONFLICT),
        ("INSERT INTO child (parent_id) VALUES (3)", "UPDATE parent SET rank = 99", APPLIED),
        ("DELETE FROM parent WHERE id = 3", "INSERT INTO child (parent_id) VALUES (3)", CONFLICT),
        ("UPDATE parent SET id = 33 WHERE id = 3", "INSERT INTO child (parent_id) VALUES (3)", CONFLICT),
        # the schema
        ("UPDATE parent SET rank = 9 WHERE id = 1", "ALTER TABLE parent ADD COLUMN z integer", CONFLICT),
        ("INSERT INTO plain VALUES (1, 2)", "DROP TABLE plain", CONFLICT),
        ("INSERT INTO plain VALUES (1, 2)", "CREATE TABLE other (id integer PRIMARY KEY)", APPLIED),
        ("CREATE TABLE other (id integer PRIMARY KEY)", "INSERT INTO plain VALUES (1, 2)", CONFLICT),
    ],
)
def test_verdicts(database, transaction_, meanwhile, expected):
    body = run_held(database, transaction_)
    database.run(meanwhile)
    assert apply(database, body) is expected


@pytest.mark.parametrize(
    ("sql", "parameters", "meanwhile", "expected"),
    [
        (UPDATE_BY_ID, (9, 1), "UPDATE parent SET rank = 8 WHERE id = 2", APPLIED),
        (UPDATE_BY_ID, (9, 1), "UPDATE parent SET rank = 8 WHERE id = 1", CONFLICT),
        (DELETE_BY_ID, (1, 2), "UPDATE parent SET rank = 8 WHERE id = 3", APPLIED),
        # a key that was not there
        (DELETE_BY_ID, (1, 7), "INSERT INTO parent (id) VALUES (7)", CONFLICT),
        # the text of a number finds the number's row, so it is no lookup by key
        (UPDATE_BY_ID, (9, "1"), "UPDATE parent SET rank = 8 WHERE id = 2", CONFLICT),
        # by another column than the key
        (UPDATE_BY_RANK, (9, 1), "UPDATE parent SET rank = 8 WHERE id = 2", CONFLICT),
    ],
)
def test_lookups_by_key_conflict_by_row(database, sql, parameters, meanwhile, expected):
    with held(database) as bodies:
        database.run(sql, *parameters)
    database.run(meanwhile)
    assert apply(database, bodies[0]) is expected


def test_reads_are_certified_and_reads_by_key_by_row(database):
    select = 'SELECT "parent"."rank" FROM "parent" WHERE "parent"."id" = %s LIMIT 21'
    with held(database) as bodies:
        database.run(select, 1)
        database.run("INSERT INTO plain VALUES (1, 2)")
    with held(database) as others:
        database.run("SELECT max(rank) FROM parent")
        database.run("INSERT INTO plain VALUES (1, 2)")
    database.run("UPDATE parent SET rank = 8 WHERE id = 2")
    assert apply(database, bodies[0]) is APPLIED
    assert apply(database, others[0]) is CONFLICT


@pytest.mark.parametrize(("isolation", "expected"), [("serializable", CONFLICT), ("snapshot", APPLIED)])
def test_write_skew(make_database, isolation, expected):
    database = make_database(isolation=isolation)
    database.run("INSERT INTO worded VALUES ('one', 1), ('two', 1)")
    with held(database) as first:
        database.run("SELECT sum(n) FROM worded")
        database.run('UPDATE "worded" SET "n" = 0 WHERE "worded"."word" = %s', "one")
    with transaction.atomic(ALIAS):
        database.run("SELECT sum(n) FROM worded")
        database.run('UPDATE "worded" SET "n" = 0 WHERE "worded"."word" = %s', "two")
    assert apply(database, first[0]) is expected


def test_a_row_touched_without_change_counts_as_written(make_database):
    database = make_database(isolation="snapshot")
    database.run("INSERT INTO worded VALUES ('lock', 0), ('one', 1)")
    touch = 'UPDATE "worded" SET "n" = %s WHERE "worded"."word" = %s'
    with held(database) as bodies:
        database.run(touch, 0, "lock")
        database.run("INSERT INTO plain VALUES (1, 1)")
    with transaction.atomic(ALIAS):
        database.run(touch, 0, "lock")
        database.run("INSERT INTO plain VALUES (2, 2)")
    assert apply(database, bodies[0]) is CONFLICT


def test_a_row_that_is_not_as_it_was_seen_is_a_conflict_though_no_entry_changed_it(database):
    body = run_held(database, "UPDATE parent SET rank = 9 WHERE id = 1")
    raw = database.replica.connection
    raw.execute("UPDATE parent SET rank = 77 WHERE id = 1")  # by hand, on this node alone
    assert database.replica.applier.apply_alone(99, body).kind is CONFLICT


def test_conflicts_are_raised_at_commit_and_change_nothing(database):
    class Verdicts:
        holds_turn = True
        key_blocks = None

        def __init__(self, verdict):
            self.verdict = verdict

        def commit(self, write_set, body, applier):
            return self.verdict

    from raftlog.replication.certify import Verdict

    before = database.run("SELECT * FROM parent")
    for kind, expected in (
        (VerdictKind.CONFLICT, TransactionConflict),
        (VerdictKind.UNIQUE_CONFLICT, UniqueConflict),
        (VerdictKind.INTEGRITY, IntegrityError),
    ):
        database.control.log = Verdicts(Verdict(kind, "because"))
        called = []
        with pytest.raises(expected, match="because"), transaction.atomic(ALIAS):  # noqa: PT012 (one block)
            transaction.on_commit(lambda: called.append(1), using=ALIAS)  # noqa: B023
            database.run("INSERT INTO parent (name) VALUES ('n')")
        assert called == []
        assert database.run("SELECT * FROM parent") == before
    assert issubclass(UniqueConflict, IntegrityError)


def test_a_single_statement_is_run_again_until_it_fits(database):
    class Interloper:
        """Lets another entry in before ours, twice."""

        holds_turn = True
        key_blocks = None

        def __init__(self):
            self.left = 2

        def commit(self, write_set, body, applier):
            if self.left:
                self.left -= 1
                other = decode_write_set(body)
                other.steps[0].rows[0][-1] += 100  # another's increment of the same row
                database.log.commit(None, encode_write_set(other), applier)
            return database.log.commit(write_set, body, applier)

    from raftlog.replication.write_set import decode_write_set, encode_write_set

    database.control.log = Interloper()
    database.run('UPDATE "parent" SET "rank" = ("parent"."rank" + %s) WHERE "parent"."id" = %s', 1, 1)
    assert database.run("SELECT rank FROM parent WHERE id = 1") == [(1 + 101 + 101 + 1,)]
    database.assert_equal()


def test_a_transaction_that_read_goes_on_only_if_what_it_read_is_unchanged(database):
    other = database.connection.copy(ALIAS)
    try:
        for table, raises in (("worded", False), ("parent", True)):
            with transaction.atomic(ALIAS):
                database.run("SELECT count(*) FROM parent")
                with other.cursor() as cursor:
                    cursor.execute(
                        "INSERT INTO worded VALUES ('more', 1)" if table == "worded" else "UPDATE parent SET rank = 0"
                    )
                with transaction.atomic(ALIAS):
                    if raises:
                        with pytest.raises(TransactionConflict, match="parent"):
                            database.run("INSERT INTO plain VALUES (1, 1)")
                        transaction.set_rollback(True, using=ALIAS)
                    else:
                        database.run("INSERT INTO plain VALUES (1, 1)")
                        assert database.run("SELECT count(*) FROM worded") == [(3,)]
                if raises:
                    transaction.set_rollback(True, using=ALIAS)
    finally:
        other.close()
    assert database.run("SELECT count(*) FROM plain") == [(1,)]
    database.assert_equal()
