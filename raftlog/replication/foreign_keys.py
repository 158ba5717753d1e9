"""Foreign keys and other deferred constraints, entry by entry: an entry gets the verdict that it would get alone.

Django's foreign keys are deferred. In a transaction of many entries one entry may break a key and a later one
mend it; alone, the first would have failed at its commit. Another node's batches fall differently, so the
verdict must not depend on it.

PostgreSQL can be asked: `SET CONSTRAINTS ALL IMMEDIATE` checks what is pending.

SQLite cannot: its counter of pending violations shows only in whether COMMIT works. So TEMP triggers watch the
moments at which that counter can rise (a child row without its parent is written, a parent row that has
children goes away) and raise a flag: such an entry is *suspect*, and is run again in a transaction of its
own, whose COMMIT is the verdict. A false alarm costs time only. The triggers compare as SQLite's own check does: by
the parent's affinity and collation. They belong to the connection, not to the schema.

Limits: with triggers of the project's own in the schema, `recursive_triggers` stays off, so that theirs
behave as ever; then a REPLACE may delete a parent unseen, and no entries share a transaction.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final, NamedTuple, Protocol

from django.db.backends.base.base import BaseDatabaseWrapper

FLAG_FUNCTION: Final = "raftlog_suspect"
BUSY_TIMEOUT_MS: Final = 5_000  # how long SQLite waits for a lock, before apply calls the database unavailable


class Suspect(Exception):
    """This entry, or this transaction, can be judged only by the commit of a transaction of its own."""


class SchemaChanged(Exception):
    """The schema is not the one that the guard knows: connect again."""


class Guard(Protocol):
    """Called by the thread of the connection."""

    # Whether entries may share a transaction.
    can_batch: bool

    def connected(self) -> None:
        """After each connect, outside a transaction."""

    def begin(self) -> None:
        """At the start of each transaction. Raises SchemaChanged."""

    def check_entry(self, *, alone: bool) -> None:
        """After each entry. Raises IntegrityError (its verdict), or Suspect unless it is alone in its transaction."""

    def before_commit(self) -> None:
        """Raises Suspect where the transaction changed the schema, and with it what the guard must watch."""


class PostgresqlGuard:
    """Asks the database."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self.can_batch = True

    def connected(self) -> None:
        # The raft log is the write-ahead log: what a crash takes away here is applied again from there.
        self._execute("SET synchronous_commit = off")

    def begin(self) -> None:
        # There is no way back to a constraint's own default, so one that is deferrable but immediate at first
        # would be deferred for the entries after the first.
        self.can_batch = not self._has_initially_immediate()

    def check_entry(self, *, alone: bool) -> None:
        self._execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")

    def before_commit(self) -> None:
        if self.can_batch and self._has_initially_immediate():
            raise Suspect

    def _has_initially_immediate(self) -> bool:
        row = self._execute("SELECT EXISTS (SELECT 1 FROM pg_constraint WHERE condeferrable AND NOT condeferred)")
        return bool(row[0])

    def _execute(self, statement: str) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone() if cursor.description else None


class ForeignKey(NamedTuple):
    """One foreign key of a SQLite table. `parent_columns` is empty where they cannot be told."""

    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


class SqliteGuard:
    """Watches with TEMP triggers."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self.can_batch = True
        self._raw: sqlite3.Connection
        self._schema_version = -1
        # Set by the triggers. Changes: raised by _raise_flag(), lowered by check_entry() and begin().
        self._suspect = False

    def connected(self) -> None:
        raw: sqlite3.Connection = self._connection.connection
        self._raw = raw
        raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        raw.execute("PRAGMA journal_mode = WAL").fetchall()
        # The raft log is the write-ahead log: what a power cut takes away here is applied again from there.
        raw.execute("PRAGMA synchronous = NORMAL")
        raw.execute("PRAGMA temp_store = MEMORY")
        raw.create_function(FLAG_FUNCTION, 0, self._raise_flag)
        self._schema_version = self._read_schema_version()
        keys = foreign_keys(raw)
        has_triggers = raw.execute(
            "SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE type = 'trigger')"
        ).fetchone()[0]
        self.can_batch = not (keys and has_triggers)
        # Else the rows that REPLACE deletes would not fire DELETE triggers.
        raw.execute(f"PRAGMA recursive_triggers = {'OFF' if has_triggers else 'ON'}")
        for number, key in enumerate(keys):
            for statement in watching_triggers(number, key):
                raw.execute(statement)

    def begin(self) -> None:
        self._suspect = False
        if self._read_schema_version() != self._schema_version:
            raise SchemaChanged

    def check_entry(self, *, alone: bool) -> None:
        if self._suspect and not alone:
            self._suspect = False
            raise Suspect

    def before_commit(self) -> None:
        deferred = self._raw.execute("PRAGMA defer_foreign_keys").fetchone()[0]
        if deferred or self._read_schema_version() != self._schema_version:
            raise Suspect

    def _read_schema_version(self) -> int:
        return int(self._raw.execute("PRAGMA main.schema_version").fetchone()[0])

    def _raise_flag(self) -> None:
        self._suspect = True


def make_guard(connection: BaseDatabaseWrapper) -> Guard:
    return SqliteGuard(connection) if connection.vendor == "sqlite" else PostgresqlGuard(connection)


def foreign_keys(raw: sqlite3.Connection) -> list[ForeignKey]:
    """Every foreign key in the schema."""
    tables = [
        row[0]
        for row in raw.execute(
            "SELECT name FROM main.sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
        )
    ]
    keys = []
    for table in tables:
        parts: dict[int, list[tuple[Any, ...]]] = {}
        for row in raw.execute(f"PRAGMA main.foreign_key_list({quoted(table)})"):
            parts.setdefault(row[0], []).append(row)
        for rows in parts.values():
            rows.sort(key=lambda row: row[1])
            parent = rows[0][2]
            named = tuple(row[4] for row in rows)
            parent_columns = named if None not in named else _primary_key(raw, parent)
            columns = tuple(row[3] for row in rows)
            keys.append(ForeignKey(table, columns, parent, _resolved(raw, parent, parent_columns, len(columns))))
    return keys


def _primary_key(raw: sqlite3.Connection, table: str) -> tuple[str, ...]:
    rows = [row for row in raw.execute(f"PRAGMA main.table_info({quoted(table)})") if row[5]]
    return tuple(row[1] for row in sorted(rows, key=lambda row: row[5]))


def _resolved(raw: sqlite3.Connection, table: str, columns: tuple[str, ...], count: int) -> tuple[str, ...]:
    """`columns` where all of them exist, else nothing."""
    existing = {row[1].lower() for row in raw.execute(f"PRAGMA main.table_xinfo({quoted(table)})")}
    return columns if len(columns) == count and {name.lower() for name in columns} <= existing else ()


def watching_triggers(number: int, key: ForeignKey) -> list[str]:
    """TEMP triggers that raise the flag wherever this key may be broken by a row."""
    child, parent = f"main.{quoted(key.child)}", f"main.{quoted(key.parent)}"
    pairs = list(zip(key.columns, key.parent_columns, strict=False))
    flag = f"BEGIN SELECT {FLAG_FUNCTION}(); END"
    has_key = " AND ".join(f"NEW.{quoted(column)} IS NOT NULL" for column in key.columns)
    # Unary + takes the child's affinity away, so that the parent's is applied, as in SQLite's own check.
    same_parent = " AND ".join(f"{quoted(to)} = +NEW.{quoted(column)}" for column, to in pairs)
    orphan = f"{has_key} AND NOT EXISTS (SELECT 1 FROM {parent} WHERE {same_parent})" if pairs else has_key
    columns = ", ".join(map(quoted, key.columns))
    triggers = [
        f"CREATE TEMP TRIGGER raftlog_fk{number}_insert AFTER INSERT ON {child} WHEN {orphan} {flag}",
        f"CREATE TEMP TRIGGER raftlog_fk{number}_update AFTER UPDATE OF {columns} ON {child} WHEN {orphan} {flag}",
    ]
    if pairs:
        still_there = " AND ".join(f"{quoted(to)} = OLD.{quoted(to)}" for _, to in pairs)
        has_children = " AND ".join(f"OLD.{quoted(to)} = {quoted(column)}" for column, to in pairs)
        left_alone = (
            f"NOT EXISTS (SELECT 1 FROM {parent} WHERE {still_there}) "
            f"AND EXISTS (SELECT 1 FROM {child} WHERE {has_children})"
        )
        to_columns = ", ".join(quoted(to) for _, to in pairs)
        triggers += [
            f"CREATE TEMP TRIGGER raftlog_fk{number}_parent_delete AFTER DELETE ON {parent} WHEN {left_alone} {flag}",
            f"CREATE TEMP TRIGGER raftlog_fk{number}_parent_update AFTER UPDATE OF {to_columns} ON {parent} "
            f"WHEN {left_alone} {flag}",
        ]
    return triggers


def quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
