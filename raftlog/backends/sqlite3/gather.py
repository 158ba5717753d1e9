"""From what was captured and read to the write set, at commit and before the local rollback."""

from __future__ import annotations

import sqlite3

from django.db.utils import IntegrityError

from raftlog.backends.exceptions import TransactionTooLarge
from raftlog.backends.sqlite3.capture import Capture
from raftlog.backends.sqlite3.observed import Observed
from raftlog.replication.certify import ForeignKeyCheck
from raftlog.replication.write_set import (
    DELETE,
    FOREIGN_KEYS_OFF,
    FORMAT,
    INSERT,
    SNAPSHOT,
    SequenceSet,
    Statement,
    StepBuilder,
    WriteSet,
    encode_write_set,
    is_same,
)


def gather(
    cursor: sqlite3.Cursor, capture: Capture, observed: Observed, base: int, snapshot_isolation: bool, *, enforced: bool
) -> WriteSet | None:
    """The write set of the open transaction, None if it changed nothing.

    `cursor`: one of raftlog's own. `enforced`: SQLite looks after foreign keys.
    Raises IntegrityError for what it violates by itself.
    """
    builder = StepBuilder(capture.sink.shapes)
    builder.add_all(capture.sink.changes)
    if not builder.changes_anything:
        return None
    if enforced:
        _check_foreign_keys(cursor, capture)
    observed.settle()
    tables = observed.target_tables if snapshot_isolation else observed.tables
    rows = observed.target_rows if snapshot_isolation else observed.rows
    flags = (0 if enforced else FOREIGN_KEYS_OFF) | (SNAPSHOT if snapshot_isolation else 0)
    read_rows = [[builder.table_of(shape), *key] for (_, key), shape in rows.items()]
    return WriteSet(FORMAT, base, flags, builder.tables, builder.steps, sorted(tables), read_rows)


def _check_foreign_keys(cursor: sqlite3.Cursor, capture: Capture) -> None:
    """What a deferred constraint would say at COMMIT, which never comes (rule 2)."""
    check = ForeignKeyCheck(cursor, capture.schema)
    for change in capture.sink.changes:
        if isinstance(change, (Statement, SequenceSet)):
            continue
        operation, number, values = change
        shape = capture.sink.shapes[number]
        if not shape.foreign_keys and not check.referring_to(shape.name):
            continue
        if operation == INSERT:
            check.written(shape, values)
        elif operation == DELETE:
            check.removed(shape, values)
        else:
            width = len(shape.columns)
            old, new = values[:width], values[width:]
            changed = [position for position in range(width) if not is_same(old[position], new[position])]
            check.removed(shape, old, changed)
            check.written(shape, new, changed)
    if words := check.dangling():
        raise IntegrityError(f"FOREIGN KEY constraint failed: {words}")


def encoded(write_set: WriteSet, max_bytes: int) -> bytes:
    """Raises TransactionTooLarge."""
    body = encode_write_set(write_set)
    if len(body) > max_bytes:
        rows = max(1, write_set.row_count)
        fits = max(1, rows * max_bytes // len(body) // 2)
        raise TransactionTooLarge(
            f"the transaction changes {rows} rows, {len(body)} bytes, over RAFTLOG['MAX_TRANSACTION_BYTES'] = "
            f"{max_bytes}. Split it into transactions of about {fits} rows (batch_size={fits})."
        )
    return body
