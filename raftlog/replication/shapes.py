"""What capture and certification know of a table: columns, key, unique columns, foreign keys.

Read from SQLite's own pragmas, from inside whatever transaction is open, and cached until
`PRAGMA schema_version` moves. Thread-safety: a Schema belongs to one connection.

The *image* of a row is the list of its stored columns in declared order, generated columns left out.
A table without a primary key is addressed by its rowid, which then stands first in the image.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from raftlog.replication.slots import first_slot

# raftlog's own tables: each node makes them for itself. Tables of its batteries (raftlog_locks_…) are replicated.
NODE_LOCAL_TABLES: Final = ("raftlog_change", "raftlog_changefeed")  # of them: what differs from node to node
OWN_TABLES: Final = (
    *("raftlog_appliedindex", "raftlog_clientsession", "raftlog_sessionresult"),
    *("raftlog_positions", "raftlog_tables", "raftlog_slots", "raftlog_counters"),
    *NODE_LOCAL_TABLES,
)
OWN_TABLES_SQL: Final = ", ".join(f"'{name}'" for name in OWN_TABLES)
# Of the triggers that raftlog makes for itself.
OWN_TRIGGER_PREFIX: Final = "raftlog_"
# An index on an expression or a partial one: any column may decide whether a row is in it.
_ROWID_NAMES: Final = ("rowid", "_rowid_", "oid")
_DEFERRED: Final = re.compile(r"DEFERRABLE\s+INITIALLY\s+DEFERRED", re.IGNORECASE)
_REFERENCES: Final = re.compile(r"\bREFERENCES\b", re.IGNORECASE)
_ON_CONFLICT: Final = re.compile(r"\bON\s+CONFLICT\s+(FAIL|ROLLBACK)\b", re.IGNORECASE)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def is_replicated(table: str) -> bool:
    """Whether the rows of this table travel in write sets: all but SQLite's own and raftlog's own."""
    return table not in OWN_TABLES and not table.startswith("sqlite_")


def can_switch_triggers_off() -> bool:
    """Whether the schema's own triggers can be kept from firing where rows are applied that they have changed already.

    It needs Python 3.12, and SQLite 3.35, where TEMP triggers fire all the same.
    """
    return hasattr(sqlite3.Connection, "setconfig") and sqlite3.sqlite_version_info >= (3, 35)


class UnsupportedTable(Exception):
    """A table that cannot be replicated; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`table`(columns) refers to `parent`(parent_columns). Names as SQLite spells them."""

    table: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    # Deferred and without an action, as Django makes them: SQLite does nothing about it but look at the commit.
    is_plain: bool


# Stands, as the key of no row, for any value of any lookup: an entry that changed many rows marks it instead of each.
MANY_VALUES: Final[tuple[Any, ...]] = ()


class Lookup(NamedTuple):
    """A column that begins an index: rows are found by `column = value`, and certified by the pair (column, value).

    A row that is written marks the pair of its old and of its new image, so a value that no row has is certified too.
    `type`: of the values for which equal values are the same value; a lookup by another reads the whole table.
    """

    column: str
    position: int
    type: type
    first_slot: int  # of its integers


@dataclass(frozen=True, slots=True, eq=False)
class TableShape:
    """One table. Positions count from 0 in `columns`, which is the order of a row's image."""

    name: str
    columns: tuple[str, ...]
    key: tuple[int, ...]
    # The key is the rowid of a table without a primary key.
    hidden_key: bool
    # Columns of the key, of unique indexes, and all columns where an index is partial or on an expression.
    unique: frozenset[int]
    foreign_keys: tuple[ForeignKey, ...]
    # Name of the automatic key's column ("" without AUTOINCREMENT).
    autoincrement: str
    # Type of the values that find a row by its one key column, where equal values are the same value; else None.
    lookup_type: type | None
    # Changes with names, declared types and key; two nodes with one digest read an image alike.
    digest: bytes
    positions: dict[str, int] = field(repr=False)
    # In any order. Without the column of a key of one column, whose rows are certified by key.
    lookups: tuple[Lookup, ...]

    def key_of(self, image: Sequence[object]) -> tuple[object, ...]:
        key = self.key
        return (image[key[0]],) if len(key) == 1 else tuple(image[position] for position in key)

    def select_by_key(self) -> str:
        return _select_by_key(self.name, self.columns, self.key)

    def insert(self) -> str:
        return _insert(self.name, self.columns)

    def delete_by_key(self) -> str:
        return _delete_by_key(self.name, self.columns, self.key)

    def update_by_key(self, changed: Sequence[int]) -> str:
        return _update_by_key(self.name, self.columns, self.key, tuple(changed))


@lru_cache(maxsize=1024)
def _select_by_key(name: str, columns: tuple[str, ...], key: tuple[int, ...]) -> str:
    # The plus makes each column an expression, so that no converter of a connection with detect_types touches it.
    selected = ", ".join(f"+{quoted(column)} AS c{number}" for number, column in enumerate(columns))
    return f"SELECT {selected} FROM main.{quoted(name)} WHERE {_where(columns, key)}"


@lru_cache(maxsize=1024)
def _delete_by_key(name: str, columns: tuple[str, ...], key: tuple[int, ...]) -> str:
    return f"DELETE FROM main.{quoted(name)} WHERE {_where(columns, key)}"


@lru_cache(maxsize=1024)
def _update_by_key(name: str, columns: tuple[str, ...], key: tuple[int, ...], changed: tuple[int, ...]) -> str:
    assignments = ", ".join(f"{quoted(columns[position])} = ?" for position in changed)
    return f"UPDATE main.{quoted(name)} SET {assignments} WHERE {_where(columns, key)}"


def _where(columns: tuple[str, ...], key: tuple[int, ...]) -> str:
    return " AND ".join(f"{quoted(columns[position])} = ?" for position in key)


@lru_cache(maxsize=1024)
def _insert(name: str, columns: tuple[str, ...]) -> str:
    listed = ", ".join(map(quoted, columns))
    return f"INSERT INTO main.{quoted(name)} ({listed}) VALUES ({', '.join('?' * len(columns))})"


def _lookup_type(declared: str, sql: str) -> type | None:
    # By SQLite's rules of affinity; with a collation, two texts may be equal and yet different.
    declared = declared.upper()
    if "INT" in declared:
        return int
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")) and not re.search(r"\bCOLLATE\b", sql, re.IGNORECASE):
        return str
    return None


class Schema:
    """The tables of one connection's main database as of `version` (PRAGMA schema_version)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._cursor = connection.cursor(sqlite3.Cursor)
        self._cursor.row_factory = None
        self.version = -1
        self._shapes: dict[str, TableShape] = {}
        self._referring: dict[str, list[ForeignKey]] | None = None
        self._plain: dict[str, bool] = {}
        self._has_triggers: bool | None = None
        self._is_fixed = False

    def refresh(self) -> bool:
        """Forget what was read if the schema moved. Returns whether it did."""
        if self._is_fixed:
            return False
        (version,) = self._rows("PRAGMA main.schema_version")[0]
        if version == self.version:
            return False
        self.forget()
        self.version = version
        return True

    @contextlib.contextmanager
    def fixed(self) -> Iterator[None]:
        """Inside, nobody moves the schema, this connection included: it is looked up once."""
        self.refresh()
        self._is_fixed = True
        try:
            yield
        finally:
            self._is_fixed = False

    def forget(self) -> None:
        self._is_fixed = False
        self.version = -1
        self._shapes.clear()
        self._plain.clear()
        self._referring = None
        self._has_triggers = None

    def table(self, name: str) -> TableShape:
        """The shape of a table. Raises UnsupportedTable, KeyError where there is none of this name."""
        shape = self._shapes.get(name)
        if shape is None:
            shape = self._shapes[name] = self._load(name)
        return shape

    def table_names(self) -> list[str]:
        """Replicated tables, sorted."""
        rows = self._rows("SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name")
        return [name for (name,) in rows if is_replicated(name)]

    def has_triggers(self) -> bool:
        """Whether the schema has triggers of its own, on any table or view."""
        if self._has_triggers is None:
            self._has_triggers = bool(self._rows("SELECT 1 FROM main.sqlite_master WHERE type = 'trigger' LIMIT 1"))
        return self._has_triggers

    def is_view(self, name: str) -> bool:
        return bool(self._rows("SELECT 1 FROM main.sqlite_master WHERE type = 'view' AND name = ?", name))

    def supported_tables(self) -> list[TableShape]:
        """Shapes of the tables that can be replicated, by name."""
        found = []
        for name in self.table_names():
            with contextlib.suppress(UnsupportedTable):  # whoever writes it is told
                found.append(self.table(name))
        return found

    def definitions(self) -> dict[str, str]:
        """Table -> everything in the schema that belongs to it (its own, its indexes' and triggers' text)."""
        found: dict[str, str] = {}
        rows = self._rows("SELECT tbl_name, name, sql FROM main.sqlite_master ORDER BY tbl_name, type, name")
        for table, name, sql in rows:
            if is_replicated(table):
                found[table] = f"{found.get(table, '')}{name}\0{sql}\0"
        return found

    def referring_to(self, parent: str) -> list[ForeignKey]:
        """Foreign keys of any table that refer to `parent`."""
        if self._referring is None:
            self._referring = {}
            for name in self.table_names():
                for key in self._foreign_keys(name):
                    self._referring.setdefault(key.parent.lower(), []).append(key)
        return self._referring.get(parent.lower(), [])

    def has_plain_references(self, name: str) -> bool:
        """Whether all foreign keys from and to this table are plain."""
        found = self._plain.get(name)
        if found is None:
            keys = [*self._foreign_keys(name), *self.referring_to(name)]
            found = self._plain[name] = all(key.is_plain for key in keys)
        return found

    def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self._cursor.execute(sql, parameters).fetchall()

    def _load(self, name: str) -> TableShape:
        found = self._rows("SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ?", name)
        if not found:
            raise KeyError(name)
        sql: str = found[0][0]
        self._check_supported(name, sql)
        info = self._rows(f"PRAGMA main.table_xinfo({quoted(name)})")
        stored = [row for row in info if row[6] == 0]
        columns = tuple(row[1] for row in stored)
        in_key = sorted((row[5], position) for position, row in enumerate(stored) if row[5])
        key = tuple(position for _, position in in_key)
        hidden_key = not key
        if hidden_key:
            columns = (self._rowid_name(name, {row[1].lower() for row in info}), *columns)
            key = (0,)
        positions = {column: position for position, column in enumerate(columns)}
        autoincrement = columns[key[0]] if re.search(r"\bAUTOINCREMENT\b", sql, re.IGNORECASE) else ""
        foreign_keys = self._foreign_keys(name)
        described = [name, list(columns), [row[2] for row in stored], list(key)]
        return TableShape(
            name=name,
            columns=columns,
            key=key,
            hidden_key=hidden_key,
            unique=self._unique_positions(name, positions, key),
            foreign_keys=tuple(foreign_keys),
            autoincrement=autoincrement,
            lookup_type=None if hidden_key or len(key) > 1 else _lookup_type(stored[key[0]][2], sql),
            digest=hashlib.blake2b(msgspec.msgpack.encode(described), digest_size=8).digest(),
            positions=positions,
            lookups=self._lookups(name, sql, positions, {row[1]: row[2] for row in stored}, key),
        )

    def _lookups(
        self, name: str, sql: str, positions: dict[str, int], declared: dict[str, str], key: tuple[int, ...]
    ) -> tuple[Lookup, ...]:
        found: dict[str, Lookup] = {}
        for _, index, _, _, is_partial in self._rows(f"PRAGMA main.index_list({quoted(name)})"):
            column: str | None = self._rows(f"PRAGMA main.index_info({quoted(index)})")[0][2]
            if is_partial or column not in declared or key == (positions[column],):
                continue
            if found_type := _lookup_type(declared[column], sql):
                found[column] = Lookup(column, positions[column], found_type, first_slot(name, (column,)))
        return tuple(found.values())

    def _check_supported(self, name: str, sql: str) -> None:
        if re.match(r"\s*CREATE\s+VIRTUAL\b", sql, re.IGNORECASE):
            raise UnsupportedTable(
                f"table {name!r} is a virtual table, whose rows SQLite shows to no trigger, so they cannot be "
                "replicated. Keep it in another database alias (see raftlog.routers)."
            )
        if match := _ON_CONFLICT.search(sql):
            raise UnsupportedTable(
                f"table {name!r} declares {match.group(0)}, which leaves part of a failed statement behind. "
                "Declare ON CONFLICT ABORT, IGNORE or REPLACE."
            )
        triggers = self._rows("SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ?", name)
        if triggers and not can_switch_triggers_off():
            names = ", ".join(repr(row[0]) for row in triggers)
            raise UnsupportedTable(
                f"table {name!r} has triggers of its own ({names}), which would fire again on every node, and this "
                "Python cannot switch them off. Use Python 3.12 or newer, or do their work in the application."
            )

    def _rowid_name(self, name: str, taken: set[str]) -> str:
        for candidate in _ROWID_NAMES:
            if candidate not in taken:
                return candidate
        raise UnsupportedTable(
            f"table {name!r} has no primary key and its columns hide its rowid. Give it a primary key."
        )

    def _unique_positions(self, name: str, positions: dict[str, int], key: tuple[int, ...]) -> frozenset[int]:
        unique = set(key)
        for _, index, is_unique, _, is_partial in self._rows(f"PRAGMA main.index_list({quoted(name)})"):
            if not is_unique:
                continue
            columns = [row[2] for row in self._rows(f"PRAGMA main.index_info({quoted(index)})")]
            if is_partial or any(column not in positions for column in columns):
                return frozenset(positions.values())
            unique.update(positions[column] for column in columns)
        return frozenset(unique)

    def _foreign_keys(self, name: str) -> list[ForeignKey]:
        found_sql = self._rows("SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ?", name)
        sql: str = found_sql[0][0] if found_sql else ""
        all_deferred = len(_REFERENCES.findall(sql)) <= len(_DEFERRED.findall(sql))
        parts: dict[int, list[tuple[Any, ...]]] = {}
        for row in self._rows(f"PRAGMA main.foreign_key_list({quoted(name)})"):
            parts.setdefault(row[0], []).append(row)
        found = []
        for rows in parts.values():
            rows.sort(key=lambda row: row[1])
            parent, to = self._referred_to(rows[0][2], [row[4] for row in rows])
            plain = all_deferred and rows[0][5:7] == ("NO ACTION", "NO ACTION")
            found.append(ForeignKey(name, tuple(row[3] for row in rows), parent, to, plain))
        return found

    def _referred_to(self, parent: str, columns: list[str | None]) -> tuple[str, tuple[str, ...]]:
        """The parent's table and columns in their own spelling: REFERENCES may use another case."""
        own = self._rows("SELECT name FROM main.sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", parent)
        info = self._rows(f"PRAGMA main.table_xinfo({quoted(parent)})")
        spelled: dict[str, str] = {row[1].lower(): row[1] for row in info}
        if None in columns:  # REFERENCES parent: its primary key is meant
            to = [row[1] for row in sorted((row for row in info if row[5]), key=lambda row: row[5])]
        else:
            to = [spelled.get(column.lower(), column) for column in columns if column is not None]
        return (own[0][0] if own else parent), tuple(to)
