"""certify.LastChanged for PostgreSQL: kept in memory through one transaction of apply, written at its end.

Whoever applies is alone: the node's state-machine thread, or the holder of the advisory lock where entries are
applied inline. So what was read when the transaction began holds until it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psycopg

from raftlog.replication.certify import NO_MARKS, Positions, TableMarks
from raftlog.replication.fingerprint import add


class LastChanged:
    """The tables of setup.TABLES, through one connection. Thread-safety: as the connection."""

    def __init__(self, cursor: psycopg.Cursor) -> None:
        self._cursor = cursor
        self.begin()

    def begin(self) -> None:
        """A new transaction: nothing is known, nothing is to be written."""
        self._positions: Positions | None = None
        self.last_key_epoch = 0
        self._tables: dict[str, TableMarks] = {}
        self._counters: dict[str, int] = {}
        self._slots: dict[int, int] = {}
        self._changed_tables: set[str] = set()
        self._changed_counters: set[str] = set()

    def savepoint(self) -> tuple[object, ...]:
        """To be given to restore() where an entry is undone. An entry's slots are marked last, once it has passed."""
        return (self._positions, self.last_key_epoch, dict(self._tables), dict(self._counters))

    def restore(self, saved: tuple[object, ...]) -> None:
        self._positions, self.last_key_epoch, self._tables, self._counters = saved  # type: ignore[assignment]

    def positions(self) -> Positions:
        if self._positions is None:
            sql = "SELECT applied, last_data, last_schema, last_key_epoch FROM raftlog_positions"
            row = self._cursor.execute(sql).fetchone()
            assert row is not None, "the row of raftlog_positions is gone"
            self._positions, self.last_key_epoch = Positions(*row[:3]), row[3]
        return self._positions

    def set_last_data(self, index: int) -> None:
        self._positions = self.positions()._replace(last_data=index)

    def set_last_schema(self, index: int) -> None:
        self._positions = self.positions()._replace(last_schema=index)

    def set_applied(self, index: int, changes: bytes = b"") -> None:
        """The last thing in a transaction: all that was marked is written, and the transaction's row of the feed."""
        positions = self.positions()._replace(applied=index)
        tables = [(name, *self._tables[name]) for name in sorted(self._changed_tables) if name in self._tables]
        counters = [(name, self._counters[name]) for name in sorted(self._changed_counters) if name in self._counters]
        if tables:
            self._upsert("raftlog_tables", "text[] bigint[] bigint[] bigint[] bigint[] bytea[]", "name", tables)
        if counters:
            self._upsert("raftlog_counters", "text[] bigint[]", "name", counters)
        if self._slots:
            self._upsert("raftlog_slots", "int[] bigint[]", "slot", sorted(self._slots.items()))
        parameters: tuple[object, ...] = (*positions, self.last_key_epoch)
        sql = "UPDATE raftlog_positions SET applied = %s, last_data = %s, last_schema = %s, last_key_epoch = %s"
        if changes:  # without a round trip of its own
            sql = f"WITH fed AS (INSERT INTO raftlog_change VALUES (%s, %s)) {sql}"
            parameters = (index, changes, *parameters)
        self._cursor.execute(sql.encode(), parameters)
        self._cursor.execute("SELECT setval('raftlog.newest', %s)", (index,))
        self.begin()

    def _upsert(self, table: str, types: str, key: str, rows: Sequence[tuple[object, ...]]) -> None:
        columns = {
            "raftlog_tables": ("changed", "schema_changed", "all_rows", "key_epoch", "fingerprint"),
            "raftlog_counters": ("value",),
            "raftlog_slots": ("changed",),
        }[table]
        arrays = ", ".join(f"%s::{kind}" for kind in types.split())
        assignments = ", ".join(f"{column} = excluded.{column}" for column in columns)
        sql = f"INSERT INTO {table} SELECT * FROM unnest({arrays}) ON CONFLICT ({key}) DO UPDATE SET {assignments}"
        self._cursor.execute(sql.encode(), [list(column) for column in zip(*rows, strict=True)])

    def table(self, name: str) -> TableMarks:
        found = self._tables.get(name)
        if found is None:
            sql = "SELECT changed, schema_changed, all_rows, key_epoch, fingerprint FROM raftlog_tables WHERE name = %s"
            row = self._cursor.execute(sql, (name,)).fetchone()
            found = self._tables[name] = TableMarks._make(row) if row else NO_MARKS
        return found

    def set_table(self, name: str, marks: TableMarks) -> None:
        self._tables[name] = marks
        self._changed_tables.add(name)
        self.last_key_epoch = max(self.last_key_epoch, marks.key_epoch)

    def tables(self) -> dict[str, TableMarks]:
        sql = "SELECT name, changed, schema_changed, all_rows, key_epoch, fingerprint FROM raftlog_tables"
        found = {name: TableMarks._make(marks) for name, *marks in self._cursor.execute(sql).fetchall()}
        return found | {name: self._tables[name] for name in self._changed_tables if name in self._tables}

    def fold(self, name: str, index: int, difference: int, *, all_rows: bool) -> None:
        """Entry `index` changed rows of `name`; the fingerprint moves by `difference`."""
        marks = self.table(name)
        fingerprint = add(marks.fingerprint, difference)
        all_rows_index = index if all_rows else marks.all_rows
        self.set_table(name, marks._replace(changed=index, all_rows=all_rows_index, fingerprint=fingerprint))

    def counter(self, name: str) -> int:
        """The last automatic key that was given out for table `name`; 0: none."""
        found = self._counters.get(name)
        if found is None:
            row = self._cursor.execute("SELECT value FROM raftlog_counters WHERE name = %s", (name,)).fetchone()
            found = self._counters[name] = row[0] if row else 0
        return found

    def set_counter(self, name: str, value: int) -> None:
        self._counters[name] = value
        self._changed_counters.add(name)

    def mark_slots(self, slots: Iterable[int], index: int) -> None:
        self._slots.update(dict.fromkeys(slots, index))

    def newest_slot(self, slots: Sequence[int]) -> int:
        """Index of the last entry that wrote a row in any of these slots (0: none)."""
        newest = max((self._slots.get(slot, 0) for slot in slots), default=0)
        sql = "SELECT coalesce(max(changed), 0) FROM raftlog_slots WHERE slot = ANY(%s)"
        row = self._cursor.execute(sql, (list(slots),)).fetchone()
        return max(newest, row[0] if row else 0)
