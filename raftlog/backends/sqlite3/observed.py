"""What a transaction has read: kept as it runs, worked out only if it writes (rule 10)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from raftlog.backends.sqlite3.statements import EVERYTHING, Equality, Kind, StatementInfo
from raftlog.replication.shapes import MANY_VALUES, Schema, TableShape, UnsupportedTable, is_replicated
from raftlog.replication.write_set import DELETE, INSERT, Captured, SequenceSet, Statement

# Runs of statements kept before their reads are worked out, so that a long reader's memory stays small.
_KEPT: Final = 512


class Observed:
    """Tables and rows that the statements of one transaction have read."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._runs: list[tuple[StatementInfo, Any, bool]] = []
        # What is read now counts under snapshot isolation too: a select_for_update() query.
        self.locks = False
        self.tables: set[str] = set()
        self.rows: dict[tuple[str, tuple[Any, ...]], TableShape] = {}
        # The same of writing statements and select_for_update() alone: what counts under snapshot isolation too.
        self.target_tables: set[str] = set()
        self.target_rows: dict[tuple[str, tuple[Any, ...]], TableShape] = {}

    def __bool__(self) -> bool:
        return bool(self._runs or self.tables or self.rows)

    def add(self, info: StatementInfo, parameters: Any) -> None:
        self._runs.append((info, parameters, self.locks or info.kind is Kind.WRITE))
        if len(self._runs) >= _KEPT:
            self.settle()

    def settle(self) -> None:
        """Work out the reads of the runs kept so far."""
        runs, self._runs = self._runs, []
        for info, parameters, is_target in runs:
            tables = info.tables_read()
            if tables and not self._settle_by_key(info, parameters, tables, is_target):
                self.tables.update(tables)
                if is_target:
                    self.target_tables.update(tables)
        self.tables = self._replicated(self.tables)
        self.target_tables = self._replicated(self.target_tables)

    def _replicated(self, tables: set[str]) -> set[str]:
        if EVERYTHING in tables:
            return set(self._schema.table_names())
        return set(filter(is_replicated, tables))

    def failed(self, info: StatementInfo) -> None:
        """A statement met a row that was there already: that is something the transaction has read."""
        tables = info.reads | info.writes
        self.tables.update(tables)
        self.target_tables.update(tables)

    def undone(self, changes: Iterable[Captured], shapes: Mapping[int, TableShape]) -> None:
        """Changes that a savepoint takes back.

        That a key or unique value was free, and that foreign keys let them pass, is something it has read.
        """
        for change in changes:
            if isinstance(change, (Statement, SequenceSet)):
                continue
            operation, number, values = change
            shape = shapes[number]
            if operation == INSERT and shape.unique.issubset(shape.key):
                self.rows[shape.name, shape.key_of(values)] = shape
            elif operation != DELETE:
                self.tables.add(shape.name)
            if operation != DELETE:
                self.tables.update(key.parent for key in shape.foreign_keys)
            if operation != INSERT:
                self.tables.update(key.table for key in self._schema.referring_to(shape.name))

    def _settle_by_key(self, info: StatementInfo, parameters: Any, tables: set[str], is_target: bool) -> bool:
        if info.by_column is None or isinstance(parameters, Mapping) or not isinstance(parameters, Sequence):
            return False
        table, equalities = info.by_column
        if tables != {table}:
            return False
        try:
            shape = self._schema.table(table)
        except (KeyError, UnsupportedTable):  # a view; a table that nobody can write
            return False
        found = _keys_of(shape, equalities, parameters)
        if found is None:
            return False
        for key in found:
            self.rows[table, key] = shape
            if is_target:
                self.target_rows[table, key] = shape
        return True


def _keys_of(
    shape: TableShape, equalities: Sequence[Equality], parameters: Sequence[Any]
) -> list[tuple[Any, ...]] | None:
    """What stands for the rows that meet one of the conditions: their keys, else values of a column (shapes.Lookup)."""
    key_column = shape.columns[shape.key[0]] if len(shape.key) == 1 else ""
    for equality in equalities:
        values = parameters[equality.start : equality.stop]
        if equality.column == key_column and all(type(value) is shape.lookup_type for value in values):
            return [(value,) for value in values]
    for equality in equalities:
        values = parameters[equality.start : equality.stop]
        for lookup in shape.lookups:
            if lookup.column == equality.column and all(type(value) is lookup.type for value in values):
                return [MANY_VALUES, *((lookup.column, value) for value in values)]
    return None
