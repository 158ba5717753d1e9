"""replication.transactions for PostgreSQL: an entry certified at its index, then its rows, in order.

Entries are applied with session_replication_role `replica`: no trigger fires, neither capture's, nor the project's,
whose effects were captured where the transaction ran, nor PostgreSQL's own for foreign keys, which are checked by
key, entry by entry, as on SQLite. So the connection's role must be allowed to set that parameter.

Thread-safety: one thread at a time, as its connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import errors

from raftlog.backends.postgresql.marks import LastChanged
from raftlog.backends.postgresql.setup import CANONICAL, make_tables
from raftlog.backends.postgresql.shapes import Schema, Table
from raftlog.replication.certify import ForeignKeyCheck, Refused, TableMarks, Unexplained, Verdict, VerdictKind
from raftlog.replication.changes import Group
from raftlog.replication.ddl import rewritten_tables
from raftlog.replication.fingerprint import EMPTY, MODULUS, row_number
from raftlog.replication.shapes import ForeignKey, TableShape, quoted
from raftlog.replication.transactions import TransactionEntry
from raftlog.replication.write_set import (
    DELETE,
    FORMAT,
    HASH_BYTES,
    INSERT,
    Captured,
    Deletes,
    Inserts,
    Reserve,
    SequenceSet,
    Statement,
    Updates,
    WriteSet,
    decode_write_set,
    row_hash,
)

_LAST_KEY: Final = 2**63 - 1
# Schema statements whose effect on rows shows in the tables' definitions.
_AS_WHEN_IT_RAN: Final = "SET LOCAL session_replication_role = origin; SELECT set_config('raftlog.rows', '-', true)"
_PLAIN_DDL: Final = re.compile(
    r"(?:SET LOCAL timezone = '[^']*';)?\s*(?:CREATE|ALTER|DROP|COMMENT|GRANT|REVOKE|REFRESH|SECURITY)\b", re.IGNORECASE
)
_ENTER: Final = "SET LOCAL session_replication_role = replica; " + "; ".join(
    f"SET LOCAL {name} = '{value}'" for name, value in CANONICAL.items()
)
_MOVE_SEQUENCES: Final = """
SELECT setval(q.seqrelid::regclass, given.value)
FROM unnest(%s::text[], %s::bigint[]) AS given (name, value) JOIN pg_sequence q ON q.seqrelid = to_regclass(given.name)
WHERE given.value BETWEEN q.seqmin AND q.seqmax AND coalesce(pg_sequence_last_value(q.seqrelid), 0) < given.value"""


class TransactionApplier:
    """Applies transaction and schema entries to one database, through one connection."""

    def __init__(self, cursor: psycopg.Cursor, project_schema: str) -> None:
        self.cursor = self._cursor = cursor
        self.connection = cursor.connection
        self.schema = Schema(cursor, project_schema)
        self.marks = LastChanged(cursor)
        # Whether the settings of the transaction are those under which entries are applied; None: not known.
        self._entered: bool | None = False
        # Of the entry applied or recorded last: TransactionPort.take_differences(), unexplained().
        self.differences = b""
        self.unexplained: Unexplained | None = None
        # Whether what entries change is gathered for the change feed, and what the last one changed.
        self.gathers_changes = False
        self.changes: list[Group] = []
        self._sequences: dict[str, int] = {}  # to be moved at least so far

    @property
    def applied_index(self) -> int:
        row = self.cursor.execute("SELECT applied FROM raftlog_positions").fetchone()
        return int(row[0]) if row else 0

    def make_tables(self) -> None:
        """Make raftlog's own tables; the fingerprints begin with the rows that are there. Outside of a transaction."""
        make_tables(self.cursor, self._scan)
        self.schema.forget()

    def _scan(self) -> dict[str, bytes]:
        self.begun()
        self.enter()
        found = {name: self.scan_table(self.schema.table(name)) for name in self.schema.table_names()}
        return {name: fingerprint for name, fingerprint in found.items() if fingerprint != EMPTY}

    # Called by who controls the transaction

    def begun(self) -> None:
        self.marks.begin()
        self._sequences.clear()
        self._entered = False

    def rolled_back_to_savepoint(self) -> None:
        self._entered = None

    @property
    def is_entered(self) -> bool:
        return self._entered is not False

    def enter(self) -> None:
        """What follows is an entry's, until leave()."""
        if not self._entered:
            self.cursor.execute(_ENTER)
            self._entered = True

    def leave(self, settings: Mapping[str, str]) -> None:
        """What follows is a command's, which runs with the connection's own settings."""
        restore = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in settings.items())
        self.cursor.execute(f"SET LOCAL session_replication_role = origin{restore}".encode())
        self._entered = False

    def apply(self, index: int, body: bytes | WriteSet) -> Verdict:
        """Certify and apply the entry at `index`. Raises psycopg.Error other than IntegrityError, InvalidEntry.

        The caller has begun the transaction, and calls set_applied() before it commits.
        """
        write_set = decode_write_set(body) if isinstance(body, bytes) else body
        self.enter()
        self.schema.refresh_to(self.marks.positions().last_schema)
        saved = self.marks.savepoint()
        self.differences, self.unexplained, self.changes = b"", None, []
        entry = _Entry(self, index, write_set)
        self.cursor.execute("SAVEPOINT raftlog_entry")
        try:
            verdict = entry.run()
        except Refused as refused:
            self._undo(saved)
            self.unexplained = entry.unexplained(str(refused), refused.row)
            return refused.verdict
        except psycopg.IntegrityError as error:
            self._undo(saved)
            verdict = _verdict_of(error)
            self.unexplained = entry.unexplained(verdict.reason, None)
            return verdict
        self.cursor.execute("RELEASE raftlog_entry")
        self.differences, self.changes = entry.encoded_differences(), entry.changes.finish(entry.counted)
        return verdict

    def _undo(self, saved: tuple[object, ...]) -> None:
        self.cursor.execute("ROLLBACK TO raftlog_entry; RELEASE raftlog_entry")
        self.marks.restore(saved)
        self.schema.forget()

    def set_applied(self, index: int, changes: bytes = b"") -> None:
        if self._sequences:
            self.cursor.execute(_MOVE_SEQUENCES, (list(self._sequences), list(self._sequences.values())))
            self._sequences.clear()
        self.marks.set_applied(index, changes)

    def apply_alone(self, index: int, body: bytes | WriteSet) -> Verdict:
        """Apply in a transaction of its own, applied index included."""
        self.cursor.execute("BEGIN; SELECT set_config('raftlog.rows', '+', true)")
        self.begun()
        try:
            verdict = self.apply(index, body)
            self.set_applied(index)
            self.cursor.execute("COMMIT")
        except BaseException:
            if not self.connection.closed:
                self.cursor.execute("ROLLBACK")
            self.schema.forget()
            raise
        return verdict

    def record_captured(self, index: int, changes: Iterable[Captured], shapes: Mapping[int, TableShape]) -> None:
        """Rows changed by a command, through this connection: certification and fingerprints must know of them."""
        entry = _Entry(self, index, WriteSet(FORMAT, 0, 0, [], [], [], []))
        entry.is_command = True
        has_statements = False
        for change in changes:
            if isinstance(change, Statement):
                has_statements = True
            elif isinstance(change, SequenceSet):
                entry.sequence(change)
            else:
                operation, number, values = change
                entry.captured(shapes[number], operation, values)
                if operation == INSERT:
                    entry.moves_counter(shapes[number], [values])
        entry.record()
        if has_statements:
            self.enter()
            entry.record_schema({}, {})
        self.differences, self.changes = entry.encoded_differences(), entry.changes.finish(entry.counted)

    def next_keys(self, table: str, count: int) -> tuple[list[int], str]:
        """The next keys of a table's counter, which moves past them, and the sequence behind it ("" without one)."""
        shape = self.schema.table(table)
        first = self.first_free_key(shape)
        self.marks.set_counter(table, first + count - 1)
        return list(range(first, first + count)), shape.sequence

    def first_free_key(self, shape: Table) -> int:
        sql = f"SELECT max({quoted(shape.autoincrement)}) FROM {shape.sql_name}"
        row = self.cursor.execute(sql.encode()).fetchone()
        return max(self.marks.counter(shape.name), row[0] if row and row[0] is not None else 0) + 1

    def move_sequence(self, sequence: str, value: int) -> None:
        """See to it, before the commit, that a sequence gives no key up to `value`. No verdict depends on it."""
        if sequence:
            self._sequences[sequence] = max(self._sequences.get(sequence, 0), value)

    def scan_table(self, shape: Table) -> bytes:
        """The fingerprint of a table, from its rows. Called after enter()."""
        sql = f"SELECT raftlog_row::text FROM ONLY {shape.sql_name} AS raftlog_row"
        total = sum(row_number(shape.image(literal)) for (literal,) in self.cursor.stream(sql.encode()))
        return (total % MODULUS).to_bytes(HASH_BYTES, "big")


def _verdict_of(error: psycopg.IntegrityError) -> Verdict:
    # Words of our own: the server's are in its language.
    diagnostics = error.diag
    if isinstance(error, (errors.UniqueViolation, errors.ExclusionViolation)):
        reason = f'duplicate key value violates unique constraint "{diagnostics.constraint_name}"'
        return Verdict(VerdictKind.UNIQUE_CONFLICT, reason)
    violated = diagnostics.constraint_name or f"NOT NULL of column {diagnostics.column_name}"
    return Verdict(VerdictKind.INTEGRITY, f"table {diagnostics.table_name}: {violated} does not hold")


class _References(ForeignKeyCheck):
    """Asks for all values of one foreign key at once."""

    _schema: Schema  # type: ignore[assignment]  # PostgreSQL's

    def __init__(self, cursor: psycopg.Cursor, schema: Schema) -> None:
        self._cursor = cursor  # type: ignore[assignment]
        self._schema = schema
        self._suspects = {}
        self._referring = {}

    def dangling(self) -> str:
        by_key: dict[ForeignKey, list[tuple[Any, ...]]] = {}
        for key, values in self._suspects:
            by_key.setdefault(key, []).append(values)
        for key, found in by_key.items():
            if values := self._first_dangling(key, found):
                to = f"{key.parent}({', '.join(key.parent_columns)})"
                return f"{key.table}({', '.join(key.columns)}) refers to {values!r}, which is not in {to}"
        return ""

    def _first_dangling(self, key: ForeignKey, found: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        try:
            child = self._schema.table(key.table)
        except KeyError:  # dropped by this entry
            return ()
        types = [child.types[child.positions[column]] for column in key.columns]
        arrays = ", ".join(f"%s::text[]::{kind}[]" for kind in types)
        names = ", ".join(f"k{number}" for number in range(len(types)))
        is_parent = " AND ".join(f"p.{quoted(name)} = given.k{n}" for n, name in enumerate(key.parent_columns))
        is_child = " AND ".join(f"c.{quoted(name)} = given.k{n}" for n, name in enumerate(key.columns))
        sql = (
            f"SELECT number FROM unnest({arrays}) WITH ORDINALITY AS given ({names}, number) "
            f"WHERE NOT EXISTS (SELECT 1 FROM {self._schema.sql_name(key.parent)} p WHERE {is_parent}) "
            f"AND EXISTS (SELECT 1 FROM ONLY {child.sql_name} c WHERE {is_child}) ORDER BY number LIMIT 1"
        )
        columns = [list(column) for column in zip(*found, strict=True)]
        row: Any = self._cursor.execute(sql, columns).fetchone()
        return found[row[0] - 1] if row else ()


class _Entry(TransactionEntry):
    """One entry on its way into a PostgreSQL database."""

    applier: TransactionApplier
    schema: Schema  # type: ignore[assignment]
    marks: LastChanged  # type: ignore[assignment]
    cursor: psycopg.Cursor  # type: ignore[assignment]

    def __init__(self, applier: TransactionApplier, index: int, write_set: WriteSet) -> None:
        super().__init__(applier, index, write_set)  # type: ignore[arg-type]
        self.applier = applier
        self.is_command = False  # what it changed, PostgreSQL has checked

    def reference_check(self, applier: Any) -> ForeignKeyCheck:
        return _References(applier.cursor, applier.schema)

    def shape(self, number: int) -> tuple[str, Table]:
        return super().shape(number)  # type: ignore[return-value]

    def switch_triggers(self, *, on: bool) -> None:
        """None fires while session_replication_role is `replica`; statement() sees to the rest."""

    # The steps

    def insert(self, step: Inserts) -> None:
        name, shape = self.shape(step.table)
        self.cursor.execute(shape.insert().encode(), ([shape.literal(image) for image in step.rows],))
        written = [shape.key_of(image) for image in step.rows]
        self.written.setdefault(name, set()).update(written)
        self.changes.add(INSERT, shape, written)
        self._fold(name, sum(map(row_number, step.rows)))
        self.moves_counter(shape, step.rows)
        if shape.foreign_keys and self.checks_references:
            for image in step.rows:
                self.references.written(shape, image)

    def moves_counter(self, shape: TableShape, images: Iterable[Sequence[Any]]) -> None:
        assert isinstance(shape, Table)
        if shape.sequence:
            position = shape.positions[shape.autoincrement]
            self.applier.move_sequence(shape.sequence, max(int(image[position]) for image in images))

    def update(self, step: Updates) -> None:
        name, shape = self.shape(step.table)
        width, changed = len(shape.key), step.columns
        keys = self.written.setdefault(name, set())
        refers = self.checks_references and not set(changed).isdisjoint(self._positions_in_references(shape))
        if shape.unique.isdisjoint(changed) and len({tuple(row[:width]) for row in step.rows}) == len(step.rows):
            batches = [step.rows]
        else:  # in the order in which it worked when it ran
            batches = [[row] for row in step.rows]
        difference = 0
        for rows in batches:
            before = self._old_images(shape, rows)
            keys.update(tuple(row[:width]) for row in rows)
            if not changed:
                continue
            after = [list(image) for image in before]
            for row, old, new in zip(rows, before, after, strict=True):
                for position, value in zip(changed, row[width + 1 :], strict=True):
                    new[position] = value
                keys.add(shape.key_of(new))
                difference += row_number(new) - row_number(old)
                self.changes.update(shape, old, new, changed)
                if refers:
                    self.references.removed(shape, old, changed)
                    self.references.written(shape, new, changed)
            self._write(shape, changed, rows, after)
        if changed:
            self._fold(name, difference)

    def _write(self, shape: Table, changed: Sequence[int], rows: list[list[Any]], after: list[list[Any]]) -> None:
        literals = [shape.literal(new) for new in after]
        parameters: list[Any]
        if shape.hidden_key:
            sql, parameters = shape.update_one(changed), [shape.key_literal(rows[0])]
        elif set(shape.key).isdisjoint(changed):
            sql, parameters = shape.update_from_rows(changed), []
        else:
            sql, parameters = shape.update_key(changed), shape.key_arrays(rows)
        if self.cursor.execute(sql.encode(), [literals, *parameters]).rowcount != len(rows):
            raise Refused(VerdictKind.CONFLICT, f"a row of table {shape.name} is gone")

    def delete(self, step: Deletes) -> None:
        name, shape = self.shape(step.table)
        before = []
        for rows in [[row] for row in step.rows] if shape.hidden_key else [step.rows]:
            before += self._old_images(shape, rows)
            parameters = [shape.key_literal(rows[0])] if shape.hidden_key else shape.key_arrays(rows)
            self.cursor.execute(shape.delete_by_key().encode(), parameters)
        written = [tuple(row[: len(shape.key)]) for row in step.rows]
        self.written.setdefault(name, set()).update(written)
        self.changes.add(DELETE, shape, written)
        self._fold(name, -sum(map(row_number, before)))
        if self.checks_references and self.references.referring_to(name):
            for old in before:
                self.references.removed(shape, old)

    def _old_images(self, shape: Table, rows: list[list[Any]]) -> list[tuple[Any, ...]]:
        """The rows as they are, in the order of `rows`. Raises Refused where one is gone or not as it was seen."""
        width = len(shape.key)
        if shape.hidden_key:
            found = self.cursor.execute(shape.select_by_key().encode(), [shape.key_literal(rows[0])]).fetchall()
            images = {1: tuple(rows[0][:width])} if found else {}
        else:
            found = self.cursor.execute(shape.select_by_key().encode(), shape.key_arrays(rows)).fetchall()
            images = {number: shape.image(literal) for number, literal in found}
        old = []
        for number, row in enumerate(rows, 1):
            image = images.get(number)
            if image is None:
                words = f"row {row[:width]!r} of table {shape.name} is gone"
                raise Refused(VerdictKind.CONFLICT, words, (shape.name, tuple(row[:width])) if row[width] else None)
            if row[width] and row_hash(image) != row[width]:
                words = f"row {row[:width]!r} of table {shape.name} is not as the transaction saw it"
                raise Refused(VerdictKind.CONFLICT, words, (shape.name, tuple(row[:width])))
            old.append(image)
        return old

    def statement(self, step: Statement) -> None:
        if not _PLAIN_DDL.match(step.sql):  # it may change rows, and the project's triggers fire as when it ran
            self.cursor.execute(_AS_WHEN_IT_RAN)
        self.cursor.execute(step.sql.encode())
        self.applier.rolled_back_to_savepoint()  # it may have set a time zone, say
        self.applier.enter()
        self.cursor.execute("SELECT raftlog.install(), set_config('raftlog.rows', '+', true)")
        self.schema.forget()
        self.references.forget()

    def sequence(self, step: SequenceSet) -> None:
        value = step.value or 0
        if value < self.marks.counter(step.table):
            self.set_back.add(step.table)
        self.marks.set_counter(step.table, value)
        try:
            sequence = self.schema.table(step.table).sequence
        except KeyError:
            raise Refused(VerdictKind.CONFLICT, f"table {step.table} is gone") from None
        if sequence:
            self.cursor.execute("SELECT setval(%s, greatest(%s, 1), %s)", (sequence, value, value > 0))

    def reserve(self, step: Reserve) -> None:
        try:
            shape = self.schema.table(step.table)
        except KeyError:
            raise Refused(VerdictKind.CONFLICT, f"table {step.table} is gone") from None
        if not shape.takes_keys:
            raise Refused(VerdictKind.CONFLICT, f"table {step.table} has no counter of automatic keys")
        first = self.applier.first_free_key(shape)
        if first + step.count >= _LAST_KEY:
            raise Refused(VerdictKind.INTEGRITY, f"table {step.table} has no {step.count} automatic keys left")
        self.marks.set_counter(step.table, first + step.count - 1)
        self.verdict = Verdict(VerdictKind.APPLIED, "", first, self.marks.table(step.table).key_epoch)

    def counters(self) -> dict[str, int]:
        return {}  # a remade table keeps its own: they go by name

    # What later entries are certified by

    def record(self) -> None:
        for name, keys in self.written.items() if not self.is_command else ():
            try:
                shape = self.schema.table(name)
            except KeyError:  # dropped by this entry
                continue
            for positions in shape.deferrable:
                self._check_unique(shape, positions, keys)
        super().record()

    def _check_unique(self, shape: Table, positions: tuple[int, ...], keys: set[tuple[Any, ...]]) -> None:
        """A deferrable unique constraint: it is enforced by a trigger, and none fires."""
        sql = shape.duplicates(positions)
        parameters = [] if shape.hidden_key else shape.key_arrays([list(key) for key in sorted(keys)])
        if self.cursor.execute(sql.encode(), parameters).fetchone():
            columns = ", ".join(shape.columns[position] for position in positions)
            raise Refused(VerdictKind.UNIQUE_CONFLICT, f"{shape.name}({columns}) would not be unique")

    def record_schema(self, before: dict[str, str], counters: dict[str, int]) -> None:
        """Mark each table whose definition an entry's statements changed, and count its rows anew."""
        self.schema.forget()
        after = self.schema.definitions()
        statements = [step for step in self.write_set.steps if isinstance(step, Statement)]
        all_tables = not all(_PLAIN_DDL.match(step.sql) for step in statements)
        rewritten = rewritten_tables(step.sql for step in statements)
        # A table that the entry itself made, filled, and renamed or dropped is in none of the definitions.
        for name in sorted(before.keys() | after.keys() | self.differences.keys()):
            is_rewritten = name not in after or name.rpartition(".")[2].lower() in rewritten
            if all_tables or is_rewritten or before.get(name) != after.get(name):
                fingerprint = self.applier.scan_table(self.schema.table(name)) if name in after else EMPTY
                self.counted[name] = fingerprint
                self.marks.set_table(name, TableMarks(self.index, self.index, self.index, self.index, fingerprint))
        self.marks.set_last_schema(self.index)
