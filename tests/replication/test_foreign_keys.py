"""The triggers miss no violation: whatever SQLite's own COMMIT refuses, they had flagged."""

import random
import sqlite3
import types

import pytest

from raftlog.replication.foreign_keys import SchemaChanged, SqliteGuard, Suspect, foreign_keys

DEFERRED = "DEFERRABLE INITIALLY DEFERRED"
SCHEMAS = {
    "plain": f"""CREATE TABLE p (k INTEGER PRIMARY KEY, u UNIQUE);
        CREATE TABLE c (id INTEGER PRIMARY KEY, k REFERENCES p {DEFERRED}, u INT REFERENCES p(u) {DEFERRED})""",
    "affinities": f"""CREATE TABLE p (k TEXT PRIMARY KEY, u NUMERIC UNIQUE);
        CREATE TABLE c (id INTEGER PRIMARY KEY, k INT REFERENCES p {DEFERRED}, u TEXT REFERENCES p(u) {DEFERRED})""",
    "blobs": f"""CREATE TABLE p (k BLOB PRIMARY KEY, u REAL UNIQUE);
        CREATE TABLE c (id INTEGER PRIMARY KEY, k TEXT REFERENCES p {DEFERRED}, u BLOB REFERENCES p(u) {DEFERRED})""",
    "collations": f"""CREATE TABLE p (k TEXT COLLATE NOCASE PRIMARY KEY, u TEXT COLLATE RTRIM UNIQUE);
        CREATE TABLE c (id INTEGER PRIMARY KEY, k TEXT REFERENCES p {DEFERRED},
                        u TEXT COLLATE NOCASE REFERENCES p(u) {DEFERRED})""",
    "composite": f"""CREATE TABLE p (k, u, PRIMARY KEY (k, u));
        CREATE TABLE c (id INTEGER PRIMARY KEY, k, u, FOREIGN KEY (k, u) REFERENCES p {DEFERRED})""",
    "to itself": f"""CREATE TABLE p (k INTEGER PRIMARY KEY, u REFERENCES p {DEFERRED});
        CREATE VIEW c AS SELECT k AS id, k, u FROM p""",
    "cascades": f"""CREATE TABLE p (k INTEGER PRIMARY KEY, u UNIQUE);
        CREATE TABLE c (id INTEGER PRIMARY KEY, k REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE {DEFERRED},
                        u REFERENCES p(u) ON DELETE SET DEFAULT ON UPDATE SET NULL {DEFERRED})""",
    "without rowid": f"""CREATE TABLE p (k PRIMARY KEY, u UNIQUE) WITHOUT ROWID;
        CREATE TABLE c (id PRIMARY KEY, k REFERENCES p {DEFERRED}, u REFERENCES p(u) {DEFERRED}) WITHOUT ROWID""",
    "quoted": f"""CREATE TABLE p (k INTEGER PRIMARY KEY, u UNIQUE);
        CREATE TABLE c (id INTEGER PRIMARY KEY, k REFERENCES "P" ("K") {DEFERRED}, u REFERENCES [p]([U]) {DEFERRED})""",
}
VALUES = ["1", "2", "'1'", "'2'", "'01'", "1.0", "'a'", "'A'", "'a '", "x'31'", "NULL"]
ORDINARY = [
    "INSERT OR IGNORE INTO p VALUES ({a}, {b})",
    "REPLACE INTO p VALUES ({a}, {b})",
    "INSERT INTO p VALUES ({a}, {b}) ON CONFLICT DO UPDATE SET u = {c}",
    "INSERT OR IGNORE INTO c VALUES ({n}, {a}, {b})",
    "REPLACE INTO c VALUES ({n}, {a}, {b})",
    "UPDATE OR IGNORE p SET k = {a} WHERE k = {b}",
    "UPDATE OR REPLACE p SET k = {a}, u = {b} WHERE u = {c}",
    "UPDATE OR IGNORE p SET u = {a}",
    "UPDATE OR IGNORE c SET k = {a} WHERE id = {n}",
    "UPDATE OR REPLACE c SET id = {n}, u = {b} WHERE k = {a}",
    "DELETE FROM p WHERE k = {a}",
    "DELETE FROM p WHERE u = {a}",
    "DELETE FROM p",
    "DELETE FROM c WHERE id = {n}",
    "INSERT OR IGNORE INTO p SELECT u, k FROM c",
]


@pytest.fixture
def raw(tmp_path):
    connection = sqlite3.connect(tmp_path / "db.sqlite3", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    yield connection
    connection.close()


def guarded(raw: sqlite3.Connection) -> SqliteGuard:
    guard = SqliteGuard(types.SimpleNamespace(connection=raw))
    guard.connected()
    return guard


def is_flagged(guard: SqliteGuard) -> bool:
    try:
        guard.check_entry(alone=False)
    except Suspect:
        return True
    return False


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_a_commit_refuses_was_flagged(raw, name):
    raw.executescript(SCHEMAS[name])
    guard = guarded(raw)
    assert guard.can_batch
    rng = random.Random(name)
    refused = false_alarms = clean = 0
    for _ in range(1_500):
        raw.execute("BEGIN IMMEDIATE")
        guard.begin()
        statement = rng.choice(ORDINARY).format(
            a=rng.choice(VALUES), b=rng.choice(VALUES), c=rng.choice(VALUES), n=rng.randint(1, 4)
        )
        try:
            raw.execute(statement)
            flagged = is_flagged(guard)
        except sqlite3.Error:  # not possible in this schema: a view, a datatype
            raw.execute("ROLLBACK")
            continue
        try:
            raw.execute("COMMIT")
        except sqlite3.IntegrityError:
            assert flagged, statement
            refused += 1
            raw.execute("ROLLBACK")
        else:
            false_alarms += flagged
            clean += not flagged
    assert refused > 50
    assert clean > 100
    assert false_alarms < clean


@pytest.mark.parametrize("references", ["nowhere", "p (missing)", "p"])
def test_a_key_that_cannot_be_obeyed_is_left_to_sqlite(raw, references):
    raw.execute("CREATE TABLE p (k, u, PRIMARY KEY (k, u))")
    raw.execute(f"CREATE TABLE c (id, k REFERENCES {references} {DEFERRED})")
    assert foreign_keys(raw) == []
    guarded(raw)
    with pytest.raises(sqlite3.OperationalError):
        raw.execute("INSERT INTO c VALUES (1, 1)")


def test_ordinary_writes_raise_no_alarm(raw):
    """Django's save() sets every column; only what may break a key costs a transaction of its own."""
    raw.execute("CREATE TABLE p (k INTEGER PRIMARY KEY, u BIGINT UNIQUE)")
    raw.execute("CREATE TABLE c (id INTEGER PRIMARY KEY, k BIGINT REFERENCES p, u INT REFERENCES p(u))")
    guard = guarded(raw)
    guard.begin()
    for statement in (
        "INSERT INTO p VALUES (1, 10), (2, 20)",
        "INSERT INTO c VALUES (1, 1, 20), (2, NULL, NULL)",
        "UPDATE p SET k = k, u = u",
        "UPDATE c SET k = 2, u = 10",
        "UPDATE p SET u = 30 WHERE k = 2",
        "DELETE FROM c",
        "DELETE FROM p",
    ):
        raw.execute(statement)
        assert not is_flagged(guard), statement


def test_a_changed_schema_is_told_at_the_beginning(raw):
    guard = guarded(raw)
    guard.begin()
    raw.execute("CREATE TABLE new (id)")
    with pytest.raises(Suspect):
        guard.before_commit()
    with pytest.raises(SchemaChanged):
        guard.begin()


def test_a_deferral_that_is_left_on_is_noticed_before_the_commit(raw):
    guard = guarded(raw)
    raw.execute("BEGIN")
    guard.begin()
    guard.before_commit()
    raw.execute("PRAGMA defer_foreign_keys = ON")
    with pytest.raises(Suspect):
        guard.before_commit()
