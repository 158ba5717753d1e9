"""All that a database holds, comparable with another's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from django.db.backends.sqlite3._functions import register

# The change feed, which is each node's own.
NODE_LOCAL = ("raftlog_change", "raftlog_changefeed")


class SqliteContents:
    """Schema and rows of every table, SQLite's and raftlog's too, but for NODE_LOCAL.

    `read` runs a statement and gives all its rows.
    """

    def __init__(self, read: Callable[[str], list[tuple[Any, ...]]]) -> None:
        self._read = read
        self._schema: list[tuple[Any, ...]] = []
        self._selects: dict[str, str] = {}

    def __call__(self) -> dict[str, list[tuple[Any, ...]]]:
        schema = self._read("SELECT type, name, sql FROM main.sqlite_master ORDER BY 1, 2")
        if schema != self._schema:
            self._schema = schema
            self._selects = {
                name: self._select(name) for kind, name, _ in schema if kind == "table" and name not in NODE_LOCAL
            }
        return {"": schema} | {name: sorted(self._read(sql)) for name, sql in self._selects.items()}

    def _select(self, table: str) -> str:
        columns = [row[1] for row in self._read(f'PRAGMA main.table_xinfo("{table}")')]
        quoted = ", ".join(f'quote("{column}")' for column in columns)
        return f'SELECT {quoted} FROM main."{table}"'


class SqliteFile:
    """A node's database file, looked at from outside."""

    def __init__(self, path: object) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        register(self._connection)
        self.contents = SqliteContents(self._read)

    def applied_index(self) -> int:
        index: int = self._read("SELECT applied_index FROM main.raftlog_appliedindex")[0][0]
        return index

    def close(self) -> None:
        self._connection.close()

    def _read(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()


def different(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names of the tables in which two databases differ ("": the schema)."""
    return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
