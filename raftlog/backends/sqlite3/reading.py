"""The rows of the database as one snapshot shows them, for scans and for comparison with a peer (rule 16).

A read-only connection of its own: in WAL mode its snapshots hold up neither apply nor the application.

Thread-safety: one thread at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raftlog.replication.certify import LastChanged
from raftlog.replication.divergence import Row
from raftlog.replication.shapes import Schema, TableShape, quoted
from raftlog.replication.slots import slots_of


class TableReader:
    """Implements replication.divergence.TableReader. Raises sqlite3.Error where the file cannot be read."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )

    def close(self) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        self._connection.execute("BEGIN")
        try:
            yield Snapshot(self._connection)
        finally:
            self._connection.execute("ROLLBACK")


class Snapshot:
    """Implements replication.divergence.Snapshot."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._schema = Schema(connection)
        self._marks = LastChanged(connection)
        sql = "SELECT applied_index FROM raftlog_appliedindex"
        self.applied_index: int = connection.execute(sql).fetchone()[0]

    def kept(self) -> dict[str, bytes]:
        has_tables = "SELECT 1 FROM sqlite_master WHERE name = 'raftlog_tables'"
        if not self._connection.execute(has_tables).fetchall():
            return {}
        # A table that cannot be replicated had its sum counted, if ever, before it became so.
        unsupported = set(self._schema.table_names()) - set(self.tables())
        return {name: marks.fingerprint for name, marks in self._marks.tables().items() if name not in unsupported}

    def tables(self) -> list[str]:
        return [shape.name for shape in self._schema.supported_tables()]

    def columns(self, table: str) -> list[str]:
        return list(self._schema.table(table).columns)

    def shape(self, table: str) -> TableShape | None:
        try:
            return self._schema.table(table)
        except KeyError:
            return None

    def rows(self, table: str, after: list[Any] | None, upto: list[Any] | None, limit: int) -> list[Row]:
        try:
            shape = self._schema.table(table)
        except KeyError:
            return []
        conditions, parameters = [], []
        for operator, key in ((">", after), ("<=", upto)):
            if key is not None:
                conditions.append(f"({_key_columns(shape)}) {operator} ({', '.join('?' * len(key))})")
                parameters += key
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        sql = (
            f"SELECT {_selected(shape)} FROM main.{quoted(table)} {where} ORDER BY {_key_columns(shape)} LIMIT {limit}"
        )
        width = range(len(shape.key))
        found = self._connection.execute(sql, parameters).fetchall()
        return [Row([image[shape.key[position]] for position in width], list(image)) for image in found]

    def image(self, table: str, key: list[Any]) -> list[Any] | None:
        try:
            shape = self._schema.table(table)
        except KeyError:
            return None
        found = self._connection.execute(shape.select_by_key(), key).fetchall()
        return list(found[0]) if found else None

    def last_written(self, table: str, key: list[Any]) -> int:
        marks = self._marks.table(table)
        slots = sorted(slots_of(table, [tuple(key)]))
        return max(marks.all_rows, marks.schema_changed, self._marks.newest_slot(slots))


def _selected(shape: TableShape) -> str:
    return ", ".join(f"+{quoted(column)} AS c{number}" for number, column in enumerate(shape.columns))


def _key_columns(shape: TableShape) -> str:
    return ", ".join(quoted(shape.columns[position]) for position in shape.key)
