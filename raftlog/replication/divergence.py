"""Where and how two databases differ: tables against their sums, then two nodes' rows, key by key (rule 16).

Nothing here needs two nodes to stand still. A table's sum and its rows are read in one snapshot, so that a
scan is exact. Rows of two nodes are compared at whatever index each stands; what differs counts only if
both stand at one index, or if on both no entry after the lower of the two has written that row.

Vendors implement TableReader; row images are hashed alike for all (fingerprint.row_number).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from raftlog.replication.fingerprint import MODULUS, row_number
from raftlog.replication.shapes import TableShape
from raftlog.replication.write_set import HASH_BYTES, row_hash

CHUNK: Final = 2_048  # rows that are hashed and compared at a time
MAX_ROWS: Final = 10  # differing rows that are named
SHOWN: Final = 200  # characters or bytes of a value that are shown


class Row(NamedTuple):
    """`image`: the stored columns in declared order."""

    key: list[Any]
    image: list[Any]


class Snapshot(Protocol):
    """One state of the database. `applied_index` is that of the same state."""

    applied_index: int

    def kept(self) -> dict[str, bytes]:
        """Table -> the sum of its row hashes as apply has kept it."""
        ...

    def tables(self) -> list[str]:
        """Tables that are replicated."""
        ...

    def columns(self, table: str) -> list[str]:
        """Names of the columns of an image."""
        ...

    def shape(self, table: str) -> TableShape | None: ...

    def rows(self, table: str, after: list[Any] | None, upto: list[Any] | None, limit: int) -> list[Row]:
        """The first `limit` rows in the order of their keys, after one key and up to and with another."""
        ...

    def image(self, table: str, key: list[Any]) -> list[Any] | None: ...

    def last_written(self, table: str, key: list[Any]) -> int:
        """Index of an entry after which no entry has written this row (0: none ever has)."""
        ...


class TableReader(Protocol):
    """A connection of its own for reading. `connection.table_reader()` of a raftlog backend gives one."""

    def snapshot(self) -> AbstractContextManager[Snapshot]: ...

    def close(self) -> None: ...


# A node's question to a peer, by name: (name, arguments) -> answer. Raises RaftlogError.
Ask = Callable[[str, dict[str, Any]], Any]


class RowDifference(msgspec.Struct, frozen=True):
    """A row as it is here and on `peer`, columns by name; None: it is not there."""

    table: str
    key: list[Any]
    here: dict[str, Any] | None
    there: dict[str, Any] | None

    def __str__(self) -> str:
        key = self.key[0] if len(self.key) == 1 else self.key
        if self.here is None or self.there is None:
            here, there = ("is here", "is not there") if self.here else ("is not here", "is there")
            return f"row {key!r} of table {self.table} {here} ({self.here or self.there}) and {there}"
        columns = [name for name in self.here.keys() | self.there.keys() if self.here.get(name) != self.there.get(name)]
        told = ", ".join(f"{name} is {self.here.get(name)!r} here, {self.there.get(name)!r} there" for name in columns)
        return f"row {key!r} of table {self.table}: {told}"


class Divergence(msgspec.Struct, frozen=True):
    """This node's database differs from the majority's. Also what the signal divergence_found carries.

    `index`: the first entry after which it does; not `is_exact`: that entry or an older one. `cause`: "command",
    "transaction", "schema", "not by an entry", or "unknown". `command`, `version`: where it was a command.
    """

    node_id: str
    index: int
    is_exact: bool
    cause: str
    command: str
    version: int
    tables: list[str]
    rows: list[RowDifference]
    peer: str  # with which rows were compared, "": with none

    def __str__(self) -> str:
        at = f"{'since' if self.is_exact else 'since or before'} entry {self.index}"
        if self.command:
            by = f"the command {self.command!r} version {self.version} gave another result here"
        elif self.cause == "not by an entry":
            by = "something else than the log has changed it"
        else:
            by = f"a {self.cause} entry" if self.cause != "unknown" else "by an entry that is not known any more"
        rows = "; ".join(map(str, self.rows))
        where = f"in {', '.join(self.tables)}" if self.tables else "in what it returned"
        with_peer = f", compared with {self.peer}" if self.peer else ""
        return f"{at}: {by}, {where}{with_peer}{': ' + rows if rows else ''}"


# A table against its sum


def scan_table(snapshot: Snapshot, table: str, pause: Callable[[], None]) -> bytes:
    """The sum of a table's row hashes, from its rows. `pause` is called between chunks."""
    total, after = 0, None
    while rows := snapshot.rows(table, after, None, CHUNK):
        total += sum(row_number(row.image) for row in rows)
        after = rows[-1].key
        if len(rows) < CHUNK:
            break
        pause()
    return (total % MODULUS).to_bytes(HASH_BYTES, "big")


def differing_tables(reader: TableReader, pause: Callable[[], None]) -> Iterator[tuple[str, int]]:
    """(table, applied index) for each table whose rows are not those that the log made."""
    with reader.snapshot() as snapshot:
        names = sorted(set(snapshot.tables()) | set(snapshot.kept()))
        knows_sums = bool(snapshot.kept())
    for name in names if knows_sums else ():
        with reader.snapshot() as snapshot:
            if scan_table(snapshot, name, pause) != snapshot.kept().get(name, bytes(HASH_BYTES)):
                yield name, snapshot.applied_index
        pause()


# What a node answers its peers


def answer_chunk(reader: TableReader, arguments: dict[str, Any]) -> dict[str, Any]:
    """The sum of the first rows of a table after a key, and where they end (None: with the table)."""
    with reader.snapshot() as snapshot:
        rows = snapshot.rows(arguments["table"], arguments["after"], None, CHUNK)
    total = sum(row_number(row.image) for row in rows) % MODULUS
    last = rows[-1].key if len(rows) == CHUNK else None
    return {"last": last, "sum": total.to_bytes(HASH_BYTES, "big")}


def answer_hashes(reader: TableReader, arguments: dict[str, Any]) -> list[tuple[list[Any], bytes]]:
    """Key and hash of each row of a chunk."""
    with reader.snapshot() as snapshot:
        rows = snapshot.rows(arguments["table"], arguments["after"], arguments["upto"], 2 * CHUNK)
    return [(row.key, row_hash(row.image)) for row in rows]


def answer_row(reader: TableReader, arguments: dict[str, Any]) -> dict[str, Any]:
    """One row, and what tells of which entry it is."""
    with reader.snapshot() as snapshot:
        return _describe_row(snapshot, arguments["table"], arguments["key"])


ANSWERS: Final[dict[str, Callable[[TableReader, dict[str, Any]], Any]]] = {
    "fingerprint_chunk": answer_chunk,
    "fingerprint_hashes": answer_hashes,
    "fingerprint_row": answer_row,
}


def _describe_row(snapshot: Snapshot, table: str, key: list[Any]) -> dict[str, Any]:
    image = snapshot.image(table, key)
    shown = None
    if image is not None:
        shown = dict(zip(snapshot.columns(table), map(_shortened, image), strict=True))
    return {
        "applied": snapshot.applied_index,
        "written": snapshot.last_written(table, key),
        "hash": row_hash(image) if image is not None else b"",
        "row": shown,
    }


def _shortened(value: Any) -> Any:
    return value[:SHOWN] if isinstance(value, str | bytes) else value


# Two nodes' rows


def row_difference(reader: TableReader, ask: Ask, table: str, key: list[Any]) -> RowDifference | None:
    """How a row differs between this node and the peer, if it does whatever entries either has applied yet."""
    with reader.snapshot() as snapshot:
        here = _describe_row(snapshot, table, key)
    there = ask("fingerprint_row", {"table": table, "key": key})
    if here["hash"] == there["hash"]:
        return None
    at_one_index = here["applied"] == there["applied"]
    if not at_one_index and max(here["written"], there["written"]) > min(here["applied"], there["applied"]):
        return None
    return RowDifference(table, key, here["row"], there["row"])


def row_differences(reader: TableReader, ask: Ask, table: str, is_late: Callable[[], bool]) -> list[RowDifference]:
    """The first rows of a table that differ from the peer's. `is_late`: give up with what was found."""
    found: list[RowDifference] = []
    after = None
    while not is_late():
        there = ask("fingerprint_chunk", {"table": table, "after": after})
        with reader.snapshot() as snapshot:
            rows = snapshot.rows(table, after, there["last"], 2 * CHUNK)
        total = sum(row_number(row.image) for row in rows) % MODULUS
        if total.to_bytes(HASH_BYTES, "big") != there["sum"]:
            hashes = ask("fingerprint_hashes", {"table": table, "after": after, "upto": there["last"]})
            for key in _differing_keys(rows, hashes):
                difference = row_difference(reader, ask, table, key)
                if difference is not None:
                    found.append(difference)
                if len(found) == MAX_ROWS or is_late():
                    return found
        after = there["last"]
        if after is None:
            break
    return found


def _differing_keys(rows: list[Row], hashes: list[tuple[list[Any], bytes]]) -> list[list[Any]]:
    here = {msgspec.msgpack.encode(row.key): row_hash(row.image) for row in rows}
    there = {msgspec.msgpack.encode(key): hashed for key, hashed in hashes}
    keys = [key for key in here.keys() | there.keys() if here.get(key) != there.get(key)]
    return [msgspec.msgpack.decode(key) for key in sorted(keys)]
