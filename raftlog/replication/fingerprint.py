"""Fingerprints: what a table holds, as one number that does not depend on the order of its rows (rule 16).

The sum, modulo 2**128, of the hashes of its rows' images. A change of a row takes its old hash out and
puts the new one in, so that apply keeps the sum current for the cost of a hash, and a scan can prove it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from raftlog.replication.shapes import Schema, TableShape, quoted
from raftlog.replication.write_set import HASH_BYTES, row_hash

MODULUS: Final = 1 << (8 * HASH_BYTES)
EMPTY: Final = bytes(HASH_BYTES)


def row_number(image: Sequence[Any]) -> int:
    """What a row adds to its table's sum."""
    return int.from_bytes(row_hash(image), "big")


def add(fingerprint: bytes, difference: int) -> bytes:
    return ((int.from_bytes(fingerprint, "big") + difference) % MODULUS).to_bytes(HASH_BYTES, "big")


def scan_table(connection: sqlite3.Connection, shape: TableShape) -> bytes:
    """The fingerprint of a table, from its rows."""
    selected = ", ".join(f"+{quoted(column)} AS c{number}" for number, column in enumerate(shape.columns))
    cursor = connection.cursor(sqlite3.Cursor)
    cursor.row_factory = None
    total = sum(row_number(row) for row in cursor.execute(f"SELECT {selected} FROM main.{quoted(shape.name)}"))
    return (total % MODULUS).to_bytes(HASH_BYTES, "big")


def scan(connection: sqlite3.Connection, schema: Schema) -> dict[str, bytes]:
    """Table -> fingerprint, for every table that can be replicated, from the rows themselves."""
    return {shape.name: scan_table(connection, shape) for shape in schema.supported_tables()}
