"""Giving the turn back in the middle of a transaction, and going on (rules 12 and 15).

A block of automatic keys cannot be reserved by a transaction that holds the host's turn: the reservation could not be
applied. Nor can it wait for the cluster's turn, since what comes before that could not be applied. So such a
transaction is rolled back, the keys are reserved or the turn is taken, and what it had captured is done again from
the newer state, if nothing that it read or wrote has changed meanwhile; else it is a conflict.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from raftlog.backends.exceptions import TransactionConflict, UniqueConflict
from raftlog.backends.sqlite3.turn import watchdog
from raftlog.replication.certify import Refused, check_unchanged_since
from raftlog.replication.shapes import TableShape, quoted
from raftlog.replication.write_set import DELETE, INSERT, Captured, SequenceSet, Statement, is_same

DONE_AGAIN: Final = 64  # changes that are worth doing again for the cluster's turn

if TYPE_CHECKING:
    from raftlog.backends.sqlite3.transaction import Transaction


def can_pause(transaction: Transaction) -> bool:
    """Schema statements are not done twice; nor need they be: nobody else's entry may come between."""
    return not any(isinstance(change, Statement) for change in transaction.capture.sink.changes)


def needs_cluster_turn(transaction: Transaction) -> bool:
    """Rows were added, now others are to be changed, and nobody would run this transaction again: it wants the turn."""
    cluster, changes = transaction.cluster, transaction.capture.sink.changes
    if transaction.applies or cluster.is_settled or len(changes) > DONE_AGAIN or not can_pause(transaction):
        return False
    return cluster.is_wanted(is_exposed=True)


def without_turn(transaction: Transaction, work: Callable[[], object]) -> None:
    """Call `work` while the transaction does not hold the turn. Raises TransactionConflict, and what `work` raises."""
    capture = transaction.capture
    changes, shapes, version = capture.sink.changes, dict(capture.sink.shapes), capture.schema.version
    savepoints, base = list(transaction._savepoints), transaction.base
    transaction.observed.settle()
    transaction.read_ahead()
    transaction._roll_back_locally()
    watchdog.forget(transaction.turn)
    transaction.turn.give_back()
    transaction.state = type(transaction.state).BEGUN
    try:
        work()
        transaction._savepoints = []
        transaction._start_writing(is_exposed=False)
        with transaction._internal():
            if transaction.base != base:
                _check_since(transaction, base, changes, shapes)
            if capture.schema.version != version and version != -1:
                raise TransactionConflict("the schema changed while the turn was given back; nothing was changed")
            capture.sink.enabled, capture.sink.muted = False, True
            try:
                _do_again(transaction._cursor, changes, shapes, savepoints)
            except sqlite3.IntegrityError as error:
                raise UniqueConflict(f"{error}, by another, while the turn was given back") from error
    except BaseException as error:
        transaction._die(error if isinstance(error, TransactionConflict) else TransactionConflict(str(error)))
        raise
    finally:
        capture.sink.muted = False
    capture.sink.shapes.update(shapes)
    capture.sink.changes = changes
    capture.sink.enabled = True
    transaction._savepoints = savepoints


def _check_since(
    transaction: Transaction, base: int, changes: Sequence[Captured], shapes: Mapping[int, TableShape]
) -> None:
    observed = transaction.observed
    written, tables = list(observed.rows), set()
    for change in changes:
        if isinstance(change, (Statement, SequenceSet)):
            continue
        operation, number, values = change
        shape = shapes[number]
        tables.add(shape.name)
        if operation != INSERT:
            written.append((shape.name, shape.key_of(values)))
    try:
        check_unchanged_since(transaction.applier.marks, base, sorted(observed.tables), written, tables)
    except Refused as refused:
        raise TransactionConflict(f"{refused}, while the turn was given back; nothing was changed") from None


def _do_again(
    cursor: sqlite3.Cursor,
    changes: Sequence[Captured],
    shapes: Mapping[int, TableShape],
    savepoints: Sequence[tuple[str, int]],
) -> None:
    waiting = list(savepoints)
    for position, change in enumerate(changes):
        while waiting and waiting[0][1] <= position:
            cursor.execute(f"SAVEPOINT {quoted(waiting.pop(0)[0])}")
        for sql, parameters in _statements(change, shapes):
            cursor.execute(sql, parameters)
    for name, _ in waiting:
        cursor.execute(f"SAVEPOINT {quoted(name)}")


def _statements(change: Captured, shapes: Mapping[int, TableShape]) -> Iterator[tuple[str, Sequence[Any]]]:
    if isinstance(change, SequenceSet):
        yield "DELETE FROM main.sqlite_sequence WHERE name = ?", (change.table,)
        if change.value is not None:
            yield "INSERT INTO main.sqlite_sequence (name, seq) VALUES (?, ?)", (change.table, change.value)
        return
    assert not isinstance(change, Statement)
    operation, number, values = change
    shape = shapes[number]
    if operation == INSERT:
        yield shape.insert(), values
    elif operation == DELETE:
        yield shape.delete_by_key(), shape.key_of(values)
    else:
        width = len(shape.columns)
        old, new = values[:width], values[width:]
        changed = [column for column in range(width) if not is_same(old[column], new[column])]
        if changed:
            yield shape.update_by_key(changed), [*(new[column] for column in changed), *shape.key_of(old)]
