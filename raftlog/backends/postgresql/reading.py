"""The rows of the database as one snapshot shows them, for scans and for comparison with a peer (rule 16).

A connection of its own, read-only: its snapshots hold up neither apply nor the application, but for schema changes,
which cancel it.

Thread-safety: one thread at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from raftlog.backends.postgresql.marks import LastChanged
from raftlog.backends.postgresql.setup import CANONICAL
from raftlog.backends.postgresql.shapes import Schema, Table
from raftlog.replication.divergence import Row
from raftlog.replication.shapes import TableShape
from raftlog.replication.slots import slots_of


class TableReader:
    """Implements replication.divergence.TableReader. Raises psycopg.Error where the database cannot be read."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._connection = psycopg.Connection.connect(**parameters, autocommit=True, row_factory=tuple_row)
        self._cursor = self._connection.cursor()
        for name, value in CANONICAL.items():
            self._cursor.execute(f"SET {name} = '{value}'".encode())

    def close(self) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        self._cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield Snapshot(self._cursor)
        finally:
            if not self._connection.closed:
                self._cursor.execute("ROLLBACK")


class Snapshot:
    """Implements replication.divergence.Snapshot."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor
        self.applied_index: int = self._value("SELECT applied_index FROM raftlog_appliedindex")
        self._schema = Schema(cursor, self._value("SELECT coalesce(current_schema(), 'public')"))
        self._marks = LastChanged(cursor)

    def _value(self, sql: str) -> Any:
        row = self._cursor.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]

    def kept(self) -> dict[str, bytes]:
        if not self._value("SELECT to_regclass('raftlog_tables') IS NOT NULL"):
            return {}
        return {name: marks.fingerprint for name, marks in self._marks.tables().items()}

    def tables(self) -> list[str]:
        return self._schema.table_names()

    def columns(self, table: str) -> list[str]:
        return list(self._schema.table(table).columns)

    def shape(self, table: str) -> TableShape | None:
        try:
            return self._schema.table(table)
        except KeyError:
            return None

    def rows(self, table: str, after: list[Any] | None, upto: list[Any] | None, limit: int) -> list[Row]:
        """Of a table without a key, all rows at once: equal ones cannot be told apart, so there is no first `limit`."""
        try:
            shape = self._schema.table(table)
        except KeyError:
            return []
        key = shape.image_text if shape.hidden_key else f"({', '.join(shape.names(shape.key, 'raftlog_row.'))})"
        conditions: list[str] = []
        parameters: list[Any] = []
        for operator, bound in ((">", after), ("<=", upto)):
            if bound is not None:
                conditions.append(f"{key} {operator} {self._bound(shape)}")
                parameters += [shape.key_literal(bound)] if shape.hidden_key else bound
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        last = "" if shape.hidden_key else f"LIMIT {limit}"
        order = key if shape.hidden_key else key[1:-1]
        sql = f"SELECT raftlog_row::text FROM ONLY {shape.sql_name} AS raftlog_row {where} ORDER BY {order} {last}"
        images = [shape.image(literal) for (literal,) in self._cursor.execute(sql.encode(), parameters or None)]
        return [Row([image[position] for position in shape.key], list(image)) for image in images]

    def _bound(self, shape: Table) -> str:
        if shape.hidden_key:
            return "%s"
        return f"({', '.join(f'%s::text::{shape.types[position]}' for position in shape.key)})"

    def image(self, table: str, key: list[Any]) -> list[Any] | None:
        try:
            shape = self._schema.table(table)
        except KeyError:
            return None
        parameters = [shape.key_literal(key)] if shape.hidden_key else shape.key_arrays([key])
        found = self._cursor.execute(shape.select_by_key().encode(), parameters).fetchall()
        if not found:
            return None
        return list(key) if shape.hidden_key else list(shape.image(found[0][1]))

    def last_written(self, table: str, key: list[Any]) -> int:
        marks = self._marks.table(table)
        slots = sorted(slots_of(table, [tuple(key)]))
        return max(marks.all_rows, marks.schema_changed, self._marks.newest_slot(slots))
