"""The authorizer: SQLite asks it, when a statement is prepared, whether each of its actions is allowed (rule 14).

It says no to what would commit rows on this host alone or could not be alike on all nodes, and notes what a
statement reads and writes. It is never taken off or replaced: that would expire every prepared statement.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from raftlog.backends.sqlite3.statements import Kind, StatementInfo
from raftlog.replication.shapes import OWN_TABLES, OWN_TRIGGER_PREFIX

# Action codes that the sqlite3 module does not name in all versions.
_RECURSIVE: Final = 33

_REFUSED_ACTIONS: Final = {
    sqlite3.SQLITE_ATTACH: "ATTACH: what another file holds is not replicated; use a database alias of its own",
    sqlite3.SQLITE_DETACH: "DETACH: databases cannot be attached here",
    sqlite3.SQLITE_CREATE_TEMP_TABLE: "temporary tables go with the rollback that every commit makes here; use a CTE",
    sqlite3.SQLITE_CREATE_TEMP_VIEW: "temporary views go with the rollback that every commit makes here; use a CTE",
    sqlite3.SQLITE_CREATE_TEMP_TRIGGER: "temporary triggers go with the rollback that every commit makes here",
    sqlite3.SQLITE_CREATE_VTABLE: "SQLite shows rows of virtual tables (FTS and others) to no trigger, so they cannot "
    "be replicated; keep them in another database alias",
}
_REFUSED_TRIGGER: Final = (
    "triggers would fire again on every node, and this Python cannot switch them off; use Python 3.12 or newer, or do "
    "their work in the application"
)
_ROW_ACTIONS: Final = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
# Pragmas that may be read, and not set.
_FIXED_PRAGMAS: Final = frozenset(
    {
        "application_id",
        "auto_vacuum",
        "encoding",
        "ignore_check_constraints",
        "incremental_vacuum",
        "journal_mode",
        "locking_mode",
        "page_size",
        "recursive_triggers",
        "schema_version",
        "user_version",
        "writable_schema",
    }
)


class Authorizer:
    """The callback of one connection, and what it learned. Called by SQLite inside a prepare."""

    def __init__(self, *, allows_triggers: bool = False) -> None:
        # CREATE TRIGGER: the state machine can keep the schema's own triggers from firing again.
        self.allows_triggers = allows_triggers
        # raftlog's own statements: everything goes.
        self.is_internal = False
        # Inside a statement of the application for which the transaction is ready to capture.
        self.may_write = False
        # The log is applied through this connection: raftlog's own tables are written too.
        self.applies = False
        # A statement that is replayed as such: its rows need no triggers.
        self.is_replayed = False
        self.preparing: StatementInfo | None = None
        self.captured: set[str] | dict[str, int] = {}  # tables with triggers
        # Why the last statement was refused ("": it was not); tables that want triggers first.
        self.refusal = ""
        self.missing: set[str] = set()

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None, inner: str | None
    ) -> int:
        if self.is_internal:
            return sqlite3.SQLITE_OK
        info = self.preparing
        if info is not None:
            info.prepared = True
        if action == sqlite3.SQLITE_READ:
            if (
                info is not None
                and first
                and database != "temp"
                and not (inner and inner.startswith(OWN_TRIGGER_PREFIX))
            ):
                info.reads.add(first)
                if inner:
                    self._note_read_by(inner, first, info)
            return sqlite3.SQLITE_OK
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, _RECURSIVE):
            return sqlite3.SQLITE_OK
        words = self._refusal_of(action, first or "", second, info)
        if inner and first and info is not None and action in _ROW_ACTIONS:
            self._note_read_by(inner, first, info)
        if not words:
            return sqlite3.SQLITE_OK
        self.refusal = words
        return sqlite3.SQLITE_DENY

    def _note_read_by(self, inner: str, table: str, info: StatementInfo) -> None:
        """`inner` is a trigger, or a view, of the schema's own."""
        if self.allows_triggers and table not in OWN_TABLES:
            info.trigger_reads.add(table)

    def _refusal_of(self, action: int, first: str, second: str | None, info: StatementInfo | None) -> str:
        if action in _ROW_ACTIONS:
            return self._row_refusal(first, info)
        if action in _REFUSED_ACTIONS:
            return _REFUSED_ACTIONS[action]
        if action == sqlite3.SQLITE_CREATE_TRIGGER and not self.allows_triggers:
            return _REFUSED_TRIGGER
        if action == sqlite3.SQLITE_PRAGMA:
            if second is not None and first.lower() in _FIXED_PRAGMAS:
                return f"PRAGMA {first} cannot be set here: it would hold on this host alone"
            return ""
        if action == sqlite3.SQLITE_TRANSACTION and first != "ROLLBACK":
            return f"{first} goes through Django's connection (atomic, commit())"
        if action == sqlite3.SQLITE_SAVEPOINT and not self.may_write:
            return "savepoints go through Django's cursor, inside a transaction"
        if action in (sqlite3.SQLITE_ANALYZE, sqlite3.SQLITE_SAVEPOINT, sqlite3.SQLITE_TRANSACTION):
            return ""
        if info is None or info.kind is not Kind.SCHEMA or not self.may_write:
            return "schema statements go through Django's cursor"
        return ""

    def _row_refusal(self, table: str, info: StatementInfo | None) -> str:
        if info is None or not self.may_write:
            return f"rows of {table} are changed through Django's cursor only, which captures them"
        if info.kind is Kind.SCHEMA:
            return ""
        if table in OWN_TABLES:
            return "" if self.applies else f"{table} belongs to raftlog"
        if table == "sqlite_sequence":
            return "" if info.sets_sequence else "sqlite_sequence is changed by statements that name it only"
        if table.startswith("sqlite_"):
            return f"{table} belongs to SQLite"
        info.writes.add(table)
        if self.is_replayed or table in self.captured:
            return ""
        self.missing.add(table)
        return f"table {table} has no triggers yet"
