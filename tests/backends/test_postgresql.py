"""The PostgreSQL backend: what is written through it is captured, proposed and applied, here and on a replica."""

import psycopg
import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, models, transaction

from raftlog.backends.exceptions import NotReplicable, TransactionTooLarge
from raftlog.backends.postgresql.images import fields, record
from tests.backends.postgresql import Database, connect

ALIAS = "replicated"


@pytest.fixture
def database(django_db_blocker):
    with django_db_blocker.unblock():
        made = Database()
        try:
            yield made
        finally:
            made.close()


@pytest.mark.parametrize(
    "image",
    [
        ("1", "a"),
        (None, None),
        ("", "x"),
        ('q"uo\\te', "(a,b)"),
        (" ", "\n\t"),
        ("{1,2}", "é€𝄞"),
        (None, "a", None),
        ("",),
    ],
)
def test_a_row_as_text_and_back(image):
    if image != (None,):
        assert fields(record(image)) == image


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("INSERT INTO parent (name) VALUES ('a'), ('b')", 1),
        ("WITH n AS (SELECT generate_series(1, 50) AS i) INSERT INTO parent (name, rank) SELECT 'n' || i, i FROM n", 1),
        ("INSERT INTO parent (name) VALUES ('a') ON CONFLICT (name) DO NOTHING", 1),
        ("INSERT INTO plain VALUES ('a', '{\"a\":  1}'), ('a', '{\"a\":  1}'), (NULL, NULL)", 1),
        ("INSERT INTO pair VALUES (1, 'x', 0.1), (1, 'y', 'NaN'), (2, 'x', '-Infinity')", 1),
        ("UPDATE parent SET rank = 5", 0),
        ("SELECT 1", 0),
        ("DO $$ BEGIN INSERT INTO worded VALUES ('done', 1); END $$", 1),
    ],
)
def test_one_statement_is_one_entry(database, sql, count):
    database.run(sql)
    assert len(database.entries) == count
    database.assert_equal()


def test_updates_and_deletes(database):
    database.run("INSERT INTO parent (name, rank) SELECT 'n' || i, i FROM generate_series(1, 20) i")
    database.run("UPDATE parent SET rank = rank + 1 WHERE id < 10")
    database.run("UPDATE parent SET id = id + 100, name = name || '!' WHERE id > 15")
    database.run("DELETE FROM parent WHERE rank % 2 = 0")
    with transaction.atomic(ALIAS):  # two unique values change places
        one, two = (row[0] for row in database.run("SELECT id FROM parent ORDER BY id LIMIT 2"))
        database.run("UPDATE parent SET name = NULL WHERE id = %s", one)
        database.run("UPDATE parent SET name = 'was one' WHERE id = %s", two)
        database.run("UPDATE parent SET name = 'was two' WHERE id = %s", one)
    database.run("INSERT INTO parent (name, rank) VALUES ('was one', 9) ON CONFLICT (name) DO UPDATE SET rank = 9")
    database.assert_equal()
    assert database.run("SELECT rank FROM parent WHERE name = 'was one'") == [(9,)]


def test_a_table_without_a_key(database):
    database.run("INSERT INTO plain VALUES ('a', '1'), ('a', '1'), ('b', '2'), ('', NULL)")
    database.run("UPDATE plain SET a = 'c' WHERE a = 'b'")
    database.run("DELETE FROM plain WHERE a = ''")
    with transaction.atomic(ALIAS):
        database.run("DELETE FROM plain WHERE ctid = (SELECT ctid FROM plain WHERE a = 'a' LIMIT 1)")
    assert sorted(database.run("SELECT a FROM plain")) == [("a",), ("c",)]
    database.assert_equal()


TYPES = [
    ("numeric", "'-123456789012345678901234567890.000100'"),
    ("numeric", "'NaN'"),
    ("numeric(10,2)", "1.1"),
    ("double precision", "0.1::float8 + 0.2::float8"),
    ("double precision", "'-0'"),
    ("real", "'1e-40'"),
    ("bigint", "-9223372036854775808"),
    ("boolean", "false"),
    ("bytea", r"'\x00ff0022'"),
    ("char(5)", "'a'"),
    ("text", "''"),
    ("text", "E'a\\\\b\"c,(d)\\n'"),
    ("text[]", "ARRAY['a', NULL, '', '{', 'x,y', 'null']"),
    ("int[][]", "ARRAY[[1, 2], [3, 4]]"),
    ("jsonb", '\'{"b": 1, "a": [null, 1.0]}\''),
    ("json", '\'{"b":  1,   "a": 2}\''),
    ("timestamptz", "'2024-02-29 23:59:59.999999+05:30'"),
    ("timestamptz", "'infinity'"),
    ("timestamp", "'0044-03-15 12:00:00 BC'"),
    ("date", "'2024-02-29'"),
    ("timetz", "'12:00:00.5+02'"),
    ("interval", "'-1 year 2 days -03:04:05.678901'"),
    ("int4range", "'[1,10)'"),
    ("tstzrange", "'[2024-01-01 00:00+02, infinity)'"),
    ("inet", "'10.0.0.1/8'"),
    ("uuid", "gen_random_uuid()"),
    ("money", "12.34::numeric::money"),
    ("bit varying", "B'101'"),
    ("point", "'(1.5,-2)'"),
    ("tsvector", "to_tsvector('simple', 'a b''c')"),
    ("mood", "'so, so'"),
    ("address", "ROW('a \"b\"', NULL, 3)::address"),
    ("address[]", "ARRAY[ROW('a', '(', 3)]::address[]"),
]


@pytest.mark.parametrize("zone", ["UTC", "America/Chicago"])
def test_every_type_is_exact(database, zone):
    database.run("CREATE TYPE mood AS ENUM ('so, so'); CREATE TYPE address AS (street text, city text, n int)")
    columns = ", ".join(f"c{number} {kind}" for number, (kind, _) in enumerate(TYPES))
    database.run(f"CREATE TABLE kinds (id integer PRIMARY KEY, {columns})")
    database.run(f"SET timezone = '{zone}'")
    database.run(f"INSERT INTO kinds SELECT 1, {', '.join(value for _, value in TYPES)}")
    database.run("INSERT INTO kinds (id) VALUES (2)")
    database.run("UPDATE kinds SET id = id + 10")
    database.run("UPDATE kinds SET c6 = 7")
    database.run("SET timezone = 'UTC'")
    database.assert_equal()


def test_generated_columns_and_identity_always(database):
    database.run(
        "CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, "
        "twice int GENERATED ALWAYS AS (a * 2) STORED, b text)"
    )
    database.run("INSERT INTO made (a, b) VALUES (1, 'x'), (2, NULL)")
    database.run("UPDATE made SET a = a + 5 WHERE id = 1")
    database.run("DELETE FROM made WHERE id = 2")
    assert database.run("SELECT * FROM made") == [(1, 6, 12, "x")]
    database.assert_equal()


def test_partitions(database):
    database.run(
        "CREATE TABLE log (at date, n int, PRIMARY KEY (at, n)) PARTITION BY RANGE (at);"
        "CREATE TABLE log_a PARTITION OF log FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');"
        "CREATE TABLE log_b PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')"
    )
    database.run("INSERT INTO log VALUES ('2024-05-05', 1), ('2025-05-05', 2)")
    database.run("UPDATE log SET at = '2025-06-06' WHERE n = 1")
    assert database.run("SELECT count(*) FROM log_b") == [(2,)]
    database.assert_equal()


def test_savepoints_and_failed_statements_leave_nothing(database):
    with transaction.atomic(ALIAS):
        database.run("INSERT INTO worded VALUES ('kept', 1)")
        for statement in ("INSERT INTO worded VALUES ('lost', 1), ('kept', 2)", "UPDATE worded SET n = 1 / 0"):
            with pytest.raises(DatabaseError), transaction.atomic(ALIAS):
                database.run(statement)
        with transaction.atomic(ALIAS):
            database.run("INSERT INTO worded SELECT 'n' || i, i FROM generate_series(1, 500) i")
            transaction.set_rollback(True, using=ALIAS)
        database.run("INSERT INTO worded SELECT 'm' || i, i FROM generate_series(1, 300) i")
        database.run("DO $$ BEGIN BEGIN DELETE FROM worded; RAISE 'no'; EXCEPTION WHEN others THEN NULL; END; END $$")
    assert len(database.entries) == 1
    assert database.run("SELECT count(*) FROM worded") == [(301,)]
    database.assert_equal()


def test_own_violations_are_integrity_errors(database):
    before = len(database.entries)
    with pytest.raises(IntegrityError), transaction.atomic(ALIAS):
        database.run("INSERT INTO child (parent_id) VALUES (77)")
    with pytest.raises(IntegrityError):
        database.run("INSERT INTO child (parent_id) VALUES (77)")
    with pytest.raises(IntegrityError):
        database.run("INSERT INTO worded VALUES ('a', 1), ('a', 2)")
    assert len(database.entries) == before
    database.assert_equal()


def test_actions_and_triggers_of_the_database_are_captured_once(database):
    database.run(
        "CREATE TABLE leaf (id int PRIMARY KEY, p int REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE);"
        "CREATE TABLE history (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, what text);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO history (what) VALUES (TG_OP || coalesce(OLD.id, NEW.id)); RETURN NULL; END $$;"
        "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON parent FOR EACH ROW EXECUTE FUNCTION note()"
    )
    database.run("INSERT INTO parent (id, name) VALUES (1, 'a'), (2, 'b')")
    database.run("INSERT INTO leaf VALUES (1, 1), (2, 2)")
    database.run("UPDATE parent SET id = 3 WHERE id = 2")
    database.run("DELETE FROM parent WHERE id = 1")
    assert database.run("SELECT * FROM leaf") == [(2, 3)]
    assert database.run("SELECT what FROM history ORDER BY id") == [
        ("INSERT1",),
        ("INSERT2",),
        ("UPDATE2",),
        ("DELETE1",),
    ]
    database.assert_equal()


def test_deferrable_unique_constraints_hold_while_triggers_are_off(database):
    database.run("CREATE TABLE seat (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    database.run("INSERT INTO seat VALUES (1, 1), (2, 2)")
    with transaction.atomic(ALIAS):
        database.run("UPDATE seat SET place = 3 - place")
    with pytest.raises(IntegrityError):
        database.run("INSERT INTO seat VALUES (3, 1)")
    database.assert_equal()


def test_truncate_and_sequences(database):
    database.run("INSERT INTO parent (name) VALUES ('a'), ('b')")
    database.run("INSERT INTO child (parent_id) VALUES (1)")
    database.run("TRUNCATE parent, child RESTART IDENTITY")
    assert database.run("INSERT INTO parent (name) VALUES ('c') RETURNING id") == [(1,)]
    database.assert_equal()
    database.run("SELECT setval(pg_get_serial_sequence('parent', 'id'), 40)")
    assert database.run("INSERT INTO parent (name) VALUES ('d') RETURNING id") == [(41,)]
    database.assert_equal()
    with connect(database.connection.settings_dict) as raw:
        assert raw.execute("SELECT value FROM raftlog_counters WHERE name = 'parent'").fetchone() == (40,)


def test_schema_changes_and_rows_of_one_transaction_keep_their_order(database):
    database.run("INSERT INTO parent (name, rank) VALUES ('a', 1)")
    before = len(database.entries)
    with transaction.atomic(ALIAS):
        database.run("UPDATE parent SET rank = 2")
        database.run("ALTER TABLE parent ADD COLUMN size integer DEFAULT 3")
        database.run("UPDATE parent SET size = size + rank")
        database.run("CREATE TABLE fresh (id integer PRIMARY KEY, t text)")
        database.run("INSERT INTO fresh VALUES (1, 'x')")
        with transaction.atomic(ALIAS):
            database.run("ALTER TABLE fresh DROP COLUMN t")
            database.run("INSERT INTO fresh VALUES (7)")
            transaction.set_rollback(True, using=ALIAS)
        database.run("ALTER TABLE fresh RENAME TO stale")
        database.run("INSERT INTO stale VALUES (2, 'y')")
        database.run("INSERT INTO worded VALUES ('gone', 1)")
        database.run("DROP TABLE worded")
    assert len(database.entries) == before + 1
    assert database.run("SELECT size FROM parent") == [(5,)]
    assert database.run("SELECT t FROM stale ORDER BY id") == [("x",), ("y",)]
    database.assert_equal()
    database.run("CREATE INDEX CONCURRENTLY stale_t ON stale (t)")
    database.run("CREATE TABLE copied AS SELECT * FROM stale")
    database.run("UPDATE copied SET t = 'z'")
    database.run("DROP TABLE stale")
    database.assert_equal()


def test_a_table_dropped_and_made_again_in_one_transaction_begins_without_rows(database):
    """Its text is the one that it had; its fingerprint must not be."""
    database.run("INSERT INTO worded VALUES ('old', 1)")
    with transaction.atomic(ALIAS):
        database.run("DROP TABLE worded")
        database.run("CREATE TABLE worded (word text PRIMARY KEY, n integer)")
        database.run("INSERT INTO worded VALUES ('new', 1)")
    assert database.run("SELECT word FROM worded") == [("new",)]
    database.assert_equal()


def test_a_failed_schema_change_leaves_nothing(database):
    with pytest.raises(DatabaseError), transaction.atomic(ALIAS):  # noqa: PT012 (one block is what is tested)
        database.run("CREATE TABLE fresh (id integer PRIMARY KEY, t text)")
        database.run("INSERT INTO fresh VALUES (1, 'x')")
        database.run("CREATE TABLE fresh (id integer)")
    assert database.run("SELECT to_regclass('fresh')") == [(None,)]
    database.run("INSERT INTO parent (name) VALUES ('a')")
    database.assert_equal()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("CREATE TEMP TABLE t (a int)", "temporary"),
        ("CREATE UNLOGGED TABLE t (a int)", "unlogged"),
        ("ALTER TABLE parent SET UNLOGGED", "unlogged"),
        ("LOCK TABLE parent", "LOCK TABLE"),
        ("PREPARE TRANSACTION 'x'", "two-phase"),
        ("SET session_replication_role = replica", "triggers"),
        ("SELECT set_config('session_replication_role', 'replica', false)", "capture rests"),
        ("ALTER TABLE parent DISABLE TRIGGER ALL", "triggers"),
        ("SELECT set_config('raftlog.rows', '', true)", "capture rests"),
        ("UPDATE raftlog_positions SET applied = 7", "belongs to raftlog"),
        ("CREATE DATABASE other", "the server"),
        ("CREATE ROLE somebody", "the server"),
        ("SELECT lo_create(0)", "large objects"),
        ("INSERT INTO worded VALUES ('a', 1); COMMIT; INSERT INTO worded VALUES ('b', 1)", "use atomic"),
    ],
)
def test_what_cannot_be_replicated_is_refused_with_words(database, sql, words):
    before = len(database.entries)
    with pytest.raises(NotReplicable, match=words):
        database.run(sql)
    assert len(database.entries) == before
    database.run("INSERT INTO plain VALUES ('1', '2')")
    database.assert_equal()


def test_nobody_commits_rows_past_raftlog(database):
    raw = database.connection.connection
    raw.execute("INSERT INTO worded VALUES ('mine', 1)")  # the raw connection goes the same way
    for statement in ("INSERT INTO worded VALUES ('past', 1)", "COMMIT"):
        with pytest.raises(NotReplicable, match="goes past raftlog"):
            psycopg.Cursor(raw).execute(statement)
    with pytest.raises(NotReplicable), raw.transaction():
        pass
    with connect(database.connection.settings_dict) as other:
        with pytest.raises(psycopg.Error, match="replicated by raftlog"):
            other.execute("DELETE FROM worded")
        with pytest.raises(psycopg.Error, match="replicated by raftlog"):
            other.execute("TRUNCATE worded")
    assert database.run("SELECT word FROM worded") == [("mine",)]
    database.assert_equal()


def test_copy_and_named_cursors(database):
    with database.connection.cursor() as cursor:
        with cursor.copy("COPY worded (word, n) FROM STDIN") as copy:
            for number in range(100):
                copy.write_row((f"w{number}", number))
        with cursor.copy("COPY worded (n) TO STDOUT") as copy:
            assert len(list(copy.rows())) == 100
    with transaction.atomic(ALIAS), database.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT n FROM worded ORDER BY n")
        assert cursor.fetchmany(2) == [(0,), (1,)]
        database.run("UPDATE worded SET n = n + 1000")
        assert cursor.fetchone() == (2,)
    assert database.run("SELECT min(n) FROM worded") == [(1000,)]
    database.assert_equal()


def test_session_statements_stay(database):
    with transaction.atomic(ALIAS):
        database.run("SET application_name = 'kept'")
        database.run("INSERT INTO worded VALUES ('a', 1)")
    assert database.run("SHOW application_name") == [("kept",)]


def test_manual_transactions_and_logged_queries(database):
    connection = database.connection
    connection.force_debug_cursor = True
    connection.queries_log.clear()
    with transaction.atomic(ALIAS):
        database.run("INSERT INTO parent (name) VALUES ('a')")
    database.run("INSERT INTO parent (name) VALUES ('b')")
    connection.force_debug_cursor = False
    assert [query["sql"].partition(" ")[0] for query in connection.queries] == ["BEGIN", "INSERT", "COMMIT", "INSERT"]
    connection.set_autocommit(False)
    database.run("INSERT INTO parent (name) VALUES ('c')")
    connection.rollback()
    database.run("INSERT INTO parent (name) VALUES ('d')")
    before = len(database.entries)
    connection.commit()
    assert len(database.entries) == before + 1
    connection.set_autocommit(True)
    assert database.run("SELECT name FROM parent ORDER BY id") == [("a",), ("b",), ("d",)]
    database.assert_equal()


def test_a_transaction_beyond_the_limit_says_what_fits(database):
    database.control.max_bytes = 20_000
    rows = "INSERT INTO worded SELECT 'w' || i, i FROM generate_series(1, %s) i"
    with pytest.raises(TransactionTooLarge, match=r"batch_size=\d+"):
        database.run(rows, 5_000)
    database.run(rows, 50)
    assert database.run("SELECT count(*) FROM worded") == [(50,)]
    database.assert_equal()


def test_migrations_and_flush_through_the_log(database):
    call_command("migrate", database=ALIAS, verbosity=0)
    users = User.objects.using(ALIAS)
    made = [users.create(username=f"u{number}") for number in range(3)]
    group = Group.objects.using(ALIAS).create(name="g")
    group.user_set.add(*made)
    users.filter(pk=made[0].pk).update(first_name=models.F("username"))
    made[1].delete(using=ALIAS)
    users.bulk_create(
        [User(username="u0", email="x"), User(username="new")],
        update_conflicts=True, unique_fields=["username"], update_fields=["email"],
    )  # fmt: skip
    assert users.get_or_create(username="u0")[0].email == "x"
    database.assert_equal()
    call_command("flush", database=ALIAS, interactive=False, verbosity=0)
    assert users.count() == 0
    database.assert_equal()


def test_the_stock_backend_finds_no_table_of_ours(database):
    with database.connection.cursor() as cursor:
        names = database.connection.introspection.table_names(cursor)
    assert "parent" in names
    assert not any(name.startswith("raftlog") for name in names)


def test_tables_of_batteries_are_replicated_though_their_names_begin_as_raftlogs_own_do(database):
    database.run("CREATE TABLE raftlog_locks_lock (name text PRIMARY KEY, holder text)")
    database.run("INSERT INTO raftlog_locks_lock VALUES ('a', 'x')")
    database.run("UPDATE raftlog_locks_lock SET holder = 'y'")
    assert len(database.entries) == 3
    assert "raftlog_locks_lock" in database.connection.introspection.table_names()
    assert "raftlog_tables" not in database.connection.introspection.table_names()
    database.assert_equal()
