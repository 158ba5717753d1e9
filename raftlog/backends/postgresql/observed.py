"""What a transaction has read: noted as it runs, worked out only if it wrote (rule 10).

At its commit PostgreSQL's own locks name every table that the transaction read, through views, functions and foreign
keys too. A lookup by primary key, as Django writes it, counts as that row. What a savepoint's rollback took back it
has read as well, but the locks are gone: there the words of the statements must do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from raftlog.backends.postgresql.shapes import Schema, Table
from raftlog.backends.postgresql.statements import StatementInfo, key_parameters
from raftlog.replication.shapes import OWN_TABLES_SQL

LOCKS: Final = f"""
SELECT n.nspname, c.relname, c.relkind, l.mode
FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'v', 'm')
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'raftlog') AND c.relname NOT IN ({OWN_TABLES_SQL})"""
_READING: Final = ("AccessShareLock", "RowShareLock")
# Lookups by key kept one by one; beyond, they count as reads of the table.
_KEPT: Final = 4_096


class Lock(NamedTuple):
    """One row of LOCKS."""

    schema: str
    table: str
    kind: str
    mode: str


@dataclass
class Reads:
    """Names of tables, and rows by (table, key): what was read, or under snapshot isolation the targets of writes."""

    tables: set[str] = field(default_factory=set)
    rows: dict[tuple[str, str], Table] = field(default_factory=dict)


class Observed:
    """What the statements of one transaction have read."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._lookups: list[tuple[StatementInfo, Sequence[Any]]] = []
        # Words of the statements that are no lookups; of those among them that read what they write.
        self._words: set[str] = set()
        self._target_words: set[str] = set()
        # Words of statements that insert given values, and read nothing.
        self._inserting_words: set[str] = set()
        self._lost_words: set[str] = set()
        self._kept = Reads()

    def __bool__(self) -> bool:
        return bool(self._lookups or self._words or self._inserting_words)

    def add(self, info: StatementInfo, sql: str, parameters: Any) -> None:
        by_key = info.by_column is not None and isinstance(parameters, Sequence) and len(self._lookups) < _KEPT
        if by_key:
            self._lookups.append((info, key_parameters(sql, parameters)))
        else:
            self._add_words(info)

    def _add_words(self, info: StatementInfo) -> None:
        if info.gives_values:
            self._inserting_words |= info.words
            return
        self._words |= info.words
        if info.has_targets:
            self._target_words |= info.words

    def keep(self, reads: Reads) -> None:
        """The locks of what was read so far are gone."""
        self._kept = reads

    def rolled_back_to_savepoint(self) -> None:
        self._lost_words |= self._words | self._inserting_words

    def failed(self, info: StatementInfo) -> None:
        """A statement met a row that was there already: that is something the transaction has read."""
        self._lost_words |= info.words

    def settle(self, locks: Iterable[Lock], *, targets_only: bool) -> Reads:
        reads = Reads() if targets_only else Reads(set(self._kept.tables), dict(self._kept.rows))
        keyed = self._settle_lookups(reads, targets_only)
        locks = list(locks)
        names = {lock: self._schema.name(lock.schema, lock.table) for lock in locks if lock.kind == "r"}
        is_opaque = (
            len(names) < len(locks)
            or not (self._words | self._inserting_words).isdisjoint(self._schema.functions())
            or any(self._table_is_opaque(names[lock]) for lock in names if lock.mode not in _READING)
        )
        for lock, name in names.items():
            if lock.mode in _READING:
                counts = is_opaque or name not in keyed or lock.table in self._words
                if targets_only:
                    counts = counts and lock.mode == "RowShareLock"
            else:  # it was written: was it also looked through?
                seen = lock.table in self._target_words
                is_named = lock.table in self._words or lock.table in self._inserting_words or name in keyed
                counts = seen or not is_named
            if counts:
                reads.tables.add(name)
        if self._lost_words and not targets_only:
            reads.tables |= self._lost_tables()
        return reads

    def _settle_lookups(self, reads: Reads, targets_only: bool) -> set[str]:
        keyed = set()
        for info, values in self._lookups:
            shape = self._lookup_table(info, values)
            if shape is None:
                self._add_words(info)
                continue
            keyed.add(shape.name)
            if info.has_targets or not targets_only:
                reads.rows.update({(shape.name, str(value)): shape for value in values})
        return keyed

    def _lookup_table(self, info: StatementInfo, values: Sequence[Any]) -> Table | None:
        assert info.by_column is not None
        table, column = info.by_column
        try:
            shape = self._schema.table(table)
        except KeyError:  # a view, a partitioned table
            return None
        if shape.is_opaque or len(shape.key) != 1 or shape.columns[shape.key[0]] != column:
            return None
        return shape if all(type(value) is shape.lookup_type for value in values) else None

    def _table_is_opaque(self, name: str) -> bool:
        return self._schema.table(name).is_opaque

    def _lost_tables(self) -> set[str]:
        names = self._schema.table_names()
        if not self._lost_words.isdisjoint(self._schema.functions() | self._schema.views()):
            return set(names)
        return {name for name in names if name.rpartition(".")[2] in self._lost_words}
