"""A transaction's entry, applied to a database: certified at its index, then its rows, in order (section 7.2).

`TransactionApplier.apply` runs inside the caller's open transaction, which may hold other entries before
and after: what it does and says depends only on the database as the entries before it left it. A verdict
other than APPLIED leaves nothing of the entry behind.

The connection: isolation_level None; foreign_keys OFF, or ON where the caller knows what it does (an
entry that passes leaves no reference dangling, so a deferred check at the commit passes too). Triggers of
the schema's own are switched off while rows are applied: what they changed was captured too. Nothing here reads
a setting.

Thread-safety: one thread at a time, as its connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from raftlog.exceptions import InvalidEntry
from raftlog.replication.certify import (
    APPLIED,
    MAX_MARKED_ROWS,
    NO_MARKS,
    ForeignKeyCheck,
    LastChanged,
    Refused,
    TableMarks,
    Unexplained,
    Verdict,
    VerdictKind,
    check_unchanged_since,
    tables_met,
)
from raftlog.replication.changes import Gatherer, Group
from raftlog.replication.ddl import rewritten_tables
from raftlog.replication.fingerprint import EMPTY, MODULUS, row_number, scan, scan_table
from raftlog.replication.running_hash import encode_differences
from raftlog.replication.shapes import Schema, TableShape, quoted
from raftlog.replication.slots import slots_of
from raftlog.replication.write_set import (
    DELETE,
    FORMAT,
    HASH_BYTES,
    INSERT,
    UPDATE,
    Captured,
    Deletes,
    Inserts,
    Reserve,
    SequenceSet,
    Statement,
    Step,
    Updates,
    WriteSet,
    decode_write_set,
    row_hash,
)
from raftlog.replication.written_values import WrittenValues

SQLITE_DBCONFIG_ENABLE_TRIGGER: Final = 1003  # the sqlite3 module names it since Python 3.12
_LAST_KEY: Final = 2**63 - 1
_UNIQUE_ERRORS: Final = frozenset(
    {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID"}
)


class TransactionApplier:
    """Applies transaction and schema entries to one database, through one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.schema = Schema(connection)
        self.marks: LastChanged = LastChanged(connection)
        self._cursor = connection.cursor(sqlite3.Cursor)
        self._cursor.row_factory = None
        # Of the entry applied or recorded last: TransactionPort.take_differences(), unexplained().
        self.differences = b""
        self.unexplained: Unexplained | None = None
        # Whether what entries change is gathered for the change feed, and what the last one changed.
        self.gathers_changes = False
        self.changes: list[Group] = []

    @property
    def applied_index(self) -> int:
        return self.marks.positions().applied

    def make_tables(self) -> None:
        """Make raftlog's own tables; the fingerprints begin with the rows that are there. Outside of a transaction."""
        self.marks.make_tables(lambda: scan(self.connection, self.schema))

    def apply(self, index: int, body: bytes | WriteSet) -> Verdict:
        """Certify and apply the entry at `index`. Raises sqlite3.Error other than IntegrityError, InvalidEntry.

        The caller has begun the transaction, and moves the applied index before it commits.
        """
        write_set = decode_write_set(body) if isinstance(body, bytes) else body
        self.schema.refresh()
        self.differences, self.unexplained, self.changes = b"", None, []
        entry = TransactionEntry(self, index, write_set)
        self._cursor.execute("SAVEPOINT raftlog_entry")
        try:
            verdict = entry.run()
        except Refused as refused:
            self._undo()
            self.unexplained = entry.unexplained(str(refused), refused.row)
            return refused.verdict
        except sqlite3.IntegrityError as error:
            self._undo()
            self.unexplained = entry.unexplained(str(error), None)
            kind = VerdictKind.UNIQUE_CONFLICT if error.sqlite_errorname in _UNIQUE_ERRORS else VerdictKind.INTEGRITY
            return Verdict(kind, str(error))
        except BaseException:
            if self.connection.in_transaction:
                self._undo()
            raise
        self._cursor.execute("RELEASE raftlog_entry")
        self.differences, self.changes = entry.encoded_differences(), entry.changes.finish(entry.counted)
        return verdict

    def _undo(self) -> None:
        self._cursor.execute("ROLLBACK TO raftlog_entry")
        self._cursor.execute("RELEASE raftlog_entry")
        self.schema.refresh()

    def apply_alone(self, index: int, body: bytes | WriteSet) -> Verdict:
        """Apply in a transaction of its own, applied index included: what an entry with schema statements needs,
        since the pragma they ran under cannot be changed inside a transaction."""
        write_set = decode_write_set(body) if isinstance(body, bytes) else body
        (enforced,) = self._cursor.execute("PRAGMA foreign_keys").fetchone()
        wanted, _ = self.enforcement(write_set, enforced)
        if enforced != wanted:  # not lightly: it expires every prepared statement of the connection
            self._cursor.execute(f"PRAGMA foreign_keys = {wanted}")
        try:
            return self.in_transaction(index, lambda: self.apply(index, write_set))
        finally:
            if enforced != wanted:
                self._cursor.execute(f"PRAGMA foreign_keys = {enforced}")

    def enforcement(self, write_set: WriteSet, enforced: int) -> tuple[int, bool]:
        """What PRAGMA foreign_keys must be for an entry, and whether it may share a transaction where it is so.

        For schema statements it is as when they ran; else SQLite must not act by itself, which with plain
        references it never does.
        """
        if write_set.is_schema:
            return int(not write_set.foreign_keys_off), False
        if not enforced or write_set.foreign_keys_off:
            return 0, not enforced
        self.schema.refresh()
        plain = all(self.schema.has_plain_references(name) for name, _ in write_set.tables)
        return int(plain), plain

    def record_captured(self, index: int, changes: Iterable[Captured], shapes: Mapping[int, TableShape]) -> None:
        """Rows changed by a command, through this connection: certification and fingerprints must know of them."""
        entry = TransactionEntry(self, index, WriteSet(FORMAT, 0, 0, [], [], [], []))
        has_statements = False
        for change in changes:
            if isinstance(change, (Statement, SequenceSet)):
                has_statements = True
                continue
            operation, number, values = change
            entry.captured(shapes[number], operation, values)
        entry.record()
        if has_statements:
            self.schema.refresh()
            entry.record_schema({}, {})
        self.differences, self.changes = entry.encoded_differences(), entry.changes.finish(entry.counted)

    def in_transaction(self, index: int, apply: Callable[[], Verdict]) -> Verdict:
        self._cursor.execute("BEGIN IMMEDIATE")
        try:
            verdict = apply()
            self.marks.set_applied(index)
            self._cursor.execute("COMMIT /* raftlog */")
        except BaseException:
            if self.connection.in_transaction:
                self._cursor.execute("ROLLBACK")
            self.schema.forget()
            raise
        return verdict


class TransactionEntry:
    """One entry on its way into the database."""

    def __init__(self, applier: TransactionApplier, index: int, write_set: WriteSet) -> None:
        self.index = index
        self.write_set = write_set
        self.schema = applier.schema
        self.marks = applier.marks
        self.connection = applier.connection
        self.triggers_are_on = True
        self.cursor = applier._cursor
        self.references = self.reference_check(applier)
        self.checks_references = not write_set.foreign_keys_off
        # table -> what the entry adds to its fingerprint; keys it wrote
        self.differences: dict[str, int] = {}
        self.written: dict[str, set[tuple[Any, ...]]] = {}
        self.values = WrittenValues()
        self.verdict = APPLIED
        self.set_back: set[str] = set()  # tables whose counter of automatic keys was
        # table -> its fingerprint, where its rows were counted anew
        self.counted: dict[str, bytes] = {}
        self.is_certified = False
        self.changes = Gatherer(is_on=applier.gathers_changes)

    def reference_check(self, applier: TransactionApplier) -> ForeignKeyCheck:
        return ForeignKeyCheck(applier._cursor, applier.schema)

    def run(self) -> Verdict:
        self.certify()
        self.is_certified = True
        is_schema = self.write_set.is_schema
        definitions = self.schema.definitions() if is_schema else {}
        counters = self.counters() if is_schema else {}
        try:
            for step in self.write_set.steps:
                self.switch_triggers(on=isinstance(step, Statement))
                self.take(step)
        finally:
            self.switch_triggers(on=True)
        if self.checks_references and (words := self.references.dangling()):
            raise Refused(VerdictKind.CONFLICT, words)
        self.record()
        if is_schema:
            self.record_schema(definitions, counters)
        return self.verdict

    def switch_triggers(self, *, on: bool) -> None:
        """The schema's own triggers: on for statements, as when they ran. A change expires every prepared statement."""
        if on != self.triggers_are_on and (on or self.schema.has_triggers()):
            self.connection.setconfig(SQLITE_DBCONFIG_ENABLE_TRIGGER, on)  # type: ignore[attr-defined]
            self.triggers_are_on = on

    # Certification by index

    def certify(self) -> None:
        write_set, base = self.write_set, self.write_set.base
        if base >= self.index:
            raise InvalidEntry(f"entry {self.index} says that it is based on entry {base}")
        _, last_data, last_schema = self.marks.positions()
        if max(last_data, last_schema) <= base:
            return  # nothing has changed since its base
        if write_set.is_schema:
            raise Refused(VerdictKind.CONFLICT, f"rows or schema changed after entry {base}, on which it is based")
        check_unchanged_since(
            self.marks,
            base,
            write_set.read_tables,
            [(self.write_set.tables[number][0], tuple(key)) for number, *key in write_set.read_rows]
            + list(self._rows_to_write()),
            {name for name, _ in write_set.tables},
        )

    def _rows_to_write(self) -> list[tuple[str, tuple[Any, ...]]]:
        rows = []
        for step in self.write_set.steps:
            if isinstance(step, (Updates, Deletes)):
                name, shape = self.shape(step.table)
                width = len(shape.key)
                rows += [(name, tuple(row[:width])) for row in step.rows if row[width]]
        return rows

    def shape(self, number: int) -> tuple[str, TableShape]:
        name, digest = self.write_set.tables[number]
        try:
            shape = self.schema.table(name)
        except KeyError:
            raise Refused(VerdictKind.CONFLICT, f"table {name} is gone") from None
        if shape.digest != digest:
            raise Refused(VerdictKind.CONFLICT, f"table {name} has other columns than when the transaction ran")
        return name, shape

    # The steps

    def take(self, step: Step) -> None:
        if isinstance(step, Inserts):
            self.insert(step)
        elif isinstance(step, Updates):
            self.update(step)
        elif isinstance(step, Deletes):
            self.delete(step)
        elif isinstance(step, Statement):
            self.statement(step)
        elif isinstance(step, SequenceSet):
            self.sequence(step)
        else:
            self.reserve(step)

    def insert(self, step: Inserts) -> None:
        name, shape = self.shape(step.table)
        rows = step.rows
        if len(rows) == 1:
            self.cursor.execute(shape.insert(), rows[0])
        else:
            self.cursor.executemany(shape.insert(), rows)
        keys = self.written.setdefault(name, set())
        written = [shape.key_of(image) for image in rows]
        keys.update(written)
        self.changes.add(INSERT, shape, written)
        self.values.add(shape, rows)
        self._fold(name, sum(map(row_number, rows)))
        if shape.foreign_keys and self.checks_references:
            for image in rows:
                self.references.written(shape, image)

    def update(self, step: Updates) -> None:
        name, shape = self.shape(step.table)
        width, changed = len(shape.key), step.columns
        sql = shape.update_by_key(changed) if changed else ""
        keys = self.written.setdefault(name, set())
        refers = self.checks_references and not set(changed).isdisjoint(self._positions_in_references(shape))
        difference = 0
        images: list[Sequence[Any]] = []
        for row in step.rows:
            key, values = row[:width], row[width + 1 :]
            old = self._old_image(shape, key, row[width])
            keys.add(tuple(key))
            if not changed:
                continue
            self.cursor.execute(sql, [*values, *key])
            new = list(old)
            for position, value in zip(changed, values, strict=True):
                new[position] = value
            keys.add(shape.key_of(new))
            images += (old, new)
            self.changes.update(shape, old, new, changed)
            difference += row_number(new) - row_number(old)
            if refers:
                self.references.removed(shape, old, changed)
                self.references.written(shape, new, changed)
        if changed:
            self._fold(name, difference)
            self.values.add(shape, images)

    def _positions_in_references(self, shape: TableShape) -> set[int]:
        columns = {column for key in shape.foreign_keys for column in key.columns}
        columns.update(column for key in self.references.referring_to(shape.name) for column in key.parent_columns)
        return {shape.positions[column] for column in columns if column in shape.positions}

    def delete(self, step: Deletes) -> None:
        name, shape = self.shape(step.table)
        width = len(shape.key)
        keys = self.written.setdefault(name, set())
        refers = self.checks_references and bool(self.references.referring_to(name))
        doomed, images, difference = [], [], 0
        for row in step.rows:
            key = row[:width]
            old = self._old_image(shape, key, row[width])
            difference -= row_number(old)
            doomed.append(key)
            images.append(old)
            if refers:
                self.references.removed(shape, old)
        self.cursor.executemany(shape.delete_by_key(), doomed)
        keys.update(map(tuple[Any, ...], doomed))
        self.changes.add(DELETE, shape, [tuple(key) for key in doomed])
        self.values.add(shape, images)
        self._fold(name, difference)

    def _old_image(self, shape: TableShape, key: list[Any], before: bytes) -> tuple[Any, ...]:
        found = self.cursor.execute(shape.select_by_key(), key).fetchall()
        if len(found) != 1:
            row = (shape.name, tuple(key)) if before else None
            raise Refused(VerdictKind.CONFLICT, f"row {key!r} of table {shape.name} is gone", row)
        if before and row_hash(found[0]) != before:
            words = f"row {key!r} of table {shape.name} is not as the transaction saw it"
            raise Refused(VerdictKind.CONFLICT, words, (shape.name, tuple(key)))
        image: tuple[Any, ...] = found[0]
        return image

    def statement(self, step: Statement) -> None:
        if step.legacy_alter_table:
            self.cursor.execute("PRAGMA legacy_alter_table = ON")
        try:
            self.cursor.execute(step.sql, step.parameters)
        finally:
            if step.legacy_alter_table:
                self.cursor.execute("PRAGMA legacy_alter_table = OFF")
        self.schema.forget()
        self.references.forget()

    def sequence(self, step: SequenceSet) -> None:
        before = self.counter(step.table)
        self.set_counter(step.table, step.value)
        if step.value is None or step.value < before:
            self.set_back.add(step.table)

    def reserve(self, step: Reserve) -> None:
        try:
            shape = self.schema.table(step.table)
        except KeyError:
            raise Refused(VerdictKind.CONFLICT, f"table {step.table} is gone") from None
        if not shape.autoincrement:
            raise Refused(VerdictKind.CONFLICT, f"table {step.table} has no counter of automatic keys")
        sql = f"SELECT max({quoted(shape.autoincrement)}) FROM main.{quoted(step.table)}"
        (highest,) = self.cursor.execute(sql).fetchone()
        first = max(self.counter(step.table), highest or 0) + 1
        if first + step.count >= _LAST_KEY:
            raise Refused(VerdictKind.INTEGRITY, f"table {step.table} has no {step.count} automatic keys left")
        self.set_counter(step.table, first + step.count - 1)
        self.verdict = Verdict(VerdictKind.APPLIED, "", first, self.marks.table(step.table).key_epoch)

    def counters(self) -> dict[str, int]:
        found = self.cursor.execute("SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_sequence'").fetchall()
        return dict(self.cursor.execute("SELECT name, seq FROM main.sqlite_sequence").fetchall()) if found else {}

    def counter(self, table: str) -> int:
        found = self.cursor.execute("SELECT seq FROM main.sqlite_sequence WHERE name = ?", (table,)).fetchall()
        return found[0][0] if found and isinstance(found[0][0], int) else 0

    def set_counter(self, table: str, value: int | None) -> None:
        self.cursor.execute("DELETE FROM main.sqlite_sequence WHERE name = ?", (table,))
        if value is not None:
            self.cursor.execute("INSERT INTO main.sqlite_sequence (name, seq) VALUES (?, ?)", (table, value))

    def captured(self, shape: TableShape, operation: int, values: tuple[Any, ...]) -> None:
        """A row that was changed by other means than a step."""
        keys = self.written.setdefault(shape.name, set())
        self.changes.captured(shape, operation, values)
        if operation == UPDATE:
            width = len(shape.columns)
            old, new = values[:width], values[width:]
            keys.update((shape.key_of(old), shape.key_of(new)))
            self.values.add(shape, (old, new))
            self._fold(shape.name, row_number(new) - row_number(old))
            return
        keys.add(shape.key_of(values))
        self.values.add(shape, (values,))
        self._fold(shape.name, row_number(values) * (1 if operation == INSERT else -1))

    # What later entries are certified by

    def _fold(self, name: str, difference: int) -> None:
        self.differences[name] = self.differences.get(name, 0) + difference

    def record(self) -> None:
        """Nothing can refuse the entry any more: what is recorded is not undone with its savepoint."""
        for name in self.set_back:
            self.marks.set_table(name, self.marks.table(name)._replace(key_epoch=self.index))
        for name, difference in self.differences.items():
            many = len(self.written[name]) > MAX_MARKED_ROWS
            self.marks.fold(name, self.index, difference, all_rows=many)
        if not self.written and all(isinstance(step, Reserve) for step in self.write_set.steps):
            return  # it moved a counter, which nobody's verdict depends on: a schema change carries it over
        slots: set[int] = set()
        for name, keys in self.written.items():
            if len(keys) <= MAX_MARKED_ROWS or name not in self.differences:
                slots |= slots_of(name, keys)
        self.marks.mark_slots(slots | self.values.slots, self.index)
        self.marks.set_last_data(self.index)

    def record_schema(self, before: dict[str, str], counters: dict[str, int]) -> None:
        """Mark each table whose definition an entry's statements changed, and count its rows anew.

        A table that was remade keeps its counter of automatic keys: a remake sets it to the highest key that is left.
        """
        self.schema.refresh()
        after = self.schema.definitions()
        rewritten = rewritten_tables(step.sql for step in self.write_set.steps if isinstance(step, Statement))
        names = set(self.schema.table_names())
        # A table that the entry itself made, filled, and renamed or dropped is in none of the definitions.
        for name in sorted(before.keys() | after.keys() | self.differences.keys()):
            is_known = name in after or name not in self.differences
            if is_known and before.get(name) == after.get(name) and name.lower() not in rewritten:
                continue
            self.counted[name] = fingerprint = EMPTY
            if name in names:
                self.counted[name] = fingerprint = scan_table(self.cursor.connection, self.schema.table(name))
                if name in counters and self.schema.table(name).autoincrement and self.counter(name) < counters[name]:
                    self.set_counter(name, counters[name])
            self.marks.set_table(name, TableMarks(self.index, self.index, self.index, self.index, fingerprint))
        self.marks.set_last_schema(self.index)

    def encoded_differences(self) -> bytes:
        """See TransactionPort.take_differences()."""
        moved = {name: (moved % MODULUS).to_bytes(HASH_BYTES, "big") for name, moved in self.differences.items()}
        return encode_differences((moved | self.counted).items())

    # Refusals that nothing explains

    def unexplained(self, reason: str, row: tuple[str, tuple[Any, ...]] | None) -> Unexplained | None:
        """Whether the entry was refused although no table that it met has changed since its base."""
        base = self.write_set.base
        if not self.is_certified or not base:
            return None
        if row is None:  # a row that is not as it should be was certified by its own mark
            marks = {name.lower(): found for name, found in self.marks.tables().items()}
            for name in tables_met(self.schema, (name for name, _ in self.write_set.tables)):
                found = marks.get(name, NO_MARKS)
                if max(found.changed, found.schema_changed) > base:
                    return None
        table = row[0] if row else ", ".join(sorted(name for name, _ in self.write_set.tables))
        return Unexplained(table, row[1] if row else None, reason)
