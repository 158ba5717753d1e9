"""What a SQLite database holds, row by row by key, and how two of them differ: table, key, column, both values."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from raftlog.replication.shapes import is_replicated, quoted

MAX_SHOWN = 20  # differences that a message names


class Table(NamedTuple):
    """Rows by key. `columns` and `key` are names; a table without a primary key has its whole rows as keys."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    rows: dict[tuple[Any, ...], tuple[Any, ...]]


class Difference(NamedTuple):
    """`column` is "" where the whole row is there only once; then its other side is None."""

    table: str
    key: tuple[Any, ...]
    column: str
    left: Any
    right: Any

    def words(self, left: str, right: str) -> str:
        """`left` and `right` say whose values they are."""
        key = ", ".join(map(repr, self.key))
        if not self.column:
            here, there = (left, right) if self.right is None else (right, left)
            return f"{self.table}, key {key}: the row is there {here}, and not {there}"
        return f"{self.table}, key {key}, column {self.column}: {self.left!r} {left}, {self.right!r} {right}"


def read_contents(path: Path | str) -> dict[str, Table]:
    """Every table but SQLite's and raftlog's own. Raises sqlite3.Error."""
    connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("BEGIN")
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: _read(connection, name) for name in sorted(names) if is_replicated(name)}
    finally:
        connection.close()


def _read(connection: sqlite3.Connection, name: str) -> Table:
    described = connection.execute(f"PRAGMA table_xinfo({quoted(name)})").fetchall()
    shown = [row for row in described if row[6] == 0]  # neither generated nor hidden
    columns = tuple(row[1] for row in shown)
    key = tuple(row[1] for row in sorted(shown, key=lambda row: row[5]) if row[5])
    positions = [columns.index(column) for column in key or columns]
    selected = ", ".join(map(quoted, columns))
    rows = connection.execute(f"SELECT {selected} FROM main.{quoted(name)}")
    return Table(columns, key, {tuple(row[position] for position in positions): row for row in rows})


def differences(left: dict[str, Table], right: dict[str, Table]) -> list[Difference]:
    """In order of table and key. Rows that each side has alone are taken for one row whose key differs, in order."""
    found: list[Difference] = []
    empty = Table((), (), {})
    for name in sorted(left.keys() | right.keys()):
        one, other = left.get(name, empty), right.get(name, empty)
        for key in sorted(one.rows.keys() & other.rows.keys(), key=repr):
            found += _in_row(name, key, one.columns, one.rows[key], other.rows[key])
        alone = sorted(one.rows.keys() - other.rows.keys(), key=repr)
        others = sorted(other.rows.keys() - one.rows.keys(), key=repr)
        for key, another in zip(alone, others, strict=False):
            found += _in_row(name, key, one.columns, one.rows[key], other.rows[another])
        found += [Difference(name, key, "", one.rows[key], None) for key in alone[len(others) :]]
        found += [Difference(name, key, "", None, other.rows[key]) for key in others[len(alone) :]]
    return found


def _in_row(
    table: str, key: tuple[Any, ...], columns: Iterable[str], left: tuple[Any, ...], right: tuple[Any, ...]
) -> list[Difference]:
    return [
        Difference(table, key, column, before, after)
        for column, before, after in zip(columns, left, right, strict=False)
        if before != after or type(before) is not type(after)
    ]
