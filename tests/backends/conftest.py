"""A replicated database for a test: a file, an inline log, and a replica that applies the same entries."""

from __future__ import annotations

import sqlite3

import pytest
from django.db import connections
from django.db.backends.sqlite3._functions import register

from raftlog.backends.log import InlineLog, use_log
from raftlog.replication.certify import VerdictKind
from raftlog.replication.transactions import TransactionApplier

ALIAS = "replicated"

SCHEMA = """
CREATE TABLE parent (id integer PRIMARY KEY AUTOINCREMENT, name varchar(50) UNIQUE, rank integer);
CREATE TABLE child (
    id integer PRIMARY KEY AUTOINCREMENT,
    parent_id integer REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED,
    note text
);
CREATE INDEX child_parent ON child (parent_id);
CREATE TABLE plain (a, b);
CREATE TABLE pair (x integer, y text, v real, PRIMARY KEY (x, y)) WITHOUT ROWID;
CREATE TABLE worded (word text NOT NULL PRIMARY KEY, n integer);
"""


class Replica:
    """A second database that applies what the log gives it, as a node does that did not run the transaction."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        register(self.connection)
        self.applier = TransactionApplier(self.connection)
        self.applier.marks.make_tables()
        self.entries: list[tuple[int, bytes]] = []

    def take(self, index, body, verdict) -> None:
        assert self.applier.apply_alone(index, body) == verdict
        self.entries.append((index, body))

    def close(self) -> None:
        self.connection.close()


def contents(raw: sqlite3.Connection) -> dict[str, list]:
    """Every table (raftlog's and SQLite's too) and the schema itself, comparable between databases."""
    cursor = raw.cursor(sqlite3.Cursor)
    found = {"": cursor.execute("SELECT type, name, sql FROM main.sqlite_master ORDER BY 1, 2").fetchall()}
    for kind, name, _ in found[""]:
        if kind == "table":
            info = cursor.execute(f'PRAGMA main.table_xinfo("{name}")').fetchall()
            columns = ", ".join(f'+"{row[1]}", typeof("{row[1]}")' for row in info)
            rows = cursor.execute(f'SELECT {columns} FROM main."{name}"').fetchall()
            found[name] = sorted(rows, key=repr)
    return found


class Database:
    """The connection under test."""

    def __init__(self, path, **options) -> None:
        self.log = InlineLog()
        use_log(ALIAS, self.log)
        self.replica = Replica()
        self.log.observers.append(self.replica.take)
        options.setdefault("init_command", "PRAGMA synchronous = OFF")
        connections.databases[ALIAS] = {**connections.databases["default"], "NAME": str(path), "OPTIONS": options}
        connections.databases[ALIAS] |= {"ENGINE": "raftlog.backends.sqlite3"}
        self.connection = connections[ALIAS]

    @property
    def control(self):
        self.connection.ensure_connection()
        return self.connection.connection.control

    @property
    def entries(self) -> int:
        return len(self.replica.entries)

    def run(self, sql, *params):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    def script(self, sql) -> None:
        with self.connection.cursor() as cursor:
            cursor.executescript(sql)

    def assert_equal(self) -> None:
        control = self.control
        with control._internal():
            assert contents(self.connection.connection) == contents(self.replica.connection)
            scanned = control.applier.marks.tables()
        self.assert_fingerprints(scanned)

    def assert_fingerprints(self, marks) -> None:
        from raftlog.replication.fingerprint import EMPTY, scan

        schema = self.replica.applier.schema
        schema.refresh()
        kept = {name: found.fingerprint for name, found in marks.items() if found.fingerprint != EMPTY}
        scanned = scan(self.replica.connection, schema)
        assert kept == {name: fingerprint for name, fingerprint in scanned.items() if fingerprint != EMPTY}

    def close(self) -> None:
        self.connection.close()
        self.replica.close()
        del connections[ALIAS]
        del connections.databases[ALIAS]


@pytest.fixture
def make_database(tmp_path, django_db_blocker):
    made = []

    def make(name="db.sqlite3", **options) -> Database:
        database = Database(name if name.startswith(":") else tmp_path / name, **options)
        made.append(database)
        database.script(SCHEMA)
        return database

    with django_db_blocker.unblock():
        yield make
        for database in made:
            database.close()


@pytest.fixture(params=["file", "memory"])
def database(request, make_database):
    return make_database("db.sqlite3" if request.param == "file" else ":memory:")


__all__ = ["VerdictKind"]
