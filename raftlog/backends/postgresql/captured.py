"""What the triggers have told about the transaction that is open, and the notes of statements in between.

Everything is in the order in which it happened. Rows are read by the shape that their table had then: before a schema
statement, the shapes of the rows captured so far are looked up.

Thread-safety: as the connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from psycopg import Cursor
from psycopg.errors import Diagnostic

from raftlog.backends.postgresql.images import Change, chain, changes
from raftlog.backends.postgresql.setup import CAPTURED
from raftlog.backends.postgresql.shapes import Schema, Table
from raftlog.replication.shapes import TableShape
from raftlog.replication.write_set import DELETE, INSERT, UPDATE, Captured, SequenceSet, Statement

START: Final = "set_config('raftlog.rows', '+', true), set_config('raftlog.chunk', '', true)"
ROWS: Final = "SELECT current_setting('raftlog.rows'), current_setting('raftlog.chunk')"
_OPERATIONS: Final = {"I": INSERT, "U": UPDATE, "D": DELETE}


class Capture:
    """The changes of one connection's transaction."""

    def __init__(self, cursor: Cursor, schema: Schema) -> None:
        self._cursor = cursor
        self._schema = schema
        self._last_note = 0
        cursor.connection.add_notice_handler(self._on_notice)
        self.clear()

    def clear(self) -> None:
        # Something was captured since the transaction began, whether or not it has been undone.
        self.has_changes = False
        self.bytes = 0  # sent so far
        self._chunks: dict[str, tuple[str, str]] = {}
        self._notes: dict[int, Statement | SequenceSet | None] = {}
        self._old_shapes: dict[tuple[int, int], Table] = {}  # (last statement before it, OID of the table)
        self.has_statements = False

    def _on_notice(self, diagnostic: Diagnostic) -> None:
        if diagnostic.sqlstate != CAPTURED:
            return
        self.has_changes = True
        if diagnostic.message_primary:
            number, before, rows = diagnostic.message_primary.split(" ", 2)
            self._chunks[number] = (before, rows)
            self.bytes += len(rows)

    def note(self, what: Statement | SequenceSet | None) -> str:
        """An SQL expression that notes a statement among the captured rows. None: the tables that were truncated
        since the last note start their keys anew."""
        self._last_note += 1
        self._notes[self._last_note] = what
        self.has_statements = self.has_statements or isinstance(what, Statement)
        return f"raftlog.add('S', {self._last_note}, NULL, NULL)"

    def before_statement(self) -> None:
        """A statement is about to change the schema."""
        if self.has_changes:
            for _ in self._with_shapes(self._rows()):
                pass
        self._schema.forget()

    def row_count(self) -> int:
        """How many changes have been sent so far, undone or not."""
        return sum(1 for _, rows in self._chunks.values() for _ in changes(rows))

    def read(self) -> tuple[list[Captured], dict[int, TableShape]]:
        """All changes, and the shapes by the numbers that they name. Inside the transaction."""
        return self.parse(*self._rows())

    def _rows(self) -> tuple[str, str]:
        row: Any = self._cursor.execute(ROWS).fetchone()
        return row[0], row[1]

    def parse(self, rows: str, last_chunk: str) -> tuple[list[Captured], dict[int, TableShape]]:
        """As read(), from a row of ROWS."""
        found: list[Captured] = []
        numbers: dict[int, int] = {}
        shapes: dict[int, TableShape] = {}
        truncated: list[Table] = []
        for change, shape in self._with_shapes((rows, last_chunk)):
            if shape is None:
                note = self._notes[change.relation]
                if note is not None:
                    found.append(note)
                else:
                    found += [SequenceSet(table.name, None) for table in truncated if table.autoincrement]
                    truncated = []
            elif change.kind == "T":
                truncated.append(shape)
            else:
                number = numbers.setdefault(id(shape), len(numbers))
                shapes[number] = shape
                before = shape.image(change.before) if change.before else ()
                after = shape.image(change.after) if change.after else ()
                found.append((_OPERATIONS[change.kind], number, before + after))
        return found, shapes

    def _with_shapes(self, rows: tuple[str, str]) -> Iterator[tuple[Change, Table | None]]:
        """Each change with the shape of its table at that time; None for a note."""
        generation = 0
        for held in chain(*rows, self._chunks):
            for change in changes(held):
                if change.kind == "S":
                    if isinstance(self._notes[change.relation], Statement):
                        generation = change.relation
                    yield change, None
                    continue
                where = (generation, change.relation)
                shape = self._old_shapes.get(where)
                if shape is None:
                    shape = self._old_shapes[where] = self._schema.table_by_oid(change.relation)
                yield change, shape
