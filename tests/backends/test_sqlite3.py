"""One connection, one log: what it writes is what the stock backend would, here and on the replica."""

import sqlite3

import pytest
from django.db import IntegrityError, OperationalError, transaction

from raftlog.backends.exceptions import NotReplicable

ALIAS = "replicated"


def test_rows_arrive_with_their_storage_classes(database):
    values = [0, -(2**63), 2**63 - 1, 1.5, -0.0, float("inf"), "", "text\0with nul", b"", b"\0blob" * 10_000, None]
    for value in [*values, float("nan")]:
        database.run("INSERT INTO plain (a, b) VALUES (%s, %s)", value, value)
    rows = database.run("SELECT a, typeof(a) FROM plain ORDER BY rowid")
    assert [(value, type(value)) for value, _ in rows] == [(value, type(value)) for value in [*values, None]]
    database.assert_equal()
    assert database.entries == len(values) + 1 + 6


def test_each_kind_of_statement(database):
    run = database.run
    assert run("INSERT INTO parent (name, rank) VALUES ('a', 1), ('b', 2), ('c', 3)") == 3
    assert run("UPDATE parent SET rank = rank + 10 WHERE name <> 'a'") == 2
    assert run("DELETE FROM parent WHERE name = 'a'") == 1
    assert run("REPLACE INTO parent (id, name) VALUES (7, 'b')") == 1
    assert run("INSERT OR IGNORE INTO parent (name) VALUES ('b')") == 0
    assert run("INSERT INTO parent (name, rank) VALUES ('c', 0) ON CONFLICT (name) DO UPDATE SET rank = 99") == 1
    run("WITH w(n) AS (VALUES ('w1'), ('w2')) INSERT INTO parent (name) SELECT n FROM w")
    assert run("INSERT INTO parent (name) VALUES ('r') RETURNING id, name") == [(10, "r")]
    assert run("INSERT INTO pair VALUES (1, 'x', 1), (1, 'y', 2)") == 2
    assert run("UPDATE pair SET x = x + 1") == 2
    assert run("INSERT INTO plain SELECT id, name FROM parent") == 6 - 1
    assert run("UPDATE plain SET b = NULL WHERE a = 7") == 1
    assert run("DELETE FROM plain") == 5
    database.assert_equal()
    assert run("SELECT name, rank FROM parent ORDER BY id") == [
        ("c", 99), ("b", None), ("w1", None), ("w2", None), ("r", None),
    ]  # fmt: skip


def test_lastrowid_and_rowcount_are_those_of_the_statement(database):
    with database.connection.cursor() as cursor:
        cursor.execute("INSERT INTO parent (name) VALUES ('a')")
        assert cursor.lastrowid == 1
        cursor.executemany("INSERT INTO parent (name) VALUES (%s)", [("b",), ("c",)])
        assert cursor.rowcount == 2
    database.assert_equal()


def test_a_transaction_is_one_entry_and_sees_its_own_writes(database):
    before = database.entries
    with transaction.atomic(ALIAS):
        database.run("INSERT INTO parent (name) VALUES ('a')")
        assert database.run("SELECT count(*) FROM parent") == [(1,)]
        database.run("UPDATE parent SET rank = 5")
    assert database.entries == before + 1
    database.assert_equal()


def test_a_transaction_that_changed_nothing_makes_no_entry(database):
    database.run("INSERT INTO parent (name, rank) VALUES ('a', 1)")
    before = database.entries
    with transaction.atomic(ALIAS):
        database.run("SELECT * FROM parent")
    with transaction.atomic(ALIAS):
        database.run("UPDATE parent SET rank = 1")
        database.run("DELETE FROM parent WHERE name = 'nobody'")
    assert database.entries == before


def test_a_rolled_back_transaction_leaves_nothing(database):
    before = database.entries
    with pytest.raises(ZeroDivisionError), transaction.atomic(ALIAS):  # noqa: PT012 (one block is what is tested)
        database.run("INSERT INTO parent (name) VALUES ('a')")
        raise ZeroDivisionError
    assert database.run("SELECT count(*) FROM parent") == [(0,)]
    assert database.entries == before


def test_savepoints_and_failed_statements_leave_nothing(database):
    database.run("INSERT INTO parent (name) VALUES ('taken')")
    with transaction.atomic(ALIAS):
        database.run("INSERT INTO parent (name) VALUES ('kept')")
        with pytest.raises(ZeroDivisionError), transaction.atomic(ALIAS):  # noqa: PT012 (one block is what is tested)
            database.run("INSERT INTO parent (name) VALUES ('dropped')")
            database.run("INSERT INTO worded VALUES ('first written in the savepoint', 1)")
            raise ZeroDivisionError
        with pytest.raises(IntegrityError), transaction.atomic(ALIAS):
            database.run("INSERT INTO parent (name) VALUES ('x'), ('taken')")
        database.run("INSERT INTO worded VALUES ('later', 1)")
    assert database.run("SELECT name FROM parent ORDER BY name") == [("kept",), ("taken",)]
    assert database.run("SELECT word FROM worded") == [("later",)]
    database.assert_equal()


def test_a_statement_that_fails_half_way_is_taken_back_without_a_savepoint(database):
    database.run("INSERT INTO parent (name) VALUES ('taken')")
    with transaction.atomic(ALIAS):
        database.run("INSERT INTO parent (name) VALUES ('before')")
        with pytest.raises(IntegrityError):
            database.run("INSERT INTO parent (name) VALUES ('x'), ('y'), ('taken')")
        database.run("INSERT INTO parent (name) VALUES ('after')")
    assert database.run("SELECT name FROM parent ORDER BY id") == [("taken",), ("before",), ("after",)]
    database.assert_equal()


def test_executemany_that_fails_half_way_keeps_what_sqlite_keeps(database):
    with transaction.atomic(ALIAS):
        with database.connection.cursor() as cursor, pytest.raises(IntegrityError):
            cursor.executemany("INSERT INTO parent (name) VALUES (%s)", [("a",), ("b",), ("a",), ("c",)])
        assert database.run("SELECT name FROM parent") == [("a",), ("b",)]
    assert database.run("SELECT name FROM parent") == [("a",), ("b",)]
    database.assert_equal()


def test_two_unique_values_are_swapped_in_order(database):
    database.run("INSERT INTO parent (name) VALUES ('a'), ('b')")
    with transaction.atomic(ALIAS):
        database.run("UPDATE parent SET name = NULL WHERE id = 1")
        database.run("UPDATE parent SET name = 'a' WHERE id = 2")
        database.run("UPDATE parent SET name = 'b' WHERE id = 1")
    assert database.run("SELECT name FROM parent ORDER BY id") == [("b",), ("a",)]
    database.assert_equal()


def test_foreign_keys_are_checked_at_commit_as_by_sqlite(database):
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        database.run("INSERT INTO child (parent_id) VALUES (77)")
    with transaction.atomic(ALIAS):
        database.run("INSERT INTO child (parent_id) VALUES (1)")
        database.run("INSERT INTO parent (id, name) VALUES (1, 'late')")
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), transaction.atomic(ALIAS):
        database.run("DELETE FROM parent WHERE id = 1")
    with transaction.atomic(ALIAS):
        database.run("DELETE FROM parent WHERE id = 1")
        database.run("INSERT INTO parent (id, name) VALUES (1, 'again')")
    assert database.run("SELECT name FROM parent") == [("again",)]
    database.assert_equal()


def test_foreign_key_checks_switched_off_travel_with_the_entry(database):
    with database.connection.constraint_checks_disabled(), transaction.atomic(ALIAS):
        database.run("INSERT INTO child (parent_id) VALUES (77)")
    assert database.run("SELECT parent_id FROM child") == [(77,)]
    database.assert_equal()


@pytest.mark.parametrize("how", ["pragma", "PRAGMA main.foreign_keys = ", "/* mine */ Pragma foreign_keys="])
def test_foreign_key_checks_are_switched_off_and_on_by_whatever_statement(database, how):
    on, off = ("PRAGMA foreign_keys = ON", "PRAGMA foreign_keys = OFF") if how == "pragma" else (how + "1", how + "0")
    for number in range(3):
        database.run(off)
        database.run(f"INSERT INTO child (parent_id) VALUES ({77 + number})")
        database.run(on)
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            database.run("INSERT INTO child (parent_id) VALUES (99)")
    assert database.run("SELECT parent_id FROM child ORDER BY id") == [(77,), (78,), (79,)]
    database.assert_equal()


def test_inside_a_transaction_foreign_key_checks_cannot_be_switched_off(database):
    with pytest.raises(IntegrityError), transaction.atomic(ALIAS):  # noqa: PT012 (one block is what is tested)
        assert not database.connection.disable_constraint_checking()
        database.run("INSERT INTO child (parent_id) VALUES (77)")
    assert database.run("PRAGMA foreign_keys") == [(1,)]


def test_cascades_of_sqlite_itself_are_captured(database):
    database.script(
        "CREATE TABLE leaf (id integer PRIMARY KEY, p integer REFERENCES parent (id) ON DELETE CASCADE);"
        "CREATE TABLE twig (id integer PRIMARY KEY, p integer REFERENCES parent (id) ON DELETE SET NULL);"
    )
    database.run("INSERT INTO parent (id, name) VALUES (1, 'a'), (2, 'b')")
    database.run("INSERT INTO leaf VALUES (1, 1), (2, 2)")
    database.run("INSERT INTO twig VALUES (1, 1), (2, 2)")
    database.run("DELETE FROM parent WHERE id = 1")
    assert database.run("SELECT * FROM leaf") == [(2, 2)]
    assert database.run("SELECT * FROM twig") == [(1, None), (2, 2)]
    database.assert_equal()


def test_wide_rows_are_captured_in_parts(database):
    columns = ", ".join(f"c{number} integer" for number in range(300))
    database.run(f"CREATE TABLE wide (id integer PRIMARY KEY, {columns})")
    database.run(f"INSERT INTO wide VALUES ({', '.join(map(str, range(301)))})")
    database.run("UPDATE wide SET c299 = -1, c0 = -2")
    assert database.run("SELECT c0, c298, c299 FROM wide") == [(-2, 299, -1)]
    database.assert_equal()
    database.run("DELETE FROM wide")
    database.assert_equal()


def test_generated_columns_are_left_out(database):
    database.run("CREATE TABLE made (id integer PRIMARY KEY, a integer, b AS (a * 2) STORED, c AS (a + 1) VIRTUAL)")
    database.run("INSERT INTO made (a) VALUES (4)")
    database.run("UPDATE made SET a = 5")
    assert database.run("SELECT * FROM made") == [(1, 5, 10, 6)]
    database.assert_equal()


def test_the_counter_of_automatic_keys_is_replicated(database):
    database.run("INSERT INTO parent (name) VALUES ('a'), ('b')")
    database.run("DELETE FROM parent WHERE name = 'b'")
    database.assert_equal()
    database.run("UPDATE sqlite_sequence SET seq = 40 WHERE name = 'parent'")
    database.run("INSERT INTO parent (name) VALUES ('c')")
    assert database.run("SELECT id FROM parent WHERE name = 'c'") == [(41,)]
    with transaction.atomic(ALIAS):
        database.run("DELETE FROM parent")
        database.run("DELETE FROM sqlite_sequence WHERE name IN ('parent')")
    database.run("INSERT INTO parent (name) VALUES ('d')")
    assert database.run("SELECT id FROM parent") == [(1,)]
    database.assert_equal()


def test_schema_changes_and_rows_of_one_transaction_keep_their_order(database):
    database.run("INSERT INTO parent (name, rank) VALUES ('a', 1)")
    before = database.entries
    with transaction.atomic(ALIAS):
        database.run("ALTER TABLE parent ADD COLUMN size integer DEFAULT 3")
        database.run("UPDATE parent SET size = size + rank")
        database.run("CREATE TABLE fresh (id integer PRIMARY KEY, t text)")
        database.run("INSERT INTO fresh (t) VALUES ('x')")
        database.run("ALTER TABLE fresh RENAME TO stale")
        database.run("INSERT INTO stale (t) VALUES ('y')")
    assert database.entries == before + 1
    assert database.run("SELECT size FROM parent") == [(4,)]
    assert database.run("SELECT t FROM stale") == [("x",), ("y",)]
    database.assert_equal()
    database.run("UPDATE stale SET t = 'z'")
    database.run("DROP TABLE stale")
    database.assert_equal()


def test_a_table_dropped_and_made_again_in_one_transaction_begins_without_rows(database):
    """Its text is the one that it had; its fingerprint must not be."""
    database.run("INSERT INTO worded VALUES ('old', 1)")
    with transaction.atomic(ALIAS):
        database.run("DROP TABLE worded")
        database.run("CREATE TABLE worded (word text NOT NULL PRIMARY KEY, n integer)")
        database.run("INSERT INTO worded VALUES ('new', 1)")
    assert database.run("SELECT word FROM worded") == [("new",)]
    database.assert_equal()


def test_a_failed_schema_change_leaves_nothing(database):
    with pytest.raises(OperationalError), transaction.atomic(ALIAS):  # noqa: PT012 (one block is what is tested)
        database.run("CREATE TABLE fresh (id integer PRIMARY KEY, t text)")
        database.run("INSERT INTO fresh (t) VALUES ('x')")
        database.run("CREATE TABLE fresh (id integer)")
    assert database.run("SELECT name FROM sqlite_master WHERE name = 'fresh'") == []
    database.run("INSERT INTO parent (name) VALUES ('a')")
    database.assert_equal()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("ATTACH ':memory:' AS other", "ATTACH"),
        ("CREATE TEMP TABLE t (a)", "temporary"),
        ("PRAGMA writable_schema = ON", "writable_schema"),
        ("PRAGMA recursive_triggers = OFF", "recursive_triggers"),
        ("INSERT OR FAIL INTO plain VALUES (1, 2)", "OR FAIL"),
        ("INSERT OR ROLLBACK INTO plain VALUES (1, 2)", "OR ROLLBACK"),
        ("UPDATE raftlog_positions SET applied = 7", "belongs to raftlog"),
        ("SAVEPOINT alone", "savepoint"),
        ("VACUUM", "VACUUM"),
    ],
)
def test_what_cannot_be_replicated_is_refused_with_words(database, sql, words):
    before = database.entries
    with pytest.raises(NotReplicable, match=words):
        database.run(sql)
    assert database.entries == before
    database.run("INSERT INTO plain VALUES (1, 2)")
    database.assert_equal()


def test_the_raw_connection_goes_the_same_way(database):
    raw = database.connection.connection
    raw.execute("INSERT INTO plain VALUES (?, ?)", (1, 2))
    raw.executemany("INSERT INTO plain VALUES (?, ?)", [(3, 4)])
    assert raw.execute("SELECT count(*) FROM plain").fetchone() == (2,)
    with pytest.raises(NotReplicable, match="blobopen"):
        raw.blobopen("plain", "a", 1)
    database.assert_equal()


def test_a_cursor_of_sqlite3_itself_can_write_nothing(database):
    database.run("INSERT INTO plain VALUES (1, 2)")
    past = database.connection.connection.cursor(sqlite3.Cursor)
    # The first is in the cache of prepared statements, where no authorizer looks any more.
    for sql in ("INSERT INTO plain VALUES (1, 2)", "DELETE FROM plain", "BEGIN", "COMMIT", "DROP TABLE plain"):
        with pytest.raises(sqlite3.Error):
            past.execute(sql)
    database.assert_equal()


def test_reading_while_writing_goes_on(database):
    database.run("INSERT INTO parent (name) VALUES ('a'), ('b'), ('c')")
    with database.connection.cursor() as cursor:
        cursor.execute("SELECT id FROM parent ORDER BY id")
        seen = []
        for (number,) in cursor:
            database.run("UPDATE parent SET rank = %s WHERE id = %s", number * 10, number)
            assert database.run("SELECT rank FROM parent WHERE id = %s", number) == [(number * 10,)]
            seen.append(number)
    assert seen == [1, 2, 3]
    database.assert_equal()


def test_manual_transactions(database):
    connection = database.connection
    connection.set_autocommit(False)
    database.run("INSERT INTO parent (name) VALUES ('a')")
    connection.rollback()
    database.run("INSERT INTO parent (name) VALUES ('b')")
    with transaction.atomic(ALIAS):
        database.run("INSERT INTO parent (name) VALUES ('c')")
    before = database.entries
    connection.commit()
    assert database.entries == before + 1
    connection.set_autocommit(True)
    assert database.run("SELECT name FROM parent") == [("b",), ("c",)]
    database.assert_equal()


def test_queries_are_logged_as_by_the_stock_backend(database):
    connection = database.connection
    connection.force_debug_cursor = True
    connection.queries_log.clear()
    with transaction.atomic(ALIAS):
        database.run("INSERT INTO parent (name) VALUES ('a')")
    database.run("INSERT INTO parent (name) VALUES ('b')")
    connection.force_debug_cursor = False
    assert [query["sql"].partition(" ")[0] for query in connection.queries] == ["BEGIN", "INSERT", "COMMIT", "INSERT"]


def test_tables_of_batteries_are_replicated_though_their_names_begin_as_raftlogs_own_do(make_database):
    database = make_database()
    before = database.entries
    database.run("CREATE TABLE raftlog_locks_lock (name text PRIMARY KEY, holder text)")
    database.run("INSERT INTO raftlog_locks_lock VALUES ('a', 'x')")
    database.run("UPDATE raftlog_locks_lock SET holder = 'y'")
    assert database.entries == before + 3
    assert "raftlog_locks_lock" in database.connection.introspection.table_names()
    assert "raftlog_tables" not in database.connection.introspection.table_names()
    database.assert_equal()
