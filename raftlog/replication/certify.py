"""Certification: does a transaction still hold at its place in the log? Alike on every node (rules 2, 9, 10).

Two kinds of evidence. *When things last changed*, kept in the replicated database beside the applied
index, so that it survives a restart and travels with a snapshot: for each table the last entry that
changed its rows and the last that changed its schema, and for each of 65,536 slots, into which rows fall
by a hash of table and key, the last entry that wrote (or touched) a row of it. The same slots tell of the values by
which rows are looked up (shapes.Lookup): pairs of column and value, in the place of a key. Two rows that share a slot
make a conflict that need not be, about once in 65,536 concurrent pairs. And *hashes of the rows* as the
transaction found them, which guard against a database that has diverged.

Foreign keys are checked by key, entry by entry: SQLite's own check is deferred to the commit of a whole
batch, and would give an entry a verdict that depends on its neighbours.
"""

from __future__ import annotations

import enum
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from raftlog.replication.fingerprint import EMPTY, add
from raftlog.replication.shapes import ForeignKey, Schema, TableShape, quoted
from raftlog.replication.slots import slots_of

# A write set with more rows of one table than this marks the whole table.
MAX_MARKED_ROWS: Final = 4_096
# And with more images of rows, one slot that stands for all values of the table's lookups.
MAX_MARKED_IMAGES: Final = 64
# Slots asked for in one statement.
_CHUNK: Final = 500

_encode = msgspec.msgpack.Encoder().encode
_verdict_decoder = msgspec.msgpack.Decoder(tuple[int, str, int, int])


class VerdictKind(enum.IntEnum):
    """How an entry ended, alike on every node."""

    APPLIED = 0
    CONFLICT = 1
    UNIQUE_CONFLICT = 2
    INTEGRITY = 3


class Verdict(NamedTuple):
    """`reason` is for people: it names table and key. `first_key`, `key_epoch`: of a block that was reserved."""

    kind: VerdictKind
    reason: str = ""
    first_key: int = 0
    key_epoch: int = 0


APPLIED: Final = Verdict(VerdictKind.APPLIED)


def encode_verdict(verdict: Verdict) -> bytes:
    """As the result of an entry, kept by its session and returned for a repeat."""
    return _encode((int(verdict.kind), *verdict[1:]))


def decode_verdict(result: bytes) -> Verdict:
    kind, reason, first_key, key_epoch = _verdict_decoder.decode(result)
    return Verdict(VerdictKind(kind), reason, first_key, key_epoch)


class Unexplained(NamedTuple):
    """A refusal although nothing that the entry met has changed since its base: a database has diverged (rule 16)."""

    table: str
    key: tuple[Any, ...] | None
    reason: str


class Refused(Exception):
    """Raised inside apply to leave it with a verdict. `row`: (table, key) of a row that is not as it should be."""

    def __init__(self, kind: VerdictKind, reason: str, row: tuple[str, tuple[Any, ...]] | None = None) -> None:
        self.verdict = Verdict(kind, reason)
        self.row = row
        super().__init__(reason)


STATE_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS main.raftlog_positions (id INTEGER PRIMARY KEY CHECK (id = 1), "
    "applied INTEGER NOT NULL, last_data INTEGER NOT NULL, last_schema INTEGER NOT NULL)",
    "INSERT OR IGNORE INTO main.raftlog_positions VALUES (1, 0, 0, 0)",
    "CREATE TABLE IF NOT EXISTS main.raftlog_tables (name TEXT PRIMARY KEY, changed INTEGER NOT NULL DEFAULT 0, "
    "schema_changed INTEGER NOT NULL DEFAULT 0, all_rows INTEGER NOT NULL DEFAULT 0, "
    "key_epoch INTEGER NOT NULL DEFAULT 0, fingerprint BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS main.raftlog_slots (slot INTEGER PRIMARY KEY, changed INTEGER NOT NULL)",
)


class Positions(NamedTuple):
    """Index of the last entry in this database, of the last that changed rows, of the last that changed the schema."""

    applied: int
    last_data: int
    last_schema: int


class TableMarks(NamedTuple):
    """One row of raftlog_tables; indices of entries, 0 where there was none."""

    changed: int
    schema_changed: int
    all_rows: int
    key_epoch: int
    fingerprint: bytes


NO_MARKS: Final = TableMarks(0, 0, 0, 0, EMPTY)


class LastChanged:
    """The tables of STATE_TABLES, through one connection, inside the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._cursor = connection.cursor(sqlite3.Cursor)
        self._cursor.row_factory = None

    def make_tables(self, fingerprints: Callable[[], Mapping[str, bytes]] = dict) -> None:
        """All or none, whatever crashes: who finds one of them takes the others to be there. Outside a transaction.

        `fingerprints` of tables that may have rows already.
        """
        self._cursor.execute("BEGIN IMMEDIATE")
        try:
            for statement in STATE_TABLES:
                self._cursor.execute(statement)
            for name, fingerprint in fingerprints().items():
                if fingerprint != EMPTY:
                    # Written at once, also where marks are staged otherwise.
                    LastChanged.set_table(self, name, LastChanged.table(self, name)._replace(fingerprint=fingerprint))
        except BaseException:
            self._cursor.execute("ROLLBACK")
            raise
        self._cursor.execute("COMMIT /* raftlog */")

    def begin(self) -> None:
        """A transaction has begun: what may be known from an earlier one is forgotten."""

    def positions(self) -> Positions:
        rows = self._cursor.execute("SELECT applied, last_data, last_schema FROM raftlog_positions").fetchall()
        return Positions._make(rows[0])

    def set_applied(self, index: int) -> None:
        self._cursor.execute("UPDATE raftlog_positions SET applied = ?", (index,))

    def set_last_data(self, index: int) -> None:
        self._cursor.execute("UPDATE raftlog_positions SET last_data = ?", (index,))

    def set_last_schema(self, index: int) -> None:
        self._cursor.execute("UPDATE raftlog_positions SET last_schema = ?", (index,))

    def table(self, name: str) -> TableMarks:
        sql = "SELECT changed, schema_changed, all_rows, key_epoch, fingerprint FROM raftlog_tables WHERE name = ?"
        found = self._cursor.execute(sql, (name,)).fetchall()
        return TableMarks._make(found[0]) if found else NO_MARKS

    def set_table(self, name: str, marks: TableMarks) -> None:
        self._cursor.execute("INSERT OR REPLACE INTO raftlog_tables VALUES (?, ?, ?, ?, ?, ?)", (name, *marks))

    def tables(self) -> dict[str, TableMarks]:
        sql = "SELECT name, changed, schema_changed, all_rows, key_epoch, fingerprint FROM raftlog_tables"
        rows = self._cursor.execute(sql)
        return {name: TableMarks._make(marks) for name, *marks in rows}

    def fold(self, name: str, index: int, difference: int, *, all_rows: bool) -> None:
        """Entry `index` changed rows of `name`; the fingerprint moves by `difference`."""
        marks = self.table(name)
        fingerprint = add(marks.fingerprint, difference)
        all_rows_index = index if all_rows else marks.all_rows
        self.set_table(name, marks._replace(changed=index, all_rows=all_rows_index, fingerprint=fingerprint))

    def mark_slots(self, slots: Iterable[int], index: int) -> None:
        self._cursor.executemany(
            "INSERT OR REPLACE INTO raftlog_slots VALUES (?, ?)", [(slot, index) for slot in sorted(slots)]
        )

    def newest_slot(self, slots: Sequence[int]) -> int:
        """Index of the last entry that wrote a row in any of these slots (0: none)."""
        newest = 0
        for start in range(0, len(slots), _CHUNK):
            chunk = slots[start : start + _CHUNK]
            sql = f"SELECT max(changed) FROM raftlog_slots WHERE slot IN ({', '.join('?' * len(chunk))})"
            newest = max(newest, self._cursor.execute(sql, chunk).fetchall()[0][0] or 0)
        return newest


def check_unchanged_since(
    marks: LastChanged,
    base: int,
    read_tables: Iterable[str],
    rows: Iterable[tuple[str, tuple[Any, ...]]],
    written: Iterable[str],
) -> None:
    """Raise Refused if a table that was read, the schema of one that was written, or a row changed after `base`."""
    seen: dict[str, TableMarks] = {}

    def marks_of(name: str) -> TableMarks:
        found = seen.get(name)
        if found is None:
            found = seen[name] = marks.table(name)
        return found

    for name in read_tables:
        found = marks_of(name)
        if max(found.changed, found.schema_changed) > base:
            raise Refused(VerdictKind.CONFLICT, f"table {name}, which it read, changed after entry {base}")
    for name in written:
        if marks_of(name).schema_changed > base:
            raise Refused(VerdictKind.CONFLICT, f"the schema of table {name} changed after entry {base}")
    slots = set()
    for name, keys in _by_table(rows).items():
        found = marks_of(name)
        if max(found.all_rows, found.schema_changed) > base:
            raise Refused(VerdictKind.CONFLICT, f"many rows of table {name} changed after entry {base}")
        slots |= slots_of(name, keys)
    if slots and marks.newest_slot(sorted(slots)) > base:
        raise Refused(VerdictKind.CONFLICT, f"a row that it read or wrote changed after entry {base}")


def _by_table(rows: Iterable[tuple[str, tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for name, key in rows:
        found.setdefault(name, []).append(key)
    return found


class ForeignKeyCheck:
    """Collects what an entry did to references, and looks at the end whether one of them dangles.

    A pair (foreign key, values) dangles if no parent has the values and some child does. A written child and
    a removed parent ask the same question, whatever happened to either later in the entry.
    """

    def __init__(self, cursor: sqlite3.Cursor, schema: Schema) -> None:
        self._cursor = cursor
        self._schema = schema
        self._suspects: dict[tuple[ForeignKey, tuple[Any, ...]], None] = {}
        self._referring: dict[str, list[ForeignKey]] = {}

    def forget(self) -> None:
        self._referring.clear()

    def written(self, shape: TableShape, image: Sequence[Any], changed: Sequence[int] | None = None) -> None:
        """A row now has this image; `changed`: the positions that differ from before (None: it is new)."""
        for key in shape.foreign_keys:
            positions = [shape.positions[column] for column in key.columns]
            if changed is None or not set(positions).isdisjoint(changed):
                self._suspect(key, [image[position] for position in positions])

    def removed(self, shape: TableShape, image: Sequence[Any], changed: Sequence[int] | None = None) -> None:
        """A row had this image; `changed`: the positions in which it differs now (None: it is gone)."""
        for key in self.referring_to(shape.name):
            positions = [shape.positions[column] for column in key.parent_columns if column in shape.positions]
            if len(positions) != len(key.parent_columns):
                continue
            if changed is None or not set(positions).isdisjoint(changed):
                self._suspect(key, [image[position] for position in positions])

    def referring_to(self, table: str) -> list[ForeignKey]:
        found = self._referring.get(table)
        if found is None:
            found = self._referring[table] = self._schema.referring_to(table)
        return found

    def _suspect(self, key: ForeignKey, values: list[Any]) -> None:
        if values and None not in values:
            self._suspects[key, tuple(values)] = None

    def dangling(self) -> str:
        """Words for the first reference that dangles, "" if none does."""
        for key, values in self._suspects:
            if not self._exists(key.parent, key.parent_columns, values) and self._exists(
                key.table, key.columns, values
            ):
                to = f"{key.parent}({', '.join(key.parent_columns)})"
                return f"{key.table}({', '.join(key.columns)}) refers to {values!r}, which is not in {to}"
        return ""

    def _exists(self, table: str, columns: Sequence[str], values: tuple[Any, ...]) -> bool:
        where = " AND ".join(f"{quoted(column)} = ?" for column in columns)
        sql = f"SELECT 1 FROM main.{quoted(table)} WHERE {where} LIMIT 1"
        return bool(self._cursor.execute(sql, values).fetchall())


def tables_met(schema: Schema, tables: Iterable[str]) -> set[str]:
    """These tables, those that they refer to, and those that refer to them, in lower case."""
    written = {name.lower() for name in tables}
    met = set(written)
    for name in schema.table_names():
        for key in schema.referring_to(name):
            both = {key.table.lower(), key.parent.lower()}
            if written & both:
                met |= both
    return met
