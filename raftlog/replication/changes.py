"""The change feed in the database: what each entry changed, written in the transaction of the entry itself.

One row of `raftlog_change` for each transaction of apply that changed anything, so that it costs one statement however
many entries share a batch; `raftlog_changefeed` says after which index the feed is whole. Both are node-local: in no
image, in no fingerprint, in no comparison. Whatever leaves a gap (an image, a time without the feed, pruning)
moves `began_after`, in the transaction that made the gap, so that a reader can tell. What an older version has applied,
which knows no feed, is found at the next start: tables are marked as changed after the feed's last row. So each entry
that marks one has a row, also where nothing in it differs.

The keys of rows are there, and the names of changed columns, but no values: who wants those reads the row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from raftlog.replication.has_table import has_table
from raftlog.replication.shapes import TableShape
from raftlog.replication.write_set import DELETE, INSERT, UPDATE, is_same

# What happened to a table, beside INSERT, UPDATE and DELETE of its rows.
TABLE: Final = 3  # rows of it changed, too many to name, or without a key
SCHEMA: Final = 4  # it was made, altered, renamed or dropped
NAMES: Final = {INSERT: "insert", UPDATE: "update", DELETE: "delete", TABLE: "table", SCHEMA: "schema"}

# An entry with more changed rows, or more bytes of keys and names, says only which tables it changed.
MAX_ROWS: Final = 1_000
MAX_ENTRY_BYTES: Final = 64 << 10
FEW_ROWS: Final = 32  # whose bytes nobody counts
# The feed is pruned to half of it where its rows have more bytes, whatever the number of entries.
MAX_FEED_BYTES: Final = 64 << 20
PRUNED_PART: Final = 16  # pruning waits until so much of the bound has come in addition

FEED_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS raftlog_change (last_index bigint NOT NULL PRIMARY KEY, changes {bytes} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS raftlog_changefeed (id smallint NOT NULL PRIMARY KEY CHECK (id = 1), "
    "began_after bigint NOT NULL)",
)
_BYTES: Final = {"sqlite": "blob", "postgresql": "bytea"}
# One statement sees one state of the database, on both vendors.
_READ: Final = """
SELECT a.cluster_id, a.applied_index, f.began_after, c.last_index, c.changes
FROM raftlog_appliedindex a
LEFT JOIN raftlog_changefeed f ON f.id = 1
LEFT JOIN (SELECT last_index, changes FROM raftlog_change WHERE last_index > %s ORDER BY last_index LIMIT %s) c ON 1 = 1
WHERE a.id = 1 ORDER BY c.last_index"""


class Group(msgspec.Struct, array_like=True, gc=False):
    """Rows of one table to which one entry did the same. `columns` of an update; `keys` of rows, as stored."""

    operation: int
    table: str
    columns: list[str]
    keys: list[tuple[Any, ...]]


class EntryChanges(msgspec.Struct, array_like=True, gc=False):
    """What one entry changed. `session`: of who proposed it; `command`: its name, "" for a transaction."""

    index: int
    session: bytes
    command: str
    groups: list[Group]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(list[EntryChanges])


class Gatherer:
    """Collects what one entry changes, in order."""

    __slots__ = ("_is_on", "groups", "rows")

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self.groups: list[Group] = []
        self.rows = 0

    def add(self, operation: int, shape: TableShape, keys: list[tuple[Any, ...]], columns: Sequence[int] = ()) -> None:
        if not self._is_on:
            return
        if shape.hidden_key:  # nobody can find a row by it
            operation, keys, columns = TABLE, [], ()
        names = [shape.columns[position] for position in columns] if columns else []
        self.rows += len(keys)
        if self.groups:  # most entries change one row
            last = self.groups[-1]
            if last.operation == operation and last.table == shape.name and last.columns == names:
                last.keys += keys
                return
        self.groups.append(Group(operation, shape.name, names, keys))

    def update(self, shape: TableShape, old: Sequence[Any], new: Sequence[Any], columns: Sequence[int]) -> None:
        """A row after `columns` of it changed; a row whose key changed is another one."""
        if not self._is_on:
            return
        before, after = shape.key_of(old), shape.key_of(new)
        if before == after:
            self.add(UPDATE, shape, [before], columns)
        else:
            self.add(DELETE, shape, [before])
            self.add(INSERT, shape, [after])

    def captured(self, shape: TableShape, operation: int, values: Sequence[Any]) -> None:
        """As capture gives it: see write_set.RowChange."""
        if not self._is_on:
            return
        if operation != UPDATE:
            self.add(operation, shape, [shape.key_of(values)])
            return
        width = len(shape.columns)
        old, new = values[:width], values[width:]
        changed = [position for position in range(width) if not is_same(old[position], new[position])]
        if changed:
            self.update(shape, old, new, changed)

    def finish(self, altered: Collection[str]) -> list[Group]:
        """`altered`: tables whose schema the entry changed."""
        if not self._is_on:
            return []
        if altered:
            self.groups.extend(Group(SCHEMA, table, [], []) for table in sorted(altered))
        if self.rows > MAX_ROWS or (self.rows > FEW_ROWS and len(_encode(self.groups)) > MAX_ENTRY_BYTES):
            return in_brief(self.groups)
        return self.groups


def in_brief(groups: Sequence[Group]) -> list[Group]:
    """Only which tables changed."""
    changed = dict.fromkeys((group.operation if group.operation == SCHEMA else TABLE, group.table) for group in groups)
    return [Group(operation, table, [], []) for operation, table in changed]


class FeedWriter:
    """Writes the feed of one database. Thread-safety: the thread that applies.

    bound: how many entries the feed goes back, about; 0: there is none.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._bytes = 0  # in raftlog_change, and what was written in transactions that were rolled back since
        self._prune_at = 0

    def begin(self, connection: BaseDatabaseWrapper, applied_index: int) -> None:
        """Go on with the feed that is in the database, or begin one after `applied_index`. Opens a transaction.

        Where nothing is written from here on, what is there goes: what comes later would not follow it.
        """
        if not hasattr(connection, "apply_port"):  # an ENGINE of Django's own: nobody captures what changes
            self.bound = 0
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            for statement in FEED_TABLES:
                cursor.execute(statement.format(bytes=_BYTES[connection.vendor]))
            if not self.bound:
                cursor.execute("DELETE FROM raftlog_changefeed")
                cursor.execute("DELETE FROM raftlog_change")
                return
            cursor.execute("SELECT count(*) FROM raftlog_changefeed")
            if not cursor.fetchone()[0] or self._has_gap(connection, cursor):
                self.start_anew(cursor, applied_index)
            self._count(cursor, applied_index)

    def _has_gap(self, connection: BaseDatabaseWrapper, cursor: Any) -> bool:
        """Whether entries changed tables, the last ones at least, and the feed does not say so."""
        if not has_table(connection, "raftlog_tables"):
            return False
        cursor.execute("SELECT coalesce(max(changed), 0), coalesce(max(schema_changed), 0) FROM raftlog_tables")
        marked = max(cursor.fetchone())
        cursor.execute("SELECT began_after, (SELECT coalesce(max(last_index), 0) FROM raftlog_change)"
                       " FROM raftlog_changefeed")  # fmt: skip
        return bool(marked > max(cursor.fetchone()))

    def start_anew(self, cursor: Any, index: int) -> None:
        """Nothing of before may be read as if what comes after `index` followed it. In the caller's transaction."""
        if self.bound:
            cursor.execute("DELETE FROM raftlog_changefeed")
            cursor.execute("DELETE FROM raftlog_change")
            cursor.execute("INSERT INTO raftlog_changefeed VALUES (1, %s)", [index])

    def take(self, cursor: Any, last_index: int, entries: Sequence[EntryChanges]) -> bytes:
        """What a transaction of apply changed, whose last entry is `last_index`, as it is to be stored; b"": nothing.

        Prunes what is there, where that is due, in the same transaction.
        """
        if not entries or not self.bound:
            return b""
        changes = _encode(entries)
        self._bytes += len(changes)
        if last_index >= self._prune_at or self._bytes > MAX_FEED_BYTES:
            self._prune(cursor, last_index)
            self._bytes += len(changes)
        return changes

    def _prune(self, cursor: Any, last_index: int) -> None:
        upto = last_index - self.bound
        if self._bytes > MAX_FEED_BYTES:
            upto = max(upto, self._half_of_the_bytes(cursor))
        cursor.execute("SELECT max(last_index) FROM raftlog_change WHERE last_index <= %s", [upto])
        (last_pruned,) = cursor.fetchone()
        if last_pruned is not None:
            cursor.execute("UPDATE raftlog_changefeed SET began_after = %s", [last_pruned])
            cursor.execute("DELETE FROM raftlog_change WHERE last_index <= %s", [last_pruned])
        self._count(cursor, last_index)

    def _half_of_the_bytes(self, cursor: Any) -> int:
        cursor.execute("SELECT last_index, length(changes) FROM raftlog_change ORDER BY last_index DESC")
        total = 0
        for last_index, size in cursor.fetchall():
            total += size
            if total > MAX_FEED_BYTES // 2:
                return int(last_index)
        return 0

    def _count(self, cursor: Any, last_index: int) -> None:
        cursor.execute("SELECT coalesce(sum(length(changes)), 0) FROM raftlog_change")
        self._bytes = int(cursor.fetchone()[0])
        self._prune_at = last_index + max(self.bound // PRUNED_PART, 1)


class Stretch(NamedTuple):
    """What was read of a feed after some index. `upto`: the changes of all entries up to it are known by now.

    began_after: the feed is whole after this index; None: there is no feed.
    """

    cluster_id: str
    applied_index: int
    began_after: int | None
    upto: int
    entries: list[EntryChanges]


def read_feed(connection: BaseDatabaseWrapper, after: int, limit: int) -> Stretch:
    """The changes of entries after index `after`: of at most `limit` transactions of apply, in log order.

    Raises what the driver raises, in Django's classes: where the database is not there, or never was a node's.
    """
    with connection.cursor() as cursor:
        cursor.execute(_READ, [after, limit])
        rows = cursor.fetchall()
    cluster_id, applied_index, began_after = rows[0][:3] if rows else ("", 0, None)
    found = [(last_index, changes) for *_, last_index, changes in rows if last_index is not None]
    entries = [entry for _, changes in found for entry in _decoder.decode(bytes(changes)) if entry.index > after]
    upto = found[-1][0] if len(found) == limit else applied_index
    return Stretch(cluster_id, applied_index, began_after, upto, entries)
