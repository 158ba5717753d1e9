"""Capture: TEMP triggers hand the image of each changed row to a function of the connection (rule 11).

A table gets its three triggers when the first statement that writes it is prepared: the authorizer finds
that they are missing and denies, they are made, the statement is prepared again. So a statement whose
effects reach a table through a foreign key's action, an upsert or a view is no special case. Triggers
made inside a transaction go with its rollback; `sync()` finds out which are left.

Facts of SQLite that this rests on: recursive_triggers must be ON, or REPLACE deletes rows unseen; a
function takes at most 127 arguments, so wide rows come in parts; an AFTER trigger sees values as stored.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from raftlog.replication.shapes import Schema, TableShape, quoted
from raftlog.replication.write_set import DELETE, INSERT, UPDATE, Captured

MAX_ARGUMENTS: Final = 127
# How many changes are measured at a time against the limit on a transaction's size.
_MEASURED: Final = 256
_FIRST, _SECOND, _THIRD = "raftlog_i", "raftlog_u", "raftlog_d"

_encode = msgspec.msgpack.Encoder().encode


class TooLarge(Exception):
    """The changes captured so far exceed the limit; the message names table, rows and what fits."""


class NotCapturing(Exception):
    """A row was changed by a statement that did not come through Django's cursor."""


def parts(expressions: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(expressions), size):
        yield expressions[start : start + size]


def trigger_statements(number: int, shape: TableShape) -> list[str]:
    """CREATE statements of the triggers of one table; `number` names the table to the function."""
    table = quoted(shape.name)
    old = [f"OLD.{quoted(column)}" for column in shape.columns]
    new = [f"NEW.{quoted(column)}" for column in shape.columns]
    made = []
    for name, event, operation, values in (
        (_FIRST, "INSERT", INSERT, new),
        (_SECOND, "UPDATE", UPDATE, old + new),
        (_THIRD, "DELETE", DELETE, old),
    ):
        *before, last = parts(values, MAX_ARGUMENTS - 2)
        calls = [f"SELECT raftlog_part({', '.join(part)});" for part in before]
        calls.append(f"SELECT raftlog_capture({operation}, {number}, {', '.join(last)});")
        made.append(
            f'CREATE TEMP TRIGGER "{name}_{number}" AFTER {event} ON main.{table} FOR EACH ROW BEGIN '
            f"{' '.join(calls)} END"
        )
    return made


class RowSink:
    """Where the triggers put what they see.

    It knows no connection: SQLite keeps the functions, and so this object, for as long as the connection lives, and
    Python's garbage collector does not see that reference.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.changes: list[Captured] = []
        # Changes are recorded; else a trigger that fires is an error, unless muted.
        self.enabled = False
        # Rows are changed by raftlog itself, or by a statement that is replayed as such.
        self.muted = False
        self.error: Exception | None = None
        self.shapes: dict[int, TableShape] = {}
        self._parts: tuple[Any, ...] = ()
        self._bytes = 0
        self._measured = 0

    def on_row(self, operation: int, table: int, *values: Any) -> None:
        if not self.enabled:
            return self._not_enabled(table)
        if self._parts:
            values = self._parts + values
            self._parts = ()
        changes = self.changes
        changes.append((operation, table, values))
        if len(changes) - self._measured >= _MEASURED:
            self._measure(table)
        return None

    def on_part(self, *values: Any) -> None:
        self._parts += values

    def _not_enabled(self, table: int) -> None:
        self._parts = ()
        if not self.muted:
            name = self.shapes[table].name
            self.error = NotCapturing(
                f"a row of {name} was changed outside of a transaction of this backend; use Django's cursor"
            )
            raise self.error

    def _measure(self, table: int) -> None:
        self._bytes += sum(len(_encode(change)) for change in self.changes[self._measured :])
        self._measured = len(self.changes)
        if self._bytes > self.max_bytes:
            rows = len(self.changes)
            fits = max(1, rows * self.max_bytes // self._bytes // 2)
            self.error = TooLarge(
                f"the transaction is too large: {rows} changed rows so far, the last in {self.shapes[table].name}, "
                f"make {self._bytes} bytes, over RAFTLOG['MAX_TRANSACTION_BYTES'] = {self.max_bytes}. "
                f"Split it: about {fits} such rows a transaction fit (bulk_create(…, batch_size={fits}) "
                "in transactions of their own)."
            )
            raise self.error

    def clear(self) -> None:
        self.changes = []
        self.enabled = False
        self.error = None
        self._parts = ()
        self._bytes = self._measured = 0

    def cut(self, length: int) -> None:
        """Forget what came after the first `length` changes: SQLite has undone it."""
        del self.changes[length:]
        self._parts = ()
        self._measured = min(self._measured, length)


class Capture:
    """What the current transaction of one connection has changed so far, in order, and the triggers that tell.

    `sink.changes` holds (operation, table number, values) and, between them, the statements that replay as such.
    """

    def __init__(self, connection: sqlite3.Connection, max_bytes: int) -> None:
        self._cursor = connection.cursor(sqlite3.Cursor)
        self._cursor.row_factory = None
        self.schema = Schema(connection)
        self.sink = RowSink(max_bytes)
        self.installed: dict[str, int] = {}  # table -> number of its triggers
        self._next_number = 1
        # Triggers were made or dropped since the last rolled_back().
        self._dirty = False
        self._version = -1  # schema_version that the triggers outside of a transaction fit
        connection.create_function("raftlog_capture", -1, self.sink.on_row)
        connection.create_function("raftlog_part", -1, self.sink.on_part)
        self._cursor.execute("PRAGMA recursive_triggers = ON")

    # Called by the transaction

    def start(self) -> None:
        self.sink.clear()
        self.sink.enabled = True

    def install(self, table: str) -> None:
        """Make the triggers of a table. Raises UnsupportedTable, KeyError."""
        if self.schema.is_view(table):  # its INSTEAD OF triggers change rows of tables, which are captured
            self.installed[table] = 0
            return
        shape = self.schema.table(table)
        number = self._next_number
        self._next_number += 1
        for statement in trigger_statements(number, shape):
            self._cursor.execute(statement)
        self.sink.shapes[number] = shape
        self.installed[table] = number
        self._dirty = True

    def drop(self) -> None:
        """Drop all triggers, and forget the shapes: the schema has changed or is about to."""
        for number in self.installed.values():
            for name in (_FIRST, _SECOND, _THIRD):
                self._cursor.execute(f'DROP TRIGGER IF EXISTS temp."{name}_{number}"')
        self.installed = {}
        self.schema.forget()
        self._dirty = True

    def sync(self) -> None:
        """After a rollback to a savepoint: find out which triggers there are, if any was made or dropped."""
        if not self._dirty:
            return
        pattern = f"{_THIRD}_*"
        sql = "SELECT name FROM sqlite_temp_master WHERE type = 'trigger' AND name GLOB ?"
        numbers = [int(name.rpartition("_")[2]) for (name,) in self._cursor.execute(sql, (pattern,)).fetchall()]
        self.installed = {self.sink.shapes[number].name: number for number in numbers}
        self.schema.forget()

    def rolled_back(self) -> None:
        """After the rollback of the transaction, outside of one: make again what went with it, this time to stay."""
        if not self._dirty:
            return
        wanted = set(self.installed)
        self.sync()
        self.renew()
        for table in sorted(wanted - set(self.installed)):
            try:
                self.install(table)
            except KeyError:  # the table was made by the transaction that is undone
                continue
        self._forget_old_shapes()
        self._dirty = False

    def _forget_old_shapes(self) -> None:
        used = set(self.installed.values())
        self.sink.shapes = {number: shape for number, shape in self.sink.shapes.items() if number in used}

    def committed(self) -> None:
        """After the commit of a transaction of apply: the triggers that it made stay, and fit the schema as it is."""
        if self._dirty:
            self.schema.refresh()
            self._version = self.schema.version
            self._forget_old_shapes()
            self._dirty = False

    def renew(self) -> None:
        """Outside of a transaction, with the turn: if the schema moved, the triggers are of an older one."""
        if self.schema.refresh() and self._version != self.schema.version:
            if self.installed:
                self._drop_all()
            self._version = self.schema.version

    def _drop_all(self) -> None:
        """As drop(), outside of a transaction: also the triggers whose table another connection took away or renamed.

        DROP TRIGGER does not find those, ALTER TABLE fails on them, and they wake up again with the next table of that
        name. A change of temp_store gives this connection an empty temporary schema.
        """
        (store,) = self._cursor.execute("PRAGMA temp_store").fetchone()
        for other in (1 if store != 1 else 2, store):
            self._cursor.execute(f"PRAGMA temp_store = {other}")
        self.installed = {}
        self._dirty = True
