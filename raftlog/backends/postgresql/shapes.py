"""What capture and certification know of a PostgreSQL table, from the catalog.

A table of the project's own schema goes by its name, one of another schema by `schema.table`. The image of a row is
the text of its columns in their order, generated columns left out. A table without a primary key is addressed by its
whole image.

Thread-safety: a Schema belongs to one connection.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec
import psycopg

from raftlog.backends.postgresql.images import Image, fields, record
from raftlog.replication.shapes import OWN_TABLES_SQL, ForeignKey, TableShape, quoted

# Types whose equal values are one text, so that a parameter names a row.
_LOOKUP_TYPES: Final = {"int2": int, "int4": int, "int8": int, "varchar": str, "text": str}

_NEXTVAL: Final = re.compile(r"nextval\('(.+)'::regclass\)")

_TABLE: Final = """
SELECT c.oid, n.nspname, c.relname, coalesce(root.relname, ''), c.relrowsecurity OR EXISTS (
        SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname NOT LIKE 'raftlog\\_%%')
    OR EXISTS (SELECT 1 FROM pg_rewrite r WHERE r.ev_class = c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_class root ON c.relispartition AND root.oid = pg_partition_root(c.oid)
WHERE c.relkind = 'r' AND """
_COLUMNS: Final = """
SELECT a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, NULL), t.typname,
    a.attgenerated <> '', a.attidentity, coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
    coalesce(k.collisdeterministic, true), pg_get_serial_sequence(a.attrelid::regclass::text, a.attname)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_collation k ON k.oid = a.attcollation
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
_INDEXES: Final = """
SELECT i.indisprimary, i.indimmediate, i.indpred IS NOT NULL OR i.indexprs IS NOT NULL,
    (i.indkey::int2[])[0:i.indnkeyatts - 1]::int[], i.indisexclusion
FROM pg_index i WHERE i.indrelid = %s AND (i.indisunique OR i.indisexclusion) ORDER BY i.indexrelid"""
_FOREIGN_KEYS: Final = """
SELECT c.conrelid, c.confrelid,
    ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(n, i)
          JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.i),
    ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k(n, i)
          JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY k.i),
    cn.nspname, cc.relname, pn.nspname, pc.relname
FROM pg_constraint c
JOIN pg_class cc ON cc.oid = c.conrelid JOIN pg_namespace cn ON cn.oid = cc.relnamespace
JOIN pg_class pc ON pc.oid = c.confrelid JOIN pg_namespace pn ON pn.oid = pc.relnamespace
WHERE c.contype = 'f' AND cc.relkind = 'r' AND NOT pc.relispartition ORDER BY c.oid"""
_NAMES: Final = f"""
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relname NOT IN ({OWN_TABLES_SQL})
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'raftlog')"""
# All that belongs to a table: its columns, constraints, indexes, triggers.
_DEFINITIONS: Final = f"""
SELECT n.nspname, c.relname, md5(concat(
    (SELECT string_agg(concat_ws(' ', a.attname, a.attnum, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity,
                                 a.attgenerated, a.attcollation, pg_get_expr(d.adbin, d.adrelid)), ';' ORDER BY attnum)
     FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    (SELECT string_agg(k.conname || pg_get_constraintdef(k.oid), ';' ORDER BY k.oid)
     FROM pg_constraint k WHERE k.conrelid = c.oid),
    (SELECT string_agg(pg_get_indexdef(i.indexrelid), ';' ORDER BY i.indexrelid)
     FROM pg_index i WHERE i.indrelid = c.oid),
    (SELECT string_agg(pg_get_triggerdef(t.oid), ';' ORDER BY t.oid)
     FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relname NOT IN ({OWN_TABLES_SQL})
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'raftlog')"""
# Functions of the project's own: what they read, a statement's text does not show.
_FUNCTIONS: Final = """
SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'raftlog')
    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass
                    AND d.deptype = 'e')"""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """`type` as in a cast, without its modifier."""

    name: str
    type: str
    is_generated: bool


@dataclass(frozen=True, eq=False)
class Table(TableShape):
    """A TableShape whose statements are PostgreSQL's."""

    # Quoted, with its schema.
    sql_name: str
    all_columns: tuple[Column, ...]
    # The topmost partitioned table that it is a part of ("" without one).
    root: str
    # Triggers, rules or policies of the project's own: a statement on it may read anything.
    is_opaque: bool
    # Whether a value may be given for the automatic key.
    takes_keys: bool
    sequence: str
    # Positions of each deferrable unique constraint, which nobody checks while no trigger fires.
    deferrable: tuple[tuple[int, ...], ...]

    def image(self, literal: str) -> Image:
        """The image in the text of a whole row."""
        found = fields(literal)
        stored = self._stored
        return found if stored is None else tuple(found[position] for position in stored)

    def literal(self, image: Sequence[Any]) -> str:
        """The text of a whole row with this image; generated columns are NULL in it."""
        if self._stored is None:
            return record(image)
        values = iter(image)
        return record(None if column.is_generated else next(values) for column in self.all_columns)

    @cached_property
    def _stored(self) -> tuple[int, ...] | None:
        if not any(column.is_generated for column in self.all_columns):
            return None
        return tuple(position for position, column in enumerate(self.all_columns) if not column.is_generated)

    @cached_property
    def types(self) -> tuple[str, ...]:
        return tuple(column.type for column in self.all_columns if not column.is_generated)

    # Statements. Keys are given as one array of texts a column, rows as an array of their texts.

    def key_arrays(self, rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """`rows` begin with a key."""
        return [[row[number] for row in rows] for number in range(len(self.key))]

    def key_literal(self, row: Sequence[Any]) -> str:
        """The one row of a table without a key."""
        return record(row[: len(self.key)])

    def select_by_key(self) -> str:
        """(number of the key from 1, text of its row); of a table without a key, a row where there is one."""
        if self.hidden_key:
            return f"SELECT 1 FROM ONLY {self.sql_name} AS raftlog_row WHERE {self.image_text} = %s LIMIT 1"
        return (
            f"SELECT given.number, raftlog_row::text FROM {self._keys_given} "
            f"JOIN ONLY {self.sql_name} AS raftlog_row ON {self._key_matches('raftlog_row')}"
        )

    def insert(self) -> str:
        listed = ", ".join(map(quoted, self.columns))
        values = ", ".join(f"given.{quoted(name)}" for name in self.columns)
        return f"INSERT INTO {self.sql_name} ({listed}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {self._rows_given}"

    def update_from_rows(self, changed: Sequence[int]) -> str:
        """Rows whose keys stay."""
        key = " AND ".join(f"target.{name} = given.{name}" for name in self.names(self.key))
        return f"{self._update(changed)} FROM {self._rows_given} WHERE {key}"

    def update_key(self, changed: Sequence[int]) -> str:
        """One row: its new text, then its old key."""
        keys = self._keys_given.replace("AS given", "AS old_key")
        key = self._key_matches("target").replace("given.", "old_key.")
        return f"{self._update(changed)} FROM {self._rows_given}, {keys} WHERE {key}"

    def update_one(self, changed: Sequence[int]) -> str:
        """One row of a table without a key: its new text, then its old image."""
        return f"{self._update(changed)} FROM {self._rows_given} WHERE target.ctid = {self._one}"

    def delete_by_key(self) -> str:
        if self.hidden_key:
            return f"DELETE FROM ONLY {self.sql_name} WHERE ctid = {self._one}"
        return (
            f"DELETE FROM ONLY {self.sql_name} AS target USING {self._keys_given} WHERE {self._key_matches('target')}"
        )

    def duplicates(self, positions: Sequence[int]) -> str:
        """A row where, among the rows with these keys and all others, two have the same values in these columns."""
        columns = ", ".join(self.names(positions))
        written = f"SELECT {columns} FROM {self.sql_name}"
        if not self.hidden_key:
            listed = ", ".join(self.names(positions, "r."))
            written = f"SELECT {listed} FROM {self.sql_name} AS r JOIN {self._keys_given} ON {self._key_matches('r')}"
        return (
            f"SELECT 1 FROM {self.sql_name} AS a JOIN (SELECT DISTINCT * FROM ({written}) AS w) AS b USING ({columns}) "
            f"GROUP BY {columns} HAVING count(*) > 1 LIMIT 1"
        )

    def names(self, positions: Sequence[int], prefix: str = "") -> list[str]:
        return [prefix + quoted(self.columns[position]) for position in positions]

    def _update(self, changed: Sequence[int]) -> str:
        assignments = ", ".join(f"{name} = given.{name}" for name in self.names(changed))
        return f"UPDATE ONLY {self.sql_name} AS target SET {assignments}"

    @cached_property
    def _keys_given(self) -> str:
        arrays = ", ".join(f"%s::text[]::{self.types[position]}[]" for position in self.key)
        names = ", ".join(f"k{number}" for number in range(len(self.key)))
        return f"unnest({arrays}) WITH ORDINALITY AS given ({names}, number)"

    def _key_matches(self, alias: str) -> str:
        return " AND ".join(f"{alias}.{name} = given.k{number}" for number, name in enumerate(self.names(self.key)))

    @cached_property
    def _rows_given(self) -> str:
        return f"unnest(%s::text[]::{self.sql_name}[]) AS given"

    @cached_property
    def image_text(self) -> str:
        return f"ROW({', '.join(self.names(range(len(self.columns)), 'raftlog_row.'))})::text"

    @cached_property
    def _one(self) -> str:
        return f"(SELECT ctid FROM ONLY {self.sql_name} AS raftlog_row WHERE {self.image_text} = %s LIMIT 1)"


class Schema:
    """The tables as of `version`, the index of the last entry that changed the schema."""

    def __init__(self, cursor: psycopg.Cursor, schema: str) -> None:
        self._cursor = cursor
        self.project_schema = schema
        self.version = -1
        self._by_oid: dict[int, Table] = {}
        self._by_name: dict[str, Table] = {}
        self._referring: dict[str, list[ForeignKey]] | None = None
        self._references: dict[int, tuple[ForeignKey, ...]] = {}
        self._functions: frozenset[str] | None = None

    def refresh_to(self, version: int) -> None:
        if version != self.version:
            self.forget()
            self.version = version

    def forget(self) -> None:
        self.version = -1
        self._by_oid.clear()
        self._by_name.clear()
        self._references.clear()
        self._referring = None
        self._functions = None

    def name(self, schema: str, table: str) -> str:
        return table if schema == self.project_schema else f"{schema}.{table}"

    def sql_name(self, name: str) -> str:
        return ".".join(map(quoted, self._split(name)))

    def table(self, name: str) -> Table:
        """Raises KeyError where there is none of this name."""
        shape = self._by_name.get(name)
        return shape or self._load("n.nspname = %s AND c.relname = %s", *self._split(name))

    def table_by_oid(self, oid: int) -> Table:
        shape = self._by_oid.get(oid)
        return shape or self._load("c.oid = %s", oid)

    def _split(self, name: str) -> tuple[str, str]:
        schema, _, table = name.rpartition(".")
        return schema or self.project_schema, table

    def table_names(self) -> list[str]:
        """Replicated tables, sorted."""
        return sorted(self.name(*row) for row in self._rows(_NAMES))

    def definitions(self) -> dict[str, str]:
        """Table -> everything in the schema that belongs to it."""
        return {self.name(schema, table): text for schema, table, text in self._rows(_DEFINITIONS)}

    def functions(self) -> frozenset[str]:
        """Names of the project's own functions."""
        if self._functions is None:
            self._functions = frozenset(name for (name,) in self._rows(_FUNCTIONS))
        return self._functions

    def views(self) -> frozenset[str]:
        return frozenset(name for (name,) in self._rows("SELECT relname FROM pg_class WHERE relkind IN ('v', 'm')"))

    def referring_to(self, parent: str) -> list[ForeignKey]:
        """Foreign keys of any table that refer to `parent`, or to the partitioned table that it is a part of."""
        if self._referring is None:
            self._load_references()
        assert self._referring is not None
        found = self._referring.get(parent, [])
        root = self.table(parent).root
        return found + self._referring.get(root, []) if root else found

    def _load_references(self) -> None:
        self._referring = {}
        for child, _, columns, to, child_schema, child_name, schema, name in self._rows(_FOREIGN_KEYS):
            parent = self.name(schema, name)
            key = ForeignKey(self.name(child_schema, child_name), tuple(columns), parent, tuple(to), is_plain=True)
            self._referring.setdefault(parent, []).append(key)
            self._references[child] = (*self._references.get(child, ()), key)

    def _rows(self, sql: str, *parameters: object) -> list[Any]:
        return self._cursor.execute(sql.encode(), parameters or None).fetchall()

    def _load(self, where: str, *parameters: object) -> Table:
        found = self._rows(_TABLE + where, *parameters)
        if not found:
            raise KeyError(parameters[-1])
        oid, schema, table, root, is_opaque = found[0]
        if self._referring is None:
            self._load_references()
        rows = self._rows(_COLUMNS, oid)
        stored = [row for row in rows if not row[5]]
        positions = {row[0]: position for position, row in enumerate(stored)}
        by_number = {row[1]: position for position, row in enumerate(stored)}
        key, unique, deferrable = self._indexes(oid, by_number, len(stored))
        if any(stored[position][4].startswith("_") for position in key):  # an array has no array type of its own
            key = ()
        if not key:
            unique = frozenset(positions.values())
        name = self.name(schema, table)
        automatic = [row for row in stored if row[6] or row[7].startswith("nextval(")]
        described = [name, [row[0] for row in rows], [row[2] for row in rows], list(key)]
        shape = Table(
            name=name,
            columns=tuple(positions),
            key=key or tuple(range(len(stored))),
            hidden_key=not key,
            unique=unique,
            foreign_keys=tuple(
                reference for reference in self._references.get(oid, ()) if positions.keys() >= set(reference.columns)
            ),
            autoincrement=automatic[0][0] if automatic else "",
            lookup_type=_lookup_type(stored, key),
            digest=hashlib.blake2b(msgspec.msgpack.encode(described), digest_size=8).digest(),
            positions=positions,
            lookups=(),
            sql_name=f"{quoted(schema)}.{quoted(table)}",
            all_columns=tuple(Column(row[0], row[3], row[5]) for row in rows),
            root=root and self.name(schema, root),
            is_opaque=is_opaque,
            takes_keys=bool(automatic) and automatic[0][6] != "a",
            sequence=_sequence(automatic[0]) if automatic else "",
            deferrable=deferrable,
        )
        self._by_oid[oid] = self._by_name[name] = shape
        return shape

    def _indexes(
        self, oid: int, by_number: dict[int, int], width: int
    ) -> tuple[tuple[int, ...], frozenset[int], tuple[tuple[int, ...], ...]]:
        """Positions of the key, of all columns that make a row unique, and of the deferrable constraints."""
        key: tuple[int, ...] = ()
        unique: set[int] = set()
        deferrable = []
        for is_primary, is_immediate, is_partial, numbers, is_exclusion in self._rows(_INDEXES, oid):
            positions = tuple(by_number[number] for number in numbers if number in by_number)
            if is_partial or is_exclusion or len(positions) < len(numbers):
                unique.update(range(width))
                continue
            unique.update(positions)
            if is_primary:
                key = positions
            if not is_immediate:
                deferrable.append(positions)
        return key, frozenset(unique), tuple(deferrable)


def _sequence(column: Sequence[Any]) -> str:
    """Name of the sequence behind an automatic key."""
    match = _NEXTVAL.match(column[7])
    name: str = column[9] or (match[1] if match else "")
    return name


def _lookup_type(stored: Sequence[Any], key: tuple[int, ...]) -> type | None:
    if len(key) != 1:
        return None
    column = stored[key[0]]
    return _LOOKUP_TYPES.get(column[4]) if column[8] else None
