"""The body of a transaction's entry: what it changed, row by row, and what it was based on (rules 8, 10, 11).

A write set is msgpack, arrays without field names. Its `steps` keep the order of capture: swapping two
unique values through NULL works on apply because it worked when it ran. Neighbouring changes of one kind
on one table form one step, so that a bulk insert costs its values and little else.

The hash of a row is BLAKE2b with 16 bytes over the msgpack array of its image: for each stored column in
declared order a type tag, the length and the bytes (nil, integer in its shortest form, float64, str, bin).
Test vectors: tests/replication/test_write_set.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

from raftlog.exceptions import InvalidEntry
from raftlog.replication.shapes import TableShape

FORMAT: Final = 1
HASH_BYTES: Final = 16

# Flags of a write set
FOREIGN_KEYS_OFF: Final = 1  # ran under PRAGMA foreign_keys = OFF: no foreign key is checked
SNAPSHOT: Final = 2  # ran under snapshot isolation; for the reader of the log, the reads listed say it all

_encode = msgspec.msgpack.Encoder().encode

Value = None | int | float | str | bytes


def row_hash(image: Sequence[Any]) -> bytes:
    return blake2b(_encode(image), digest_size=HASH_BYTES).digest()


# What capture hands over, in the order in which it happened


class RowChange(NamedTuple):
    """`values`: the new image of an insert, the old of a delete, old and then new of an update."""

    operation: int
    table: int
    values: tuple[Any, ...]


INSERT: Final = 0
UPDATE: Final = 1
DELETE: Final = 2


class Statement(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A schema statement, or a schema editor's copy, that runs as such on every node."""

    sql: str
    parameters: list[Any]
    legacy_alter_table: bool


class SequenceSet(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """The automatic-key counter of a table set by a statement; None: its row was removed."""

    table: str
    value: int | None


class Reserve(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """A block of `count` automatic keys for a process: the counter moves past it (key_blocks.py)."""

    table: str
    count: int


Captured = RowChange | tuple[Any, ...] | Statement | SequenceSet


# Steps of a write set. `table` is a position in its `tables`.


class Inserts(msgspec.Struct, array_like=True, tag=0):
    """Each row is a whole image."""

    table: int
    rows: list[list[Any]]


class Updates(msgspec.Struct, array_like=True, tag=1):
    """Each row: the key as it was, hash of the row as it was (empty: this write set made it), new values."""

    table: int
    columns: list[int]
    rows: list[list[Any]]


class Deletes(msgspec.Struct, array_like=True, tag=2):
    """Each row: key, hash of the row as it was (empty: this write set made it)."""

    table: int
    rows: list[list[Any]]


Step = Inserts | Updates | Deletes | Statement | SequenceSet | Reserve


class WriteSet(msgspec.Struct, array_like=True):
    """One transaction. `base`: index of the last entry applied in the snapshot that it saw."""

    format: int
    base: int
    flags: int
    tables: list[tuple[str, bytes]]  # name, digest of its shape
    steps: list[Step]
    # Tables that were read otherwise than by key: certified by the index at which they last changed.
    read_tables: list[str]
    # Rows that were read by key, present or not: (position in tables, *key). Those found by the value of another column
    # stand there as (position, column, value) and as (position,), see shapes.Lookup.
    read_rows: list[list[Any]]

    @property
    def is_schema(self) -> bool:
        return any(isinstance(step, Statement) for step in self.steps)

    @property
    def foreign_keys_off(self) -> bool:
        return bool(self.flags & FOREIGN_KEYS_OFF)

    @property
    def row_count(self) -> int:
        return sum(len(step.rows) for step in self.steps if isinstance(step, (Inserts, Updates, Deletes)))


_write_set_encoder = msgspec.msgpack.Encoder()
_write_set_decoder = msgspec.msgpack.Decoder(WriteSet)


def encode_write_set(write_set: WriteSet) -> bytes:
    return _write_set_encoder.encode(write_set)


def decode_write_set(body: bytes) -> WriteSet:
    """Raises InvalidEntry where the bytes are no write set that this version understands."""
    try:
        write_set = _write_set_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise InvalidEntry(f"a transaction entry of {len(body)} bytes cannot be decoded: {error}") from error
    if write_set.format != FORMAT:
        raise InvalidEntry(f"a transaction entry has format {write_set.format}; this version reads {FORMAT}")
    return write_set


def reservation(table: str, count: int) -> bytes:
    """The body of an entry that reserves keys. It is based on nothing, so it never conflicts."""
    return encode_write_set(WriteSet(FORMAT, 0, 0, [], [Reserve(table, count)], [], []))


def is_same(left: Value, right: Value) -> bool:
    """Equal as SQLite stores it: 1, 1.0, '1' and b'1' are four values, and so are 0.0 and -0.0."""
    if type(left) is not type(right) or left != right:
        return False
    return left != 0 or type(left) is not float or repr(left) == repr(right)


class StepBuilder:
    """Turns captured changes into steps: groups neighbours, hashes what the transaction found, merges (rule 11).

    A later change of a row goes into an earlier one of this write set only where no column of a key or of a
    unique index is involved; then no other row can tell the difference.
    """

    def __init__(self, shapes: Mapping[int, TableShape]) -> None:
        self._shapes = shapes  # by capture's numbers
        self._numbers: dict[int, int] = {}  # capture's number -> position in tables
        self.tables: list[tuple[str, bytes]] = []
        self.steps: list[Step] = []
        # (table, key) -> what this write set did last to the row, where a later update may be merged into it
        self._mergeable: dict[tuple[Any, ...], tuple[tuple[int, ...] | None, list[Any]]] = {}
        self._touched: set[tuple[Any, ...]] = set()
        self.changes_anything = False

    def add_all(self, captured: Iterable[Captured]) -> None:
        for change in captured:
            if isinstance(change, (Statement, SequenceSet)):
                self._forget_rows()
                self.steps.append(change)
                self.changes_anything = True
                continue
            operation, number, values = change
            shape = self._shapes[number]
            table = self.table(number)
            if operation == INSERT:
                self._insert(table, shape, values)
            elif operation == DELETE:
                self._delete(table, shape, values)
            else:
                self._update(table, shape, values)

    def table(self, number: int) -> int:
        position = self._numbers.get(number)
        if position is None:
            position = self._numbers[number] = self.table_of(self._shapes[number])
        return position

    def table_of(self, shape: TableShape) -> int:
        """Position of a table in `tables`, added where it is not there yet."""
        described = (shape.name, shape.digest)
        if described not in self.tables:
            self.tables.append(described)
        return self.tables.index(described)

    def _forget_rows(self) -> None:
        # Across a schema statement nothing is merged; hashes go on, since rows keep being what this write set made.
        self._mergeable.clear()

    def _hash_of(self, row: tuple[Any, ...], image: Sequence[Any]) -> bytes:
        if row in self._touched:
            return b""
        self._touched.add(row)
        return row_hash(image)

    def _insert(self, table: int, shape: TableShape, values: Sequence[Any]) -> None:
        self.changes_anything = True
        row = (table, shape.key_of(values))
        self._touched.add(row)
        image = list(values)
        self._mergeable[row] = (None, image)
        last = self.steps[-1] if self.steps else None
        if type(last) is Inserts and last.table == table:
            last.rows.append(image)
        else:
            self.steps.append(Inserts(table, [image]))

    def _delete(self, table: int, shape: TableShape, values: Sequence[Any]) -> None:
        self.changes_anything = True
        key = shape.key_of(values)
        row = (table, key)
        self._mergeable.pop(row, None)
        change = [*key, self._hash_of(row, values)]
        last = self.steps[-1] if self.steps else None
        if type(last) is Deletes and last.table == table:
            last.rows.append(change)
        else:
            self.steps.append(Deletes(table, [change]))

    def _update(self, table: int, shape: TableShape, values: Sequence[Any]) -> None:
        width = len(shape.columns)
        old, new = values[:width], values[width:]
        changed = tuple(position for position in range(width) if not is_same(old[position], new[position]))
        if changed:
            self.changes_anything = True
        key = shape.key_of(old)
        row = (table, key)
        if shape.unique.isdisjoint(changed):
            if self._merge(row, changed, new):
                return
        elif not set(shape.key).isdisjoint(changed):
            self._mergeable.pop(row, None)
        change = [*key, self._hash_of(row, old), *(new[position] for position in changed)]
        new_row = (table, shape.key_of(new))
        self._touched.add(new_row)
        self._mergeable[new_row] = (changed, change)
        last = self.steps[-1] if self.steps else None
        if type(last) is Updates and last.table == table and last.columns == list(changed):
            last.rows.append(change)
        else:
            self.steps.append(Updates(table, list(changed), [change]))

    def _merge(self, row: tuple[Any, ...], changed: tuple[int, ...], new: Sequence[Any]) -> bool:
        earlier = self._mergeable.get(row)
        if earlier is None:
            return False
        columns, change = earlier
        if columns is None:  # an insert: its image holds every column
            for position in changed:
                change[position] = new[position]
            return True
        if columns != changed:
            return False
        change[len(change) - len(changed) :] = [new[position] for position in changed]
        return True
