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

    def pardon(self) -> None:
        """What the entry just run did to references has been checked otherwise."""

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

    def pardon(self) -> None:
        """Nothing is noted here: PostgreSQL is asked for each entry."""

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
    """One foreign key of a SQLite table."""

    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    # Whether values of child and parent columns are stored alike, so that equal ones are equal without conversion.
    same_affinity: bool


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
        is_recursive = (
            hasattr(self._connection, "apply_port")
            or not raw.execute("SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE type = 'trigger')").fetchone()[0]
        )
        self.can_batch = is_recursive or not keys
        # Else the rows that REPLACE deletes would not fire DELETE triggers.
        raw.execute(f"PRAGMA recursive_triggers = {'ON' if is_recursive else 'OFF'}")
        for number, key in enumerate(keys):
            for statement in watching_triggers(number, key):
                raw.execute(statement)

    def begin(self) -> None:
        self._suspect = False
        if self._read_schema_version() != self._schema_version:
            raise SchemaChanged

    def pardon(self) -> None:
        self._suspect = False

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
    """Every foreign key in the schema that can be obeyed. SQLite refuses all writes to a child of any other."""
    statement = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
    columns_of = {row[0].lower(): _columns(raw, row[0]) for row in raw.execute(statement).fetchall()}
    keys = []
    for child, child_columns in columns_of.items():
        parts: dict[int, list[tuple[Any, ...]]] = {}
        for row in raw.execute(f"PRAGMA main.foreign_key_list({quoted(child)})"):
            parts.setdefault(row[0], []).append(row)
        for rows in parts.values():
            rows.sort(key=lambda row: row[1])
            parent = rows[0][2].lower()
            parent_columns = columns_of.get(parent, {})
            named = [row[4].lower() for row in rows if row[4] is not None] or _primary_key(parent_columns)
            columns = [row[3].lower() for row in rows]
            if len(named) == len(columns) and parent_columns.keys() >= set(named):
                pairs = zip(columns, named, strict=True)
                same = all(child_columns[a].affinity == parent_columns[b].affinity for a, b in pairs)
                keys.append(ForeignKey(child, tuple(columns), parent, tuple(named), same))
    return keys


class Column(NamedTuple):
    """A column of a SQLite table. `key_position` counts from 1 in the primary key, 0: not part of it."""

    affinity: str
    key_position: int


def _columns(raw: sqlite3.Connection, table: str) -> dict[str, Column]:
    """Columns by name, in lower case: SQLite's names know no case."""
    rows = raw.execute(f"PRAGMA main.table_xinfo({quoted(table)})")
    return {row[1].lower(): Column(affinity(row[2]), row[5]) for row in rows}


def _primary_key(columns: dict[str, Column]) -> list[str]:
    positions = {column.key_position: name for name, column in columns.items() if column.key_position}
    return [positions[position] for position in sorted(positions)]


def affinity(declared: str) -> str:
    """SQLite's rules (datatype3, section 3.1), with INTEGER taken for NUMERIC: they store alike."""
    declared = declared.upper()
    for words, found in ((("INT",), "NUMERIC"), (("CHAR", "CLOB", "TEXT"), "TEXT"), (("BLOB",), "BLOB")):
        if any(word in declared for word in words):
            return found
    if not declared:
        return "BLOB"
    return "REAL" if any(word in declared for word in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def watching_triggers(number: int, key: ForeignKey) -> list[str]:
    """TEMP triggers that raise the flag wherever this key may be broken by a row."""
    child, parent = f"main.{quoted(key.child)}", f"main.{quoted(key.parent)}"
    pairs = [(quoted(column), quoted(to)) for column, to in zip(key.columns, key.parent_columns, strict=True)]
    flag = f"BEGIN SELECT {FLAG_FUNCTION}(); END"
    # NEW and OLD have no affinity of their own, so the parent's is applied to the child's value, as SQLite does.
    has_key = " AND ".join(f"NEW.{column} IS NOT NULL" for column, _ in pairs)
    same_parent = " AND ".join(f"{to} = NEW.{column}" for column, to in pairs)
    orphan = f"{has_key} AND NOT EXISTS (SELECT 1 FROM {parent} WHERE {same_parent})"
    still_there = " AND ".join(f"{to} = OLD.{to}" for _, to in pairs)
    # The other way round the child's affinity would be applied: where it is another, any child counts.
    has_children = " AND ".join(f"OLD.{to} = {column}" for column, to in pairs) if key.same_affinity else "1"
    left_alone = (
        f"NOT EXISTS (SELECT 1 FROM {parent} WHERE {still_there}) "
        f"AND EXISTS (SELECT 1 FROM {child} WHERE {has_children})"
    )
    columns = ", ".join(column for column, _ in pairs)
    to_columns = ", ".join(to for _, to in pairs)
    return [
        f"CREATE TEMP TRIGGER raftlog_fk{number}_insert AFTER INSERT ON {child} WHEN {orphan} {flag}",
        f"CREATE TEMP TRIGGER raftlog_fk{number}_update AFTER UPDATE OF {columns} ON {child} WHEN {orphan} {flag}",
        f"CREATE TEMP TRIGGER raftlog_fk{number}_parent_delete AFTER DELETE ON {parent} WHEN {left_alone} {flag}",
        f"CREATE TEMP TRIGGER raftlog_fk{number}_parent_update AFTER UPDATE OF {to_columns} ON {parent} "
        f"WHEN {left_alone} {flag}",
    ]


def quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
